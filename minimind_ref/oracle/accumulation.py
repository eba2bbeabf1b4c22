"""Gradient accumulation over a window of micro-batches, oracle.  Spec: specs/accumulation.md."""

from collections.abc import Sequence
from fractions import Fraction

from minimind_ref.oracle.checks import require_option, require_positive

FORMS = ("tokens", "mean_of_means")


def micro_batch_weights(token_counts: Sequence[int], *, accumulation_steps: int, form: str = "tokens") -> list[float]:
    """Give the factor of each micro-batch's summed loss, in exact fractions, rounded once (ACCUMULATION-1, -2, -5).

    "tokens": 1 / (tokens of the window). "mean_of_means": 1 / (own tokens · accumulation_steps), MiniMind's.
    """
    _check(token_counts, accumulation_steps, form)
    shares = []
    for own in token_counts:
        divisor = sum(token_counts) if form == "tokens" else own * accumulation_steps
        shares.append(float(Fraction(1, divisor)) if divisor else 0.0)
    return shares


def windows(num_micro_batches: int, accumulation_steps: int) -> list[range]:
    """Cut an epoch's micro-batches into ⌈N/K⌉ windows of K, the last one perhaps shorter (ACCUMULATION-4)."""
    if num_micro_batches < 0:
        raise ValueError(f"num_micro_batches is {num_micro_batches} but must be 0 or more")
    require_positive("accumulation_steps", accumulation_steps)
    cut: list[range] = []
    while sum(map(len, cut)) < num_micro_batches:
        start = cut[-1].stop if cut else 0
        cut.append(range(start, min(start + accumulation_steps, num_micro_batches)))
    return cut


def _check(token_counts: Sequence[int], accumulation_steps: int, form: str) -> None:
    """Refuse what is no window (ACCUMULATION-9)."""
    require_positive("accumulation_steps", accumulation_steps)
    if not 1 <= len(token_counts) <= accumulation_steps:
        raise ValueError(f"token_counts has {len(token_counts)} entries but accumulation_steps is {accumulation_steps}")
    for place, count in enumerate(token_counts):
        if count < 0:
            raise ValueError(f"token_counts[{place}] is {count} but must be 0 or more")
    require_option("form", form, FORMS)
