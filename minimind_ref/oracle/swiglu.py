"""The gated feed-forward layer, one row at a time.  Spec: specs/swiglu.md."""

import numpy as np
from jaxtyping import Float

from minimind_ref.oracle.bounded import Array, open_share, store
from minimind_ref.oracle.checks import float64, require_equal, require_positive, require_rank


def swiglu(
    x: Float[Array, "*lead d"], w_gate: Float[Array, "..."], w_up: Float[Array, "..."], w_down: Float[Array, "..."]
) -> Float[Array, "*lead d"]:
    """Give w_down·(silu(w_gate·x) ∘ (w_up·x)), with w_gate and w_up (f, d), w_down (d, f) (SWIGLU-1).

    Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
    """
    x, w_gate, w_up, w_down = _checked(x, w_gate, w_up, w_down)
    y = np.zeros_like(x)
    for row in np.ndindex(*x.shape[:-1]):
        gate, up = store(w_gate @ x[row]), store(w_up @ x[row])
        hidden = store(store(gate * open_share(gate)) * up)
        y[row] = store(w_down @ hidden)
    return y


def swiglu_vjp(
    x: Float[Array, "*lead d"],
    w_gate: Float[Array, "..."],
    w_up: Float[Array, "..."],
    w_down: Float[Array, "..."],
    *,
    cotangent: Float[Array, "*lead d"],
) -> tuple[Float[Array, "*lead d"], Float[Array, "f d"], Float[Array, "f d"], Float[Array, "d f"]]:
    """Pull `cotangent` back to x and the three matrices (SWIGLU-9)."""
    x, w_gate, w_up, w_down = _checked(x, w_gate, w_up, w_down)
    cotangent, (f, d) = float64(cotangent), w_gate.shape
    dx = np.zeros_like(x)
    hidden, dgate, dup = (np.zeros_like(x, shape=(*x.shape[:-1], f)) for _ in range(3))
    for row in np.ndindex(*x.shape[:-1]):
        gate, up = store(w_gate @ x[row]), store(w_up @ x[row])
        slope = open_share(gate)
        silu = store(gate * slope)
        hidden[row] = store(silu * up)
        pulled = store(w_down.T @ cotangent[row])
        dup[row] = store(pulled * silu)
        dgate[row] = store(store(pulled * up) * (slope * (1 + gate * (1 - slope))))
        dx[row] = store(store(w_gate.T @ dgate[row]) + store(w_up.T @ dup[row]))
    x_rows, cotangent_rows = x.reshape(-1, d), cotangent.reshape(-1, d)
    dw_gate, dw_up = (store(branch.reshape(-1, f).T @ x_rows) for branch in (dgate, dup))
    return dx, dw_gate, dw_up, store(cotangent_rows.T @ hidden.reshape(-1, f))


def _checked(x: Array, w_gate: Array, w_up: Array, w_down: Array) -> tuple[Array, Array, Array, Array]:
    require_rank("x", x, 1, at_least=True)
    for name, matrix in (("w_gate", w_gate), ("w_up", w_up), ("w_down", w_down)):
        require_rank(name, matrix, 2)
    f, d = w_gate.shape
    require_equal("width of x", x.shape[-1], "input width of w_gate", d)
    require_equal("shape of w_up", tuple(w_up.shape), "shape of w_gate", (f, d))
    require_equal("shape of w_down", tuple(w_down.shape), "reversed shape of w_gate", (d, f))
    require_positive("width of x", d)
    require_positive("FFN width", f)
    return float64(x), float64(w_gate), float64(w_up), float64(w_down)
