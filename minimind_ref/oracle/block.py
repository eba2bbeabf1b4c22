"""One decoder layer, oracle, composed of its parts' oracles.  Spec: specs/block.md."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from minimind_ref.oracle.attention import attention, attention_vjp
from minimind_ref.oracle.bounded import Array, store
from minimind_ref.oracle.checks import float64, require_equal, require_positive, require_rank
from minimind_ref.oracle.moe import moe, moe_vjp, stored_sum
from minimind_ref.oracle.rms_norm import rms_norm, rms_norm_vjp
from minimind_ref.oracle.rope import apply_rope, apply_rope_vjp
from minimind_ref.oracle.swiglu import swiglu, swiglu_vjp

Cache = tuple[Float[Array, "b t k h"], Float[Array, "b t k h"]]
MATRICES = ("gate", "up", "down")


class _Options(NamedTuple):
    """What `block` takes beside its arrays; the defaults are the dense model's."""

    num_heads: int
    num_kv_heads: int
    eps: float
    norm_cast: str = "after"
    qk_norm: bool = False
    num_chosen: int = 1
    normalise: bool = True
    form: str = "batch"
    coef: float = 0.0
    counts: Any = None
    sequence_ids: Any = None
    mask: np.ndarray | None = None
    cache: Any = None


def block(
    x: Float[Array, "..."], parameters: Mapping[str, Any], cos: Array, sin: Array, **options: Any
) -> tuple[Float[Array, "b s d"], Float[Array, ""], Cache]:
    """Add attention, then the feed-forward network, each on the normed stream; give y, the balance loss, the cache.

    `parameters` has MiniMind's names inside a layer.  `options`: num_heads, num_kv_heads, eps, norm_cast, qk_norm;
    for experts num_chosen, normalise, form, coef, counts (b s), sequence_ids (b s); mask (b s t) and
    cache, the keys and values so far (BLOCK-1 … BLOCK-8).
    Source: Touvron et al. 2023, arXiv:2302.13971, section 2.2.
    """
    made = _Options(**options)
    x, p = float64(x), {name: float64(array) for name, array in parameters.items()}
    trace = _attend(x, p, cos, sin, made)
    ffn, aux = _feed_forward(trace.normed_h, p, made)
    return store(trace.h + ffn), aux, (trace.keys, trace.values)


def block_vjp(
    x: Float[Array, "..."],
    parameters: Mapping[str, Any],
    cos: Array,
    sin: Array,
    *,
    cotangent: tuple[Any, Any],
    **options: Any,
) -> tuple[Float[Array, "b s d"], dict[str, Any]]:
    """Pull the cotangents of y and of the balance loss back to x and to every parameter (BLOCK-13)."""
    made = _Options(**options)
    x, p = float64(x), {name: float64(array) for name, array in parameters.items()}
    trace = _attend(x, p, cos, sin, made)
    dy, daux = cotangent
    require_equal("shape of the output's cotangent", tuple(dy.shape), "shape of x", tuple(x.shape))
    dnormed, gradients = _feed_forward_vjp(trace.normed_h, p, made, dy, daux)
    dh, gradients["post_attention_layernorm.weight"] = _norm_vjp(
        trace.h, p["post_attention_layernorm.weight"], made, dnormed
    )
    dh = store(dy + dh)
    dnormed, shares = _attend_vjp(trace, p, cos, sin, made, dh)
    dx, gradients["input_layernorm.weight"] = _norm_vjp(x, p["input_layernorm.weight"], made, dnormed)
    return store(dh + dx), gradients | shares


def layer_shapes(
    width: int, heads: int, kv_heads: int, head_dim: int, ffn: int, qk_norm: bool, experts: int, shared: int
) -> dict[str, tuple[int, ...]]:
    """Name every parameter of a layer with its shape; `experts` is 0 for a dense one (TRANSFORMER-18)."""
    rows = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}
    shapes: dict[str, tuple[int, ...]] = {f"self_attn.{name}_proj.weight": (size, width) for name, size in rows.items()}
    shapes["self_attn.o_proj.weight"] = (width, heads * head_dim)
    shapes |= {f"{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    shapes |= {f"self_attn.{name}_norm.weight": (head_dim,) for name in "qk" if qk_norm}
    shapes |= {"mlp.gate.weight": (experts, width)} if experts else {}
    prefixes = [f"mlp.experts.{e}" for e in range(experts)] + [f"mlp.shared_experts.{e}" for e in range(shared)]
    for prefix in prefixes if experts else ["mlp"]:
        for name in MATRICES:
            shapes[f"{prefix}.{name}_proj.weight"] = (width, ffn) if name == "down" else (ffn, width)
    return shapes


def check_parameters(parameters: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a missing name, an unknown name and a shape that does not fit (BLOCK-15, TRANSFORMER-17)."""
    for names, others, word in ((shapes, parameters, "lacks"), (parameters, shapes, "has the unknown name")):
        if odd := sorted(set(names) - set(others)):
            raise ValueError(f"parameters {word} {odd[0]!r}: {len(parameters)} names given, {len(shapes)} expected")
    for name, shape in shapes.items():
        require_equal(f"shape of parameters[{name!r}]", tuple(parameters[name].shape), "the shape expected", shape)


class _Trace(NamedTuple):
    """The attention half's values that the gradient needs; `normed` and `normed_h` are the branches' inputs."""

    normed: Array
    projected: dict[str, Array]
    q: Array
    keys: Array
    values: Array
    joined: Array
    h: Array
    normed_h: Array


def _attend(x: Array, p: Mapping[str, Any], cos: Array, sin: Array, made: _Options) -> _Trace:
    _check(x, p, cos, made)
    batch, length, _ = x.shape
    heads = {"q": made.num_heads, "k": made.num_kv_heads, "v": made.num_kv_heads}
    normed = _norm(x, p["input_layernorm.weight"], made)
    projected = {
        name: _linear(normed, p[f"self_attn.{name}_proj.weight"]).reshape(batch, length, count, -1)
        for name, count in heads.items()
    }
    q, k = (apply_rope(_head_norm(projected[name], p, name, made), cos, sin) for name in "qk")
    values = projected["v"]
    if made.cache is not None:
        k = np.concatenate([made.cache[0], k], axis=1)
        values = np.concatenate([made.cache[1], values], axis=1)
    joined = attention(q, k, values, mask=made.mask).reshape(batch, length, -1)
    h = store(x + _linear(joined, p["self_attn.o_proj.weight"]))
    return _Trace(normed, projected, q, k, values, joined, h, _norm(h, p["post_attention_layernorm.weight"], made))


def _attend_vjp(
    trace: _Trace, p: Mapping[str, Any], cos: Array, sin: Array, made: _Options, dh: Array
) -> tuple[Array, dict[str, Any]]:
    """From the stream after attention back to the normed input, and the attention's own parameters."""
    batch, length, _ = dh.shape
    past = trace.keys.shape[1] - length
    shares: dict[str, Any] = {}
    djoined, shares["self_attn.o_proj.weight"] = _linear_vjp(trace.joined, p["self_attn.o_proj.weight"], dh)
    dq, dk, dv = attention_vjp(
        trace.q, trace.keys, trace.values, mask=made.mask, cotangent=djoined.reshape(trace.q.shape)
    )
    dheads = {"q": dq, "k": dk[:, past:], "v": dv[:, past:]}
    for name in "qk":
        turned = _head_norm(trace.projected[name], p, name, made)
        dheads[name] = apply_rope_vjp(turned, cos, sin, cotangent=dheads[name])[0]
        if made.qk_norm:
            weight = f"self_attn.{name}_norm.weight"
            dheads[name], shares[weight] = _norm_vjp(trace.projected[name], p[weight], made, dheads[name])
    dnormed = []
    for name, dhead in dheads.items():
        weight = f"self_attn.{name}_proj.weight"
        share, shares[weight] = _linear_vjp(trace.normed, p[weight], dhead.reshape(batch, length, -1))
        dnormed.append(share)
    return stored_sum(dnormed), shares


def _feed_forward(rows: Array, p: Mapping[str, Any], made: _Options) -> tuple[Array, Array]:
    if "mlp.gate.weight" not in p:
        return swiglu(rows, *(p[f"mlp.{name}_proj.weight"] for name in MATRICES)), np.reshape(np.sum(rows[:0]), ())
    y, aux = moe(rows.reshape(-1, rows.shape[-1]), p["mlp.gate.weight"], **_mixture(p, made))
    return y.reshape(rows.shape), aux


def _feed_forward_vjp(
    rows: Array, p: Mapping[str, Any], made: _Options, dy: Array, daux: Any
) -> tuple[Array, dict[str, Any]]:
    names = [f"mlp.{name}_proj.weight" for name in MATRICES]
    if "mlp.gate.weight" not in p:
        drows, *dweights = swiglu_vjp(rows, *(p[name] for name in names), cotangent=dy)
        return drows, dict(zip(names, dweights, strict=True))
    tokens, cotangent = rows.reshape(-1, rows.shape[-1]), (dy.reshape(-1, rows.shape[-1]), daux)
    drows, drouter, *dstacks = moe_vjp(tokens, p["mlp.gate.weight"], **_mixture(p, made), cotangent=cotangent)
    gradients = {"mlp.gate.weight": drouter}
    for prefix, dstack in zip(("mlp.experts", "mlp.shared_experts"), dstacks, strict=True):
        for name, dweights in zip(MATRICES, dstack or (), strict=False):
            gradients |= {f"{prefix}.{e}.{name}_proj.weight": dweights[e] for e in range(len(dweights))}
    return drows.reshape(rows.shape), gradients


def _mixture(p: Mapping[str, Any], made: _Options) -> dict[str, Any]:
    """The arguments of `moe` after its router."""
    flat = {name: None if ids is None else np.reshape(ids, -1) for name, ids in _ids(made).items()}
    shared = _stack(p, "mlp.shared_experts") if _count(p, "mlp.shared_experts") else None
    return {
        "experts": _stack(p, "mlp.experts"),
        "num_chosen": made.num_chosen,
        "normalise": made.normalise,
        "shared": shared,
        "form": made.form,
        "coef": made.coef,
        **flat,
    }


def _ids(made: _Options) -> dict[str, Any]:
    return {"counts": made.counts, "sequence_ids": made.sequence_ids}


def _count(p: Mapping[str, Any], prefix: str) -> int:
    return sum(name.startswith(f"{prefix}.") and name.endswith(".gate_proj.weight") for name in p)


def _stack(p: Mapping[str, Any], prefix: str) -> tuple[Any, ...]:
    each = range(_count(p, prefix))
    return tuple(np.stack([p[f"{prefix}.{e}.{name}_proj.weight"] for e in each]) for name in MATRICES)


def _norm(x: Array, weight: Array, made: _Options) -> Array:
    return rms_norm(x, weight, eps=made.eps, cast=made.norm_cast)


def _norm_vjp(x: Array, weight: Array, made: _Options, cotangent: Array) -> tuple[Array, Array]:
    return rms_norm_vjp(x, weight, eps=made.eps, cast=made.norm_cast, cotangent=cotangent)


def _head_norm(heads: Array, p: Mapping[str, Any], name: str, made: _Options) -> Array:
    return _norm(heads, p[f"self_attn.{name}_norm.weight"], made) if made.qk_norm else heads


def _linear(x: Array, weight: Array) -> Array:
    return store(x @ weight.T)


def _linear_vjp(x: Array, weight: Array, dy: Array) -> tuple[Array, Array]:
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return store(dy @ weight), store(drows.T @ rows)


def _check(x: Array, p: Mapping[str, Any], cos: Array, made: _Options) -> None:
    require_rank("x", x, 3)
    for axis, size in zip(("batch", "length", "width"), x.shape, strict=True):
        require_positive(f"{axis} of x", size)
    experts, shared = _count(p, "mlp.experts"), _count(p, "mlp.shared_experts")
    first = p.get("mlp.experts.0.gate_proj.weight" if "mlp.gate.weight" in p else "mlp.gate_proj.weight")
    ffn = first.shape[0] if first is not None else 0
    layout = (x.shape[2], made.num_heads, made.num_kv_heads, 2 * cos.shape[-1], ffn, made.qk_norm, experts, shared)
    check_parameters(p, layer_shapes(*layout))
    batch, length = x.shape[:2]
    for name, ids in _ids(made).items():
        if ids is not None:
            require_equal(f"shape of {name}", np.shape(ids), "(b, s)", (batch, length))
    for name, old in zip(("keys", "values"), made.cache or (), strict=False):
        require_rank(f"cached {name}", old, 4)
        shape = (batch, old.shape[1], made.num_kv_heads, 2 * cos.shape[-1])
        require_equal(f"shape of the cached {name}", tuple(old.shape), "what x and the heads ask for", shape)
