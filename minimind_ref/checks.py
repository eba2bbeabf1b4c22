"""Refusals that name the argument and both sizes, raised before torch would broadcast or fail."""

import math
from typing import Any


def require_rank(name: str, array: Any, rank: int) -> None:
    """Raise ValueError unless `array` has `rank` axes."""
    if array.ndim != rank:
        raise ValueError(f"{name} has {array.ndim} axes, shape {tuple(array.shape)}, but must have {rank}")


def require_shape(name: str, array: Any, shape: tuple[int, ...], reason: str) -> None:
    """Raise ValueError unless `array` has exactly `shape`; `reason` says where that shape comes from."""
    if tuple(array.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(array.shape)} but must have {shape}: {reason}")


def require_positive(name: str, size: int) -> None:
    """Raise ValueError unless an axis has an entry, as an empty sequence's has not."""
    if size < 1:
        raise ValueError(f"{name} is {size} but must be at least 1")


def require_finite(name: str, value: float, least: float = -math.inf) -> None:
    """Raise ValueError unless a number is finite and at least `least`."""
    if not least <= value < math.inf or value == -math.inf:
        raise ValueError(f"{name}={value} must be finite" + (f" and at least {least:g}" if least > -math.inf else ""))


def require_integers(name: str, array: Any) -> None:
    """Raise ValueError where a tensor of ids or positions holds floating-point numbers or truth values."""
    if array.is_floating_point() or str(array.dtype) == "torch.bool":
        raise ValueError(f"{name} has dtype {array.dtype} but must hold integers")


def require_range(name: str, array: Any, stop: int, limit: str) -> None:
    """Raise ValueError unless every integer lies in [0, stop); `limit` names what `stop` is."""
    if 0 in array.shape:
        return
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= stop:
        raise ValueError(f"{name} holds {low if low < 0 else high}, outside 0 … {stop - 1} ({limit}={stop})")
