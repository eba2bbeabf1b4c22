"""Functions of exponentials whose chained bounds would be far too wide, with bounds derived for the whole.

They work on plain arrays too, and oracles may call them where their spec does not make them the thing to be shown.
"""

from typing import Any

import numpy as np

from minimind_ref.oracle import propagation as rules
from minimind_ref.oracle.bounded_array import METHODS, Bounded, value
from minimind_ref.oracle.precision import PROFILES, gamma

# A blocked (online) softmax rescales its sums once a block; torch's CPU attention calls an exp of 20 ulp (exp_u20).
BLOCK, FAST_EXP = 16, 40


def sigmoid(x: Any) -> Any:
    """Compute 1/(1 + e^−x); write 1 − σ(x) as sigmoid(−x), which does not cancel.

    Bound: e·σ′ at the point of [x − e, x + e] nearest to 0, where σ′ is largest; roundings: exp 4, sum 1, quotient 2;
    and the smallest normal number, because e^−x overflows before σ(x) leaves the format.
    """
    return _apply(rules.sigmoid, x)


def open_share(x: Any) -> Any:
    """Compute σ(x) where ½·(1 + tanh(x/2)) and 1 − σ(−x) are honest forms too: a gate, or a loss's gradient.

    They are exact to a rounding of 1, not of σ(x); where that is not enough, `sigmoid` has a bound relative to σ(x).
    """
    return _apply(rules.open_share, x)


def softplus(x: Any) -> Any:
    """Compute log(1 + eˣ) = max(x, 0) + log1p(e^−|x|).

    Bound: e·σ(x + e); the relative error of the exponential (4 roundings) reaches the result with a condition of at
    most 1, log1p adds 4, the two sums 2.
    """
    return _apply(rules.softplus, x)


def log_sigmoid(x: Any) -> Any:
    """Compute log σ(x) = −softplus(−x)."""
    return -softplus(-x)


def softmax(x: Any, axis: int = -1) -> Any:
    """Compute e^xᵢ / Σ e^xⱼ; entries at −inf weigh exactly 0, and a row of nothing else is all zeros.

    Bound: with log-numerators wrong by up to dⱼ (their own bounds and `_numerators`), pᵢ is wrong by a factor of at
    most exp(dᵢ)/Σ pⱼ exp(−dⱼ) above and at least exp(−dᵢ)/Σ pⱼ exp(dⱼ) below. Chained rules would count the maximum,
    which cancels, as a third source of error.
    """
    with np.errstate(all="ignore"):
        _, p, _ = _weights(value(x), axis)
        if not isinstance(x, Bounded):
            return p
        d = _numerators(x, axis)
        up, down = _log_mean_exp(p, d, axis), -_log_mean_exp(p, -d, axis)
        masked = _masked(x)
        carried = np.where(masked, 0.0, p * np.maximum(np.expm1(d + down), -np.expm1(-d - up)))
        return Bounded(*rules.rounded(x.profile, p, carried, rules.QUOTIENT, exact=masked, flush=True), x.profile)


def logsumexp(x: Any, axis: int = -1, keepdims: bool = False) -> Any:
    """Compute log Σ e^xⱼ.

    Bound: log Σ pⱼ exp(dⱼ), with d as in softmax (−log Σ pⱼ exp(−dⱼ) below is less, by Jensen's inequality); then the
    logarithm of a number in [1, n], and the sum with the maximum.
    """
    with np.errstate(all="ignore"):
        top, p, total = _weights(value(x), axis)
        result = top + np.log(total)
        if isinstance(x, Bounded):
            error = _log_mean_exp(p, _numerators(x, axis), axis) + gamma(rules.ELEMENTARY, x.profile.unit) * np.log(
                np.maximum(total, 1)
            )
            certain = np.all(x.bound == 0, axis=axis, keepdims=True)
            result = Bounded(*rules.rounded(x.profile, result, error, 2, certain=certain), x.profile)
        return result if keepdims else np.squeeze(result, axis=axis)


def _apply(rule: rules.Rule, x: Any) -> Any:
    with np.errstate(all="ignore"):
        if isinstance(x, Bounded):
            return Bounded(*rule(x.profile, (x.value, x.bound)), x.profile)
        x = np.asarray(x)
        return rule(PROFILES["float64"], (x if x.dtype.kind == "f" else x.astype(np.float64), np.zeros(x.shape)))[0]


def _masked(x: Bounded) -> Any:
    return np.isneginf(x.value) & (x.bound == 0)


def _weights(v: Any, axis: int) -> tuple:
    """Give the maximum (0 in a row of −inf), the weights, and their divisor e^−max · Σ e^v."""
    top = np.max(v, axis=axis, keepdims=True)
    top = np.where(np.isneginf(top), 0.0, top)
    parts = np.exp(v - top)
    total = np.sum(parts, axis=axis, keepdims=True)
    return top, parts / np.where(total == 0, 1.0, total), total


def _numerators(x: Bounded, axis: int) -> Any:
    """Bound the error of log e^(xⱼ − max), with its part in the error of the sum, over the honest forms.

    Each counts roundings: of the argument, |xⱼ − max| (and, blocked, of the running maxima, whose steps add up to at
    most the range); the exponential's; n − 1 of the sum; and per block but the first a rescaling by an exponential.
    """
    masked = _masked(x)
    top = _weights(x.value, axis)[0]
    argument = np.where(masked, 0.0, np.abs(x.value - top) + 2 * x.bound)
    n = np.sum(~masked, axis=axis, keepdims=True)
    blocks = np.maximum(np.ceil(n / BLOCK) - 1, 0)
    roundings = argument + np.max(argument, axis=axis, keepdims=True) + FAST_EXP + np.maximum(n - 1, 0)
    roundings = roundings + blocks * (rules.ELEMENTARY + 1)
    return x.bound + gamma(roundings, x.profile.unit)


def _log_mean_exp(p: Any, d: Any, axis: int) -> Any:
    """Give log Σ pⱼ exp(dⱼ), for weights that sum to 1; NaN where what may be of any size has weight 0."""
    return np.log1p(np.sum(p * np.expm1(d), axis=axis, keepdims=True))


METHODS[np.logaddexp, "reduce"] = lambda x, axis=0, keepdims=False: logsumexp(x, axis=axis, keepdims=keepdims)
