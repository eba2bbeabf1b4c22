"""What a run shows and keeps: its bar and its lines, metrics.jsonl of a folder that several stages share, curves."""

import io
import json
import sys
from types import SimpleNamespace

import pytest

from minimind_ref.errors import UserError
from minimind_ref.train import metrics as metrics_module
from minimind_ref.train.metrics import Metrics, draw_curves, import_wandb, keep_until, read_metrics

RECORDS = [
    {"stage": stage, "step": step, "loss": loss}
    for stage, step, loss in (("sft", 1, 3.0), ("dpo", 0, 0.7), ("sft", 2, 2.0), ("dpo", 5, 0.5), ("sft", 3, 1.0))
]


@pytest.fixture
def folder(tmp_path):
    lines = [json.dumps(record) + "\n" for record in RECORDS]
    cut_by_a_kill, no_measurements = '{"stage": "sft", "st', '5\n{"stage": "sft"}\n{"step": 1}\n'
    (tmp_path / "metrics.jsonl").write_text(no_measurements + "".join(lines) + cut_by_a_kill, encoding="utf-8")
    return tmp_path


def test_a_continuation_drops_what_its_own_stage_measured_after_the_checkpoint(folder):
    keep_until(folder / "metrics.jsonl", "sft", 2)
    assert read_metrics(folder, "sft") == [RECORDS[0], RECORDS[2]]
    assert read_metrics(folder, "dpo") == [RECORDS[1], RECORDS[3]]
    keep_until(folder / "metrics.jsonl", "dpo", 0)  # a new run of a stage
    assert read_metrics(folder, "dpo") == [] and len(read_metrics(folder, "sft")) == 2


def made(folder, main=True, **options):
    return Metrics(folder, "sft", "tokens", main=main, **{"total_steps": 5, "done_steps": 2, **options})


def test_a_run_goes_on_in_its_file_and_its_bar(folder, capsys, monkeypatch):
    clock = iter((10.0, 12.0, 14.0))
    monkeypatch.setattr(metrics_module, "time", SimpleNamespace(monotonic=clock.__next__))
    metrics = made(folder)
    metrics.step(targets=900, loss=9.0, lr=0.5, advance=True)
    metrics.step(targets=300, loss=0.25, lr=0.01, advance=False)  # skipped for overflow
    metrics.record(3, {"loss": 0.25})
    metrics.say("above the bar")
    metrics.end_bar()
    printed = capsys.readouterr()
    last = printed.err.split("\r")[-1]
    assert " 3/5 " in last and "step" in last and last.endswith(", 300 tok/s, loss 0.250, lr 1.00e-02]\n")
    assert printed.out == "above the bar\n"
    assert read_metrics(folder, "sft") == [RECORDS[0], RECORDS[2], {"stage": "sft", "step": 3, "loss": 0.25}]


def test_what_is_said_is_not_held_back(folder, monkeypatch, capsys):
    metrics = made(folder)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    metrics.say("猫")
    assert sys.stdout.buffer.getvalue() == "猫\n".encode()
    metrics.close()
    assert capsys.readouterr().err.endswith("]\n")


def test_a_clock_that_stands_still_is_no_division_by_zero(folder, monkeypatch):
    monkeypatch.setattr(metrics_module, "time", SimpleNamespace(monotonic=lambda: 10.0))
    metrics = made(folder)
    assert metrics.targets_per_second == 0
    metrics.close()


def test_every_rank_but_the_first_is_silent(folder, capsys):
    before = (folder / "metrics.jsonl").read_bytes()
    metrics = made(folder, main=False)
    metrics.start_wandb(folder, {})
    metrics.step(targets=300, loss=0.25, lr=0.01, advance=True)
    metrics.record(3, {"loss": 0.25})
    metrics.say("above the bar")
    metrics.close()
    assert capsys.readouterr() == ("", "") and (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("asked", "key", "mode"), [(None, None, "offline"), (None, "k", "online"), ("disabled", "k", "disabled")]
)
def test_the_tracker_gets_settings_and_measurements_and_its_end(folder, monkeypatch, asked, key, mode):
    calls = []
    run = SimpleNamespace(log=lambda *a, **o: calls.append((a, o)), finish=lambda: calls.append("finish"))
    api = SimpleNamespace(api_key=key)
    wandb = SimpleNamespace(api=api, init=lambda **options: calls.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if asked:
        monkeypatch.setenv("WANDB_MODE", asked)
    metrics = made(folder)
    metrics.start_wandb(folder, {"seed": 7})
    metrics.record(3, {"loss": 0.25})
    metrics.close()
    begun = {"project": "minimind_ref", "dir": str(folder), "config": {"seed": 7}, "mode": mode}
    assert calls == [begun, (({"loss": 0.25},), {"step": 3}), "finish"]


@pytest.mark.parametrize("module", [None, SimpleNamespace()])  # as a folder of that name imports
def test_a_tracker_that_is_not_installed_is_named(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(UserError, match=r"--use_wandb needs the extra 'track': pip install"):
        import_wandb()


def test_curves_are_drawn_a_panel_for_each_group_of_keys(folder, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    metrics = made(folder, done_steps=9)
    metrics.record(2, {"held_out_loss": 2.5})
    metrics.close()
    drawn, close = [], pyplot.close
    monkeypatch.setattr(pyplot, "close", lambda figure: drawn.append(figure) or close(figure))
    assert draw_curves(folder, "sft", (("loss", "held_out_loss"), ("reward",))) == folder / "curves.png"
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG") and not pyplot.get_fignums()
    draw_curves(folder, "sft", (("loss",),))
    two, one = (figure.get_size_inches() for figure in drawn)
    assert two.tolist() == [2 * one[0], one[1]]
    first, second = drawn[0].axes
    lines = [(line.get_label(), line.get_xydata().tolist(), line.get_marker()) for line in first.lines]
    assert lines == [("loss", [[1, 3], [2, 2], [3, 1]], "None"), ("held out loss", [[2, 2.5]], "o")]
    assert first.get_legend() and first.get_xlabel() == "optimiser step"
    assert not second.lines and not second.get_legend()


def test_without_matplotlib_nothing_is_drawn(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert draw_curves(folder, "sft", (("loss",),)) is None and not (folder / "curves.png").exists()
