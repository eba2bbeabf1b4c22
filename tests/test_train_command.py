"""The command line of training: which stage it runs, with which network and settings, and what a continuation keeps."""

import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from chat_runs import SHAPE, write_network
from runs import train

from minimind_ref import PRESETS, ModelConfig
from minimind_ref.errors import UserError
from minimind_ref.train import checkpoint, pipeline
from minimind_ref.train import run as run_module
from minimind_ref.train.__main__ import FREE, resumed, split_flags
from minimind_ref.train.recipes import TINY, Family, layer
from minimind_ref.train.stage_settings import STAGES, STEPS, AllSettings, PretrainSettings

CONFIG = ModelConfig(**SHAPE)


@pytest.fixture
def ran(monkeypatch):
    """What was given to each run that the command line began."""
    seen = []
    monkeypatch.setattr(run_module, "run_stage", lambda *what: seen.append(what))
    return seen


def refused(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


# ---- which stage, which network ----


def test_without_a_stage_it_is_pretraining_and_without_a_network_the_tiny_one(ran):
    assert train() == train("--seed", 3) == train("pretrain", "--seed", 3) == 0
    flags = {"seed": 3}
    assert ran == [("pretrain", *layer("pretrain", given)) for given in ({}, flags, flags)]
    assert ran[0][1] == PRESETS["tiny"]


def test_a_later_stage_takes_the_network_of_its_weights_unless_a_preset_is_named(tmp_path, ran):
    start = write_network(tmp_path / "start")
    assert train("sft", "--init_from", start, "--max_steps", 3) == 0
    assert train("sft", "--init_from", start, "--preset", "minimind2", "--max_steps", 3) == 0
    assert train("--init_from", start, "--max_steps", 3) == 0
    given = {"init_from": str(start / "pretrain_16.pth"), "max_steps": 3}
    assert ran[0] == ("sft", *layer("sft", given, CONFIG)) and ran[0][1] == CONFIG
    assert ran[1] == ("sft", PRESETS["minimind2"], ran[0][2])
    assert ran[2] == ("pretrain", *layer("pretrain", given, CONFIG))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["fine"], "unknown stage 'fine'; stages: pretrain, sft, dpo, grpo, all"),
        (["sft"], "sft starts from trained weights: give --init_from (a run folder or a .pth file)"),
        (["sft", "--init_from", ""], "--init_from is empty: give a path"),
        (["--init_from", ""], "--init_from is empty: give a path"),
    ],
)
def test_what_cannot_begin_is_refused(ran, capsys, flags, message):
    assert train(*flags) == 2 and refused(capsys) == message and ran == []


@pytest.mark.parametrize("stage", [*STAGES, "all"])
def test_help_says_what_a_stage_is_and_what_its_flags_are(capsys, stage):
    kind = STAGES.get(stage, AllSettings)
    with pytest.raises(SystemExit):
        train(stage, "--help")
    text = capsys.readouterr().out
    usage, what, *_ = text.split("\n\n")
    assert usage == "usage: python -m minimind_ref.train [STAGE] [--flag value …]" and what == kind.__doc__
    assert re.search(r"^Stages: pretrain, sft, dpo, grpo, all[;.]", text, re.MULTILINE)
    recipe = ", ".join(f"{name} {value}" for name, value in TINY.get(stage, {}).items())
    assert (f"tiny's recipe sets\n{recipe}.\n" in text) == (stage != "all")
    assert (f"Steps: {', '.join(STEPS)}." in text) == (stage == "all")
    for f in (*fields(kind), *fields(ModelConfig), *fields(Family)):
        assert re.search(rf"^  --{f.name}\b", text, re.MULTILINE), f.name


# ---- continuations ----


@pytest.mark.parametrize("flags", [[], ["--out_dir", "elsewhere"]])
def test_a_continuation_reads_the_folder_that_is_named_and_stays_in_it(ran, monkeypatch, flags):
    """Also where the folder has another name than when the run began."""
    stored, read = PretrainSettings(out_dir="before", seed=5, batch_size=16), []
    content = {"config": CONFIG.to_dict(), "settings": asdict(stored)}
    monkeypatch.setattr(checkpoint, "read_resume", lambda *what: read.append(what) or content)
    assert train("--resume", *flags, "--log_interval", 7) == 0
    out = flags[-1] if flags else "out"
    assert read == [(Path(out) / "pretrain_resume.pt", "pretrain")]
    assert ran == [("pretrain", CONFIG, replace(stored, out_dir=out, resume=True, log_interval=7), content)]


def content_of(stage, **given):
    """What a run's resume file holds of its network and its settings."""
    config, settings = layer(stage, given, None if "preset" in given else CONFIG)
    settings = replace(settings, batch_size=settings.batch_size or 16)  # as a run fills it in
    return {"config": config.to_dict(), "settings": asdict(settings)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_continuation_may_change_what_changes_no_weight_and_nothing_else(stage):
    content = content_of(stage)
    for name, value in content["settings"].items():
        if not isinstance(value, bool | int | float):
            continue
        changed = not value if isinstance(value, bool) else value + 1
        if name in FREE:
            assert getattr(resumed(stage, {name: changed}, content)[1], name) == changed
        else:
            message = f"--resume keeps the run's settings: {name} is {value}, not {changed}"
            with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
                resumed(stage, {name: changed}, content)
        assert resumed(stage, {name: value}, content) == (CONFIG, STAGES[stage](**content["settings"]))


def test_a_continuation_may_move_its_data_and_leave_open_what_the_run_has_filled_in():
    content = content_of("pretrain", max_steps=5)
    assert resumed("pretrain", {"data_path": "moved"}, content)[1].data_path == "moved"
    filled_in = {"batch_size": None, "head_dim": None, "intermediate_size": None}
    assert resumed("pretrain", filled_in, content)[1].batch_size == 16
    for given, message in (
        ({"max_steps": None}, "max_steps is 5, not None"),
        ({"intermediate_size": 7}, f"intermediate_size is {CONFIG.intermediate_size}, not 7"),
        ({"hidden_size": 32}, "hidden_size is 16, not 32"),
    ):
        with pytest.raises(UserError, match=message):
            resumed("pretrain", given, content)


@pytest.mark.parametrize(
    ("flags", "other", "message"),
    [
        ({"preset": "tiny"}, {"preset": "minimind2"}, "accumulation_steps is 2, not 8"),
        ({"compat": "minimind2"}, {"compat": "minimind3"}, "schedule is minimind2, not cosine"),
        ({}, {"compat": "minimind2"}, "aux_loss_counts_padding is False, not True"),
        ({}, {"preset": "tiny"}, "accumulation_steps is 8, not 2"),
    ],
)
def test_a_continuation_may_repeat_the_preset_and_the_choices_of_its_run_but_take_no_others(flags, other, message):
    content = content_of("pretrain", **flags)
    assert asdict(resumed("pretrain", flags, content)[1]) == content["settings"]
    with pytest.raises(UserError, match=rf"^--resume keeps the run's settings: {message}$"):
        resumed("pretrain", other, content)


# ---- all stages in a row ----


def test_flags_of_one_step_are_taken_apart_from_those_of_all():
    words = ["--seed", "3", "--sft.max_steps", "5", "--grpo.scale_rewards", "--out_dir", "x"]
    words += ["--sft.beta1=0.8", "--a.b", "1"]
    general, of_step = split_flags(words, tuple(STEPS))
    assert general == ["--seed", "3", "--out_dir", "x", "--a.b", "1"]
    assert of_step == {"sft": ["--max_steps", "5", "--beta1=0.8"], "grpo": ["--scale_rewards"]}


def test_flags_of_all_and_of_one_step_reach_the_pipeline(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(pipeline, "run_all", lambda *what: seen.append(what) or tmp_path / "report.md")
    flags = ["--seed", 3, "--hidden_size", 16, "--out_dir", tmp_path, "--sft.max_steps", 5, "--grpo.beta", 0.5]
    assert train("all", *flags) == 0
    of_step = {"sft": {"max_steps": 5}, "grpo": {"beta": 0.5}}
    assert seen == [(AllSettings(seed=3, out_dir=str(tmp_path)), {"hidden_size": 16}, of_step)]
    assert capsys.readouterr().out == f"\nreport    {tmp_path / 'report.md'}\n"
