"""Documents to rows of one length: `pack` wastes nothing, `pad` is MiniMind's one document a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from minimind_ref.data.packing_checks import checked_documents, checked_masks

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


def pack(documents: Sequence[Any], length: int, *, pad_id: int = 0, supervised: Sequence[Any] | None = None) -> Rows:
    """Cut the documents, one after the other, into rows of `length` tokens (PACKING-1, PACKING-2).

    A document that crosses a row's end goes on in the next row as a new piece, its positions counted from 0 again
    (PACKING-3, -4).  A label is the next token of the same document, in the next row if need be (PACKING-5, -6).
    supervised: a mask for each document; a token that is not supervised is nobody's label (PACKING-15).
    Raises ValueError for no documents, an empty one, a negative id, a length below 2, a mask of another size
    (PACKING-12, -16).
    """
    arrays = checked_documents(documents, length, pad_id)
    masks = checked_masks(supervised, arrays)
    stream, learnt = np.concatenate(arrays), np.concatenate(masks)
    starts = np.cumsum([0] + [len(array) for array in arrays[:-1]])
    rows = []
    for begin in range(0, len(stream), length):
        ahead = begin + length + 1
        inside = starts[np.searchsorted(starts, begin) : np.searchsorted(starts, ahead)] - begin
        rows.append(packed_row(stream[begin:ahead], inside, length, pad_id=pad_id, supervised=learnt[begin:ahead]))
    return Rows(*map(np.stack, zip(*rows, strict=True)))


def pad(
    documents: Sequence[Any],
    length: int,
    *,
    pad_id: int = 0,
    keep_end: bool = False,
    supervised: Sequence[Any] | None = None,
) -> Rows:
    """Lay one document in each row, cut to `length` tokens or padded on the right (PACKING-9, -10).

    keep_end: a document that is cut keeps its last token, so that a wrapped one still ends with the end token;
    this is MiniMind-3's cut of the text to length - 2 before wrapping it (PACKING-14).
    Masks and refusals are those of `pack`.
    """
    arrays = checked_documents(documents, length, pad_id)
    masks = checked_masks(supervised, arrays)
    rows = [
        padded_row(array, length, pad_id=pad_id, keep_end=keep_end, supervised=mask)
        for array, mask in zip(arrays, masks, strict=True)
    ]
    return Rows(*map(np.stack, zip(*rows, strict=True)))


def packed_row(
    tokens: Int[np.ndarray, " n"],
    starts: Int[np.ndarray, " m"],
    length: int,
    *,
    pad_id: int,
    supervised: Bool[np.ndarray, " n"] | None = None,
) -> Rows:
    """One row from a stream's next length + 1 tokens (fewer only where the stream ends): the last is looked at only.

    starts: the indices in `tokens` at which a document begins.  supervised: which of `tokens` may be labels.
    """
    begins = np.zeros(len(tokens), dtype=bool)
    begins[starts] = True
    labels = np.full(len(tokens), IGNORE, dtype=np.int64)
    is_label = ~begins if supervised is None else supervised & ~begins
    labels[:-1] = np.where(is_label[1:], tokens[1:], IGNORE)
    begins[0] = True  # whatever opens the row is a new piece, also the rest of a document
    segment = np.cumsum(begins) - 1
    index = np.arange(len(tokens))
    position = index - np.maximum.accumulate(np.where(begins, index, 0))
    row = Rows(tokens.astype(np.int64), labels, segment, position)
    return Rows(*(_to_length(x, length, fill) for x, fill in zip(row, (pad_id, IGNORE, PADDING, 0), strict=True)))


def padded_row(
    tokens: Int[np.ndarray, " n"],
    length: int,
    *,
    pad_id: int,
    keep_end: bool,
    supervised: Bool[np.ndarray, " n"] | None = None,
) -> Rows:
    """One row from one document."""
    kept = np.arange(min(len(tokens), length))
    if keep_end and len(tokens) > length:
        kept[-1] = len(tokens) - 1
    learnt = None if supervised is None else supervised[kept]
    return packed_row(tokens[kept], np.zeros(1, dtype=np.int64), length, pad_id=pad_id, supervised=learnt)


def blank_row(length: int, *, pad_id: int) -> Rows:
    """One row of padding only."""
    return Rows(*(np.full(length, fill, dtype=np.int64) for fill in (pad_id, IGNORE, PADDING, 0)))


def _to_length(x: np.ndarray, length: int, fill: int) -> np.ndarray:
    if len(x) >= length:
        return x[:length]
    return np.concatenate([x, np.full(length - len(x), fill, dtype=np.int64)])
