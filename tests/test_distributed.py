"""What passes between two processes: weights, gradients, sums, and that nothing of the group outlives it."""

import json
import os
import subprocess
import sys

import pytest
from runs import ROOT

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
