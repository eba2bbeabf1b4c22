"""torch.distributed under torchrun: who this process is, and sums over all of them."""

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from minimind_ref.errors import UserError


class Ranks(NamedTuple):
    """This process among all; a single one is rank 0 of 1."""

    rank: int = 0
    world_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0


def local_rank(given: int = -1) -> int:
    """The process's number on its machine, from torchrun or the flag; -1 where there is only one."""
    return int(os.environ.get("LOCAL_RANK", given))


@contextmanager
def process_group(insist: bool, device: torch.device) -> Iterator[Ranks]:
    """Join the group that torchrun describes, over nccl on CUDA and gloo elsewhere; leave it at the end."""
    if "RANK" not in os.environ:
        if insist:
            raise UserError("--ddp needs torchrun: torchrun --nproc_per_node 2 -m minimind_ref.train …")
        yield Ranks()
        return
    # torch imports this on the way; imported under a live group it keeps the group's threads, which abort some exits
    importlib.import_module("torch._dynamo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@contextmanager
def main_first(ranks: Ranks) -> Iterator[None]:
    """Let the first rank through before the others, which then find its work done."""
    if not ranks.main:
        dist.barrier()
    yield
    if ranks.world_size > 1 and ranks.main:
        dist.barrier()


def share_weights(model: nn.Module, ranks: Ranks) -> None:
    """Give every rank the first one's weights."""
    if ranks.world_size > 1:
        for parameter in model.parameters():
            dist.broadcast(parameter.detach(), src=0)


def sum_gradients(model: nn.Module, ranks: Ranks) -> None:
    """Replace each gradient by its sum over the ranks; whatever a rank called to get its own plays no part.

    A parameter that is trained has a gradient on every rank, if only of zeros (MOE-9).
    """
    if ranks.world_size == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    for work in [dist.all_reduce(g, async_op=True) for g in gradients]:  # small ones go together
        if work is not None:
            work.wait()


def total(values: Sequence[float], ranks: Ranks, device: torch.device) -> list[float]:
    """Each value summed over the ranks, in float64 (float32 on MPS, which has one rank)."""
    if ranks.world_size == 1:
        return [float(v) for v in values]
    summed = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(summed)
    return summed.tolist()


def gather(value: object, ranks: Ranks) -> list[object]:
    """One object of every rank, in their order."""
    gathered: list[object] = [value] * ranks.world_size
    if ranks.world_size > 1:
        dist.all_gather_object(gathered, value)
    return gathered


def is_left_alone(error: RuntimeError) -> bool:
    """Whether another process has ended before this one; gloo has no exception of its own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
