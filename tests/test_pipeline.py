"""`train all`: what it counts, what it says about it, and one short run of all its steps."""

import json
import math

import numpy as np
import pytest
import torch
from chat_runs import words, write_network
from runs import train, write_corpus
from tolerance import Ulps, assert_within

from minimind_ref.data.chat_template import TEMPLATES, encode_chat
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.train.device import place
from minimind_ref.train.report import implicit_accuracy, write_report
from minimind_ref.train.run_folder import read_network
from minimind_ref.train.stage_settings import STEPS
from minimind_ref.train.task_scores import Share, TaskQuestion, Z, exact_match, paired_change, right_probabilities

QUICK = [word for step in STEPS for word in (f"--{step}.max_steps", "2")]


@pytest.mark.parametrize(("right", "total"), [(0, 7), (3, 7), (7, 7), (411, 1000), (1, 1)])
def test_wilsons_bounds_are_the_shares_that_a_normal_test_just_accepts(right, total):
    share = Share(right, total)
    for bound in share.interval:
        if bound not in (0.0, 1.0):
            accepted = np.array([Z * math.sqrt(bound * (1 - bound) / total)])
            cancelled = Ulps(2**6, "float64", "the difference of two shares loses the digits that they have in common")
            assert_within(np.array([abs(share.value - bound)]), accepted, cancelled)
    low, high = share.interval
    assert 0 <= low <= share.value <= high <= 1 and (low > 0) == (right > 0) and (high < 1) == (right < total)
    assert Share(0, 0).interval == (0.0, 1.0) and str(Share(1, 2)).startswith("50.0 [")


def test_exact_match_counts_by_task_and_forgives_outer_whitespace_only():
    questions = [TaskQuestion(task, "?", right) for task, right in (("a", "x y"), ("b", "z"), ("a", "w"), ("a", "v"))]
    found = exact_match(questions, [" x y\n", "Z", "w", "v !"])
    assert found == {"a": Share(2, 3), "b": Share(0, 1), "all": Share(2, 4)}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_right_answers_probability_is_the_product_of_its_tokens_probabilities(tmp_path, template):
    """Each question alone, token by token behind the prompt that a sampled answer is given."""
    model, _ = read_network(write_network(tmp_path, torch.float64, scale=0.1))
    model, tokenizer = model.double(), Tokenizer.load()
    questions = [TaskQuestion("a", words(i, 2 + 3 * i), words(9 + i, 3 - i)) for i in range(3)]
    found = right_probabilities(model, tokenizer, questions, place("cpu", "float32"), template=template)
    for question, probability in zip(questions, found, strict=True):
        asked = [{"role": "user", "content": question.prompt}]
        ids = encode_chat(tokenizer, asked, add_generation_prompt=True, template=template).ids
        product = 1.0
        for token in [*tokenizer.encode(question.answer), tokenizer.end_id]:
            logits = model(torch.tensor([ids])).logits[0, -1].detach()
            product *= float(torch.softmax(logits, -1)[token])
            ids.append(token)
        rounding = Ulps(2**12, "float64", "other shapes of the same products, and a logarithm and its inverse")
        assert_within(np.array([probability]), np.array([product]), rounding.of(np.array([product])))


def test_a_change_is_paired_over_the_questions():
    mean, low, high = paired_change([0.1, 0.5, 0.9, 0.3], [0.2, 0.5, 0.8, 0.7])  # changes 0.1, 0, -0.1, 0.4
    assert round(mean, 12) == 0.1 and round((high - low) / 2, 12) == round(Z * math.sqrt(0.14 / 3 / 4), 12)


def results(learnt=("reverse",)):
    """Made-up results of every step: exact match 1, 50, 52, 20, 0 and 45 of 100."""
    found = {}
    for step, right in zip(STEPS, (1, 50, 52, 20, 0, 45), strict=True):
        greedy = {"reverse": [right, 100], "sum": [2, 100], "all": [right, 100]}
        sampled = {"reverse": [3, 100], "sum": [4, 100], "all": [5, 100]}
        found[step] = {"greedy": greedy, "sampled": sampled, "unmarked": {"all": [44, 100]}}
        found[step]["likely"] = [right / 128, 0.25, right / 64]
        found[step]["transcripts"] = [["say ab", "ba", f"{step}\nab"]]
    found["sft"]["learnt"] = list(learnt)
    pair = {"total": 50, "implicit": 45, "before": 30, "after": 40, "margin": 0.25}
    found["dpo"]["pairs"] = {"reverse": pair, "sum": {**pair, "implicit": 5}}
    return found


@pytest.fixture
def sections(tmp_path):
    """The report of a run whose two reinforcement steps measured 19 and 5 steps, by its headings."""
    for step, count in (("grpo", 19), ("unlearn", 5)):
        (tmp_path / step).mkdir()
        records = [{"stage": "grpo", "step": n, "reward": n / 8} for n in range(1, count + 1)]
        records += [{"stage": "grpo", "step": count, "kl": 0.5}, {"stage": "sft", "step": count, "kl": 9.0}]
        (tmp_path / step / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (tmp_path / "grpo" / "curves.png").touch()

    def made(**options):
        text = write_report(tmp_path, results(**options)).read_text(encoding="utf-8")
        return {heading: rest for heading, _, rest in (part.partition("\n") for part in text.split("\n## "))}

    return made


def tables(section):
    """The rows of each table of a section, its head first."""
    found = [[]]
    for line in section.splitlines():
        if line.startswith("| "):
            found[-1].append(line.strip("| ").split(" | "))
        elif found[-1]:
            found.append([])
    return [[head, *rows] for head, line, *rows in filter(None, found) if set(line) == {"---"}]


def test_the_report_says_rose_or_fell_only_where_the_intervals_are_apart(sections):
    text = sections()["Which gain is which"]
    assert "Fine-tuning taught reverse, not sum. Greedy exact match rose, from 1.0 % to 50.0 %" in text
    assert "match stayed within its intervals, from 50.0 % to 52.0 %" in text
    assert "plain tasks, greedy exact match fell, from 50.0 % to 20.0 %" in text
    assert "habit, greedy exact match rose, from 0.0 % to 45.0 %" in text and "had 44.0 % right before" in text
    assert "changed by -23.44 points [-49.96, 3.08], paired" in text
    assert implicit_accuracy(results()) == Share(45, 50)  # the learnt task's pairs alone
    for learnt, said in (((), "nothing, not reverse, sum."), (("reverse", "sum"), "reverse, sum. ")):
        assert f"Fine-tuning taught {said}" in sections(learnt=learnt)["Which gain is which"]


def test_the_report_holds_every_share_of_every_step(sections):
    found = sections()
    greedy, sampled, likely = tables(found["Exact match"])
    assert greedy[0] == sampled[0] == ["task", *STEPS]
    assert [[row[0], row[2].split()[0]] for row in greedy[1:]] == [["reverse", "50.0"], ["sum", "2.0"], ["all", "50.0"]]
    assert [[row[0], row[2].split()[0]] for row in sampled[1:]] == [["reverse", "3.0"], ["sum", "4.0"], ["all", "5.0"]]
    assert likely[1:] == [["all", "9.11", "47.40", "48.96", "23.96", "8.33", "43.49"]]
    assert f"The steps: pretrain: {STEPS['pretrain'].purpose}; sft (sft from pretrain): " in found["Exact match"]
    ((_, reverse, other),) = tables(found["Preference"])
    assert [cell.split()[0] for cell in reverse] == ["reverse", "yes", "60.0", "80.0", "90.0", "0.25"]
    assert [cell.split()[0] for cell in other] == ["sum", "no", "60.0", "80.0", "10.0", "0.25"]
    for step in STEPS:
        assert f"### {step}\n\n- say ab  \n  right: `ba`; answer: `{step} ⏎ ab`\n" in found["Transcripts"]


def test_the_report_shows_some_steps_of_a_run_over_time_the_last_among_them(sections):
    plain, habit = (sections()[f"Reinforcement {which}"] for which in ("on the plain tasks", "against a habit"))
    ((head, *rows),) = tables(plain)
    assert head == ["step", "reward", "held out reward", "kl", "ratio min", "ratio max", "clipped", "answer length"]
    assert [row[0] for row in rows] == ["1", "4", "7", "10", "13", "16", "19"]
    assert rows[-1][:4] == ["19", "2.3750", "", "0.5000"]
    assert [row[0] for row in tables(habit)[0][1:]] == ["1", "2", "3", "4", "5"]
    assert "![curves](grpo/curves.png)" in plain and "curves.png" not in habit


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "-1"], "--seed -1 must be at least 0"),
        (["--questions", "0"], "--questions 0 must be at least 1"),
        (["--out_dir", ""], "--out_dir is empty"),
        (["--sft.max_step", "3"], "did you mean --max_steps"),
        (["--max_steps", "3"], "unknown flag --max_steps"),
    ],
)
def test_bad_flags_of_the_pipeline_are_one_line(tmp_path, capsys, flags, message):
    assert train("all", "--out_dir", tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_all_steps_run_and_go_on_where_they_were_stopped(tmp_path, capsys):
    out = tmp_path / "out"
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    flags = ["--out_dir", out, *QUICK, "--questions", "9", "--pretrain.data_path", corpus, "--device", "cpu"]
    flags += ["--pretrain.held_out", "0.1"]
    assert train("all", *flags) == 0
    report = (out / "report.md").read_text(encoding="utf-8")
    for step in STEPS:
        assert f"### {step}" in report
    for step in ("grpo", "unlearn"):
        metrics = [json.loads(line) for line in (out / step / "metrics.jsonl").read_text().splitlines()]
        assert any("ratio_max" in record for record in metrics)
    kept = json.loads((out / "results.json").read_text(encoding="utf-8"))
    del kept["grpo"], kept["habit"], kept["unlearn"]
    (out / "results.json").write_text(json.dumps(kept), encoding="utf-8")
    capsys.readouterr()
    assert train("all", *flags, "--resume") == 0
    printed = capsys.readouterr().out
    assert printed.count("finished  already: ") == 6  # three by their results, three by their run folders
    assert (out / "report.md").read_text(encoding="utf-8") == report
