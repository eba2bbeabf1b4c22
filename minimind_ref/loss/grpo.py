"""Policy optimisation from groups of scored answers.  Spec: specs/grpo.md."""

from collections.abc import Collection

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from minimind_ref.checks import require_finite, require_integers, require_rank, require_shape
from minimind_ref.loss.grpo_terms import grpo_terms, is_clipped, kl_k3
from minimind_ref.loss.tokens import marked, require_axes, require_option, widened

__all__ = [
    "answer_mask",
    "group_advantages",
    "grpo_divisor",
    "grpo_loss",
    "grpo_terms",
    "grpo_total",
    "is_clipped",
    "kl_k3",
]

NORMALISATIONS = ("sequence", "token", "constant")


def group_advantages(
    rewards: Float[Tensor, "..."], *, eps: float = 1e-4, ddof: int = 0, scale: bool = True
) -> Float[Tensor, "p r"]:
    """Compare each reward (p r) with its own row: (R − μ)/(σ + eps), or R − μ, without gradient (GRPO-1 to 7).

    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2; `scale=False`: Liu et al. 2025, arXiv:2503.20783.
    """
    _check_rewards(rewards, eps, ddof)
    rewards = widened(rewards.detach())
    moved = rewards - rewards[:, :1]  # so that the mean of equal rewards is theirs to the bit
    centred = moved - moved.mean(dim=1, keepdim=True)
    if not scale:
        return centred
    std = (centred.square().sum(dim=1, keepdim=True) / (rewards.shape[1] - ddof)).sqrt()
    divisor = std + eps
    return centred / divisor.masked_fill(divisor == 0, 1)


def answer_mask(
    ids: Int[Tensor, "..."], end_ids: Collection[int], *, lengths: Int[Tensor, "..."] | None = None
) -> Bool[Tensor, "b s"]:
    """Mark each row up to and including its first end id, and at most its first `lengths` positions (GRPO-26)."""
    require_rank("ids", ids, 2)
    require_axes("ids", ids)
    require_integers("ids", ids)
    if not end_ids:
        raise ValueError("end_ids has 0 entries but an answer must have an id that ends it")
    ends = torch.isin(ids, ids.new_tensor(list(end_ids)))
    marks = ends.cumsum(dim=1) - ends.long() == 0
    if lengths is None:
        return marks
    require_integers("lengths", lengths)
    require_shape("lengths", lengths, (ids.shape[0],), "the rows of ids")
    longest, shortest = int(lengths.max()), int(lengths.min())
    if shortest < 0 or longest > ids.shape[1]:
        raise ValueError(f"lengths holds {shortest if shortest < 0 else longest}, outside 0 … {ids.shape[1]} of ids")
    return marks & (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None])


def grpo_divisor(mask: Shaped[Tensor, "..."], *, normalise: str = "sequence") -> int:
    """Count what `grpo_total` sums over: sequences, or for "token" marked tokens (GRPO-24)."""
    require_option("normalise", normalise, NORMALISATIONS)
    marks = marked("mask", mask, mask)
    return int(marks.sum()) if normalise == "token" else marks.shape[0]


def grpo_total(
    logp: Float[Tensor, "..."],
    old_logp: Float[Tensor, "..."],
    reference_logp: Float[Tensor, "..."],
    advantages: Float[Tensor, "..."],
    mask: Shaped[Tensor, "..."],
    *,
    clip_low: float,
    clip_high: float,
    beta: float,
    normalise: str = "sequence",
    length: int | None = None,
    form: str = "clip",
) -> Float[Tensor, ""]:
    """Sum the rows: each the mean of its terms ("sequence"), their sum ("token"), their sum over `length` ("constant").

    Parts of a window are added by their totals, and divided once by the sum of their divisors (GRPO-24).
    """
    require_option("normalise", normalise, NORMALISATIONS)
    terms = grpo_terms(
        logp, old_logp, reference_logp, advantages, mask, clip_low=clip_low, clip_high=clip_high, beta=beta, form=form
    )
    if normalise == "sequence":
        return (terms.sum(dim=1) / mask.bool().sum(dim=1).clamp(min=1)).sum()
    if normalise == "token":
        return terms.sum()
    if length is None or length < 1:
        raise ValueError(f"normalise='constant' divides by length, which is {length} but must be at least 1")
    return terms.sum() / length


def grpo_loss(
    logp: Float[Tensor, "..."],
    old_logp: Float[Tensor, "..."],
    reference_logp: Float[Tensor, "..."],
    advantages: Float[Tensor, "..."],
    mask: Shaped[Tensor, "..."],
    *,
    clip_low: float,
    clip_high: float,
    beta: float,
    normalise: str = "sequence",
    length: int | None = None,
    form: str = "clip",
) -> Float[Tensor, ""]:
    """Give `grpo_total` over `grpo_divisor` (GRPO-20 to 22); without a marked token it is 0, with zero gradients.

    Source: "sequence": Shao et al. 2024, arXiv:2402.03300, eq. 3; "token": Yu et al. 2025, arXiv:2503.14476, eq. 8;
    "constant": Liu et al. 2025, arXiv:2503.20783, section 3.
    """
    total = grpo_total(
        logp,
        old_logp,
        reference_logp,
        advantages,
        mask,
        clip_low=clip_low,
        clip_high=clip_high,
        beta=beta,
        normalise=normalise,
        length=length,
        form=form,
    )
    return total / max(grpo_divisor(mask, normalise=normalise), 1)


def _check_rewards(rewards: Tensor, eps: float, ddof: int) -> None:
    require_rank("rewards", rewards, 2)
    require_axes("rewards", rewards)
    if rewards.shape[1] < 2:
        raise ValueError(f"rewards has {rewards.shape[1]} answer per prompt but a group compares at least 2")
    require_finite("eps", eps, 0.0)
    if ddof not in (0, 1):
        raise ValueError(f"ddof={ddof} must be 0 or 1")
    broken = (~rewards.isfinite()).nonzero()
    if len(broken):
        prompt, answer = broken[0].tolist()
        value = rewards[prompt, answer].item()
        raise ValueError(f"rewards holds {value} at prompt {prompt}, answer {answer}, but must be finite")
