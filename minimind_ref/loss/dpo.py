"""Preference optimisation from pairs of answers.  Spec: specs/dpo.md."""

import math

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from minimind_ref.checks import require_rank, require_shape
from minimind_ref.loss.tokens import marked, require_axes, require_option, widened

FORMS = ("sigmoid", "ipo", "hinge")


def sequence_logp(
    logp: Float[Tensor, "..."], mask: Shaped[Tensor, "..."], *, reduction: str = "sum"
) -> Float[Tensor, " b"]:
    """Add each answer's token log-probabilities (b s) over its marked positions (DPO-1); "mean" is MiniMind2's (DPO-2).

    What stands at other positions, padding or prompt, does not matter; an answer without tokens gives 0 (DPO-3).
    """
    require_option("reduction", reduction, ("sum", "mean"))
    marks = marked("logp", logp, mask)
    total = widened(logp).masked_fill(~marks, 0).sum(dim=1)
    return total / marks.sum(dim=1).clamp(min=1) if reduction == "mean" else total


def implicit_reward(
    policy: Float[Tensor, "..."], reference: Float[Tensor, "..."], *, beta: float
) -> Float[Tensor, " p"]:
    """Measure β·(log π − log π_ref) of each answer, without gradient; chosen above rejected is right (DPO-17)."""
    _check(beta, policy=policy, reference=reference)
    return beta * (widened(policy.detach()) - widened(reference.detach()))


def dpo_loss(
    policy_chosen: Float[Tensor, "..."],
    policy_rejected: Float[Tensor, "..."],
    reference_chosen: Float[Tensor, "..."],
    reference_rejected: Float[Tensor, "..."],
    *,
    beta: float,
    form: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Give the mean of `dpo_losses` over the pairs: their sum is it times their number (DPO-8)."""
    losses = dpo_losses(
        policy_chosen,
        policy_rejected,
        reference_chosen,
        reference_rejected,
        beta=beta,
        form=form,
        label_smoothing=label_smoothing,
    )
    return losses.mean()


def dpo_losses(
    policy_chosen: Float[Tensor, "..."],
    policy_rejected: Float[Tensor, "..."],
    reference_chosen: Float[Tensor, "..."],
    reference_rejected: Float[Tensor, "..."],
    *,
    beta: float,
    form: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> Float[Tensor, " p"]:
    """Give each pair's loss of the margin δ, the policy's gain over the reference on chosen less that on rejected.

    "sigmoid": −log σ(βδ), where label_smoothing is the probability that a pair is the wrong way round (DPO-5);
    "hinge": max(0, 1 − βδ) (DPO-6); "ipo": (δ − 1/(2β))² (DPO-7).  Every argument is a sequence log-probability (p).
    The reference is detached (DPO-11).

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; Azar et al. 2023, arXiv:2310.12036, eq. 17; Liu et al. 2023,
    arXiv:2309.06657 (hinge).  Differs from MiniMind2 in what it is given: sums over tokens, not means (DPO-1).
    """
    _check(
        beta,
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
    )
    _check_form(form, label_smoothing)
    gained_chosen = widened(policy_chosen) - widened(reference_chosen.detach())
    gained_rejected = widened(policy_rejected) - widened(reference_rejected.detach())
    margin = gained_chosen - gained_rejected
    if form == "ipo":
        return (margin - 1 / (2 * beta)).square()
    if form == "hinge":
        return F.relu(1 - beta * margin)
    right = -F.logsigmoid(beta * margin)
    if label_smoothing == 0:
        return right  # not right + 0·wrong, which is NaN for an infinite margin
    return (1 - label_smoothing) * right - label_smoothing * F.logsigmoid(-beta * margin)


def _check(beta: float, **logp: Tensor) -> None:
    first = next(iter(logp))
    for name, values in logp.items():
        require_rank(name, values, 1)
        require_shape(name, values, tuple(logp[first].shape), f"the shape of {first}")
        require_axes(name, values)
    if not 0 < beta < math.inf:
        raise ValueError(f"beta={beta} must be finite and above 0")


def _check_form(form: str, label_smoothing: float) -> None:
    require_option("form", form, FORMS)
    if not 0 <= label_smoothing <= 0.5:
        raise ValueError(f"label_smoothing={label_smoothing} must be between 0 and 0.5")
    if label_smoothing and form != "sigmoid":
        raise ValueError(f"label_smoothing={label_smoothing} has a meaning for form='sigmoid' only, not for {form!r}")
