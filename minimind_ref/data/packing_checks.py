"""What `packing` refuses, each a ValueError that names the argument and its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def check_length(length: int) -> None:
    """Raise ValueError for a row in which nothing can be learnt from its own tokens."""
    if length < 2:
        raise ValueError(f"length={length} must be at least 2")


def checked_documents(documents: Sequence[Any], length: int, pad_id: int) -> list[np.ndarray]:
    """Return the documents as int64 arrays; raise ValueError for what packing refuses (PACKING-12)."""
    check_length(length)
    if pad_id < 0:
        raise ValueError(f"pad_id={pad_id} must not be negative")
    if len(documents) == 0:
        raise ValueError("documents has 0 entries; at least 1 is needed")
    arrays = [np.asarray(document) for document in documents]
    for number, array in enumerate(arrays):
        if array.ndim != 1:
            raise ValueError(f"documents[{number}] has {array.ndim} axes; it must have 1")
        if array.size == 0:
            raise ValueError(f"documents[{number}] has 0 tokens; at least 1 is needed")
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"documents[{number}] has dtype {array.dtype}; token ids are integers")
        if array.min() < 0:
            raise ValueError(f"documents[{number}] has the id {array.min()}; token ids are not negative")
    return [array.astype(np.int64) for array in arrays]


def checked_masks(supervised: Sequence[Any] | None, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Return a bool mask for each document, of ones where none are given; raise ValueError for others (PACKING-16)."""
    if supervised is None:
        return [np.ones(len(array), dtype=bool) for array in arrays]
    if len(supervised) != len(arrays):
        raise ValueError(f"supervised has {len(supervised)} masks but documents has {len(arrays)} entries")
    masks = [np.asarray(mask) for mask in supervised]
    for number, (mask, array) in enumerate(zip(masks, arrays, strict=True)):
        if mask.shape != array.shape:
            raise ValueError(f"supervised[{number}] has shape {mask.shape} but documents[{number}] {array.shape}")
        if not np.isin(mask, (0, 1)).all():
            raise ValueError(f"supervised[{number}] holds {mask[~np.isin(mask, (0, 1))][0]}; a mask is of 0 and 1")
    return [mask.astype(bool) for mask in masks]
