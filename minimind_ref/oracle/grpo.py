"""Group-relative policy optimisation, oracle: one answer, one token at a time.  Spec: specs/grpo.md."""

from collections.abc import Collection
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from minimind_ref.oracle.bounded import Array, bound, decide, store, value
from minimind_ref.oracle.checks import (
    float64,
    require_equal,
    require_finite,
    require_option,
    require_positive,
    require_rank,
)

FORMS = ("clip", "cispo")
NORMALISATIONS = ("sequence", "token", "constant")


def group_advantages(
    rewards: Float[Array, "..."], *, eps: float = 1e-4, ddof: int = 0, scale: bool = True
) -> Float[Array, "p r"]:
    """Measure each reward from its group's mean, in units of the group's spread + eps (GRPO-1 to 7).

    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2; scale=False: Liu et al. 2025, arXiv:2503.20783.
    """
    rewards = _checked_rewards(rewards, eps, ddof)
    groups = []
    for group in rewards:
        if np.all(value(group) == value(group)[0]):
            groups.append(np.zeros_like(group))
            continue
        centred = np.stack([_from_mean(reward, group) for reward in group])
        spread = np.sqrt(np.sum(np.square(centred)) / (len(group) - ddof))
        groups.append(centred / (spread + eps) if scale else centred)
    return np.stack(groups)


def _from_mean(reward: Any, group: Any) -> Any:
    """Give R − mean(R), terms of one sum, so that the bound allows to take the first reward off all before that."""
    g = len(group)
    parts = [[-other / g, group[0] / g] for other in group]
    return np.sum(np.stack([reward, -group[0], *(term for pair in parts for term in pair)]))


def kl_k3(logp: Float[Array, "..."], reference_logp: Float[Array, "..."]) -> Float[Array, "..."]:
    """Estimate KL(π‖ref) per token by e^d − d − 1 with d = reference_logp − logp (GRPO-8).

    Source: Schulman 2020, "Approximating KL divergence", k3.
    """
    gap = _gap(logp, reference_logp)
    return np.where(_zero(gap), 0.0, np.sum(np.stack([np.exp(gap), -gap, -np.ones_like(gap)]), axis=0))


def kl_k3_vjp(
    logp: Float[Array, "..."], reference_logp: Float[Array, "..."], *, cotangent: Any
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Pull `cotangent` back to logp by 1 − e^d; the reference gets zeros (GRPO-9, GRPO-17)."""
    gap = _gap(logp, reference_logp)
    return store(_k3_slope(gap) * float64(cotangent)), np.zeros_like(gap)


def _k3_slope(gap: Any) -> Any:
    return _difference(np.ones_like(gap), _exp(gap))


def answer_mask(
    ids: Int[np.ndarray, "..."], end_ids: Collection[int], *, lengths: Any = None
) -> Bool[np.ndarray, "b s"]:
    """Mark each answer up to and including its first end id, and nothing from its length on (GRPO-26)."""
    require_rank("ids", ids, 2)
    lengths = np.full(len(ids), ids.shape[1]) if lengths is None else np.asarray(lengths)
    _check_answers(ids, end_ids, lengths)
    stops = [
        min([int(length), *(i + 1 for i, token in enumerate(row) if int(token) in set(end_ids))])
        for row, length in zip(ids, lengths, strict=True)
    ]
    return np.stack([np.arange(ids.shape[1]) < stop for stop in stops])


def is_clipped(
    logp: Float[Array, "..."],
    old_logp: Float[Array, "..."],
    advantages: Float[Array, "..."],
    mask: Any,
    *,
    clip_low: float,
    clip_high: float,
    form: str = "clip",
) -> Any:
    """Say which marked tokens' ratios are cut off: of `clip`, those without a gradient (GRPO-13, GRPO-25)."""
    constants = {"old_logp": old_logp}
    logp, constants, advantages, marked = _checked(logp, constants, advantages, mask, clip_low, clip_high, form)
    cut: Any = [[np.bool_(False)] * marked.shape[1] for _ in marked]
    for b, s in np.argwhere(marked):
        ratio = _ratio(logp[b, s], constants["old_logp"][b, s])
        cut[b][s] = _cut(ratio, advantages[b], clip_low, clip_high, form)
    return np.stack([np.stack(row) for row in cut])


def grpo_terms(
    logp: Float[Array, "..."],
    old_logp: Float[Array, "..."],
    reference_logp: Float[Array, "..."],
    advantages: Float[Array, "..."],
    mask: Any,
    *,
    clip_low: float,
    clip_high: float,
    beta: float,
    form: str = "clip",
) -> Float[Array, "b s"]:
    """Give each marked token's term, −gain + beta·k3, and 0 elsewhere (GRPO-12, GRPO-15, GRPO-19).

    The gain of `clip` is min(r, 1 + high)·A for A > 0 and max(r, 1 − low)·A for the others.
    Source: Shao et al. 2024, arXiv:2402.03300, eq. 3; cispo: MiniMax 2025, arXiv:2506.13585, eq. 4.
    """
    constants = _constants(old_logp, reference_logp, beta)
    logp, constants, advantages, marked = _checked(logp, constants, advantages, mask, clip_low, clip_high, form)
    terms = np.zeros_like(logp)
    for b, s in np.argwhere(marked):
        ratio, advantage = _ratio(logp[b, s], constants["old_logp"][b, s]), advantages[b]
        least, most = _edges(ratio, clip_low, clip_high)
        capped = np.minimum(ratio, most) * advantage
        if form == "cispo":
            term = -(capped * logp[b, s])
        else:
            term = -np.where(decide(advantage), capped, np.maximum(ratio, least) * advantage)
        terms[b, s] = term + beta * kl_k3(logp[b, s], constants["reference_logp"][b, s]) if beta else term
    return terms


def grpo_terms_vjp(
    logp: Float[Array, "..."],
    old_logp: Float[Array, "..."],
    reference_logp: Float[Array, "..."],
    advantages: Float[Array, "..."],
    mask: Any,
    *,
    clip_low: float,
    clip_high: float,
    beta: float,
    form: str = "clip",
    cotangent: Any,
) -> tuple[Any, Any, Any, Any]:
    """Pull `cotangent` (b s) back to logp at the marked tokens; all else is constant: zeros (GRPO-13, -15, -17).

    The gradient is −r·A where nothing is cut off, 0 where `clip` cuts and −(1 + high)·A where `cispo` does.
    """
    constants = _constants(old_logp, reference_logp, beta)
    logp, constants, advantages, marked = _checked(logp, constants, advantages, mask, clip_low, clip_high, form)
    dlogp, cotangent = np.zeros_like(logp), float64(cotangent)
    for b, s in np.argwhere(marked):
        ratio, advantage = _ratio(logp[b, s], constants["old_logp"][b, s]), advantages[b]
        if form == "cispo":
            slope = -(np.minimum(ratio, _edges(ratio, clip_low, clip_high)[1]) * advantage)
        else:
            slope = np.where(_cut(ratio, advantage, clip_low, clip_high, form), 0.0, -(ratio * advantage))
        if beta:
            slope = slope + beta * _k3_slope(_gap(logp[b, s], constants["reference_logp"][b, s]))
        dlogp[b, s] = store(slope * cotangent[b, s])
    return dlogp, np.zeros_like(logp), np.zeros_like(logp), np.zeros_like(advantages)


def grpo_divisor(mask: Any, *, normalise: str = "sequence") -> int:
    """Count what a total is divided by: rows, or the marked tokens (GRPO-24)."""
    require_option("normalise", normalise, NORMALISATIONS)
    marked = _marked(mask)
    return int(marked.sum()) if normalise == "token" else len(marked)


def grpo_total(
    logp: Float[Array, "..."],
    old_logp: Float[Array, "..."],
    reference_logp: Float[Array, "..."],
    advantages: Float[Array, "..."],
    mask: Any,
    *,
    clip_low: float,
    clip_high: float,
    beta: float,
    normalise: str = "sequence",
    length: int | None = None,
    form: str = "clip",
) -> Float[Array, ""]:
    """Sum the rows' means (`sequence`), the terms (`token`), or the terms / length (`constant`) (GRPO-20 to 24)."""
    clip = {"clip_low": clip_low, "clip_high": clip_high, "beta": beta, "form": form}
    shares = _shares(mask, normalise, length)
    terms = grpo_terms(logp, old_logp, reference_logp, advantages, mask, **clip)
    return np.sum(np.stack([row / share for row, share in zip(terms, shares, strict=True)]))


def grpo_total_vjp(
    logp: Float[Array, "..."],
    old_logp: Float[Array, "..."],
    reference_logp: Float[Array, "..."],
    advantages: Float[Array, "..."],
    mask: Any,
    *,
    clip_low: float,
    clip_high: float,
    beta: float,
    normalise: str = "sequence",
    length: int | None = None,
    form: str = "clip",
    cotangent: Any,
) -> tuple[Any, Any, Any, Any]:
    """Pull the total's cotangent () back to logp; old and reference log-probabilities and advantages get zeros."""
    clip = {"clip_low": clip_low, "clip_high": clip_high, "beta": beta, "form": form}
    shares = _shares(mask, normalise, length)
    each = np.stack([np.stack([cotangent / share] * logp.shape[1]) for share in shares])
    return grpo_terms_vjp(logp, old_logp, reference_logp, advantages, mask, **clip, cotangent=each)


def grpo_loss(
    logp: Float[Array, "..."],
    old_logp: Float[Array, "..."],
    reference_logp: Float[Array, "..."],
    advantages: Float[Array, "..."],
    mask: Any,
    *,
    clip_low: float,
    clip_high: float,
    beta: float,
    normalise: str = "sequence",
    length: int | None = None,
    form: str = "clip",
) -> Float[Array, ""]:
    """Divide `grpo_total` by `grpo_divisor`; without a marked token the loss is 0 (GRPO-20 to 22)."""
    options = {"clip_low": clip_low, "clip_high": clip_high, "beta": beta, "length": length, "form": form}
    total = grpo_total(logp, old_logp, reference_logp, advantages, mask, normalise=normalise, **options)
    return total / max(grpo_divisor(mask, normalise=normalise), 1)


def grpo_loss_vjp(
    logp: Float[Array, "..."],
    old_logp: Float[Array, "..."],
    reference_logp: Float[Array, "..."],
    advantages: Float[Array, "..."],
    mask: Any,
    *,
    clip_low: float,
    clip_high: float,
    beta: float,
    normalise: str = "sequence",
    length: int | None = None,
    form: str = "clip",
    cotangent: Any,
) -> tuple[Any, Any, Any, Any]:
    """Pull the loss's cotangent () back to logp; old and reference log-probabilities and advantages get zeros."""
    options = {"clip_low": clip_low, "clip_high": clip_high, "beta": beta, "length": length, "form": form}
    each = cotangent / max(grpo_divisor(mask, normalise=normalise), 1)
    arguments = (logp, old_logp, reference_logp, advantages, mask)
    return grpo_total_vjp(*arguments, normalise=normalise, **options, cotangent=each)


def _cut(ratio: Any, advantage: Any, clip_low: float, clip_high: float, form: str) -> Any:
    """Say whether a ratio is beyond its edge: the upper one for A > 0, the lower for A < 0; cispo has the upper."""
    least, most = _edges(ratio, clip_low, clip_high)
    above = decide(ratio, most)
    return above if form == "cispo" else above & decide(advantage) | decide(least, ratio) & decide(0.0, advantage)


def _edges(ratio: Any, clip_low: float, clip_high: float) -> tuple[Any, Any]:
    """Give 1 − low and 1 + high, each a rounded sum."""
    return np.ones_like(ratio) - clip_low, np.ones_like(ratio) + clip_high


def _ratio(logp: Any, old_logp: Any) -> Any:
    return _exp(_difference(logp, old_logp))


def _difference(a: Any, b: Any) -> Any:
    """Subtract; where the two are the same to the bit there is no error to carry (GRPO-8, -9, -11)."""
    same = (value(a) == value(b)) & np.isfinite(value(a)) & (bound(a) == 0) & (bound(b) == 0)
    return np.where(same, 0.0, a - b)


def _exp(gap: Any) -> Any:
    return np.where(_zero(gap), 1.0, np.exp(gap))


def _zero(gap: Any) -> Any:
    return (value(gap) == 0) & (bound(gap) == 0)


def _shares(mask: Any, normalise: str, length: int | None) -> list[int]:
    """Give what each row's terms are divided by within the total."""
    require_option("normalise", normalise, NORMALISATIONS)
    if normalise != "constant":
        return [max(int(n), 1) if normalise == "sequence" else 1 for n in _marked(mask).sum(axis=1)]
    if length is None or length < 1:
        raise ValueError(f"length is {length} but normalise='constant' needs at least 1")
    return [length] * len(_marked(mask))


def _gap(logp: Any, reference_logp: Any) -> Any:
    shape = tuple(np.shape(logp))
    require_equal("shape of reference_logp", tuple(np.shape(reference_logp)), "shape of logp", shape)
    for size in shape:
        require_positive("an axis of logp", size)
    return _difference(float64(reference_logp), float64(logp))


def _marked(mask: Any) -> Bool[np.ndarray, "b s"]:
    marked = np.asarray(mask)
    require_rank("mask", marked, 2)
    for axis, size in zip(("batch", "length"), marked.shape, strict=True):
        require_positive(f"{axis} of mask", size)
    odd = marked[(marked != 0) & (marked != 1)]
    if odd.size:
        raise ValueError(f"mask holds {odd[0]} but must hold 0 and 1")
    return marked.astype(bool)


def _constants(old_logp: Any, reference_logp: Any, beta: float) -> dict[str, Any]:
    require_finite("beta", beta, least=0.0)
    return {"old_logp": old_logp, "reference_logp": reference_logp}


def _checked(
    logp: Any, constants: dict[str, Any], advantages: Any, mask: Any, clip_low: float, clip_high: float, form: str
) -> tuple[Any, dict[str, Any], Any, np.ndarray]:
    marked = _marked(mask)
    for name, array in {**constants, "mask": mask}.items():
        require_equal(f"shape of {name}", tuple(np.shape(array)), "shape of logp", tuple(logp.shape))
    require_equal("shape of advantages", tuple(np.shape(advantages)), "shape of logp's batch", (logp.shape[0],))
    require_option("form", form, FORMS)
    require_finite("clip_high", clip_high, least=0.0)
    if not 0 <= clip_low <= 1:
        raise ValueError(f"clip_low is {clip_low} but must lie between 0 and 1")
    wide = {name: float64(array) for name, array in constants.items()}
    return float64(logp), wide, float64(advantages), marked


def _checked_rewards(rewards: Any, eps: float, ddof: int) -> Any:
    require_rank("rewards", rewards, 2)
    require_positive("number of prompts in rewards", rewards.shape[0])
    require_finite("eps", eps, least=0.0)
    if ddof not in (0, 1):
        raise ValueError(f"ddof is {ddof} but must be 0 or 1")
    if rewards.shape[1] < 2:
        raise ValueError(f"rewards has groups of {rewards.shape[1]} but an answer is compared with at least 1 other")
    for prompt, answer in np.argwhere(~np.isfinite(value(rewards))):
        raise ValueError(f"rewards[{prompt}, {answer}] is {value(rewards)[prompt, answer]} but must be finite")
    return float64(rewards)


def _check_answers(ids: np.ndarray, end_ids: Collection[int], lengths: np.ndarray) -> None:
    for axis, size in zip(("batch", "length"), ids.shape, strict=True):
        require_positive(f"{axis} of ids", size)
    if not len(end_ids):
        raise ValueError("end_ids has 0 entries but an answer needs at least 1 to end")
    require_equal("shape of lengths", lengths.shape, "shape of ids' batch", (len(ids),))
    for b, length in enumerate(lengths):
        if not 0 <= length <= ids.shape[1]:
            raise ValueError(f"lengths[{b}] is {length} but ids has {ids.shape[1]} positions")
