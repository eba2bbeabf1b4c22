# ruff: noqa: E501
"""Propagate errors through elementwise operations, first order exactly and with the cross terms.

Each rule takes a profile and operands as pairs (value, bound) — the implementation's operand lies within `bound` of the
oracle's `value` — and returns the pair of the result. It covers how far honest implementations move the operands apart
*and* the rounding of the operation, the implementation's and the oracle's.

Counts of roundings are those of the least accurate honest form: a quotient may be a·(1/b) (2), a root the reciprocal of
rsqrt (2 ulp: 3 roundings), an elementary function 2 ulp = 4 roundings.
Source: glibc manual, "Errors in Math Functions" (exp, log, sin, cos 1 ulp; expm1, log1p, tanh at most 2); SLEEF reference,
the u10 functions that torch calls on CPUs (1.0 ulp); CUDA C++ Programming Guide, "Mathematical Functions" (expf, logf, sinf,
cosf, tanhf, rsqrtf at most 2; powf at most 8).
"""

from collections.abc import Callable

import numpy as np

from minimind_ref.oracle.precision import Format, Profile, gamma

Pair = tuple[np.ndarray, np.ndarray]
Rule = Callable[..., Pair]

QUOTIENT, ROOT, ELEMENTARY, POWER = 2, 3, 4, 16
# Bounds are themselves computed in float64: a few of its roundings are added to every one.
OWN = 1 + 2.0**-48


def settle(fmt: Format, value, bound, certain=False) -> Pair:
    """Make a bound infinite where the number may leave the format's finite range; `certain` infinities have bound 0."""
    lost = np.isnan(bound) | np.isnan(value) | (np.abs(value) + bound > fmt.largest)
    return value, np.where(np.isinf(value) & certain, 0.0, np.where(lost, np.inf, bound))


def rounded(profile: Profile, value, bound, roundings=1.0, *, exact=False, certain=False, flush=False) -> Pair:
    """Add `roundings` roundings, relative to |value| + bound, and the smallest subnormal (normal, where libraries flush)."""
    small = profile.accumulation.smallest_normal if flush else profile.accumulation.tiny
    error = gamma(roundings, profile.unit) * (np.abs(value) + bound) + small
    return settle(profile.accumulation, value, OWN * (bound + np.where(exact, 0.0, error)), certain)


def _zero(x, e):
    return (x == 0) & (e == 0)


def _infinite(x, e):
    return np.isinf(x) & (e == 0)


def _power_of_two(x, e):
    """Tell which operands only shift the exponent (or are zero): scaling by them does not round."""
    mantissa = np.frexp(np.abs(x))[0]
    return (e == 0) & ((mantissa == 0.5) | (mantissa == 0))


def add(p: Profile, a: Pair, b: Pair) -> Pair:
    """Sum a + b: e = e_a + e_b; adding an exact zero does not round."""
    certain = _infinite(*a) | _infinite(*b)
    return rounded(p, a[0] + b[0], a[1] + b[1], exact=_zero(*a) | _zero(*b), certain=certain)


def negative(p: Profile, a: Pair) -> Pair:
    """Flip the sign, exactly."""
    return -a[0], a[1]


def subtract(p: Profile, a: Pair, b: Pair) -> Pair:
    """Difference a − b: as the sum."""
    return add(p, a, (-b[0], b[1]))


def multiply(p: Profile, a: Pair, b: Pair) -> Pair:
    """Product a·b: e = |a|e_b + |b|e_a + e_a·e_b; scaling by a power of two does not round."""
    (x, ex), (y, ey) = a, b
    e = np.abs(x) * ey + np.abs(y) * ex + ex * ey
    scaled = _power_of_two(x, ex) | _power_of_two(y, ey)
    small = np.where(scaled & ~(_zero(x, ex) | _zero(y, ey)), p.accumulation.tiny, 0.0)
    certain = (_infinite(x, ex) & (np.abs(y) > ey)) | (_infinite(y, ey) & (np.abs(x) > ex))
    return rounded(p, x * y, e + small, exact=scaled, certain=certain)


def divide(p: Profile, a: Pair, b: Pair) -> Pair:
    """Quotient a/b: e = (e_a + |a/b|·e_b) / (|b| − e_b), infinite where b may be zero."""
    (x, ex), (y, ey) = a, b
    value, room = x / y, np.abs(y) - ey
    e = np.where(room > 0, (ex + np.abs(value) * ey) / room, np.inf)
    scaled = _power_of_two(y, ey) & (y != 0)
    small = np.where(scaled & ~_zero(x, ex), p.accumulation.tiny, 0.0)
    certain = (np.abs(x) > ex) & _zero(y, ey) | _infinite(x, ex) & (room > 0)
    return rounded(p, value, e + small, QUOTIENT, exact=scaled | _zero(x, ex) & (room > 0), certain=certain)


def maximum(p: Profile, a: Pair, b: Pair) -> Pair:
    """Larger of two: exact selection, so the result lies between the maxima of the lower and of the upper ends."""
    value = np.maximum(a[0], b[0])
    return value, reach(value, np.maximum(a[0] - a[1], b[0] - b[1]), np.maximum(a[0] + a[1], b[0] + b[1]))


def minimum(p: Profile, a: Pair, b: Pair) -> Pair:
    """Smaller of two: −max(−a, −b)."""
    value, bound = maximum(p, (-a[0], a[1]), (-b[0], b[1]))
    return -value, bound


def reach(value, low, high):
    """Give the distance from `value` to the farther end of [low, high]; 0 between equal infinities."""
    up, down = high - value, value - low
    return np.maximum(np.where(np.isnan(up), 0.0, up), np.where(np.isnan(down), 0.0, down))


def unary(f: Callable, spread: Callable, roundings: float, *, flush: bool = False) -> Rule:
    """Build the rule of a function: `spread(value, bound, f(value))` bounds how far it carries an operand's error."""

    def rule(p: Profile, a: Pair) -> Pair:
        x, e = a
        value = f(x)
        carried = np.where(e == 0, 0.0, spread(x, e, value))
        return rounded(p, value, carried, roundings, certain=e == 0, flush=flush)

    return rule


def _root_spread(x, e, root):
    near_zero = np.maximum(np.sqrt(x + e) - root, root)
    return np.where(x >= e, e / (root + np.sqrt(np.maximum(x - e, 0))), near_zero)


def _log_spread(x, e):
    """Bound |log(x ± e) − log x|: the lower end is the farther one."""
    return np.where(e < x, -np.log1p(-np.minimum(e / x, 1)), np.inf)


def _sigmoid(x):
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def _sigmoid_spread(x, e, _):
    """Bound by the slope σ(1 − σ) at the point of [x − e, x + e] nearest to zero, where it is largest."""
    small = np.exp(-np.maximum(np.abs(x) - e, 0))
    return e * small / (1 + small) ** 2


def _tanh_spread(x, e, _):
    small = np.exp(-2 * np.maximum(np.abs(x) - e, 0))
    return e * 4 * small / (1 + small) ** 2


def _softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def logaddexp(p: Profile, a: Pair, b: Pair) -> Pair:
    """log(eᵃ + eᵇ) = m + log1p(e^−|a−b|): 1-Lipschitz; the second term is at most log 2 and is wrong by at most
    u·(exp 4 + argument 1 + sum 1 + log1p 4)."""
    value, e = np.logaddexp(a[0], b[0]), np.maximum(a[1], b[1])
    inner = np.where(np.isinf(value), 0.0, gamma(2 * ELEMENTARY + 2, p.unit))
    return rounded(p, value, e + inner, certain=_infinite(*a) | _infinite(*b))


def power(p: Profile, a: Pair, b: Pair) -> Pair:
    """Power a^b: a whole exact exponent as repeated multiplication, else as exp(b·log a) with a > 0."""
    (x, ex), (n, en) = a, b
    value, whole = np.power(x, n), np.all((en == 0) & (n == np.rint(n)))
    if whole:
        low = np.where(n < 0, np.maximum(np.abs(x) - ex, 0), np.abs(x) + ex)
        carried = np.where(ex == 0, 0.0, np.abs(n) * ex * np.power(low, n - 1))
        roundings = np.where(np.abs(n) <= 4, np.maximum(np.abs(n) - 1, 0) + QUOTIENT * (n < 0), POWER)
    else:
        spread = np.where(ex == 0, 0.0, (np.abs(n) + en) * _log_spread(x, ex)) + np.where(
            en == 0, 0, en * np.abs(np.log(x))
        )
        carried, roundings = np.abs(value) * np.expm1(spread), POWER
    return rounded(p, value, carried, roundings, certain=(ex == 0) & (en == 0))


RULES: dict[Callable, Rule] = {
    np.add: add,
    np.subtract: subtract,
    np.multiply: multiply,
    np.divide: divide,
    np.negative: negative,
    np.positive: lambda p, a: a,
    np.absolute: lambda p, a: (np.abs(a[0]), a[1]),
    np.reciprocal: lambda p, a: divide(p, (np.float64(1), np.float64(0)), a),
    np.square: unary(np.square, lambda x, e, _: e * (2 * np.abs(x) + e), 1),
    np.sqrt: unary(np.sqrt, _root_spread, ROOT),
    np.exp: unary(np.exp, lambda x, e, y: y * np.expm1(e), ELEMENTARY, flush=True),
    np.expm1: unary(np.expm1, lambda x, e, _: np.exp(x) * np.expm1(e), ELEMENTARY),
    np.log: unary(np.log, lambda x, e, _: _log_spread(x, e), ELEMENTARY),
    np.log1p: unary(np.log1p, lambda x, e, _: _log_spread(1 + x, e), ELEMENTARY),
    np.sin: unary(np.sin, lambda x, e, _: np.minimum(e, 2), ELEMENTARY),
    np.cos: unary(np.cos, lambda x, e, _: np.minimum(e, 2), ELEMENTARY),
    np.tanh: unary(np.tanh, _tanh_spread, ELEMENTARY),
    np.logaddexp: logaddexp,
    np.maximum: maximum,
    np.minimum: minimum,
    np.power: power,
}

sigmoid = unary(_sigmoid, _sigmoid_spread, ELEMENTARY + 1 + QUOTIENT, flush=True)
softplus = unary(_softplus, lambda x, e, _: e * _sigmoid(x + e), 2 * ELEMENTARY + 2, flush=True)
