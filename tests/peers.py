"""Others' networks beside ours: MiniMind from its checkouts, Hugging Face from transformers, both also in pure float64.

MINIMIND_PATH=DIR[:DIR…] lists checkouts of MiniMind, each with model/model_minimind.py: one of MiniMind2's time (commit
3812a16), one of MiniMind-3's (d65ef2c). None of their code is in this repository.
"""

import importlib
import importlib.util
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from arrays import draw_integers

from minimind_ref.config import PRESETS, ModelConfig

HUGGING_FACE = {"llama": "Llama", "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe"}
MINIMIND_FIELDS = {  # ours -> MiniMind2's, MiniMind-3's where they differ
    "num_experts": ("n_routed_experts", "num_experts"),
    "num_shared_experts": ("n_shared_experts", None),
    "aux_loss_coef": ("aux_loss_alpha", "router_aux_loss_coef"),
    "moe_intermediate_size": (None, "moe_intermediate_size"),
    "head_dim": (None, "head_dim"),
}
SAME = "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads intermediate_size rms_norm_eps"
SAME += " max_position_embeddings rope_theta use_moe num_experts_per_tok norm_topk_prob dropout"


class _Wide(ModuleType):
    """The module torch, but every narrower float is called float64."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name in ("float", "float16", "float32") else getattr(torch, name)


@contextmanager
def widened(*modules: ModuleType):
    """Let these modules' float32 and float16 islands be float64, so that formulas can be compared without rounding.

    Both peers cast to float32 inside norms, softmax and rotary tables whatever the weights' dtype, and MiniMind2
    collects experts' outputs in a float16 buffer in training.  Only names of dtypes change: no formula does.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "torch", _Wide("torch"))
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


def minimind_module(generation: int) -> ModuleType:
    """Import one generation's model_minimind.py from MINIMIND_PATH, or skip."""
    pytest.importorskip("transformers", reason="MiniMind's model needs transformers")
    for folder in os.environ.get("MINIMIND_PATH", "").split(os.pathsep):
        path = Path(folder) / "model" / "model_minimind.py"
        if folder and path.is_file() and ("q_norm" in path.read_text(encoding="utf-8")) == (generation == 3):
            name = f"minimind{generation}_peer"
            if name not in sys.modules:
                spec = importlib.util.spec_from_file_location(name, path)
                assert spec and spec.loader
                sys.modules[name] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(sys.modules[name])
            return sys.modules[name]
    pytest.skip(f"MINIMIND_PATH names no checkout with MiniMind{generation}'s model/model_minimind.py")


def minimind(config: ModelConfig, **more: Any) -> torch.nn.Module:
    """Build MiniMind's own network of a configuration, with `more` of its settings."""
    generation = 3 if config.qk_norm else 2
    module = minimind_module(generation)
    fields = {name: getattr(config, name) for name in SAME.split()}
    for ours, names in MINIMIND_FIELDS.items():
        if name := names[generation - 2]:
            fields[name] = getattr(config, ours)
    if generation == 2:
        fields["seq_aux"] = config.aux_loss_form == "sequence"
    else:
        fields["tie_word_embeddings"] = config.tie_word_embeddings
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`rope_scaling` is deprecated", FutureWarning
        )  # MiniMind's configuration sets it
        return module.MiniMindForCausalLM(module.MiniMindConfig(**fields, **more))


def hugging_face_modules() -> list[ModuleType]:
    """The modules of transformers whose arithmetic a forward pass runs through, or skip."""
    pytest.importorskip("transformers", reason="the comparison needs transformers (extra hf)")
    names = [f"models.{name}.modeling_{name}" for name in HUGGING_FACE] + ["modeling_rope_utils"]
    return [importlib.import_module(f"transformers.{name}") for name in names]


def hugging_face(kind: str, **fields: Any) -> torch.nn.Module:
    """Build transformers' own network of a kind, with its explicit attention and experts, or skip."""
    transformers = pytest.importorskip("transformers", reason="the comparison needs transformers (extra hf)")
    config = getattr(transformers, f"{HUGGING_FACE[kind]}Config")(**fields)
    config._attn_implementation = "eager"
    if kind == "qwen3_moe":
        config._experts_implementation = "eager"
    return getattr(transformers, f"{HUGGING_FACE[kind]}ForCausalLM")(config)


def reduced(preset: str, **changes: Any) -> ModelConfig:
    """A preset with distinct small sizes: 2 layers, 8 query heads, as the family has them."""
    small = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 88, "vocab_size": 61, "head_dim": None}
    return PRESETS[preset].replace(
        **{**small, "moe_intermediate_size": 40 if preset == "minimind-3-moe" else 88, **changes}
    )


def randomise_(model: torch.nn.Module, seed: int) -> None:
    """Fill every parameter with numbers of order 1/√fan_in, norms with numbers around 1; exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        values = torch.empty(parameter.shape, dtype=torch.float32).normal_(generator=generator)
        is_norm = parameter.ndim == 1
        parameter.data = (values * (0.25 if is_norm else parameter.shape[-1] ** -0.5) + is_norm).to(parameter.dtype)


def tokens(config: ModelConfig, seed: int, shape: tuple[int, int]) -> torch.Tensor:
    """Draw input ids."""
    return torch.tensor(draw_integers(seed, shape, 0, config.vocab_size))
