"""The training run in NumPy against the torch loop, step by step and free-running; clauses of specs/training.md.

`python tests/test_training.py` prints the table of specs/training.md: how the two free runs part, and why.
"""

import ast
import inspect
import re
from functools import cache
from types import SimpleNamespace

import jaxtyping
import numpy as np
import pytest
import torch
from arrays import draw, draw_integers
from runs import ROOT
from spec_blocks import FLOAT, floats, numbers, source
from steps import EXPERTS, PARTS, QK, SHAPE, assert_step_agrees, carrying, flat, make_run, state_of
from tolerance import assert_same, assert_within

from minimind_ref import ModelConfig, Transformer
from minimind_ref.data.batches import Batch, collate
from minimind_ref.data.packing import pack, pad
from minimind_ref.golden import files
from minimind_ref.golden.folder import Folder
from minimind_ref.kit import our_step
from minimind_ref.loss.cross_entropy import cross_entropy
from minimind_ref.optim.adamw import AdamW
from minimind_ref.optim.grad_scaler import GradScaler
from minimind_ref.oracle import training as oracle
from minimind_ref.oracle.bounded import bound, value
from minimind_ref.train.device import place
from minimind_ref.train.distributed import Ranks
from minimind_ref.train.evaluation import inputs
from minimind_ref.train.loop import Loss, Progress, Run, optimisation_step, parameter_groups
from minimind_ref.train.stage_settings import PretrainSettings

STEPS = 50
CONFIGS = {
    "dense": ModelConfig(**SHAPE, intermediate_size=7),
    "dense_qk_norm": ModelConfig(**SHAPE, **QK, intermediate_size=7),
    "moe_sequence": ModelConfig(**SHAPE, **EXPERTS, num_shared_experts=1, num_experts_per_tok=2),
    "moe_slots": ModelConfig(
        **SHAPE, **QK, **EXPERTS, num_shared_experts=0, num_experts_per_tok=1, aux_loss_form="slots", aux_loss_coef=0.05
    ),
}
SETTINGS = dict(
    learning_rate=2.0**-8,
    total_steps=STEPS,
    warmup_steps=3,
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=0.1,
    max_norm=4.5,
)


def window_of(name, step):
    """Two micro-batches of unequal size, in three of five steps one: packed rows by turns with padded ones."""
    lengths = draw_integers(7000 + step, (9,), 2, 7).tolist()
    documents = [draw_integers(7100 + 60 * i + step, (n,), 0, 31).tolist() for i, n in enumerate(lengths)]
    packed = step % 2 == 0
    rows = pack(documents, 7) if packed else pad(documents, 5)
    row = [type(rows)(*(x[i] for x in rows)) for i in range(3)]
    if packed:
        last = pack(documents[-1:] + documents[:1], 11)  # ends in padding
        row[2] = type(last)(*(x[0] for x in last))
    cut = [row[2:]] if step % 5 > 1 else [row[:1], row[2:]] if packed else [row[:1], row[1:]]
    return [collate(part, packed=packed, length=len(part[0].input_ids), pad_id=0) for part in cut]


def plain(window):
    """The window as the oracle takes it."""
    names = ("input_ids", "labels", "attention_mask", "segment_ids", "position_ids")
    return [{n: getattr(batch, n).numpy() for n in names if getattr(batch, n) is not None} for batch in window]


def loss_of(network, batch):
    output = network(*inputs(batch, torch.device("cpu")))
    return Loss(cross_entropy(output.logits, batch.labels, reduction="sum"), output.aux_loss)


@pytest.fixture(autouse=True, scope="module")
def without_type_checks():
    """Each part's own tests check its types; here that would take six times as long as the arithmetic."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@cache
def recorded(name):
    """The torch run: the state before every step and after the last, and every step's report."""
    run = make_run(CONFIGS[name], SETTINGS, accumulation_steps=3)
    states, reports = [state_of(run)], []
    for step in range(STEPS):
        reports.append(optimisation_step(run, window_of(name, step), loss_of))
        states.append(state_of(run))
    return states, reports


@cache
def mapped(name, step):
    """One oracle step, with bounds, from the torch run's stored state."""
    state = carrying(recorded(name)[0][step])
    return oracle.training_step(state, plain(window_of(name, step)), CONFIGS[name].to_dict(), **SETTINGS)


def agrees(name, step):
    (states, reports), made = recorded(name), mapped(name, step)
    assert_step_agrees(states[step], states[step + 1], reports[step], *made)


# --- agreement


@pytest.mark.parametrize("step", [0, 1, 10, 49])
@pytest.mark.parametrize("name", CONFIGS)
def test_training_1_2_a_step_from_a_stored_state_is_within_its_bound(name, step):
    agrees(name, step)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_training_1_2_all_fifty_steps_from_stored_states_are_within_their_bounds(name):
    """Three minutes: `pytest -m slow tests/test_training.py`."""
    for step in range(STEPS):
        agrees(name, step)


def test_training_2_4_the_definition_gives_the_oracles_step():
    """The spec's composition, in floats, of gradients that the oracle gives for each micro-batch apart."""
    name, step, s = "moe_sequence", 10, SETTINGS
    state, window, config = recorded(name)[0][step], plain(window_of(name, step)), CONFIGS[name].to_dict()
    losses, balances, tokens = [], [], []
    for batch in window:
        *_, together, targets = oracle.window_gradients(state.parameters, [batch], config)
        *_, alone, _ = oracle.window_gradients(state.parameters, [batch], config | {"aux_loss_coef": 0.0})
        losses.append({n: np.ravel(g * targets) for n, g in alone.items()})
        balances.append({n: np.ravel(together[n] - g) for n, g in alone.items()})
        tokens.append(targets)
    parts = ("training", "accumulation", "grad_clip", "cosine_schedule", "adamw")
    spec = composed(parts)
    documents = [batch.num_documents for batch in window_of(name, step)]
    given = [{n: np.ravel(x) for n, x in getattr(state, part).items()} for part in PARTS]
    matrices = [n for n, p in state.parameters.items() if p.ndim > 1]
    clock = {n: s[n] for n in ("total_steps", "warmup_steps")}
    summed = spec.window_sum(losses, balances, tokens, documents)
    rest = {n: s[n] for n in ("learning_rate", "betas", "eps", "weight_decay", "max_norm")}
    *new, count = spec.step_from((*given, step), summed, matrices, **clock, **rest)
    assert count == step + 1
    expected = mapped(name, step)[0]
    for part, found in zip(PARTS, new, strict=True):
        for n, x in getattr(expected, part).items():
            # The gradients that the definition is given are the oracle's own, twice as far from the truth as torch's.
            assert_within(np.reshape(floats(found[n]), x.shape), value(x), 4 * bound(x))


def test_training_2_both_faces_have_the_defaults_that_the_spec_writes():
    text = (ROOT / "specs/training.md").read_text(encoding="utf-8")
    (written,) = ast.parse(f"def {re.search(r'`(training_step.*?) ->', text)[1]}: ...").body
    pairs = zip(written.args.kwonlyargs, written.args.kw_defaults, strict=True)
    named = {a.arg: ast.literal_eval(d) for a, d in pairs if d is not None and a.arg != "objective"}
    for face in (oracle.training_step, our_step.training_step):
        own = inspect.unwrap(face).__kwdefaults__  # beneath the checks of types
        assert {name: own[name] for name in named} == named


def composed(parts):
    """The first component's definition with those of the others in its name space, in floats."""
    names = dict(FLOAT)
    for part in reversed(parts):
        exec(compile(source(part), f"specs/{part}.md", "exec"), names)
    listed = {n: f for n, f in names.items() if n in ("window_sum", "step_from")}
    return SimpleNamespace(
        **{n: lambda *a, f=f, **o: f(*numbers(a, "float"), **numbers(o, "float")) for n, f in listed.items()}
    )


def free_run(name, start, steps=STEPS):
    windows = [plain(window_of(name, step)) for step in range(steps)]
    made = oracle.train({}, windows, CONFIGS[name].to_dict(), start=start, **SETTINGS)
    return [start, *(state for state, _ in made)]


@cache
def free_runs(name):
    """The oracle's run from the torch run's start, and from a start that is moved by 2⁻⁴⁰ of every weight."""
    start = recorded(name)[0][0]
    moved = {
        n: p * (1 + draw(60 + i, p.shape, 2.0**-40, "uniform")) for i, (n, p) in enumerate(start.parameters.items())
    }
    return free_run(name, start), free_run(name, start._replace(parameters=moved))


def apart(a, b):
    return float(np.max(np.abs(flat(a, "parameters") - flat(b, "parameters"))))


@pytest.mark.parametrize("name", CONFIGS)
def test_training_9_a_free_run_parts_less_than_one_whose_start_is_moved(name):
    """No tolerance: both differences grow by the run's own instability, and 2⁻⁴⁰ is 2¹³ roundings of the start."""
    states, (ours, moved) = recorded(name)[0], free_runs(name)
    for step in range(1, STEPS + 1):
        assert apart(moved[step], ours[step]) > 0
        assert apart(states[step], ours[step]) < apart(moved[step], ours[step])


RECORDED = Folder().load("training", complete=True)["cases"]
GOLDEN = [case for case in RECORDED if "_step_" in case["id"]]  # the others' schedules are none of the loop's


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["id"].partition("/")[2])
def test_training_1_2_the_torch_loop_is_within_the_recorded_bounds(case):
    """As a stranger would: state and window from the file, one step of the loop, abs(y - expected) <= bound."""
    stored, settings = files.build(case["inputs"]), dict(case["parameters"])
    model = Transformer(ModelConfig(**settings.pop("config"))).double()
    state, named = stored["state"], dict(model.named_parameters())
    assert named.keys() == state["parameters"].keys()
    model.load_state_dict({n: torch.tensor(x) for n, x in state["parameters"].items()}, strict=False)
    window = [golden_batch({n: torch.tensor(x) for n, x in batch.items()}) for batch in stored["window"]]
    groups = parameter_groups(model, "matrices", settings["weight_decay"])
    optimizer = AdamW(groups, betas=settings["betas"], eps=settings["eps"])
    for n, p in named.items():
        moments = {"mean": torch.tensor(state["means"][n]), "square": torch.tensor(state["squares"][n])}
        optimizer.state[p].update(moments, step=state["step"])
    run = Run(
        model, optimizer, GradScaler(enabled=False),
        PretrainSettings(
            learning_rate=settings["learning_rate"], grad_clip=settings["max_norm"],
            warmup_iters=settings["warmup_steps"], accumulation_steps=2,
        ),
        place("cpu", "float32"), Ranks(), settings["total_steps"], Progress(steps=state["step"]),
    )  # fmt: skip
    report = optimisation_step(run, window, loss_of)
    new, file = state_of(run), Folder().file("training")
    results = {f"{part}.{n}": x for part in PARTS for n, x in getattr(new, part).items()}
    results |= {"loss": report.loss, "balance": report.aux_loss, "norm": report.grad_norm, "step": new.step}
    results |= {"learning_rate": report.learning_rate, "num_tokens": report.targets}
    assert results.keys() == set(case["outputs"])
    for n, y in results.items():
        node = case["expected"][n]
        limits = case["bound"]["float64"].get(n)
        limit = np.zeros(node["shape"]) if limits is None else files.read_bound(limits, tuple(node["shape"]), file)
        assert_within(np.asarray(y), files.read_tensor(node, file), limit)


def golden_batch(tensors):
    """A micro-batch with what the loop asks of it: its targets, and its documents, counted by another rule."""
    real = tensors.get("attention_mask", torch.ones_like(tensors["input_ids"])).bool()
    segments = tensors.get("segment_ids", torch.zeros_like(tensors["input_ids"]))
    documents = sum(len(set(row[kept & (row >= 0)].tolist())) for row, kept in zip(segments, real, strict=True))
    names = ("input_ids", "labels", "segment_ids", "position_ids", "attention_mask")
    return Batch(*(tensors.get(n) for n in names), int((tensors["labels"] >= 0).sum()), documents)


# --- invariants, on the oracle alone


def small_step(window, name="moe_sequence", **changes):
    state = recorded(name)[0][3]
    return oracle.training_step(state, window, CONFIGS[name].to_dict(), **(SETTINGS | changes))


def test_training_1_a_run_may_be_cut_anywhere():
    """Continuing from a state is bit for bit the uninterrupted run; weights alone are not a state."""
    whole = free_runs("dense")[0]
    again = free_run("dense", whole[0], 4)
    config = CONFIGS["dense"].to_dict()
    windows = [plain(window_of("dense", step)) for step in range(4)]
    begun = oracle.initial_training_state(whole[0].parameters)
    ((first, _),) = oracle.train(begun.parameters, windows[:1], config, **SETTINGS)
    rest = [state for state, _ in oracle.train({}, windows[1:], config, start=first, **SETTINGS)]
    for part in PARTS:
        assert_same(flat(rest[-1], part), flat(whole[4], part))
        assert_same(flat(again[4], part), flat(whole[4], part))
    fresh = oracle.initial_training_state(first.parameters)._replace(step=1)
    lost, _ = oracle.training_step(fresh, windows[1], config, **SETTINGS)
    assert apart(lost, whole[2]) > 1e-4


def split(batch):
    """A micro-batch's rows, each a micro-batch."""
    return [{n: x[i : i + 1] for n, x in batch.items()} for i in range(len(batch["input_ids"]))]


def test_training_2_3_any_cut_of_a_window_gives_the_same_step():
    """Three padded rows with 1, 2 and 4 targets: together, apart, and in another order, within both bounds."""
    rows = pad([[5, 9], [7, 3, 11], [2, 30, 8, 1, 4]], 5)
    whole = collate([type(rows)(*(x[i] for x in rows)) for i in range(3)], packed=False, length=5, pad_id=0)
    (batch,) = plain([whole])
    state, config = carrying(recorded("moe_sequence")[0][3]), CONFIGS["moe_sequence"].to_dict()
    cut, pair = split(batch), {n: x[:2] for n, x in batch.items()}
    results = [
        oracle.training_step(state, w, config, **SETTINGS) for w in ([batch], [cut[2], cut[0], cut[1]], [pair, cut[2]])
    ]
    for new, report in results[1:]:
        for seen in ("loss", "balance"):
            one, other = getattr(report, seen), getattr(results[0][1], seen)
            assert_within(value(one), value(other), bound(one) + bound(other))
        for part in PARTS:
            both = flat(new, part, bound) + flat(results[0][0], part, bound)
            assert_within(flat(new, part), flat(results[0][0], part), both)


def test_training_3_the_load_balance_is_weighted_by_documents_not_by_targets_or_micro_batches():
    """Two micro-batches: one document of 5 tokens, and three of 2; a padded-only row is no document."""
    rows = pad([[5, 9, 7, 3, 11], [2, 30], [8, 1], [4, 6]], 5)
    row = [type(rows)(*(x[i] for x in rows)) for i in range(4)]
    first, second = plain([collate(part, packed=False, length=5, pad_id=0) for part in (row[:1], row[1:])])
    blank = {
        "input_ids": np.zeros((1, 5), int),
        "labels": np.full((1, 5), -100),
        "attention_mask": np.zeros((1, 5), int),
    }
    config, parameters = CONFIGS["moe_sequence"].to_dict(), recorded("moe_sequence")[0][3].parameters
    one, other, both, padded = (
        oracle.window_gradients(parameters, window, config)
        for window in ([first], [second], [first, second], [first, second, blank])
    )
    slack = np.array(2.0**-46)  # a dozen roundings of numbers below 16
    assert_within(both[0], (4 * one[0] + 3 * other[0]) / 7, slack)
    assert_within(both[1], (one[1] + 3 * other[1]) / 4, slack)
    for weight in (1 / 2, 4 / 7):  # the micro-batches', the targets'
        assert abs(both[1] - (weight * one[1] + (1 - weight) * other[1])) > 1e-5
    assert_same(padded[1], both[1])
    for name, gradient in both[2].items():
        assert_same(padded[2][name], gradient)


def test_training_4_clipping_is_one_factor_for_the_sum_of_the_window():
    window = plain(window_of("moe_sequence", 3))
    _, _, gradients, _ = oracle.window_gradients(
        recorded("moe_sequence")[0][3].parameters, window, CONFIGS["moe_sequence"].to_dict()
    )
    free, report = small_step(window, max_norm=np.inf, betas=(0.0, 0.95))
    half, same = small_step(window, max_norm=float(report.norm) / 2, betas=(0.0, 0.95))
    assert same.norm == report.norm
    for name, gradient in gradients.items():
        assert_same(free.means[name], gradient)
        assert_within(half.means[name], gradient / 2, np.abs(gradient) * 1e-6)  # the 1e-6 of GRAD_CLIP-2


def test_training_5_the_rate_is_that_of_the_steps_done():
    window = plain(window_of("dense", 4))
    state = recorded("dense")[0][3]
    rates = []
    for step in (0, 2, 3, STEPS, STEPS + 9):
        done = state._replace(step=step)
        rates.append(float(oracle.training_step(done, window, CONFIGS["dense"].to_dict(), **SETTINGS)[1].learning_rate))
    peak = SETTINGS["learning_rate"]
    assert rates == [peak / 4, peak * 3 / 4, peak, peak * 0.1, peak * 0.1]


def test_training_6_only_matrices_decay():
    window = plain(window_of("dense_qk_norm", 4))
    on, off = (small_step(window, "dense_qk_norm", weight_decay=decay)[0] for decay in (0.5, 0.0))
    rate = small_step(window, "dense_qk_norm")[1].learning_rate
    before = recorded("dense_qk_norm")[0][3].parameters
    for name, p in before.items():
        if p.ndim == 1:
            assert_same(on.parameters[name], off.parameters[name])
        else:
            shrunk = rate * 0.5 * p
            assert_within(off.parameters[name] - on.parameters[name], shrunk, np.full(p.shape, 2.0**-50))


def test_training_7_padding_and_what_it_holds_change_nothing():
    """By mask or by negative segment, and whatever ids are beneath it: the step of the documents alone."""
    state, config = recorded("moe_sequence")[0][3], CONFIGS["moe_sequence"].to_dict()
    ids, labels = np.array([[5, 9, 7, 3, 0, 0]]), np.array([[9, 7, 3, -100, -100, -100]])
    real, segment = np.array([[1, 1, 1, 1, 0, 0]]), np.array([[0, 0, 0, 0, -1, -1]])
    other = np.where(real == 1, ids, 29)
    alone = {"input_ids": ids[:, :4], "labels": labels[:, :4]}
    forms = [
        {"input_ids": ids, "labels": labels, "attention_mask": real},
        {"input_ids": other, "labels": labels, "attention_mask": real},
        {"input_ids": ids, "labels": labels, "segment_ids": segment},
        {"input_ids": other, "labels": labels, "segment_ids": segment},
    ]
    beside = {"input_ids": np.array([[4, 6, 8]]), "labels": np.array([[6, 8, -100]])}  # so that documents count
    results = [oracle.training_step(state, [form, beside], config, **SETTINGS)[0] for form in forms]
    expected, _ = oracle.training_step(carrying(state), [alone, beside], config, **SETTINGS)
    for part in PARTS:
        for other_form in results[1:]:
            assert_same(flat(other_form, part), flat(results[0], part))
        assert_within(flat(results[0], part), flat(expected, part), flat(expected, part, bound))


def test_training_8_a_window_without_targets_moves_by_decay_and_momentum_only():
    window = [{"input_ids": [[5, 9, 7]], "labels": [[-100] * 3]}]
    state, s = recorded("dense")[0][3], SETTINGS
    new, report = oracle.training_step(state, window, CONFIGS["dense"].to_dict(), **s)
    assert report.loss == report.norm == report.num_tokens == 0 and new.step == 4
    for name, mean in state.means.items():
        assert_same(new.means[name], s["betas"][0] * mean)
        assert_same(new.squares[name], s["betas"][1] * state.squares[name])
        assert np.isfinite(new.parameters[name]).all()


def test_training_10_inputs_keep_their_values():
    state = recorded("dense")[0][3]
    kept = {part: flat(state, part) for part in PARTS}
    window = plain(window_of("dense", 4))
    copies = [{n: x.copy() for n, x in batch.items()} for batch in window]
    oracle.training_step(state, window, CONFIGS["dense"].to_dict(), **SETTINGS)
    for part in PARTS:
        assert_same(flat(state, part), kept[part])
    for batch, copy in zip(window, copies, strict=True):
        for n, x in batch.items():
            assert_same(x, copy[n])


# --- refusals


def test_training_11_a_gradient_that_is_no_number_is_no_update():
    state = recorded("dense")[0][3]
    broken = {n: np.where(np.arange(p.size).reshape(p.shape) == 1, np.inf, p) for n, p in state.parameters.items()}
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"norm is nan in step 3"):
        oracle.training_step(
            state._replace(parameters=broken), plain(window_of("dense", 4)), CONFIGS["dense"].to_dict(), **SETTINGS
        )


@pytest.mark.parametrize("part", PARTS)
def test_training_12_refuses_a_state_of_another_model_and_an_empty_window(part):
    state, config = recorded("dense")[0][3], CONFIGS["dense"].to_dict()
    window = plain(window_of("dense", 4))
    for changed in (
        {n: x for n, x in getattr(state, part).items() if n != "model.norm.weight"},
        getattr(state, part) | {"model.other.weight": np.zeros(3)},
    ):
        with pytest.raises(ValueError, match=rf"state.{part} .*'model.(norm|other).weight'.*: \d+ names, not 20"):
            oracle.training_step(state._replace(**{part: changed}), window, config, **SETTINGS)
    with pytest.raises(ValueError, match="window has 0 micro-batches"):
        oracle.training_step(state, [], config, **SETTINGS)
    short = [window[0] | {"segment_ids": np.zeros((1, 2), int)}]
    with pytest.raises(ValueError, match=r"segment_ids.*\(1, 2\)"):
        oracle.training_step(state, short, config, **SETTINGS)


if __name__ == "__main__":
    print("| step | " + " | ".join(CONFIGS) + " |\n|---" * 1 + "|---" * len(CONFIGS) + "|")
    for step in (1, 2, 3, 5, 10, 20, 30, 40, 50):
        cells = []
        for name in CONFIGS:
            ours, moved = free_runs(name)
            cells.append(f"{apart(recorded(name)[0][step], ours[step]):.1e} · {apart(moved[step], ours[step]):.1e}")
        print(f"| {step} | " + " | ".join(cells) + " |")
