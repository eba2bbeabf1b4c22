"""What group-relative policy optimisation and preference optimisation promise, on their stages as a run makes them."""

import json
import math

import pytest
import torch
from chat_runs import run, session, write_conversations, write_network, write_pairs
from reward_functions import begins_plainly
from tolerance import Ulps, assert_same, assert_within

from minimind_ref.data.packing import IGNORE
from minimind_ref.generate.generate import generate
from minimind_ref.loss.cross_entropy import token_logp
from minimind_ref.train.answers import answer, score, score_fixed
from minimind_ref.train.dpo import Preference
from minimind_ref.train.rollout import lay_out, no_answers

OPTIONS = dict(max_seq_len=64, batch_size=3, num_generations=4, max_new_tokens=5, learning_rate=0.01, num_updates=2)


def made(tmp_path, stage="grpo", **options):
    write = write_pairs if stage == "dpo" else write_conversations
    source, data = write_network(tmp_path / "start"), write(tmp_path / "data.jsonl")
    given = {**(OPTIONS if stage == "grpo" else {"max_seq_len": 48, "batch_size": 3}), **options}
    return session(stage, init_from=source, data_path=data, out_dir=tmp_path, **given)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_first_update_has_ratio_1_and_divergence_0_exactly_and_the_second_has_neither(tmp_path, dtype):
    ready = made(tmp_path, dtype=dtype, temperature=0.7, reward="length", beta=0.1)
    seen = []
    for window in ready.stage.windows(0):
        from minimind_ref.train.loop import optimisation_step

        optimisation_step(ready.run, window, ready.stage.loss)
        seen.append(ready.stage.measures())
        if len(seen) == 2:
            break
    first, second = seen
    assert (first["ratio_min"], first["ratio_max"], first["kl"], first["clipped"]) == (1, 1, 0, 0)
    assert second["ratio_min"] < 0.99 < 1.01 < second["ratio_max"] and second["kl"] > 0
    assert "reward" in first and "reward" not in second  # the same answers are not sampled twice


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_preference_starts_at_log_2_exactly_for_a_batch_scored_through_the_same_path(tmp_path, dtype):
    ready = made(tmp_path, "dpo", dtype=dtype)
    assert isinstance(ready.stage, Preference)
    from minimind_ref.train.pairs import score_pairs

    for pairs in next(ready.stage.windows(0)):
        with ready.run.placement.autocast():
            reference = score_pairs(ready.run.model, pairs, ready.run.placement, "sum")[0].detach()
            loss = ready.stage.loss(ready.run.model, pairs._replace(reference=reference))
        assert loss.total.item() == float(torch.tensor(math.log(2))) * pairs.num_targets


def test_groups_stay_together_whatever_the_order_of_prompts(tmp_path):
    """A reward that depends on the prompt alone gives nobody an advantage."""
    ready = made(tmp_path, reward="reward_functions:prompt_length")
    for window in ready.stage.windows(0):
        assert all(not answers.advantages.any() for answers in window)
    assert len({len(prompt.ids) for prompt in ready.stage.prompts}) > 3


def test_large_rewards_that_differ_by_little_are_compared_as_they_are(tmp_path):
    ready = made(tmp_path, reward="reward_functions:far_from_zero")
    (answers,) = next(ready.stage.windows(0))
    assert answers.advantages.dtype == torch.float32
    assert (answers.advantages.view(3, 4).diff(dim=1) > 0.5).all()


def test_a_network_that_gives_no_distribution_ends_the_run_with_one_line(tmp_path, capsys):
    assert run("grpo", tmp_path, "--temperature", "1e-42", "--out_dir", tmp_path / "out") == 1
    assert "error: the network cannot answer: logits of row 0 hold" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_step_makes_better_answers_likelier_and_worse_ones_less_likely(tmp_path):
    ready = made(tmp_path, reward="length=1,repetition=-0.3", beta=0.0)
    (answers,) = next(ready.stage.windows(0))
    loss = ready.stage.loss(ready.run.model, answers).total / answers.num_targets
    loss.backward()
    with torch.no_grad():
        for p in ready.run.model.parameters():
            p -= 1e-3 * p.grad
    inputs = (answers.input_ids, answers.attention_mask, answers.labels)
    gained = (score(ready.run.model, *inputs)[0] - answers.old_logp).sum(dim=1) / answers.mask.sum(dim=1)
    better, worse = answers.advantages > 0.1, answers.advantages < -0.1
    assert better.sum() > 2 and worse.sum() > 2
    assert gained[better].mean() > 0 > gained[worse].mean()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_answers_are_scored_under_the_temperature_that_they_are_sampled_with(tmp_path, temperature):
    ready = made(tmp_path, temperature=temperature, reward="length")
    ready.run.model.double()
    (answers,) = next(ready.stage.windows(0))
    row = 5
    place = answers.labels[row] != IGNORE
    real = answers.attention_mask[row].bool()
    with torch.no_grad():
        logits = ready.run.model(answers.input_ids[row, real][None]).logits[0] / temperature
    expected = token_logp(logits[place[real]], answers.labels[row, place])
    another_order = Ulps(2**12, "float64", "the same sums over fewer rows, and without padding")
    assert_within(answers.old_logp[row, place], expected, another_order)
    assert not answers.old_logp[row, ~place].any()


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_the_references_scores_are_its_own_where_they_count(tmp_path, beta):
    ready = made(tmp_path, reward="length", beta=beta)
    with torch.no_grad():
        ready.run.model.model.norm.weight.mul_(1.5)
    (answers,) = next(ready.stage.windows(0))
    inputs = (answers.input_ids, answers.attention_mask, answers.labels)
    own = [score(network, *inputs)[0].detach() for network in (ready.run.model, ready.stage.reference)]
    assert torch.equal(answers.old_logp, own[0])
    assert torch.equal(answers.reference_logp, own[1 if beta else 0]) and not torch.equal(*own)


def test_rows_hold_prompts_to_the_left_and_answers_to_the_right():
    ids, mask, labels = lay_out([[5, 6, 7], [8]], [[9], [3, 4, 2]], pad_id=0)
    assert ids.tolist() == [[5, 6, 7, 9, 0, 0], [0, 0, 8, 3, 4, 2]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]]
    i = IGNORE
    assert labels.tolist() == [[i, i, 9, i, i, i], [i, i, 3, 4, 2, i]]


def test_an_answer_that_never_ends_counts_whole_and_is_said_to_be_unfinished(tmp_path):
    ready = made(tmp_path, reward="length")
    tokenizer = ready.stage.tokenizer
    with torch.no_grad():  # the end tokens become impossible
        ready.run.model.lm_head.weight[[tokenizer.end_id, tokenizer.pad_id]] = 0
        ready.run.model.model.norm.weight.fill_(1.0)
    (answers,) = next(ready.stage.windows(0))
    ended = torch.isin(answers.labels, torch.tensor([tokenizer.end_id, tokenizer.pad_id])).any(dim=1)
    lengths = answers.mask.sum(dim=1)
    assert (lengths[~ended] == OPTIONS["max_new_tokens"]).all() and (~ended).sum() > 5
    assert ready.stage.measures()["finished"] == ended.float().mean()


def test_an_answer_is_finished_where_its_last_token_is_an_end(tmp_path, monkeypatch):
    ready = made(tmp_path, reward="length")
    end, other = ready.stage.tokenizer.end_id, ready.stage.tokenizer.encode("a")[0]
    found = [[other, end], [other, other], [end], [end, other]]
    monkeypatch.setattr("minimind_ref.train.answers.generate", lambda *_, **__: found)
    answers = answer(ready.run.model, ready.stage.tokenizer, [[other]], max_new_tokens=2, temperature=1.0)
    assert [one.finished for one in answers] == [True, False, True, False]


def test_a_rank_without_a_prompt_has_a_row_of_padding_that_counts_nothing():
    empty = no_answers(7, torch.device("cpu"))
    assert empty.input_ids.tolist() == [[7]] and empty.labels.tolist() == [[IGNORE]]
    assert empty.attention_mask.tolist() == [[0]]
    assert (empty.num_targets, empty.num_documents) == (0, 0)
    assert empty.old_logp.tolist() == empty.reference_logp.tolist() == [[0]] and empty.advantages.tolist() == [0]


@pytest.mark.parametrize(("refresh", "expected"), [(0, [0, 0, 0, 0, 0]), (1, [0, 1, 2, 3, 4]), (2, [0, 0, 2, 2, 4])])
def test_the_reference_stays_and_is_replaced_only_where_that_is_asked(tmp_path, refresh, expected):
    """The policy moves by one step after each batch of answers; the reference is so many steps on."""
    ready = made(tmp_path, reward="length", refresh_reference=refresh, num_updates=1)
    reference, policy = ready.stage.reference.lm_head.weight, ready.run.model.lm_head.weight
    assert not reference.requires_grad and not ready.stage.reference.training
    seen, states = [], []
    for _ in zip(range(5), ready.stage.windows(0), strict=False):
        states.append(policy.detach().clone())
        seen.append(reference.clone())
        with torch.no_grad():
            policy += 0.01
    assert all(torch.equal(one, states[number]) for one, number in zip(seen, expected, strict=True))


def mean_reward(source, folder):
    """How many of many sampled answers of a run's policy begin plainly."""
    ready = session("grpo", init_from=source, data_path=folder / "grpo.jsonl", out_dir=source, batch_size=2)
    ids = generate(
        ready.run.model,
        [prompt.ids for prompt in ready.stage.prompts],
        max_new_tokens=2,
        num_samples=40,
        generator=torch.Generator().manual_seed(0),
    )
    texts = [ready.stage.tokenizer.decode(answer) for answer in ids]
    return sum(begins_plainly(texts, texts, texts)) / len(texts)


def test_the_policy_learns_what_is_rewarded_and_nothing_from_random_rewards(tmp_path):
    flags = ["--max_new_tokens", "2", "--num_generations", "8", "--batch_size", "8", "--accumulation_steps", "1"]
    flags += ["--beta", "0", "--max_steps", "48", "--eval_interval", "0", "--epochs", "16", "--learning_rate", "0.02"]
    gained = {}
    for name in ("begins_plainly", "at_random"):
        out = tmp_path / name
        assert run("grpo", tmp_path, *flags, "--reward", f"reward_functions:{name}", "--out_dir", out) == 0
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert max(r["ratio_max"] for r in records if "ratio_max" in r) > 1.05  # both policies do move
        gained[name] = mean_reward(out, tmp_path) - mean_reward(tmp_path / "start", tmp_path)
    assert gained["begins_plainly"] > 0.25
    assert gained["at_random"] < gained["begins_plainly"] / 3


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("fails", "raised KeyError"),
        ("not_a_number", "not a finite number"),
        ("too_few", "returned 1 values for 12 answers"),
    ],
)
def test_a_reward_that_fails_ends_the_run_with_one_line(tmp_path, capsys, reward, message):
    flags = ["--reward", f"reward_functions:{reward}", "--batch_size", "4", "--out_dir", tmp_path / "out"]
    assert run("grpo", tmp_path, *flags) == 1
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_preference_scores_its_reference_once(tmp_path):
    first = made(tmp_path, "dpo")
    kept = first.stage.train.reference.clone()
    file = next((tmp_path / "cache").glob("reference-*.npy"))
    stamp = file.stat().st_mtime_ns
    again = made(tmp_path, "dpo")
    assert file.stat().st_mtime_ns == stamp
    assert_same(again.stage.train.reference, kept)
    assert kept.ne(0).all()
    pairs = next(again.stage.windows(0))[0]
    batch = pairs.batch
    logp = score_fixed(
        first.run.model, batch.input_ids, batch.attention_mask, batch.labels, placement=first.run.placement
    )
    another_batch = Ulps(2**8, "float32", "the same sums in a batch of other rows, padded to another length")
    assert_within(logp.sum(dim=1).view(-1, 2), pairs.reference, another_batch)
