"""The main job through its command line: real small runs, resumed, distributed, and refused."""

import json
import re
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from runs import SMALL, start_elsewhere, train, train_elsewhere, write_corpus
from tolerance import Ulps, assert_same, assert_within

from minimind_ref import ModelConfig, Transformer, evaluate, inspect
from minimind_ref.errors import run_command
from minimind_ref.interop.minimind import save_minimind
from minimind_ref.optim.grad_scaler import GradScaler
from minimind_ref.train import run as run_module
from minimind_ref.train import session as session_module

DROPOUT = ["--dropout", "0.2"]


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus.jsonl")


def weights(folder):
    return torch.load(folder / "pretrain_16.pth", weights_only=True)


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert_same(one[name], other[name])


def test_a_run_learns_and_writes_everything(tmp_path, corpus, capsys):
    out = tmp_path / "out"
    assert train(*SMALL, "--data_path", corpus, "--out_dir", out, "--epochs", 6) == 0
    printed = capsys.readouterr().out
    assert re.search(r"21 documents, [\d,]+ tokens; held out 2 documents", printed)
    assert "finished" in printed and "unigram" in printed and "sample" in printed
    files = {path.name for path in out.iterdir()}
    assert {"config.json", "metrics.jsonl", "pretrain_16.pth", "pretrain_resume.pt", "tokenizer.json"} <= files
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in records if "loss" in r]
    assert losses[-1] < 0.8 * losses[0]
    assert {"step", "loss", "lr", "grad_norm"} <= records[0].keys() and "held_out_loss" in records[-1]
    assert next(iter(weights(out))) == "model.embed_tokens.weight"
    assert not [path for path in out.rglob(".*")]


def test_the_same_command_twice_gives_the_same_bits(tmp_path, corpus):
    for name in ("a", "b"):
        assert train(*SMALL, *DROPOUT, "--data_path", corpus, "--out_dir", tmp_path / name) == 0
    assert_same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert train(*SMALL, *DROPOUT, "--data_path", corpus, "--out_dir", tmp_path / "c", "--seed", 7) == 0
    assert not torch.equal(*(weights(tmp_path / name)["lm_head.weight"] for name in "ac"))


class Killed(BaseException):
    """Stands for a kill: nothing after it runs."""


@pytest.mark.parametrize("batching", ["pack", "pad"])
@pytest.mark.parametrize("kill_after", [1, 3, 4, 6])
def test_resume_law_wherever_the_kill_falls(tmp_path, corpus, monkeypatch, batching, kill_after):
    flags = [*SMALL, *DROPOUT, "--data_path", corpus, "--epochs", 2, "--batching", batching, "--save_interval", 2]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(*flags, "--out_dir", whole) == 0
    real, windows = session_module.fit, []

    def killed(run, stream, loss_of, after_step):
        def counting(report):
            windows.append(report)
            if len(windows) == kill_after:
                raise Killed
            return after_step(report)

        real(run, stream, loss_of, counting)

    monkeypatch.setattr(session_module, "fit", killed)
    with pytest.raises(Killed):
        train(*flags, "--out_dir", cut)
    monkeypatch.setattr(session_module, "fit", real)
    torch.manual_seed(99)  # whatever state the new process happens to start from
    assert train("--out_dir", cut, "--resume") == (0 if kill_after > 2 else 2)  # nothing was saved before step 2
    if kill_after > 2:
        assert_same_weights(weights(whole), weights(cut))
        steps = [json.loads(line)["step"] for line in (cut / "metrics.jsonl").read_text().splitlines()]
        assert [s for s in steps if steps.count(s) == 1] == sorted(set(steps) - {steps[-1]})


@pytest.mark.parametrize("item", ["optimizer", "progress", "generators", "model"])
def test_resume_needs_everything_that_it_saves(tmp_path, corpus, monkeypatch, item):
    flags = [*SMALL, *DROPOUT, "--data_path", corpus, "--epochs", 2]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(*flags, "--out_dir", whole) == 0
    assert train(*flags, "--out_dir", cut, "--max_steps", 5, "--save_interval", 3) == 0
    content = torch.load(cut / "pretrain_resume.pt", weights_only=True)
    assert content["progress"] == {"windows": 5, "steps": 5, "skipped": 0}
    content["settings"]["max_steps"] = None
    reference = resumed_weights(cut, content)
    fresh = run_module.session(
        "pretrain", *resumable(content), run_module.place("cpu", "float32"), run_module.Ranks(), None
    ).run
    replacement = {
        "optimizer": {**content["optimizer"], "state": {}},
        "progress": {"windows": 0, "steps": 0, "skipped": 0},
        "generators": [{"cpu": torch.Generator().manual_seed(5).get_state(), "device": None}],
        "model": fresh.model.state_dict(),
    }
    changed = resumed_weights(cut, {**content, item: replacement[item]})
    assert not torch.equal(reference["lm_head.weight"], changed["lm_head.weight"])


@pytest.mark.slow
def test_resume_needs_the_loss_scale_too(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(run_module, "GradScaler", partial(GradScaler, init_scale=2.0**60))  # overflows at first
    flags = [*SMALL, "--dtype", "float16", "--data_path", corpus, "--epochs", 30]
    cut = tmp_path / "cut"
    assert train(*flags, "--out_dir", cut, "--max_steps", 2) == 0
    content = torch.load(cut / "pretrain_resume.pt", weights_only=True)
    assert content["progress"]["skipped"] > 10 and content["scaler"]["scale"] < 2.0**50
    content["settings"]["max_steps"] = None
    reference = resumed_weights(cut, content)
    forgotten = {**content["scaler"], "scale": 2.0**60}
    changed = resumed_weights(cut, {**content, "scaler": forgotten})
    assert not torch.equal(reference["lm_head.weight"], changed["lm_head.weight"])


def resumable(content):
    from minimind_ref.train.__main__ import resumed

    return resumed("pretrain", {}, content)


def resumed_weights(folder, content):
    torch.save(content, folder / "pretrain_resume.pt")
    assert train("--out_dir", folder, "--resume") == 0
    return weights(folder)


def test_a_finished_run_says_so_and_a_resumed_one_keeps_its_settings(tmp_path, corpus, capsys):
    out = tmp_path / "out"
    assert train(*SMALL, "--data_path", corpus, "--out_dir", out) == 0
    before = (out / "pretrain_16.pth").read_bytes()
    assert train("--resume", "--out_dir", out) == 0
    assert "finished  already" in capsys.readouterr().out
    for flags, named in (
        (["--epochs", 2], "epochs is 1, not 2"),
        (["--learning_rate", 0.5], "learning_rate is 0.01, not 0.5"),
        (["--hidden_size", 32], "hidden_size is 16, not 32"),
        (["--epochs", 1, "--max_steps", 9], "max_steps is None, not 9"),
        (["--preset", "tiny"], "not"),
    ):
        assert train("--resume", "--out_dir", out, *flags) == 2
        assert named in capsys.readouterr().err
    assert (out / "pretrain_16.pth").read_bytes() == before


def test_two_processes_end_where_one_with_the_same_global_batch_ends(tmp_path, corpus):
    shared = ["--data_path", corpus, "--epochs", 2, "--num_workers", 0, "--use_moe", "--moe_intermediate_size", 8]
    one, two = tmp_path / "one", tmp_path / "two"
    flags = [*SMALL, *shared]
    assert train(*flags, "--batch_size", 4, "--out_dir", one) == 0
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "minimind_ref.train")
    result = train_elsewhere(*flags, "--batch_size", 2, "--out_dir", two, module=torchrun)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    assert "× 2 processes" in result.stdout and result.stdout.count("finished") == 1
    name = "pretrain_16_moe.pth"
    states = [torch.load(folder / name, weights_only=True) for folder in (one, two)]
    rounding = Ulps(2**12, "float32", "gradients summed in another order, through Adam's quotient, for 8 steps")
    for key, tensor in states[0].items():
        assert_within(states[1][key], tensor, rounding.of(torch.full_like(tensor, float(tensor.abs().max())).numpy()))


class Tracker:
    """Stands for the wandb module and for its run."""

    def __init__(self):
        self.calls, self.api = [], SimpleNamespace(api_key=None)

    def init(self, **options):
        self.calls.append(("init", options))
        return self

    def log(self, values, step):
        assert self.calls[-1][0] != "finish"
        self.calls.append(("log", step))

    def finish(self):
        self.calls.append(("finish",))


def test_use_wandb_logs_every_measurement_offline_without_an_account(tmp_path, corpus, monkeypatch):
    tracker = Tracker()
    monkeypatch.setitem(sys.modules, "wandb", tracker)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert train(*SMALL, "--data_path", corpus, "--out_dir", tmp_path / "out", "--use_wandb") == 0
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert tracker.calls[0][1]["mode"] == "offline" and tracker.calls[0][1]["config"]["batch_size"] == 3
    assert tracker.calls[1:] == [*(("log", step) for step in steps), ("finish",)]


def test_use_wandb_without_the_package_says_how_to_get_it(tmp_path, corpus, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())  # as a folder of that name imports
    assert train(*SMALL, "--data_path", corpus, "--out_dir", tmp_path / "out", "--use_wandb") == 2
    assert "pip install 'minimind-ref[track]'" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, corpus, monkeypatch, capsys):
    out, flags = tmp_path / "out", [*SMALL, "--data_path", corpus, "--epochs", 3]
    real = session_module.Metrics.step

    def interrupt(self, **values):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGINT)
        return real(self, **values)

    monkeypatch.setattr(session_module.Metrics, "step", interrupt)
    assert train(*flags, "--out_dir", out) == 1
    assert "interrupted and saved at step 1; continue with --resume" in capsys.readouterr().err
    monkeypatch.setattr(session_module.Metrics, "step", real)
    assert train("--out_dir", out, "--resume") == 0
    assert train(*flags, "--out_dir", tmp_path / "whole") == 0
    assert_same_weights(weights(out), weights(tmp_path / "whole"))


def test_float16_overflows_are_skipped_counted_and_survived(tmp_path, corpus):
    out = tmp_path / "out"
    assert train(*SMALL, "--dtype", "float16", "--data_path", corpus, "--out_dir", out, "--epochs", 2) == 0
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert records[0]["scale"] <= 65536 and all(torch.isfinite(t).all() for t in weights(out).values())


def test_init_from_starts_from_exactly_those_weights(tmp_path, corpus, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert train(*SMALL, "--data_path", corpus, "--out_dir", first) == 0
    again = [*SMALL, "--data_path", corpus, "--out_dir", second, "--learning_rate", 0, "--weight_decay", 0]
    assert train(*again, "--init_from", first) == 0
    assert_same_weights(weights(first), weights(second))
    assert train(*again, "--init_from", first, "--num_hidden_layers", 3) == 2
    assert "num_hidden_layers=2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "flags", "message"),
    [
        (None, [], "corpus.jsonl: no such file"),
        ([], [], "corpus.jsonl: is empty"),
        (['{"text": "a"}', "{oops"], [], "corpus.jsonl:2: not JSON"),
        (['{"txt": "a"}'], [], 'corpus.jsonl:1: no "text"'),
        (['{"text": 5}'], [], 'corpus.jsonl:1: "text" is not a string'),
        ([b'{"text": "\xff"}'], [], "corpus.jsonl:1: not UTF-8"),
        (['{"text": "fine"}'], ["--vocab_size", "100"], "vocab_size=100"),
        (['{"text": "fine"}'], ["--num_attention_heads", "3"], "num_attention_heads=3"),
        (['{"text": "fine"}'], ["--tokenizer", "nowhere"], "nowhere"),
        (['{"text": "fine"}'], ["--init_from", "nowhere.pth"], "nowhere.pth: no such file"),
        (['{"text": "fine"}'], ["--device", "abacus"], "--device abacus"),
        (['{"text": "fine"}'], ["--device", "cuda:7"], "--device cuda:7"),
        (['{"text": "fine"}'], ["--epochs", "0"], "--epochs 0"),
        (['{"text": "fine"}'], ["--learning_rate", "-1"], "--learning_rate -1"),
        (['{"text": "fine"}'], ["--beta2", "1"], "--beta2 1"),
        (['{"text": "fine"}'], ["--batch_size", "many"], "--batch_size"),
        (['{"text": "fine"}'], ["--lerning_rate", "1"], "did you mean --learning_rate?"),
        (['{"text": "fine"}'], ["--ddp"], "torchrun"),
        (['{"text": "fine"}'], ["--max_position_embeddings", "20"], "--max_seq_len 24 is more than"),
        (['{"text": "fine"}'], ["--seed", str(2**63)], "--seed 9223372036854775808 must be below"),
        (['{"text": "fine"}'], ["--seed", "-1"], "--seed -1 must be at least 0"),
        (['{"text": "fine"}'], ["--init_from", ""], "--init_from is empty"),
        (['{"text": "fine"}'], ["--grad_clip", "0"], "--grad_clip 0 would clip"),
        (['{"text": "fine"}'], ["--held_out", "0.6"], "--held_out 0.6 must be at most 0.5"),
        (['{"text": "fine"}'], ["--rope_scaling", '{"type": "yarn"}'], "needs a factor"),
        (['{"text": "fine"}'], ["--rope_scaling", "{"], "is not JSON"),
        (['{"text": "fine"}'], ["--rope_scaling", "[1]"], "is not a JSON object"),
        (['{"text": "fine"}'], ["--resume"], "no pretrain run has saved anything"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys, lines, flags, message):
    path, out = tmp_path / "corpus.jsonl", tmp_path / "out"
    if lines is not None:
        path.write_bytes(b"".join((x if isinstance(x, bytes) else x.encode()) + b"\n" for x in lines))
    assert train(*SMALL, "--data_path", path, "--out_dir", out, *flags) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not out.exists()


def test_a_tracker_that_is_not_installed_is_named(tmp_path, corpus, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train(*SMALL, "--data_path", corpus, "--out_dir", tmp_path / "out", "--use_wandb") == 2
    assert "minimind-ref[track]" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_unwritable_out_dir_is_named(tmp_path, corpus, capsys):
    (tmp_path / "file").write_text("in the way")
    assert train(*SMALL, "--data_path", corpus, "--out_dir", tmp_path / "file") == 2
    assert "--out_dir" in capsys.readouterr().err


def test_bad_lines_can_be_skipped_and_are_counted(tmp_path, capsys):
    path = write_corpus(tmp_path / "corpus.jsonl")
    path.write_text(path.read_text() + "{oops\n" * 3)
    assert train(*SMALL, "--data_path", path, "--out_dir", tmp_path / "out", "--on_bad_line", "skip") == 0
    assert "3 not JSON" in capsys.readouterr().out


def test_a_loss_that_explodes_is_a_failed_run(tmp_path, corpus, capsys):
    out = tmp_path / "out"
    assert train(*SMALL, "--data_path", corpus, "--out_dir", out, "--learning_rate", 1e30, "--epochs", 3) == 1
    assert re.search(r"error: the (loss|gradient's norm) is \S+ .*in optimiser step \d", capsys.readouterr().err)


def test_a_broken_checkpoint_is_refused_and_left_as_it_is(tmp_path, corpus, capsys):
    out = tmp_path / "out"
    assert train(*SMALL, "--data_path", corpus, "--out_dir", out, "--max_steps", 2) == 0
    path = out / "pretrain_resume.pt"
    sound = torch.load(path, weights_only=True)
    data = path.read_bytes()
    missing = {**sound, "model": {k: v for k, v in sound["model"].items() if "q_proj" not in k}}
    extra = {**sound, "model": {**sound["model"], "model.extra": torch.zeros(1)}}
    for content, message in (
        (data[: len(data) // 2], "truncated, or not a checkpoint"),
        (b"hello", "truncated, or not a checkpoint"),
        ([1, 2], "not a checkpoint: it holds a list"),
        ({**sound, "format": 99}, "format 99 where this version reads 1"),
        (missing, "q_proj.weight is missing"),
        (extra, "model.extra is not in this network"),
        ({"a": 1}, "format None"),
        ({**sound, "stage": "sft"}, "a sft run, not pretrain"),
        ({k: v for k, v in sound.items() if k != "progress"}, "progress is missing"),
    ):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        before = path.read_bytes()
        assert train("--resume", "--out_dir", out) == 2
        assert message in capsys.readouterr().err
        assert path.read_bytes() == before


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        train("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in ("hidden_size", "use_moe", "max_seq_len", "seed", "preset", "resume", "accumulation_steps"):
        assert f"--{name}" in text


def test_evaluate_and_inspect_read_a_run_back(tmp_path, corpus, capsys):
    out = tmp_path / "out"
    assert train(*SMALL, "--data_path", corpus, "--out_dir", out, "--epochs", 4) == 0
    capsys.readouterr()
    assert run_command(evaluate.main, ["--from", str(out), "--data_path", str(corpus), "--device", "cpu"]) == 0
    assert re.search(
        r"loss \d\.\d+ nats/token, perplexity [\d.]+, [\d.]+ bits/byte\n +unigram", capsys.readouterr().out
    )
    state = weights(out)
    save_minimind(Transformer(ModelConfig(hidden_size=16)), tmp_path / "elsewhere.pth")
    other = ["--from", str(tmp_path / "elsewhere.pth"), "--data_path", str(corpus), "--device", "cpu"]
    assert run_command(evaluate.main, other) == 2
    assert "tokenizer.json" in capsys.readouterr().err
    assert run_command(evaluate.main, [*other, "--max_seq_len", "32769"]) == 2
    assert "--max_seq_len 32769 is more than" in capsys.readouterr().err
    assert run_command(evaluate.main, [*other, "--dtype", "int8"]) == 2
    assert "--dtype" in capsys.readouterr().err
    assert run_command(evaluate.main, [*other, "--tokenizer", str(out)]) == 0
    assert "elsewhere.pth" in capsys.readouterr().out
    assert run_command(evaluate.main, ["--from", str(out / "pretrain_16.pth"), *other[2:]]) == 0
    capsys.readouterr()
    assert run_command(inspect.main, [str(out)]) == 0
    printed = capsys.readouterr().out
    assert "optimiser: " in printed and "shares storage" in printed and "norms 80" in printed
    resume = torch.load(out / "pretrain_resume.pt", weights_only=True)
    torch.save({**resume, "optimizer": {}}, tmp_path / "odd.pt")
    assert run_command(inspect.main, [str(tmp_path / "odd.pt")]) == 2
    assert "odd.pt: a resume file whose parts are not" in capsys.readouterr().err
    torch.save({3: torch.ones(2), "progress": 1}, tmp_path / "numbered.pt")
    assert run_command(inspect.main, [str(tmp_path / "numbered.pt")]) == 0
    assert "2 parameters: other 2\n  not a tensor: progress" in capsys.readouterr().out
    record = json.loads((out / "config.json").read_text())
    for name in (5, "../x.pth"):
        (tmp_path / "config.json").write_text(json.dumps({**record, "weights": name}))
        assert run_command(evaluate.main, ["--from", str(tmp_path)]) == 2
        assert "config.json: not a run's configuration" in capsys.readouterr().err
    state["model.norm.weight"][0] = float("nan")
    torch.save(state, tmp_path / "broken.pth")
    assert run_command(inspect.main, [str(tmp_path / "broken.pth")]) == 0
    assert "1 NOT FINITE" in capsys.readouterr().out


@pytest.mark.slow
def test_resume_law_after_a_kill_signal_in_another_process(tmp_path, corpus):
    flags = [*SMALL, *DROPOUT, "--data_path", corpus, "--epochs", 40, "--save_interval", 3, "--eval_interval", 0]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(*flags, "--out_dir", whole) == 0
    process = start_elsewhere(*flags, "--out_dir", cut)
    while not (cut / "pretrain_resume.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    process.communicate()
    left = torch.load(cut / "pretrain_resume.pt", weights_only=True)["progress"]["steps"]
    result = train_elsewhere("--resume", "--out_dir", cut)
    assert result.returncode == 0, result.stderr
    assert f"after {left} of" in result.stdout
    assert_same_weights(weights(whole), weights(cut))
