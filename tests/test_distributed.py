"""What passes between two processes: weights, gradients, sums, and that nothing of the group outlives it."""

import importlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from runs import ROOT

from minimind_ref.errors import UserError
from minimind_ref.train.distributed import (
    Ranks,
    gather,
    is_left_alone,
    local_rank,
    main_first,
    process_group,
    share_weights,
    sum_gradients,
    total,
)

CPU = torch.device("cpu")

RANKS = """
import json
import os
import torch
from minimind_ref.train.distributed import gather, process_group, share_weights, sum_gradients, total

cpu = torch.device("cpu")
with process_group(True, cpu) as ranks:
    torch.manual_seed(ranks.rank)
    model = torch.nn.Linear(3, 2)
    torch.optim.SGD(model.parameters())  # which imports the compiler
    own = model.weight.detach().clone()
    share_weights(model, ranks)
    model.weight.grad = torch.full((2, 3), 2.0 + 3.0 * ranks.rank)  # and none of the bias
    sum_gradients(model, ranks)
    found = {
        "weights": gather([own.tolist(), model.weight.tolist()], ranks),
        "gradient": model.weight.grad.tolist(),
        "bias": model.bias.grad,
        "total": total([ranks.rank + 1.0, 0.25], ranks, cpu),
    }
    main = ranks.main
tasks = "/proc/self/task"
threads = [open(f"{tasks}/{t}/comm").read().strip() for t in os.listdir(tasks)] if os.path.isdir(tasks) else []
found["left"] = [name for name in threads if "gloo" in name]
if main:
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    script = tmp_path_factory.mktemp("ranks") / "ranks.py"
    script.write_text(RANKS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([*torchrun, script], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_every_rank_begins_with_the_first_ones_weights(found):
    (first, first_after), (second, second_after) = found["weights"]
    assert first != second and first_after == second_after == first


def test_a_gradient_becomes_the_sum_over_the_ranks(found):
    assert found["gradient"] == [[7.0] * 3] * 2 and found["bias"] is None
    assert found["total"] == [3.0, 0.5]


def test_no_thread_of_the_group_outlives_it(found):
    """torch keeps them where it imports its compiler under a live group, and then aborts one exit in 25."""
    assert found["left"] == []


def work(ranks, folder):
    """What one of two ranks finds, in the order in which it is told."""
    model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.fill_(ranks.rank)
    share_weights(model, ranks)
    model.weight.grad = torch.full((1, 2), 2.0 + 3.0 * ranks.rank)  # and none of the bias
    sum_gradients(model, ranks)
    with main_first(ranks):
        if ranks.main:
            time.sleep(0.1)
            (folder / "made").touch()
        there = (folder / "made").exists()
    sums = total([ranks.rank + 1.0, 0.1], ranks, CPU)
    return [ranks, model.weight.tolist(), model.weight.grad.tolist(), model.bias.grad, there, sums]


def one_of_two(rank, port, folder, results):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with process_group(True, CPU) as ranks:
        results.put((rank, work(ranks, folder), gather(f"of {rank}", ranks)))
    results.put((rank, dist.is_initialized(), None))


@pytest.mark.skipif(sys.platform != "linux", reason="a fork of a process that has loaded torch is sound there")
@pytest.mark.filterwarnings("ignore:This process .*multi-threaded:DeprecationWarning")
def test_a_process_and_its_fork_share_weights_gradients_sums_and_objects(tmp_path, monkeypatch):
    """The first rank makes what the other one then finds; a sum is in float64, where a third of 0.1 is no rounding."""
    importlib.import_module("torch._dynamo")  # once, not in each fork
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what is set below does not stay
    fork = context.Process(target=one_of_two, args=(1, port, tmp_path, results))
    fork.start()
    one_of_two(0, port, tmp_path, results)
    found = [results.get(timeout=60) for _ in range(4)]
    fork.join(timeout=60)
    assert fork.exitcode == 0
    for rank in (0, 1):
        (_, own, objects), (_, still_there, _) = (entry for entry in found if entry[0] == rank)
        assert own == [Ranks(rank, 2), [[0.0, 0.0]], [[7.0, 7.0]], None, True, [3.0, 0.2]]
        assert objects == ["of 0", "of 1"] and not still_there


def test_alone_nothing_is_asked_of_others(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with process_group(False, CPU) as ranks, main_first(ranks):
        assert ranks == Ranks(0, 1) and ranks.main and not Ranks(1, 2).main
        model = torch.nn.Linear(2, 1)
        model.weight.grad = torch.ones(1, 2)
        share_weights(model, ranks)
        sum_gradients(model, ranks)
        assert model.weight.grad.tolist() == [[1.0, 1.0]]
        assert total([1, 2.5], ranks, CPU) == [1.0, 2.5] and gather("x", ranks) == ["x"]
    with pytest.raises(UserError, match="--ddp needs torchrun"), process_group(True, CPU):
        pass


def test_the_first_process_works_before_the_others(monkeypatch):
    seen = []
    monkeypatch.setattr(dist, "barrier", lambda: seen.append("wait"))
    for ranks in (Ranks(), Ranks(0, 2), Ranks(1, 2)):
        with main_first(ranks):
            seen.append("work")
    assert seen == ["work", *("work", "wait"), *("wait", "work")]


def test_a_group_on_cuda_speaks_nccl_on_its_own_device_and_finds_the_compiler_loaded(monkeypatch):
    seen = []
    monkeypatch.setattr(importlib, "import_module", seen.append)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    monkeypatch.setattr(dist, "init_process_group", seen.append)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: seen.append("end"))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    for device in (torch.device("cuda", 1), CPU):
        with process_group(False, device) as ranks:
            assert ranks == Ranks(1, 2)
    assert seen == ["torch._dynamo", torch.device("cuda", 1), "nccl", "end", "torch._dynamo", "gloo", "end"]


def test_the_sums_of_gradients_go_together_and_each_is_waited_for(monkeypatch):
    model, pending = torch.nn.Linear(2, 1), []

    def all_reduce(tensor, async_op):
        assert async_op
        pending.append(tensor)
        return SimpleNamespace(wait=lambda: tensor.mul_(len(pending)))

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    model.weight.grad, model.bias.grad = torch.ones(1, 2), torch.ones(1)
    sum_gradients(model, Ranks(0, 2))
    assert model.weight.grad.tolist() == [[2.0, 2.0]] and model.bias.grad.tolist() == [2.0]


def test_the_number_on_the_machine_is_torchrun_s_else_the_flag_s(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert (local_rank(), local_rank(3)) == (-1, 3)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert local_rank() == local_rank(3) == 2


def test_what_the_end_of_another_process_raises_is_told_from_other_errors():
    errors = dist.DistBackendError("x"), RuntimeError("[../gloo/transport] closed"), RuntimeError("x")
    assert [is_left_alone(error) for error in errors] == [True, True, False]
