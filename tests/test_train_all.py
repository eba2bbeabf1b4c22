"""`train all` with steps that do not train: what each is given, what is kept of it, and how a network is judged."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from chat_runs import turns, write_network, write_records

from minimind_ref import PRESETS
from minimind_ref.train import pipeline
from minimind_ref.train.device import Placement
from minimind_ref.train.pipeline import judge, run_all
from minimind_ref.train.recipes import TINY
from minimind_ref.train.stage_settings import STEPS, AllSettings
from minimind_ref.train.task_scores import Share

FOUND = {"learnt": ["猫"]}


class Steps:
    """Stands for what a pipeline calls: data, stages, judge and report, each of which notes what it was given."""

    def __init__(self, folder, start):
        self.folder, self.start = folder, start
        self.written, self.runs, self.judged, self.reported, self.said = [], {}, [], [], []
        self.stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # which holds back what is not flushed

    def printed(self):
        return self.stdout.buffer.getvalue().decode().splitlines()

    def run(self, *what):
        with contextlib.redirect_stdout(self.stdout):
            return run_all(*what)

    def write(self, path, **options):
        assert self.folder.is_dir()
        self.written.append((path, options))

    def run_stage(self, stage, config, settings, content):
        self.said.append(self.printed()[-1])
        out = Path(settings.out_dir)
        self.runs[out.name] = (stage, config, settings, content)
        shutil.copytree(self.start, out, dirs_exist_ok=True)

    def judge(self, *what):
        self.judged.append(what)
        return FOUND

    def write_report(self, *what):
        self.reported.append(what)
        return self.folder / "report.md"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The folder of a tiny network."""
    return write_network(tmp_path_factory.mktemp("start"), **PRESETS["tiny"].to_dict())


@pytest.fixture
def steps(tmp_path, start, monkeypatch):
    made = Steps(tmp_path / "new" / "out", start)
    for name in ("write", "run_stage", "judge", "write_report"):
        monkeypatch.setattr(pipeline, name, getattr(made, name))
    monkeypatch.setattr(pipeline, "read_resume", lambda path, stage: {"path": path, "stage": stage})
    return made


def asked(steps, **options):
    return AllSettings(
        out_dir=str(steps.folder), seed=7, device="cpu", dtype="float32", template="minimind3", **options
    )


def test_every_step_starts_from_an_earlier_one_with_its_own_data_recipe_and_flags(steps):
    """A flag for all steps goes before a recipe, and one of a step before that."""
    given, of_step = {"num_workers": 3}, {"grpo": {"num_workers": 2, "max_steps": 5}, "sft": {"data_path": "mine"}}
    settings = asked(steps)
    assert steps.run(settings, given, of_step) == steps.folder / "report.md"
    assert steps.written == [
        (steps.folder / "data", {"seed": 7}),
        (steps.folder / "habit", {"seed": 7, "habit": pipeline.HABIT}),
    ]
    assert list(steps.runs) == list(STEPS)
    for name, (stage, config, resolved, content) in steps.runs.items():
        step = STEPS[name]
        assert (stage, config, content) == (step.stage, PRESETS["tiny"], None)
        assert resolved.out_dir == str(steps.folder / name)
        assert resolved.init_from == (step.start and str(steps.folder / step.start / "pretrain_16.pth"))
        assert (resolved.seed, resolved.device, resolved.dtype) == (7, "cpu", "float32")
        assert stage == "pretrain" or resolved.template == "minimind3"
        assert resolved.num_workers == (2 if name == "grpo" else 3)
        assert resolved.max_steps == (5 if name == "grpo" else TINY[name]["max_steps"])
        own = "mine" if name == "sft" else step.data and str(steps.folder / step.data)
        assert resolved.data_path == own
    assert steps.judged == [(name, steps.folder, settings) for name in STEPS]
    assert steps.said == [f"== {name}: {step.purpose}" for name, step in STEPS.items()]
    assert steps.reported == [(steps.folder, dict.fromkeys(STEPS, FOUND))]
    text = (steps.folder / "results.json").read_text(encoding="utf-8")
    assert json.loads(text) == dict.fromkeys(STEPS, FOUND) and '"猫"' in text


@pytest.mark.parametrize("resume", [True, False])
def test_a_continuation_keeps_what_was_judged_and_goes_on_where_a_step_was_stopped(steps, resume):
    for name in ("pretrain", "sft"):
        shutil.copytree(steps.start, steps.folder / name)
    (steps.folder / "sft" / "sft_resume.pt").touch()
    (steps.folder / "results.json").write_text('{"pretrain": 1}', encoding="utf-8")
    steps.run(asked(steps, resume=resume), {}, {})
    ran = list(steps.runs)
    assert ran == (list(STEPS)[1:] if resume else list(STEPS)) and [name for name, *_ in steps.judged] == ran
    contents = {name: content for name, (*_, content) in steps.runs.items() if content}
    path = steps.folder / "sft" / "sft_resume.pt"
    assert contents == ({"sft": {"path": path, "stage": "sft"}} if resume else {})
    assert (f"finished  already: {steps.folder / 'pretrain'}" in steps.printed()) == resume
    kept = json.loads((steps.folder / "results.json").read_text(encoding="utf-8"))
    assert kept == dict.fromkeys(STEPS, FOUND) | ({"pretrain": 1} if resume else {})


# ---- judging ----


@pytest.fixture
def judged(tmp_path, start, monkeypatch):
    """Judge a step whose network answers as this fixture says; what it was asked is kept."""
    asked = []
    placement = Placement(torch.device("meta"), torch.float32, "nowhere")

    def answers(model, tokenizer, questions, where, *, temperature, seed, template):
        torch.Generator().manual_seed(seed)
        assert (next(model.parameters()).device.type, where, template) == ("meta", placement, "minimind3")
        assert tokenizer.encode("x") and temperature in (0.0, 1.0)
        asked.append((questions[0].task, temperature, temperature and seed))
        if questions[0].task == "validation":
            return ["right"] * 501 + ["wrong"] * 502
        greedy = [" right\n", f"right {pipeline.MARK}", "wrong", "right", "wrong"]
        sampled = ["right"] * (seed - 6) + ["wrong"] * 4
        return (sampled if temperature else greedy)[: len(questions)]

    def right_probabilities(model, tokenizer, questions, where, *, template):
        assert (next(model.parameters()).device.type, where, template) == ("meta", placement, "minimind3")
        return [1 / len(tokenizer.encode(question.prompt)) for question in questions]

    fakes = dict(
        place=lambda *what: asked.append(what) or placement,
        answers=answers,
        right_probabilities=right_probabilities,
        preferences=lambda *what: asked.append(what) or {"pairs": 1},
    )
    for name, fake in fakes.items():
        monkeypatch.setattr(pipeline, name, fake)

    def question(task, number):
        return {"task": task, "conversations": turns("one " * (1 + number), "right")}

    (tmp_path / "data").mkdir()
    held_out = [question(task, i) for i, task in enumerate(("sum", "sum", "reverse", "reverse", "reverse"))]
    write_records(tmp_path / "data" / "sft_held_out.jsonl", held_out)
    tasks = ["validation", *["half"] * 1001, "validation"]
    write_records(tmp_path / "data" / "sft_validation.jsonl", [question(task, 0) for task in tasks])

    def work(name, questions):
        shutil.copytree(start, tmp_path / name)
        options = dict(device="cpu", dtype="float32", template="minimind3", questions=questions)
        return judge(name, tmp_path, AllSettings(out_dir=str(tmp_path), seed=7, **options)), asked

    return work


def test_a_network_is_judged_by_greedy_and_by_sampled_answers_to_as_many_questions_as_asked(judged, capsys):
    """Sampled are four answers, each with a seed of its own, at temperature 1."""
    found, asked = judged("grpo", 4)
    assert asked == [("cpu", "float32"), ("sum", 0.0, 0), *(("sum", 1.0, seed) for seed in (7, 8, 9, 10))]
    assert found == {
        "greedy": {"sum": [1, 2], "reverse": [1, 2], "all": [2, 4]},
        "sampled": {"sum": [1.75, 2], "reverse": [0.75, 2], "all": [2.5, 4]},
        "unmarked": {"sum": [2, 2], "reverse": [1, 2], "all": [3, 4]},
        "likely": found["likely"],
        "transcripts": [
            ["one ", "right", " right\n"],
            ["one one ", "right", f"right {pipeline.MARK}"],
            ["one one one ", "right", "wrong"],
        ],
    }
    assert len(found["likely"]) == 4 and found["likely"] == sorted(found["likely"], reverse=True)
    assert capsys.readouterr().out.splitlines() == [
        f"held out  exact match, greedy: {Share(2, 4)} %",
        f"held out  exact match, sampled: {Share(2.5, 4)} %",
    ]


def test_a_task_is_learnt_where_at_least_half_of_the_validation_is_right_after_fine_tuning(judged):
    """Of the first task's two questions one is, of the other's 1001 only 500."""
    found, asked = judged("sft", 1003)
    assert found["learnt"] == ["validation"]
    assert asked[-1] == ("validation", 0.0, 0) and "pairs" not in found


def test_the_pairs_of_preference_are_compared_with_the_network_before(judged, tmp_path):
    found, asked = judged("dpo", 4)
    assert found["pairs"] == {"pairs": 1} and "learnt" not in found
    placement = asked[-1][-1]
    held_out = tmp_path / "data" / "dpo_held_out.jsonl"
    assert asked[-1] == (tmp_path / "dpo", tmp_path / "sft", held_out, placement) and placement.reason == "nowhere"
