"""Root-mean-square normalisation, one row at a time.  Spec: specs/rms_norm.md."""

import numpy as np
from jaxtyping import Float

from minimind_ref.oracle.bounded import Array, store
from minimind_ref.oracle.checks import (
    float64,
    require_equal,
    require_finite,
    require_option,
    require_positive,
    require_rank,
)

CASTS = ("after", "before")


def rms_norm(
    x: Float[Array, "*lead d"], weight: Float[Array, "..."], *, eps: float, cast: str = "after"
) -> Float[Array, "*lead d"]:
    """Scale each row to unit root mean square, then by `weight` (d): weight·x/sqrt(mean(x²) + eps) (RMS_NORM-1).

    `cast` names when the row is rounded to x's dtype: "after" the weight or "before" it as well (RMS_NORM-14, -15).
    Source: Zhang, Sennrich 2019, arXiv:1910.07467, eq. 4.
    """
    x, weight = _checked(x, weight, eps, cast)
    y = np.zeros_like(x)
    for row in np.ndindex(*x.shape[:-1]):
        normalised = _rounded(x[row] * _inverse_rms(x[row], eps), cast)
        y[row] = store(weight * normalised)
    return y


def rms_norm_vjp(
    x: Float[Array, "*lead d"],
    weight: Float[Array, "..."],
    *,
    eps: float,
    cast: str = "after",
    cotangent: Float[Array, "*lead d"],
) -> tuple[Float[Array, "*lead d"], Float[Array, "..."]]:
    """Pull `cotangent` back to x and weight (RMS_NORM-10, -11)."""
    x, weight = _checked(x, weight, eps, cast)
    cotangent, d = float64(cotangent), x.shape[-1]
    dx, along = np.zeros_like(x), np.zeros_like(x)
    for row in np.ndindex(*x.shape[:-1]):
        inverse = _inverse_rms(x[row], eps)
        pulled = _rounded(weight * cotangent[row], cast)
        radial = np.sum(pulled * x[row]) / d
        dx[row] = store(inverse * pulled - x[row] * (inverse * inverse * inverse) * radial)
        along[row] = _rounded(cotangent[row] * _rounded(x[row] * inverse, cast), cast)
    return dx, store(np.sum(along.reshape(-1, d), axis=0))


def _inverse_rms(row: Float[Array, " d"], eps: float) -> Float[Array, ""]:
    return 1 / np.sqrt(np.sum(row * row) / row.shape[0] + eps)


def _rounded(y: Array, cast: str) -> Array:
    return store(y) if cast == "before" else y


def _checked(x: Array, weight: Array, eps: float, cast: str) -> tuple[Array, Array]:
    require_option("cast", cast, CASTS)
    require_finite("eps", eps, least=0.0)
    require_rank("x", x, 1, at_least=True)
    require_rank("weight", weight, 1)
    require_equal("width of weight", weight.shape[0], "width of x", x.shape[-1])
    require_positive("width of x", x.shape[-1])
    return float64(x), float64(weight)
