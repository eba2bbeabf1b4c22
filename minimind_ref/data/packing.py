"""Documents to rows of one length: `pack` wastes nothing, `pad` is MiniMind's one document a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

IGNORE = -100
"""The label of a position that has nothing to predict."""
PADDING = -1
"""The segment id of padding."""


class Rows(NamedTuple):
    """Rows ready for the network, int64: labels are aligned with the inputs (no further shift)."""

    input_ids: Int[np.ndarray, "*r s"]
    labels: Int[np.ndarray, "*r s"]
    segment_ids: Int[np.ndarray, "*r s"]
    position_ids: Int[np.ndarray, "*r s"]


def pack(documents: Sequence[Any], length: int, *, pad_id: int = 0) -> Rows:
    """Cut the documents, one after the other, into rows of `length` tokens (PACKING-1, PACKING-2).

    A document that crosses a row's end goes on in the next row as a new piece, its positions counted from 0 again
    (PACKING-3, -4).  A label is the next token of the same document, in the next row if need be (PACKING-5, -6).
    Raises ValueError for no documents, an empty one, a negative id, a length below 2 (PACKING-12).
    """
    arrays = _checked(documents, length, pad_id)
    stream = np.concatenate(arrays)
    starts = np.cumsum([0] + [len(array) for array in arrays[:-1]])
    rows = []
    for begin in range(0, len(stream), length):
        ahead = begin + length + 1
        inside = starts[np.searchsorted(starts, begin) : np.searchsorted(starts, ahead)] - begin
        rows.append(packed_row(stream[begin:ahead], inside, length, pad_id=pad_id))
    return Rows(*map(np.stack, zip(*rows, strict=True)))


def pad(documents: Sequence[Any], length: int, *, pad_id: int = 0, keep_end: bool = False) -> Rows:
    """Lay one document in each row, cut to `length` tokens or padded on the right (PACKING-9, -10).

    keep_end: a document that is cut keeps its last token, so that a wrapped one still ends with the end token;
    this is MiniMind-3's cut of the text to length - 2 before wrapping it (PACKING-14).  Refuses what `pack` refuses.
    """
    arrays = _checked(documents, length, pad_id)
    rows = [padded_row(array, length, pad_id=pad_id, keep_end=keep_end) for array in arrays]
    return Rows(*map(np.stack, zip(*rows, strict=True)))


def packed_row(tokens: Int[np.ndarray, " n"], starts: Int[np.ndarray, " m"], length: int, *, pad_id: int) -> Rows:
    """One row from a stream's next length + 1 tokens (fewer only where the stream ends): the last is looked at only.

    starts: the indices in `tokens` at which a document begins.
    """
    begins = np.zeros(len(tokens), dtype=bool)
    begins[starts] = True
    labels = np.full(len(tokens), IGNORE, dtype=np.int64)
    labels[:-1] = np.where(begins[1:], IGNORE, tokens[1:])
    begins[0] = True  # whatever opens the row is a new piece, also the rest of a document
    segment = np.cumsum(begins) - 1
    index = np.arange(len(tokens))
    position = index - np.maximum.accumulate(np.where(begins, index, 0))
    row = Rows(tokens.astype(np.int64), labels, segment, position)
    return Rows(*(_to_length(x, length, fill) for x, fill in zip(row, (pad_id, IGNORE, PADDING, 0), strict=True)))


def padded_row(tokens: Int[np.ndarray, " n"], length: int, *, pad_id: int, keep_end: bool) -> Rows:
    """One row from one document."""
    kept = tokens[:length]
    if keep_end and len(tokens) > length:
        kept = np.append(tokens[: length - 1], tokens[-1])
    return packed_row(kept, np.zeros(1, dtype=np.int64), length, pad_id=pad_id)


def blank_row(length: int, *, pad_id: int) -> Rows:
    """One row of padding only."""
    return Rows(*(np.full(length, fill, dtype=np.int64) for fill in (pad_id, IGNORE, PADDING, 0)))


def _to_length(x: np.ndarray, length: int, fill: int) -> np.ndarray:
    if len(x) >= length:
        return x[:length]
    return np.concatenate([x, np.full(length - len(x), fill, dtype=np.int64)])


def check_length(length: int) -> None:
    """Raise ValueError for a row in which nothing can be learnt from its own tokens."""
    if length < 2:
        raise ValueError(f"length={length} must be at least 2")


def _checked(documents: Sequence[Any], length: int, pad_id: int) -> list[np.ndarray]:
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
