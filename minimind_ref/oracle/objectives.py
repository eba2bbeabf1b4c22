"""What a stage minimises of a micro-batch's logits, as sums that a window may be cut into.  Spec: specs/training.md.

A target is a label that is not −100: logits[i] is judged against labels[i], as everywhere.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from minimind_ref.oracle.bounded import Array
from minimind_ref.oracle.cross_entropy import cross_entropy, cross_entropy_vjp, token_logp, token_logp_vjp
from minimind_ref.oracle.dpo import dpo_losses, dpo_losses_vjp, sequence_logp, sequence_logp_vjp
from minimind_ref.oracle.grpo import grpo_total, grpo_total_vjp
from minimind_ref.oracle.transformer import transformer

IGNORE = -100
SUMMED: dict[str, Any] = {"ignore_index": IGNORE, "reduction": "sum"}
Batch = Mapping[str, Any]


class Objective(NamedTuple):
    """A micro-batch's number of targets, its loss summed over them, and that sum's gradient by the logits."""

    count: Callable[[Batch], int]
    total: Callable[[Any, Batch], Any]
    total_vjp: Callable[[Any, Batch, Any], Any]


def targets(batch: Batch) -> Bool[np.ndarray, "b s"]:
    """Say at which positions something is learnt."""
    return np.asarray(batch["labels"] != IGNORE)


SUPERVISED = Objective(
    lambda batch: int(np.sum(targets(batch))),
    lambda logits, batch: cross_entropy(logits, batch["labels"], **SUMMED),
    lambda logits, batch, cotangent: cross_entropy_vjp(logits, batch["labels"], **SUMMED, cotangent=cotangent),
)


def dpo_objective(*, reduction: str = "sum", **options: Any) -> Objective:
    """Sum `dpo_losses` over pairs: row 2i is chosen, row 2i + 1 rejected, reference_logp (b s) stays (TRAINING-14)."""

    def margins(logits: Any, batch: Batch) -> tuple[Any, ...]:
        if len(batch["labels"]) % 2:
            raise ValueError(f"labels has {len(batch['labels'])} rows but pairs need an even number")
        policy, reference = (
            sequence_logp(logp, targets(batch), reduction=reduction)
            for logp in (label_logp(logits, batch["labels"]), batch["reference_logp"])
        )
        return policy[::2], policy[1::2], reference[::2], reference[1::2]

    def total(logits: Any, batch: Batch) -> Any:
        return np.sum(dpo_losses(*margins(logits, batch), **options))

    def total_vjp(logits: Any, batch: Batch, cotangent: Any) -> Any:
        sequences = margins(logits, batch)
        each = np.full_like(sequences[0], cotangent)
        chosen, rejected, *_ = dpo_losses_vjp(*sequences, **options, cotangent=each)
        dsequence = np.stack([chosen, rejected], axis=1).reshape(-1)
        logp, mask = label_logp(logits, batch["labels"]), targets(batch)
        dlogp = sequence_logp_vjp(logp, mask, reduction=reduction, cotangent=dsequence)
        return label_logp_vjp(logits, batch["labels"], cotangent=dlogp)

    return Objective(lambda batch: len(batch["labels"]) // 2, total, total_vjp)


def grpo_objective(*, temperature: float = 1.0, **options: Any) -> Objective:
    """Sum GRPO's loss over answers, or tokens, given old_logp, reference_logp (b s), advantages (b) (TRAINING-15).

    `temperature` is the one that the answers were sampled at: all three log-probabilities are of that distribution.
    """

    def arguments(logits: Any, batch: Batch) -> tuple[Any, ...]:
        logp = label_logp(logits, batch["labels"], temperature=temperature)
        return logp, batch["old_logp"], batch["reference_logp"], batch["advantages"], targets(batch)

    def total_vjp(logits: Any, batch: Batch, cotangent: Any) -> Any:
        dlogp, *_ = grpo_total_vjp(*arguments(logits, batch), **options, cotangent=cotangent)
        return label_logp_vjp(logits, batch["labels"], temperature=temperature, cotangent=dlogp)

    def count(batch: Batch) -> int:
        return int(np.sum(targets(batch))) if options.get("normalise") == "token" else len(batch["labels"])

    return Objective(count, lambda logits, batch: grpo_total(*arguments(logits, batch), **options), total_vjp)


def score(
    parameters: Mapping[str, Any], batch: Batch, config: Mapping[str, Any], *, temperature: float = 1.0
) -> Float[Array, "b s"]:
    """Give a network's log-probability of each label, 0 where there is no target: reference_logp and old_logp."""
    ids = {name: batch.get(name) for name in ("attention_mask", "segment_ids", "position_ids")}
    logits, *_ = transformer(parameters, batch["input_ids"], config, **ids)
    return np.where(targets(batch), label_logp(logits, batch["labels"], temperature=temperature), 0.0)


def label_logp(
    logits: Float[Array, "..."], labels: Int[np.ndarray, "..."], *, temperature: float = 1.0
) -> Float[Array, "b s"]:
    """Give log softmax(logits/temperature) at each label; where there is none, at id 0, which nobody reads."""
    return token_logp(logits / temperature, np.where(labels == IGNORE, 0, labels))


def label_logp_vjp(
    logits: Float[Array, "..."], labels: Int[np.ndarray, "..."], *, temperature: float = 1.0, cotangent: Any
) -> Float[Array, "b s v"]:
    """Pull `cotangent` (b s) back to the logits."""
    safe = np.where(labels == IGNORE, 0, labels)
    return token_logp_vjp(logits / temperature, safe, cotangent=cotangent) / temperature
