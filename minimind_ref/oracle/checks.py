"""Checks of an oracle's arguments: each raises a ValueError that names the argument and both sizes."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np


def float64(array: Any) -> Any:
    """Widen real NumPy arrays to an oracle's precision; arrays that carry bounds pass through."""
    return np.asarray(array, np.float64) if isinstance(array, np.ndarray) and array.dtype.kind in "iuf" else array


def require_rank(name: str, array: Any, rank: int, at_least: bool = False) -> None:
    """Refuse an array that has not `rank` axes (or, `at_least`, fewer)."""
    if array.ndim < rank or (array.ndim > rank and not at_least):
        bound = "at least " if at_least else ""
        raise ValueError(f"{name} has {array.ndim} axes but needs {bound}{rank}; its shape is {tuple(array.shape)}")


def require_equal(name_a: str, size_a: int | Sequence[int], name_b: str, size_b: int | Sequence[int]) -> None:
    """Refuse two sizes, or two shapes, that differ; the names say whose they are, as in "width of weight"."""
    if size_a != size_b:
        raise ValueError(f"{name_a} is {size_a} but {name_b} is {size_b}")


def require_positive(name: str, size: int) -> None:
    """Refuse an axis without entries, as an empty sequence has."""
    if size < 1:
        raise ValueError(f"{name} is {size} but must be at least 1")


def require_finite(name: str, value: Any, least: float | None = None) -> None:
    """Refuse NaN, an infinity, and a number below `least`."""
    if not np.isfinite(value) or (least is not None and value < least):
        raise ValueError(f"{name}={value} must be finite" + ("" if least is None else f" and at least {least:g}"))


def require_option(name: str, value: Any, options: Collection[str]) -> None:
    """Refuse a choice that does not exist."""
    if value not in options:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(options)}")


def require_ids(name: str, ids: Any, size: int, kind: str = "vocabulary") -> None:
    """Refuse ids outside 0 … size − 1; the message shows the first one."""
    outside = ids[(ids < 0) | (ids >= size)]
    if outside.size:
        raise ValueError(f"{name} holds {int(outside.flat[0])} but the {kind} has {size} entries")
