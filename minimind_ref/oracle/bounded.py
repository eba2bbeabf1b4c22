"""Run an oracle's own source on arrays that carry, per element, how far an honest implementation may be from the value.

`Bounded` enters NumPy through its protocols, so no oracle is written twice: on plain arrays it computes float64 values,
on `bound_inputs(…, profile="bfloat16")` the same values with their bounds. This is the project's only source of
tolerances. What an oracle must respect for its bounds to be true:

- A long sum is `np.sum`, `np.mean`, `einsum`, `@`, `np.cumsum`, `np.add.at` or a loop with `+=` (`y[i] += …`): their
  parts are terms of one sum, bounded for *every* order. `total = total + x` takes x as one term.
- Results go into `np.stack` or `np.zeros_like(x, shape=…)`, never into a plain `np.zeros`.
- `store(y)` stands where the spec says that a number is stored; in between, numbers have the accumulation's precision.
- Where the result jumps, use `decide` or `decide_top`: comparisons (`x > 0`) look at values only. A kink without a jump
  is `np.maximum`, `np.minimum`, `np.clip` or `np.abs`.
- A Python or NumPy *scalar* is a literal, rounded unless the format holds it; a plain *array* is exact. A table
  computed from options is neither: `constant(table, like=x)`.
- The formula should be the least accurate honest one: the oracle that writes expm1(x) refuses those that write eˣ − 1.

Not covered: arithmetic that is not IEEE's (TF32, fast-math, flushing subnormals except after exponentials).
Source: Wilkinson 1986, "Error analysis revisited" (running error bounds); Higham 2002, chapters 3 and 4.
"""

from typing import TYPE_CHECKING, Any, Union

import numpy as np

from minimind_ref.oracle import bounded_elements, bounded_sums  # noqa: F401  # they teach Bounded NumPy's functions
from minimind_ref.oracle import propagation as rules
from minimind_ref.oracle.bounded_array import Bounded, bound, lift, undecided, value
from minimind_ref.oracle.bounded_exponentials import log_sigmoid, logsumexp, open_share, sigmoid, softmax, softplus
from minimind_ref.oracle.precision import PROFILES, Profile, as_profile, gamma

__all__ = [
    "PROFILES",
    "Array",
    "Bounded",
    "Profile",
    "bound",
    "bound_inputs",
    "constant",
    "decide",
    "decide_top",
    "log_sigmoid",
    "logsumexp",
    "open_share",
    "sigmoid",
    "softmax",
    "softplus",
    "store",
    "undecided",
    "value",
]

if TYPE_CHECKING:
    Array = np.ndarray
else:
    # np.generic is what NumPy returns instead of an array without axes.
    Array = Union[np.ndarray, np.generic, Bounded]  # noqa: UP007


def bound_inputs(*arrays: Any, profile: str | Profile) -> tuple:
    """Round floating inputs to the profile's storage format and return them, from then on exact, as Bounded arrays.

    Integers, booleans, None and whatever else is not floating pass through.
    """
    profile = as_profile(profile)

    def rounded(x: Any) -> Any:
        if isinstance(x, Bounded) or np.asarray(x).dtype.kind != "f":
            return x
        return Bounded(np.array(profile.storage.round(x)), 0.0, profile)

    return tuple(rounded(x) for x in arrays)


def constant(table: Any, *, like: Any, ulps: float | int = 1) -> Any:
    """Mark a table computed from options as wrong by up to `ulps` of the accumulation format, if `like` is Bounded."""
    if not isinstance(like, Bounded):
        return table
    table = np.array(table, np.float64)
    return Bounded(table, gamma(2 * ulps, like.profile.unit) * np.abs(table), like.profile)


def store(y: Any) -> Any:
    """Round to the storage format where the spec says so: e ← e + u_s(|y| + e) + the smallest subnormal.

    The identity on plain arrays. A number that may exceed the format's largest becomes undecided: an implementation may
    have infinity, a clamped or a wider number there. Exact numbers that the format holds stay exact. What was stored is
    one number: a sum of it does not reorder what it was made of.
    """
    if not isinstance(y, Bounded) or y.value.dtype.kind != "f":
        return y
    return _stored(y, (y.bound == 0) & (y.profile.storage.round(y.value) == y.value))


def store_scaled(y: Any) -> Any:
    """Round to the storage format a factor that may be stored multiplied by a part of the scale, its √ or itself.

    As `store`, but an exact number does not stay exact, since it is another one that is stored.
    """
    return _stored(y, np.zeros(y.shape, bool)) if isinstance(y, Bounded) and y.value.dtype.kind == "f" else y


def of_stored(total: Any, terms: Any) -> Any:
    """Let a sum be made of stored terms where storage is narrower than arithmetic: e ← e + u_s·Σ|term|."""
    if not isinstance(total, Bounded) or total.profile.storage == total.profile.accumulation:
        return total
    added = rules.OWN * total.profile.storage.unit * np.sum(np.abs(value(terms)) + bound(terms))
    return Bounded(total.value.copy(), total.bound + added, total.profile)


def _stored(y: Bounded, kept: np.ndarray) -> Bounded:
    """Add the rounding to the storage format, except to what is kept."""
    fmt = y.profile.storage
    if fmt == y.profile.accumulation:
        return Bounded(y.value.copy(), y.bound.copy(), y.profile)
    with np.errstate(all="ignore"):
        error = np.where(kept, 0.0, fmt.unit * (np.abs(y.value) + y.bound) + fmt.tiny)
        stored, e = rules.settle(fmt, y.value.copy(), rules.OWN * (y.bound + error), certain=kept)
    return Bounded(stored, e, y.profile)


def decide(a: Any, b: Any = 0.0) -> Any:
    """Compare a > b where the result jumps; undecided where |a − b| is within the sum of the two bounds.

    On plain arrays this is `a > b`. On Bounded ones it is a boolean Bounded, its bound infinite where undecided, and
    all that depends on it becomes undecided: `np.where(decide(a, b), x, y)` (unless x = y), products, indexing, `&`,
    `|`, `~`. Tests cap the share of undecided elements, so that nothing hides behind decisions. Two exact equals are
    decided.

    - gradient of a clip: `np.where(decide(x, low) & decide(high, x), cotangent, 0.0)`; the clip itself does not jump
    - gradient of a maximum: `np.where(decide(a, b), cotangent, 0.0)`
    - arg-max: `decide_top(x, 1)[..., 0]`
    - top-k: `index = decide_top(scores, k)`, then `np.take_along_axis(scores, index, axis=-1)`, `experts[index[t, c]]`:
      what is chosen by an undecided index is undecided.
    """
    pair = next((x for x in (a, b) if isinstance(x, Bounded)), None)
    if pair is None:
        return np.asarray(a) > np.asarray(b)
    a, b = lift(a, pair.profile), lift(b, pair.profile)
    with np.errstate(invalid="ignore"):
        room = a.bound + b.bound
        unclear = (room > 0) & ~(np.abs(a.value - b.value) > room)
    return Bounded(a.value > b.value, np.where(unclear, np.inf, 0.0), pair.profile)


def decide_top(x: Any, count: int) -> Any:
    """Choose the `count` largest along the last axis, largest first, ties to the lower index: their indices.

    Of a Bounded array the indices are a Bounded of integers, undecided where another element is equal (implementations
    break ties differently) or within the sum of the two bounds.
    """
    index = np.argsort(-value(x), axis=-1, kind="stable")[..., :count]
    if not isinstance(x, Bounded):
        return index
    chosen, e = (np.take_along_axis(field, index, axis=-1)[..., None] for field in (x.value, x.bound))
    with np.errstate(invalid="ignore"):
        close = ~(np.abs(chosen - x.value[..., None, :]) > e + x.bound[..., None, :])
    close &= index[..., None] != np.arange(x.shape[-1])
    return Bounded(index, np.where(close.any(axis=-1), np.inf, 0.0), x.profile)
