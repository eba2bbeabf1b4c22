"""Wrong attentions."""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.attention import attention, attention_vjp


def visible(q, k, mask, causal):
    """Say which keys (b s t) each query sees."""
    s, t = q.shape[1], k.shape[1]
    seen = np.ones((q.shape[0], s, t), bool) if mask is None else mask
    return seen & (np.arange(t) <= np.arange(s)[:, None] + t - s) if causal else seen


def scores(q, k, scale):
    """Give the scaled scores (b n s t), query heads in blocks, in q's dtype."""
    products = np.einsum("bsnh,btnh->bnst", q, np.repeat(k, q.shape[2] // k.shape[2], axis=2))
    return (products * (q.shape[-1] ** -0.5 if scale is None else scale)).astype(q.dtype)


def averaged(weights, v):
    """Average the values by weights (b n s t)."""
    return np.einsum("bnst,btnh->bsnh", weights, np.repeat(v, weights.shape[1] // v.shape[2], axis=2))


def softmax(z):
    """Give the softmax over the last axis."""
    e = np.exp(z - np.max(z, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


@mutant("attention", "ATTENTION-M01", owner="ATTENTION-4", summary="the mask is added as (1 - mask)·-inf: 0·inf is NaN",
        source="MiniMind a044578, reverted in f5374dc (ATT-1)")  # fmt: skip
def mask_times_infinity(q, k, v, *, mask=None, causal=True, scale=None):
    hidden = (1.0 - visible(q, k, mask, causal)) * -np.inf
    return averaged(softmax(scores(q, k, scale) + hidden[:, None]), v)


@mutant("attention", "ATTENTION-M02", owner="ATTENTION-19", source="MiniMind d65ef2c, flax #982 (ATT-2)",
        summary="-1e9 is added where the mask hides: -inf in float16")  # fmt: skip
def added_constant(q, k, v, *, mask=None, causal=True, scale=None):
    hidden = np.where(visible(q, k, mask, causal), 0, -1e9).astype(q.dtype)
    return averaged(softmax(scores(q, k, scale) + hidden[:, None]), v)


@mutant("attention", "ATTENTION-M03", owner="ATTENTION-5", summary="the smallest number is added for each of two masks",
        source="transformers PR #27114 (ATT-3)")  # fmt: skip
def smallest_number_twice(q, k, v, *, mask=None, causal=True, scale=None):
    low = np.finfo(q.dtype).min
    padding = np.where(visible(q, k, mask, False), 0, low).astype(q.dtype)
    future = np.where(visible(q, k, None, causal), 0, low).astype(q.dtype)
    return averaged(softmax(scores(q, k, scale) + (padding + future)[:, None]), v)


@mutant("attention", "ATTENTION-M04", owner="ATTENTION-4", summary="with a mask the causal rule is dropped",
        source="MiniMind PR #497, 7d02ce6 (ATT-4)")  # fmt: skip
def mask_instead_of_causal(q, k, v, *, mask=None, causal=True, scale=None):
    return attention(q, k, v, mask=mask, causal=causal and mask is None, scale=scale)


@mutant("attention", "ATTENTION-M05", owner="ATTENTION-3", summary="the causal rule is aligned at the start",
        source="pytorch #108108, MiniMind 3812a16 (ATT-5)")  # fmt: skip
def aligned_at_the_start(q, k, v, *, mask=None, causal=True, scale=None):
    early = np.arange(k.shape[1]) <= np.arange(q.shape[1])[:, None]
    seen = visible(q, k, mask, False) & early if causal else visible(q, k, mask, False)
    return attention(q, k, v, mask=seen, causal=False, scale=scale)


@mutant("attention", "ATTENTION-M06", owner="ATTENTION-2", summary="key/value heads are tiled, not repeated in blocks",
        source="onnx PR #7274 (ATT-8)")  # fmt: skip
def tiled_heads(q, k, v, *, mask=None, causal=True, scale=None):
    k, v = (np.tile(y, (1, 1, q.shape[2] // k.shape[2], 1)) for y in (k, v))
    return attention(q, k, v, mask=mask, causal=causal, scale=scale)


@mutant("attention", "ATTENTION-M07", owner="ATTENTION-7", summary="scores are not scaled by 1/√h",
        source="a fused call whose default scale is 1")  # fmt: skip
def unscaled(q, k, v, *, mask=None, causal=True, scale=None):
    return attention(q, k, v, mask=mask, causal=causal, scale=1.0 if scale is None else scale)


@mutant("attention", "ATTENTION-M08", owner="ATTENTION-7", summary="a given scale is multiplied by 1/√h",
        source="the scale applied twice")  # fmt: skip
def scaled_twice(q, k, v, *, mask=None, causal=True, scale=None):
    return attention(q, k, v, mask=mask, causal=causal, scale=(1.0 if scale is None else scale) * q.shape[-1] ** -0.5)


@mutant("attention", "ATTENTION-M09", owner="ATTENTION-14", source="a textbook softmax in the inputs' precision",
        narrow=True, summary="exp is taken without the shift by the largest score")  # fmt: skip
def unshifted_softmax(q, k, v, *, mask=None, causal=True, scale=None):
    e = np.where(visible(q, k, mask, causal)[:, None], np.exp(scores(q, k, scale)), q.dtype.type(0))
    total = np.sum(e, axis=-1, keepdims=True)
    return averaged(e / np.where(total > 0, total, 1), v)


@mutant("attention", "ATTENTION-M10", owner="ATTENTION-1", summary="hidden keys take part in the softmax's sum",
        source="a mask on the weights, after the softmax")  # fmt: skip
def masked_after_softmax(q, k, v, *, mask=None, causal=True, scale=None):
    return averaged(softmax(scores(q, k, scale)) * visible(q, k, mask, causal)[:, None], v)


@mutant("attention", "ATTENTION-M11", owner="ATTENTION-1", summary="a tenth of the weights is dropped in evaluation",
        source="pytorch #124464, timm PR #1978 (ATT-10)")  # fmt: skip
def dropout_in_evaluation(q, k, v, *, mask=None, causal=True, scale=None):
    kept = np.random.default_rng(0).random((q.shape[0], q.shape[2], q.shape[1], k.shape[1])) >= 0.1
    z = np.where(visible(q, k, mask, causal)[:, None], scores(q, k, scale), np.finfo(q.dtype).min)
    return averaged(softmax(z) * kept / 0.9, v)


@mutant("attention", "ATTENTION-M12", owner="ATTENTION-5", summary="a query that sees nothing averages all the values",
        source="pytorch #103749 (ATT-3)")  # fmt: skip
def empty_row_averages(q, k, v, *, mask=None, causal=True, scale=None):
    z = np.where(visible(q, k, mask, causal)[:, None], scores(q, k, scale), np.finfo(q.dtype).min)
    return averaged(softmax(z), v)


@mutant("attention", "ATTENTION-M13", owner="ATTENTION-15", summary="a key's gradient comes from one head of its group",
        source="a backward pass written for equal head counts", gradient=True)  # fmt: skip
def one_head_of_the_group(q, k, v, *, mask=None, causal=True, scale=None, cotangent):
    options = {"mask": mask, "causal": causal, "scale": scale}
    group = q.shape[2] // k.shape[2]
    first = np.arange(q.shape[2]) % group == 0
    _, dk, dv = attention_vjp(q, k, v, **options, cotangent=cotangent * first[:, None])
    return attention_vjp(q, k, v, **options, cotangent=cotangent)[0], dk, dv


@mutant("attention", "ATTENTION-M14", owner="ATTENTION-15", summary="the softmax's gradient lacks its mean",
        source="p·(dp) for p·(dp - Σ p·dp)", gradient=True)  # fmt: skip
def softmax_gradient_without_mean(q, k, v, *, mask=None, causal=True, scale=None, cotangent):
    _, dk, dv = attention_vjp(q, k, v, mask=mask, causal=causal, scale=scale, cotangent=cotangent)
    z = np.where(visible(q, k, mask, causal)[:, None], scores(q, k, scale), -1e30)
    group = q.shape[2] // k.shape[2]
    p = softmax(z) * visible(q, k, mask, causal)[:, None]
    dp = np.einsum("bsnh,btnh->bnst", cotangent, np.repeat(v, group, axis=2))
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    return factor * np.einsum("bnst,btnh->bsnh", p * dp, np.repeat(k, group, axis=2)), dk, dv


@mutant("attention", "ATTENTION-M15", owner="ATTENTION-6", summary="the score of a hidden key is set to -10000",
        source="transformers before PR #17306 (ATT-2)")  # fmt: skip
def set_to_minus_10000(q, k, v, *, mask=None, causal=True, scale=None):
    seen = visible(q, k, mask, causal)[:, None]
    weights = softmax(np.where(seen, scores(q, k, scale), -10000.0))
    return averaged(weights * seen.any(axis=-1, keepdims=True), v)


@mutant("attention", "ATTENTION-M16", owner="ATTENTION-14", summary="scores are capped at ±50",
        source="a clamp against overflow in the exponential's place")  # fmt: skip
def capped_scores(q, k, v, *, mask=None, causal=True, scale=None):
    seen = visible(q, k, mask, causal)[:, None]
    weights = softmax(np.where(seen, np.clip(scores(q, k, scale), -50, 50), -1e30))
    return averaged(weights * seen.any(axis=-1, keepdims=True), v)
