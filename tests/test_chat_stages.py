"""What the stages that learn from chats share: what they read and in which order, what they say, show and remember."""

import copy
import json
from itertools import islice

import pytest
import torch
from chat_runs import FILES, session, write_network, write_records
from tolerance import assert_same

from minimind_ref.data.chat_template import encode_chat
from minimind_ref.errors import UserError
from minimind_ref.train import dpo, grpo, sft
from minimind_ref.train.answers import Answer
from minimind_ref.train.distributed import Ranks

OPTIONS = dict(batch_size=3, max_seq_len=64, seed=5)
OF_STAGE = {"sft": {}, "dpo": {}, "grpo": dict(max_new_tokens=4, num_generations=2, num_updates=2, reward="length")}
MODULES = {"sft": sft, "dpo": dpo, "grpo": grpo}
KEYS = {"sft": ["conversations"], "dpo": ["chosen", "rejected"], "grpo": ["conversations"]}
every_stage = pytest.mark.parametrize("stage", OF_STAGE)


def made(stage, folder, data="data.jsonl", **options):
    """A session of the stage in a folder, on 23 records, of which every tenth is held out."""
    start = folder / "start"
    start = start if start.exists() else write_network(start, max_position_embeddings=70)
    if data and not (folder / data).exists():
        FILES[stage](folder / data)
    given = {**OPTIONS, **OF_STAGE[stage], "init_from": start, "out_dir": folder, **options}
    return session(stage, **given, **({"data_path": folder / data} if data else {}))


def records(folder):
    return [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]


def tensors(batches):
    """Every tensor in some windows, as text."""
    if isinstance(batches, torch.Tensor):
        return [str(batches.tolist())]
    return [text for part in batches for text in tensors(part)] if isinstance(batches, list | tuple) else []


@every_stage
def test_a_run_says_what_it_reads_leaves_out_and_cuts(tmp_path, stage):
    quiet = made(stage, tmp_path).stage.describe()
    assert quiet[0] == f"data      {tmp_path / 'data.jsonl'}" and "cut at" not in quiet[1]
    with (tmp_path / "data.jsonl").open("a") as file:
        file.write("{oops\n{\n")
    ready = made(stage, tmp_path, on_bad_line="skip", max_seq_len=64 if stage == "grpo" else 36)
    data, counts, *rest = ready.stage.describe()
    assert data == quiet[0] + " (left out: 2 not JSON)"
    chats = [
        encode_chat(ready.stage.tokenizer, json.loads(line)[key])
        for line in (tmp_path / "data.jsonl").read_text().splitlines()[:23]
        for key in KEYS[stage]
    ]
    assert all(any(chat.supervised[:36]) for chat in chats)  # so that none is left out
    cut = sum(len(chat.ids) > 36 for chat in chats)
    if stage == "sft":
        tokens = sum(min(len(chat.ids), 36) for i, chat in enumerate(chats) if i % 10 != 9)
        said = f"21 conversations, {tokens} tokens; held out 2 conversations; {cut} cut at --max_seq_len"
    elif stage == "dpo":
        said = f"21 pairs; held out 2; scored under the reference; {cut} answers cut at --max_seq_len"
    else:
        said = "21 prompts; held out 2"
        assert rest.pop(0) == "rollouts  2 answers a prompt of at most 4 tokens, reward length"
    assert counts == f"          {said}" and cut > 5
    what = {"sft": "conversations of at most 36 tokens", "dpo": "pairs of at most 36 tokens an answer"}
    assert rest == [ready.stage.epochs.line(what.get(stage, "prompts of at most 64 tokens"), 1 + (stage == "grpo"))]


@every_stage
def test_every_epoch_reads_all_samples_in_an_order_of_its_own(tmp_path, stage):
    read = made(stage, tmp_path, epochs=3, batch_size=1, held_out=0.0).stage
    rows = [str(window) for window in (read._prompt_windows(0) if stage == "grpo" else read.windows(0))]
    epochs = [rows[i : i + 23] for i in (0, 23, 46)]
    assert len(rows) == 69 and len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    assert len({tuple(epoch) for epoch in epochs}) == 3


def learning(ready, start):
    """The windows from number `start` on, and a network that moves after each."""
    for window in ready.stage.windows(start):
        with torch.no_grad():
            ready.run.model.lm_head.weight[:99] += 0.03125
        yield window


@every_stage
def test_a_stage_goes_on_after_any_window_as_if_it_had_not_been_stopped(tmp_path, stage):
    """For reinforcement: between two updates on the same answers, and where the reference is replaced, too."""
    options = {"refresh_reference": 2} if stage == "grpo" else {"epochs": 2}
    whole, windows = made(stage, tmp_path, **options), []

    def state():
        return copy.deepcopy((whole.run.model.state_dict(), whole.stage.state_dict()))

    saved = [state()]
    next(whole.stage.windows(0))  # begun, and left
    for window in learning(whole, 0):
        windows.append(tensors(window))
        saved.append(state())
    assert len(windows) == whole.stage.total_windows == 14
    for done in (0, 1, 6):
        again = made(stage, tmp_path, **options)
        again.run.model.load_state_dict(saved[done][0])
        again.stage.load_state_dict(saved[done][1])
        assert list(map(tensors, islice(learning(again, done), 3))) == windows[done : done + 3]


@every_stage
def test_what_a_run_reads_decides_what_it_may_be_continued_on(tmp_path, stage):
    first = made(stage, tmp_path).stage.fingerprint
    assert made(stage, tmp_path).stage.fingerprint == first
    changed = records(tmp_path)
    changed[3][KEYS[stage][-1]][-1]["content"] += " river"
    write_records(tmp_path / "data.jsonl", changed)
    assert made(stage, tmp_path).stage.fingerprint != first


@every_stage
def test_an_evaluation_is_of_what_is_held_out_and_changes_nothing(tmp_path, stage):
    """Neither the generator that later samples and dropout draw from, nor whether the network is in training."""
    ready = made(stage, tmp_path)
    model, before = ready.run.model.train(), torch.get_rng_state()
    found = ready.stage.evaluate(model)
    assert_same(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert all(name.startswith("held_out_") for name in found.values()) and len(found.lines()) == 1
    assert made(stage, tmp_path, held_out=0.0).stage.evaluate(model) is None


@every_stage
def test_an_evaluation_is_the_ranks_parts_together_also_where_the_last_batch_leaves_one_without_a_sample(
    tmp_path, monkeypatch, stage
):
    """Three samples on two ranks of one: the second rank has the second sample, and then nothing."""
    monkeypatch.setattr(MODULES[stage], "total", lambda values, *_: values)
    ready, counts = made(stage, tmp_path, held_out=0.15, batch_size=1), []
    for ranks in (Ranks(), Ranks(0, 2), Ranks(1, 2)):
        object.__setattr__(ready.stage.epochs, "ranks", ranks)
        ready.stage.ranks = ranks
        *_, count = ready.stage.evaluate(ready.run.model).values().values()
        counts.append(count)
    assert counts[0] == counts[1] + counts[2] and counts[2] > 0
    assert stage == "sft" or counts == [3, 2, 1]


@every_stage
@pytest.mark.parametrize("held_out", [0.1, 0.0])
def test_a_sample_is_the_greedy_answer_to_the_first_prompt_that_is_held_out_if_any_is(
    tmp_path, monkeypatch, stage, held_out
):
    asked = []

    def answer(model, tokenizer, prompts, *, max_new_tokens, temperature):
        asked.append((model, tokenizer, prompts, max_new_tokens, temperature))
        return [Answer([5], True, "red cat")]

    monkeypatch.setattr(sft, "answer", answer)
    ready = made(stage, tmp_path, held_out=held_out)
    messages = records(tmp_path)[9 if held_out else 0][KEYS[stage][0]]
    roles = [message["role"] for message in messages]
    turn = len(messages) - 1 if stage == "grpo" else roles.index("assistant")
    tokenizer = ready.stage.tokenizer
    prompt = encode_chat(tokenizer, messages[:turn], add_generation_prompt=True).ids
    for length in ({}, {"length": 3}):
        shown = ready.stage.sample(ready.run.model, **length)
        assert shown == f"{tokenizer.decode(prompt).strip()} ▸red cat"
    assert asked == [(ready.run.model, tokenizer, [prompt], room, 0.0) for room in (70 - len(prompt), 3)]


@every_stage
def test_a_stage_needs_data(tmp_path, stage):
    with pytest.raises(UserError, match=f"^{stage} needs --data_path; "):
        made(stage, tmp_path, data=None)


@pytest.mark.parametrize("stage", ["dpo", "grpo"])
def test_a_comparison_of_networks_needs_one_without_dropout(tmp_path, stage):
    with pytest.raises(UserError, match=f"{stage} compares two networks, which needs --dropout 0"):
        made(stage, tmp_path, dropout=0.5)


@every_stage
def test_a_rank_without_a_sample_in_the_last_window_takes_part(tmp_path, stage):
    """Seven samples on two ranks of three: the second rank of the last micro-step has nothing but padding."""
    FILES[stage](tmp_path / "data.jsonl", 7)
    ready = made(stage, tmp_path, held_out=0.0)
    object.__setattr__(ready.stage.epochs, "ranks", Ranks(1, 2))
    first, *_, last = (batch for window in ready.stage.windows(0) for batch in window)
    assert last.num_targets == last.num_documents == 0
    model = made(stage, tmp_path, held_out=0.0).run.model
    measured = []
    for batches in ([first], [first, last]):
        ready.stage.measures()
        losses = [ready.stage.loss(model, batch).total for batch in batches]
        measured.append(ready.stage.measures())
    assert measured[0] == measured[1]
    assert losses[1].item() == 0
    losses[1].backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
