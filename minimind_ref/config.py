"""Every number a network depends on: `ModelConfig`, the presets, the parameter counts.  Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any, NamedTuple

CHOICES = {
    "aux_loss_form": ("sequence", "batch", "slots"),
    "ffn_rule": ("8/3", "pi"),
    "norm_cast": ("before", "after"),
    "initialisation": ("fan_in_uniform", "normal"),
}
ROPE_SCALING_TYPES = ("yarn", "yarn-minimind2", "yarn-minimind3")
ROPE_SCALING_KEYS = ("type", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor")


def flag(default: Any, text: str, **more: Any) -> Any:
    """A dataclass field that is also a command-line flag: its default and its help text."""
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the network, letters as in specs/notation.md.  The defaults are MiniMind2-small's.

    A field that is None on construction is filled with the value that follows from the others.
    Raises ValueError, naming both values, where the network cannot be built.
    """

    vocab_size: int = flag(6400, "rows of the embedding (v)")
    hidden_size: int = flag(512, "width of the residual stream (d)")
    num_hidden_layers: int = flag(8, "blocks")
    num_attention_heads: int = flag(8, "query heads (n)")
    num_key_value_heads: int = flag(2, "key/value heads (k), divides the query heads; none: as many", optional=True)
    head_dim: int = flag(None, "width of a head (h); none: hidden_size / num_attention_heads", optional=True)
    intermediate_size: int = flag(None, "FFN width (f); none: by ffn_rule", optional=True)
    ffn_rule: str = flag("8/3", "FFN width per hidden_size, rounded up to 64: '8/3' (MiniMind2) or 'pi' (MiniMind-3)")
    max_position_embeddings: int = flag(32768, "positions that the rotary table covers")
    rope_theta: float = flag(1e6, "base of the rotary frequencies")
    rope_scaling: Mapping[str, Any] | None = flag(None, 'YaRN as a JSON object, e.g. \'{"type": "yarn", "factor": 4}\'')
    rms_norm_eps: float = flag(1e-5, "epsilon inside RMSNorm's root")
    norm_cast: str = flag("before", "RMSNorm rounds to the input's dtype 'before' or 'after' the weight")
    qk_norm: bool = flag(False, "RMSNorm on every query and key head, before RoPE")
    use_moe: bool = flag(False, "mixture of experts in place of the FFN")
    num_experts: int = flag(4, "routed experts (e)")
    num_shared_experts: int = flag(1, "experts that every token visits")
    num_experts_per_tok: int = flag(2, "routed experts per token (c)")
    moe_intermediate_size: int = flag(None, "FFN width of one expert; none: intermediate_size", optional=True)
    norm_topk_prob: bool = flag(True, "the chosen experts' weights are divided by their sum")
    aux_loss_form: str = flag("sequence", "load balance: 'sequence' or 'batch' (MiniMind2), 'slots' (MiniMind-3)")
    aux_loss_coef: float = flag(0.1, "weight of the load-balancing loss")
    aux_loss_counts_padding: bool = flag(False, "padding enters the load-balancing loss, as in MiniMind")
    dropout: float = flag(0.0, "probability of zeroing an attention weight or a residual entry in training")
    tie_word_embeddings: bool = flag(True, "the head is the embedding")
    initialisation: str = flag("fan_in_uniform", "'fan_in_uniform' (MiniMind2) or 'normal' with std 0.02 (MiniMind-3)")

    def __post_init__(self) -> None:
        derived = {name for name in DERIVED if getattr(self, name) is None}
        object.__setattr__(self, "_derived", frozenset(derived))
        for f in fields(self):
            if f.name not in derived and f.type in KINDS:
                object.__setattr__(self, f.name, KINDS[f.type](f.name, getattr(self, f.name)))
        for name in sorted(derived, key=list(DERIVED).index):
            object.__setattr__(self, name, DERIVED[name](self))
        _validate(self)

    def replace(self, **changes: Any) -> ModelConfig:
        """The same network with some fields changed; what was derived is derived anew."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self._derived}  # type: ignore[attr-defined]
        return ModelConfig(**{**given, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Every field, resolved, as JSON can hold it."""
        return asdict(self)


def _integer(name: str, value: Any) -> int:
    least = 0 if name == "num_shared_experts" else 1
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise ValueError(f"{name}={value!r} must be an integer of at least {least} and below 2**31")
    return value


def _real(name: str, value: Any) -> float:
    if not _is_number(value):
        raise ValueError(f"{name}={value!r} must be a number")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be True or False")
    return value


KINDS = {"int": _integer, "float": _real, "bool": _boolean}


def _head_dim(config: ModelConfig) -> int:
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"num_attention_heads={config.num_attention_heads} must divide hidden_size={config.hidden_size} "
            "where no head_dim is given"
        )
    return config.hidden_size // config.num_attention_heads


def _ffn_width(config: ModelConfig) -> float | int:
    return math.pi * config.hidden_size if config.ffn_rule == "pi" else int(8 * config.hidden_size / 3)


DERIVED = {
    "num_key_value_heads": lambda c: c.num_attention_heads,
    "head_dim": _head_dim,
    "intermediate_size": lambda c: 64 * math.ceil(_ffn_width(c) / 64),
    "moe_intermediate_size": lambda c: c.intermediate_size,
}


def _validate(config: ModelConfig) -> None:
    c = config
    _require(
        c.num_attention_heads % c.num_key_value_heads == 0,
        c,
        "num_key_value_heads",
        "must divide",
        "num_attention_heads",
    )
    if c.head_dim % 2:
        raise ValueError(f"head_dim={c.head_dim} must be even: RoPE rotates pairs (hidden_size={c.hidden_size})")
    _require(
        c.num_experts_per_tok <= c.num_experts or not c.use_moe,
        c,
        "num_experts_per_tok",
        "must not exceed",
        "num_experts",
    )
    for name, options in CHOICES.items():
        if getattr(c, name) not in options:
            raise ValueError(f"{name}={getattr(c, name)!r} must be one of {', '.join(options)}")
    for name, low, high in (("dropout", 0, 1), ("aux_loss_coef", 0, math.inf)):
        if not low <= getattr(c, name) < high:
            raise ValueError(f"{name}={getattr(c, name)} must be at least {low} and below {high}")
    for name in ("rope_theta", "rms_norm_eps"):
        if not 0 < getattr(c, name) < math.inf:
            raise ValueError(f"{name}={getattr(c, name)} must be above 0 and finite")
    if c.rope_scaling is not None:
        validate_rope_scaling(c.rope_scaling)
        if not c.rope_theta > 1:
            raise ValueError(f"rope_theta={c.rope_theta} must be above 1 for rope_scaling={dict(c.rope_scaling)}")


def _require(holds: bool, config: ModelConfig, left: str, relation: str, right: str) -> None:
    if not holds:
        raise ValueError(f"{left}={getattr(config, left)} {relation} {right}={getattr(config, right)}")


def validate_rope_scaling(scaling: Mapping[str, Any]) -> None:
    """Refuse a rotary scaling that has no meaning here: an unknown type or key, a factor below 1, crossed betas."""
    if not isinstance(scaling, Mapping):
        raise ValueError(f"rope_scaling={scaling!r} must be a mapping with a type, or None")
    if scaling.get("type") not in ROPE_SCALING_TYPES:
        raise ValueError(f"rope_scaling type={scaling.get('type')!r} must be one of {', '.join(ROPE_SCALING_TYPES)}")
    if unknown := sorted(set(scaling) - set(ROPE_SCALING_KEYS)):
        raise ValueError(f"rope_scaling has the unknown key {unknown[0]!r}; known: {', '.join(ROPE_SCALING_KEYS)}")
    for name in sorted(set(scaling) - {"type"}):
        value, least = scaling[name], -math.inf if name == "attention_factor" else 0
        if (name, value) != ("attention_factor", None) and not (_is_number(value) and least < value < math.inf):
            raise ValueError(f"rope_scaling {name}={value!r} must be a number above {least} and finite")
    if scaling.get("factor", math.inf) < 1:
        raise ValueError(f"rope_scaling factor={scaling['factor']} must be at least 1")
    fast, slow = scaling.get("beta_fast", 32), scaling.get("beta_slow", 1)
    if not fast >= slow:
        raise ValueError(f"rope_scaling beta_fast={fast} must be at least beta_slow={slow}")
    if scaling["type"] == "yarn" and "factor" not in scaling:
        raise ValueError(f"rope_scaling type='yarn' needs a factor but has only {', '.join(scaling)}")


class ParameterCount(NamedTuple):
    """Parameters in the network, and those that one token's forward pass uses."""

    total: int
    active: int


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Parameters from the configuration alone; a tied head counts once, and so does an embedding (all of it active)."""
    c = config
    d, q, kv = c.hidden_size, c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    layer = 2 * d * q + 2 * d * kv + 2 * d + (2 * c.head_dim if c.qk_norm else 0)
    ffn = 3 * d * (c.moe_intermediate_size if c.use_moe else c.intermediate_size)
    router = c.num_experts * d if c.use_moe else 0
    present = c.num_experts + c.num_shared_experts if c.use_moe else 1
    visited = c.num_experts_per_tok + c.num_shared_experts if c.use_moe else 1
    outside = c.vocab_size * d * (1 if c.tie_word_embeddings else 2) + d
    total, active = (outside + c.num_hidden_layers * (layer + router + ffn * count) for count in (present, visited))
    return ParameterCount(total, active)


def _minimind3(**changes: Any) -> ModelConfig:
    """MiniMind-3's family: q/k norm, wider FFN, no shared expert, top-1, normal initialisation."""
    defaults: dict[str, Any] = dict(
        num_key_value_heads=4,
        ffn_rule="pi",
        rms_norm_eps=1e-6,
        norm_cast="after",
        qk_norm=True,
        num_shared_experts=0,
        num_experts_per_tok=1,
        aux_loss_form="slots",
        aux_loss_coef=5e-4,
        initialisation="normal",
    )
    return ModelConfig(**{**defaults, **changes})


PRESETS: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "tiny": ModelConfig(
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
        ),
        "minimind2-small": ModelConfig(),
        "minimind2": ModelConfig(hidden_size=768, num_hidden_layers=16),
        "minimind2-moe": ModelConfig(hidden_size=640, use_moe=True),
        "minimind-3": _minimind3(hidden_size=768),
        "minimind-3-moe": _minimind3(hidden_size=768, use_moe=True),
    }
)
