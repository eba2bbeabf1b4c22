"""What every command shares: flags made from fields, how it ends, files written whole, progress; and `inspect`."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from runs import run_module

from minimind_ref import ModelConfig, Transformer, inspect
from minimind_ref.config import flag
from minimind_ref.errors import RunError, UserError, run_command
from minimind_ref.files import write_atomically
from minimind_ref.flags import Parser, add_fields, parse
from minimind_ref.progress import progress_bar
from minimind_ref.train.checkpoint import CONTENT, save_weights, write_json

# ---- flags ----


@dataclass
class Fields:
    """One of every kind."""

    num_layers: int = flag(4, "blocks, 100% of them")
    last_seed: int | None = flag(None, "a seed", group="more")
    use_it: bool = flag(True, "yes or no", group="more")
    rate: float = flag(0.5, "a rate")
    kind: str = flag("a", "a kind", options=("a", "b"))
    extra: Mapping | None = flag(None, "a mapping")


@pytest.fixture
def parser():
    parser = Parser(prog="command")
    parser.add_argument_group("more").add_argument("--other")
    add_fields(parser, Fields, {"rate": 0.25}, "rest")
    return parser


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("--num_layers 3", {"num_layers": 3}),
        ("--last_seed 3", {"last_seed": 3}),
        ("--last_seed None", {"last_seed": None}),
        ("--use_it", {"use_it": True}),
        *((f"--use_it {word}", {"use_it": True}) for word in ("true", "1", "YES")),
        *((f"--use_it={word}", {"use_it": False}) for word in ("False", "0", "no")),
        ("--rate 2", {"rate": 2.0}),
        ("--kind b --rate 1e-3", {"kind": "b", "rate": 0.001}),
        ('--extra {"a":[1]}', {"extra": {"a": [1]}}),
        ("--extra null", {"extra": None}),
    ],
)
def test_a_flag_becomes_what_its_field_holds_and_others_are_left_out(parser, words, value):
    given = parse(parser, words.split())
    assert {**given} == {"other": None, **value} and type(given.get("rate", 0.0)) is float


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--num_layer 3", "unknown flag --num_layer; did you mean --num_layers? (see command --help)"),
        ("--num_layer=3 --zzz", "unknown flag --num_layer; did you mean --num_layers? (see command --help)"),
        ("--zzzzzzzzz 3", "unknown flag --zzzzzzzzz (see command --help)"),
        ("--num_layers none", "argument --num_layers: invalid int value: 'none' (see command --help)"),
        ("--last_seed 1.5", "argument --last_seed: invalid integer or none value: '1.5' (see command --help)"),
        ("--use_it maybe", "argument --use_it: 'maybe' is neither true nor false (see command --help)"),
        ("--extra {", "argument --extra: '{' is not JSON: "),
        ("--extra [1]", "argument --extra: '[1]' is not a JSON object (see command --help)"),
        ("--kind c", "argument --kind: invalid choice: 'c'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag(parser, words, message):
    with pytest.raises(UserError) as refused:
        parse(parser, words.split())
    assert str(refused.value).startswith(message) and str(refused.value).endswith("(see command --help)")


def test_help_has_every_field_in_its_group_with_its_default(parser):
    _, *groups = parser.format_help().split("\n\n")
    lines = {group.split(":")[0]: " ".join(group.split()) for group in groups}
    assert lines["rest"] == (
        "rest: --num_layers LAYERS blocks, 100% of them [4] --rate RATE a rate [0.25] --kind a|b a kind [a] "
        "--extra EXTRA a mapping"
    )
    assert "--other OTHER --last_seed SEED a seed --use_it [true|false] yes or no [true]" in lines["more"]


def test_a_description_keeps_its_lines():
    assert "one\n  two" in Parser(prog="command", description="one\n  two").format_help()


# ---- how a command ends ----


def raising(error):
    def command(argv):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("two\n  lines"), 2, "two lines"),
        (RunError("no number"), 1, "no number"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left"), 1, "No space left"),
        (OSError(28, "No space left", "a.pth"), 1, "a.pth: No space left"),
    ],
)
def test_what_a_command_may_raise_is_one_line_and_an_exit_code(capsys, error, code, text):
    assert run_command(raising(error), []) == code
    assert capsys.readouterr() == ("", f"error: {text}\n")


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("a bug"), OSError("a bug")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error), match="a bug"):
        run_command(raising(error), [])


def test_without_arguments_they_are_the_command_line_s(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "argv", ["command", "--a", "b"])
    assert run_command(seen.extend) == 0 and seen == ["--a", "b"]
    assert run_command(seen.extend, ["c"]) == 0 and seen == ["--a", "b", "c"]


def test_a_reader_who_has_left_is_noticed_before_the_end_and_never_again(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert run_command(lambda argv: print("x")) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err == "error: nobody reads stdout any more\n"


COMMANDS = ("chat", "data.tasks", "data.tokenizer", "evaluate", "golden", "inspect", "kit", "train")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_run_as_a_module(monkeypatch, capsys, name):
    package = importlib.util.find_spec(f"minimind_ref.{name}").submodule_search_locations
    monkeypatch.setattr(sys, "argv", [name, "--nonsense"])
    with pytest.raises(SystemExit) as ended:
        run_module(f"minimind_ref.{name}" + ".__main__" * bool(package))
    assert ended.value.code == 2 and f"python -m minimind_ref.{name}" in capsys.readouterr().err


# ---- files ----


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, synced = tmp_path / "a.json", []

    def sync(descriptor):
        (temporary,) = (other for other in tmp_path.iterdir() if other != path)
        assert temporary.name.startswith(".a.json.") and path.read_bytes() == b"old"
        synced.append(os.pread(descriptor, 99, 0))

    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", sync)
    write_atomically(path, lambda file: file.write(b"new"))
    assert synced == [b"new"] == [path.read_bytes()]
    assert path.stat().st_mode & 0o777 == 0o644 and list(tmp_path.iterdir()) == [path]


def unwritten(folder, error=None, cause=None):
    def write(file):
        try:
            if cause:
                raise cause
        finally:
            if error:
                raise error
        for path in folder.iterdir():
            path.unlink()

    return write


@pytest.mark.parametrize(
    ("error", "cause", "raised", "text"),
    [
        (OSError(28, "full"), None, OSError, r"\[Errno 28\] full: '.*/a'"),
        (RuntimeError("position 7"), OSError(28, "full"), OSError, r"\[Errno 28\] full: '.*/a'"),
        (OSError("no errno"), None, OSError, "no errno"),
        (RuntimeError("a bug"), None, RuntimeError, "a bug"),
        (KeyboardInterrupt("now"), None, KeyboardInterrupt, "now"),
    ],
    ids=str,
)
def test_what_is_not_written_leaves_nothing_and_what_the_system_refuses_names_the_file(
    tmp_path, error, cause, raised, text
):
    with pytest.raises(raised, match=text):
        write_atomically(tmp_path / "a", unwritten(tmp_path, error, cause))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_or_a_file_that_is_taken_away_names_the_file(tmp_path):
    for path in (tmp_path / "no" / "a", tmp_path / "a"):
        with pytest.raises(FileNotFoundError, match=f"No such file or directory: '{path}'"):
            write_atomically(path, unwritten(tmp_path))


# ---- progress ----


@pytest.mark.parametrize(("terminal", "seconds"), [(True, 0.5), (False, 10)])
def test_progress_is_a_bar_that_fits_a_terminal_and_a_line_every_ten_seconds_elsewhere(monkeypatch, terminal, seconds):
    stderr = io.StringIO()
    stderr.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stderr)
    bar = progress_bar(range(3), desc="steps")
    assert bar.mininterval == seconds and bar.dynamic_ncols
    assert list(bar) == [0, 1, 2] and "steps: 100%" in stderr.getvalue()


# ---- inspect ----


def described(capsys, path):
    assert run_command(inspect.main, [str(path)]) == 0
    return capsys.readouterr().out.splitlines()


def test_inspect_counts_the_parameters_of_each_component_and_shared_storage_once(tmp_path, capsys):
    config = ModelConfig(
        vocab_size=11, hidden_size=8, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1,
        intermediate_size=3, use_moe=True, num_experts=3, num_shared_experts=2, qk_norm=True,
    )  # fmt: skip
    save_weights(Transformer(config), tmp_path / "tied.pth")
    save_weights(Transformer(config.replace(tie_word_embeddings=False, use_moe=False)), tmp_path / "dense.pth")
    size = (tmp_path / "tied.pth").stat().st_size
    *tensors, total = described(capsys, tmp_path / "tied.pth")
    assert tensors[0] == f"{tmp_path / 'tied.pth'} ({size:,} bytes)"
    assert sum("shares storage" in line for line in tensors) == 1
    assert f"  {'model.layers.0.self_attn.k_proj.weight':58} {'(4, 8)':16} float32" in tensors
    assert total == (
        "  696 parameters: experts 216, attention 200, shared experts 144, embedding and tied head 88, "
        "norms 24, router 24"
    )
    total = described(capsys, tmp_path / "dense.pth")[-1]
    assert total == ("  472 parameters: attention 200, embedding and tied head 88, head 88, feed-forward 72, norms 24")


def test_inspect_names_what_is_no_weight_and_what_is_not_finite(tmp_path, capsys):
    nan = float("nan")
    odd = {"a": torch.tensor([nan, 1.0, nan]), "empty": torch.ones(0), "none": torch.ones(0), "b": torch.ones(1)}
    odd |= {"sparse": torch.tensor([[0.0, nan]]).to_sparse(), "complex": torch.tensor([nan * 1j])}
    torch.save({**odd, "whole": torch.ones(2).int(), "twice": odd["b"], "epoch": 3}, tmp_path / "odd.pth")
    lines = described(capsys, tmp_path / "odd.pth")[1:]
    assert [re.sub(" +", " ", line) for line in lines] == [
        " a (3,) float32 2 NOT FINITE",
        " empty (0,) float32",
        " none (0,) float32",
        " b (1,) float32",
        " sparse (1, 2) float32 1 NOT FINITE",
        " complex (1,) complex64 1 NOT FINITE",
        " whole (2,) int32",
        " twice (1,) float32 shares storage with a tensor above",
        " 9 parameters: other 9",
        " not a tensor: epoch",
    ]


def test_inspect_says_of_a_resume_file_how_far_its_run_is(tmp_path, capsys):
    config = ModelConfig(hidden_size=16, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=3)
    content = dict.fromkeys(CONTENT) | {"format": 7, "stage": "full_sft", "config": config.to_dict()}
    content |= {"progress": {"steps": 1234}, "optimizer": {"state": {0: {}, 1: {}}}, "model": {"x": torch.ones(2)}}
    for scaler, shown in ((None, "not used"), ({"scale": 4.0}, "{'scale': 4.0}")):
        torch.save({**content, "scaler": scaler}, path := tmp_path / "a.pt")
        lines = described(capsys, path)
        assert lines[1] == "  resume file, format 7: full_sft run after 1,234 steps"
        assert lines[2].startswith("  3 layers, 16 wide, 2 query and 1 kv heads, ")
        assert lines[3] == f"  optimiser: 2 tensors with moments, scaler: {shown}" and "x" in lines[4]
        assert len(lines) == 6
    del content["format"]
    torch.save(content, path)
    assert run_command(inspect.main, [str(path)]) == 2
    assert f"{path}: a resume file whose parts are not those of this format" in capsys.readouterr().err


def test_inspect_reads_a_folder_s_record_and_its_checkpoints(tmp_path, capsys):
    for path, words in ((tmp_path / "no", "no such file or folder"), (tmp_path, "holds no .pth or .pt file")):
        assert run_command(inspect.main, [str(path)]) == 2
        assert capsys.readouterr().err == f"error: {path}: {words}\n"
    config = ModelConfig(hidden_size=16, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=3)
    for name in ("b.pth", "a.pt", "c.txt"):
        torch.save({"x": torch.ones(2)}, tmp_path / name)
    assert [line.split(" (")[0] for line in described(capsys, tmp_path)[::3]] == [
        str(tmp_path / "a.pt"),
        str(tmp_path / "b.pth"),
    ]
    record = {"stage": "pretrain", "weights": "b.pth", "model": config.to_dict()}
    write_json(tmp_path / "config.json", record)
    first, *rest = described(capsys, tmp_path)
    assert first == (
        f"{tmp_path}: pretrain run, 3 layers, 16 wide, 2 query and 1 kv heads, "
        f"{sum(p.numel() for p in Transformer(config).parameters()):,} parameters (114,032 active per token)"
    )
    assert len(rest) == 6
    assert len(described(capsys, tmp_path / "a.pt")) == 3
