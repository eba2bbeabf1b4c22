"""Define the array type that carries bounds, through NumPy's own protocols (NEP 13 and NEP 18).

Longer than the house's 150 lines: the class, and what its operators do with the terms of a sum, call each other.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from minimind_ref.oracle import propagation as rules
from minimind_ref.oracle.precision import Profile, as_profile, gamma

FIELDS = ("value", "bound", "inherited", "mass", "count")
# What NumPy's functions and its ufuncs' methods (np.add.reduce) do: filled by bounded_sums.py, bounded_elements.py.
FUNCTIONS: dict[Any, Callable] = {}
METHODS: dict[tuple[Any, str], Callable] = {}


def implements(*functions: Any) -> Callable:
    """Register what stands for NumPy's `functions` where an argument is Bounded."""

    def register(function: Callable) -> Callable:
        FUNCTIONS.update(dict.fromkeys(functions, function))
        return function

    return register


_ON_VALUES = {
    *(np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal),
    *(np.isfinite, np.isinf, np.isnan, np.sign, np.signbit),
    *(np.argmax, np.argmin, np.argsort, np.shape, np.ndim, np.size, np.nonzero, np.count_nonzero),
}
_RESHAPE = {
    *(np.reshape, np.ravel, np.transpose, np.swapaxes, np.moveaxis, np.squeeze, np.expand_dims, np.broadcast_to),
    *(np.tril, np.triu, np.diagonal, np.flip, np.roll, np.repeat, np.tile, np.copy),
}
_AND, _OR, _NOT = {np.logical_and, np.bitwise_and}, {np.logical_or, np.bitwise_or}, {np.logical_not, np.invert}


class Bounded(NDArrayOperatorsMixin):
    """An array of float64 values with bounds: |implementation − value| ≤ bound, elementwise.

    An infinite bound means *undecided*: the implementation may be anywhere (beyond a jump, or beyond the largest
    number). Choices (whole numbers, booleans) have bound 0 or infinity.
    `terms` lets a sum know its parts, for bounds over every order of summation: the errors that the addends brought
    along, the sum of their sizes, and how many of them are not exactly zero.
    """

    def __init__(self, value: Any, bound: Any, profile: str | Profile, terms: tuple | None = None) -> None:
        self.profile = as_profile(profile)
        self.value = np.asarray(value)
        if self.value.dtype.kind == "f":
            self.value = self.value.astype(np.float64, copy=False)
        self.bound = _as_shape(bound, self.value.shape)
        if not np.all(self.bound >= 0):
            raise ValueError("bound has negative or NaN entries")
        self.inherited, self.mass, self.count = map(np.asarray, terms or atomic(self))

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
        raise TypeError("a plain array would lose the bound: use np.stack, or np.zeros_like(x, shape=…) and assignment")

    def __float__(self) -> float:
        raise TypeError("float() would lose the bound: keep arrays without axes, or ask for value(x)")

    def __bool__(self) -> bool:
        raise TypeError("a branch would lose the bound: use np.where(decide(…), …, …)")

    def __index__(self) -> int:
        return self.value.__index__()  # type: ignore[misc]  # NumPy refuses what is not a whole number

    def reshape(self, *shape: Any) -> "Bounded":
        """Give another shape to the same elements."""
        return np.reshape(self, shape[0] if len(shape) == 1 else shape)  # type: ignore[arg-type, return-value]

    def transpose(self, *axes: Any) -> "Bounded":
        """Permute the axes."""
        return np.transpose(self, axes[0] if len(axes) == 1 else axes or None)  # type: ignore[arg-type, return-value]

    def astype(self, dtype: Any) -> "Bounded":
        """Convert choices to numbers; numbers stay float64 (rounding is `store`)."""
        return Bounded(self.value.astype(dtype), self.bound, self.profile)

    def map(self, function: Callable) -> "Bounded":
        """Apply a function that only moves elements to the values and to all that belongs to them."""
        return from_fields(self.profile, *(function(getattr(self, name)) for name in FIELDS))

    def __getitem__(self, key: Any) -> "Bounded":
        key, lost = plain_key(key)
        return poison(self.map(lambda x: x[key]), lost)

    def __setitem__(self, key: Any, new: Any) -> None:
        key, lost = plain_key(key)
        new = poison(lift(new, self.profile), lost)
        for name in FIELDS:
            getattr(self, name)[key] = getattr(new, name)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any):
        with np.errstate(all="ignore"):
            if (ufunc, method) in METHODS:
                return METHODS[ufunc, method](*inputs, **kwargs)
            if ufunc in FUNCTIONS:
                return FUNCTIONS[ufunc](*inputs, **kwargs)
            if method != "__call__" or kwargs:
                raise TypeError(f"Bounded has no rule for np.{ufunc.__name__}.{method} with {sorted(kwargs)}")
            if ufunc in _ON_VALUES:
                return ufunc(*(value(x) for x in inputs))
            operands = [lift(x, self.profile) for x in inputs]
            return elementwise(ufunc, operands) if out is None else _in_place(ufunc, out[0], operands)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any):
        with np.errstate(all="ignore"):
            if function in FUNCTIONS:
                return FUNCTIONS[function](*args, **kwargs)
            if function in _ON_VALUES:
                return function(*(value(x) for x in args), **kwargs)
            if function in _RESHAPE:
                return args[0].map(lambda x: function(x, *args[1:], **kwargs))
            raise TypeError(f"Bounded has no rule for np.{function.__name__}: add one to oracle/bounded_elements.py")


def value(x: Any) -> Any:
    """Give the plain values of a Bounded; anything else passes through."""
    return x.value if isinstance(x, Bounded) else x


def bound(x: Any) -> Any:
    """Give the bounds of a Bounded; anything else is exact."""
    return x.bound if isinstance(x, Bounded) else np.zeros(np.shape(x))


def undecided(x: Any) -> Any:
    """Tell which elements have an infinite bound."""
    return np.isinf(bound(x))


def from_fields(profile: Profile, v: Any, e: Any, *terms: Any) -> Bounded:
    """Build a Bounded from its five fields."""
    return Bounded(v, e, profile, terms)


def lift(x: Any, profile: Profile) -> Bounded:
    """Make an operand Bounded: a scalar is a literal, rounded unless the format holds it; an array is exact."""
    if isinstance(x, Bounded):
        if x.profile != profile:
            raise ValueError(f"profile is {x.profile.name} in one operand and {profile.name} in the other")
        return x
    plain = np.asarray(x)
    exact = isinstance(x, np.ndarray) or profile.accumulation.round(plain) == plain
    return Bounded(plain, np.where(exact, 0.0, profile.accumulation.unit * np.abs(plain)), profile)


def profile_of(operands: Any) -> Profile:
    """Give the profile of the first Bounded among the operands."""
    return next(x.profile for x in operands if isinstance(x, Bounded))


def lifted(*operands: Any) -> list[Bounded]:
    """Lift all operands to the profile that one of them has."""
    return [lift(x, profile_of(operands)) for x in operands]


def poison(x: Bounded, lost: Any) -> Bounded:
    """Make undecided what was chosen by an undecided index (`lost` covers the leading axes)."""
    if not lost.any():
        return x
    lost = lost.reshape(lost.shape + (1,) * max(x.ndim - lost.ndim, 0))
    return Bounded(x.value, np.where(lost, np.inf, x.bound), x.profile)


def plain_key(key: Any) -> tuple[Any, Any]:
    """Split an index into its plain values and where it is undecided (all of it, if parts of a tuple or a mask are)."""
    if isinstance(key, Bounded):
        lost = undecided(key)
        return key.value, np.any(lost) if key.dtype.kind == "b" else lost
    if isinstance(key, tuple) and any(isinstance(k, Bounded) for k in key):
        return tuple(value(k) for k in key), np.any([undecided(k).any() for k in key if isinstance(k, Bounded)])
    return key, np.False_


def atomic(x: Bounded) -> tuple:
    """Give the terms of a number that is not a sum: itself, or none where it is exactly zero."""
    size = np.abs(x.value) + x.bound
    return x.bound.copy(), size, (size != 0).astype(np.float64)


def summed(profile: Profile, v: Any, inherited: Any, mass: Any, count: Any) -> Bounded:
    """Bound a sum of `count` terms in any order: what the terms bring along, and γ(count − 1) of their sizes.

    Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, eq. 4.4.
    """
    added = np.where(count > 1, gamma(np.maximum(count - 1, 0), profile.unit) * mass, 0.0)
    own = rules.OWN + count * 2.0**-52
    pair = rules.settle(profile.accumulation, v, own * (inherited + added), certain=np.isfinite(inherited))
    return from_fields(profile, *pair, *(_as_shape(x, np.shape(v)) for x in (inherited, mass, count)))


def elementwise(ufunc: Any, operands: list[Bounded]) -> Bounded:
    """Apply a ufunc by its rule; + and − extend the sum on their left by one term."""
    profile = operands[0].profile
    if ufunc in _NOT:
        return Bounded(~operands[0].value.astype(bool), operands[0].bound, profile)
    if ufunc in _AND | _OR:
        return _logical(np.logical_or if ufunc in _OR else np.logical_and, *operands)
    if ufunc not in rules.RULES:
        raise TypeError(f"Bounded has no rule for np.{ufunc.__name__}: add one to oracle/propagation.py")
    pairs = [(x.value.astype(np.float64, copy=False), x.bound) for x in operands]
    pair = rules.RULES[ufunc](profile, *pairs)
    if ufunc in (np.add, np.subtract):
        return _extended(operands[0], atomic(operands[1]), pair)
    return Bounded(*pair, profile)


def _extended(a: Bounded, b: tuple, pair: rules.Pair) -> Bounded:
    """Extend the sum `a` by the terms `b`; two single terms have only one order, whose bound `pair` is the tighter."""
    total = summed(a.profile, pair[0], a.inherited + b[0], a.mass + b[1], a.count + b[2])
    single = (a.count <= 1) & (b[2] <= 1) | (a.count == 0) | (b[2] == 0)
    total.bound = np.where(single, pair[1], total.bound)
    return total


def _in_place(ufunc: Any, out: Any, operands: list[Bounded]) -> Any:
    """Write into `out`; += and −= merge the terms of both sides, as parts of one long sum."""
    result = elementwise(ufunc, operands)
    if ufunc in (np.add, np.subtract):
        a, b = operands
        result = _extended(a, (b.inherited, b.mass, b.count), (result.value, result.bound))
    out[...] = result
    return out


def _logical(ufunc: Any, a: Bounded, b: Bounded) -> Bounded:
    """Combine choices: undecided unless both are decided, or one settles the result alone (False and …, True or …)."""
    settling = ufunc is np.logical_or
    alone = (a.value == settling) & (a.bound == 0) | (b.value == settling) & (b.bound == 0)
    return Bounded(ufunc(a.value, b.value), np.where(alone, 0.0, np.maximum(a.bound, b.bound)), a.profile)


def _as_shape(x: Any, shape: tuple) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x if x.shape == shape else np.array(np.broadcast_to(x, shape))
