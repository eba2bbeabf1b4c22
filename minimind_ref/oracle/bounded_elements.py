"""What choosing, joining and creating do on arrays that carry bounds."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minimind_ref.oracle import propagation as rules
from minimind_ref.oracle.bounded_array import (
    FIELDS,
    FUNCTIONS,
    METHODS,
    Bounded,
    elementwise,
    from_fields,
    implements,
    lift,
    lifted,
    plain_key,
    poison,
    profile_of,
    undecided,
)


@implements(np.max, np.amax)
def _max(x: Bounded, axis: Any = None, out: Any = None, keepdims: bool = False) -> Bounded:
    ends = (x.value, x.value - x.bound, x.value + x.bound)
    v, low, high = (np.max(end, axis=axis, keepdims=keepdims) for end in ends)
    return Bounded(v, rules.reach(v, low, high), x.profile)


@implements(np.min, np.amin)
def _min(x: Bounded, axis: Any = None, out: Any = None, keepdims: bool = False) -> Bounded:
    return -_max(-x, axis=axis, keepdims=keepdims)


@implements(np.where)
def _where(condition: Any, a: Any, b: Any) -> Bounded:
    """Choose elementwise; undecided where the condition is, unless both choices are the same."""
    condition, a, b = lifted(condition, a, b)
    fields = (np.where(condition.value, getattr(a, name), getattr(b, name)) for name in FIELDS)
    lost = undecided(condition) & ((a.value != b.value) | (a.bound != b.bound))
    return poison(from_fields(a.profile, *fields), lost)


@implements(np.clip)
def _clip(x: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    low, high = (min if a_min is None else a_min), (max if a_max is None else a_max)
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


@implements(np.take)
def _take(x: Any, index: Any, axis: Any = None) -> Bounded:
    key, lost = plain_key(index)
    taken = lift(x, profile_of((x, index))).map(lambda f: np.take(f, key, axis=axis))
    return poison(taken, lost if axis in (0, None) else np.any(lost))


@implements(np.take_along_axis)
def _take_along_axis(x: Any, index: Any, axis: Any) -> Bounded:
    key, lost = plain_key(index)
    return poison(lift(x, profile_of((x, index))).map(lambda f: np.take_along_axis(f, key, axis=axis)), lost)


# ---- construction ----
def _join(function: Callable) -> Callable:
    def join(arrays: Any, axis: int = 0) -> Bounded:
        parts = lifted(*arrays)
        fields = (function([getattr(x, name) for x in parts], axis=axis) for name in FIELDS)
        return from_fields(parts[0].profile, *fields)

    return join


for _function in (np.stack, np.concatenate):
    FUNCTIONS[_function] = _join(_function)


def _filled(x: Bounded, fill: Any, dtype: Any = None, shape: Any = None) -> Any:
    """Make an array that Bounded values can be assigned to; of choices, a plain one."""
    fill = lift(fill, x.profile)
    plain = np.full(x.shape if shape is None else shape, fill.value, dtype or x.dtype)
    return Bounded(plain, fill.bound, x.profile) if plain.dtype.kind == "f" else plain


FUNCTIONS[np.full_like] = _filled
FUNCTIONS[np.zeros_like] = FUNCTIONS[np.empty_like] = lambda x, dtype=None, shape=None: _filled(x, 0.0, dtype, shape)
FUNCTIONS[np.ones_like] = lambda x, dtype=None, shape=None: _filled(x, 1.0, dtype, shape)


def _outer(a: Any, b: Any) -> Bounded:
    a, b = lifted(a, b)
    return elementwise(np.multiply, [a[(..., *(None,) * b.ndim)], b])


METHODS[np.maximum, "reduce"] = lambda x, axis=0, keepdims=False: _max(x, axis=axis, keepdims=keepdims)
METHODS[np.minimum, "reduce"] = lambda x, axis=0, keepdims=False: _min(x, axis=axis, keepdims=keepdims)
METHODS[np.multiply, "outer"] = _outer
