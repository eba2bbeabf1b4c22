"""Filters of logits, and the choice of a token from what they leave.  Spec: specs/sampling.md."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minimind_ref.checks import require_positive, require_range, require_rank, require_shape


def filter_logits(
    logits: Float[Tensor, "..."],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Float[Tensor, "b v"]:
    """Divide by `temperature`, then put −inf where top-k, top-p and min-p, in this order, drop a token (SAMPLING-1).

    temperature 0 keeps the first of the largest logits only.  top_k 0 keeps all; ties with the k-th logit all stay.
    top_p keeps the fewest tokens whose mass reaches it, min_p those with at least min_p times the largest probability;
    both look at what the filter before left, renormalised.  Decisions are float32's for low-precision logits.

    Source: Holtzman et al. 2020, arXiv:1904.09751, eq. 2-3 (top-p); Nguyen et al. 2024, arXiv:2407.01082, sec. 3.
    Differs: MiniMind-3 keeps one token more where the mass is exactly top_p, and divides by a temperature of 0.
    """
    _check_logits(logits)
    _check_settings(temperature, top_k, top_p, min_p)
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)  # the first of equals
        return torch.full_like(logits, -torch.inf).scatter(-1, best, logits.gather(-1, best))
    scaled = _wide(logits) / temperature
    if 0 < top_k < scaled.shape[-1]:
        kth = scaled.topk(top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < kth, -torch.inf)
    if top_p < 1:
        ordered, index = scaled.sort(dim=-1, descending=True, stable=True)
        ahead = F.pad(ordered.softmax(dim=-1).cumsum(dim=-1)[:, :-1], (1, 0))
        dropped = ahead >= top_p
        dropped[:, 0] = False
        scaled = scaled.masked_fill(torch.zeros_like(dropped).scatter(-1, index, dropped), -torch.inf)
    if min_p > 0:
        mass = scaled.softmax(dim=-1)
        scaled = scaled.masked_fill(mass < min_p * mass.amax(dim=-1, keepdim=True), -torch.inf)
    return scaled.to(logits.dtype)


def penalise_repetition(
    logits: Float[Tensor, "..."], ids: Int[Tensor, "..."], penalty: float, *, mask: Tensor | None = None
) -> Float[Tensor, "b v"]:
    """Divide the positive and multiply the other logits of each row's seen tokens by `penalty`, once (SAMPLING-12).

    `mask` (b t) is False, or 0, where an id is padding and was not seen; such an id may be any number.

    Source: Keskar et al. 2019, arXiv:1909.05858, sec. 4.1.  Differs: sign-aware, so that it never helps a token.
    """
    _check_logits(logits)
    rows, vocabulary = logits.shape
    require_rank("ids", ids, 2)
    require_shape("ids", ids, (rows, ids.shape[1]), "one history for each row of logits")
    if not 0 < penalty < math.inf:
        raise ValueError(f"penalty={penalty} must be above 0 and finite")
    counted = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    require_shape("mask", counted, tuple(ids.shape), "the shape of ids")
    require_range("ids", ids.masked_fill(~counted, 0), vocabulary, "vocabulary of logits")
    column = ids.masked_fill(~counted, vocabulary).long()  # what does not count goes beside the vocabulary
    seen = torch.zeros(rows, vocabulary + 1, dtype=torch.bool, device=logits.device).scatter(1, column, True)
    wide = _wide(logits)
    penalised = torch.where(wide > 0, wide / penalty, wide * penalty).to(logits.dtype)
    return torch.where(seen[:, :-1], penalised, logits)


def choose_token(logits: Float[Tensor, "..."], uniform: Float[Tensor, "..."]) -> Int[Tensor, "b"]:
    """Give each row's first id at which the cumulated mass exceeds its number in [0, 1) (SAMPLING-16).

    Of uniform numbers, a share as large as a token's probability chooses it; a token at −inf is never chosen.
    """
    _check_logits(logits)
    require_shape("uniform", uniform, (len(logits),), "one number for each row of logits")
    if not bool(((uniform >= 0) & (uniform < 1)).all()):
        raise ValueError(f"uniform reaches from {uniform.min().item()} to {uniform.max().item()}, not inside [0, 1)")
    mass = _wide(logits).softmax(dim=-1)
    cumulated = mass.cumsum(dim=-1)
    uniform = uniform[:, None].to(cumulated.dtype)
    chosen = torch.searchsorted(cumulated, uniform, right=True).clamp(max=logits.shape[-1] - 1)
    impossible = mass.gather(-1, chosen) == 0
    if bool(impossible.any()):  # rounding left the total at or below a number: the last possible token
        place = torch.arange(logits.shape[-1], device=logits.device)
        chosen = torch.where(impossible, torch.where(mass > 0, place, -1).amax(dim=-1, keepdim=True), chosen)
    return chosen[:, 0]


def _wide(logits: Tensor) -> Tensor:
    """The same numbers in float32, or wider where they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _check_logits(logits: Tensor) -> None:
    require_rank("logits", logits, 2)
    require_positive("batch of logits", logits.shape[0])
    require_positive("vocabulary of logits", logits.shape[1])
    good = logits.amax(dim=-1).isfinite()  # NaN is the largest of all, -inf only of nothing else
    if not bool(good.all()):
        row = int(good.int().argmin())
        raise ValueError(f"logits of row {row} hold NaN or inf, or nothing but -inf: they are no distribution")


def _check_settings(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be at least 0 and finite")
    if top_k < 0:
        raise ValueError(f"top_k={top_k} must be at least 0 (0 keeps all)")
    for name, share in (("top_p", top_p), ("min_p", min_p)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} must lie between 0 and 1")
