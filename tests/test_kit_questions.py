"""What the kit asks beyond the recorded cases: drawn cases and laws show what they say, and are fair."""

from collections import Counter

import jaxtyping
import numpy as np
import pytest

from minimind_ref.kit import findings, generated, lawful, suspects
from minimind_ref.kit.ours import oracles, torch_faces
from minimind_ref.kit.registry import OPERATIONS
from minimind_ref.kit.runner import LocalRunner

SMALL = 2.0**-30
ALLOWED = 2.0**-16  # what a law of the network takes for rounding, of its result's size
GENERATORS = {f"{g.operation}/{g.name}": g for g in generated.load()}
# Generator -> bugs of the clauses that it names and cannot show; those after "*" no generator can: recorded cases do.
NOT_SHOWN = {
    "*": "DPO-M03 CROSS_ENTROPY-M05 MOE-M16"  # a factor of 0 beside NaN or infinity
    " DPO-M04 GRPO-M17"  # a mean of nothing
    " SAMPLING-M07 SAMPLING-M13 SAMPLING-M16"  # the ends of an option's range
    " ATTENTION-M15"  # -10000 in a hidden score's place, beside scores that are no larger
    " ROPE-M04"  # a ramp beyond the half of the width
    " ADAMW-M13",  # a count of updates, which the operation is told
    "dpo_loss/sigmoid": "DPO-M09",  # nothing is smoothed
    "grad_scaler/odd_factors": "GRAD_SCALER-M09 GRAD_SCALER-M10",  # no scale leaves float32's range
    "group_advantages/unbiased": "GRPO-M03",  # the estimate is the unbiased one
    "grpo_loss/by_length": "GRPO-M06",  # there is no KL term
    "attention/grouped_after_a_cache": "ATTENTION-M08",  # the scale is left to the default, here and in the next three
    "attention/masked": "ATTENTION-M08",
    "attention/hidden_keys": "ATTENTION-M08 ATTENTION-M02",  # every query sees something
    "attention/left_padded": "ATTENTION-M08 ATTENTION-M05",  # there are as many queries as keys
    "attention/shifted_keys": "ATTENTION-M07 ATTENTION-M10",  # the scale is given; nothing is hidden
    "filter_logits/top_k": "SAMPLING-M09 SAMPLING-M10 SAMPLING-M12",  # one filter, which commutes with it
    "filter_logits/top_p": "SAMPLING-M09 SAMPLING-M12",  # one filter
    "route/as_they_are": "MOE-M01 MOE-M03 MOE-M15",  # nothing is divided
    "moe/all_experts": "MOE-M14",  # no expert is shared
    "cross_entropy/summed": "CROSS_ENTROPY-M04 CROSS_ENTROPY-M06 CROSS_ENTROPY-M12",  # there is no mean
    "cross_entropy/far_from_zero": "CROSS_ENTROPY-M12",  # there is no mean
    "cross_entropy/padding_by_id": "CROSS_ENTROPY-M06",  # there is one row
    "adamw.step/first_update": "ADAMW-M10",  # a square of 0 cannot fall
    "cosine_schedule/without_warm_up": "COSINE_SCHEDULE-M04",
    "clip_grad_norm/below": "GRAD_CLIP-M01 GRAD_CLIP-M02",  # nothing is clipped
    "grad_scaler/always_the_same": "GRAD_SCALER-M06 GRAD_SCALER-M11",  # no overflow between good windows; 4 · 1/4
}


@pytest.fixture(autouse=True, scope="module")
def unchecked_types():
    """Types are checked in the parts' own tests."""
    checked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", checked)


def drawn(name, seed):
    return generated.case(OPERATIONS[GENERATORS[name].operation], GENERATORS[name], seed)


def fails(implementation, case, profile):
    """What is wrong with an implementation's answer to a case."""
    outcome = LocalRunner(implementation).ask(case, profile)
    return [f for f in findings.judge(case, profile, outcome, explicit=True, gradient=True) if f.state != findings.PASS]


def shown(bug, case):
    profile = "float16" if bug.narrow else "float64"
    made = suspects.implementation_of(case.operation, bug)
    return profile in case.profiles and any(f.state == findings.FAIL for f in fails(made, case, profile))


@pytest.mark.parametrize("name", GENERATORS)
def test_a_drawn_case_accepts_our_torch_and_shows_the_known_bugs_of_its_clauses(name):
    own = {bug.id: bug for bug in suspects.of(OPERATIONS[GENERATORS[name].operation])
           if bug.owner in GENERATORS[name].clauses}  # fmt: skip
    hidden = {*NOT_SHOWN["*"].split(), *NOT_SHOWN.get(name, "").split()}
    first = drawn(name, 0)
    assert generated.telling(first, "float64") and not fails(torch_faces, first, "float64")
    unseen = {i for i, bug in own.items() if not shown(bug, first)}
    for seed in (1, 2):  # what depends on the draw is shown by one of three
        unseen -= {i for i in unseen - hidden if shown(own[i], drawn(name, seed))}
    assert unseen == own.keys() & hidden


def runs(mask):
    """How many runs of marks each row has."""
    return np.count_nonzero(np.diff(np.pad(mask, ((0, 0), (1, 0))).astype(int), axis=1) > 0, axis=1)


def sees(mask):
    """What each query sees under a mask and the causal rule."""
    queries, keys = mask.shape[1:]
    return mask & np.tri(queries, keys, keys - queries, dtype=bool)


def beyond(given, options):
    """Count marked ratios below and above the clip range, for negative and for positive advantages."""
    ratio = np.where(given["mask"], np.exp(given["logp"] - given["old_logp"]), 1.0)
    outside = (ratio < 1 - options["clip_low"], ratio > 1 + options["clip_high"])
    kinds = [o[s].sum() for s in (given["advantages"] < 0, given["advantages"] > 0) for o in outside]
    return [*kinds, (given["mask"] & ~outside[0] & ~outside[1]).sum()]


def margins(given):
    policy, reference = (given[f"{of}_chosen"] - given[f"{of}_rejected"] for of in ("policy", "reference"))
    return policy - reference


def mean_square(x):
    return np.mean(x * x, axis=-1)


def gates(given):
    return given["x"] @ given["w_gate"].T


def stretch(options):
    """By how much each frequency is divided."""
    plain = OPERATIONS["rope_frequencies"].reference
    return plain(options["head_dim"], theta=options["theta"]) / plain(**options)


def norm(gradients):
    return np.sqrt(sum(np.sum(g * g) for g in gradients))


# What the generators say of their cases, with how it is seen in inputs g and options o; true of each of three seeds.
OFF_POLICY = "grpo_loss/by_sequence grpo_loss/by_token grpo_loss/by_length grpo_loss/cispo"
MASKED = f"sequence_logp/summed sequence_logp/averaged {OFF_POLICY} grpo_loss/on_policy"
PAIRS = "dpo_loss/sigmoid dpo_loss/smoothed dpo_loss/hinge dpo_loss/ipo"
BALANCE = "aux_loss/by_sequence aux_loss/by_batch aux_loss/by_slots"
SAID = [
    (MASKED, "answers of unlike lengths, behind something", lambda g, o:
     np.ptp(g["mask"].sum(1)) > 0 and not g["mask"].all(1).any()),
    (MASKED, "the last answer in two parts", lambda g, o:
     runs(g["mask"])[-1] > 1 and (runs(g["mask"])[:-1] == 1).all()),
    (MASKED, "logarithms of probabilities", lambda g, o: (g["logp"] < 0).all()),
    (f"{PAIRS} dpo_loss/at_the_start", "logarithms of probabilities", lambda g, o: max(map(np.max, g.values())) < 0),
    (PAIRS, "margins of some units, on both sides", lambda g, o: margins(g).min() < -1 and margins(g).max() > 1),
    ("dpo_loss/at_the_start", "policy and reference agree", lambda g, o: not margins(g).any()),
    ("dpo_loss/far_margins", "thousands on both sides", lambda g, o: margins(g).min() < -1e3 < 1e3 < margins(g).max()),
    ("dpo_loss/far_margins", "logits around 0", lambda g, o: abs(g["policy_rejected"].mean()) < 4),
    ("group_advantages/groups", "unlike spreads", lambda g, o: np.ptp(np.log2(g["rewards"].std(axis=1))) > 2),
    ("group_advantages/groups group_advantages/unbiased", "eps counts", lambda g, o:
     64 * o["eps"] > g["rewards"].std()),
    ("group_advantages/unbiased", "one group of equal rewards", lambda g, o: sum(np.ptp(g["rewards"], 1) == 0) == 1),
    ("group_advantages/centred", "not divided", lambda g, o: not o["scale"]),
    ("kl_k3/divergence", "logarithms of probabilities", lambda g, o: (g["logp"] < 0).all()),
    ("kl_k3/divergence", "large gaps of both signs", lambda g, o:
     (g["reference_logp"] - g["logp"]).min() < -0.5 and (g["reference_logp"] - g["logp"]).max() > 0.5),
    (OFF_POLICY, "advantages of both signs", lambda g, o: g["advantages"].min() < 0 < g["advantages"].max()),
    (OFF_POLICY, "the reference is elsewhere", lambda g, o: (g["reference_logp"] != g["logp"]).all()),
    ("grpo_loss/on_policy", "old and new policy agree", lambda g, o: np.array_equal(g["logp"], g["old_logp"])),
    ("attention/masked", "one query sees nothing", lambda g, o: (~sees(g["mask"]).any(-1)).sum() == 1),
    ("attention/masked attention/hidden_keys", "hides some and shows some", lambda g, o: 0.25 < g["mask"].mean() < 0.9),
    ("attention/hidden_keys", "every query sees something", lambda g, o: g["mask"].any(-1).all()),
    ("attention/shifted_keys", "far from zero", lambda g, o: abs(g["k"].mean()) > 3 and abs(g["v"].mean()) > 6),
    ("attention/zero_queries", "queries of zero", lambda g, o: (g["q"] == 0).all((1, 2, 3)).sum() == 1),
    ("attention/left_padded", "padded on the left, unlike", lambda g, o: len({*(~g["mask"]).sum((1, 2))}) == 3
     and np.array_equal(np.sort(g["mask"], axis=2), g["mask"]) and (~sees(g["mask"]).any(-1)).any()),
    ("filter_logits/top_k", "ties with the last that is kept", lambda g, o:
     (np.sort(g["logits"])[:, -o["top_k"]] == np.sort(g["logits"])[:, -o["top_k"] - 1]).any()),
    ("penalise_repetition/seen_tokens", "a token seen twice", lambda g, o: g["ids"][0, 0] == g["ids"][0, 1]),
    ("penalise_repetition/seen_tokens", "padding", lambda g, o: 0.5 < g["mask"].mean() < 1),
    ("choose_token/by_mass", "0 and numbers below 1", lambda g, o: g["uniform"].min() == 0 and g["uniform"].max() < 1),
    (BALANCE, "padding and unlike sequences", lambda g, o:
     0 < g["counts"].mean() < 1 and ("sequence_ids" not in g or len({*Counter(g["sequence_ids"]).values()}) == 3)),
    (f"{BALANCE} aux_loss/without_weight", "scores of tokens", lambda g, o:
     (g["scores"] > 0).all() and (abs(g["scores"].sum(1) - 1) < g["scores"].shape[1] / 2048).all()),
    (BALANCE, "a choice that is not the scores'", lambda g, o:
     any(s[i].min() < np.delete(s, i).max() for s, i in zip(g["scores"], g["index"], strict=True))),
    ("rms_norm/heavy_rows", "numbers far apart, weights of both signs", lambda g, o:
     np.ptp(np.log2(abs(g["x"]))) > 12 and g["weight"].min() < 0 < g["weight"].max()),
    ("rms_norm/heavy_rows", "the eps is a part, and small", lambda g, o:
     2.0**-24 < o["eps"] / mean_square(g["x"]).max() < 2.0**-6),
    ("rms_norm/rows_near_eps", "about eps", lambda g, o: (abs(np.log2(mean_square(g["x"]) / o["eps"])) < 3).all()),
    ("rms_norm/offset_rows", "far from zero, one weight of 0", lambda g, o:
     abs(g["x"].mean()) > 8 * g["x"].std() and (g["weight"] == 0).sum() == 1),
    ("swiglu/wide_gates", "gates of some units on both sides", lambda g, o: gates(g).min() < -3 and gates(g).max() > 3),
    ("swiglu/batches", "a row of zeros", lambda g, o: (g["x"] == 0).all(-1).sum() == 1),
    ("apply_rope/turned_heads apply_rope/one_table", "all over the circle", lambda g, o:
     len({*zip(g["cos"].ravel() > 0, g["sin"].ravel() > 0, strict=True)}) == 4),
    ("apply_rope/one_table", "a table with a factor", lambda g, o: np.ptp(np.hypot(g["cos"], g["sin"])) < SMALL),
    ("rope_table/far_positions", "far, on both sides of zero", lambda g, o:
     g["positions"].min() < -8192 < 8192 < g["positions"].max()),
    ("rope_table/far_positions", "frequencies from 1 to 1/10000", lambda g, o:
     g["frequencies"][0] == 1 and (np.diff(g["frequencies"]) < 0).all() and 1e-4 < g["frequencies"][-1] < 1e-2),
    ("rope_frequencies/yarn_frequencies", "some kept, some between, some divided", lambda g, o:
     {*np.digitize(stretch(o), [1.5, o["scaling"]["factor"] - 0.5])} == {0, 1, 2}
     and isinstance(o["scaling"]["original_max_position_embeddings"], int)),
    ("cross_entropy/mean_of_supervised cross_entropy/summed", "unlike numbers ignored", lambda g, o:
     len({*(g["labels"] == -100).sum(1)}) == 3 and (g["labels"] >= 0).any(1).all()),
    ("cross_entropy/far_from_zero", "far from zero", lambda g, o: g["logits"].mean() > 500),
    ("cross_entropy/padding_by_id", "one id is ignored", lambda g, o:
     0 < (g["labels"] == o["ignore_index"]).mean() < 0.5),
    ("adamw.step/under_way", "some steps done, eps too small to count", lambda g, o:
     o["step"] > 1 and o["eps"] < np.sqrt(g["square"].min()) / 64),
    ("adamw.step/under_way adamw.step/small_gradients adamw.step/first_update", "a small rate", lambda g, o:
     0 < o["lr"] < 1 / 16),
    ("adamw.step/small_gradients", "about eps", lambda g, o: abs(np.log2(abs(g["grad"]).mean() / o["eps"])) < 2
     and abs(np.log2(g["square"].mean() / o["eps"] ** 2)) < 2),
    ("adamw.step/first_update", "averages of zero", lambda g, o:
     o["step"] == 1 and not g["mean"].any() and not g["square"].any()),
    ("cosine_schedule/after_the_end cosine_schedule/after_its_end", "after", lambda g, o:
     g["step"] >= o["total_steps"]),
    ("clip_grad_norm/several", "unlike sizes, clipped", lambda g, o: norm(g["gradients"]) > 2 * o["max_norm"]
     and np.ptp([np.log2(x.std()) for x in g["gradients"]]) > 2),
    ("clip_grad_norm/below", "below the threshold", lambda g, o: norm(g["gradients"]) < o["max_norm"] / 2),
    ("grad_scaler/driven", "some overflow", lambda g, o: 0 < g["overflows"].mean() < 0.5),
    ("grad_scaler/always_the_same", "all of one kind, then of the other", lambda g, o:
     np.count_nonzero(np.diff(g["overflows"])) == 1 and g["overflows"].mean() == 0.5),
    ("micro_batch_weights/windows_of_tokens", "unlike counts, one of them 0, a short window", lambda g, o:
     0 in o["token_counts"] and len({*o["token_counts"]}) > 3 and len(o["token_counts"]) < o["accumulation_steps"]),
    ("windows/an_epoch", "not divided", lambda g, o: o["num_micro_batches"] % o["accumulation_steps"] > 0),
    ("pack/packed pad/padded", "unlike lengths, across the ends of rows", lambda g, o:
     len({*map(len, g["documents"])}) > 2 and 2 * g["length"] < sum(map(len, g["documents"]))),
    ("pad/padded", "shorter and longer than a row", lambda g, o:
     min(map(len, g["documents"])) < g["length"] < max(map(len, g["documents"]))),
    ("pack/packed pad/padded", "tokens with the padding's id", lambda g, o:
     any(o["pad_id"] in tokens for tokens in g["documents"])),
]  # fmt: skip
ALWAYS = [  # what other inputs would be refused for: true of many seeds
    ("cosine_schedule/anywhere cosine_schedule/without_warm_up", "in the run", lambda g, o:
     0 <= g["step"] < o["total_steps"] and o.get("warmup_steps", 0) < o["total_steps"]),
    ("cross_entropy/mean_of_supervised cross_entropy/summed cross_entropy/padding_by_id token_logp/log_probabilities",
     "labels of the vocabulary", lambda g, o: (np.isin(g["labels"], (-100, *range(g["logits"].shape[-1])))).all()),
    ("penalise_repetition/seen_tokens", "ids of the vocabulary", lambda g, o: g["ids"].max() < g["logits"].shape[1]),
    ("supervised_spans/learnt sft_mask/learnt_ids chat_template.render/conversations", "markers in texts", lambda g, o:
     all("<|im_end|>" in g["messages"][n]["content"] for n in (-1, g["messages"][0]["role"] == "system"))),
]  # fmt: skip
SOMEWHERE = [  # true of some of five seeds
    (MASKED, "prompts of unlike lengths", lambda g, o: [np.ptp(g["mask"][:-1].argmax(1)) > 0]),
    ("grpo_loss/by_sequence grpo_loss/by_token grpo_loss/by_length", "ratios beyond the clip range and within", beyond),
    ("answer_mask/ends", "ends of both kinds, rows without one, lengths before it", lambda g, o: [
        *((g["ids"] == end).any() for end in o["end_ids"]), (~np.isin(g["ids"], o["end_ids"]).any(1)).any(),
        (g["lengths"] < np.isin(g["ids"], o["end_ids"]).argmax(1)).any()]),
    ("penalise_repetition/seen_tokens", "tokens of both signs", lambda g, o: [
        (seen := np.take_along_axis(g["logits"], g["ids"], 1)[g["mask"]]).min() < 0, seen.max() > 0]),
    ("choose_token/by_mass", "numbers all over", lambda g, o: [
        (np.floor(4 * g["uniform"]) == quarter).any() for quarter in range(4)]),
    ("cosine_schedule/anywhere", "warm-up included", lambda g, o: [
        g["step"] < o["warmup_steps"], g["step"] >= o["warmup_steps"]]),
    ("chat_template.render/conversations", "with and without a system message, and a prompt", lambda g, o: [
        *((g["messages"][0]["role"] == "system") == told for told in (True, False)),
        *(o["add_generation_prompt"] == told for told in (True, False))]),
    ("supervised_spans/learnt sft_mask/learnt_ids", "several turns", lambda g, o: [len(g["messages"]) > 3]),
    ("grad_scaler.unscale/finite_or_not", "an infinity or a NaN or neither", lambda g, o: [
        *(kind(g["gradients"][1]).any() for kind in (np.isposinf, np.isneginf, np.isnan)),
        np.isfinite(g["gradients"][1]).all()]),
    ("pad/padded", "cut at either end", lambda g, o: [o.get("keep_end", False) == end for end in (True, False)]),
]  # fmt: skip
EACH = [(name, said, how, 3) for names, said, how in SAID for name in names.split()]
EACH += [(name, said, how, 100) for names, said, how in ALWAYS for name in names.split()]
TOGETHER = [(name, said, how) for names, said, how in SOMEWHERE for name in names.split()]


def given(name, seed):
    made = GENERATORS[name].make(generated.Seeds(seed))
    return made.inputs, made.parameters


@pytest.mark.parametrize("name, said, how, count", EACH, ids=[f"{name}-{said}" for name, said, *_ in EACH])
def test_a_drawn_case_is_as_its_generator_says(name, said, how, count):
    assert all(how(*given(name, seed)) for seed in range(count))


@pytest.mark.parametrize("name, said, how", TOGETHER, ids=[f"{name}-{said}" for name, said, _ in TOGETHER])
def test_some_drawn_cases_are_as_their_generator_says(name, said, how):
    assert all(any(found) for found in zip(*(how(*given(name, seed)) for seed in range(5)), strict=True))


# --- laws

LAWS = {lawful.named(entry, law): (entry, law) for entry in OPERATIONS.values() for law in lawful.of(entry)}


def verdict(implementation, entry, law, profile):
    return lawful.checked(entry, law, LocalRunner(implementation), profile).state


@pytest.mark.parametrize("name", LAWS)
def test_a_law_is_kept_by_what_is_right(name):
    entry, law = LAWS[name]
    assert verdict(oracles, entry, law, "float64") == findings.PASS
    assert {verdict(torch_faces, entry, law, profile) for profile in lawful.WIDE} == {findings.PASS}


def changed(right, part, by):
    """A function whose result differs from the right one's in one part."""

    def wrong(*given, **options):
        found = right(*given, **options)
        if part is None:
            return by(found, *given, **options)
        made = found._asdict() if hasattr(found, "_asdict") else dict(enumerate(found))
        made[part] = by(made[part], *given, **options)
        return tuple(made.values())

    return wrong


NAN = {"model.norm.weight": np.array([1.0, np.nan])}
WRONG = [  # law -> part of the result, and what is made of it
    ("rms_norm/law/odd", None, lambda y, x, weight, *, eps: y + SMALL * x**2),
    ("rms_norm/law/rows_do_not_see_each_other", None, lambda y, x, *_, eps: y + SMALL * x[1:2] * [[1], [0], [0]]),
    ("rms_norm/law/rows_do_not_see_each_other", None, lambda y, x, *_, eps: y + SMALL * x[1:2] * [[0], [0], [1]]),
    ("attention/law/out_of_sight", None, lambda y, q, k, v: y + SMALL * k[:, 3:4].mean()),
    ("attention/law/out_of_sight", None, lambda y, q, k, v: y + SMALL * k[:, 4:].mean()),
    ("attention/law/out_of_sight", None, lambda y, q, k, v: y + SMALL * v[:, 3:4].mean()),
    ("attention/law/out_of_sight", None, lambda y, q, k, v: y + SMALL * v[:, 4:].mean()),
    ("cross_entropy/law/ignored_rows", None, lambda y, logits, labels: y + SMALL * logits[labels == -100].sum()),
    ("adamw.step/law/odd", 0, lambda y, param, grad, *_, **options: y + SMALL * grad**2),
    ("adamw.step/law/odd", 1, lambda y, param, grad, *_, **options: y + SMALL * grad**2),
    ("adamw.step/law/odd", 2, lambda y, param, grad, *_, **options: y + SMALL * grad),
    ("adamw.step/law/gradient_scale", 0, lambda y, param, grad, *_, **options: y + SMALL * grad),
    ("adamw.step/law/gradient_scale", 0, lambda y, param, grad, mean, *_, **options: y + SMALL * mean),
    ("adamw.step/law/gradient_scale", 0, lambda y, *given, **options: y + SMALL * given[3]),
    ("adamw.step/law/gradient_scale", 0, lambda y, *given, eps, **options: y + SMALL * eps),
    ("adamw.step/law/no_rate", 0, lambda y, param, *_, **options: y + SMALL * param),
    ("adamw.step/law/no_rate", 1, lambda y, param, grad, mean, square, *, lr, **options: y if lr else mean),
    ("adamw.step/law/nothing_to_do", 0, lambda y, *_, eps, **options: y - SMALL * eps),
    ("adamw.step/law/nothing_to_do", 0, lambda y, *_, lr, **options: y * (1 - SMALL * lr)),
    ("cosine_schedule/law/linear_in_the_peak", None, lambda y, step, *, peak, **o: y + SMALL * (step < 5)),
    ("cosine_schedule/law/linear_in_the_peak", None, lambda y, step, *, peak, **o: y + SMALL * (5 < step < 23)),
    ("cosine_schedule/law/linear_in_the_peak", None, lambda y, step, *, peak, **o: y + SMALL * (step > 23)),
    ("clip_grad_norm/law/missing_gradients_stay_missing", 0, lambda y, *_: [None, None, y[2]]),
    ("clip_grad_norm/law/missing_gradients_stay_missing", 0, lambda y, *_: [y[0], None, None]),
    ("clip_grad_norm/law/missing_gradients_stay_missing", 0, lambda y, *_: [y[0], np.zeros(3), y[2]]),
    ("clip_grad_norm/law/missing_gradients_stay_missing", 1, lambda y, *_: y * np.inf),
    ("clip_grad_norm/law/infinite_norm_scales_nothing", 1, lambda y, *_: 0 * y),
    ("clip_grad_norm/law/infinite_norm_scales_nothing", 0, lambda y, *_: [y[0] * 2, y[1]]),
    ("clip_grad_norm/law/infinite_norm_scales_nothing", 0, lambda y, *_: [y[0], np.flip(y[1])]),
    ("transformer/law/causal", 0, lambda y, parameters, ids, **options: y + SMALL * ids[:, -1:, None]),
    ("transformer/law/any_cut", 2, lambda c, *_, **options: [(k, np.roll(v, 1, 1)) for k, v in c]),
    ("transformer/law/any_cut", 2, lambda c, *_, **options: [(k[:, -1:], v[:, -1:]) for k, v in c]),
    ("transformer/law/any_cut", 0, lambda y, *_, cache=None, **options: y if cache is None else y[:, -1:]),
    ("transformer/law/any_cut", 0, lambda y, *_, cache=None, **options: y if cache is None else 1.01 * y),
    ("transformer/law/padding_is_not_seen", 0, lambda y, *_, attention_mask=None, **options:
        y if attention_mask is None else y * (1 + 1.01 * ALLOWED)),
    ("transformer/law/padding_is_not_seen", 0, lambda y, *_, attention_mask=None, **options:
        y if attention_mask is None else np.roll(y, 1, 0)),
    ("transformer/law/padding_does_not_count", 1, lambda y, *_, attention_mask=None, **options:
        y if attention_mask is None else y * (1 + 1.01 * ALLOWED)),
    ("transformer/law/padding_does_not_count", 1, lambda y, *_, attention_mask=None, **options:
        y if attention_mask is None else y * np.nan),
    ("transformer/law/padding_is_finite", 0, lambda y, *_, attention_mask=None, **options:
        y if attention_mask is None else np.concatenate([y[:2], y[2:] * np.nan])),
    ("transformer/law/padding_is_finite", 0, lambda y, *_, attention_mask=None, **options:
        y if attention_mask is None else np.where(attention_mask.cumsum(1)[..., None] == 0, np.inf, y)),
    ("training.step/law/nothing_supervised", 1, lambda y, *_, **options: y._replace(loss=np.nan)),
    ("training.step/law/nothing_supervised", 1, lambda y, *_, **options: y._replace(loss=SMALL)),
    ("training.step/law/nothing_supervised", 0, lambda y, *_, **options: y._replace(parameters=y.parameters | NAN)),
    ("training.step/law/one_factor_for_the_window", 0,
     lambda y, *_, **options: y._replace(means={n: 1.01 * x for n, x in y.means.items()})),
]  # fmt: skip


@pytest.mark.parametrize("name, part, by", WRONG, ids=[f"{name}-{n}" for n, (name, *_) in enumerate(WRONG)])
def test_a_law_is_broken_by_a_small_part_of_it_that_is_wrong(name, part, by):
    entry, law = LAWS[name]
    state, text = lawful.verdict(law.check, changed(entry.reference, part, by))
    assert state == findings.FAIL and "raised" not in text, text


@pytest.mark.parametrize("name, part", [("padding_is_not_seen", 0), ("padding_does_not_count", 1)])
def test_a_law_of_the_network_takes_what_it_allows_for_rounding(name, part):
    entry, law = LAWS[f"transformer/law/{name}"]
    rounded = changed(
        entry.reference,
        part,
        lambda y, *_, attention_mask=None, **options: y * (1 + 0.99 * ALLOWED * (attention_mask is not None)),
    )
    assert lawful.verdict(law.check, rounded) == (findings.PASS, "")


# Law -> all known bugs that break it.
BREAK = {
    "rms_norm/law/rows_do_not_see_each_other": "RMS_NORM-M10",
    "rms_norm/law/scaled": "RMS_NORM-M01 RMS_NORM-M03 RMS_NORM-M04",
    "rope_frequencies/law/unknown_scaling_is_refused": "ROPE-M09",
    "attention/law/out_of_sight": "ATTENTION-M01 ATTENTION-M10",
    "swiglu/law/rescaled_units": "SWIGLU-M01 SWIGLU-M02 SWIGLU-M03",
    "cross_entropy/law/ignored_rows": "CROSS_ENTROPY-M01",
    "adamw.step/law/gradient_scale": "ADAMW-M01 ADAMW-M03",
    "adamw.step/law/no_rate": "ADAMW-M05",
    "cosine_schedule/law/linear_in_the_peak": "COSINE_SCHEDULE-M09",
    "clip_grad_norm/law/missing_gradients_stay_missing": "GRAD_CLIP-M07 GRAD_CLIP-M12",
    "clip_grad_norm/law/infinite_norm_scales_nothing": "GRAD_CLIP-M08",
    "training.step/law/one_factor_for_the_window": "TRAINING-M09 TRAINING-M10",
}


@pytest.mark.parametrize("name", BREAK)
def test_a_law_is_broken_by_known_bugs(name):
    entry, law = LAWS[name]
    bugs = {bug.id: suspects.implementation_of(entry, bug) for bug in suspects.of(entry)}
    for i in BREAK[name].split():
        assert verdict(bugs[i], entry, law, "float64") == findings.FAIL, i
