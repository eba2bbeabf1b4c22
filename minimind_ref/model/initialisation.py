"""How parameters start, as each generation does it.  Spec: specs/initialisation.md."""

import math

import torch
from torch import Tensor, nn


@torch.no_grad()
def initialise_(module: nn.Module, *, scheme: str, generator: torch.Generator | None = None) -> None:
    """Fill every parameter in place: vectors (norm weights) with ones, matrices at random (INITIALISATION-1).

    "fan_in_uniform": U(±1/√columns), torch.nn.Linear's default and so MiniMind2's; "normal": N(0, 0.02²), MiniMind-3's.
    A tied embedding is filled once, as the head.  `generator` lives on the parameters' device.
    """
    for parameter in module.parameters():
        _fill(parameter, scheme, generator)


def _fill(parameter: Tensor, scheme: str, generator: torch.Generator | None) -> None:
    if parameter.ndim == 1:
        parameter.fill_(1.0)
    elif scheme == "fan_in_uniform":
        bound = 1 / math.sqrt(parameter.shape[1])
        parameter.uniform_(-bound, bound, generator=generator)
    elif scheme == "normal":
        parameter.normal_(0.0, 0.02, generator=generator)
    else:
        raise ValueError(f"scheme={scheme!r} must be 'fan_in_uniform' or 'normal'")
