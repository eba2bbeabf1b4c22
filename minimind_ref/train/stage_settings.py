"""What each stage adds to a run's settings or takes otherwise, and the steps of `train all`.  Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from minimind_ref.config import flag
from minimind_ref.errors import UserError
from minimind_ref.train.settings import Settings

_data, _run, _preference, _rollout, _policy = (
    partial(flag, group=group) for group in ("data", "run", "preference", "rollouts", "policy loss")
)


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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta == 0:
            raise UserError("--beta 0 would make every pair's loss a constant")
        if self.label_smoothing > 0.5:
            raise UserError(
                f"--label_smoothing {self.label_smoothing} must be at most 0.5: beyond it, swap the answers"
            )
        if self.label_smoothing and self.loss != "sigmoid":
            raise UserError(f"--label_smoothing {self.label_smoothing} has a meaning for --loss sigmoid only")


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
    clip_high: float = _policy(None, "the ratio counts to 1 + clip_high; not given: 0.2, for cispo 4")
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
        if self.clip_high is None:
            object.__setattr__(self, "clip_high", 4.0 if self.loss == "cispo" else 0.2)
        super().__post_init__()
        if self.num_generations < 2:
            raise UserError(f"--num_generations {self.num_generations} must be at least 2: a group of one has no mean")
        if self.temperature == 0:
            raise UserError("--temperature 0 would make a group of equal answers")
        if self.clip_low > 1:
            raise UserError(f"--clip_low {self.clip_low} must be at most 1: a ratio is never below 0")


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
        Settings(out_dir=self.out_dir, seed=self.seed)  # which refuses what no step would take


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
