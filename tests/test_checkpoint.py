"""The files of a run: kept by one run at a time, written whole, read back to the last bit, and refused when damaged."""

import errno
import fcntl
import json
import shutil
import subprocess
import sys

import pytest
import torch
from toy_stage import CONFIG, toy_session

from minimind_ref import ModelConfig
from minimind_ref.errors import UserError
from minimind_ref.train import checkpoint
from minimind_ref.train.checkpoint import (
    kept_alone,
    prepare_folder,
    read_resume,
    reading_parts,
    restore,
    save_resume,
    save_weights,
    weights_name,
    write_json,
)
from minimind_ref.train.distributed import Ranks
from minimind_ref.train.loop import Progress, optimisation_step

NAME = "pretrain_resume.pt"

# ---- the folder ----


def test_weights_have_minimind_s_names():
    assert weights_name("pretrain", ModelConfig(hidden_size=512)) == "pretrain_512.pth"
    assert weights_name("full_sft", ModelConfig(hidden_size=640, use_moe=True)) == "full_sft_640_moe.pth"


def test_a_folder_is_made_with_those_above_it_and_is_new_once(tmp_path):
    path = tmp_path / "a" / "b"
    assert prepare_folder(path) and not prepare_folder(path)
    assert list(path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--out_dir .*/file: cannot be written \(File exists\)$"):
        prepare_folder(tmp_path / "file")


LOCK = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def test_a_folder_is_kept_from_other_processes_until_the_run_ends(tmp_path):
    with pytest.raises(KeyError), kept_alone(tmp_path):
        other = subprocess.run([sys.executable, "-c", LOCK, tmp_path / ".running"], capture_output=True, text=True)
        assert other.stderr.strip().splitlines()[-1].startswith("BlockingIOError")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with kept_alone(tmp_path):
        (tmp_path / ".running").unlink()


@pytest.mark.parametrize("error", [BlockingIOError, PermissionError, OSError(errno.ENOLCK, "no locks")])
def test_a_folder_that_another_run_keeps_is_refused_and_one_that_cannot_be_kept_is_used(tmp_path, monkeypatch, error):
    def lockf(file, operation):
        raise error

    monkeypatch.setattr(fcntl, "lockf", lockf)
    if isinstance(error, OSError):
        with kept_alone(tmp_path):
            assert (tmp_path / ".running").exists()
    else:
        with pytest.raises(UserError, match=r"^--out_dir .*: another run is at work there$"), kept_alone(tmp_path):
            pass


def test_where_there_are_no_locks_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "fcntl", None)
    with kept_alone(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_record_can_be_read_by_people(tmp_path):
    write_json(tmp_path / "a.json", {"name": "猫", "sizes": [1]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"name": "猫", "sizes": [1]}
    assert '\n  "name": "猫",\n' in text and text.endswith("}\n")


# ---- saved and restored ----


def stopped(folder, steps=2, **options):
    """A toy run after some steps, and the path of what it saved."""
    ready = toy_session(folder, **options)
    for (batch,), _ in zip(ready.stage.windows(0), range(steps), strict=False):
        optimisation_step(ready.run, [batch], ready.stage.loss)
    save_resume(ready.run, folder / NAME, config=CONFIG, name="pretrain", stage=ready.stage)
    return ready, folder / NAME


def test_a_run_goes_on_to_the_last_bit_as_if_it_had_not_been_stopped(tmp_path):
    first, path = stopped(tmp_path, dtype="float16", scale=2.0**127)  # whose first step is skipped
    drawn = torch.rand(3)
    content = read_resume(path, "pretrain")
    again = toy_session(tmp_path, dtype="float16", scale=1.0)
    again.run.model.lm_head.weight.data.zero_()
    again.stage.state = {}
    restore(again.run, again.stage, content, path)
    assert again.run.progress == first.run.progress == Progress(2, 1, 1)
    assert torch.equal(torch.rand(3), drawn) and again.stage.state == {"drawn": 3}
    for ready in (first, again):
        optimisation_step(ready.run, next(ready.stage.windows(2)), ready.stage.loss)
    for one, other in zip(first.run.model.parameters(), again.run.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert again.run.scaler.get_scale() == first.run.scaler.get_scale() == 2.0**126


def test_a_run_that_was_saved_before_its_first_step_can_go_on(tmp_path):
    _, path = stopped(tmp_path, steps=0)
    again = toy_session(tmp_path)
    restore(again.run, again.stage, read_resume(path, "pretrain"), path)
    assert again.run.progress == Progress() and not again.run.optimizer.state


def test_only_the_first_process_writes_what_all_of_them_gave(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "gather", lambda value, ranks: [f"of {rank}" for rank in range(2)])
    stopped(tmp_path, steps=0, ranks=Ranks(1, 2))
    assert list(tmp_path.iterdir()) == []
    _, path = stopped(tmp_path, steps=0, ranks=Ranks(0, 2))
    content = read_resume(path, "pretrain")
    assert content["generators"] == content["stage_state"] == ["of 0", "of 1"] and content["world_size"] == 2


def test_each_process_takes_what_it_gave(tmp_path):
    first, path = stopped(tmp_path)
    content = read_resume(path, "pretrain")
    second = {"cpu": torch.Generator().manual_seed(7).get_state(), "device": None}
    content |= {"stage_state": [{"drawn": 0}, {"drawn": 1}], "generators": [*content["generators"], second]}
    first.run.ranks = Ranks(1, 2)
    restore(first.run, first.stage, content, path)
    assert first.stage.state == {"drawn": 1} and torch.initial_seed() == 7


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("state", [None, torch.ones(2)], ids=["saved on a CPU", "saved on CUDA"])
def test_a_gpu_s_generator_is_restored_where_one_was_saved_and_one_is_there(tmp_path, monkeypatch, device, state):
    seen = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *what: seen.append(what))
    ready, path = stopped(tmp_path)
    content = read_resume(path, "pretrain")
    content["generators"][0]["device"] = state
    ready.run.placement = ready.run.placement._replace(device=torch.device(device))
    restore(ready.run, ready.stage, content, path)
    assert len(seen) == (state is not None and device == "cuda")
    assert all(what[0] is state and what[1] == torch.device("cuda") for what in seen)


def test_a_gpu_s_generator_is_saved_with_a_run_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.ones(2))
    ready, path = stopped(tmp_path)
    assert read_resume(path, "pretrain")["generators"][0]["device"] is None
    ready.run.placement = ready.run.placement._replace(device=torch.device("cuda"))
    save_resume(ready.run, path, config=CONFIG, name="pretrain", stage=ready.stage)
    assert read_resume(path, "pretrain")["generators"][0]["device"].tolist() == [1, 1]


# ---- damaged ----


def drop(*keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def put(value, *keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


DAMAGE = [
    (put(2, "format"), "format 2 where this version reads 1"),
    (drop("format"), "format None where this version reads 1"),
    (put("sft", "stage"), "a sft run, not pretrain"),
    (put(1, "extra"), "extra is unknown"),
    (drop("data"), "data is missing"),
    (put(None, "config"), "no attribute 'keys'"),
    (put(1, "config", "width"), "config: width is unknown"),
    (drop("config", "hidden_size"), "config: hidden_size is missing"),
    (put(3, "config", "head_dim"), "head_dim=3 must be even"),
    (drop("settings", "epochs"), "settings: epochs is missing"),
    (put("x", "settings", "epochs"), "not supported between"),
    (drop("progress", "steps"), "progress: steps is missing"),
    (put(-1, "progress", "windows"), "windows=-1 must be a count"),
    (put(None, "model"), "not iterable"),
    (drop("model", "lm_head.weight"), "lm_head.weight is missing"),
    (put(torch.ones(1), "model", "model.extra"), "model.extra is not in this network"),
    (drop("optimizer", "state", 0), "moments of 10 of 11 parameters"),
    (drop("optimizer", "state", 0, "mean"), "moments of parameter 0 are square, step"),
    (put(torch.zeros(2), "optimizer", "state", 0, "square"), "square of parameter 0 has shape (2,)"),
    (drop("optimizer", "param_groups", 0, "eps"), "lacks 'eps'"),
    (put([], "generators"), "out of range"),
    (put(torch.zeros(3, dtype=torch.uint8), "generators", 0, "cpu"), "RNG state size"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The resume file of a run of two steps."""
    return stopped(tmp_path_factory.mktemp("stopped"))[1]


@pytest.mark.parametrize(("change", "message"), DAMAGE, ids=[message for _, message in DAMAGE])
def test_a_resume_file_with_a_damaged_part_is_refused_in_one_line(saved, tmp_path, change, message):
    path, content = tmp_path / NAME, torch.load(saved, weights_only=True)
    change(content)
    torch.save(content, path)
    ready = toy_session(tmp_path)
    with pytest.raises(UserError) as refused:
        restore(ready.run, ready.stage, read_resume(path, "pretrain"), path)
    text = str(refused.value)
    assert text.startswith(f"{path}: ") and message in text and "\n" not in text


def test_a_resume_file_that_is_not_there_or_has_a_flipped_bit_is_refused(saved, tmp_path):
    path = tmp_path / NAME
    with pytest.raises(UserError) as refused:
        read_resume(path, "pretrain")
    assert str(refused.value) == f"--resume: {path} is not there; no pretrain run has saved anything in {tmp_path}"
    shutil.copy(saved, path)
    assert read_resume(path, "pretrain")["progress"] == {"windows": 2, "steps": 2, "skipped": 0}
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a sound resume file of this format: the checksum of .* is wrong$"):
        read_resume(path, "pretrain")


def test_what_a_damaged_part_raises_is_cut_to_its_first_line_and_what_is_said_already_is_kept(tmp_path):
    with pytest.raises(UserError, match=r"^a: not a sound resume file of this format: first$"), reading_parts("a"):
        raise RuntimeError("first\nsecond")
    with pytest.raises(UserError, match=r"^said$"), reading_parts("a"):
        raise UserError("said")


def test_weights_are_written_in_full_precision_and_on_the_cpu(tmp_path):
    model = toy_session(tmp_path).run.model
    save_weights(model, tmp_path / "a.pth")
    stored = torch.load(tmp_path / "a.pth", weights_only=True)
    assert list(stored) == list(model.state_dict())
    assert all(torch.equal(stored[name], tensor) for name, tensor in model.state_dict().items())
