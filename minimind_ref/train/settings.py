"""Everything about any stage's run except the network, each field a flag.  Standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from minimind_ref.config import flag
from minimind_ref.errors import UserError

_data, _optimisation, _run, _distributed = (
    partial(flag, group=group) for group in ("data", "optimisation", "run", "distributed")
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every stage's run has.  The defaults are the real presets'."""

    data_path: str | None = _data(None, "JSONL, one record a line")
    tokenizer: str | None = _data(None, "a tokenizer.json or its folder; none: beside --init_from, else the shipped")
    max_seq_len: int = _data(512, "tokens in a row")
    shuffle: bool = _data(True, "a new order of the rows in every epoch, from the seed")
    held_out: float = _data(0.01, "share of the records (at most 1,000) kept for evaluation")
    on_bad_line: str = _data("error", "what a line that cannot be used does", options=("error", "skip"))
    num_workers: int = _data(1, "processes that prepare batches; 0: none")

    epochs: int = _optimisation(1, "passes over the data; a serious run takes 2 to 6")
    max_steps: int | None = _optimisation(None, "stop after so many optimiser steps; none: after the epochs")
    batch_size: int | None = _optimisation(None, "rows a micro-step and process; none: 32 on CUDA, 16 elsewhere")
    accumulation_steps: int = _optimisation(1, "micro-steps an optimiser step")
    learning_rate: float = _optimisation(5e-4, "peak of the cosine schedule, which ends at a tenth of it")
    warmup_iters: int = _optimisation(0, "optimiser steps of linear warm-up")
    grad_clip: float = _optimisation(1.0, "largest norm of the whole gradient")
    weight_decay: float = _optimisation(0.01, "AdamW's decoupled decay, times the learning rate")
    beta1: float = _optimisation(0.9, "AdamW's decay of the gradient's mean")
    beta2: float = _optimisation(0.999, "AdamW's decay of the squared gradient's mean")
    decay: str = _optimisation("matrices", "which parameters weight decay shrinks", options=("matrices", "all"))
    schedule: str = _optimisation("cosine", "'minimind2' starts at 1.1 times the peak", options=("cosine", "minimind2"))
    normaliser: str = _optimisation(
        "tokens",
        "the loss of a window is divided by its targets (tokens, pairs, answers), or is MiniMind's mean of means",
        options=("tokens", "mean_of_means"),
    )

    out_dir: str = _run("out", "holds everything that the run writes")
    init_from: str | None = _run(None, "weights to start from: a run folder or a .pth file")
    resume: bool = _run(False, "continue the run in out_dir")
    seed: int = _run(42, "of the initial weights, the order of the data, dropout, sampling")
    device: str = _run("auto", "cuda, cuda:1, mps, cpu; auto: the first of them that is there")
    dtype: str = _run("auto", "precision of the forward pass", options=("auto", "float32", "bfloat16", "float16"))
    log_interval: int = _run(100, "optimiser steps between two lines of metrics.jsonl")
    save_interval: int = _run(100, "optimiser steps between two checkpoints")
    eval_interval: int = _run(500, "optimiser steps between two evaluations; 0: only at the end")
    use_wandb: bool = _run(False, "log to Weights & Biases too (extra 'track'; offline without an account)")
    ddp: bool = _distributed(False, "insist on a distributed run (torchrun starts one by itself)")
    local_rank: int = _distributed(-1, "this process's device; set by torchrun")

    def __post_init__(self) -> None:
        for name, least in MINIMUM.items():
            value = getattr(self, name, None)
            if value is not None and not least <= value < math.inf and (name, value) != ("grad_clip", math.inf):
                raise UserError(f"--{name} {value} must be at least {least} and finite")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} must lie in [0, 1)")
        if self.grad_clip == 0:
            raise UserError("--grad_clip 0 would clip every gradient to nothing; inf clips none")
        for name, value in vars(self).items():
            if isinstance(value, int) and value >= 2**63:
                raise UserError(f"--{name} {value} must be below 2**63")
        for name, step in (
            ("learning_rate", self.learning_rate / (1 - self.beta1)),
            ("weight_decay", self.learning_rate * self.weight_decay),
        ):
            if step > FLOAT32_MAX:
                raise UserError(f"--{name} {getattr(self, name)} asks for steps that float32 cannot hold")
        for name in ("data_path", "tokenizer", "out_dir", "init_from", "reward"):
            if getattr(self, name, None) == "":
                raise UserError(f"--{name} is empty: give {'a reward' if name == 'reward' else 'a path'}")
        if self.held_out > 0.5:
            raise UserError(f"--held_out {self.held_out} must be at most 0.5")


FLOAT32_MAX = (2 - 2**-23) * 2.0**127
MINIMUM = {
    "max_seq_len": 2,
    **dict.fromkeys(("epochs", "max_steps", "batch_size", "accumulation_steps", "log_interval", "save_interval"), 1),
    **dict.fromkeys(("held_out", "num_workers", "learning_rate", "warmup_iters", "grad_clip", "weight_decay"), 0),
    **dict.fromkeys(("seed", "eval_interval", "eval_tokens", "beta", "label_smoothing", "eval_prompts"), 0),
    **dict.fromkeys(("temperature", "clip_low", "clip_high", "refresh_reference"), 0),
    **dict.fromkeys(("max_new_tokens", "num_updates"), 1),
}
