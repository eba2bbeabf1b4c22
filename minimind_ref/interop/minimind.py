"""MiniMind's weight files, `pretrain_512.pth` and the like: a plain dict of tensors under MiniMind's names."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from minimind_ref.config import PRESETS, ModelConfig
from minimind_ref.errors import UserError
from minimind_ref.files import write_atomically
from minimind_ref.interop.state_dict import EMBEDDING, build, clean, read_state, same_head, state_of
from minimind_ref.model.transformer import Transformer

LAYER = "model.layers.0."


def load_minimind(path: str | os.PathLike, config: ModelConfig | None = None) -> Transformer:
    """Load a MiniMind `.pth` of either generation, strictly, into a float32 network in evaluation mode.

    Half, bfloat16 and float32 files do, and resume files, whose weights lie under `model`.  The prefixes `module.` and
    `_orig_mod.` that wrappers leave before names are stripped; a tied head may be missing.

    Without `config` it is inferred.  Shapes tell the vocabulary, the widths, layers, experts, kv heads and whether the
    head is tied; per-head norms of queries and keys tell MiniMind-3 from MiniMind2.  What no shape tells is the
    family's: epsilon, rotary base, table length, the chosen experts, the form of the load balance, and in MiniMind2
    the number of query heads: 8.  Give `config` where a network departs from its family (as the preset `tiny` does).
    Raises ValueError, one line naming the tensor and both shapes.
    """
    path = Path(path)
    state = clean(read_state(path), path)
    if config is None:
        try:
            config = infer_config(state)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
    return build(config, state, path)


def save_minimind(model: torch.nn.Module, path: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
    """Write a network's weights as MiniMind does: a plain dict under its names, the tied head under both of its own.

    They keep their precision unless `dtype` is given; MiniMind's own files are torch.float16.  The file appears whole
    or not at all.  Raises ValueError, naming the tensor, where a weight is beyond the range of `dtype`.
    """
    path = Path(path)
    state = state_of(model, path, dtype)
    write_atomically(path, lambda file: torch.save(state, file))


def infer_config(state: Mapping[str, Tensor]) -> ModelConfig:
    """Read the configuration off the shapes of a state dict; see `load_minimind` for what shapes cannot tell."""
    vocab, width = _shape(state, EMBEDDING)
    (query_rows, _), (key_rows, _) = (_shape(state, f"{LAYER}self_attn.{p}_proj.weight") for p in "qk")
    qk_norm = f"{LAYER}self_attn.q_norm.weight" in state
    family = PRESETS["minimind-3" if qk_norm else "minimind2-small"]
    if qk_norm:
        (head_dim,) = _shape(state, f"{LAYER}self_attn.q_norm.weight", rank=1)
    else:
        head_dim = _divide(query_rows, family.num_attention_heads, "q", "heads of MiniMind2")
    experts = _count(state, rf"{re.escape(LAYER)}mlp\.experts\.(\d+)\.")
    ffn, _ = _shape(state, f"{LAYER}mlp.{'experts.0.' if experts else ''}gate_proj.weight")
    return family.replace(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=_count(state, r"model\.layers\.(\d+)\."),
        num_attention_heads=_divide(query_rows, head_dim, "q", "entries of a head"),
        num_key_value_heads=_divide(key_rows, head_dim, "k", "entries of a head"),
        head_dim=head_dim,
        intermediate_size=ffn,
        use_moe=experts > 0,
        num_experts=experts or family.num_experts,
        num_shared_experts=_shared(state) if experts else family.num_shared_experts,
        tie_word_embeddings=same_head(state),
    )


def _shape(state: Mapping[str, Tensor], name: str, rank: int = 2) -> tuple[int, ...]:
    if name not in state:
        raise ValueError(f"{name} is missing among {len(state)} entries: not MiniMind's weights")
    shape = tuple(state[name].shape)
    if len(shape) != rank or 0 in shape:
        raise ValueError(f"{name} has shape {shape} but must have {rank} axes, none empty")
    return shape


def _divide(rows: int, parts: int, which: str, what: str) -> int:
    if rows % parts:
        raise ValueError(
            f"{LAYER}self_attn.{which}_proj.weight has {rows} rows, no multiple of {parts} {what}: give config"
        )
    return rows // parts


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def _shared(state: Mapping[str, Tensor]) -> int:
    return _count(state, rf"{re.escape(LAYER)}mlp\.shared_experts\.(\d+)\.")
