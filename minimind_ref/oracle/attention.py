"""Attention over grouped query heads, oracle: one query of one head at a time.  Spec: specs/attention.md."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from minimind_ref.oracle.bounded import Array, of_stored, softmax, store, store_scaled
from minimind_ref.oracle.checks import float64, require_equal, require_finite, require_positive, require_rank


def attention(
    q: Float[Array, "..."],
    k: Float[Array, "..."],
    v: Float[Array, "..."],
    *,
    mask: np.ndarray | None = None,
    causal: bool = True,
    scale: float | None = None,
) -> Float[Array, "b s n h"]:
    """Average the visible values, o_i = Σ_j p_ij v_j with p_i = softmax_j(scale·⟨q_i, k_j⟩) (ATTENTION-1).

    q is (b s n h), k and v (b t k h).
    `mask` (b s t) is True where a key may be seen; a query that sees nothing gives zeros.
    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Ainslie et al. 2023, arXiv:2305.13245, section 2.2.
    """
    q, k, v = _checked(q, k, v, mask)
    factor = 1 / np.sqrt(q.shape[-1]) if scale is None else scale
    require_finite("scale", factor)
    out = np.zeros_like(q)
    for row, i, seen in _rows(q, k, mask, causal):
        for head, kv in _heads(q, k):
            weights = _weights(q[row, i, head], k[row, seen, kv], factor)
            out[row, i, head] = store(weights @ v[row, seen, kv])
    return out


def attention_vjp(
    q: Float[Array, "..."],
    k: Float[Array, "..."],
    v: Float[Array, "..."],
    *,
    mask: np.ndarray | None = None,
    causal: bool = True,
    scale: float | None = None,
    cotangent: Float[Array, "..."],
) -> tuple[Float[Array, "b s n h"], Float[Array, "b t k h"], Float[Array, "b t k h"]]:
    """Pull the output's cotangent back to q, k and v (ATTENTION-15), each head's share of k and v stored apart.

    Source: Dao et al. 2022, arXiv:2205.14135, appendix B.2.
    """
    q, k, v = _checked(q, k, v, mask)
    require_equal("shape of cotangent", tuple(cotangent.shape), "shape of q", tuple(q.shape))
    factor = 1 / np.sqrt(q.shape[-1]) if scale is None else scale
    require_finite("scale", factor)
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for head, kv in _heads(q, k):
        dk_head, dv_head = np.zeros_like(k[:, :, 0]), np.zeros_like(v[:, :, 0])
        for row, i, seen in _rows(q, k, mask, causal):
            query, keys, ct = q[row, i, head], k[row, seen, kv], cotangent[row, i, head]
            weights = _weights(query, keys, factor)
            dweights = store(v[row, seen, kv] @ ct)
            mean = of_stored(np.sum(weights * dweights), ct * (weights @ v[row, seen, kv]))  # or ⟨ō, o⟩, o stored
            dscores = store(weights * (dweights - mean))
            dq[row, i, head] = store(store(dscores @ store_scaled(keys)) * factor)
            dk_head[row, seen] += dscores[:, None] * store(query * factor)[None, :]
            dv_head[row, seen] += weights[:, None] * ct[None, :]
        dk[:, :, kv] += store_scaled(store(dk_head))
        dv[:, :, kv] += store(dv_head)
    return dq, store(dk), store(dv)


def _weights(query: Array, keys: Array, scale: float) -> Array:
    """Softmax of one query's scores; queries and keys may be stored scaled, the products and the scaled scores too."""
    return store(softmax(store(store(store_scaled(keys) @ store_scaled(query)) * scale)))


def _rows(q: Array, k: Array, mask: np.ndarray | None, causal: bool) -> Iterator[tuple[int, int, np.ndarray]]:
    """Each batch row and query with the keys that it sees; a query that sees none is left out (ATTENTION-5)."""
    batch, queries, keys = q.shape[0], q.shape[1], k.shape[1]
    for row in range(batch):
        for i in range(queries):
            last = i + keys - queries if causal else keys - 1
            seen = np.array([j for j in range(last + 1) if mask is None or mask[row, i, j]], dtype=int)
            if seen.size:
                yield row, i, seen


def _heads(q: Array, k: Array) -> list[tuple[int, int]]:
    """Each query head with its key/value head: consecutive query heads share one (ATTENTION-2)."""
    return [(head, head * k.shape[2] // q.shape[2]) for head in range(q.shape[2])]


def _checked(q: Array, k: Array, v: Array, mask: np.ndarray | None) -> tuple[Array, Array, Array]:
    for name, array in (("q", q), ("k", k), ("v", v)):
        require_rank(name, array, 4)
        for axis, size in zip(("batch", "length", "number of heads", "head width"), array.shape, strict=True):
            require_positive(f"{axis} of {name}", size)
    require_equal("shape of v", tuple(v.shape), "shape of k", tuple(k.shape))
    require_equal("batch of k", k.shape[0], "batch of q", q.shape[0])
    require_equal("head width of k", k.shape[3], "head width of q", q.shape[3])
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"q has {q.shape[2]} heads but k has {k.shape[2]}, which does not divide them")
    if mask is not None:
        if mask.dtype != bool:
            raise ValueError(f"mask is {mask.dtype} but must be bool: True where a key may be seen")
        require_equal("shape of mask", tuple(mask.shape), "(b, s, t)", (*q.shape[:2], k.shape[1]))
    return float64(q), float64(k), float64(v)
