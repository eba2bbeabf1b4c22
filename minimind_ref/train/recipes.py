"""What no flag, a preset or a flag means: defaults, then the preset, then compat, then the flags given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from minimind_ref.config import PRESETS, ModelConfig, flag
from minimind_ref.errors import UserError
from minimind_ref.train.settings import Settings
from minimind_ref.train.stage_settings import STAGES

_TINY = dict(weight_decay=0.1, beta2=0.95, num_workers=0, log_interval=10)
_PRETRAIN = dict(max_seq_len=256, max_steps=640, batch_size=4, accumulation_steps=2)
_PRETRAIN |= dict(learning_rate=3e-3, warmup_iters=40, eval_interval=160)
_CHAT = dict(max_seq_len=128, batch_size=32)
_SFT = dict(max_steps=1200, learning_rate=1e-3, warmup_iters=40, eval_interval=200)
_HABIT = dict(max_steps=100, learning_rate=3e-4, warmup_iters=40, eval_interval=200)
_DPO = dict(max_steps=60, learning_rate=1e-4, eval_interval=20)
_GRPO = dict(max_seq_len=96, max_new_tokens=24, epochs=4, max_steps=100, batch_size=32)
_GRPO |= dict(learning_rate=1e-4, num_updates=2, beta=0.02, eval_interval=20)
TINY: Mapping[str, Mapping[str, Any]] = {
    "pretrain": _TINY | _PRETRAIN,
    "sft": _TINY | _CHAT | _SFT,
    "dpo": _TINY | _CHAT | _DPO,
    "grpo": _TINY | _GRPO,
    "habit": _TINY | _CHAT | _HABIT,
    "unlearn": _TINY | _GRPO,
}
"""What the preset tiny changes in the defaults of a stage, or of a step of `train all`; no other has a recipe."""

COMPAT: Mapping[str, Mapping[str, Any]] = {
    "minimind2": dict(
        batching="pad",
        wrap_text=False,
        shuffle=False,
        decay="all",
        schedule="minimind2",
        normaliser="mean_of_means",
        seed=1337,
        reduction="mean",
    ),
    "minimind3": {
        **dict(batching="pad", decay="all", normaliser="mean_of_means", template="minimind3"),
        "grpo.loss": "cispo",
    },
}
"""The named choices that each generation of MiniMind takes in training, STAGE.flag where other stages' mean another."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Which network and whose choices; every other model flag changes that network."""

    preset: str | None = flag(
        None,
        "network to start from; none: that of --init_from, else tiny, or with a model flag minimind2's family",
        group="model",
        options=tuple(PRESETS),
    )
    compat: str | None = flag(
        None, "take MiniMind's choices in training where they differ", group="model", options=tuple(COMPAT)
    )


def layer(
    stage: str, given: Mapping[str, Any], initial: ModelConfig | None = None, recipe: str | None = None
) -> tuple[ModelConfig, Settings]:
    """The network and the settings that the given flags mean: defaults, then the preset, then compat, then flags.

    `initial` is the network of the weights to start from; without --preset it is the one that model flags change.
    `recipe` names tiny's recipe where that is not the stage's.
    """
    kind = STAGES[stage]
    model_flags = {f.name: given[f.name] for f in fields(ModelConfig) if f.name in given}
    run_flags = {f.name: given[f.name] for f in fields(kind) if f.name in given}
    compat = given.get("compat")
    if compat and "aux_loss_counts_padding" not in model_flags:
        model_flags["aux_loss_counts_padding"] = True
    preset = given.get("preset") or (None if model_flags or initial else "tiny")
    base = PRESETS[preset] if preset else initial
    try:
        config = base.replace(**model_flags) if base else ModelConfig(**model_flags)
    except ValueError as error:
        raise UserError(f"impossible network: {error}") from None
    chosen = TINY[recipe or stage] if base == PRESETS["tiny"] else {}
    return config, kind(**{**chosen, **_choices(stage, compat), **run_flags})


def _choices(stage: str, compat: str | None) -> dict[str, Any]:
    """What a generation chooses of a stage's flags."""
    named = ((*name.rpartition("."), value) for name, value in COMPAT.get(compat or "", {}).items())
    return {flag: value for of, _, flag, value in named if of in ("", stage) and hasattr(STAGES[stage], flag)}
