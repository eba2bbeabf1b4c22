"""Documents to rows of equal length: each entry is looked up by where its token went, no stream is sliced."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from minimind_ref.oracle.checks import require_equal, require_positive

IGNORED = -100
Place = dict[tuple[int, int], tuple[int, int]]  # (document, index) -> (row, column)


class Rows(NamedTuple):
    """A batch; `labels` are aligned (row, column for row, column) and -100 where nothing is predicted."""

    input_ids: Int64[np.ndarray, "b s"]
    labels: Int64[np.ndarray, "b s"]
    segment_ids: Int64[np.ndarray, "b s"]
    position_ids: Int64[np.ndarray, "b s"]


def pack(
    documents: Sequence[Sequence[Any]],
    length: int,
    *,
    pad_id: int = 0,
    supervised: Sequence[Sequence[Any]] | None = None,
) -> Rows:
    """Lay documents end to end: the k-th of all tokens goes to (k div length, k mod length) (PACKING-1, PACKING-2)."""
    _check(documents, length, pad_id, supervised)
    tokens = [(d, i) for d, document in enumerate(documents) for i in range(len(document))]
    place = {token: divmod(k, length) for k, token in enumerate(tokens)}
    rows = _fill(documents, place, (1 + place[tokens[-1]][0], length), pad_id)
    return rows if supervised is None else _unlearn(rows, supervised, place)


def pad(
    documents: Sequence[Sequence[Any]],
    length: int,
    *,
    pad_id: int = 0,
    keep_end: bool = False,
    supervised: Sequence[Sequence[Any]] | None = None,
) -> Rows:
    """Give each document a row: its first `length` tokens, or (keep_end) one less and its last (PACKING-9, -14)."""
    _check(documents, length, pad_id, supervised)
    kept = [_cut(document, length, keep_end) for document in documents]
    place = {(d, i): (d, i) for d, document in enumerate(kept) for i in range(len(document))}
    rows = _fill(kept, place, (len(kept), length), pad_id)
    return rows if supervised is None else _unlearn(rows, [_cut(s, length, keep_end) for s in supervised], place)


def _cut(entries: Sequence[Any], length: int, keep_end: bool) -> Sequence[Any]:
    """Keep the first `length` entries; with `keep_end` the last of all stands in the place of their last."""
    return [*entries[:length][:-1], entries[-1]] if keep_end else entries[:length]


def _unlearn(rows: Rows, supervised: Sequence[Sequence[Any]], place: Place) -> Rows:
    """Take the label away from the predecessor of every token that is not supervised (PACKING-15)."""
    for (d, i), where in place.items():
        if (d, i + 1) in place and not supervised[d][i + 1]:
            rows.labels[where] = IGNORED
    return rows


def _fill(documents: Sequence[Sequence[Any]], place: Place, shape: tuple[int, int], pad_id: int) -> Rows:
    rows = Rows(*(np.full(shape, value, np.int64) for value in (pad_id, IGNORED, -1, 0)))
    begin: dict[tuple[int, int], int] = {}  # (row, document) -> the first index of the document that the row holds
    for (d, i), (row, _) in place.items():
        begin[row, d] = min(i, begin.get((row, d), i))
    for (d, i), (row, column) in place.items():
        at = (row, column)
        rows.input_ids[at] = documents[d][i]
        rows.labels[at] = documents[d][i + 1] if (d, i + 1) in place else IGNORED
        rows.segment_ids[at] = sum(other_row == row and other < d for other_row, other in begin)
        rows.position_ids[at] = i - begin[row, d]
    return rows


def _check(
    documents: Sequence[Sequence[Any]], length: int, pad_id: int, supervised: Sequence[Sequence[Any]] | None
) -> None:
    if length < 2:
        raise ValueError(f"length is {length} but must be at least 2")
    if pad_id < 0:
        raise ValueError(f"pad_id={pad_id} must be at least 0")
    require_positive("number of documents", len(documents))
    for d, document in enumerate(documents):
        require_positive(f"length of documents[{d}]", len(document))
        for token in document:
            if not isinstance(token, int | np.integer):
                raise ValueError(f"documents[{d}] holds {token!r} but ids are integers")
        if min(document) < 0:
            raise ValueError(f"documents[{d}] holds {min(document)} but ids are at least 0")
    if supervised is None:
        return
    require_equal("number of masks in supervised", len(supervised), "number of documents", len(documents))
    for d, (mask, document) in enumerate(zip(supervised, documents, strict=True)):
        require_equal(f"length of supervised[{d}]", len(mask), f"length of documents[{d}]", len(document))
        for flag in mask:
            if flag not in (0, 1):
                raise ValueError(f"supervised[{d}] holds {flag!r} but a mask is of 0 and 1")
