"""What sums and contractions do on arrays that carry bounds: each is bounded for every order of summation."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minimind_ref.oracle.bounded_array import (
    FUNCTIONS,
    METHODS,
    Bounded,
    implements,
    lift,
    lifted,
    plain_key,
    poison,
    summed,
)
from minimind_ref.oracle.precision import gamma


@implements(np.sum)
def _sum(x: Bounded, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Bounded:
    terms = (np.sum(f, axis=axis, keepdims=keepdims) for f in (x.value, x.inherited, x.mass, x.count))
    return summed(x.profile, *terms)


@implements(np.mean)
def _mean(x: Bounded, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
    total = _sum(x, axis=axis, keepdims=keepdims)
    return total / (x.size // max(total.size, 1))


@implements(np.cumsum)
def _cumsum(x: Bounded, axis: Any = None) -> Bounded:
    return summed(x.profile, *(np.cumsum(f, axis=axis) for f in (x.value, x.inherited, x.mass, x.count)))


def _add_at(x: Bounded, index: Any, new: Any) -> None:
    key, lost = plain_key(index)
    new = poison(lift(new, x.profile), lost)
    fields = [np.array(f) for f in (x.value, x.inherited, x.mass, x.count)]
    for field, addend in zip(fields, (new.value, new.inherited, new.mass, new.count), strict=True):
        np.add.at(field, key, addend)
    x[...] = summed(x.profile, *fields)


def _contract(function: Callable, *operands: Bounded) -> Bounded:
    """Bound a multilinear contraction: one operand's error at a time, the products' roundings, a sum of n products.

    With a and b exact this is γ(n)·|a|·|b|, n counting the products that are not exactly zero.
    Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, eq. 3.13.
    """
    profile = operands[0].profile
    plain = [np.abs(x.value.astype(np.float64)) for x in operands]
    sizes = [a + x.bound for a, x in zip(plain, operands, strict=True)]
    mass, count = function(*sizes), function(*((s != 0).astype(np.float64) for s in sizes))
    products = gamma(len(operands) - 1, profile.unit)
    inherited = products * mass + count * profile.accumulation.tiny
    for i, x in enumerate(operands):
        if np.any(x.bound):
            inherited = inherited + function(*sizes[:i], x.bound, *plain[i + 1 :])
    v = function(*(x.value.astype(np.float64) for x in operands))
    return summed(profile, v, np.where(np.isnan(inherited), np.inf, inherited), mass * (1 + products), count)


@implements(np.einsum)
def _einsum(subscripts: str, *operands: Any, optimize: Any = False) -> Bounded:
    return _contract(lambda *arrays: np.einsum(subscripts, *arrays, optimize=optimize), *lifted(*operands))


def _product(function: Callable) -> Callable:
    def contract(a: Any, b: Any, **kwargs: Any) -> Bounded:
        return _contract(lambda x, y: function(x, y, **kwargs), *lifted(a, b))

    return contract


for _function in (np.matmul, np.dot, np.inner, np.outer, np.tensordot):
    FUNCTIONS[_function] = _product(_function)

METHODS[np.add, "reduce"] = lambda x, axis=0, keepdims=False: _sum(x, axis=axis, keepdims=keepdims)
METHODS[np.add, "at"] = _add_at
