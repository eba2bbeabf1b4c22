"""From logits to the next token's distribution.  Spec: specs/sampling.md."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minimind_ref.checks import require_rank, require_shape


def filter_logits(
    logits: Float[Tensor, "b v"],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Float[Tensor, "b v"]:
    """Divide by `temperature`, then put −inf where top-k, top-p and min-p, in this order, leave nothing (SAMPLING-1).

    temperature 0 keeps the largest logit only (the first of equals).  top_k 0 keeps all; ties at the k-th logit all
    stay.  top_p keeps the fewest tokens whose probability reaches it, min_p those with at least min_p times the
    largest probability; both look at what the step before left, renormalised.

    Source: Holtzman et al. 2019, arXiv:1904.09751, sec. 3.1 (top-p); Nguyen et al. 2024, arXiv:2407.01082 (min-p).
    """
    require_rank("logits", logits, 2)
    _check(temperature, top_k, top_p, min_p)
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, best, logits.gather(-1, best))
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, index = logits.sort(dim=-1, descending=True, stable=True)
        probability = ordered.softmax(dim=-1)
        reached = probability.cumsum(dim=-1) - probability >= top_p
        reached[:, 0] = False
        logits = logits.masked_fill(torch.zeros_like(reached).scatter(-1, index, reached), -torch.inf)
    if min_p > 0:
        probability = logits.softmax(dim=-1)
        logits = logits.masked_fill(probability < min_p * probability.amax(dim=-1, keepdim=True), -torch.inf)
    return logits


def _check(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature} must be at least 0 and finite")
    if top_k < 0:
        raise ValueError(f"top_k={top_k} must be at least 0")
    for name, value in (("top_p", top_p), ("min_p", min_p)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} must lie in [0, 1]")


def penalise_repetition(logits: Float[Tensor, "b v"], ids: Int[Tensor, "b1 t"], penalty: float) -> Float[Tensor, "b v"]:
    """Make every token of `ids` less likely: a positive logit is divided by `penalty`, another multiplied (SAMPLING-7).

    Source: Keskar et al. 2019, arXiv:1909.05858, sec. 4.1.  Differs: sign-aware, so that it never helps a token.
    """
    if not penalty >= 1:
        raise ValueError(f"penalty={penalty} must be at least 1")
    require_shape("ids", ids, (logits.shape[0], ids.shape[-1]), "the rows of logits")
    seen = logits.gather(-1, ids)
    return logits.scatter(-1, ids, torch.where(seen > 0, seen / penalty, seen * penalty))
