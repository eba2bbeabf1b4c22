"""What a run says, measures and saves, and when; what a signal does to it; and which of several processes does what."""

import io
import json
import re
import signal
import sys
from dataclasses import asdict

import pytest
import torch
from tolerance import assert_same
from toy_stage import CONFIG, Batch, toy_session

from minimind_ref.errors import RunError
from minimind_ref.train import session as session_module
from minimind_ref.train.checkpoint import read_resume
from minimind_ref.train.distributed import Ranks
from minimind_ref.train.loop import Progress

MOE = CONFIG.replace(use_moe=True, num_experts=3, moe_intermediate_size=5)


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """What would be drawn, which takes longer than all the rest."""
    calls = []
    monkeypatch.setattr(session_module, "draw_curves", lambda *what: calls.append(what))
    return calls


@pytest.fixture
def saved(monkeypatch):
    """The steps after which a run is saved."""
    steps, real = [], session_module.save_resume

    def save(run, path, **rest):
        steps.append(run.progress.steps)
        real(run, path, **rest)

    monkeypatch.setattr(session_module, "save_resume", save)
    return steps


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_says_where_it_stands(tmp_path, capsys, drawn):
    (tmp_path / ".hidden").touch()
    ready = toy_session(tmp_path, eval_interval=3)
    ready.train()
    printed = capsys.readouterr()
    model, device, *lines = printed.out.splitlines()
    count = sum(p.numel() for p in ready.run.model.parameters())
    assert model == f"model     1 layers, 12 wide: {count:,} parameters, {count:,} active per token"
    assert device == f"device    {ready.run.placement.reason}"
    assert re.fullmatch(r"finished  6 steps in \d\d? s, [\d,]+ pears a second", lines.pop(2))
    assert lines == [
        "data      none",
        "held out  loss 0.5, after 3 steps",
        "held out  loss 0.5, after 6 steps",
        "          and a second line",
        "sample    one",
        "          two",
        f"written   {tmp_path}/: config.json, metrics.jsonl, pretrain_resume.pt, tokenizer.json, toy_12.pth",
    ]
    assert " 6/6 " in printed.err and "pea/s" in printed.err
    assert drawn == [(tmp_path, "pretrain", (("loss",),))]


def test_what_is_said_at_the_end_comes_below_the_bar(tmp_path, monkeypatch):
    both = io.StringIO()
    monkeypatch.setattr(sys, "stdout", both)
    monkeypatch.setattr(sys, "stderr", both)
    toy_session(tmp_path).train()
    assert "]\nfinished  6 steps" in both.getvalue()


def test_a_run_measures_and_saves_at_its_intervals_and_once_at_the_end(tmp_path, saved):
    """The first step is always measured, so that a mistake shows at once."""
    ready = toy_session(tmp_path, log_interval=2, eval_interval=3, save_interval=2)
    first = ready.stage.loss(ready.run.model, Batch(1)).total.item()
    ready.train()
    found = records(tmp_path)
    assert {record["stage"] for record in found} == {"pretrain"}
    assert [r["step"] for r in found if "loss" in r] == [1, 2, 4, 6]
    assert [r["step"] for r in found if "held_out_loss" in r] == [3, 6]
    assert set(found[0]) == {"stage", "step", "loss", "lr", "grad_norm", "measured", "targets_per_second"}
    assert (found[0]["loss"], found[0]["lr"], found[0]["measured"]) == (first, 2.0**-6, 7)
    assert saved == [2, 4, 6]


def test_what_a_run_leaves_is_what_it_was_and_what_it_learnt(tmp_path):
    ready = toy_session(tmp_path)
    ready.train()
    stored = torch.load(tmp_path / "toy_12.pth", weights_only=True)
    content = read_resume(tmp_path / "pretrain_resume.pt", "pretrain")
    for name, tensor in ready.run.model.state_dict().items():
        assert_same(stored[name], tensor)
        assert_same(content["model"][name], tensor)
    record = json.loads((tmp_path / "config.json").read_text())
    assert (record["stage"], record["weights"]) == ("pretrain", "toy_12.pth")
    assert record["model"] == content["config"] == CONFIG.to_dict()
    assert record["settings"] == content["settings"] == asdict(ready.run.settings)
    assert set(record["versions"]) == {"minimind_ref", "python", "torch"}
    assert content["data"] == "toy data" and content["stage_state"] == [{"drawn": 3}]
    assert (tmp_path / "tokenizer.json").read_text(encoding="utf-8") == ready.stage.tokenizer.source


def test_a_mixture_measures_its_load_balance_and_says_how_many_experts_it_has(tmp_path, capsys):
    toy_session(tmp_path, MOE).train()
    assert "1 layers, 12 wide, 3 experts: " in capsys.readouterr().out
    assert records(tmp_path)[0]["aux_loss"] == 0.25


def test_nothing_held_out_is_not_evaluated(tmp_path, capsys):
    ready = toy_session(tmp_path, eval_interval=0)
    ready.stage.found = None
    ready.train()
    assert "held out" not in capsys.readouterr().out
    assert not any("held_out_loss" in record for record in records(tmp_path))


def test_a_skipped_step_moves_the_windows_and_nothing_else(tmp_path, monkeypatch, capsys, saved):
    """The largest scale overflows once, with a gradient of 2, and is halved."""
    seen, options = [], dict(log_interval=1, eval_interval=1, save_interval=1)
    monkeypatch.setattr(session_module.Metrics, "step", lambda self, **values: seen.append(values))
    toy_session(tmp_path, dtype="float16", scale=2.0**127, **options).train()
    assert [(values["targets"], values["advance"]) for values in seen] == [(n, n > 1) for n in range(1, 7)]
    measured = [record for record in records(tmp_path) if "loss" in record]
    assert [(v["loss"], v["lr"]) for v in seen[1:]] == [(r["loss"], r["lr"]) for r in measured]
    assert [r["step"] for r in measured] == saved == [1, 2, 3, 4, 5] and measured[0]["skipped"] == 1
    assert [r["step"] for r in records(tmp_path) if "held_out_loss" in r] == saved
    assert measured[0]["scale"] == 2.0**126
    assert "finished  5 steps (1 more skipped for overflow) in " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("progress", "total_steps"), [(Progress(4, 4), 4), (Progress(6, 4, 2), 6)], ids=["steps", "windows"]
)
def test_a_run_without_a_step_or_a_window_left_says_so_at_once_and_changes_nothing(
    tmp_path, monkeypatch, progress, total_steps
):
    ready = toy_session(tmp_path, total_steps=total_steps)
    ready.run.progress = progress
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))  # which holds back what is not flushed
    ready.train()
    *_, last = sys.stdout.buffer.getvalue().decode().splitlines()
    assert last == f"finished  already: 4 of {total_steps} steps; {tmp_path / 'toy_12.pth'}"
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "tokenizer.json"}


def without_steps(monkeypatch, look):
    """Let `look` take the place of all steps, and no other process be asked for what it would save."""

    def fit(run, *rest):
        look(run)
        run.progress.windows = run.progress.steps = 6

    monkeypatch.setattr(session_module, "fit", fit)
    monkeypatch.setattr(session_module, "save_resume", lambda *_, **__: None)


@pytest.mark.parametrize("ranks", [Ranks(), Ranks(0, 2), Ranks(1, 2)], ids=["alone", "first", "second"])
def test_the_first_process_speaks_and_writes_and_one_that_is_alone_listens(
    tmp_path, monkeypatch, capsys, drawn, ranks, handler
):
    ready, heard = toy_session(tmp_path, ranks=ranks), []
    without_steps(monkeypatch, lambda run: heard.append(signal.getsignal(signal.SIGINT) is not handler))
    ready.train()
    assert heard == [ranks.world_size == 1]
    printed = capsys.readouterr()
    assert bool(printed.out) == bool(printed.err) == bool(drawn) == ranks.main
    assert {path.name for path in tmp_path.iterdir()} == (
        {"config.json", "tokenizer.json", "metrics.jsonl", "toy_12.pth"} if ranks.main else set()
    )


@pytest.mark.parametrize(
    ("ranks", "windows", "kept"),
    [(Ranks(), 0, False), (Ranks(), 4, True), (Ranks(1, 2), 0, True)],
    ids=["new", "continued", "second process"],
)
def test_a_new_run_forgets_what_an_earlier_one_in_its_folder_could_have_continued(
    tmp_path, monkeypatch, capsys, ranks, windows, kept
):
    ready, seen = toy_session(tmp_path, ranks=ranks), []
    ready.resume_path.touch()
    ready.run.progress = Progress(windows, windows)
    without_steps(monkeypatch, lambda run: seen.append(ready.resume_path.exists()))
    ready.train()
    assert seen == [kept]
    assert ("resume    after 4 of 6 steps\n" in capsys.readouterr().out) == (windows == 4)


def test_a_run_goes_on_with_the_window_after_the_last_one(tmp_path):
    ready, seen = toy_session(tmp_path), []
    ready.run.progress = Progress(4, 3, 1)
    real = ready.stage.loss
    ready.stage.loss = lambda network, batch: seen.append(batch) or real(network, batch)
    ready.train()
    assert seen == [Batch(5), Batch(6)] and ready.run.progress == Progress(6, 5, 1)


@pytest.mark.parametrize("tracked", [True, False])
def test_a_tracker_is_given_the_settings_where_it_is_asked_for_and_closed_however_the_run_ends(
    tmp_path, monkeypatch, tracked
):
    seen, ready = [], toy_session(tmp_path, use_wandb=tracked)
    monkeypatch.setattr(session_module.Metrics, "start_wandb", lambda self, *what: seen.append(what))
    monkeypatch.setattr(session_module.Metrics, "close", lambda self: seen.append("closed"))
    monkeypatch.setattr(ready.stage, "loss", None)
    with pytest.raises(TypeError):
        ready.train()
    assert seen == [*[(tmp_path, asdict(ready.run.settings))] * tracked, "closed"]


# ---- signals ----


@pytest.fixture
def handler():
    """What both signals did before the run, which notes their numbers."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    caught = []

    def note(number, frame):
        caught.append(number)

    note.caught = caught
    for number in before:
        signal.signal(number, note)
    yield note
    for number, old in before.items():
        signal.signal(number, old)


def signalled(ready, number, window, times=1):
    """Let a signal come while the stage computes the loss of a window."""
    real = ready.stage.loss

    def loss(network, batch):
        for _ in range(times * (batch.num_targets == window)):
            signal.raise_signal(number)
        return real(network, batch)

    ready.stage.loss = loss


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_its_window_and_a_second_one_is_not_the_runs(tmp_path, handler, number):
    ready = toy_session(tmp_path)
    signalled(ready, number, window=2, times=2)
    with pytest.raises(RunError, match=r"^interrupted and saved at step 2; continue with --resume$"):
        ready.train()
    assert handler.caught == [number]
    assert read_resume(ready.resume_path, "pretrain")["progress"] == {"windows": 2, "steps": 2, "skipped": 0}
    assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM) is handler


def test_a_signal_in_the_last_window_does_not_keep_a_run_from_its_end(tmp_path, handler, capsys):
    ready = toy_session(tmp_path)
    signalled(ready, signal.SIGINT, window=6)
    ready.train()
    assert "finished  6 steps" in capsys.readouterr().out and handler.caught == []


# ---- weights that are no numbers ----


def test_a_weight_that_is_no_number_is_never_saved(tmp_path):
    ready = toy_session(tmp_path)
    ready.run.model.lm_head.weight.data[3, 5] = float("nan")
    ready.stage.windows = lambda start: iter(())
    message = "^a weight is no number after optimiser step 0; a lower --learning_rate may help$"
    with pytest.raises(RunError, match=message):
        ready.train()
    assert not ready.weights_path.exists() and not ready.resume_path.exists()
