"""How parameters start, as each generation does it.  Spec: specs/initialisation.md."""

import math

import torch
from torch import Tensor, nn

from minimind_ref.config import CHOICES


@torch.no_grad()
def initialise_(module: nn.Module, *, scheme: str, generator: torch.Generator | None = None) -> None:
    """Fill every parameter in place: vectors (norm weights) with ones, matrices at random (INITIALISATION-1 … 4).

    "fan_in_uniform": U(±1/√columns), torch.nn.Linear's default and so MiniMind2's; "normal": N(0, 0.02²), MiniMind-3's.
    A tied embedding is filled once, as the head.  `generator` lives on the parameters' device.
    """
    if scheme not in CHOICES["initialisation"]:
        raise ValueError(f"scheme={scheme!r} must be one of {', '.join(CHOICES['initialisation'])}")
    for parameter in module.parameters():
        _fill(parameter, scheme, generator)


def _fill(parameter: Tensor, scheme: str, generator: torch.Generator | None) -> None:
    if parameter.ndim == 1:
        parameter.fill_(1.0)
    elif parameter.ndim != 2:
        raise ValueError(f"a parameter has {parameter.ndim} axes, shape {tuple(parameter.shape)}, but may have 1 or 2")
    elif scheme == "fan_in_uniform":
        bound = 1 / math.sqrt(parameter.shape[1])
        parameter.uniform_(-bound, bound, generator=generator)
    else:
        parameter.normal_(0.0, 0.02, generator=generator)
