"""Direct preference optimisation, oracle: one answer, one pair at a time.  Spec: specs/dpo.md."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from minimind_ref.oracle.bounded import Array, bound, constant, decide, open_share, softplus, store, value
from minimind_ref.oracle.checks import (
    float64,
    require_equal,
    require_option,
    require_positive,
    require_rank,
)

REDUCTIONS = ("sum", "mean")


def sequence_logp(logp: Float[Array, "..."], mask: Any, *, reduction: str = "sum") -> Float[Array, "b"]:
    """Add up the marked positions of each row, or take their mean; without one the result is 0 (DPO-1 to 3)."""
    logp, mask = _checked_sequences(logp, mask, reduction)
    sums = np.zeros_like(logp, shape=logp.shape[:1])
    for row in np.flatnonzero(mask.any(axis=1)):
        total = np.sum(logp[row][mask[row]])
        sums[row] = total / int(mask[row].sum()) if reduction == "mean" else total
    return sums


def sequence_logp_vjp(
    logp: Float[Array, "..."], mask: Any, *, reduction: str = "sum", cotangent: Float[Array, "..."]
) -> Float[Array, "b s"]:
    """Pull `cotangent` (b) back to the marked positions, each an equal share (DPO-1 to 3)."""
    logp, mask = _checked_sequences(logp, mask, reduction)
    dlogp = np.zeros_like(logp)
    for row, position in np.argwhere(mask):
        share = int(mask[row].sum()) if reduction == "mean" else 1
        dlogp[row, position] = store(float64(cotangent)[row] / share)
    return dlogp


def implicit_reward(policy: Float[Array, "..."], reference: Float[Array, "..."], *, beta: float) -> Float[Array, "..."]:
    """Measure how far the policy has moved towards each answer, β·(log π − log π_ref) (DPO-17)."""
    _check_values({"policy": policy, "reference": reference}, beta)
    return beta * (float64(policy) - float64(reference))


def dpo_loss(
    policy_chosen: Float[Array, "..."],
    policy_rejected: Float[Array, "..."],
    reference_chosen: Float[Array, "..."],
    reference_rejected: Float[Array, "..."],
    *,
    beta: float,
    form: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Average `dpo_losses` over the pairs (DPO-8)."""
    logps = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    losses = dpo_losses(*logps, beta=beta, form=form, label_smoothing=label_smoothing)
    return np.sum(losses) / len(losses)


def dpo_loss_vjp(
    policy_chosen: Float[Array, "..."],
    policy_rejected: Float[Array, "..."],
    reference_chosen: Float[Array, "..."],
    reference_rejected: Float[Array, "..."],
    *,
    beta: float,
    form: str = "sigmoid",
    label_smoothing: float = 0.0,
    cotangent: Any,
) -> tuple[Any, Any, Any, Any]:
    """Pull the mean's cotangent () back to the policy's values; the reference's get zeros (DPO-11, DPO-12)."""
    logps = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    options = {"beta": beta, "form": form, "label_smoothing": label_smoothing}
    _check_values(dict(zip(NAMES, logps, strict=True)), beta)
    each = np.stack([cotangent / len(policy_chosen)] * len(policy_chosen))
    return dpo_losses_vjp(*logps, **options, cotangent=each)


def dpo_losses(
    policy_chosen: Float[Array, "..."],
    policy_rejected: Float[Array, "..."],
    reference_chosen: Float[Array, "..."],
    reference_rejected: Float[Array, "..."],
    *,
    beta: float,
    form: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> Float[Array, "p"]:
    """Punish each pair by its margin, how much more the chosen answer has gained than the rejected (DPO-5 to 7).

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; ipo: Azar et al. 2023, arXiv:2310.12036, eq. 17.
    """
    logps = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    margins = _margins(logps, beta, form, label_smoothing)
    return np.stack([FORMS[form].loss(margin, beta, label_smoothing) for margin in margins])


def dpo_losses_vjp(
    policy_chosen: Float[Array, "..."],
    policy_rejected: Float[Array, "..."],
    reference_chosen: Float[Array, "..."],
    reference_rejected: Float[Array, "..."],
    *,
    beta: float,
    form: str = "sigmoid",
    label_smoothing: float = 0.0,
    cotangent: Float[Array, "..."],
) -> tuple[Any, Any, Any, Any]:
    """Pull `cotangent` (p) back to the policy's values; the reference's get zeros (DPO-11, DPO-12)."""
    logps = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    margins = _margins(logps, beta, form, label_smoothing)
    slopes = np.stack([FORMS[form].slope(margin, beta, label_smoothing) for margin in margins])
    dchosen = store(slopes * float64(cotangent))
    return dchosen, -dchosen, np.zeros_like(margins), np.zeros_like(margins)


def _sigmoid_loss(margin: Any, beta: float, smoothing: float) -> Any:
    """The label's cross-entropy, where it is flipped with probability `smoothing`."""
    kept = constant(1 - smoothing, like=margin)
    return kept * softplus(-(beta * margin)) + smoothing * softplus(beta * margin)


def _sigmoid_slope(margin: Any, beta: float, smoothing: float) -> Any:
    kept = constant(1 - smoothing, like=margin)
    return beta * (smoothing * open_share(beta * margin) - kept * open_share(-(beta * margin)))


def _from_target(margin: Any, beta: float, _: float) -> Any:
    """How far a margin is from 1/(2β), where ipo's loss is 0."""
    return margin - constant(1 / (2 * beta), like=margin)


class _Form(NamedTuple):
    """A pair's loss as a function of its margin, and the derivative."""

    loss: Callable[[Any, float, float], Any]
    slope: Callable[[Any, float, float], Any]


FORMS = {
    "sigmoid": _Form(_sigmoid_loss, _sigmoid_slope),
    "ipo": _Form(
        lambda *settings: np.square(_from_target(*settings)),
        lambda *settings: 2 * _from_target(*settings),
    ),
    "hinge": _Form(
        lambda margin, beta, _: np.maximum(1 - beta * margin, 0.0),
        lambda margin, beta, _: np.where(decide(1.0, beta * margin), -beta, 0.0),
    ),
}
NAMES = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")


def _margins(logps: tuple[Any, ...], beta: float, form: str, smoothing: float) -> Float[Array, "p"]:
    """Give π(chosen) − π(rejected) − π_ref(chosen) + π_ref(rejected), four terms in any order (DPO-9)."""
    _check_values(dict(zip(NAMES, logps, strict=True)), beta)
    require_option("form", form, FORMS)
    if not 0 <= smoothing <= 0.5:
        raise ValueError(f"label_smoothing is {smoothing} but must lie between 0 and 0.5")
    if smoothing and form != "sigmoid":
        raise ValueError(f"label_smoothing is {smoothing} but form={form!r} has none: it must be 0")
    chosen, rejected, *reference = map(float64, logps)
    margins = np.sum(np.stack([chosen, -reference[0], -rejected, reference[1]]), axis=0)
    return np.where(_same(chosen, reference[0]) & _same(rejected, reference[1]), 0.0, margins)


def _same(a: Any, b: Any) -> Any:
    """Say where two are the same to the bit: both ways to pair the four terms are then exactly 0 (DPO-10)."""
    return (value(a) == value(b)) & np.isfinite(value(a)) & (bound(a) == 0) & (bound(b) == 0)


def _check_values(logps: dict[str, Any], beta: float) -> None:
    first = next(iter(logps))
    for name, logp in logps.items():
        require_rank(name, logp, 1)
        require_equal(f"shape of {name}", tuple(logp.shape), f"shape of {first}", tuple(logps[first].shape))
    require_positive(f"length of {first}", len(logps[first]))
    if not 0 < beta < np.inf:
        raise ValueError(f"beta is {beta} but must be finite and above 0")


def _checked_sequences(logp: Array, mask: Any, reduction: str) -> tuple[Array, np.ndarray]:
    require_option("reduction", reduction, REDUCTIONS)
    require_rank("logp", logp, 2)
    for size, axis in zip(logp.shape, ("batch", "length"), strict=True):
        require_positive(f"{axis} of logp", size)
    marked = np.asarray(value(mask))
    require_equal("shape of mask", tuple(marked.shape), "shape of logp", tuple(logp.shape))
    odd = marked[(marked != 0) & (marked != 1)]
    if odd.size:
        raise ValueError(f"mask holds {odd[0]} but must hold 0 and 1")
    return float64(logp), marked.astype(bool)
