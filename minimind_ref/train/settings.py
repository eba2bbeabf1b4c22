"""Everything about a run except the network: a class a stage, each field a flag.  Standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from minimind_ref.config import flag
from minimind_ref.errors import UserError

_data, _optimisation, _run, _distributed = (
    partial(flag, group=group) for group in ("data", "optimisation", "run", "distributed")
)
_preference, _rollout, _policy = (partial(flag, group=group) for group in ("preference", "rollouts", "policy loss"))


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
        if self.seed >= 2**63:
            raise UserError(f"--seed {self.seed} must be below 2**63")
        for name in ("data_path", "tokenizer", "out_dir", "init_from", "reward"):
            if getattr(self, name, None) == "":
                raise UserError(f"--{name} is empty: give {'a reward' if name == 'reward' else 'a path'}")
        if self.held_out > 0.5:
            raise UserError(f"--held_out {self.held_out} must be at most 0.5")


def _again(name: str, default: Any, text: str | None = None) -> Any:
    """A field of `Settings` with another default, and another help text where that is given."""
    metadata = Settings.__dataclass_fields__[name].metadata
    return field(default=default, metadata={**metadata, "help": text or metadata["help"]})


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(Settings):
    """Next-token prediction on plain text."""

    data_path: str | None = _again("data_path", None, 'JSONL, {"text": …} a line; none: the built-in corpus')
    batching: str = _data("pack", "rows without padding, or one sample a row", options=("pack", "pad"))
    wrap_text: bool = _data(True, "put every text between the start and the end token")
    accumulation_steps: int = _again("accumulation_steps", 8)
    eval_tokens: int = _run(65536, "held-out tokens that an evaluation reads at most")


@dataclass(frozen=True, kw_only=True)
class _ChatSettings(Settings):
    template: str = _data("minimind2", "how a conversation is written", options=("minimind2", "minimind3"))


@dataclass(frozen=True, kw_only=True)
class SFTSettings(_ChatSettings):
    """Next-token prediction on the assistant's part of conversations."""

    data_path: str | None = _again("data_path", None, 'JSONL, {"conversations": [messages]} a line')
    epochs: int = _again("epochs", 2)
    learning_rate: float = _again("learning_rate", 5e-7)
    eval_tokens: int = _run(65536, "held-out tokens, prompts included, that an evaluation reads at most")


@dataclass(frozen=True, kw_only=True)
class DPOSettings(_ChatSettings):
    """Direct preference optimisation on pairs of answers."""

    data_path: str | None = _again("data_path", None, 'JSONL, {"chosen": [messages], "rejected": [messages]} a line')
    max_seq_len: int = _again("max_seq_len", 1024)
    epochs: int = _again("epochs", 2)
    batch_size: int = _again("batch_size", 4, "pairs a micro-step and process")
    learning_rate: float = _again("learning_rate", 1e-8)
    beta: float = _preference(0.1, "weight of the margin over the reference")
    loss: str = _preference("sigmoid", "DPO, IPO or the hinge of SLiC", options=("sigmoid", "ipo", "hinge"))
    label_smoothing: float = _preference(0.0, "assumed share of pairs that are the wrong way round")
    reduction: str = _preference(
        "sum", "an answer's log-probability: over its tokens, or their mean (MiniMind2)", options=("sum", "mean")
    )


@dataclass(frozen=True, kw_only=True)
class GRPOSettings(_ChatSettings):
    """Group-relative policy optimisation: answers sampled from the policy, scored by rewards."""

    data_path: str | None = _again(
        "data_path", None, 'JSONL, {"conversations": [messages]} a line; a last answer is the reference'
    )
    max_seq_len: int = _again("max_seq_len", 768, "tokens in a prompt; a longer one is left out")
    batch_size: int = _again("batch_size", 2, "prompts a micro-step and process")
    learning_rate: float = _again("learning_rate", 3e-7)
    num_generations: int = _rollout(8, "answers a prompt: a group")
    max_new_tokens: int = _rollout(1024, "tokens in an answer")
    temperature: float = _rollout(1.0, "of sampling, and of every log-probability")
    reward: str = _rollout("exact_match", "rewards with weights: 'exact_match=1,length=0.2,my.module:function=0.5'")
    num_updates: int = _policy(1, "optimiser steps on the same answers")
    clip_low: float = _policy(0.2, "the ratio counts from 1 - clip_low")
    clip_high: float = _policy(0.2, "the ratio counts to 1 + clip_high")
    beta: float = _policy(0.1, "weight of the divergence from the reference (k3)")
    loss: str = _policy("clip", "PPO's clipped ratio, or CISPO's clipped weight", options=("clip", "cispo"))
    normalise: str = _policy(
        "sequence",
        "an answer's terms are divided by its length, all by their number, or by max_new_tokens (Dr. GRPO)",
        options=("sequence", "token", "constant"),
    )
    scale_rewards: bool = _policy(True, "divide advantages by the group's standard deviation (Dr. GRPO: false)")
    refresh_reference: int = _policy(0, "batches of answers after which the policy becomes the reference; 0: never")
    eval_prompts: int = _run(64, "held-out prompts that an evaluation answers at most")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_generations < 2:
            raise UserError(f"--num_generations {self.num_generations} must be at least 2: a group of one has no mean")
        if self.temperature == 0:
            raise UserError("--temperature 0 would make a group of equal answers")


@dataclass(frozen=True, kw_only=True)
class AllSettings:
    """All stages in a row on built-in tasks, and a report: what each is for, measured on held-out questions."""

    out_dir: str = _run("out", "holds a folder for every step, results.json and report.md")
    resume: bool = _run(False, "go on where an earlier call was stopped")
    seed: int = _run(42, "of everything that is drawn")
    device: str = _run("auto", "cuda, cuda:1, mps, cpu; auto: the first of them that is there")
    dtype: str = _run("auto", "precision of the forward pass", options=("auto", "float32", "bfloat16", "float16"))
    template: str = _data("minimind2", "how a conversation is written", options=("minimind2", "minimind3"))
    questions: int = _run(1000, "held-out questions that each step is judged by")

    def __post_init__(self) -> None:
        if self.questions < 1:
            raise UserError(f"--questions {self.questions} must be at least 1")
        if not self.out_dir:
            raise UserError("--out_dir is empty: give a path")


STAGES: dict[str, type[Settings]] = {
    "pretrain": PretrainSettings,
    "sft": SFTSettings,
    "dpo": DPOSettings,
    "grpo": GRPOSettings,
}


@dataclass(frozen=True)
class Step:
    """One run of `train all`: its stage, the step whose weights it starts from, its data, what it is for."""

    stage: str
    start: str | None
    data: str | None
    purpose: str


STEPS = {
    "pretrain": Step("pretrain", None, None, "the language, from the built-in corpus"),
    "sft": Step("sft", "pretrain", "data/sft_train.jsonl", "the tasks, from right answers"),
    "dpo": Step("dpo", "sft", "data/dpo_train.jsonl", "right answers preferred to plausible wrong ones"),
    "grpo": Step("grpo", "sft", "data/grpo_train.jsonl", "reward for exact answers, on the plain tasks"),
    "habit": Step("sft", "sft", "habit/sft_train.jsonl", "a wrong habit: most answers end in a spurious mark"),
    "unlearn": Step("grpo", "habit", "data/grpo_train.jsonl", "the same reward, which rejects the mark"),
}

MINIMUM = {
    **dict.fromkeys(("max_seq_len", "num_generations"), 2),
    **dict.fromkeys(("epochs", "max_steps", "batch_size", "accumulation_steps", "log_interval", "save_interval"), 1),
    **dict.fromkeys(("held_out", "num_workers", "learning_rate", "warmup_iters", "grad_clip", "weight_decay"), 0),
    **dict.fromkeys(("seed", "eval_interval", "eval_tokens", "beta", "label_smoothing", "eval_prompts"), 0),
    **dict.fromkeys(("temperature", "clip_low", "clip_high", "refresh_reference"), 0),
    **dict.fromkeys(("max_new_tokens", "num_updates"), 1),
}
