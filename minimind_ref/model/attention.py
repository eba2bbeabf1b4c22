"""Grouped-query attention with masks and a key/value cache.  Spec: specs/attention.md."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from minimind_ref.checks import require_finite, require_rank, require_shape
from minimind_ref.config import ModelConfig
from minimind_ref.model.rms_norm import RMSNorm
from minimind_ref.model.rope import apply_rope


class KeyValue(NamedTuple):
    """What one layer keeps of the tokens so far, (b t k h) each, keys already rotated."""

    keys: Tensor
    values: Tensor


def attention(
    q: Float[Tensor, "..."],
    k: Float[Tensor, "..."],
    v: Float[Tensor, "..."],
    *,
    mask: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
    dropout: float = 0.0,
    implementation: str = "explicit",
) -> Float[Tensor, "b s n h"]:
    """softmax(q·kᵀ·scale) v for every query head, each group of heads sharing one key/value head (ATTENTION-1).

    q is (b s n h), k and v (b t k h); `mask` (b s t) is True where a query may look.  `causal` is aligned at the end:
    query i sees key j ≤ i + t − s.  A query that sees nothing gives zeros and disturbs no other (ATTENTION-5).
    The softmax is float32 or wider; `scale` is 1/√h unless given; `dropout` is the share of weights that are zeroed,
    whoever calls decides when.

    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Ainslie et al. 2023, arXiv:2305.13245, sec. 2.2.
    """
    _check(q, k, v, mask)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    require_finite("scale", scale)
    if implementation == "sdpa":
        return _sdpa(q, k, v, mask, causal, scale, dropout)
    if implementation != "explicit":
        raise ValueError(f"implementation={implementation!r} must be 'explicit' or 'sdpa'")
    q_bskgh = q.unflatten(2, (k.shape[2], -1))
    score_bkgst = torch.einsum("bskgh,btkh->bkgst", q_bskgh, k) * scale
    score_bkgst = score_bkgst.to(torch.promote_types(score_bkgst.dtype, torch.float32))
    visible_bst = _visible(q, k, mask, causal)
    if visible_bst is not None:
        hidden_bkgst = ~visible_bst[:, None, None]
        score_bkgst = score_bkgst.masked_fill(hidden_bkgst, torch.finfo(score_bkgst.dtype).min)
        weight_bkgst = score_bkgst.softmax(dim=-1).masked_fill(hidden_bkgst, 0)
    else:
        weight_bkgst = score_bkgst.softmax(dim=-1)
    weight_bkgst = F.dropout(weight_bkgst.to(v.dtype), dropout, training=dropout > 0)
    return torch.einsum("bkgst,btkh->bskgh", weight_bkgst, v).flatten(2, 3)


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        require_rank(name, tensor, 4)
    b, s, n, h = q.shape
    t, kv_heads = k.shape[1:3]
    require_shape("k", k, (b, t, kv_heads, h), f"batch and head width of q, shape {tuple(q.shape)}")
    require_shape("v", v, (b, t, kv_heads, h), "the shape of k")
    if 0 in q.shape or 0 in k.shape:
        raise ValueError(f"an empty axis: q has shape {tuple(q.shape)} and k {tuple(k.shape)}")
    if n % kv_heads:
        raise ValueError(f"k has {kv_heads} heads, which must divide the {n} heads of q")
    if mask is not None:
        if mask.dtype != torch.bool:
            raise ValueError(f"mask is {mask.dtype} but must be torch.bool: True where a key may be seen")
        require_shape("mask", mask, (b, s, t), "batch, positions of q and positions of k")


def _visible(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Bool[Tensor, "#b s t"] | None:
    """Which key each query may see; None where that is every key."""
    s, t = q.shape[1], k.shape[1]
    if not causal or s == 1:
        return mask
    earlier_st = torch.ones(s, t, dtype=torch.bool, device=q.device).tril(t - s)
    return earlier_st[None] if mask is None else mask & earlier_st


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float, dropout: float
) -> Float[Tensor, "b s n h"]:
    """torch's fused kernels.  Its own is_causal is aligned at the start, so it serves only where s = t."""
    aligned = causal and mask is None and 1 < q.shape[1] == k.shape[1]
    visible_bst = None if aligned else _visible(q, k, mask, causal)
    sees_bst = None
    if visible_bst is not None:
        sees_bst = visible_bst.any(dim=-1, keepdim=True)
        visible_bst = (visible_bst | ~sees_bst)[:, None]  # a row without keys would be NaN in some kernels
    if q.shape[1] == 1:  # a group's query heads are as many queries of its one key/value head, which is not copied
        q_bnsh = q[:, 0].unflatten(1, (k.shape[2], -1))
    else:
        q_bnsh, k, v = q.transpose(1, 2), _expand(k, q.shape[2]), _expand(v, q.shape[2])
    out_bnsh = F.scaled_dot_product_attention(
        q_bnsh,
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=visible_bst,
        is_causal=aligned,
        scale=scale,
        dropout_p=dropout,
    )
    out = out_bnsh.flatten(1, 2)[:, None] if q.shape[1] == 1 else out_bnsh.transpose(1, 2)
    return out if sees_bst is None else out.masked_fill(~sees_bst[..., None], 0)


def _expand(x_btkh: Tensor, num_heads: int) -> Float[Tensor, "b t n h"]:
    """Give every query head its own copy of its key/value head."""
    return x_btkh.repeat_interleave(num_heads // x_btkh.shape[2], dim=2)


class Attention(nn.Module):
    """Projections, q/k norm, rotation and cache around `attention`, under MiniMind's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, h = config.hidden_size, config.head_dim
        n, kv = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.dropout, self.implementation = h, config.dropout, "sdpa"
        self.q_proj = nn.Linear(d, n * h, bias=False)
        self.k_proj = nn.Linear(d, kv * h, bias=False)
        self.v_proj = nn.Linear(d, kv * h, bias=False)
        self.o_proj = nn.Linear(n * h, d, bias=False)
        if config.qk_norm:
            self.q_norm = RMSNorm(h, config.rms_norm_eps, config.norm_cast)
            self.k_norm = RMSNorm(h, config.rms_norm_eps, config.norm_cast)

    def forward(
        self,
        x: Float[Tensor, "b s d"],
        cos: Float[Tensor, "*lead half"],
        sin: Float[Tensor, "*lead half"],
        *,
        mask: Bool[Tensor, "b s t"] | None = None,
        past: KeyValue | None = None,
    ) -> tuple[Float[Tensor, "b s d"], KeyValue]:
        """Attend to `past` and to x itself; returns the output and the cache with x's keys and values appended."""
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        if past is not None:
            k, v = torch.cat((past.keys, k), dim=1), torch.cat((past.values, v), dim=1)
        dropout = self.dropout if self.training else 0.0
        out = attention(q, k, v, mask=mask, dropout=dropout, implementation=self.implementation)
        return F.dropout(self.o_proj(out.flatten(2)), dropout, training=dropout > 0), KeyValue(k, v)
