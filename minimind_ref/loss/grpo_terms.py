"""What each token of an answer adds to GRPO's loss.  Spec: specs/grpo.md."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from minimind_ref.checks import require_finite, require_shape
from minimind_ref.loss.tokens import marked, require_axes, require_option, widened

FORMS = ("clip", "cispo")


def kl_k3(logp: Float[Tensor, "..."], reference_logp: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Estimate KL(π‖ref) per token by e^d − d − 1, d = reference_logp − logp, the reference detached (GRPO-8, -9).

    Its mean gradient is that of KL(ref‖π) (GRPO-10).
    Source: Schulman 2020, "Approximating KL divergence"; Shao et al. 2024, arXiv:2402.03300, eq. 4.
    """
    require_shape("reference_logp", reference_logp, tuple(logp.shape), "the shape of logp")
    require_axes("logp", logp)
    gap = widened(reference_logp.detach()) - widened(logp)
    return gap.expm1() - gap


def is_clipped(
    logp: Float[Tensor, "..."],
    old_logp: Float[Tensor, "..."],
    advantages: Float[Tensor, "..."],
    mask: Shaped[Tensor, "..."],
    *,
    clip_low: float,
    clip_high: float,
    form: str = "clip",
) -> Bool[Tensor, "b s"]:
    """Tell the marked tokens whose ratio is clipped, on either side: a measure, without gradient (GRPO-25)."""
    _check_settings(clip_low, clip_high, 0.0, form)
    marks = _check_tokens(logp, advantages, mask, old_logp=old_logp)
    log_ratio = _clean(logp.detach(), marks) - _clean(old_logp.detach(), marks)
    if form == "cispo":
        return log_ratio.exp() > 1 + clip_high  # what is not marked has ratio 1, which no clip cuts
    return _outside(log_ratio, advantages.detach()[:, None], clip_low, clip_high)


def grpo_terms(
    logp: Float[Tensor, "..."],
    old_logp: Float[Tensor, "..."],
    reference_logp: Float[Tensor, "..."],
    advantages: Float[Tensor, "..."],
    mask: Shaped[Tensor, "..."],
    *,
    clip_low: float,
    clip_high: float,
    beta: float,
    form: str = "clip",
) -> Float[Tensor, "b s"]:
    """Give each token's term, 0 where it is not marked; only `logp` has a gradient (GRPO-17, -19).

    "clip": −min(ρ·A, clip(ρ, 1 − clip_low, 1 + clip_high)·A) + beta·k3 with ρ = exp(logp − old_logp) (GRPO-12);
    "cispo": −min(ρ, 1 + clip_high)·A·logp + beta·k3, the minimum a constant (GRPO-15).
    With beta = 0 the reference is not looked at (GRPO-18).

    Source: Shao et al. 2024, arXiv:2402.03300, eq. 3; MiniMax 2025, arXiv:2506.13585, eq. 4.
    """
    _check_settings(clip_low, clip_high, beta, form)
    marks = _check_tokens(logp, advantages, mask, old_logp=old_logp, reference_logp=reference_logp)
    logp, old_logp, reference_logp = (_clean(x, marks) for x in (logp, old_logp, reference_logp))
    log_ratio = logp - old_logp.detach()
    advantage = advantages.detach().to(log_ratio.dtype)[:, None]
    if form == "clip":
        gain = _clipped_gain(log_ratio, advantage, clip_low, clip_high)
    else:
        gain = log_ratio.detach().exp().clamp(max=1 + clip_high) * advantage * logp
    terms = beta * kl_k3(logp, reference_logp) - gain if beta > 0 else -gain
    return terms.masked_fill(~marks, 0)


def _clipped_gain(
    log_ratio: Float[Tensor, "b s"], advantage: Float[Tensor, "b one"], low: float, high: float
) -> Float[Tensor, "b s"]:
    """min(ρ·A, clip(ρ)·A).  Where it is clipped ρ is not formed: autograd would take 0·∞ for its gradient (GRPO-13)."""
    outside = _outside(log_ratio.detach(), advantage, low, high)
    ratio = log_ratio.masked_fill(outside | (advantage == 0), 0).exp()
    edge = torch.where(advantage > 0, torch.full_like(advantage, 1 + high), torch.full_like(advantage, 1 - low))
    return torch.where(outside, edge, ratio) * advantage


def _outside(log_ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    ratio = log_ratio.exp()
    return ((advantage > 0) & (ratio > 1 + high)) | ((advantage < 0) & (ratio < 1 - low))


def _clean(x: Tensor, marks: Tensor) -> Tensor:
    return widened(x).masked_fill(~marks, 0)


def _check_tokens(logp: Tensor, advantages: Tensor, mask: Tensor, **others: Tensor) -> Tensor:
    marks = marked("logp", logp, mask)
    for name, values in others.items():
        require_shape(name, values, tuple(logp.shape), "the shape of logp")
    require_shape("advantages", advantages, (logp.shape[0],), "the rows of logp")
    return marks


def _check_settings(clip_low: float, clip_high: float, beta: float, form: str) -> None:
    require_option("form", form, FORMS)
    if not 0 <= clip_low <= 1:
        raise ValueError(f"clip_low={clip_low} must be between 0 and 1")
    require_finite("clip_high", clip_high, 0.0)
    require_finite("beta", beta, 0.0)
