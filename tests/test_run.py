"""How a run is put together from its settings, where it runs, what it leaves behind, and what its errors become."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from tolerance import assert_same
from toy_stage import CONFIG as TINY
from toy_stage import ToyStage

from minimind_ref import Transformer
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import RunError, UserError
from minimind_ref.train import run as run_module
from minimind_ref.train.checkpoint import read_resume, save_resume
from minimind_ref.train.device import place
from minimind_ref.train.distributed import Ranks
from minimind_ref.train.loop import Progress
from minimind_ref.train.run import run_stage, session
from minimind_ref.train.stage_settings import PretrainSettings

CONFIG = TINY.replace(vocab_size=6400, max_position_embeddings=24)
CPU = place("cpu", "float32")
ALONE, OTHERS = Ranks(), Ranks(1, 2)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """Let pretraining be the stage without data."""
    monkeypatch.setitem(run_module.STAGES, "pretrain", ("toy_stage", "ToyStage"))


def settings(folder, **changes):
    given = {"device": "cpu", "dtype": "float32", "max_seq_len": 24, "batch_size": 3, "seed": 9, **changes}
    return PretrainSettings(out_dir=str(folder), **given)


def made(folder, placement=CPU, ranks=ALONE, resume=None, **changes):
    return session("pretrain", CONFIG, settings(folder, **changes), placement, ranks, resume)


# ---- its parts ----


def test_every_setting_reaches_the_part_that_it_is_for(tmp_path):
    ready = made(tmp_path, weight_decay=0.3, beta1=0.7, beta2=0.8, learning_rate=0.02)
    assert [(g["weight_decay"], g["betas"], g["lr"]) for g in ready.run.optimizer.param_groups] == [
        (0.3, (0.7, 0.8), 0.02), (0.0, (0.7, 0.8), 0.02),
    ]  # fmt: skip
    assert {g["weight_decay"] for g in made(tmp_path, decay="all", weight_decay=0.3).run.optimizer.param_groups} == {
        0.3
    }
    expected = Transformer(CONFIG, generator=torch.Generator().manual_seed(9)).state_dict()
    for name, tensor in ready.run.model.state_dict().items():
        assert_same(tensor, expected[name])
    run = ready.run
    assert (ready.name, ready.config, run.placement, run.ranks) == ("pretrain", CONFIG, CPU, Ranks())
    given, model, tokenizer, placement, ranks = ready.stage.parts
    assert given is run.settings and model is run.model and isinstance(tokenizer, Tokenizer)
    assert (placement, ranks) == (CPU, Ranks())


def test_a_run_ends_after_its_windows_or_earlier_where_that_is_asked(tmp_path):
    for max_steps, steps in ((None, 6), (4, 4), (99, 6)):
        assert made(tmp_path, max_steps=max_steps).run.total_steps == steps


def test_the_loss_is_scaled_in_float16_only(tmp_path):
    for dtype, scale in (("float32", 1.0), ("float16", 65536.0)):
        scaler = made(tmp_path, place("cpu", dtype)).run.scaler
        assert scaler.scale(torch.tensor(1.0)).item() == scale


def test_all_processes_share_the_first_ones_weights_and_none_its_dropout(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(run_module, "share_weights", lambda *what: seen.append(what))
    ready = made(tmp_path, ranks=OTHERS)
    assert len(seen) == 1 and seen[0] == (ready.run.model, OTHERS)
    second = torch.initial_seed()
    made(tmp_path)
    assert (torch.initial_seed(), second) == (9, 10)


def test_what_cannot_be_trained_is_refused_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--max_seq_len 25 is more than the network's max_position_embeddings=24"):
        made(tmp_path, max_seq_len=25)
    for stage_error, error in ((ValueError("x.jsonl: is empty"), UserError), (KeyError("a bug"), KeyError)):

        def refuse(self, *parts, error=stage_error):
            raise error

        monkeypatch.setattr(ToyStage, "__init__", refuse)
        with pytest.raises(error, match=stage_error.args[0]):
            made(tmp_path)


def test_a_continuation_takes_the_state_and_needs_the_data_and_the_processes_that_the_run_had(tmp_path):
    first, path = made(tmp_path), tmp_path / "pretrain_resume.pt"
    first.run.progress, first.stage.state = Progress(2, 1, 1), {"drawn": 5}
    save_resume(first.run, path, config=CONFIG, name="pretrain", stage=first.stage)
    content = read_resume(path, "pretrain")
    again = made(tmp_path, resume=content)
    assert again.run.progress == Progress(2, 1, 1) and again.stage.state == {"drawn": 5}
    assert made(tmp_path).run.progress == Progress()
    for key, stored, message in (
        ("world_size", 2, r"another number of processes than when the run was saved \(2, now 1\)"),
        ("data", "other", r"another training data or tokenizer than when the run was saved \(other, now toy data\)"),
    ):
        with pytest.raises(UserError, match=f"^--resume: {message}$"):
            made(tmp_path, resume={**content, key: stored})
    with pytest.raises(UserError, match=r"pretrain_resume\.pt: not a sound resume file"):
        made(tmp_path, resume={**content, "progress": {}, "generators": []})


# ---- where it runs, and how it ends ----


@pytest.fixture
def trained(monkeypatch):
    """What the session of a run is made of, and its training, which does what a test says."""
    seen = SimpleNamespace(parts=[], work=lambda: None)

    def fake(*parts):
        seen.parts.append(parts)
        return SimpleNamespace(train=lambda: seen.work())

    monkeypatch.setattr(run_module, "session", fake)
    return seen


def as_second(monkeypatch):
    """Let the run be that of the second of two processes."""
    group = contextlib.nullcontext(OTHERS)
    monkeypatch.setattr(run_module, "process_group", lambda insist, device: group)


@pytest.mark.parametrize(("given", "batch_size"), [(None, 16), (3, 3)])
def test_a_run_takes_place_where_its_settings_say(tmp_path, trained, given, batch_size):
    out, resume, there = tmp_path / "new" / "out", {"a": 1}, []
    trained.work = lambda: there.append((out / ".running").exists())
    run_stage("pretrain", CONFIG, settings(out, batch_size=given, dtype="float16"), resume)
    expected = settings(out, batch_size=batch_size, dtype="float16")
    assert trained.parts == [("pretrain", CONFIG, expected, place("cpu", "float16"), Ranks(), resume)]
    assert there == [True] and list(out.iterdir()) == []


def test_only_the_first_of_several_processes_keeps_others_out(tmp_path, trained, monkeypatch):
    there = []
    as_second(monkeypatch)
    trained.work = lambda: there.append((tmp_path / ".running").exists())
    run_stage("pretrain", CONFIG, settings(tmp_path))
    assert there == [False] and trained.parts[0][4] == OTHERS


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError(28, "No space left"), OSError, "[Errno 28] No space left: '{folder}'"),
        (OSError(28, "No space left", "a.pth"), OSError, "[Errno 28] No space left: 'a.pth'"),
        (
            RuntimeError("can't allocate memory"),
            RunError,
            "out of memory on cpu: a smaller --batch_size, --max_seq_len or network needs less",
        ),
        (dist.DistBackendError("x"), RunError, "process 0 is left alone: another one has ended"),
        (RuntimeError("a bug"), RuntimeError, "a bug"),
        (UserError("refused"), UserError, "refused"),
        (RunError("no number"), RunError, "no number"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_ends_a_run_is_named_and_a_folder_without_a_file_is_not_left(tmp_path, trained, error, kind, message):
    out = tmp_path / "out"

    def fail():
        (out / "cache").mkdir(exist_ok=True)
        raise error

    trained.work = fail
    with pytest.raises(kind) as raised:
        run_stage("pretrain", CONFIG, settings(out))
    assert type(raised.value) is kind and str(raised.value) == message.format(folder=out)
    assert not out.exists() or isinstance(error, RunError)


@pytest.mark.parametrize("why", ["not new", "another process's", "not empty"])
def test_a_folder_stays_where_it_is_not_the_run_s_own_or_holds_something(tmp_path, trained, monkeypatch, why):
    out = tmp_path / "out"
    if why == "not new":
        out.mkdir()
    if why == "another process's":
        as_second(monkeypatch)

    def fail():
        (out / "file").write_text("x" * (why == "not empty"))
        if why != "not empty":
            (out / "file").unlink()
        raise UserError("refused")

    trained.work = fail
    with pytest.raises(UserError, match="refused"):
        run_stage("pretrain", CONFIG, settings(out))
    assert out.exists() and (out / "file").exists() == (why == "not empty")


@pytest.mark.parametrize("asked", [True, False])
def test_a_tracker_that_is_not_there_is_missed_before_anything_is_written(tmp_path, trained, monkeypatch, asked):
    def missing():
        raise UserError("no tracker")

    monkeypatch.setattr(run_module, "import_wandb", missing)
    with pytest.raises(UserError, match="no tracker") if asked else contextlib.nullcontext():
        run_stage("pretrain", CONFIG, settings(tmp_path / "out", use_wandb=asked))
    assert (tmp_path / "out").exists() == bool(trained.parts) == (not asked)
