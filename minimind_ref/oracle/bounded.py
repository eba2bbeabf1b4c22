# ruff: noqa: E501
"""Run an oracle's own source on arrays that carry, per element, how far an honest implementation may be from the value.

`Bounded` enters NumPy through its protocols, so the oracle is not written twice: on plain arrays it computes float64 values;
on `bound_inputs(…, profile="bfloat16")` it computes the same values with their bounds. This is the project's only source of
tolerances. What an oracle must respect for its bounds to be true:

- A long sum is `np.sum`, `np.mean`, `einsum`, `@`, `np.cumsum`, `np.add.at`, or a loop with `+=` (also `y[i] += …`): these
  are bounded for *every* order of summation. A chain `a + b + c` is bounded for just that order.
- Results go into `np.stack` or `np.zeros_like(x, shape=…)`, never into a plain `np.zeros`.
- `store(y)` stands where the spec says that a number is stored; in between, numbers are accumulation numbers.
- Where the result jumps, decide with `decide` or `decide_top`; comparisons (`x > 0`) look at values only. A kink without a
  jump is `np.maximum`, `np.minimum`, `np.clip` or `np.abs`.
- A Python or NumPy *scalar* is a literal (rounded once, unless the format holds it); a plain *array* is exact. Tables made of
  options (frequencies) are neither: `constant(table, like=x)`.

Longer than the house's 150 lines: the type, its protocols and the helpers that know its insides are one idea; formats and
elementwise rules live in precision.py and propagation.py.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from minimind_ref.oracle import propagation as rules
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
    "sigmoid",
    "softmax",
    "softplus",
    "store",
    "undecided",
    "value",
]

_ON_VALUES = {
    *(np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal),
    *(np.isfinite, np.isinf, np.isnan, np.sign, np.signbit),
    *(np.argmax, np.argmin, np.argsort, np.shape, np.ndim, np.size, np.nonzero, np.count_nonzero),
}
_RESHAPE = {
    *(np.reshape, np.ravel, np.transpose, np.swapaxes, np.moveaxis, np.squeeze, np.expand_dims, np.broadcast_to),
    *(np.tril, np.triu, np.diagonal, np.flip, np.roll, np.repeat, np.tile, np.copy),
}
_LOGICAL = {
    np.logical_and: np.logical_and,
    np.bitwise_and: np.logical_and,
    np.logical_or: np.logical_or,
    np.bitwise_or: np.logical_or,
}
_NOT = {np.logical_not, np.invert}


class Bounded(NDArrayOperatorsMixin):
    """An array of float64 values and bounds: |implementation − value| ≤ bound, elementwise.

    An infinite bound means *undecided*: the implementation may be anywhere (beyond a jump, or beyond the largest number).
    Whole numbers and booleans (choices) carry bound 0 or infinity.

    `terms` lets sums know their parts, for bounds over every order of summation: what the addends brought with them, the sum
    of their sizes, and how many are not exactly zero.
    """

    def __init__(self, value: Any, bound: Any, profile: str | Profile, terms: tuple | None = None) -> None:
        self.profile = as_profile(profile)
        self.value = np.asarray(value)
        if self.value.dtype.kind == "f":
            self.value = self.value.astype(np.float64, copy=False)
        self.bound = _like(bound, self.value)
        if np.any(self.bound < 0) or np.any(np.isnan(self.bound)):
            raise ValueError("bound has negative or NaN entries")
        size = np.abs(self.value) + self.bound
        self.inherited, self.mass, self.count = terms or (self.bound.copy(), size, (size != 0).astype(np.float64))

    # ---- what an array is to its readers ----
    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    dtype = property(lambda self: self.value.dtype)
    T = property(lambda self: np.transpose(self))

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Bounded({self.value!r}, ±{self.bound!r}, {self.profile.name})"

    def __array__(self, *args: Any, **kwargs: Any):
        raise TypeError(
            "a Bounded would lose its bound here: use np.stack, or np.zeros_like(x, shape=…) and assignment"
        )

    def __float__(self) -> float:
        raise TypeError("float() would lose the bound: keep 0-d arrays, or ask for value(x)")

    def __bool__(self) -> bool:
        raise TypeError("a branch would lose the bound: use np.where(decide(…), …, …)")

    def __index__(self) -> int:
        return int(self.value) if self.value.dtype.kind == "i" else self.value.__index__()

    def reshape(self, *shape: Any):
        """Give another shape to the same elements."""
        return np.reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any):
        """Permute the axes."""
        return np.transpose(self, axes[0] if len(axes) == 1 else axes or None)

    def astype(self, dtype: Any):
        """Convert choices to numbers; numbers stay float64 (rounding is `store`)."""
        return Bounded(self.value.astype(dtype), self.bound, self.profile)

    def _map(self, function: Callable) -> "Bounded":
        v, e, *terms = (function(x) for x in (self.value, self.bound, self.inherited, self.mass, self.count))
        return Bounded(v, e, self.profile, tuple(np.asarray(t) for t in terms))

    def __getitem__(self, key: Any):
        key, lost = _plain_key(key)
        return _poison(self._map(lambda x: x[key]), lost)

    def __setitem__(self, key: Any, new: Any) -> None:
        key, lost = _plain_key(key)
        new = _poison(_lift(new, self.profile), lost)
        for name in ("value", "bound", "inherited", "mass", "count"):
            getattr(self, name)[key] = getattr(new, name)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any):
        with np.errstate(all="ignore"):
            if method == "reduce":
                return _REDUCE[ufunc](*inputs, **{"axis": 0, **kwargs})
            if method == "at" and ufunc is np.add:
                return _add_at(*inputs)
            if method == "outer":
                a, b = (_lift(x, self.profile) for x in inputs)
                return ufunc(a[(...,) + (None,) * b.ndim], b)
            if method != "__call__" or kwargs:
                raise TypeError(f"Bounded has no rule for np.{ufunc.__name__}.{method} with {sorted(kwargs)}")
            if ufunc in _ON_VALUES:
                return ufunc(*(value(x) for x in inputs))
            operands = [_lift(x, self.profile) for x in inputs]
            if out is not None:
                return _in_place(ufunc, out[0], operands)
            return _elementwise(ufunc, operands)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any):
        with np.errstate(all="ignore"):
            if function in _ON_VALUES:
                return function(*(value(x) for x in args), **kwargs)
            if function in _RESHAPE:
                return args[0]._map(lambda x: function(x, *args[1:], **kwargs))
            if function in _FUNCTIONS:
                return _FUNCTIONS[function](*args, **kwargs)
            raise TypeError(f"Bounded has no rule for np.{function.__name__}: add one to oracle/bounded.py")


if TYPE_CHECKING:
    Array = np.ndarray
else:
    # np.generic: what NumPy returns instead of an array with no axes.
    Array = Union[np.ndarray, np.generic, Bounded]  # noqa: UP007


# ---- the public helpers ----
def value(x: Any) -> Any:
    """Give the plain values of a Bounded; anything else passes through."""
    return x.value if isinstance(x, Bounded) else x


def bound(x: Any) -> np.ndarray:
    """Give the bounds of a Bounded; anything else is exact."""
    return x.bound if isinstance(x, Bounded) else np.zeros(np.shape(x))


def undecided(x: Any) -> np.ndarray:
    """Tell which elements have an infinite bound."""
    return np.isinf(bound(x))


def bound_inputs(*arrays: Any, profile: str | Profile) -> tuple:
    """Round floating inputs to the profile's storage format and return them as exact Bounded arrays.

    Integers, booleans, None and whatever else is no floating array pass through.
    """
    profile = as_profile(profile)
    return tuple(
        Bounded(profile.storage.round(x), 0.0, profile) if np.asarray(x).dtype.kind == "f" else x for x in arrays
    )


def constant(table: Any, *, like: Any, ulps: float = 1.0) -> Any:
    """Mark a table computed from options as wrong by up to `ulps` units of the accumulation format, if `like` is Bounded."""
    if not isinstance(like, Bounded):
        return table
    table = np.asarray(table, np.float64)
    return Bounded(table, gamma(2 * ulps, like.profile.unit) * np.abs(table), like.profile)


def store(y: Any) -> Any:
    """Round to the storage format at a point that the spec names: e ← e + u_s(|y| + e) + the smallest subnormal.

    The identity on plain arrays. A number that may exceed the format's largest becomes undecided: an implementation may have
    infinity, a clamped value or the number itself there, and a spec that wants one of them must say so without a bound.
    Exact numbers that the format holds stay exact. A stored sum is one number: it is not reordered any more.
    """
    if not isinstance(y, Bounded) or y.value.dtype.kind != "f":
        return y
    fmt = y.profile.storage
    if fmt == y.profile.accumulation:
        return Bounded(y.value, y.bound, y.profile)
    kept = (y.bound == 0) & (fmt.round(y.value) == y.value)
    with np.errstate(all="ignore"):
        error = np.where(kept, 0.0, fmt.unit * (np.abs(y.value) + y.bound) + fmt.tiny)
        return Bounded(*rules.settle(fmt, y.value, rules.OWN * (y.bound + error), kept), y.profile)


def decide(a: Any, b: Any = 0.0) -> Any:
    """Compare a > b where the result jumps; undecided where |a − b| is within the sum of the two bounds.

    On plain arrays this is `a > b`. On Bounded ones it is a boolean Bounded with an infinite bound where undecided, and
    whatever depends on it becomes undecided: `np.where(decide(a, b), x, y)` wherever x ≠ y, products, `&`, `|`, `~`.
    Tests cap the share of undecided elements, so a bound cannot hide behind its decisions.

    - the gradient of a clip: `inside = decide(x, low) & decide(high, x)`, then `np.where(inside, cotangent, 0.0)`
      (the clip itself does not jump: `np.clip`)
    - a maximum's gradient: `np.where(decide(a, b), cotangent, 0.0)`; arg-max: `decide_top(x, 1)[..., 0]`
    - a top-k: `index = decide_top(scores, k)`, then `np.take_along_axis(scores, index, axis=-1)`; whatever is weighted with
      what was gathered is undecided with it.
    """
    pair = next((x for x in (a, b) if isinstance(x, Bounded)), None)
    if pair is None:
        return np.asarray(a) > np.asarray(b)
    a, b = _lift(a, pair.profile), _lift(b, pair.profile)
    with np.errstate(invalid="ignore"):
        room, margin = a.bound + b.bound, np.abs(a.value - b.value)
    open_ = (room > 0) & ~(margin > room) & (a.value != b.value) | (room > 0) & (a.value == b.value)
    return Bounded(a.value > b.value, np.where(open_, np.inf, 0.0), pair.profile)


def decide_top(x: Any, count: int) -> Any:
    """Choose the `count` largest along the last axis, largest first, ties to the lower index: their indices.

    On Bounded arrays the indices are a Bounded of integers: undecided where another element is equal, or within the sum of
    the two bounds (implementations differ on ties). Index with it, or `np.take_along_axis`: the poison travels along.
    """
    index = np.argsort(-value(x), axis=-1, kind="stable")[..., :count]
    if not isinstance(x, Bounded):
        return index
    chosen_v, chosen_e = (np.take_along_axis(field, index, axis=-1)[..., None] for field in (x.value, x.bound))
    with np.errstate(invalid="ignore"):
        close = ~(np.abs(chosen_v - x.value[..., None, :]) > chosen_e + x.bound[..., None, :])
    close &= index[..., None] != np.arange(x.shape[-1])
    return Bounded(index, np.where(close.any(axis=-1), np.inf, 0.0), x.profile)


def _primitive(rule: rules.Rule, x: Any) -> Any:
    with np.errstate(all="ignore"):
        if isinstance(x, Bounded):
            return Bounded(*rule(x.profile, (x.value, x.bound)), x.profile)
        return rule(PROFILES["float64"], (np.asarray(x, np.float64), np.zeros(np.shape(x))))[0]


def sigmoid(x: Any) -> Any:
    """Compute 1/(1 + e^−x); write 1 − σ(x) as sigmoid(−x), which does not cancel.

    Bound: e·σ′ at the point of [x − e, x + e] nearest to 0, where σ′ is largest; exp 4u, sum u, quotient 2u; and the smallest
    normal number, because e^−x overflows before σ(x) leaves the format.
    """
    return _primitive(rules.sigmoid, x)


def softplus(x: Any) -> Any:
    """Compute log(1 + eˣ) = max(x, 0) + log1p(e^−|x|).

    Bound: e·σ(x + e); the relative error of eˣ (4u) reaches the result with condition at most 1, log1p 4u, two sums.
    """
    return _primitive(rules.softplus, x)


def log_sigmoid(x: Any) -> Any:
    """Compute log σ(x) = −softplus(−x)."""
    return -softplus(-x)


def _shifted(x: Any, axis: int) -> tuple:
    """Give top, weights p, and per element the error of log p's numerator: its own bound, and u·(|x − top| + exp and sums)."""
    v, e = value(x), bound(x)
    top = np.max(v, axis=axis, keepdims=True)
    top = np.where(np.isneginf(top), 0.0, top)
    exponentials = np.exp(v - top)
    total = np.sum(exponentials, axis=axis, keepdims=True)
    p = exponentials / np.where(total == 0, 1.0, total)
    return top, total, p, e


# A softmax in blocks (online) rescales its partial sums: per block an exponential and two products.
BLOCK, FAST_EXP = 16, 40


def _numerator_error(x: Bounded, top: np.ndarray, axis: int) -> np.ndarray:
    """Bound the relative error of e^(x − top) and of its place in the sum, over direct, blocked and fast-exp forms.

    The argument is rounded (u·|x − top|, once more for the running maximum of a blocked form, whose steps telescope to the
    range), exp is wrong by up to 20 ulp = 40u (torch's exp_u20 in its CPU attention), the sum of n by γ(n − 1), and each
    block of 16 or more rescales (exp 4u + product u).
    """
    live = np.where(np.isneginf(x.value), 0.0, np.abs(x.value - top) + 2 * x.bound)
    span = np.max(live, axis=axis, keepdims=True)
    n = np.sum(~np.isneginf(x.value), axis=axis, keepdims=True)
    blocks = np.ceil(n / BLOCK) - 1
    roundings = live + span + FAST_EXP + np.maximum(n - 1, 0) + np.maximum(blocks, 0) * (rules.ELEMENTARY + 1)
    return gamma(roundings, x.profile.unit)


def softmax(x: Any, axis: int = -1) -> Any:
    """Compute e^xᵢ / Σ e^xⱼ; entries at −inf have weight exactly 0, and a row of nothing else is all zeros.

    Bound: with numerators wrong by factors within exp(±dⱼ), dⱼ = eⱼ + roundings, pᵢ is wrong by a factor within
    exp(dᵢ)/Σ pⱼ exp(−dⱼ) above and exp(−dᵢ)/Σ pⱼ exp(dⱼ) below. Chained rules would count the shift by the maximum twice.
    """
    with np.errstate(all="ignore"):
        top, _, p, e = _shifted(x, axis)
        if not isinstance(x, Bounded):
            return p
        d = np.where(np.isneginf(x.value) & (e == 0), 0.0, e + _numerator_error(x, top, axis))
        above = np.log1p(-np.minimum(np.sum(p * -np.expm1(-d), axis=axis, keepdims=True), 1))
        below = np.log1p(np.sum(p * np.expm1(d), axis=axis, keepdims=True))
        carried = p * np.maximum(np.expm1(d - above), -np.expm1(-d - below))
        masked = np.isneginf(x.value) & (e == 0)
        return Bounded(
            *rules.rounded(x.profile, p, np.where(masked, 0.0, carried), rules.QUOTIENT, exact=masked, flush=True),
            x.profile,
        )


def logsumexp(x: Any, axis: int = -1, keepdims: bool = False) -> Any:
    """Compute log Σ e^xⱼ.

    Bound: 1-Lipschitz in the weighted sense, log Σ pⱼ exp(dⱼ) above and −log Σ pⱼ exp(−dⱼ) below with d as in softmax; then
    the logarithm of a number in [1, n] (4u of log n) and the sum with the maximum.
    """
    with np.errstate(all="ignore"):
        top, total, p, e = _shifted(x, axis)
        result = top + np.log(total)
        if isinstance(x, Bounded):
            d = np.where(np.isneginf(x.value) & (e == 0), 0.0, e + _numerator_error(x, top, axis))
            above = np.log1p(np.sum(p * np.expm1(d), axis=axis, keepdims=True))
            below = -np.log1p(-np.minimum(np.sum(p * -np.expm1(-d), axis=axis, keepdims=True), 1))
            inner = gamma(rules.ELEMENTARY, x.profile.unit) * np.log(np.maximum(total, 1))
            certain = np.all(e == 0, axis=axis, keepdims=True)
            pair = rules.rounded(x.profile, result, np.maximum(above, below) + inner, 2, certain=certain)
            result = Bounded(*pair, x.profile)
        return result if keepdims else np.squeeze(result, axis=axis)


# ---- the insides: lifting, elementwise rules, sums ----
def _like(x: Any, other: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x if x.shape == other.shape else np.array(np.broadcast_to(x, other.shape))


def _lift(x: Any, profile: Profile) -> Bounded:
    """Make an operand Bounded: a scalar is a literal of the program, an array is exact."""
    if isinstance(x, Bounded):
        if x.profile != profile:
            raise ValueError(f"profile is {x.profile.name} in one operand and {profile.name} in the other")
        return x
    plain = np.asarray(x)
    if isinstance(x, np.ndarray) or plain.dtype.kind == "b" or np.all(profile.accumulation.round(plain) == plain):
        return Bounded(plain, 0.0, profile)
    return Bounded(plain, profile.accumulation.unit * np.abs(plain), profile)


def _poison(x: Bounded, lost: np.ndarray) -> Bounded:
    """Make undecided what was chosen by an undecided index (`lost` covers the leading axes)."""
    if not lost.any():
        return x
    lost = lost.reshape(lost.shape + (1,) * max(x.ndim - lost.ndim, 0))
    return Bounded(x.value, np.where(lost, np.inf, x.bound), x.profile)


def _plain_key(key: Any) -> tuple:
    if isinstance(key, Bounded):
        lost = undecided(key)
        return key.value, lost if key.dtype.kind != "b" else np.any(lost)
    if isinstance(key, tuple) and any(isinstance(k, Bounded) for k in key):
        return tuple(value(k) for k in key), np.any([undecided(k).any() for k in key if isinstance(k, Bounded)])
    return key, np.False_


def _elementwise(ufunc: Any, operands: list) -> Bounded:
    profile = operands[0].profile
    if ufunc is np.matmul:
        return _contract(np.matmul, *operands)
    if ufunc in _NOT:
        return Bounded(~operands[0].value.astype(bool), operands[0].bound, profile)
    if ufunc in _LOGICAL:
        return _logical(_LOGICAL[ufunc], *operands)
    if ufunc not in rules.RULES:
        raise TypeError(f"Bounded has no rule for np.{ufunc.__name__}: add one to oracle/propagation.py")
    pairs = [(x.value.astype(np.float64, copy=False), x.bound) for x in operands]
    return Bounded(*rules.RULES[ufunc](profile, *pairs), profile)


def _logical(ufunc: Any, a: Bounded, b: Bounded) -> Bounded:
    """Combine choices: undecided unless both are decided, or one decides the result alone (False & _, True | _)."""
    settles = ufunc is np.logical_or
    alone = (a.value == settles) & (a.bound == 0) | (b.value == settles) & (b.bound == 0)
    return Bounded(ufunc(a.value, b.value), np.where(alone, 0.0, np.maximum(a.bound, b.bound)), a.profile)


def _summed(profile: Profile, v: Any, inherited: Any, mass: Any, count: Any) -> Bounded:
    """Bound a sum of `count` terms in whatever order: what the terms bring, and γ(count − 1) of their sizes.

    Source: Higham 2002, eq. 4.4.
    """
    added = np.where(count > 1, gamma(np.maximum(count - 1, 0), profile.unit) * mass, 0.0)
    certain = np.isfinite(inherited)
    pair = rules.settle(profile.accumulation, v, rules.OWN * (1 + count * 2.0**-52) * (inherited + added), certain)
    return Bounded(*pair, profile, tuple(_like(x, np.asarray(v)) for x in (inherited, mass, count)))


def _in_place(ufunc: Any, out: Any, operands: list) -> Any:
    """Write into `out` (`+=` and friends); adding to a running sum extends it by the new terms."""
    if not isinstance(out, Bounded):
        raise TypeError("a plain array cannot take a Bounded in place: it would lose the bound")
    a, *rest = operands
    if ufunc in (np.add, np.subtract) and out is a:
        b = rest[0]
        total = _elementwise(ufunc, operands).value
        result = _summed(a.profile, total, a.inherited + b.inherited, a.mass + b.mass, a.count + b.count)
    else:
        result = _elementwise(ufunc, operands)
    out[...] = result
    return out


def _sum(x: Bounded, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Bounded:
    v, *terms = (np.sum(f, axis=axis, keepdims=keepdims) for f in (x.value, x.inherited, x.mass, x.count))
    return _summed(x.profile, v, *terms)


def _mean(x: Bounded, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Bounded:
    total = _sum(x, axis=axis, keepdims=keepdims)
    return total / (x.size // max(total.size, 1))


def _cumsum(x: Bounded, axis: Any = None) -> Bounded:
    return _summed(x.profile, *(np.cumsum(f, axis=axis) for f in (x.value, x.inherited, x.mass, x.count)))


def _add_at(x: Bounded, index: Any, new: Any) -> None:
    key, lost = _plain_key(index)
    new = _poison(_lift(new, x.profile), lost)
    fields = [np.array(f) for f in (x.value, x.inherited, x.mass, x.count)]
    for field, addend in zip(fields, (new.value, new.inherited, new.mass, new.count), strict=True):
        np.add.at(field, key, addend)
    x[...] = _summed(x.profile, *fields)


def _contract(function: Callable, *operands: Bounded) -> Bounded:
    """Bound a multilinear contraction: errors of one operand at a time, a rounding per product, and the sum's γ(n − 1)."""
    profile = operands[0].profile
    plain = [np.abs(x.value.astype(np.float64)) for x in operands]
    sizes = [a + x.bound for a, x in zip(plain, operands, strict=True)]
    mass = function(*sizes)
    count = function(*((s != 0).astype(np.float64) for s in sizes))
    inherited = gamma(len(operands) - 1, profile.unit) * mass + count * profile.accumulation.tiny
    for i, x in enumerate(operands):
        if np.any(x.bound):
            inherited = inherited + function(*sizes[:i], x.bound, *plain[i + 1 :])
    v = function(*(x.value.astype(np.float64) for x in operands))
    return _summed(profile, v, np.where(np.isnan(inherited), np.inf, inherited), mass, count)


def _einsum(subscripts: str, *operands: Any, optimize: Any = False) -> Bounded:
    lifted = [_lift(x, _profile_of(operands)) for x in operands]
    return _contract(lambda *arrays: np.einsum(subscripts, *arrays, optimize=optimize), *lifted)


def _profile_of(operands: Any) -> Profile:
    return next(x.profile for x in operands if isinstance(x, Bounded))


def _product(function: Callable) -> Callable:
    def contract(a: Any, b: Any, **kwargs: Any) -> Bounded:
        profile = _profile_of((a, b))
        return _contract(lambda x, y: function(x, y, **kwargs), _lift(a, profile), _lift(b, profile))

    return contract


def _max(x: Bounded, axis: Any = None, out: Any = None, keepdims: bool = False) -> Bounded:
    v, high, low = (np.max(f, axis=axis, keepdims=keepdims) for f in (x.value, x.value + x.bound, x.value - x.bound))
    return Bounded(v, rules.reach(v, low, high), x.profile)


def _min(x: Bounded, axis: Any = None, out: Any = None, keepdims: bool = False) -> Bounded:
    return -_max(-x, axis=axis, keepdims=keepdims)


def _where(condition: Any, a: Any, b: Any) -> Bounded:
    profile = _profile_of((condition, a, b))
    a, b = _lift(a, profile), _lift(b, profile)
    names = ("value", "bound", "inherited", "mass", "count")
    v, e, *terms = (np.where(value(condition), getattr(a, n), getattr(b, n)) for n in names)
    lost = undecided(condition) & ((a.value != b.value) | (a.bound != b.bound))
    return Bounded(v, np.where(lost, np.inf, e), profile, None if np.any(lost) else tuple(terms))


def _clip(x: Any, low: Any = None, high: Any = None, **kwargs: Any) -> Any:
    low, high = kwargs.get("a_min", kwargs.get("min", low)), kwargs.get("a_max", kwargs.get("max", high))
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _join(function: Callable) -> Callable:
    def join(arrays: Any, axis: int = 0) -> Bounded:
        profile = _profile_of(arrays)
        lifted = [_lift(x, profile) for x in arrays]
        names = ("value", "bound", "inherited", "mass", "count")
        v, e, *terms = (function([getattr(x, n) for x in lifted], axis=axis) for n in names)
        return Bounded(v, e, profile, tuple(terms))

    return join


def _filled(fill: float) -> Callable:
    def filled(x: Bounded, dtype: Any = None, shape: Any = None) -> Any:
        plain = np.full(x.shape if shape is None else shape, fill, dtype or x.dtype)
        return Bounded(plain, 0.0, x.profile) if plain.dtype.kind == "f" else plain

    return filled


def _full_like(x: Bounded, fill: Any, dtype: Any = None, shape: Any = None) -> Any:
    result = _filled(0.0)(x, dtype, shape)
    result[...] = fill
    return result


def _take(x: Any, index: Any, axis: Any = None) -> Bounded:
    key, lost = _plain_key(index)
    taken = _lift(x, _profile_of((x, index)))._map(lambda f: np.take(f, key, axis=axis))
    return _poison(taken, lost if axis in (0, None) else np.any(lost))


def _take_along_axis(x: Any, index: Any, axis: Any = -1) -> Bounded:
    key, lost = _plain_key(index)
    return _poison(_lift(x, _profile_of((x, index)))._map(lambda f: np.take_along_axis(f, key, axis=axis)), lost)


def _logaddexp_reduce(x: Bounded, axis: Any = 0, keepdims: bool = False) -> Any:
    return logsumexp(x, axis=axis, keepdims=keepdims)


_REDUCE = {np.add: _sum, np.maximum: _max, np.minimum: _min, np.logaddexp: _logaddexp_reduce}
_FUNCTIONS: dict[Callable, Callable] = {
    **{np.sum: _sum, np.mean: _mean, np.cumsum: _cumsum, np.einsum: _einsum, np.clip: _clip, np.where: _where},
    **{np.max: _max, np.amax: _max, np.min: _min, np.amin: _min, np.take: _take, np.take_along_axis: _take_along_axis},
    **{f: _product(f) for f in (np.dot, np.outer, np.inner, np.tensordot)},
    **{f: _join(f) for f in (np.stack, np.concatenate)},
    **{np.zeros_like: _filled(0.0), np.empty_like: _filled(0.0), np.ones_like: _filled(1.0), np.full_like: _full_like},
}
