"""Cross-entropy over the supervised rows, one row at a time.  Spec: specs/cross_entropy.md."""

import numpy as np
from jaxtyping import Float, Int

from minimind_ref.oracle.bounded import Array, logsumexp, store
from minimind_ref.oracle.checks import (
    float64,
    require_equal,
    require_ids,
    require_option,
    require_positive,
    require_rank,
)

REDUCTIONS = ("mean", "sum", "none")


def token_logp(logits: Float[Array, "*lead v"], labels: Int[np.ndarray, "..."]) -> Float[Array, "..."]:
    """Give each label's log-probability in nats, z_label − log Σ exp(z) (CROSS_ENTROPY-1)."""
    return _losses(*_checked(logits, labels, np.ones(labels.shape, bool)), sign=-1)


def token_logp_vjp(
    logits: Float[Array, "*lead v"], labels: Int[np.ndarray, "..."], *, cotangent: Float[Array, "..."]
) -> Float[Array, "*lead v"]:
    """Pull `cotangent` (*lead) back to the logits (CROSS_ENTROPY-13)."""
    return _gradient(*_checked(logits, labels, np.ones(labels.shape, bool)), -float64(cotangent))


def cross_entropy(
    logits: Float[Array, "*lead v"],
    labels: Int[np.ndarray, "..."],
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Reduce −log p(label) over the rows whose label is not `ignore_index`; nothing is shifted (CROSS_ENTROPY-2, -5).

    Without a supervised row the result is 0 (CROSS_ENTROPY-4).
    """
    require_option("reduction", reduction, REDUCTIONS)
    logits, labels, supervised = _checked(logits, labels, np.asarray(labels != ignore_index))
    losses = _losses(logits, labels, supervised, sign=1)
    if reduction == "none":
        return losses
    total = np.sum(losses.reshape(1, -1), axis=1)  # an axis is kept so that the result is an array
    return (total / max(np.count_nonzero(supervised), 1) if reduction == "mean" else total).reshape(())


def cross_entropy_vjp(
    logits: Float[Array, "*lead v"],
    labels: Int[np.ndarray, "..."],
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    cotangent: Float[Array, "..."],
) -> Float[Array, "*lead v"]:
    """Pull `cotangent`, of the result's shape, back to the logits (CROSS_ENTROPY-8)."""
    require_option("reduction", reduction, REDUCTIONS)
    logits, labels, supervised = _checked(logits, labels, np.asarray(labels != ignore_index))
    cotangent = float64(cotangent)
    if reduction == "mean":
        cotangent = cotangent / max(np.count_nonzero(supervised), 1)
    return _gradient(logits, labels, supervised, np.broadcast_to(cotangent, labels.shape))


def _losses(logits: Array, labels: np.ndarray, supervised: np.ndarray, *, sign: int) -> Array:
    rows, names = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    losses = np.zeros_like(logits, shape=names.shape)
    for i in np.flatnonzero(supervised):
        losses[i] = sign * (logsumexp(rows[i]) - rows[i][names[i]])
    return losses.reshape(labels.shape)


def _gradient(logits: Array, labels: np.ndarray, supervised: np.ndarray, cotangent: Array) -> Array:
    dlogits = np.zeros_like(logits)
    for row in np.ndindex(*labels.shape):
        if supervised[row]:
            onehot = np.arange(logits.shape[-1]) == labels[row]
            probability = np.exp(logits[row] - logsumexp(logits[row]))
            dlogits[row] = store((probability - onehot) * cotangent[row])
    return dlogits


def _checked(logits: Array, labels: np.ndarray, supervised: np.ndarray) -> tuple[Array, np.ndarray, np.ndarray]:
    require_rank("logits", logits, 1, at_least=True)
    if labels.dtype.kind == "f":
        raise ValueError(f"labels has dtype {labels.dtype} but must hold integers")
    require_equal("shape of labels", tuple(labels.shape), "shape of logits without its last axis", logits.shape[:-1])
    require_positive("vocabulary of logits", logits.shape[-1])
    require_ids("labels", labels[supervised], logits.shape[-1])
    return float64(logits), labels, supervised
