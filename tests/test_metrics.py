"""metrics.jsonl of a folder that several stages share, and the curves drawn from it."""

import json
import sys

import pytest

from minimind_ref.train.metrics import draw_curves, keep_until, read_metrics

RECORDS = [
    {"stage": stage, "step": step, "loss": loss}
    for stage, step, loss in (("sft", 1, 3.0), ("dpo", 0, 0.7), ("sft", 2, 2.0), ("dpo", 5, 0.5), ("sft", 3, 1.0))
]


@pytest.fixture
def folder(tmp_path):
    lines = [json.dumps(record) + "\n" for record in RECORDS]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"stage": "sft", "st', encoding="utf-8")  # cut by a kill
    return tmp_path


def test_a_continuation_drops_what_its_own_stage_measured_after_the_checkpoint(folder):
    keep_until(folder / "metrics.jsonl", "sft", 2)
    assert read_metrics(folder, "sft") == [RECORDS[0], RECORDS[2]]
    assert read_metrics(folder, "dpo") == [RECORDS[1], RECORDS[3]]
    keep_until(folder / "metrics.jsonl", "dpo", 0)  # a new run of a stage
    assert read_metrics(folder, "dpo") == [] and len(read_metrics(folder, "sft")) == 2


def test_curves_are_drawn_a_panel_for_each_group_of_keys(folder):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("matplotlib.image")
    keep_until(folder / "metrics.jsonl", "sft", 9)
    widths = []
    for panels in ((("loss",),), (("loss", "held_out_loss"), ("reward",))):
        path = draw_curves(folder, "sft", panels)
        assert path == folder / "curves.png"
        widths.append(image.imread(path).shape[1])
    assert widths[1] == 2 * widths[0]


def test_without_matplotlib_nothing_is_drawn(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert draw_curves(folder, "sft", (("loss",),)) is None and not (folder / "curves.png").exists()
