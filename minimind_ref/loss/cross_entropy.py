"""Masked cross-entropy over the vocabulary.  Spec: specs/cross_entropy.md."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minimind_ref.checks import require_integers, require_positive, require_range, require_shape

IGNORE_INDEX = -100
_CACHED = 2**19
"""Logits, 2 MB in float32, whose temporaries a CPU's cache holds."""


def token_logp(logits: Float[Tensor, "*lead v"], labels: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """Log-probability of each label in nats: z_y − log Σ exp z, in float32 or wider (CROSS_ENTROPY-1, -12)."""
    _check(logits, labels, labels)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.log_softmax(dim=-1).gather(-1, labels.long().unsqueeze(-1)).squeeze(-1)


def cross_entropy(
    logits: Float[Tensor, "*lead v"],
    labels: Int[Tensor, "*rows"],
    *,
    ignore_index: int = IGNORE_INDEX,
    reduction: str = "mean",
    implementation: str = "explicit",
) -> Float[Tensor, "*out"]:
    """Mean (or "sum", or "none") of −log p(label) over the labels that are not `ignore_index`, in nats.

    Logits and labels are already aligned: nothing is shifted here.  Ignored rows are not looked at, whatever they
    hold; where nothing is supervised, the loss and its gradients are 0 (CROSS_ENTROPY-2 … -5).
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction={reduction!r} must be 'mean', 'sum' or 'none'")
    if implementation not in ("explicit", "fused"):
        raise ValueError(f"implementation={implementation!r} must be 'explicit' or 'fused'")
    supervised = labels != ignore_index
    _check(logits, labels, labels[supervised])
    if implementation == "fused":
        nll = _fused(logits, labels, ignore_index)
        if reduction == "none":
            return nll
        return nll.sum() / supervised.sum().clamp(min=1) if reduction == "mean" else nll.sum()
    nll = -token_logp(logits[supervised], labels[supervised])
    if reduction == "none":
        return nll.new_zeros(labels.shape).masked_scatter(supervised, nll)
    total = nll.sum()
    return total / max(nll.numel(), 1) if reduction == "mean" else total


def _fused(logits: Float[Tensor, "*lead v"], labels: Int[Tensor, "*rows"], ignore_index: int) -> Float[Tensor, "*rows"]:
    """Row by row by torch's own kernel; a CPU takes no more rows at a time than its cache holds."""
    v, ids = logits.shape[-1], labels.flatten().long()
    size = max(1, _CACHED // v if logits.device.type == "cpu" else len(ids))
    parts = []
    for rows, targets in zip(logits.reshape(-1, v).split(size), ids.split(size), strict=True):
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        # torch gives an ignored row of NaN a gradient of 0·NaN
        wide = wide.masked_fill((targets == ignore_index)[:, None], 0)
        parts.append(F.cross_entropy(wide, targets, ignore_index=ignore_index, reduction="none"))
    return torch.cat(parts).view(labels.shape)


def _check(logits: Tensor, labels: Tensor, ids: Tensor) -> None:
    """Refuse what torch would broadcast or, on CUDA, assert; `ids` are the labels that must be in the vocabulary."""
    if logits.ndim == 0:
        raise ValueError("logits has 0 axes but needs a last one, the vocabulary")
    require_integers("labels", labels)
    require_shape("labels", labels, tuple(logits.shape[:-1]), "the rows of logits")
    require_positive("width of logits", logits.shape[-1])
    require_range("labels", ids, logits.shape[-1], "the width of logits")
