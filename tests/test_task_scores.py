"""How networks are judged on the built-in tasks: answers to questions, and preference between two answers."""

import json
import math
import statistics
from dataclasses import asdict

import numpy as np
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
from minimind_ref.train.task_scores import (
    Share,
    TaskQuestion,
    answers,
    exact_match,
    mean,
    paired_change,
    read_questions,
    right_probabilities,
)

TOKENIZER = Tokenizer.load()
QUESTIONS = [TaskQuestion("t", text, "?") for text in ("one", "two seven", "red", "a cat", "dog")]
CPU = place("cpu", "float32")
FEW_ROUNDINGS = Ulps(2**6, "float64", "a dozen roundings, and a difference of numbers up to ten times as large")
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


@pytest.mark.parametrize("template", ["minimind2", "minimind3"])
def test_a_right_answer_is_as_probable_as_if_its_question_were_alone(tmp_path, monkeypatch, template):
    monkeypatch.setattr(task_scores, "ROWS", 2)
    model, _ = read_network(write_network(tmp_path / "start"))
    questions = [
        TaskQuestion("t", q.prompt, text) for q, text in zip(QUESTIONS, ("a", "of", "x", "b c", ""), strict=True)
    ]
    found = right_probabilities(model, TOKENIZER, questions, CPU, template=template)
    assert len(set(found)) == len(questions)
    for question, probability in zip(questions, found, strict=True):
        chat = encode_chat(TOKENIZER, turns(question.prompt, question.answer), template=template)
        with torch.no_grad():
            logp = model(torch.tensor([chat.ids])).logits[0].log_softmax(-1)
        places = [i for i, learnt in enumerate(chat.supervised) if learnt]
        expected = math.exp(sum(logp[i - 1, chat.ids[i]].item() for i in places))
        assert_within(torch.tensor([probability]), torch.tensor([expected]), SUMS)


@pytest.mark.parametrize(("right", "total"), [(8, 10), (1, 40), (2.75, 4), (0, 7), (13, 13), (1, 1)])
def test_an_interval_ends_where_a_share_would_be_two_of_its_standard_errors_away(right, total):
    """Wilson's: |p − p̂| = z·√(p(1 − p)/n) at both ends, but at those of the range."""
    share = Share(right, total)
    for p, edge in zip(share.interval, (0.0, 1.0), strict=True):
        error = task_scores.Z * math.sqrt(p * (1 - p) / total)
        if not p == edge == share.value:
            assert_within(np.array(abs(p - share.value)), np.array(error), FEW_ROUNDINGS)
    assert share.interval[0] <= share.value == right / total <= share.interval[1]
    assert Share(0, 0).interval == (0.0, 1.0) and Share(0, 0).value == 0


def test_a_share_is_written_in_per_cent_with_its_interval():
    assert str(Share(3, 4)) == "75.0 [30.1, 95.4]"


def test_questions_are_the_first_of_a_file_with_their_answers(tmp_path):
    records = [{"task": task, "conversations": turns(*texts)} for task, *texts in ("abc", "def", "ghi")]
    path = write_records(tmp_path / "x.jsonl", records)
    assert read_questions(path, 2) == [TaskQuestion(*"abc"), TaskQuestion(*"def")]
    assert read_questions(path)[2:] == [TaskQuestion(*"ghi")]


def test_a_change_is_that_of_each_question():
    change, low, high = paired_change([0.0, 0.5, 0.25, 0.25], [0.5, 0.5, 0.5, 0.75])
    assert change == 0.3125
    half = statistics.NormalDist().inv_cdf(0.975) * statistics.stdev([0.5, 0.0, 0.25, 0.5]) / 2
    assert_within(np.array([change - low, high - change]), np.full(2, half), FEW_ROUNDINGS)


def test_exact_matches_are_counted_by_task():
    questions = [TaskQuestion(task, "?", answer_) for task, answer_ in (("a", "1"), ("b", "2"), ("a", "3"))]
    assert exact_match(questions, ["1", "2", "4"]) == {"a": Share(1, 2), "b": Share(1, 1), "all": Share(2, 3)}


def test_the_mean_of_several_answers_is_a_share_of_as_many_questions():
    several = [{"a": Share(right, 4), "all": Share(right, 4)} for right in (1, 4, 2, 4)]
    assert mean(several) == {"a": Share(2.75, 4), "all": Share(2.75, 4)}
    assert mean(several[:1]) == several[0]


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
