"""AdamW as a recurrence, oracle.  Spec: specs/adamw.md."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from minimind_ref.oracle.bounded import Array, store
from minimind_ref.oracle.checks import require_equal


class Moments(NamedTuple):
    """The running averages of the gradient and of its square, not yet bias-corrected, after `step` updates."""

    mean: Float[Array, "..."]
    square: Float[Array, "..."]
    step: int


def init_moments(param: Float[Array, "..."]) -> Moments:
    """Start from nothing: zero averages, no update done (ADAMW-1)."""
    return Moments(np.zeros_like(param), np.zeros_like(param), 0)


def adamw_update(
    param: Float[Array, "..."],
    grad: Float[Array, "..."],
    moments: Moments,
    *,
    lr: float | Float[Array, ""],
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> tuple[Float[Array, "..."], Moments]:
    """Make one step, p ← (1 − lr·λ)·p − α_t·m/(√v + ε·√(1 − β₂ᵗ)) with α_t = lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ) (ADAMW-1 to 4).

    Source: Loshchilov and Hutter 2017, arXiv:1711.05101, alg. 2, line 12, with both corrections folded into the step
    size as Kingma and Ba 2014, arXiv:1412.6980, end of section 2, do; ε is scaled along, so that nothing changes.
    """
    _check(param, grad, moments, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)
    rate, keep1, keep2 = (np.full_like(param, number, shape=()) for number in (lr, beta1, beta2))
    step = moments.step + 1
    mean = keep1 * moments.mean + (1 - keep1) * grad
    square = keep2 * moments.square + (1 - keep2) * grad * grad
    root = np.sqrt(1 - _power(keep2, step))
    step_size = rate * root / (1 - _power(keep1, step))
    moved = (1 - rate * weight_decay) * param - step_size * mean / (np.sqrt(square) + eps * root)
    return store(moved), Moments(mean, square, step)


def _power(base: Float[Array, ""], exponent: int) -> Float[Array, ""]:
    """Raise to a whole power by squaring, so that an array which carries a bound carries it through."""
    if exponent == 1:
        return base
    half = _power(base, exponent // 2)
    return half * half * base if exponent % 2 else half * half


def _check(param: Array, grad: Array, moments: Moments, **options: float | Array) -> None:
    """Refuse what no step is defined for (ADAMW-17)."""
    for name, array in (("grad", grad), ("moments.mean", moments.mean), ("moments.square", moments.square)):
        require_equal(f"shape of {name}", tuple(array.shape), "shape of param", tuple(param.shape))
    if moments.step < 0:
        raise ValueError(f"moments.step is {moments.step} but must be 0 or more")
    for name, number in options.items():
        below = 1 if name in ("beta1", "beta2") else np.inf
        if not 0 <= number < below:
            raise ValueError(f"{name} is {number} but must be in [0, {below})")
