"""Hugging Face's rotary settings, in transformers 4's form and in 5's, to ours and back."""

from collections.abc import Mapping
from typing import Any

import torch

from minimind_ref.config import ModelConfig
from minimind_ref.model.rope import DEFAULTS, rope_frequencies, yarn_attention_factor

ROPE_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "truncate", "mscale", "mscale_all_dim"}
ROPE_KEYS |= {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor"}


def read_rope(fields: Mapping[str, Any], max_positions: int) -> tuple[float, dict[str, Any] | None]:
    """Base and scaling, from `rope_scaling` beside `rope_theta` (transformers 4) or `rope_parameters` (5)."""
    given = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"rope_scaling={given!r} must be an object or null")
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in ("default", "yarn"):
        raise ValueError(f"rope_type={kind!r} has no counterpart here: it must be 'default' or 'yarn'")
    if unknown := sorted(set(given) - ROPE_KEYS):
        raise ValueError(f"rope_scaling has {unknown[0]}={given[unknown[0]]!r}, which has no counterpart here")
    partial = given.get("partial_rotary_factor", fields.get("partial_rotary_factor"))
    if partial not in (None, 1):
        raise ValueError(f"partial_rotary_factor={partial!r} has no counterpart here: it must be 1")
    theta = given.get("rope_theta") or fields.get("rope_theta") or 10000.0
    if kind == "default":
        return theta, None
    for name in ("mscale", "mscale_all_dim"):
        if given.get(name) and given.get("attention_factor") is None:
            raise ValueError(f"rope_scaling has {name}={given[name]!r}: give attention_factor instead")
    if given.get("truncate", True) is not True:
        raise ValueError(f"rope_scaling has truncate={given['truncate']!r}, which must be True")
    length = fields.get("original_max_position_embeddings")
    length = length or given.get("original_max_position_embeddings") or max_positions
    scaling = {
        "type": "yarn",
        "factor": float(given.get("factor") or max_positions / length),
        "original_max_position_embeddings": length,
        "beta_fast": float(given.get("beta_fast") or 32),
        "beta_slow": float(given.get("beta_slow") or 1),
    }
    if given.get("attention_factor") is not None:
        scaling["attention_factor"] = given["attention_factor"]
    return theta, scaling


def published_yarn(config: ModelConfig) -> dict[str, Any] | None:
    """The published YaRN that rotates as this configuration does; ValueError where there is none."""
    c, scaling = config, config.rope_scaling
    if scaling is None:
        return None
    names = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow")
    values = (scaling.get(n, default) for n, default in zip(names, DEFAULTS[scaling["type"]], strict=True))
    published = {**dict(zip(names, values, strict=True)), "attention_factor": yarn_attention_factor(scaling)}
    if scaling["type"] != "yarn" and c.max_position_embeddings <= published["original_max_position_embeddings"]:
        return None  # MiniMind's gate: the table is not longer than the original one
    ours = rope_frequencies(c.head_dim, theta=c.rope_theta, scaling=scaling)
    theirs = rope_frequencies(c.head_dim, theta=c.rope_theta, scaling={**published, "type": "yarn"})
    if not torch.equal(ours, theirs):
        raise ValueError(
            f"rope_scaling type={scaling['type']!r} rotates otherwise than Hugging Face's yarn at these settings"
        )
    return {**published, "rope_type": "yarn"}
