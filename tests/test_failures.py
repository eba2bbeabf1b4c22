"""What ends a run badly is one line and an exit code, and leaves every file whole: the disk, the folder, the data."""

import errno
import json
import re
import shutil
from functools import partial

import pytest
import torch
from runs import SMALL, start_elsewhere, train, train_elsewhere, write_corpus

from minimind_ref import evaluate, files, inspect
from minimind_ref.errors import run_command
from minimind_ref.files import write_atomically
from minimind_ref.optim.adamw import AdamW
from minimind_ref.train import session as session_module
from minimind_ref.train.checkpoint import kept_alone


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus.jsonl")


def last_error(capsys):
    """The only line that says error, which is stderr's last."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ") and sum("error: " in line for line in lines) == 1
    return lines[-1].removeprefix("error: ")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class FullDisk:
    """A file that takes so many bytes and no more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= memoryview(data).nbytes
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 100, 2000])
def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch, room):
    path, state = tmp_path / "weights.pth", {"a": torch.zeros(5000)}
    write_atomically(path, partial(torch.save, state))
    before, real = contents(tmp_path), files.os.fdopen
    monkeypatch.setattr(files.os, "fdopen", lambda *args: FullDisk(real(*args), room))
    with pytest.raises(OSError, match=r"No space left on device: '.*weights.pth'"):
        write_atomically(path, partial(torch.save, state))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "metrics.jsonl", "pretrain_16.pth"])
def test_a_folder_in_a_files_place_is_named(tmp_path, corpus, capsys, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    assert train(*SMALL, "--data_path", corpus, "--out_dir", tmp_path / "out", "--max_steps", 1) == 1
    assert last_error(capsys) == f"{tmp_path / 'out' / name}: Is a directory"
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_name_that_is_too_long_is_an_unwritable_out_dir(tmp_path, corpus, capsys):
    assert train(*SMALL, "--data_path", corpus, "--out_dir", tmp_path / ("a" * 300)) == 2
    assert last_error(capsys).endswith("cannot be written (File name too long)")


def test_inspect_ends_quietly_where_nobody_reads_on(tmp_path, corpus):
    assert train(*SMALL, "--data_path", corpus, "--out_dir", tmp_path / "out", "--max_steps", 1) == 0
    with start_elsewhere(tmp_path / "out", module=("-m", "minimind_ref.inspect")) as process:
        process.stdout.close()
        assert process.stderr.read() == "error: nobody reads stdout any more\n"
    assert process.returncode == 1
    assert run_command(inspect.main, [str(tmp_path / "out")]) == 0


def test_a_second_run_in_one_folder_is_refused_and_a_killed_ones_mark_is_not_in_the_way(tmp_path, corpus):
    out = tmp_path / "out"
    flags = [*SMALL, "--data_path", corpus, "--out_dir", out, "--max_steps", 1]
    out.mkdir()
    with kept_alone(out):
        refused = train_elsewhere(*flags)
        assert refused.returncode == 2 and refused.stderr == f"error: --out_dir {out}: another run is at work there\n"
        assert refused.stdout == "" and contents(out) == {".running": b""}
    (out / ".running").touch()
    assert train(*flags) == 0 and ".running" not in contents(out)


def test_a_network_that_no_memory_holds_is_one_line(tmp_path, corpus, capsys):
    out = tmp_path / "out"
    assert (
        train(*SMALL, "--data_path", corpus, "--out_dir", out, "--vocab_size", 2**31 - 1, "--hidden_size", 2**24) == 1
    )
    assert last_error(capsys).startswith("out of memory on cpu: a smaller") and not out.exists()


def test_weights_that_are_no_numbers_never_replace_a_checkpoint(tmp_path, corpus, monkeypatch, capsys):
    out, real = tmp_path / "out", AdamW.step

    def spoil(self, closure=None):
        real(self)
        if steps.pop() == 0:
            next(iter(self.param_groups[0]["params"])).data[0, 0] = float("nan")

    steps = [0, 1, 1]
    monkeypatch.setattr(session_module.Session, "_evaluate", lambda self: [])
    monkeypatch.setattr(AdamW, "step", spoil)
    flags = [*SMALL, "--data_path", corpus, "--out_dir", out, "--max_steps", 3, "--save_interval", 2]
    assert train(*flags) == 1
    assert last_error(capsys) == "a weight is no number after optimiser step 3; a lower --learning_rate may help"
    assert all(t.isfinite().all() for t in torch.load(out / "pretrain_16.pth").values())
    assert torch.load(out / "pretrain_resume.pt")["progress"]["steps"] == 2


def test_an_embedding_larger_than_the_vocabulary_trains_and_shows_a_sample(tmp_path, corpus, capsys):
    flags = [*SMALL, "--data_path", corpus, "--out_dir", tmp_path / "out", "--max_steps", 1]
    assert train(*flags, "--vocab_size", 60000) == 0  # nine ids in ten stand for nothing
    assert "sample" in capsys.readouterr().out


def test_texts_of_one_token_leave_nothing_to_predict(tmp_path, capsys):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "a"}\n' * 9)
    flags = [*SMALL, "--data_path", path, "--out_dir", tmp_path / "out", "--wrap_text", "false", "--max_steps", 1]
    assert train(*flags) == 2
    assert last_error(capsys).endswith("corpus.jsonl: no text has a second token, so that there is nothing to predict")
    path.write_text('{"text": "a"}\n{"text": "a"}\n{"text": "the cat sat"}\n')  # every second one is held out
    assert train(*flags, "--held_out", 0.5) == 0
    assert "held out  loss" not in capsys.readouterr().out


def test_max_steps_beyond_the_epochs_are_not_announced(tmp_path, corpus, capsys):
    flags = [*SMALL, "--data_path", corpus, "--out_dir", tmp_path / "out"]
    assert train(*flags, "--max_steps", 999) == 0 and "--max_steps" not in capsys.readouterr().out
    assert train(*flags, "--max_steps", 2) == 0 and "--max_steps takes 2\n" in capsys.readouterr().out


@pytest.mark.parametrize("garbage", [b"nonsense}\n", b'{"a": 1}\n', b"5\n", b"\xff\xfe}\n", b'{"stage": "pretrain"}'])
def test_what_is_no_measurement_is_dropped_from_metrics(tmp_path, corpus, garbage):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.jsonl").write_bytes(garbage)
    assert train(*SMALL, "--data_path", corpus, "--out_dir", tmp_path / "out", "--max_steps", 1) == 0
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert all(record["stage"] == "pretrain" and record["step"] == 1 for record in records)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run of two steps."""
    folder = tmp_path_factory.mktemp("stopped")
    corpus = write_corpus(folder / "corpus.jsonl")
    assert train(*SMALL, "--data_path", corpus, "--out_dir", folder / "out", "--max_steps", 2) == 0
    return folder / "out"


@pytest.fixture
def resume_file(stopped, tmp_path):
    """Its resume file, in a copy of the folder."""
    return shutil.copytree(stopped, tmp_path / "out") / "pretrain_resume.pt"


def test_a_resume_file_with_a_damaged_part_is_refused_and_stays_as_it_is(resume_file, capsys):
    content = torch.load(resume_file)
    content["optimizer"]["state"][0]["square"] = torch.zeros(2)
    torch.save(content, resume_file)
    before = contents(resume_file.parent)
    assert train("--resume", "--out_dir", resume_file.parent) == 2
    error = last_error(capsys)
    assert error.startswith(f"{resume_file}: not a sound resume file") and "square of parameter 0" in error
    assert contents(resume_file.parent) == before


def test_a_resume_file_with_a_flipped_bit_is_refused(resume_file, capsys):
    content = bytearray(resume_file.read_bytes())
    content[len(content) // 2] ^= 1
    resume_file.write_bytes(content)
    assert train("--resume", "--out_dir", resume_file.parent) == 2 and "the checksum of" in last_error(capsys)


def test_a_resume_file_gives_its_weights_where_a_run_recorded_the_network(resume_file, capsys):
    corpus = write_corpus(resume_file.parents[1] / "corpus.jsonl")
    losses = []
    for path in (resume_file, resume_file.parent):
        flags = ["--from", str(path), "--data_path", str(corpus), "--device", "cpu"]
        assert run_command(evaluate.main, flags) == 0
        losses.append(re.findall(r"loss \S+", capsys.readouterr().out))
    assert losses[0] == losses[1] and losses[0]


@pytest.mark.slow
def test_each_process_of_a_failed_run_says_one_line(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "minimind_ref.train")
    result = train_elsewhere(*SMALL, "--data_path", tmp_path / "x", "--out_dir", tmp_path / "out", module=torchrun)
    said = sorted(line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert said[0] == f"error: {tmp_path / 'x'}: no such file" and len(said) <= 2
    assert said[1:] in ([], ["error: process 1 is left alone: another one has ended"])  # torchrun may end it first
    assert "[rank1]: Traceback" not in result.stderr and not (tmp_path / "out").exists()
