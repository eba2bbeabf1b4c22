"""Mixture of experts, oracle: one token and one expert at a time.  Spec: specs/moe.md."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from minimind_ref.oracle.bounded import Array, constant, decide_top, open_share, softmax, store, value
from minimind_ref.oracle.checks import (
    float64,
    require_equal,
    require_finite,
    require_option,
    require_positive,
    require_rank,
)

FORMS = ("sequence", "batch", "slots")
Experts = tuple[Any, ...]  # w_gate (e f d), w_up (e f d), w_down (e d f)


def route(
    x: Float[Array, "..."], w_router: Float[Array, "..."], *, num_chosen: int, normalise: bool
) -> tuple[Float[Array, "t e"], Float[Array, "t c"], Int[Array, "t c"]]:
    """Score the experts, softmax(w_router·x), and choose the highest c in decreasing order (MOE-1, MOE-2, MOE-6).

    Source: Shazeer et al. 2017, arXiv:1701.06538, eq. 3-5.
    """
    x, w_router = _checked_router(x, w_router, num_chosen)
    scores = np.stack([store(softmax(store(w_router @ token))) for token in x])
    index = decide_top(scores, num_chosen)
    chosen = np.take_along_axis(scores, index, axis=-1)
    if normalise:
        chosen = np.stack([row / (np.sum(row) + 1e-20) for row in chosen])
    return scores, store(chosen), index


def route_vjp(
    x: Float[Array, "..."],
    w_router: Float[Array, "..."],
    *,
    num_chosen: int,
    normalise: bool,
    cotangent: tuple[Any, Any],
) -> tuple[Float[Array, "t d"], Float[Array, "e d"]]:
    """Pull the cotangents of scores and weights back to x and the router (MOE-7, MOE-19); the choice has none."""
    x, w_router = _checked_router(x, w_router, num_chosen)
    scores, weight, index = route(x, w_router, num_chosen=num_chosen, normalise=normalise)
    dscores, dweight = cotangent
    require_equal("shape of the scores' cotangent", tuple(dscores.shape), "shape of scores", tuple(scores.shape))
    require_equal("shape of the weights' cotangent", tuple(dweight.shape), "shape of weight", tuple(weight.shape))
    dlogits = []
    for t in range(len(x)):
        through_weight = np.zeros_like(scores[t])
        through_weight[index[t]] = dweight[t]
        if normalise:
            inverse = 1 / (np.sum(scores[t, index[t]]) + 1e-20)
            through_weight[index[t]] = dweight[t] * inverse - np.sum(dweight[t] * weight[t]) * inverse
        dscore = store(dscores[t] + through_weight)
        dlogits.append(store(scores[t] * (dscore - np.sum(scores[t] * dscore))))
    dlogit = np.stack(dlogits) * _settled(scores, index)
    return store(dlogit @ w_router), store(dlogit.T @ x)


def aux_loss(
    scores: Float[Array, "..."],
    index: Int[Array, "..."],
    *,
    form: str,
    coef: float,
    counts: Any = None,
    sequence_ids: Any = None,
) -> Float[Array, ""]:
    """Punish routing more to an expert that scores more, coef·mean over sequences of Σ_e f_e·P_e (MOE-10 … MOE-14).

    `counts` (t) is 0 for padding; `sequence_ids` (t) names each token's document.  No gradient goes through f.
    Source: Fedus et al. 2021, arXiv:2101.03961, eq. 4-6; DeepSeek-V3 2024, arXiv:2412.19437, eq. 17-20.
    Differs: MiniMind counts padding, which here is counts=None.
    """
    require_finite("coef", coef, least=0.0)
    groups = _sequences(scores, index, form, counts, sequence_ids)
    total = np.sum(scores[:0])
    for tokens, share in groups:
        total += np.sum(share * (np.sum(scores[tokens], axis=0) / len(tokens)))
    return np.reshape(coef * (total / max(len(groups), 1)) * _settled(scores, index), ())


def aux_loss_vjp(
    scores: Float[Array, "..."],
    index: Int[Array, "..."],
    *,
    form: str,
    coef: float,
    counts: Any = None,
    sequence_ids: Any = None,
    cotangent: Any,
) -> Float[Array, "t e"]:
    """Pull the loss's cotangent back to the scores: coef·f_e/(sequences·S) for each counted token (MOE-15)."""
    require_finite("coef", coef, least=0.0)
    groups = _sequences(scores, index, form, counts, sequence_ids)
    dscores = np.zeros_like(scores)
    for tokens, share in groups:
        dscores[tokens] = cotangent * coef * (share / (len(groups) * len(tokens)))[None, :]
    return store(dscores * _settled(scores, index))


def moe(
    x: Float[Array, "..."],
    w_router: Float[Array, "..."],
    experts: Experts,
    *,
    num_chosen: int,
    normalise: bool,
    shared: Experts | None = None,
    form: str,
    coef: float,
    counts: Any = None,
    sequence_ids: Any = None,
) -> tuple[Float[Array, "t d"], Float[Array, ""]]:
    """Sum the chosen experts' weighted outputs and the shared experts', and give the balance loss (MOE-3).

    Source: Dai et al. 2024, arXiv:2401.06066, eq. 9-11.
    """
    x, experts, shared = _checked_experts(x, w_router, experts, shared)
    scores, weight, index = route(x, w_router, num_chosen=num_chosen, normalise=normalise)
    rows = []
    for t, token in enumerate(x):
        terms = [store(weight[t, c] * _expert(token, experts, e).out) for c, e in enumerate(value(index)[t])]
        terms += [_expert(token, shared, e).out for e in range(len(shared[0]))] if shared else []
        rows.append(stored_sum(terms))
    return np.stack(rows), aux_loss(scores, index, form=form, coef=coef, counts=counts, sequence_ids=sequence_ids)


def moe_vjp(
    x: Float[Array, "..."],
    w_router: Float[Array, "..."],
    experts: Experts,
    *,
    num_chosen: int,
    normalise: bool,
    shared: Experts | None = None,
    form: str,
    coef: float,
    counts: Any = None,
    sequence_ids: Any = None,
    cotangent: tuple[Any, Any],
) -> tuple[Float[Array, "t d"], Float[Array, "e d"], Experts, Experts | None]:
    """Pull the cotangents of output and loss back to x, router, experts and shared experts (MOE-9, MOE-19)."""
    x, experts, shared = _checked_experts(x, w_router, experts, shared)
    scores, weight, index = route(x, w_router, num_chosen=num_chosen, normalise=normalise)
    dy, daux = cotangent
    balance = {"form": form, "coef": coef, "counts": counts, "sequence_ids": sequence_ids}
    require_equal("shape of the output's cotangent", tuple(dy.shape), "shape of x", tuple(x.shape))
    dexperts = [np.zeros_like(w) for w in experts]
    dshared = [np.zeros_like(w) for w in shared or ()]
    drows, dweight = [], np.zeros_like(weight)
    for t, token in enumerate(x):
        terms = []
        for c, e in enumerate(value(index)[t]):
            dweight[t, c] = store(np.sum(_expert(token, experts, e).out * dy[t]))
            terms.append(_expert_vjp(token, experts, e, store(weight[t, c] * dy[t]), dexperts))
        terms += [_expert_vjp(token, shared, e, dy[t], dshared) for e in range(len(shared[0]))] if shared else []
        drows.append(stored_sum(terms))
    dscores = aux_loss_vjp(scores, index, **balance, cotangent=daux)
    through = {"num_chosen": num_chosen, "normalise": normalise, "cotangent": (dscores, dweight)}
    dx_route, dw_router = route_vjp(x, w_router, **through)
    settled = _settled(scores, index)
    stored = [tuple(store(w * settled) for w in stack) or None for stack in (dexperts, dshared)]
    return store(np.stack(drows) + dx_route), dw_router, *stored  # type: ignore[return-value]


class _Expert(NamedTuple):
    gate: Array
    share: Array
    up: Array
    hidden: Array
    out: Array


def _expert(token: Array, stack: Experts, e: Any) -> _Expert:
    """One token through one SwiGLU expert, with what its gradient needs."""
    gate, up = store(stack[0][e] @ token), store(stack[1][e] @ token)
    share = open_share(gate)
    hidden = store(store(gate * share) * up)
    return _Expert(gate, share, up, hidden, store(stack[2][e] @ hidden))


def _expert_vjp(token: Array, stack: Experts, e: Any, dout: Array, gradients: list[Array]) -> Array:
    """Add one token's share to the gradients of expert e and give that of the token."""
    made = _expert(token, stack, e)
    dhidden = store(dout @ stack[2][e])
    dup = store(dhidden * store(made.gate * made.share))
    slope = made.share * (1 + made.gate * open_share(-made.gate))
    dgate = store(store(dhidden * made.up) * slope)
    for matrix, left, right in zip(gradients, (dgate, dup, dout), (token, token, made.hidden), strict=True):
        matrix[e] += left[:, None] * right[None, :]
    return store(store(dgate @ stack[0][e]) + store(dup @ stack[1][e]))


def stored_sum(terms: list[Array]) -> Array:
    """Add in any order, every partial sum stored: no partial sum exceeds the terms' sizes together."""
    for _ in terms[1:]:
        terms = [store(term) for term in terms]
    return store(np.sum(np.stack(terms), axis=0))


def _settled(scores: Array, index: Array) -> Any:
    """One, and undecided where any choice is: what depends on who was chosen is multiplied by it."""
    return np.max(np.take_along_axis(np.ones(scores.shape), index, axis=-1))


def _sequences(
    scores: Array, index: Array, form: str, counts: Any, sequence_ids: Any
) -> list[tuple[np.ndarray, Array]]:
    """Each sequence's counted tokens and its f (e); a sequence without a counted token is none (MOE-14)."""
    _check_loss(scores, index, form, counts, sequence_ids)
    index = value(index)
    tokens, experts = scores.shape
    counted = [t for t in range(tokens) if counts is None or counts[t]]
    members: dict[int, list[int]] = {}
    for t in counted:
        members.setdefault(int(sequence_ids[t]) if form == "sequence" else 0, []).append(t)
    groups = []
    for group in members.values():
        slots = [sum(int(e in index[t]) for t in group) for e in range(experts)]
        divisor = len(group) * (1 if form == "slots" else index.shape[1])
        share = np.array([n * experts / divisor for n in slots])
        groups.append((np.array(group), constant(share, like=scores, ulps=2)))  # counted, divided, multiplied by e/c
    return groups


def _checked_router(x: Array, w_router: Array, num_chosen: int) -> tuple[Array, Array]:
    require_rank("x", x, 2)
    require_rank("w_router", w_router, 2)
    require_positive("number of tokens in x", x.shape[0])
    require_positive("number of experts in w_router", w_router.shape[0])
    require_equal("width of w_router", w_router.shape[1], "width of x", x.shape[1])
    if not 1 <= num_chosen <= w_router.shape[0]:
        raise ValueError(f"num_chosen is {num_chosen} but must lie between 1 and the {w_router.shape[0]} experts")
    return float64(x), float64(w_router)


def _checked_experts(
    x: Array, w_router: Array, experts: Experts, shared: Experts | None
) -> tuple[Array, Experts, Experts | None]:
    require_rank("x", x, 2)
    for name, stack in (("experts", experts), ("shared", shared)):
        if stack is None:
            continue
        require_equal(f"number of stacks in {name}", len(stack), "number of matrices of an expert", 3)
        for array in stack:
            require_rank(f"a stack of {name}", array, 3)
        count, hidden, _ = stack[0].shape
        shapes = ((count, hidden, x.shape[1]),) * 2 + ((count, x.shape[1], hidden),)
        for kind, array, shape in zip(("w_gate", "w_up", "w_down"), stack, shapes, strict=True):
            require_equal(f"shape of {name}' {kind}", tuple(array.shape), "what w_gate and x ask for", shape)
    require_equal("number of experts", len(experts[0]), "rows of w_router", len(w_router))
    wide = tuple(None if stack is None else tuple(float64(w) for w in stack) for stack in (experts, shared))
    return float64(x), *wide  # type: ignore[return-value]


def _check_loss(scores: Array, index: Array, form: str, counts: Any, sequence_ids: Any) -> None:
    require_option("form", form, FORMS)
    require_rank("scores", scores, 2)
    require_rank("index", index, 2)
    require_positive("number of tokens in scores", scores.shape[0])
    require_equal("number of tokens in index", len(index), "number of tokens in scores", len(scores))
    if np.any((index < 0) | (index >= scores.shape[1])):
        raise ValueError(f"index reaches from {index.min()} to {index.max()} but there are {scores.shape[1]} experts")
    if form == "sequence" and sequence_ids is None:
        raise ValueError("sequence_ids is None but form='sequence' needs one for each token")
    for name, array in (("counts", counts), ("sequence_ids", sequence_ids)):
        if array is not None:
            require_equal(f"length of {name}", len(array), "number of tokens", len(scores))
