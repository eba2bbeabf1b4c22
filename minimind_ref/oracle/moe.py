"""Mixture of experts, oracle: one token and one expert at a time.  Spec: specs/moe.md."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from minimind_ref.oracle.bounded import Array, store, value
from minimind_ref.oracle.checks import require_equal, require_option, require_positive, require_rank

FORMS = ("sequence", "batch", "slots")
Experts = tuple[Float[Array, "e f d"], Float[Array, "e f d"], Float[Array, "e d f"]]


def route(
    x: Float[Array, "t d"], w_router: Float[Array, "e d"], *, num_chosen: int, normalise: bool
) -> tuple[Float[Array, "t e"], Float[Array, "t c"], Int[np.ndarray, "t c"]]:
    """Score the experts, softmax(w_router·x), and choose the highest c in decreasing order (MOE-1, MOE-2, MOE-6).

    Source: Shazeer et al. 2017, arXiv:1701.06538, eq. 3-5.
    """
    _check_router(x, w_router, num_chosen)
    scores = np.stack([_softmax(store(w_router @ token)) for token in x])
    index = np.argsort(-value(scores), axis=-1, kind="stable")[:, :num_chosen]
    chosen = np.stack([scores[t, index[t]] for t in range(len(index))])
    if normalise:
        chosen = np.stack([row / (np.sum(row) + 1e-20) for row in chosen])
    return scores, store(chosen), index


def route_vjp(
    x: Float[Array, "t d"],
    w_router: Float[Array, "e d"],
    *,
    num_chosen: int,
    normalise: bool,
    cotangent: tuple[Float[Array, "t e"], Float[Array, "t c"]],
) -> tuple[Float[Array, "t d"], Float[Array, "e d"]]:
    """Pull the cotangents of scores and weights back to x and the router (MOE-7, MOE-19); the choice has none."""
    scores, weight, index = route(x, w_router, num_chosen=num_chosen, normalise=normalise)
    dscores, dweight = cotangent
    require_equal("shape of the scores' cotangent", tuple(dscores.shape), "shape of scores", tuple(scores.shape))
    require_equal("shape of the weights' cotangent", tuple(dweight.shape), "shape of weight", tuple(weight.shape))
    dlogits = []
    for t in range(len(index)):
        through_weight = np.zeros_like(scores[t])
        through_weight[index[t]] = dweight[t]
        if normalise:
            inverse = 1 / (np.sum(scores[t, index[t]]) + 1e-20)
            through_weight[index[t]] = dweight[t] * inverse - np.sum(dweight[t] * weight[t]) * inverse
        dscore = store(dscores[t] + through_weight)
        dlogits.append(store(scores[t] * (dscore - np.sum(scores[t] * dscore))))
    dlogit = np.stack(dlogits)
    return store(dlogit @ w_router), store(dlogit.T @ x)


def aux_loss(
    scores: Float[Array, "t e"],
    index: Int[np.ndarray, "t c"],
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
    groups = _sequences(scores, index, form, counts, sequence_ids)
    total = np.sum(scores[:0])
    for tokens, share in groups:
        total = total + np.sum(share * (np.sum(scores[tokens], axis=0) / len(tokens)))
    return np.reshape(coef * (total / max(len(groups), 1)), ())


def aux_loss_vjp(
    scores: Float[Array, "t e"],
    index: Int[np.ndarray, "t c"],
    *,
    form: str,
    coef: float,
    counts: Any = None,
    sequence_ids: Any = None,
    cotangent: Float[Array, ""] | float,
) -> Float[Array, "t e"]:
    """Pull the loss's cotangent back to the scores: coef·f_e/(sequences·S) for each counted token (MOE-15)."""
    groups = _sequences(scores, index, form, counts, sequence_ids)
    dscores = np.zeros_like(scores)
    for tokens, share in groups:
        dscores[tokens] = cotangent * (coef * share / (len(groups) * len(tokens)))[None, :]
    return store(dscores)


def moe(
    x: Float[Array, "t d"],
    w_router: Float[Array, "e d"],
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
    _check_experts(x, w_router, experts, shared)
    scores, weight, index = route(x, w_router, num_chosen=num_chosen, normalise=normalise)
    rows = []
    for t, token in enumerate(x):
        terms = [store(weight[t, c] * _expert(token, experts, e).out) for c, e in enumerate(index[t])]
        terms += [_expert(token, shared, e).out for e in range(len(shared[0]))] if shared else []
        total = terms[0]
        for term in terms[1:]:
            total = store(total + term)
        rows.append(total)
    return np.stack(rows), aux_loss(scores, index, form=form, coef=coef, counts=counts, sequence_ids=sequence_ids)


def moe_vjp(
    x: Float[Array, "t d"],
    w_router: Float[Array, "e d"],
    experts: Experts,
    *,
    num_chosen: int,
    normalise: bool,
    shared: Experts | None = None,
    form: str,
    coef: float,
    counts: Any = None,
    sequence_ids: Any = None,
    cotangent: tuple[Float[Array, "t d"], Float[Array, ""] | float],
) -> tuple[Float[Array, "t d"], Float[Array, "e d"], Experts, Experts | None]:
    """Pull the cotangents of output and loss back to x, router, experts and shared experts (MOE-9, MOE-19)."""
    _check_experts(x, w_router, experts, shared)
    scores, weight, index = route(x, w_router, num_chosen=num_chosen, normalise=normalise)
    dy, daux = cotangent
    balance = {"form": form, "coef": coef, "counts": counts, "sequence_ids": sequence_ids}
    require_equal("shape of the output's cotangent", tuple(dy.shape), "shape of x", tuple(x.shape))
    dexperts = [np.zeros_like(w) for w in experts]
    dshared = [np.zeros_like(w) for w in shared] if shared else None
    dx, dweight = np.zeros_like(x), np.zeros_like(weight)
    for t, token in enumerate(x):
        for c, e in enumerate(index[t]):
            dweight[t, c] = store(np.sum(_expert(token, experts, e).out * dy[t]))
            dx[t] = store(dx[t] + _expert_vjp(token, experts, e, store(weight[t, c] * dy[t]), dexperts))
        for e in range(len(shared[0])) if shared else ():
            dx[t] = store(dx[t] + _expert_vjp(token, shared, e, dy[t], dshared))
    dscores = aux_loss_vjp(scores, index, **balance, cotangent=daux)
    through = {"num_chosen": num_chosen, "normalise": normalise, "cotangent": (dscores, dweight)}
    dx_route, dw_router = route_vjp(x, w_router, **through)
    stored = (tuple(store(w) for w in stack) if stack else None for stack in (dexperts, dshared))
    return store(dx + dx_route), dw_router, *stored


class _Expert(NamedTuple):
    gate: Array
    sigmoid: Array
    up: Array
    hidden: Array
    out: Array


def _expert(token: Array, stack: Experts, e: int) -> _Expert:
    """One token through one SwiGLU expert, with what its gradient needs."""
    gate, up = store(stack[0][e] @ token), store(stack[1][e] @ token)
    sigmoid = 1 / (1 + np.exp(-gate))
    hidden = store(store(gate * sigmoid) * up)
    return _Expert(gate, sigmoid, up, hidden, store(stack[2][e] @ hidden))


def _expert_vjp(token: Array, stack: Experts, e: int, dout: Array, gradients: list[Array]) -> Array:
    """Add one token's share to the gradients of expert e and give that of the token."""
    made = _expert(token, stack, e)
    dhidden = store(dout @ stack[2][e])
    dup = store(dhidden * store(made.gate * made.sigmoid))
    slope = made.sigmoid * (1 + made.gate * (1 - made.sigmoid))
    dgate = store(store(dhidden * made.up) * slope)
    for matrix, left, right in zip(gradients, (dgate, dup, dout), (token, token, made.hidden), strict=True):
        matrix[e] = matrix[e] + left[:, None] * right[None, :]
    return store(store(dgate @ stack[0][e]) + store(dup @ stack[1][e]))


def _softmax(logits: Array) -> Array:
    parts = np.exp(logits - np.max(value(logits)))
    return store(parts / np.sum(parts))


def _sequences(
    scores: Array, index: np.ndarray, form: str, counts: Any, sequence_ids: Any
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each sequence's counted tokens and its f (e); a sequence without a counted token is none (MOE-14)."""
    _check_loss(scores, index, form, counts, sequence_ids)
    tokens, experts = scores.shape
    counted = [t for t in range(tokens) if counts is None or counts[t]]
    members: dict[int, list[int]] = {}
    for t in counted:
        members.setdefault(int(sequence_ids[t]) if form == "sequence" else 0, []).append(t)
    groups = []
    for group in members.values():
        slots = [sum(int(e in index[t]) for t in group) for e in range(experts)]
        divisor = len(group) * (1 if form == "slots" else index.shape[1])
        groups.append((np.array(group), np.array([n * experts / divisor for n in slots])))
    return groups


def _check_router(x: Array, w_router: Array, num_chosen: int) -> None:
    require_rank("x", x, 2)
    require_rank("w_router", w_router, 2)
    require_positive("number of tokens in x", x.shape[0])
    require_positive("number of experts in w_router", w_router.shape[0])
    require_equal("width of w_router", w_router.shape[1], "width of x", x.shape[1])
    if not 1 <= num_chosen <= w_router.shape[0]:
        raise ValueError(f"num_chosen is {num_chosen} but must lie between 1 and the {w_router.shape[0]} experts")


def _check_experts(x: Array, w_router: Array, experts: Experts, shared: Experts | None) -> None:
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


def _check_loss(scores: Array, index: np.ndarray, form: str, counts: Any, sequence_ids: Any) -> None:
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
