"""Hugging Face's config.json to ModelConfig and back, field by field."""

from collections.abc import Mapping
from typing import Any

from minimind_ref.config import PRESETS, ModelConfig
from minimind_ref.interop.huggingface_rope import published_yarn, read_rope

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}
REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
MAX_POSITIONS = {"llama": 2048, "qwen3": 32768, "qwen3_moe": 32768}  # theirs, where the field is absent
ONLY = {  # fields that this model has no counterpart for, and the values at which it needs none
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "attention_dropout": (0,),
    "use_sliding_window": (False, None),
    "decoder_sparse_step": (1,),
    "mlp_only_layers": ([], None),
    "quantization_config": (None,),
}


def from_huggingface(fields: Mapping[str, Any]) -> ModelConfig:
    """Translate the fields of a config.json; ValueError names the field and the value that has no counterpart here.

    An absent field has the value that transformers 5 gives it.  Norms round before the weight, as theirs do.  What
    only training asks for (initialisation, form of the load balance) is the family's: MiniMind2's for Llama,
    MiniMind-3's for Qwen3.  Fields that transformers' own classes do not read are not read here.
    """
    kind = fields.get("model_type")
    if kind not in ARCHITECTURES:
        raise ValueError(f"model_type={kind!r} must be one of {', '.join(ARCHITECTURES)}")
    for name in fields.get("architectures") or ():
        if name != ARCHITECTURES[kind]:
            raise ValueError(f"architectures names {name!r}, which must be {ARCHITECTURES[kind]} for {kind}")
    for name in REQUIRED:
        if fields.get(name) is None:
            raise ValueError(f"{name} is missing among {len(fields)} fields")
    for name, allowed in ONLY.items():
        if name in fields and fields[name] not in allowed:
            raise ValueError(f"{name}={fields[name]!r} has no counterpart here: it must be {allowed[0]!r}")
    for layer, name in enumerate(fields.get("layer_types") or ()):
        if name != "full_attention":
            raise ValueError(f"layer_types[{layer}]={name!r} has no counterpart here: it must be 'full_attention'")
    theta, scaling = read_rope(fields, fields.get("max_position_embeddings", MAX_POSITIONS[kind]))
    family = PRESETS["minimind2-small" if kind == "llama" else "minimind-3"]
    return family.replace(
        **{name: fields[name] for name in REQUIRED},
        num_key_value_heads=fields.get("num_key_value_heads") or fields["num_attention_heads"],
        head_dim=fields.get("head_dim") or (128 if kind == "qwen3" else None),
        max_position_embeddings=fields.get("max_position_embeddings", MAX_POSITIONS[kind]),
        rms_norm_eps=fields.get("rms_norm_eps", 1e-6),
        norm_cast="before",
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=fields.get("tie_word_embeddings", False),
        **(_experts(fields) if kind == "qwen3_moe" else {}),
    )


def _experts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The mixture's settings; transformers 5 writes num_experts as num_local_experts."""
    return {
        "use_moe": True,
        "num_experts": fields.get("num_local_experts", fields.get("num_experts", 128)),
        "num_experts_per_tok": fields.get("num_experts_per_tok", 8),
        "moe_intermediate_size": fields.get("moe_intermediate_size", 768),
        "norm_topk_prob": fields.get("norm_topk_prob", False),
        "aux_loss_coef": fields.get("router_aux_loss_coef", 0.001),
    }


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """Translate a configuration into the fields of a config.json; ValueError says what Hugging Face cannot represent.

    Differs: their norms round before the weight, so a network that rounds after it (MiniMind-3) gives their logits in
    float32 and wider only.  Rotary settings are written in the form that transformers 4 and 5 both read.
    """
    c, kind = config, _kind(config)
    if c.dropout:
        raise ValueError(f"dropout={c.dropout} on the residual stream has no counterpart in Hugging Face's {kind}")
    fields: dict[str, Any] = {name: getattr(c, name) for name in REQUIRED}
    for name in ("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta"):
        fields[name] = getattr(c, name)
    fields |= {"model_type": kind, "architectures": [ARCHITECTURES[kind]], "hidden_act": "silu"}
    fields |= {"attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": c.tie_word_embeddings}
    fields["rope_scaling"] = published_yarn(c)
    if kind == "qwen3_moe":
        fields |= {"num_experts": c.num_experts, "num_experts_per_tok": c.num_experts_per_tok}
        fields |= {"moe_intermediate_size": c.moe_intermediate_size, "norm_topk_prob": c.norm_topk_prob}
        fields |= {"router_aux_loss_coef": c.aux_loss_coef, "decoder_sparse_step": 1, "mlp_only_layers": []}
    return fields


def _kind(config: ModelConfig) -> str:
    if not config.use_moe:
        return "qwen3" if config.qk_norm else "llama"
    if not config.qk_norm:
        raise ValueError("use_moe=True with qk_norm=False (MiniMind2's experts) has no counterpart in Hugging Face")
    if config.num_shared_experts:
        raise ValueError(f"num_shared_experts={config.num_shared_experts} must be 0: Qwen3-MoE has no shared expert")
    return "qwen3_moe"
