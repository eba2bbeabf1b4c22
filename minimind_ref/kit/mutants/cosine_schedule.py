"""Wrong learning-rate schedules."""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.cosine_schedule import cosine_schedule


def decayed(done, length, peak, floor_ratio):
    """Give the rate on the cosine after `done` of `length` steps."""
    return peak * (floor_ratio + (1 - floor_ratio) * (1 + np.cos(np.pi * done / max(length, 1))) / 2)


@mutant("cosine_schedule", "COSINE_SCHEDULE-M01", owner="COSINE_SCHEDULE-3", summary="the cosine is added to the floor",
        source="MiniMind bf3878a, PR #571 (LRS-1)")  # fmt: skip
def added_to_the_floor(step, *, form="cosine", **options):
    return cosine_schedule(step, form="minimind2", **options)


@mutant("cosine_schedule", "COSINE_SCHEDULE-M02", owner="COSINE_SCHEDULE-1",
        summary="the first rate of the warm-up is 0", source="nanoGPT #443, PR #578 (LRS-2)")  # fmt: skip
def starts_at_zero(step, *, peak, warmup_steps=0, **options):
    if step < warmup_steps:
        return peak * step / warmup_steps
    return cosine_schedule(step, peak=peak, warmup_steps=warmup_steps, **options)


@mutant("cosine_schedule", "COSINE_SCHEDULE-M03", owner="COSINE_SCHEDULE-5",
        summary="the floor cuts a cosine that falls to 0", source="gpt-neox PR #1008 (LRS-3)")  # fmt: skip
def floor_by_maximum(step, *, peak, floor_ratio=0.1, **options):
    rate = cosine_schedule(step, peak=peak, floor_ratio=0.0, **options)
    return rate if step < options.get("warmup_steps", 0) else max(peak * floor_ratio, rate)


@mutant("cosine_schedule", "COSINE_SCHEDULE-M04", owner="COSINE_SCHEDULE-3",
        summary="the cosine starts at step 0, under the warm-up", source="gpt-neox PR #1008 (LRS-3)")  # fmt: skip
def cosine_under_the_warm_up(step, *, total_steps, peak, warmup_steps=0, floor_ratio=0.1, form="cosine"):
    options = {"total_steps": total_steps, "peak": peak, "floor_ratio": floor_ratio, "form": form}
    return cosine_schedule(step, **options, warmup_steps=warmup_steps if step < warmup_steps else 0)


@mutant("cosine_schedule", "COSINE_SCHEDULE-M05", owner="COSINE_SCHEDULE-4",
        summary="beyond its length the rate rises again", source="MiniMind d65ef2c: no clamp (LRS-1)")  # fmt: skip
def rises_again(step, *, total_steps, peak, warmup_steps=0, floor_ratio=0.1, form="cosine"):
    if step >= total_steps:
        return decayed(step - warmup_steps, total_steps - warmup_steps, peak, floor_ratio)
    options = {"total_steps": total_steps, "warmup_steps": warmup_steps, "floor_ratio": floor_ratio}
    return cosine_schedule(step, peak=peak, form=form, **options)


@mutant("cosine_schedule", "COSINE_SCHEDULE-M06", owner="COSINE_SCHEDULE-2",
        summary="steps are counted from 1: the peak is skipped",
        source="a loop that became 1-indexed (GRD-7)")  # fmt: skip
def counted_from_one(step, **options):
    return cosine_schedule(step + 1, **options)


@mutant("cosine_schedule", "COSINE_SCHEDULE-M07", owner="COSINE_SCHEDULE-1",
        summary="the warm-up has the peak one step early",
        source="(step + 1)/warmup_steps for (step + 1)/(warmup_steps + 1) (LRS-2)")  # fmt: skip
def peak_one_step_early(step, *, peak, warmup_steps=0, **options):
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return cosine_schedule(step, peak=peak, warmup_steps=warmup_steps, **options)


@mutant("cosine_schedule", "COSINE_SCHEDULE-M08", owner="COSINE_SCHEDULE-5",
        summary="the floor is reached one step early", source="total_steps - 1 for total_steps")  # fmt: skip
def floor_one_step_early(step, *, total_steps, warmup_steps=0, **options):
    end = max(total_steps - 1, warmup_steps, 1)
    return cosine_schedule(step, total_steps=end, warmup_steps=warmup_steps, **options)


@mutant("cosine_schedule", "COSINE_SCHEDULE-M09", owner="COSINE_SCHEDULE-4",
        summary="the floor is floor_ratio itself, not of the peak", source="a ratio taken for a rate")  # fmt: skip
def ratio_as_a_rate(step, *, peak, floor_ratio=0.1, **options):
    return cosine_schedule(step, peak=peak, floor_ratio=min(floor_ratio / peak, 1.0), **options)


@mutant("cosine_schedule", "COSINE_SCHEDULE-M10", owner="COSINE_SCHEDULE-3", summary="the decay is linear",
        source="another schedule under the same name")  # fmt: skip
def linear(step, *, total_steps, peak, warmup_steps=0, floor_ratio=0.1, **options):
    if not warmup_steps <= step < total_steps:
        given = {"total_steps": total_steps, "warmup_steps": warmup_steps, "floor_ratio": floor_ratio}
        return cosine_schedule(step, peak=peak, **given, **options)
    return peak * (1 - (1 - floor_ratio) * (step - warmup_steps) / (total_steps - warmup_steps))


@mutant("cosine_schedule", "COSINE_SCHEDULE-M11", owner="COSINE_SCHEDULE-3", summary="the schedule runs twice as fast",
        source="transformers PR #24088, accelerate #2926 (LRS-5)")  # fmt: skip
def twice_as_fast(step, **options):
    return cosine_schedule(2 * step, **options)


@mutant("cosine_schedule", "COSINE_SCHEDULE-M12", owner="COSINE_SCHEDULE-9",
        summary="MiniMind2's form starts at the peak",
        source="MiniMind 5129f0e: today's formula under the old name (LRS-1)")  # fmt: skip
def old_form_mended(step, *, form="cosine", **options):
    return cosine_schedule(step, **options)
