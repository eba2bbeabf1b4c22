"""How the faces of block and transformer run a case: parameters by name, whatever holds them in a face.

A function `oracle_OP`, `torch_OP` or `definition_OP` runs that face of an operation; a face without one is called as it
is (golden/faces.py).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from minimind_ref.golden.trees import GoldenError

Named = Mapping[str, Any]


def both(cotangent: Any) -> tuple[Any, Any]:
    """Complete the cotangent of a dense network, whose balance loss is a constant."""
    return cotangent if isinstance(cotangent, tuple) else (cotangent, np.zeros(()))


def in_order(parameters: Named, shares: Named) -> dict[str, Any]:
    """Order gradients as the parameters are."""
    return {name: shares[name] for name in parameters}


def oracle_block_vjp(
    x: Any, parameters: Named, cos: Any, sin: Any, *, cotangent: Any, **options: Any
) -> tuple[Any, Any]:
    """Give the gradients of x and of every parameter."""
    from minimind_ref.oracle.block import block_vjp

    dx, shares = block_vjp(x, parameters, cos, sin, cotangent=both(cotangent), **options)
    return dx, in_order(parameters, shares)


def torch_block(
    x: Any, parameters: Named, cos: Any, sin: Any, *, mask: Any = None, cache: Any = None, counts: Any = None,
    sequence_ids: Any = None, **options: Any,
) -> Any:  # fmt: skip
    """Run torch's module with these parameters."""
    from torch.func import functional_call

    from minimind_ref.config import ModelConfig
    from minimind_ref.model.attention import KeyValue
    from minimind_ref.model.block import Block

    module = Block(ModelConfig(**layout(x, parameters, cos, **options))).to(x.dtype).eval()
    past = None if cache is None else KeyValue(*cache)
    given = {"mask": mask, "past": past, "sequence_ids": sequence_ids}
    if counts is not None:
        given["counts"] = counts.bool()
    return functional_call(module, dict(parameters), (x, cos, sin), given, strict=True)


def layout(
    x: Any, parameters: Named, cos: Any, *, num_heads: int, num_kv_heads: int, eps: float, norm_cast: str = "after",
    qk_norm: bool = False, num_chosen: int = 1, normalise: bool = True, form: str = "batch", coef: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """Say which configuration has these parameters and options."""
    sizes = {
        kind: sum(name.startswith(f"mlp.{kind}.") and name.endswith("gate_proj.weight") for name in parameters)
        for kind in ("experts", "shared_experts")
    }
    first = next(p for name, p in parameters.items() if name.endswith("gate_proj.weight"))
    return {
        "vocab_size": 2, "hidden_size": x.shape[-1], "num_hidden_layers": 1, "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads, "head_dim": 2 * cos.shape[-1], "rms_norm_eps": eps, "qk_norm": qk_norm,
        "norm_cast": norm_cast, "intermediate_size": first.shape[0], "moe_intermediate_size": first.shape[0],
        "use_moe": sizes["experts"] > 0, "num_experts": sizes["experts"] or 1,
        "num_shared_experts": sizes["shared_experts"], "num_experts_per_tok": num_chosen, "norm_topk_prob": normalise,
        "aux_loss_form": form, "aux_loss_coef": coef,
    }  # fmt: skip


def oracle_transformer(parameters: Named, input_ids: Any, config: Named, **inputs: Any) -> tuple[Any, Any]:
    """Give logits and balance loss."""
    from minimind_ref.oracle.transformer import transformer

    return transformer(parameters, input_ids, config, **inputs)[:2]


def oracle_transformer_vjp(
    parameters: Named, input_ids: Any, config: Named, *, cotangent: Any, **inputs: Any
) -> dict[str, Any]:
    """Give the gradient of every parameter."""
    from minimind_ref.oracle.transformer import transformer_vjp

    return in_order(parameters, transformer_vjp(parameters, input_ids, config, cotangent=both(cotangent), **inputs))


def torch_transformer(parameters: Named, input_ids: Any, config: Named, **inputs: Any) -> Any:
    """Run torch's module with these parameters; give logits and balance loss."""
    return torch_network(parameters, input_ids, config, **inputs)[:2]


def torch_network(parameters: Named, input_ids: Any, config: Named, *, cache: Any = None, **inputs: Any) -> Any:
    """Run torch's module with these parameters; give logits, balance loss and cache."""
    from torch.func import functional_call

    from minimind_ref.config import ModelConfig
    from minimind_ref.model.attention import KeyValue
    from minimind_ref.model.transformer import Transformer

    module = Transformer(ModelConfig(**config)).double().eval()
    past = None if cache is None else tuple(KeyValue(*layer) for layer in cache)
    return functional_call(module, dict(parameters), (input_ids,), {**inputs, "cache": past}, strict=False)


def definition_transformer(spec: Any, parameters: Named, input_ids: Any, config: Named, **inputs: Any) -> Any:
    """Run the definition; give logits and balance loss."""
    return spec.transformer(parameters, input_ids, config, **inputs)[:2]


def oracle_loss_and_gradients(parameters: Named, input_ids: Any, labels: Any, config: Named, **inputs: Any) -> Any:
    """Give the loss alone: the gradients are its own."""
    from minimind_ref.oracle.transformer import loss_and_gradients

    return loss_and_gradients(parameters, input_ids, labels, config, **inputs)[0]


def oracle_loss_and_gradients_vjp(
    parameters: Named, input_ids: Any, labels: Any, config: Named, *, cotangent: Any, **inputs: Any
) -> dict[str, Any]:
    """Give the gradients, which are the loss's own: its cotangent is 1."""
    from minimind_ref.oracle.bounded import value
    from minimind_ref.oracle.transformer import loss_and_gradients

    if value(cotangent) != 1:
        raise GoldenError(f"the loss's cotangent is {value(cotangent)} but must be 1")
    return in_order(parameters, loss_and_gradients(parameters, input_ids, labels, config, **inputs)[1])


def torch_loss_and_gradients(
    parameters: Named, input_ids: Any, labels: Any, config: Named, *, normaliser: Any = None, aux_weight: float = 1.0,
    **inputs: Any,
) -> Any:  # fmt: skip
    """Run torch's network and its cross-entropy."""
    from minimind_ref.loss.cross_entropy import cross_entropy

    logits, aux = torch_transformer(parameters, input_ids, config, **inputs)
    if normaliser is None:
        normaliser = max(int((labels != -100).sum()), 1)
    return cross_entropy(logits, labels, reduction="sum") / normaliser + aux_weight * aux


def definition_loss_and_gradients(spec: Any, **inputs: Any) -> Any:
    """Run the definitions of network and cross-entropy."""
    return spec.loss_and_gradients(**inputs)
