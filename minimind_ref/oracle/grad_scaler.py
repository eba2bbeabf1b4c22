"""Dynamic loss scaling as a pure state machine, oracle.  Spec: specs/grad_scaler.md."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from minimind_ref.oracle.bounded import Array, store
from minimind_ref.oracle.checks import require_positive

SMALLEST = float(np.finfo(np.float32).tiny)  # the smallest scale whose reciprocal float32 holds; GRAD_SCALER-6


class ScalerState(NamedTuple):
    """The scale, a float32 number, and how many windows in a row were free of overflow since it last changed."""

    scale: float
    good_steps: int


def initial_state(init_scale: float = 65536.0) -> ScalerState:
    """Start at 2¹⁶ with no window counted."""
    if not 0 < init_scale < np.inf:
        raise ValueError(f"init_scale is {init_scale} but must be in (0, inf)")
    return ScalerState(float(np.float32(init_scale)), 0)


def unscale(
    gradients: Sequence[Float[Array, "..."] | None], *, scale: float
) -> tuple[list[Float[Array, "..."] | None], bool]:
    """Divide every gradient by the scale; say whether any element of any of them overflowed (GRAD_SCALER-2, -3)."""
    found_inf = any(bool(np.any(~np.isfinite(grad))) for grad in gradients if grad is not None)
    return [None if grad is None else store(grad / scale) for grad in gradients], found_inf


def update(
    state: ScalerState,
    found_inf: bool,
    *,
    growth_factor: float = 2.0,
    backoff_factor: float = 0.5,
    growth_interval: int = 2000,
) -> ScalerState:
    """Back off at once after an overflow; grow after `growth_interval` clean windows in a row (GRAD_SCALER-4 to 6).

    Source: Micikevicius et al. 2017, arXiv:1710.03740, section 3.2; constants and float32 as torch.amp.GradScaler.
    """
    _check(growth_factor, backoff_factor, growth_interval)
    if found_inf:
        lower = _float32(state.scale * backoff_factor)
        return ScalerState(lower if lower >= SMALLEST else state.scale, 0)
    if state.good_steps + 1 < growth_interval:
        return ScalerState(state.scale, state.good_steps + 1)
    higher = _float32(state.scale * growth_factor)
    return ScalerState(higher if np.isfinite(higher) else state.scale, 0)


def _float32(number: float) -> float:
    """Round to float32, to infinity where it is too large."""
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float32(number))


def _check(growth_factor: float, backoff_factor: float, growth_interval: int) -> None:
    """Refuse what would not grow, not shrink, or never come to its turn (GRAD_SCALER-10)."""
    if not 1 < growth_factor < np.inf:
        raise ValueError(f"growth_factor is {growth_factor} but must be in (1, inf)")
    if not 0 < backoff_factor < 1:
        raise ValueError(f"backoff_factor is {backoff_factor} but must be in (0, 1)")
    require_positive("growth_interval", growth_interval)
