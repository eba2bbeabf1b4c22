"""Propagate errors through elementwise operations, exactly to first order and with the cross terms.

Each rule takes a profile and operands as pairs (value, bound) — the implementation's operand lies within `bound` of the
oracle's `value` — and returns the result's pair. It covers how far honest implementations move the operands apart *and*
the rounding of the operation, the implementation's and the oracle's own.

The number of roundings is that of the least accurate honest form: a quotient may be a·(1/b) (2), a root the reciprocal
of an rsqrt of 2 ulp (5), an elementary function may be wrong by 2 ulp (4; a unit in the last place is at most 2u|x|).
Source: glibc manual, "Known Maximum Errors in Math Functions" (exp, log, sin, cos 1 ulp; expm1, log1p, tanh 2 ulp on
x86-64); SLEEF reference, the u10 functions that torch calls on CPUs (1.0 ulp); CUDA C++ Programming Guide,
"Mathematical Functions" (expf, sinf, cosf, tanhf, rsqrtf 2 ulp, powf 8).

Longer than the house's 150 lines: it is a table of rules, and a reader checks them side by side.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from minimind_ref.oracle.precision import Format, Profile, gamma

Pair = tuple[Any, Any]
Rule = Callable[..., Pair]

QUOTIENT, ROOT, ELEMENTARY, POWER = 2, 5, 4, 16
# Bounds are computed in float64 too: a few of its roundings are added to each.
OWN = 1 + 2.0**-48
ONE: Pair = (np.ones(()), np.zeros(()))


def settle(fmt: Format, value: Any, bound: Any, certain: Any) -> Pair:
    """Make a bound infinite where it is NaN or the number may leave the finite range; `certain` infinities have 0."""
    lost = np.isnan(bound) | np.isnan(value) | (np.abs(value) + bound > fmt.largest)
    return value, np.where(np.isinf(value) & certain, 0.0, np.where(lost, np.inf, bound))


def rounded(
    p: Profile, value: Any, bound: Any, roundings: Any = 1, *, exact: Any = False, certain: Any = False, flush=False
) -> Pair:
    """Add `roundings` roundings of |value| + bound and the smallest subnormal (normal, where libraries flush)."""
    small = p.accumulation.smallest_normal if flush else p.accumulation.tiny
    error = gamma(roundings, p.unit) * (np.abs(value) + bound) + small
    return settle(p.accumulation, value, OWN * (bound + np.where(exact, 0.0, error)), certain)


def is_zero(x: Any, e: Any) -> Any:
    """Tell which operands are exactly zero."""
    return (x == 0) & (e == 0)


def _infinite(x: Any, e: Any) -> Any:
    return np.isinf(x) & (e == 0)


def _power_of_two(x: Any, e: Any) -> Any:
    """Tell by which operands scaling only shifts the exponent (or clears the number): it does not round."""
    mantissa = np.frexp(np.abs(x))[0]
    return (e == 0) & ((mantissa == 0.5) | (mantissa == 0))


def add(p: Profile, a: Pair, b: Pair) -> Pair:
    """Sum a + b: e = e_a + e_b; adding an exact zero does not round."""
    e = a[1] + b[1]
    certain = (_infinite(*a) | _infinite(*b)) & np.isfinite(e)
    return rounded(p, a[0] + b[0], e, exact=is_zero(*a) | is_zero(*b), certain=certain)


def negative(p: Profile, a: Pair) -> Pair:
    """Flip the sign, exactly."""
    return -a[0], a[1]


def subtract(p: Profile, a: Pair, b: Pair) -> Pair:
    """Subtract as a + (−b)."""
    return add(p, a, negative(p, b))


def multiply(p: Profile, a: Pair, b: Pair) -> Pair:
    """Multiply: e = |a|e_b + |b|e_a + e_a·e_b; scaling by a power of two does not round unless it underflows."""
    (x, ex), (y, ey) = a, b
    e = np.abs(x) * ey + np.abs(y) * ex + ex * ey
    scaled, cleared = _power_of_two(x, ex) | _power_of_two(y, ey), is_zero(x, ex) | is_zero(y, ey)
    underflow = np.where(scaled & ~cleared, p.accumulation.tiny, 0.0)
    certain = (_infinite(x, ex) & (np.abs(y) > ey)) | (_infinite(y, ey) & (np.abs(x) > ex))
    return rounded(p, x * y, e + underflow, exact=scaled, certain=certain)


def divide(p: Profile, a: Pair, b: Pair) -> Pair:
    """Divide: e = (e_a + |a/b|·e_b) / (|b| − e_b), infinite or NaN where b may be zero."""
    (x, ex), (y, ey) = a, b
    value, room = x / y, np.abs(y) - ey
    e = (ex + np.abs(value) * ey) / np.maximum(room, 0)
    scaled, cleared = _power_of_two(y, ey), is_zero(x, ex)
    underflow = np.where(scaled & ~cleared, p.accumulation.tiny, 0.0)
    certain = ((np.abs(x) > ex) & is_zero(y, ey)) | (_infinite(x, ex) & (room > 0))
    return rounded(p, value, e + underflow, QUOTIENT, exact=scaled | cleared, certain=certain)


def maximum(p: Profile, a: Pair, b: Pair) -> Pair:
    """Take the larger, an exact choice: the result lies between the maxima of the lower and of the upper ends."""
    value = np.maximum(a[0], b[0])
    return value, reach(value, np.maximum(a[0] - a[1], b[0] - b[1]), np.maximum(a[0] + a[1], b[0] + b[1]))


def minimum(p: Profile, a: Pair, b: Pair) -> Pair:
    """Take the smaller as −max(−a, −b)."""
    return negative(p, maximum(p, negative(p, a), negative(p, b)))


def reach(value: Any, low: Any, high: Any) -> Any:
    """Give the distance to the farther end: 0 between equal infinities, infinite where an end is ∞ − ∞, undecided."""
    farther = np.maximum(*(np.where(end == value, 0.0, np.abs(end - value)) for end in (low, high)))
    return OWN * np.where(np.isnan(farther), np.inf, farther)


def unary(f: Callable, spread: Callable, roundings: int, *, flush: bool = False) -> Rule:
    """Build a function's rule: `spread(value, bound, f(value))` bounds how far it carries the operand's error.

    At an exact infinity every library gives the limit exactly.
    """

    def rule(p: Profile, a: Pair) -> Pair:
        x, e = a
        value = f(x)
        carried = np.where(e == 0, 0.0, spread(x, e, value))
        return rounded(p, value, carried, roundings, exact=_infinite(x, e), certain=e == 0, flush=flush)

    return rule


def _root_spread(x: Any, e: Any, root: Any) -> Any:
    """Bound |√(x ± e) − √x| = e/(√(x ± e) + √x); where x − e < 0 the lower end is 0."""
    near_zero = np.maximum(np.sqrt(x + e) - root, root)
    return np.where(x >= e, e / (root + np.sqrt(np.maximum(x - e, 0))), near_zero)


def log_spread(x: Any, e: Any) -> Any:
    """Bound |log(x ± e) − log x|: the lower end is the farther one; infinite or NaN where it is not positive."""
    return -np.log1p(-e / x)


def sigmoid_value(x: Any) -> Any:
    """Compute 1/(1 + e^−x) without overflow."""
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))


def _sigmoid_spread(x: Any, e: Any, _: Any) -> Any:
    """Bound by the slope σ(1 − σ) at the point of [x − e, x + e] nearest to zero, where it is largest."""
    small = np.exp(-np.maximum(np.abs(x) - e, 0))
    return e * small / (1 + small) ** 2


def _tanh_spread(x: Any, e: Any, _: Any) -> Any:
    """Bound by the slope 1 − tanh² at the point nearest to zero."""
    small = np.exp(-2 * np.maximum(np.abs(x) - e, 0))
    return e * 4 * small / (1 + small) ** 2


def logaddexp(p: Profile, a: Pair, b: Pair) -> Pair:
    """Add in the log domain, m + log1p(e^−|a−b|): 1-Lipschitz.

    The second term is at most log 2 and is wrong by at most u times: exp 4, its argument 1, log1p 4, sum 1.
    """
    value, e = np.logaddexp(a[0], b[0]), np.maximum(a[1], b[1])
    return rounded(p, value, e + gamma(2 * ELEMENTARY + 2, p.unit), certain=np.isfinite(e))


def power(p: Profile, a: Pair, b: Pair) -> Pair:
    """Raise to a power: an exact whole exponent is repeated multiplication, another one exp(b·log a) with a > 0."""
    (x, ex), (n, en) = a, b
    value, size = np.power(x, n), np.abs(n)
    if np.all((en == 0) & (n == np.rint(n))):
        steepest = np.where(n < 0, np.maximum(np.abs(x) - ex, 0), np.abs(x) + ex)
        carried = np.where(ex == 0, 0.0, size * ex * np.power(steepest, n - 1))
        roundings = np.where(size <= 4, np.maximum(size - 1, 0) + QUOTIENT * (n < 0), POWER)
        return rounded(p, value, carried, roundings, certain=ex == 0)
    spread = np.where(ex == 0, 0.0, (size + en) * log_spread(x, ex)) + np.where(en == 0, 0, en * np.abs(np.log(x)))
    return rounded(p, value, np.abs(value) * np.expm1(spread), POWER, certain=(ex == 0) & (en == 0))


RULES: dict[Callable, Rule] = {
    np.add: add,
    np.subtract: subtract,
    np.multiply: multiply,
    np.divide: divide,
    np.negative: negative,
    np.positive: lambda p, a: (+a[0], a[1]),
    np.absolute: lambda p, a: (np.abs(a[0]), a[1]),
    np.reciprocal: lambda p, a: divide(p, ONE, a),
    np.square: unary(np.square, lambda x, e, _: e * (2 * np.abs(x) + e), 1),
    np.sqrt: unary(np.sqrt, _root_spread, ROOT),
    np.exp: unary(np.exp, lambda x, e, y: y * np.expm1(e), ELEMENTARY, flush=True),
    np.expm1: unary(np.expm1, lambda x, e, _: np.exp(x) * np.expm1(e), ELEMENTARY),
    np.log: unary(np.log, lambda x, e, _: log_spread(x, e), ELEMENTARY),
    np.log1p: unary(np.log1p, lambda x, e, _: log_spread(1 + x, e), ELEMENTARY),
    np.sin: unary(np.sin, lambda x, e, _: np.minimum(e, 2), ELEMENTARY),
    np.cos: unary(np.cos, lambda x, e, _: np.minimum(e, 2), ELEMENTARY),
    np.tanh: unary(np.tanh, _tanh_spread, ELEMENTARY),
    np.logaddexp: logaddexp,
    np.maximum: maximum,
    np.minimum: minimum,
    np.power: power,
}

sigmoid = unary(sigmoid_value, _sigmoid_spread, ELEMENTARY + 1 + QUOTIENT, flush=True)


def open_share(p: Profile, a: Pair) -> Pair:
    """Compute σ, by exponentials or as ½·(1 + tanh(x/2)), whose error below zero is that of a number near −1.

    A library may be a unit off −1 for long; where σ is under u² none is, and 0 is left.
    """
    value, e = sigmoid(p, a)
    near_one = 0.5 * gamma(ELEMENTARY, p.unit) * np.maximum(1 - 2 * value, 0)
    return value, e + np.where(value < p.unit**2, value, near_one)


softplus = unary(
    lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    lambda x, e, _: e * sigmoid_value(x + e),
    2 * ELEMENTARY + 2,
    flush=True,
)
