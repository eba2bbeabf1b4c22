"""Cosine learning rate with warm-up, oracle.  Spec: specs/cosine_schedule.md."""

import numpy as np
from jaxtyping import Float

from minimind_ref.oracle.bounded import Array, constant
from minimind_ref.oracle.checks import require_option, require_positive

FORMS = ("cosine", "minimind2")


def cosine_schedule(
    step: int,
    *,
    total_steps: int,
    peak: float | Float[Array, ""],
    warmup_steps: int = 0,
    floor_ratio: float = 0.1,
    form: str = "cosine",
) -> float | Float[Array, ""]:
    """Give the rate of the update that follows `step` finished ones, by the half-angle form cos²(πx/2) = ½(1 + cos πx).

    Source: Loshchilov and Hutter 2016, arXiv:1608.03983, eq. 5, one period (COSINE_SCHEDULE-1 to 4).
    """
    _check(step, total_steps, peak, warmup_steps, floor_ratio, form)
    if step >= total_steps:
        return peak * floor_ratio
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    done = step - warmup_steps
    quarter_turn = constant(np.pi / 2, like=peak)
    share = np.cos(quarter_turn * done / (total_steps - warmup_steps)) ** 2
    span = 1.0 if form == "minimind2" else 1.0 - floor_ratio
    return peak * (floor_ratio + span * share)


def _check(step: int, total_steps: int, peak, warmup_steps: int, floor_ratio: float, form: str) -> None:
    """Refuse what no schedule is defined for (COSINE_SCHEDULE-10)."""
    if step < 0:
        raise ValueError(f"step is {step} but must be 0 or more")
    require_positive("total_steps", total_steps)
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps is {warmup_steps} but must be in [0, total_steps={total_steps}]")
    if not 0 <= peak < np.inf:
        raise ValueError(f"peak is {peak} but must be in [0, inf)")
    if not 0 <= floor_ratio <= 1:
        raise ValueError(f"floor_ratio is {floor_ratio} but must be in [0, 1]")
    require_option("form", form, FORMS)
