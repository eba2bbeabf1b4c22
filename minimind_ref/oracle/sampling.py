"""Filters of logits and the choice of a token, one row and one token at a time.  Spec: specs/sampling.md.

There is no vjp: a choice has no gradient, and what is learnt from it goes through `token_logp`.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from minimind_ref.oracle.bounded import Array, decide, softmax, store, value
from minimind_ref.oracle.checks import float64, require_equal, require_ids, require_positive, require_rank


def filter_logits(
    logits: Float[Array, "..."],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Float[Array, "b v"]:
    """Scale by 1/temperature and set what top-k, top-p, min-p drop, in this order, to −inf (SAMPLING-1 to 6).

    Source: Holtzman et al. 2020, arXiv:1904.09751, eq. 2-3; Nguyen et al. 2024, arXiv:2407.01082, section 3.
    """
    logits = _checked_logits(logits)
    _check_settings(temperature, top_k, top_p, min_p)
    rows = []
    for z in logits:
        if temperature == 0:
            rows.append(_without(z, np.arange(len(z)) != _ahead_first(z)[0]))
            continue
        scaled = z / temperature
        if 0 < top_k < len(z):
            scaled = _without(scaled, _below_kth(z, scaled, top_k))
        if top_p < 1:
            scaled = _without(scaled, _after_mass(z, scaled, top_p))
        if min_p > 0:
            scaled = _without(scaled, _unlikely(z, scaled, min_p))
        rows.append(scaled)
    return store(np.stack(rows))


def penalise_repetition(
    logits: Float[Array, "..."], ids: Int[np.ndarray, "..."], penalty: float, *, mask: Any = None
) -> Float[Array, "b v"]:
    """Divide the positive and multiply the other logits of each row's seen tokens, once (SAMPLING-12 to 14).

    Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1.  Differs: the sign decides.
    """
    logits = _checked_logits(logits)
    mask = _checked_history(logits, ids, penalty, mask)
    rows = []
    for z, history, counted in zip(logits, ids, mask, strict=True):
        seen = {int(i) for i, counts in zip(history, counted, strict=True) if counts}
        rows.append(np.stack([_penalised(z[i], penalty) if i in seen else z[i] for i in range(len(z))]))
    return store(np.stack(rows))


def choose_token(logits: Float[Array, "..."], uniform: Float[Array, "..."]) -> Int[Array, "b"]:
    """Give each row's first id at which the cumulated mass exceeds its uniform number (SAMPLING-16)."""
    logits = _checked_logits(logits)
    require_rank("uniform", uniform, 1)
    require_equal("length of uniform", len(uniform), "batch of logits", len(logits))
    outside = [float(u) for u in value(uniform) if not 0 <= u < 1]
    if outside:
        raise ValueError(f"uniform holds {outside[0]} but must lie in [0, 1)")
    tokens = []
    for z, u in zip(logits, float64(uniform), strict=True):
        mass = softmax(z)
        possible = np.flatnonzero(value(mass) > 0)
        steps = [
            np.where(decide(np.sum(mass[possible[: n + 1]]), u), 0, step) for n, step in enumerate(np.diff(possible))
        ]
        tokens.append(np.sum(np.stack([possible[:1][0], *steps])))
    return np.stack(tokens)


def _below_kth(z: Array, scaled: Array, top_k: int) -> Any:
    """Say which tokens k others exceed; equal logits are equal after any division too (SAMPLING-4)."""
    kth = _ahead_first(z)[top_k - 1]
    return decide(scaled[kth], scaled) & (value(z) != value(z)[kth])


def _after_mass(z: Array, scaled: Array, top_p: float) -> Any:
    """Say for which tokens the mass ahead of them has reached p (SAMPLING-5)."""
    mass, order = softmax(scaled), _ahead_first(z)
    dropped = [np.bool_(False)] * len(z)
    for place, i in enumerate(order[1:], start=1):
        dropped[i] = ~decide(top_p, np.sum(mass[order[:place]]))
    return np.stack(dropped)


def _unlikely(z: Array, scaled: Array, min_p: float) -> Any:
    """Say which tokens have less than min_p of the largest probability (SAMPLING-6)."""
    mass, best = softmax(scaled), _ahead_first(z)[0]
    return decide(min_p * mass[best], mass) & (value(z) != value(z)[best])


def _ahead_first(z: Array) -> list[int]:
    """List the ids, largest logit first, of equal ones the lower id."""
    plain = value(z)
    return sorted(range(len(plain)), key=lambda i: (-plain[i], i))


def _without(z: Array, dropped: Any) -> Array:
    return np.where(dropped, -np.inf, z)


def _penalised(z: Array, penalty: float) -> Array:
    return z / penalty if value(z) > 0 else z * penalty


def _checked_logits(logits: Array) -> Array:
    require_rank("logits", logits, 2)
    require_positive("batch of logits", logits.shape[0])
    require_positive("vocabulary of logits", logits.shape[1])
    for i, row in enumerate(np.asarray(value(logits))):
        if np.isnan(row).any() or np.isposinf(row).any() or np.isneginf(row).all():
            raise ValueError(f"logits of row {i} hold NaN or inf, or nothing but -inf: they are no distribution")
    return float64(logits)


def _check_settings(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    if not 0 <= temperature < np.inf:
        raise ValueError(f"temperature is {temperature} but must be finite and at least 0")
    if top_k < 0:
        raise ValueError(f"top_k is {top_k} but must be at least 0 (0 keeps all)")
    for name, share in (("top_p", top_p), ("min_p", min_p)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share} but must lie between 0 and 1")


def _checked_history(logits: Array, ids: np.ndarray, penalty: float, mask: Any) -> Bool[np.ndarray, "b t"]:
    require_rank("ids", ids, 2)
    require_equal("batch of ids", len(ids), "batch of logits", len(logits))
    if not 0 < penalty < np.inf:
        raise ValueError(f"penalty is {penalty} but must be finite and above 0")
    counted = np.ones(ids.shape, bool) if mask is None else np.asarray(mask, bool)
    require_equal("shape of mask", counted.shape, "shape of ids", ids.shape)
    require_ids("ids", ids[counted], logits.shape[1])
    return counted
