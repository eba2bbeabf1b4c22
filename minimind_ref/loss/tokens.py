"""What the losses over answers share: token log-probabilities in float32 or wider, and masks that are 0 or 1."""

from typing import Any

import torch
from torch import Tensor

from minimind_ref.checks import require_positive, require_rank, require_shape


def widened(x: Tensor) -> Tensor:
    """Give x in float32, or in its own precision where that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def marked(name: str, tokens: Tensor, mask: Tensor) -> Tensor:
    """Give `mask` as bool, refusing `tokens` that are not (b s), another shape, and entries other than 0 and 1."""
    require_rank(name, tokens, 2)
    require_shape("mask", mask, tuple(tokens.shape), f"the shape of {name}")
    require_axes(name, tokens)
    if mask.dtype != torch.bool:
        other = mask[(mask != 0) & (mask != 1)]
        if other.numel():
            raise ValueError(f"mask holds {other[0].item()} but a position is marked by 1 or not by 0")
    return mask.bool()


def require_axes(name: str, array: Tensor) -> None:
    """Raise ValueError where an axis has no entry."""
    for axis, size in enumerate(array.shape):
        require_positive(f"axis {axis} of {name}", size)


def require_option(name: str, value: Any, options: tuple[str, ...]) -> None:
    """Raise ValueError for a choice that does not exist."""
    if value not in options:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(options)}")
