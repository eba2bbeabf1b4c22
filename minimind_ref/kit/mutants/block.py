"""Wrong layers: right parts in another order, or with something left out.

`upto_attention` and `from_there` are a layer's two halves: a layer whose other half has no outward projection.
"""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.block import block, block_vjp
from minimind_ref.oracle.rms_norm import rms_norm

FIRST, OUT = "input_layernorm.weight", "self_attn.o_proj.weight"


def without(parameters, ending):
    """Give the parameters with zeros for those whose name ends so."""
    return {name: p * (not name.endswith(ending)) for name, p in parameters.items()}


def upto_attention(x, parameters, cos, sin, **options):
    """Give the stream after attention, and the cache."""
    h, _, cache = block(x, without(parameters, "down_proj.weight"), cos, sin, **options)
    return h, cache


def from_there(h, parameters, cos, sin, **options):
    """Give the stream after the feed-forward network, and the balance loss."""
    return block(h, without(parameters, OUT), cos, sin, **options)[:2]


@mutant("block", "BLOCK-M01", owner="BLOCK-1", summary="attention and feed-forward network run beside each other",
        source="GPT-J's layer in a Llama")  # fmt: skip
def in_parallel(x, parameters, cos, sin, **options):
    h, cache = upto_attention(x, parameters, cos, sin, **options)
    y, aux = from_there(x, parameters, cos, sin, **options)
    return h + y - x, aux, cache


@mutant("block", "BLOCK-M02", owner="BLOCK-1", summary="branches are added to the normed stream",
        source="a residual taken after the norm")  # fmt: skip
def normed_stream(x, parameters, cos, sin, *, eps, **options):
    h, cache = upto_attention(x, parameters, cos, sin, eps=eps, **options)
    y, aux = from_there(h - x + rms_norm(x, parameters[FIRST], eps=eps), parameters, cos, sin, eps=eps, **options)
    return y, aux, cache


@mutant("block", "BLOCK-M03", owner="BLOCK-1", summary="the feed-forward network replaces the stream",
        source="a residual connection forgotten")  # fmt: skip
def no_second_residual(x, parameters, cos, sin, **options):
    h, cache = upto_attention(x, parameters, cos, sin, **options)
    y, aux = from_there(h, parameters, cos, sin, **options)
    return y - h, aux, cache


@mutant("block", "BLOCK-M04", owner="BLOCK-2", summary="rows of q are read as (width, head), not (head, width)",
        source="torchtitan #335, TinyLlama #24: a layout of other weights (ROP-2)")  # fmt: skip
def heads_interleaved(x, parameters, cos, sin, *, num_heads, **options):
    name = "self_attn.q_proj.weight"
    rows = np.arange(len(parameters[name])).reshape(-1, num_heads).T.ravel()
    return block(x, {**parameters, name: parameters[name][rows]}, cos, sin, num_heads=num_heads, **options)


@mutant("block", "BLOCK-M05", owner="BLOCK-3", summary="q and k are not normed",
        source="a Qwen3 or MiniMind-3 run as a Llama")  # fmt: skip
def no_head_norm(x, parameters, cos, sin, *, qk_norm=False, **options):
    kept = {name: p for name, p in parameters.items() if not name.endswith(("q_norm.weight", "k_norm.weight"))}
    return block(x, kept, cos, sin, **options)


@mutant("block", "BLOCK-M06", owner="BLOCK-3", summary="keys are normed with the weight of the queries",
        source="one norm shared by q and k")  # fmt: skip
def one_head_norm(x, parameters, cos, sin, **options):
    names = ("self_attn.k_norm.weight", "self_attn.q_norm.weight")
    shared = {names[0]: parameters[names[1]]} if names[1] in parameters else {}
    return block(x, {**parameters, **shared}, cos, sin, **options)


@mutant("block", "BLOCK-M07", owner="BLOCK-4", summary="the rotary tables are zeros, so are queries and keys",
        source="MiniMind 1718e9a: a buffer lost on the meta device (ROP-7)")  # fmt: skip
def zero_tables(x, parameters, cos, sin, **options):
    return block(x, parameters, 0 * cos, 0 * sin, **options)


@mutant("block", "BLOCK-M08", owner="BLOCK-5", summary="the returned cache holds the new tokens only",
        source="a cache that is replaced, not extended")  # fmt: skip
def cache_replaced(x, parameters, cos, sin, **options):
    y, aux, cache = block(x, parameters, cos, sin, **options)
    return y, aux, tuple(old[:, -x.shape[1] :] for old in cache)


@mutant("block", "BLOCK-M09", owner="BLOCK-5", summary="keys are cached before they are turned",
        source="another library's convention, taken for this one")  # fmt: skip
def cached_before_rope(x, parameters, cos, sin, **options):
    y, aux, _ = block(x, parameters, cos, sin, **options)
    return y, aux, block(x, parameters, np.ones_like(cos), np.zeros_like(sin), **options)[2]


@mutant("block", "BLOCK-M10", owner="BLOCK-6", summary="a piece after a cache sees itself only",
        source="a cache that is written and never read")  # fmt: skip
def cache_not_read(x, parameters, cos, sin, *, cache=None, mask=None, **options):
    own = None if mask is None else mask[:, :, -x.shape[1] :]
    y, aux, new = block(x, parameters, cos, sin, mask=own, **options)
    return y, aux, new if cache is None else block(x, parameters, cos, sin, cache=cache, mask=mask, **options)[2]


@mutant("block", "BLOCK-M11", owner="BLOCK-7", summary="shared experts take no part",
        source="MiniMind2's weights in a mixture without them (CKP-9)")  # fmt: skip
def no_shared_experts(x, parameters, cos, sin, **options):
    routed = {name: p for name, p in parameters.items() if "shared_experts" not in name}
    return block(x, routed, cos, sin, **options)


@mutant("block", "BLOCK-M12", owner="BLOCK-8", summary="the balance loss stays behind on the module",
        source="MiniMind #140, NeMo Automodel PR #1412 (MOE-1)")  # fmt: skip
def balance_left_behind(x, parameters, cos, sin, **options):
    y, aux, cache = block(x, parameters, cos, sin, **options)
    return y, np.zeros_like(aux), cache


@mutant("block", "BLOCK-M13", owner="BLOCK-13", summary="no gradient flows along the residual path",
        source="a detach on the stream", gradient=True)  # fmt: skip
def residual_detached(x, parameters, cos, sin, *, cotangent, **options):
    dx, gradients = block_vjp(x, parameters, cos, sin, cotangent=cotangent, **options)
    return dx - cotangent[0], gradients


@mutant("block", "BLOCK-M14", owner="BLOCK-14", summary="a token that sees nothing gets the mean of all values",
        source="MiniMind 3812a16: −1e9 is added to the scores (ATT-2)")  # fmt: skip
def blind_rows_see_all(x, parameters, cos, sin, *, mask=None, cache=None, **options):
    if mask is None:
        return block(x, parameters, cos, sin, cache=cache, **options)
    past = 0 if cache is None else cache[0].shape[1]
    seen = mask & (np.arange(mask.shape[2]) <= np.arange(x.shape[1])[:, None] + past)
    blind = ~seen.any(axis=-1)
    own = block(x, parameters, cos, sin, mask=mask, cache=cache, **options)
    h, (_, values) = upto_attention(x, parameters, cos, sin, mask=mask, cache=cache, **options)
    group = options["num_heads"] // options["num_kv_heads"]
    mean = np.repeat(values.mean(axis=1), group, axis=1).reshape(len(x), 1, -1) @ parameters[OUT].T
    return *from_there(h + mean * blind[..., None], parameters, cos, sin, **options), own[2]
