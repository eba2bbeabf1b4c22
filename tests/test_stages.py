"""Laws that hold for fine-tuning, preference and reinforcement alike, through the command line."""

import json

import pytest
import torch
from chat_runs import CPU, FLAGS, NAMES, run, write_conversations, write_network, write_pairs
from runs import train, train_elsewhere
from tolerance import Ulps, assert_same, assert_within

from minimind_ref.train import session as session_module

STAGES = ("sft", "dpo", "grpo")


def weights(folder, stage):
    return torch.load(folder / NAMES[stage], weights_only=True)


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert_same(one[name], other[name])


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_moves_the_weights_it_starts_from_and_writes_everything(tmp_path, capsys, stage):
    out = tmp_path / "out"
    assert run(stage, tmp_path, "--out_dir", out) == 0
    printed = capsys.readouterr().out
    for word in ("model", "data", "steps", "finished", "held out", "sample", "written"):
        assert f"\n{word}" in f"\n{printed}"
    files = {path.name for path in out.iterdir()}
    assert {"config.json", "metrics.jsonl", NAMES[stage], f"{stage}_resume.pt", "tokenizer.json"} <= files
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {record["stage"] for record in records} == {stage} and {"step", "loss", "lr"} <= records[0].keys()
    assert any(key.startswith("held_out") for key in records[-1])
    start = torch.load(tmp_path / "start" / "pretrain_16.pth", weights_only=True)
    assert all(not torch.equal(tensor, start[name]) for name, tensor in weights(out, stage).items())


class Killed(BaseException):
    """Stands for a kill: nothing after it runs."""


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kill_after", [1, 3])
def test_resume_law_wherever_the_kill_falls(tmp_path, monkeypatch, stage, kill_after):
    flags = ["--max_steps", "5", "--save_interval", "1", "--eval_interval", "0"]
    flags += ["--refresh_reference", "1"] if stage == "grpo" else []
    assert run(stage, tmp_path, *flags, "--out_dir", tmp_path / "whole") == 0
    real, windows = session_module.fit, []

    def killed(run, stream, loss_of, after_step):
        def counting(report):
            stop = after_step(report)
            windows.append(report)
            if len(windows) == kill_after:
                raise Killed
            return stop

        real(run, stream, loss_of, counting)

    cut = tmp_path / "cut"
    monkeypatch.setattr(session_module, "fit", killed)
    with pytest.raises(Killed):
        run(stage, tmp_path, *flags, "--out_dir", cut)
    monkeypatch.setattr(session_module, "fit", real)
    torch.manual_seed(99)
    assert train(stage, "--out_dir", cut, "--resume") == 0
    assert_same_weights(weights(tmp_path / "whole", stage), weights(cut, stage))


@pytest.mark.parametrize("item", ["rollouts", "reference"])
def test_resume_needs_what_only_reinforcement_remembers(tmp_path, item):
    cut = tmp_path / "cut"
    flags = ["--save_interval", "1", "--eval_interval", "0", "--refresh_reference", "2"]
    assert run("grpo", tmp_path, *flags, "--max_steps", "5", "--out_dir", cut) == 0
    content = torch.load(cut / "grpo_resume.pt", weights_only=True)
    content["settings"]["max_steps"] = 8
    state = content["stage_state"][0]
    assert len(state["rollouts"]) == 2  # between the two updates on the same answers
    changed = {**state, item: {"rollouts": state["rollouts"][::-1][:1] * 2, "reference": None}[item]}
    found = []
    for stage_state in (state, changed):
        torch.save({**content, "stage_state": [stage_state]}, cut / "grpo_resume.pt")
        assert train("grpo", "--out_dir", cut, "--resume") == 0
        found.append(weights(cut, "grpo")["lm_head.weight"])
    assert not torch.equal(*found)


def test_all_stages_share_one_folder_and_each_goes_on_in_it(tmp_path, capsys):
    out = write_network(tmp_path / "start")
    for stage in STAGES:
        assert run(stage, tmp_path, "--out_dir", out, "--max_steps", "2", source=out) == 0
    stages = [json.loads(line)["stage"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(stages)) == list(STAGES)
    capsys.readouterr()
    for stage in STAGES:
        before = weights(out, stage)
        assert train(stage, "--out_dir", out, "--resume") == 0
        assert "finished  already: 2 of 2 steps" in capsys.readouterr().out
        assert_same_weights(before, weights(out, stage))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_two_processes_end_where_one_with_the_same_global_batch_ends(tmp_path, stage):
    one, two = tmp_path / "one", tmp_path / "two"
    flags = ["--max_steps", "4", "--eval_interval", "0"]
    assert run(stage, tmp_path, *flags, "--batch_size", 4, "--out_dir", one) == 0
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "minimind_ref.train")
    start, data = tmp_path / "start", tmp_path / f"{stage}.jsonl"
    given = [stage, "--init_from", start, "--data_path", data, *CPU, *FLAGS[stage], *flags]
    result = train_elsewhere(*given, "--batch_size", 2, "--out_dir", two, module=torchrun)
    assert result.returncode == 0, result.stderr
    rounding = Ulps(2**12, "float32", "gradients summed in another order, through Adam's quotient, for 4 steps")
    for key, tensor in weights(one, stage).items():
        allowed = rounding.of(torch.full_like(tensor, float(tensor.abs().max())).numpy())
        assert_within(weights(two, stage)[key], tensor, allowed)


def test_two_processes_of_reinforcement_share_their_gradients(tmp_path):
    """The ranks sample different answers; their weights stay the same, and both ranks' answers are counted."""
    run("grpo", tmp_path, "--max_steps", "1", "--out_dir", tmp_path / "one")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "minimind_ref.train")
    start, data = tmp_path / "start", tmp_path / "grpo.jsonl"
    given = ["grpo", "--init_from", start, "--data_path", data, *CPU, *FLAGS["grpo"], "--max_steps", "3"]
    result = train_elsewhere(*given, "--out_dir", tmp_path / "two", module=torchrun)
    assert result.returncode == 0, result.stderr
    assert "× 2 processes" in result.stdout and result.stdout.count("finished") == 1
    state = torch.load(tmp_path / "two" / "grpo_resume.pt", weights_only=True)["stage_state"]
    rollouts = [rank["rollouts"][0] for rank in state]
    assert len(state) == 2 and not torch.equal(rollouts[0]["old_logp"], rollouts[1]["old_logp"])


BAD = {
    "sft": [
        ('{"conversations": []}', "no message"),
        ('{"conversations": [{"role": "wizard", "content": "x"}]}', "wizard"),
        ('{"conversations": [{"role": "user", "content": "x"}]}', "assistant"),
        ('{"text": "x"}', "conversations"),
    ],
    "dpo": [
        (json.dumps({"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                     "rejected": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}), "differ"),
        ('{"chosen": [{"role": "user", "content": "x"}]}', "rejected"),
    ],
    "grpo": [('{"conversations": []}', "no message"), ("{", "not JSON")],
}  # fmt: skip


@pytest.mark.parametrize(("stage", "line", "message"), [(s, *case) for s, cases in BAD.items() for case in cases])
def test_bad_records_are_one_line_with_file_and_number(tmp_path, capsys, stage, line, message):
    start, data = write_network(tmp_path / "start"), tmp_path / "data.jsonl"
    data.write_text(line + "\n")
    assert train(stage, "--init_from", start, "--data_path", data, *CPU, "--out_dir", tmp_path / "out") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "data.jsonl:1" in error and message in error


@pytest.mark.parametrize(
    ("stage", "flags", "message"),
    [
        ("sft", ["--init_from", None], "sft starts from trained weights: give --init_from"),
        ("dpo", ["--data_path", None], "dpo needs --data_path"),
        ("dpo", ["--dropout", "0.1"], "dpo compares two networks"),
        ("grpo", ["--dropout", "0.1"], "grpo compares two networks"),
        ("dpo", ["--beta", "0"], "--beta 0 would make every pair's loss a constant"),
        ("dpo", ["--label_smoothing", "0.6"], "--label_smoothing 0.6 must be at most 0.5"),
        ("dpo", ["--label_smoothing", "0.1", "--loss", "ipo"], "a meaning for --loss sigmoid only"),
        ("grpo", ["--clip_low", "1.5"], "--clip_low 1.5 must be at most 1"),
        ("grpo", ["--num_generations", "1"], "--num_generations 1 must be at least 2: a group of one has no mean"),
        ("grpo", ["--temperature", "0"], "--temperature 0"),
        ("grpo", ["--reward", "exact"], "did you mean exact_match"),
        ("grpo", ["--max_seq_len", "3"], "longer than a prompt may be"),
        ("grpo", ["--max_new_tokens", "32768"], "more than the network's max_position_embeddings=32768"),
        ("sft", ["--beta", "0.1"], "unknown flag --beta"),
        ("dpo", ["--hidden_size", "32"], "hidden_size=16"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, capsys, stage, flags, message):
    given = {"--init_from": write_network(tmp_path / "start"), "--out_dir": tmp_path / "out"}
    given["--data_path"] = (write_pairs if stage == "dpo" else write_conversations)(tmp_path / "data.jsonl")
    given |= dict(zip(flags[::2], flags[1::2], strict=True))
    words = [word for flag, value in given.items() if value is not None for word in (flag, value)]
    assert train(stage, *words, *CPU) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_compat_starts_from_weights_that_were_trained_without_it(tmp_path):
    assert run("sft", tmp_path, "--compat", "minimind2", "--max_steps", "1", "--out_dir", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out/config.json").read_text())["model"]["aux_loss_counts_padding"]
