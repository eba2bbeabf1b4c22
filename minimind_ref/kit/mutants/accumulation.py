"""Wrong weights of micro-batches and wrong windows."""

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.accumulation import micro_batch_weights, windows


def divided(counts, divisors):
    """Give 1/divisor for each micro-batch, infinity for a divisor of 0."""
    return [1 / d if d else float("inf") for _, d in zip(counts, divisors, strict=True)]


@mutant("micro_batch_weights", "ACCUMULATION-M01", owner="ACCUMULATION-1", summary="micro-batches' means are averaged",
        source="transformers PR #34191, MiniMind d65ef2c (LOS-6)")  # fmt: skip
def mean_of_means(token_counts, *, accumulation_steps, form="tokens"):
    return micro_batch_weights(token_counts, accumulation_steps=accumulation_steps, form="mean_of_means")


@mutant("micro_batch_weights", "ACCUMULATION-M02", owner="ACCUMULATION-6",
        summary="an incomplete window is divided by the full number of steps", source="MiniMind #749")  # fmt: skip
def tail_too_light(token_counts, *, accumulation_steps, form="tokens"):
    weights = micro_batch_weights(token_counts, accumulation_steps=accumulation_steps, form=form)
    return weights if form != "tokens" else [w * len(token_counts) / accumulation_steps for w in weights]


@mutant("micro_batch_weights", "ACCUMULATION-M03", owner="ACCUMULATION-2",
        summary="a window without tokens divides by 0", source="pytorch #70348, torchtune #2341 (LOS-3)")  # fmt: skip
def empty_window_is_infinite(token_counts, *, accumulation_steps, form="tokens"):
    if form != "tokens":
        return micro_batch_weights(token_counts, accumulation_steps=accumulation_steps, form=form)
    return divided(token_counts, [sum(token_counts)] * len(token_counts))


@mutant("micro_batch_weights", "ACCUMULATION-M04", owner="ACCUMULATION-2",
        summary="a micro-batch without tokens has an infinite weight", source="a mean of nothing (LOS-3)")  # fmt: skip
def empty_micro_batch_is_infinite(token_counts, *, accumulation_steps, form="tokens"):
    if form == "tokens":
        return micro_batch_weights(token_counts, accumulation_steps=accumulation_steps, form=form)
    return divided(token_counts, [n * accumulation_steps for n in token_counts])


@mutant("micro_batch_weights", "ACCUMULATION-M05", owner="ACCUMULATION-1", summary="sums are divided by nothing",
        source="Megatron-DeepSpeed PR #42 (GRD-6)")  # fmt: skip
def not_divided(token_counts, *, accumulation_steps, form="tokens"):
    return [1.0 for _ in token_counts]


@mutant("micro_batch_weights", "ACCUMULATION-M06", owner="ACCUMULATION-1",
        summary="the number of steps divides once more",
        source="DeepSpeed PR #8154, transformers #45305 (GRD-6)")  # fmt: skip
def divided_twice(token_counts, *, accumulation_steps, form="tokens"):
    weights = micro_batch_weights(token_counts, accumulation_steps=accumulation_steps, form=form)
    return [w / accumulation_steps for w in weights]


@mutant("micro_batch_weights", "ACCUMULATION-M07", owner="ACCUMULATION-5", source="a mended tail under the old name",
        summary="MiniMind's form divides by the micro-batches that are there")  # fmt: skip
def means_of_what_is_there(token_counts, *, accumulation_steps, form="tokens"):
    steps = accumulation_steps if form == "tokens" else len(token_counts)
    return micro_batch_weights(token_counts, accumulation_steps=steps, form=form)


@mutant("windows", "ACCUMULATION-M08", owner="ACCUMULATION-4", summary="the first window is one micro-batch short",
        source="MiniMind d25500d, PR #698 (GRD-7)")  # fmt: skip
def first_window_short(num_micro_batches, accumulation_steps):
    later = [range(w.start - 1, w.stop - 1) for w in windows(num_micro_batches + 1, accumulation_steps)]
    return [range(0, later[0].stop), *later[1:]]


@mutant("windows", "ACCUMULATION-M09", owner="ACCUMULATION-4",
        summary="the micro-batches that are left over are dropped",
        source="an update only where the counter divides (GRD-9)")  # fmt: skip
def tail_dropped(num_micro_batches, accumulation_steps):
    return [w for w in windows(num_micro_batches, accumulation_steps) if len(w) == accumulation_steps]


@mutant("windows", "ACCUMULATION-M10", owner="ACCUMULATION-4", summary="the last window takes what is left over too",
        source="number of updates rounded down")  # fmt: skip
def tail_joined(num_micro_batches, accumulation_steps):
    cut = windows(num_micro_batches, accumulation_steps)
    if len(cut) < 2 or len(cut[-1]) == accumulation_steps:
        return cut
    return [*cut[:-2], range(cut[-2].start, cut[-1].stop)]


@mutant("windows", "ACCUMULATION-M11", owner="ACCUMULATION-4", summary="windows overlap by one micro-batch",
        source="TRL #583: gradients zeroed at another place than the update (GRD-4)")  # fmt: skip
def overlapping(num_micro_batches, accumulation_steps):
    return [range(max(w.start - 1, 0), w.stop) for w in windows(num_micro_batches, accumulation_steps)]
