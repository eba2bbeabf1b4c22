"""Mixture of experts: routing, combination, load balance.  Spec: specs/moe.md."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minimind_ref.checks import require_finite, require_positive, require_range, require_rank, require_shape
from minimind_ref.config import CHOICES, ModelConfig
from minimind_ref.model.swiglu import SwiGLU, swiglu

Weights = tuple[Sequence[Tensor] | Tensor, Sequence[Tensor] | Tensor, Sequence[Tensor] | Tensor]


def route(
    x: Float[Tensor, "..."], w_router: Float[Tensor, "..."], *, num_chosen: int, normalise: bool
) -> tuple[Float[Tensor, "t e"], Float[Tensor, "t c"], Int[Tensor, "t c"]]:
    """Score every expert by softmax(W x), choose the `num_chosen` best: scores, their weights, their indices (MOE-1).

    `normalise` divides the chosen weights by their sum, so that one chosen expert always has weight 1 and only the
    load balance trains the router (MOE-17).  As the softmax of the chosen logits it is p / (Σ p + 1e-20) to rounding,
    and leaves one chosen expert a gradient of exactly 0 where the quotient leaves noise (MOE-18).
    Ties go to whichever torch.topk returns (MOE-6).

    Source: Shazeer et al. 2017, arXiv:1701.06538; normalised as in Jiang et al. 2024, arXiv:2401.04088, sec. 2.1.
    """
    require_rank("x", x, 2)
    require_rank("w_router", w_router, 2)
    if 0 in x.shape:
        raise ValueError(f"x has shape {tuple(x.shape)} but needs a token and a width")
    require_shape("w_router", w_router, (w_router.shape[0], x.shape[1]), "the width of x")
    if not 1 <= num_chosen <= w_router.shape[0]:
        raise ValueError(f"num_chosen={num_chosen} must lie in 1 … {w_router.shape[0]}, the experts of w_router")
    logits = x @ w_router.T
    wide = torch.promote_types(logits.dtype, torch.float32)
    scores = logits.softmax(dim=-1, dtype=wide)
    weight, index = scores.topk(num_chosen, dim=-1)
    if normalise:
        weight = logits.gather(-1, index).softmax(dim=-1, dtype=wide)
    return scores, weight, index


def aux_loss(
    scores: Float[Tensor, "t e"],
    index: Int[Tensor, "t1 c"],
    *,
    form: str,
    coef: float,
    counts: Bool[Tensor, " t2"] | Int[Tensor, " t2"] | None = None,
    sequence_ids: Int[Tensor, " t3"] | None = None,
) -> Float[Tensor, ""]:
    """Load balance: coef · Σ_e (how often e is chosen) · (e's mean score) (MOE-10 … MOE-15).

    No gradient goes through the choice.
    "sequence": per sequence, frequency · E/(S·k), then the mean over sequences; "batch": the same over all tokens;
    "slots": not divided by k (MiniMind-3), so balance costs k, not 1.  Tokens where `counts` is 0 do not exist.

    Source: Fedus et al. 2021, arXiv:2101.03961, eq. 4–6; per sequence: DeepSeek-AI 2024, arXiv:2412.19437, eq. 17–20.
    """
    if form not in CHOICES["aux_loss_form"]:
        raise ValueError(f"form={form!r} must be one of {', '.join(CHOICES['aux_loss_form'])}")
    require_rank("scores", scores, 2)
    require_rank("index", index, 2)
    require_finite("coef", coef, least=0.0)
    tokens, num_experts = scores.shape
    require_positive("number of tokens in scores", tokens)
    require_shape("index", index, (tokens, index.shape[-1]), "the tokens of scores")
    require_range("index", index, num_experts, "experts of scores")
    for name, vector in (("counts", counts), ("sequence_ids", sequence_ids)):
        if vector is not None:
            require_shape(name, vector, (tokens,), "the tokens of scores")
    if form == "sequence" and sequence_ids is None:
        raise ValueError("sequence_ids is None but form='sequence' needs one for each token")
    if form != "sequence" or sequence_ids is None:
        sequence_ids = index.new_zeros(tokens)
    if counts is not None:
        counted = counts.bool()
        scores, index, sequence_ids = scores[counted], index[counted], sequence_ids[counted]
    if scores.shape[0] == 0:
        return scores.sum()
    names, group = sequence_ids.unique(return_inverse=True)
    length = torch.zeros(len(names), 1, dtype=scores.dtype, device=scores.device)
    length.index_add_(0, group, torch.ones_like(scores[:, :1]))
    chosen = torch.zeros_like(scores).scatter_(1, index, 1.0)
    frequency, mean_score = (scores.new_zeros(len(names), num_experts) for _ in range(2))
    frequency = frequency.index_add(0, group, chosen) / length
    mean_score = mean_score.index_add(0, group, scores) / length
    slots = 1 if form == "slots" else index.shape[1]
    return coef * num_experts / slots * (frequency * mean_score).sum(dim=-1).mean()


def moe(
    x: Float[Tensor, "..."],
    w_router: Float[Tensor, "..."],
    experts: Weights,
    *,
    num_chosen: int,
    normalise: bool,
    shared: Weights | None = None,
    form: str,
    coef: float,
    counts: Bool[Tensor, " t2"] | Int[Tensor, " t2"] | None = None,
    sequence_ids: Int[Tensor, " t3"] | None = None,
) -> tuple[Float[Tensor, "t d"], Float[Tensor, ""]]:
    """Σ over the chosen experts of weight · expert(x), plus every shared expert; and the load balance (MOE-3).

    `experts` and `shared` are (w_gate, w_up, w_down), each stacked or listed over the experts.  No token is dropped;
    an expert that no token chose has zero gradients, not none (MOE-9).
    """
    for matrices in experts:
        if len(matrices) != w_router.shape[0]:
            raise ValueError(f"experts holds {len(matrices)} experts but w_router has {w_router.shape[0]} rows")
    if shared is not None and len({len(matrices) for matrices in shared}) != 1:
        raise ValueError(f"shared holds {' and '.join(str(len(matrices)) for matrices in shared)} experts")
    scores, weight, index = route(x, w_router, num_chosen=num_chosen, normalise=normalise)
    y = torch.zeros_like(x)
    for expert, (w_gate, w_up, w_down) in enumerate(zip(*experts, strict=True)):
        token, slot = (index == expert).nonzero(as_tuple=True)
        part = swiglu(x[token], w_gate, w_up, w_down) * weight[token, slot, None]
        y = y.index_add(0, token, part.to(y.dtype))
    for weights in zip(*shared, strict=True) if shared is not None else ():
        y = y + swiglu(x, *weights)
    return y, aux_loss(scores, index, form=form, coef=coef, counts=counts, sequence_ids=sequence_ids)


class MoE(nn.Module):
    """`moe` with an owned router and experts, under MiniMind's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        d, f = config.hidden_size, config.moe_intermediate_size
        self.gate = nn.Linear(d, config.num_experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(d, f) for _ in range(config.num_experts))
        if config.num_shared_experts:
            self.shared_experts = nn.ModuleList(SwiGLU(d, f) for _ in range(config.num_shared_experts))

    def forward(
        self,
        x: Float[Tensor, "b s d"],
        counts: Bool[Tensor, "b s"] | None = None,
        sequence_ids: Int[Tensor, "b s"] | None = None,
    ) -> tuple[Float[Tensor, "b s d"], Float[Tensor, ""]]:
        c = self.config
        if sequence_ids is None:
            sequence_ids = torch.arange(x.shape[0], device=x.device)[:, None].expand(x.shape[:2])
        y, aux = moe(
            x.flatten(0, 1),
            self.gate.weight,
            _weights(self.experts),
            num_chosen=c.num_experts_per_tok,
            normalise=c.norm_topk_prob,
            shared=_weights(self.shared_experts) if c.num_shared_experts else None,
            form=c.aux_loss_form,
            coef=c.aux_loss_coef,
            counts=None if counts is None or c.aux_loss_counts_padding else counts.flatten(),
            sequence_ids=sequence_ids.flatten(),
        )
        return y.view_as(x), aux


def _weights(experts: Iterable[Any]) -> Weights:
    gate, up, down = zip(*(expert.weights for expert in experts), strict=True)
    return gate, up, down
