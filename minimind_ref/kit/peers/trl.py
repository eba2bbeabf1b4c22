"""TRL: the losses inside DPOTrainer and GRPOTrainer, called with the smallest stand-in for a trainer, and its log p."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from trl import DPOTrainer, GRPOTrainer  # type: ignore
from trl.trainer.utils import selective_log_softmax  # type: ignore

from minimind_ref.kit.implementation import Implementation

WIDE = ("float64", "float32")
dpo = Implementation("trl DPOTrainer", arrays="torch", profiles=WIDE)
grpo = Implementation("trl GRPOTrainer", arrays="torch", profiles=WIDE, choices={"grpo_loss.constants": "not detached"})
finite = Implementation(
    "trl GRPOTrainer, finite numbers under the mask", arrays="torch", profiles=WIDE,
    choices={"grpo_loss.constants": "not detached"},
)  # fmt: skip
logp = Implementation("trl selective_log_softmax", arrays="torch", profiles=WIDE)
IMPLEMENTATIONS = [dpo, grpo, finite, logp]


def trainer(**settings: Any) -> SimpleNamespace:
    """Stand in for a trainer on one process, in evaluation; metrics go nowhere."""
    same = {"gather": lambda x: x, "gather_for_metrics": lambda x: x, "reduce": lambda x, reduction: x}
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=1, **same)
    network = torch.nn.Module().eval()
    return SimpleNamespace(
        model=network, accelerator=accelerator, aux_loss_enabled=False, _total_train_tokens=0, _tp_size=1,
        _metrics=defaultdict(lambda: defaultdict(list)), **settings,
    )  # fmt: skip


def scored(*logps: Any) -> Any:
    """Stand in for a network: one token a sequence, with these log-probabilities."""
    tokens = torch.cat(logps)[:, None]
    blank = torch.zeros_like(tokens).detach()
    seen = {"entropy": blank, "mean_logits": blank, "is_top1": blank.bool()}
    return lambda **_: SimpleNamespace(log_probs=tokens[:, :], **seen)


@dpo.op("dpo_loss")
def dpo_loss(
    policy_chosen: Any, policy_rejected: Any, reference_chosen: Any, reference_rejected: Any, *, beta: float,
    form: str = "sigmoid",
) -> Any:  # fmt: skip
    """DPOTrainer._compute_loss; each answer is one token long, so that ipo's division by its length is one by 1."""
    own = trainer(
        beta=beta, loss_types=[form], loss_weights=[1.0], label_smoothing=0.0, ld_alpha=None, use_weighting=False,
        f_divergence_type="reverse_kl", precompute_ref_logps=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        ref_model=scored(reference_chosen, reference_rejected),
    )  # fmt: skip
    own.model.is_gradient_checkpointing = False
    ids = torch.zeros(2 * len(policy_chosen), 2, dtype=torch.long)
    mask = torch.tensor([0, 1]).expand_as(ids)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask}
    model = scored(policy_chosen, policy_rejected)
    return DPOTrainer._compute_loss(own, model, inputs, False)  # type: ignore[arg-type]


LOSS_TYPES = {"sequence": "grpo", "token": "bnpo", "constant": "dr_grpo"}


@grpo.op("grpo_loss")
def grpo_loss(
    logp: Any, old_logp: Any, reference_logp: Any, advantages: Any, mask: Any, *, clip_low: float, clip_high: float,
    beta: float, normalise: str = "sequence", length: int | None = None,
) -> Any:  # fmt: skip
    """GRPOTrainer._compute_loss with loss_type grpo, bnpo or dr_grpo."""
    own = trainer(
        beta=beta, loss_type=LOSS_TYPES[normalise], epsilon_low=clip_low, epsilon_high=clip_high, use_vllm=False,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token",
        max_completion_length=length, current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros_like(logp).detach(), None),
    )  # fmt: skip
    marked = mask.to(torch.long)
    nothing = marked[:, :0]
    inputs = {
        "prompt_ids": nothing, "prompt_mask": nothing, "completion_ids": marked, "completion_mask": marked,
        "advantages": advantages, "old_per_token_logps": old_logp, "ref_per_token_logps": reference_logp,
    }  # fmt: skip
    return GRPOTrainer._compute_loss(own, None, inputs)  # type: ignore[arg-type]


@finite.op("grpo_loss")
def finite_grpo_loss(
    logp: Any, old_logp: Any, reference_logp: Any, advantages: Any, mask: Any, *, clip_low: float, clip_high: float,
    beta: float, normalise: str = "sequence", length: int | None = None,
) -> Any:  # fmt: skip
    """The same, where padding has a log-probability of 0: a network's are finite."""
    clean = [torch.where(mask.bool(), y, 0.0) for y in (logp, old_logp, reference_logp)]
    options = {"clip_low": clip_low, "clip_high": clip_high, "beta": beta, "normalise": normalise, "length": length}
    return grpo_loss(*clean, advantages, mask, **options)


@logp.op("token_logp")
def token_logp(logits: Any, labels: Any) -> Any:
    """selective_log_softmax."""
    return selective_log_softmax(logits, labels)
