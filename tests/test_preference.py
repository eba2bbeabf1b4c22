"""What preference optimisation reads, keeps and logs: pairs as the data has them, against the scores they had."""

import json

import pytest
import torch
from chat_runs import session, write_network, write_pairs, write_records
from tolerance import Ulps, assert_same, assert_within

from minimind_ref.data.chat_template import encode_chat
from minimind_ref.loss.cross_entropy import token_logp
from minimind_ref.train.loop import optimisation_step
from minimind_ref.train.pairs import score_all, score_pairs

SUMS = Ulps(2**8, "float32", "sums of the same numbers in another order, or in a batch of other rows")


def made(folder, start="start", scale=0.5, **options):
    data = folder / "data.jsonl"
    data = data if data.exists() else write_pairs(data)
    source = write_network(folder / start, scale=scale)
    given = {"max_seq_len": 48, "batch_size": 8, "learning_rate": 0.01, "out_dir": folder / "out", **options}
    return session("dpo", init_from=source, data_path=data, **given)


def encoded(folder, tokenizer, template="minimind2"):
    """The chosen and the rejected conversation of every pair."""
    for line in (folder / "data.jsonl").read_text().splitlines():
        record = json.loads(line)
        yield [encode_chat(tokenizer, record[key], template=template) for key in ("chosen", "rejected")]


def scores_of(ready, batches):
    """Policy and reference log-probabilities of the pairs in `batches`, chosen and rejected."""
    with torch.no_grad(), ready.run.placement.autocast():
        found = [score_pairs(ready.run.model, b, ready.run.placement, ready.run.settings.reduction)[0] for b in batches]
    return torch.cat(found), torch.cat([b.reference for b in batches])


def expected_measures(policy, reference, beta=0.1):
    """Accuracy, margin, raw preference, and the two implicit rewards."""
    rewards = beta * (policy - reference)
    margin = rewards[:, 0] - rewards[:, 1]
    columns = [margin > 0, margin, policy[:, 0] > policy[:, 1], rewards[:, 0], rewards[:, 1]]
    return torch.stack([c.float() for c in columns]).mean(dim=1)


@pytest.mark.parametrize("template", ["minimind2", "minimind3"])
def test_pairs_stay_whole_the_chosen_answer_first_in_both_parts(tmp_path, template):
    stage = made(tmp_path, template=template, max_seq_len=64).stage
    pairs = list(encoded(tmp_path, stage.tokenizer, template))
    parts = ((stage.train, [p for i, p in enumerate(pairs) if i % 10 != 9]), (stage.held, pairs[9::10]))
    for part, expected in parts:
        assert len(part) == len(expected)
        for i, pair in enumerate(expected):
            for row, chat in zip(part[i][:2], pair, strict=True):
                ids, labels = row[0].tolist(), row[1].tolist()
                assert ids[: len(chat.ids)] == chat.ids
                learnt = [index for index, target in zip(chat.ids, chat.supervised, strict=True) if target]
                assert [index for index in labels if index >= 0] == learnt


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_run_in_the_order_of_the_file_starts_at_log_2_exactly(tmp_path, dtype, reduction):
    """The kept scores are then of the same batch through the same path."""
    ready = made(tmp_path, dtype=dtype, reduction=reduction, shuffle=False, batch_size=21)
    ((pairs,),) = [next(ready.stage.windows(0))]
    with ready.run.placement.autocast():
        loss = ready.stage.loss(ready.run.model, pairs)
    assert loss.total.item() == torch.tensor(2.0).log().expand(21).sum().item()
    logged = ready.stage.measures()
    preferred = int((pairs.reference[:, 0] > pairs.reference[:, 1]).sum())
    zeros = dict.fromkeys(("accuracy", "margin", "chosen_reward", "rejected_reward"), 0.0)
    assert logged == {**zeros, "preference": preferred / 21} and 0 < preferred < 21


def test_what_is_logged_and_evaluated_are_means_over_pairs(tmp_path):
    ready = made(tmp_path, held_out=0.5, accumulation_steps=2)
    stage, model = ready.stage, ready.run.model
    first, second = (window for window, _ in zip(stage.windows(0), range(2), strict=False))
    assert [b.num_targets for b in first] == [8, 4]
    optimisation_step(ready.run, first, stage.loss)
    stage.measures()
    expected = expected_measures(*scores_of(ready, second))
    optimisation_step(ready.run, second, stage.loss)
    logged = stage.measures()
    assert_within(torch.tensor(list(logged.values())), expected, SUMS)
    assert set(stage.measures().values()) == {0.0}
    stage.epochs.settings.__dict__["batch_size"] = 7  # 11 pairs in unequal batches
    found = stage.evaluate(model)
    everything = stage.held.collate([stage.held[i] for i in range(11)])
    expected = expected_measures(*scores_of(ready, [everything]))
    values = [value for name, value in found.means.items() if name != "loss"]
    assert found.pairs == 11 and 0 < found.means["loss"] < 1
    assert_within(torch.tensor(values), expected, SUMS)


def test_a_pair_counts_alone_too_and_is_preferred_only_where_its_chosen_answer_is_likelier(tmp_path):
    """The first pair's answers are the same."""
    write_pairs(tmp_path / "data.jsonl", 3)
    first, *others = (json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines())
    write_records(tmp_path / "data.jsonl", [{"chosen": first["chosen"], "rejected": first["chosen"]}, *others])
    ready = made(tmp_path, held_out=0.0, shuffle=False, batch_size=1)
    with torch.no_grad():
        ready.run.model.lm_head.weight.mul_(2)
    windows = list(ready.stage.windows(0))
    for pairs in (window[0] for window in windows):
        expected = expected_measures(*scores_of(ready, [pairs]))
        ready.stage.loss(ready.run.model, pairs)
        assert_within(torch.tensor(list(ready.stage.measures().values())), expected, SUMS)
    ready.stage.loss(ready.run.model, windows[0][0])
    assert ready.stage.measures()["preference"] == 0


def test_scores_of_the_reference_are_kept_for_what_they_depend_on(tmp_path):
    """One folder, run after run with something else changed: each time what a folder of its own would have."""
    changes = [{}, {"scale": 0.75}, {"held_out": 0.3}, {"reduction": "mean"}, {"dtype": "bfloat16"}]
    for number, options in enumerate(changes):
        shared = made(tmp_path, **options).stage
        alone = made(tmp_path, **options, out_dir=tmp_path / str(number)).stage
        for one, other in ((shared.train, alone.train), (shared.held, alone.held)):
            assert_same(one.reference, other.reference)
    assert len(list((tmp_path / "out" / "cache").glob("reference-*.npy"))) == len(changes)


def test_every_pair_is_scored_also_where_the_last_batch_has_one(tmp_path):
    ready = made(tmp_path)
    part = ready.stage.train
    assert len(part) % 4 == 1
    assert_within(torch.tensor(score_all(ready.run.model, part, 4, ready.run.placement, "sum")), part.reference, SUMS)


def test_no_pair_is_a_row_of_padding(tmp_path):
    part = made(tmp_path).stage.train
    part.rows.pad_id = 7
    none = part.collate([])
    assert none.reference.shape == (0, 2) and none.num_targets == none.num_documents == 0
    assert none.batch.input_ids.unique().tolist() == [7]


def test_what_is_chosen_becomes_likelier_than_what_is_rejected(tmp_path):
    ready = made(tmp_path, held_out=0.0)
    model, chats = ready.run.model, list(encoded(tmp_path, ready.stage.tokenizer))

    def preference():
        found = []
        for pair in chats:
            for sign, chat in zip((1, -1), pair, strict=True):
                ids, learnt = torch.tensor(chat.ids), torch.tensor(chat.supervised)[1:]
                with torch.no_grad():
                    logp = token_logp(model(ids[None]).logits[0, :-1], ids[1:])
                found.append(sign * logp[learnt].sum())
        return sum(found).item()

    before = preference()
    for window in ready.stage.windows(0):
        optimisation_step(ready.run, window, ready.stage.loss)
    assert preference() > before + 10 * len(chats)
