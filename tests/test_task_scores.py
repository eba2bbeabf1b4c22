"""How networks are judged on the built-in tasks: answers to questions, and preference between two answers."""

import json
from dataclasses import asdict

import pytest
import torch
from chat_runs import turns, write_network, write_records
from tolerance import Ulps, assert_within

from minimind_ref.data.chat_template import encode_chat
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.generate.generate import generate
from minimind_ref.loss.cross_entropy import token_logp
from minimind_ref.train import task_preferences, task_scores
from minimind_ref.train.device import place
from minimind_ref.train.run_folder import read_network
from minimind_ref.train.stage_settings import DPOSettings
from minimind_ref.train.task_preferences import preferences
from minimind_ref.train.task_scores import Share, TaskQuestion, answers, mean

TOKENIZER = Tokenizer.load()
QUESTIONS = [TaskQuestion("t", text, "?") for text in ("one", "two seven", "red", "a cat", "dog")]
CPU = place("cpu", "float32")
SUMS = Ulps(2**8, "float32", "the same sums in a batch of other rows")


@pytest.mark.parametrize("template", ["minimind2", "minimind3"])
def test_questions_are_answered_as_if_each_were_alone(tmp_path, monkeypatch, template):
    monkeypatch.setattr(task_scores, "ROWS", 2)
    model, _ = read_network(write_network(tmp_path / "start"))
    options = dict(template=template, max_new_tokens=6)
    found = answers(model, TOKENIZER, QUESTIONS, CPU, temperature=0.0, seed=0, **options)
    for question, text in zip(QUESTIONS, found, strict=True):
        ids = encode_chat(TOKENIZER, turns(question.prompt), template=template, add_generation_prompt=True).ids
        (new,) = generate(model, [ids], max_new_tokens=6, stop_ids=TOKENIZER.stop_ids, temperature=0.0)
        assert text == TOKENIZER.decode(new)
    drawn = [answers(model, TOKENIZER, QUESTIONS, CPU, temperature=1.0, seed=seed, **options) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_mean_of_several_answers_is_a_share_of_as_many_questions():
    several = [{"a": Share(right, 4), "all": Share(right, 4)} for right in (1, 4, 2, 4)]
    assert mean(several) == {"a": Share(2.75, 4), "all": Share(2.75, 4)}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_preferences_count_by_task_what_policy_and_reference_say_of_each_pair(tmp_path, monkeypatch, reduction):
    monkeypatch.setattr(task_preferences, "ROWS", 3)
    folders = [write_network(tmp_path / name, scale=scale) for name, scale in (("policy", 0.75), ("reference", 0.5))]
    record = json.loads((folders[0] / "config.json").read_text())
    record["settings"] = asdict(DPOSettings(reduction=reduction, beta=0.25, max_seq_len=48))
    (folders[0] / "config.json").write_text(json.dumps(record))
    texts = [
        ("one", "red", "blue cat"),
        ("two", "dog", "red"),
        ("six", "a", "b"),
        ("cat", "c d e f", "g"),
        ("x", "y", "y"),
    ]
    pairs = [{"task": "ab"[i % 2], "chosen": turns(q, a), "rejected": turns(q, b)} for i, (q, a, b) in enumerate(texts)]
    found = preferences(*folders, write_records(tmp_path / "pairs.jsonl", pairs), CPU)

    def scores(folder, pair, key):
        chat = encode_chat(TOKENIZER, pair[key])
        ids, learnt = torch.tensor(chat.ids), torch.tensor(chat.supervised)[1:]
        with torch.no_grad():
            logp = token_logp(read_network(folder)[0](ids[None]).logits[0, :-1], ids[1:])[learnt]
        return logp.sum() if reduction == "sum" else logp.mean()

    assert list(found) == ["a", "b"]
    for task in found:
        own = [pair for pair in pairs if pair["task"] == task]
        new, old = (
            torch.stack([scores(f, pair, "chosen") - scores(f, pair, "rejected") for pair in own]) for f in folders
        )
        margins = new - old
        expected = {"total": len(own), "implicit": margins > 0, "before": old > 0, "after": new > 0}
        assert {k: found[task][k] for k in expected} == {k: int(torch.as_tensor(v).sum()) for k, v in expected.items()}
        assert_within(torch.tensor(found[task]["margin"]), 0.25 * margins.mean(), SUMS)
