"""What a run is: the flags of every stage, the recipes, and how they are layered.  Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from minimind_ref.config import PRESETS, ModelConfig, flag
from minimind_ref.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything about a pretraining run except the network.  The defaults are the real presets'."""

    data_path: str | None = flag(None, 'JSONL, {"text": …} a line; none: the built-in corpus', group="data")
    tokenizer: str | None = flag(None, "a tokenizer.json or its folder; none: the one shipped", group="data")
    max_seq_len: int = flag(512, "tokens in a row", group="data")
    batching: str = flag("pack", "rows without padding, or one sample a row", group="data", options=("pack", "pad"))
    wrap_text: bool = flag(True, "put every text between the start and the end token", group="data")
    shuffle: bool = flag(True, "a new order of the rows in every epoch, from the seed", group="data")
    held_out: float = flag(0.01, "share of the documents (at most 1,000) kept for evaluation", group="data")
    on_bad_line: str = flag("error", "what a line that cannot be used does", group="data", options=("error", "skip"))
    num_workers: int = flag(1, "processes that prepare batches; 0: none", group="data")

    epochs: int = flag(1, "passes over the data; a serious run takes 2 to 6", group="optimisation")
    max_steps: int | None = flag(
        None, "stop after so many optimiser steps; none: after the epochs", group="optimisation"
    )
    batch_size: int | None = flag(
        None, "rows a micro-step and process; none: 32 on CUDA, 16 elsewhere", group="optimisation"
    )
    accumulation_steps: int = flag(8, "micro-steps an optimiser step", group="optimisation")
    learning_rate: float = flag(5e-4, "peak of the cosine schedule, which ends at a tenth of it", group="optimisation")
    warmup_iters: int = flag(0, "optimiser steps of linear warm-up", group="optimisation")
    grad_clip: float = flag(1.0, "largest norm of the whole gradient", group="optimisation")
    weight_decay: float = flag(0.01, "AdamW's decoupled decay, times the learning rate", group="optimisation")
    beta1: float = flag(0.9, "AdamW's decay of the gradient's mean", group="optimisation")
    beta2: float = flag(0.999, "AdamW's decay of the squared gradient's mean", group="optimisation")
    decay: str = flag(
        "matrices", "which parameters weight decay shrinks", group="optimisation", options=("matrices", "all")
    )
    schedule: str = flag(
        "cosine", "'minimind2' starts at 1.1 times the peak", group="optimisation", options=("cosine", "minimind2")
    )
    normaliser: str = flag(
        "tokens",
        "the loss of a window is divided by its supervised tokens, or is MiniMind's mean of means",
        group="optimisation",
        options=("tokens", "mean_of_means"),
    )

    out_dir: str = flag("out", "holds everything that the run writes", group="run")
    init_from: str | None = flag(None, "weights to start from: a run folder or a .pth file", group="run")
    resume: bool = flag(False, "continue the run in out_dir", group="run")
    seed: int = flag(42, "of the initial weights, the order of the data, dropout", group="run")
    device: str = flag("auto", "cuda, cuda:1, mps, cpu; auto: the first of them that is there", group="run")
    dtype: str = flag(
        "auto", "precision of the forward pass", group="run", options=("auto", "float32", "bfloat16", "float16")
    )
    log_interval: int = flag(100, "optimiser steps between two lines of metrics.jsonl", group="run")
    save_interval: int = flag(100, "optimiser steps between two checkpoints", group="run")
    eval_interval: int = flag(500, "optimiser steps between two evaluations; 0: only at the end", group="run")
    eval_tokens: int = flag(65536, "held-out tokens that an evaluation reads at most", group="run")
    use_wandb: bool = flag(
        False, "log to Weights & Biases too (extra 'track'; offline without an account)", group="run"
    )
    ddp: bool = flag(False, "insist on a distributed run (torchrun starts one by itself)", group="distributed")
    local_rank: int = flag(-1, "this process's device; set by torchrun", group="distributed")

    def __post_init__(self) -> None:
        for name, least in MINIMUM.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise UserError(f"--{name} {value} must be at least {least} and finite")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} must lie in [0, 1)")
        if self.held_out > 0.5:
            raise UserError(f"--held_out {self.held_out} must be at most 0.5")


MINIMUM = {
    **dict.fromkeys(("max_seq_len",), 2),
    **dict.fromkeys(("epochs", "max_steps", "batch_size", "accumulation_steps", "log_interval", "save_interval"), 1),
    **dict.fromkeys(("held_out", "num_workers", "learning_rate", "warmup_iters", "grad_clip", "weight_decay"), 0),
    **dict.fromkeys(("seed", "eval_interval", "eval_tokens"), 0),
}

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "tiny": dict(
        max_seq_len=256,
        batch_size=16,
        accumulation_steps=1,
        learning_rate=3e-3,
        warmup_iters=20,
        weight_decay=0.1,
        beta2=0.95,
        held_out=0.03,
        num_workers=0,
        log_interval=10,
        eval_interval=100,
    ),
}
"""What a preset changes in a stage's defaults; only tiny has a recipe of its own."""

COMPAT: Mapping[str, Mapping[str, Any]] = {
    "minimind2": dict(
        batching="pad",
        wrap_text=False,
        shuffle=False,
        decay="all",
        schedule="minimind2",
        normaliser="mean_of_means",
        seed=1337,
    ),
    "minimind3": dict(batching="pad", decay="all", normaliser="mean_of_means"),
}
"""The named choices that each generation of MiniMind takes in training."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Which network and whose choices; every other model flag changes that network."""

    preset: str | None = flag(
        None,
        "network to start from; none and no model flag: tiny; none and a model flag: minimind2's family",
        group="model",
        options=tuple(PRESETS),
    )
    compat: str | None = flag(
        None, "take MiniMind's choices in training where they differ", group="model", options=tuple(COMPAT)
    )


def layer(given: Mapping[str, Any]) -> tuple[ModelConfig, Settings]:
    """The network and the settings that the given flags mean: defaults, then the preset, then compat, then flags."""
    model_flags = {f.name: given[f.name] for f in fields(ModelConfig) if f.name in given}
    run_flags = {f.name: given[f.name] for f in fields(Settings) if f.name in given}
    preset = given.get("preset") or (None if model_flags else "tiny")
    compat = given.get("compat")
    if compat and "aux_loss_counts_padding" not in model_flags:
        model_flags["aux_loss_counts_padding"] = True
    try:
        config = PRESETS[preset].replace(**model_flags) if preset else ModelConfig(**model_flags)
    except ValueError as error:
        raise UserError(f"impossible network: {error}") from None
    recipe = RECIPES.get(preset or "", {})
    return config, Settings(**{**recipe, **COMPAT.get(compat or "", {}), **run_flags})
