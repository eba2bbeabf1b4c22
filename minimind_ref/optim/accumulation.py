"""How micro-batches add up to one gradient.  Spec: specs/accumulation.md."""

from collections.abc import Sequence


def windows(num_micro_batches: int, accumulation_steps: int) -> list[range]:
    """Cut 0 … num_micro_batches into windows of `accumulation_steps`, the last one maybe shorter (ACCUMULATION-4)."""
    if num_micro_batches < 0:
        raise ValueError(f"num_micro_batches={num_micro_batches} must be at least 0")
    if accumulation_steps < 1:
        raise ValueError(f"accumulation_steps={accumulation_steps} must be at least 1")
    starts = range(0, num_micro_batches, accumulation_steps)
    return [range(start, min(start + accumulation_steps, num_micro_batches)) for start in starts]


def micro_batch_weights(token_counts: Sequence[int], *, accumulation_steps: int, form: str = "tokens") -> list[float]:
    """The factor of each micro-batch's summed loss, given how many tokens each supervises (ACCUMULATION-1).

    "tokens": one over the window's tokens, so that cutting the window differently changes nothing.
    "mean_of_means": MiniMind's, each micro-batch's own mean over accumulation_steps, a shorter last window included.
    Without supervised tokens a factor is 0.
    """
    if accumulation_steps < 1:
        raise ValueError(f"accumulation_steps={accumulation_steps} must be at least 1")
    if not 1 <= len(token_counts) <= accumulation_steps:
        raise ValueError(f"token_counts has {len(token_counts)} entries; accumulation_steps={accumulation_steps}")
    if any(count < 0 for count in token_counts):
        raise ValueError(f"token_counts holds {min(token_counts)}, which must be at least 0")
    if form == "tokens":
        total = sum(token_counts)
        return [1 / total if total else 0.0] * len(token_counts)
    if form == "mean_of_means":
        return [1 / (count * accumulation_steps) if count else 0.0 for count in token_counts]
    raise ValueError(f"form={form!r} must be 'tokens' or 'mean_of_means'")
