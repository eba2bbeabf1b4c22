"""Hypothesis strategies over (seed, shape, scale, structure): hypothesis shrinks those four, `draw` fills the array.

`hypothesis.extra.numpy.arrays` is not used: its default fill makes most entries equal, and then permutations, masks
and reductions are not tested at all.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from arrays import STRUCTURES, draw, draw_integers
from hypothesis import strategies as st

PRIMES = (2, 3, 5, 7, 11, 13)
SIGNED = ("normal", "uniform", "heavy", "sorted", "alternating")

seeds = st.integers(0, 2**32 - 1)


def scales(low: int = -6, high: int = 6) -> st.SearchStrategy[float]:
    """Powers of two: multiplying by them rounds nothing."""
    return st.integers(low, high).map(lambda exponent: 2.0**exponent)


def axes(count: int, *, of: Sequence[int] = PRIMES) -> st.SearchStrategy[tuple[int, ...]]:
    """Distinct primes, one for each axis, so that no two axes can be confused and none is 1."""
    return st.permutations(list(of)).map(lambda primes: tuple(primes[:count]))


def structures(of: Sequence[str] = SIGNED) -> st.SearchStrategy[str]:
    """Names of structures; `all_structures` has the tiny, large, offset, positive and tied ones as well."""
    return st.sampled_from(list(of))


all_structures = structures(list(STRUCTURES))


@st.composite
def arrays(draw_: st.DrawFn, shape: Sequence[int], *, of: Sequence[str] = SIGNED, low: int = -6, high: int = 6):
    """Float64 arrays of one shape: any seed, a scale 2^low … 2^high, one of the structures `of`."""
    return draw(draw_(seeds), shape, draw_(scales(low, high)), draw_(structures(of)))


@st.composite
def indices(draw_: st.DrawFn, shape: Sequence[int], low: int, high: int):
    """Int64 arrays with low ≤ entry < high: token ids, labels, positions."""
    return draw_integers(draw_(seeds), shape, low, high)


@st.composite
def cuts(draw_: st.DrawFn, n: int, *, max_pieces: int | None = None) -> list[slice]:
    """Cut range(n) at random into consecutive, non-empty pieces: micro-batches, ranks, packs, chunks before a cache."""
    inner = st.sets(st.integers(1, n - 1), max_size=(max_pieces or n) - 1) if n > 1 else st.just(set())
    edges = [0, *sorted(draw_(inner)), n]
    return [slice(a, b) for a, b in pairwise(edges)]


def lengths(count: int, longest: int, *, shortest: int = 1) -> st.SearchStrategy[list[int]]:
    """Lengths of `count` rows in a batch, not all the same."""
    rows = st.lists(st.integers(shortest, longest), min_size=count, max_size=count)
    return rows.filter(lambda row: count == 1 or shortest == longest or len(set(row)) > 1)


sides = st.sampled_from(["left", "right", "none"])


def pad(rows: Sequence[np.ndarray], side: str, value: float) -> tuple[np.ndarray, np.ndarray]:
    """Stack rows of unequal length into (padded, mask): 1 marks a real entry; "none" wants rows of equal length."""
    if side not in ("left", "right", "none"):
        raise ValueError(f"side is {side!r} but must be left, right or none")
    width = max(len(row) for row in rows)
    if side == "none" and any(len(row) != width for row in rows):
        raise ValueError(f"side is none but the rows have lengths {[len(row) for row in rows]}")
    padded = np.full((len(rows), width, *rows[0].shape[1:]), value, rows[0].dtype)
    mask = np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        span = slice(width - len(row), None) if side == "left" else slice(0, len(row))
        padded[i, span], mask[i, span] = row, 1
    return padded, mask


@st.composite
def paddings(draw_: st.DrawFn, count: int, longest: int) -> tuple[str, list[int]]:
    """A side and the rows' lengths: equal ones for "none", unequal ones for left and right."""
    side = draw_(sides)
    return side, [longest] * count if side == "none" else draw_(lengths(count, longest))
