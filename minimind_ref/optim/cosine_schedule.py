"""Learning rate: linear warm-up, then half a cosine down to a floor.  Spec: specs/cosine_schedule.md."""

import math


def cosine_schedule(
    step: int,
    *,
    total_steps: int,
    peak: float,
    warmup_steps: int = 0,
    floor_ratio: float = 0.1,
    form: str = "cosine",
) -> float:
    """Learning rate of the optimiser step that follows `step` finished ones (COSINE_SCHEDULE-1).

    Warm-up: peak·(step + 1)/(warmup_steps + 1).  Then from the peak, at step = warmup_steps, to floor_ratio·peak,
    at step = total_steps (warm-up included) and for ever after.  form="minimind2" adds the whole cosine to the floor
    and so starts at 1.1 peak.

    Source: Loshchilov and Hutter 2016, arXiv:1608.03983, eq. 5.
    """
    _check(step, total_steps, peak, warmup_steps, floor_ratio, form)
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return peak * floor_ratio
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    span = 1.0 if form == "minimind2" else 1.0 - floor_ratio
    # Factored, because floor_ratio + (1 − floor_ratio) is exactly 1 in floating point (COSINE_SCHEDULE-2).
    return peak * (floor_ratio + span * (1 + math.cos(math.pi * progress)) / 2)


def _check(step: int, total_steps: int, peak: float, warmup_steps: int, floor_ratio: float, form: str) -> None:
    if step < 0:
        raise ValueError(f"step={step} must be at least 0")
    if total_steps < 1:
        raise ValueError(f"total_steps={total_steps} must be at least 1")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps={warmup_steps} must lie in 0 … total_steps={total_steps}")
    if not 0 <= peak < math.inf:
        raise ValueError(f"peak={peak} must be at least 0 and finite")
    if not 0 <= floor_ratio <= 1:
        raise ValueError(f"floor_ratio={floor_ratio} must lie in [0, 1]")
    if form not in ("cosine", "minimind2"):
        raise ValueError(f"form={form!r} must be 'cosine' or 'minimind2'")
