"""The whole decoder, oracle: forward and backward without autograd.  Spec: specs/transformer.md."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from minimind_ref.oracle.block import Cache, block, block_vjp, check_parameters, layer_shapes
from minimind_ref.oracle.bounded import Array, constant, store, value
from minimind_ref.oracle.checks import float64, require_equal, require_ids, require_positive, require_rank
from minimind_ref.oracle.cross_entropy import cross_entropy, cross_entropy_vjp
from minimind_ref.oracle.rms_norm import rms_norm, rms_norm_vjp
from minimind_ref.oracle.rope import rope_frequencies, rope_table, yarn_attention_factor

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def transformer(
    parameters: Mapping[str, Any],
    input_ids: Int[np.ndarray, "..."],
    config: Mapping[str, Any],
    *,
    attention_mask: Any = None,
    position_ids: Any = None,
    segment_ids: Any = None,
    cache: Any = None,
) -> tuple[Float[Array, "b s v"], Float[Array, ""], list[Cache]]:
    """Give logits, balance loss and cache (TRANSFORMER-1 … TRANSFORMER-10); `config` is ModelConfig.to_dict()'s.

    `attention_mask` (b t), 1 = real token, and `segment_ids` (b t), negative = padding, cover the cached tokens too.
    Source: Touvron et al. 2023, arXiv:2302.13971; packing: Krell et al. 2021, arXiv:2107.02027.
    """
    p = {name: float64(array) for name, array in parameters.items()}
    plan = _plan(p, input_ids, config, attention_mask, position_ids, segment_ids, cache)
    streams, auxes, caches = _forward(p, input_ids, config, plan)
    normed = rms_norm(streams[-1], p[NORM], **_norm(config))
    return store(normed @ p[_head(config)].T), np.sum(np.stack(auxes)), caches


def transformer_vjp(
    parameters: Mapping[str, Any],
    input_ids: Int[np.ndarray, "..."],
    config: Mapping[str, Any],
    *,
    attention_mask: Any = None,
    position_ids: Any = None,
    segment_ids: Any = None,
    cache: Any = None,
    cotangent: tuple[Any, Any],
) -> dict[str, Any]:
    """Pull the cotangents of logits and balance loss back to every parameter, a tied head's into the embedding's."""
    p = {name: float64(array) for name, array in parameters.items()}
    plan = _plan(p, input_ids, config, attention_mask, position_ids, segment_ids, cache)
    streams, _, _ = _forward(p, input_ids, config, plan)
    dlogits, daux = cotangent
    shape = (*input_ids.shape, config["vocab_size"])
    require_equal("shape of the logits' cotangent", tuple(dlogits.shape), "shape of the logits", shape)
    normed = rms_norm(streams[-1], p[NORM], **_norm(config))
    flat = dlogits.reshape(-1, shape[-1]), normed.reshape(-1, normed.shape[-1])
    gradients = {_head(config): store(flat[0].T @ flat[1])}
    dnormed = store(dlogits @ p[_head(config)])
    dstream, gradients[NORM] = rms_norm_vjp(streams[-1], p[NORM], **_norm(config), cotangent=dnormed)
    for layer in reversed(range(config["num_hidden_layers"])):
        arguments = (streams[layer], _layer(p, layer), plan.cos, plan.sin)
        dstream, shares = block_vjp(*arguments, **_options(config, plan, layer), cotangent=(dstream, daux))
        gradients |= {f"model.layers.{layer}.{name}": share for name, share in shares.items()}
    looked_up = np.zeros_like(p[EMBEDDING])
    np.add.at(looked_up, input_ids, dstream)
    gradients[EMBEDDING] = (
        store(gradients[EMBEDDING] + store(looked_up)) if EMBEDDING in gradients else store(looked_up)
    )
    return gradients


def loss_and_gradients(
    parameters: Mapping[str, Any],
    input_ids: Int[np.ndarray, "..."],
    labels: Int[np.ndarray, "..."],
    config: Mapping[str, Any],
    *,
    normaliser: float | int | None = None,
    aux_weight: float | int = 1.0,
    ignore_index: int = -100,
    **inputs: Any,
) -> tuple[Any, dict[str, Any]]:
    """Give summed cross-entropy / normaliser + aux_weight·aux and every gradient, labels aligned (TRANSFORMER-12)."""
    require_equal("shape of labels", labels.shape, "shape of input_ids", input_ids.shape)
    if normaliser is None:
        normaliser = max(int(np.sum(labels != ignore_index)), 1)
    logits, aux, _ = transformer(parameters, input_ids, config, **inputs)
    rows, targets = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    summed = {"ignore_index": ignore_index, "reduction": "sum"}
    loss = cross_entropy(rows, targets, **summed) / normaliser + aux_weight * aux
    drows = cross_entropy_vjp(rows, targets, **summed, cotangent=np.ones(())) / normaliser
    cotangent = (drows.reshape(logits.shape), aux_weight)
    return loss, transformer_vjp(parameters, input_ids, config, **inputs, cotangent=cotangent)


def parameter_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name every parameter with its shape, a tied head left out (TRANSFORMER-18)."""
    c, sparse = config, config["use_moe"]
    width, heads = c["hidden_size"], (c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"])
    ffn = c["moe_intermediate_size"] if sparse else c["intermediate_size"]
    experts = (c["num_experts"], c["num_shared_experts"]) if sparse else (0, 0)
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (c["vocab_size"], width), NORM: (width,)}
    for layer in range(c["num_hidden_layers"]):
        inside = layer_shapes(width, *heads, ffn, c["qk_norm"], *experts)
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in inside.items()}
    return shapes if c["tie_word_embeddings"] else shapes | {HEAD: shapes[EMBEDDING]}


class _Plan(NamedTuple):
    """What the inputs mean for every layer: the rotary tables, who sees whom, who counts, whose document it is."""

    cos: Array
    sin: Array
    mask: np.ndarray
    counts: np.ndarray | None
    documents: np.ndarray
    cache: Any


def _plan(
    parameters: Mapping[str, Any],
    input_ids: np.ndarray,
    config: Mapping[str, Any],
    attention_mask: Any,
    position_ids: Any,
    segment_ids: Any,
    cache: Any,
) -> _Plan:
    _check(parameters, input_ids, config, cache)
    batch, new = input_ids.shape
    past = cache[0][0].shape[1] if cache else 0
    real = _given("attention_mask", attention_mask, (batch, past + new), np.ones((batch, past + new), int))
    segment = _given("segment_ids", segment_ids, (batch, past + new), np.zeros((batch, past + new), int))
    positions = _given("position_ids", position_ids, (batch, new), np.tile(np.arange(past, past + new), (batch, 1)))
    if np.any((real != 0) & (real != 1)):
        raise ValueError(f"attention_mask holds {real[(real != 0) & (real != 1)][0]}, neither 0 (padding) nor 1 (real)")
    require_ids("position_ids", positions, config["max_position_embeddings"], "rotary table")
    mask = np.zeros((batch, new, past + new), bool)
    for row, i, j in np.ndindex(*mask.shape):
        mask[row, i, j] = real[row, j] and segment[row, j] == segment[row, past + i]
    names = {pair: number for number, pair in enumerate({(r, int(s)): 0 for r in range(batch) for s in segment[r]})}
    documents = np.array([[names[row, int(s)] for s in segment[row, past:]] for row in range(batch)])
    inside = (real.astype(bool) & (segment >= 0))[:, past:].astype(int)
    counts = None if config["aux_loss_counts_padding"] else inside
    scaling = _scaling(config)
    frequencies = rope_frequencies(config["head_dim"], theta=config["rope_theta"], scaling=scaling)
    frequencies = constant(frequencies, like=parameters[EMBEDDING], ulps=4)
    factor = yarn_attention_factor(scaling) if scaling else 1.0
    cos, sin = rope_table(positions, frequencies, attention_factor=factor)
    return _Plan(cos, sin, mask, counts, documents, cache)


def _scaling(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """MiniMind's forms scale only where the table is longer than the original length (TRANSFORMER-10)."""
    scaling = config["rope_scaling"]
    if scaling and scaling["type"] != "yarn":
        longer = config["max_position_embeddings"] > scaling.get("original_max_position_embeddings", 2048)
        return scaling if longer else None
    return scaling or None


def _forward(
    p: Mapping[str, Any], input_ids: np.ndarray, config: Mapping[str, Any], plan: _Plan
) -> tuple[list[Any], list[Any], list[Cache]]:
    streams, auxes, caches = [p[EMBEDDING][input_ids]], [], []
    for layer in range(config["num_hidden_layers"]):
        arguments = (streams[-1], _layer(p, layer), plan.cos, plan.sin)
        stream, aux, layer_cache = block(*arguments, **_options(config, plan, layer))
        streams.append(stream)
        auxes.append(aux)
        caches.append(layer_cache)
    return streams, auxes, caches


def _layer(p: Mapping[str, Any], layer: int) -> dict[str, Any]:
    prefix = f"model.layers.{layer}."
    return {name.removeprefix(prefix): array for name, array in p.items() if name.startswith(prefix)}


def _options(config: Mapping[str, Any], plan: _Plan, layer: int) -> dict[str, Any]:
    return {
        "num_heads": config["num_attention_heads"],
        "num_kv_heads": config["num_key_value_heads"],
        "eps": config["rms_norm_eps"],
        "norm_cast": config["norm_cast"],
        "qk_norm": config["qk_norm"],
        "num_chosen": config["num_experts_per_tok"],
        "normalise": config["norm_topk_prob"],
        "form": config["aux_loss_form"],
        "coef": config["aux_loss_coef"],
        "counts": plan.counts,
        "sequence_ids": plan.documents,
        "mask": plan.mask,
        "cache": plan.cache[layer] if plan.cache else None,
    }


def _norm(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"eps": config["rms_norm_eps"], "cast": config["norm_cast"]}


def _head(config: Mapping[str, Any]) -> str:
    return EMBEDDING if config["tie_word_embeddings"] else HEAD


def _given(name: str, array: Any, shape: tuple[int, ...], default: np.ndarray) -> np.ndarray:
    if array is None:
        return default
    require_equal(f"shape of {name}", np.shape(array), "the shape that input_ids and cache ask for", shape)
    return np.asarray(array)


def _check(p: Mapping[str, Any], input_ids: np.ndarray, config: Mapping[str, Any], cache: Any) -> None:
    require_rank("input_ids", input_ids, 2)
    require_positive("batch of input_ids", input_ids.shape[0])
    require_positive("length of input_ids", input_ids.shape[1])
    require_ids("input_ids", input_ids, config["vocab_size"])
    shapes = parameter_shapes(config)
    if config["tie_word_embeddings"] and HEAD in p:
        shapes[HEAD] = shapes[EMBEDDING]
    check_parameters(p, shapes)
    if config["tie_word_embeddings"] and HEAD in p and not np.array_equal(value(p[HEAD]), value(p[EMBEDDING])):
        raise ValueError(f"parameters[{HEAD!r}] differs from {EMBEDDING!r} but tie_word_embeddings=True")
    if cache:
        require_equal("layers of cache", len(cache), "num_hidden_layers", config["num_hidden_layers"])
        for keys, values in cache:
            shape = (input_ids.shape[0], cache[0][0].shape[1], config["num_key_value_heads"], config["head_dim"])
            for name, old in (("keys", keys), ("values", values)):
                require_equal(f"shape of the cached {name}", tuple(old.shape), "the shape expected", shape)
