"""Root-mean-square normalisation.  Spec: specs/rms_norm.md."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minimind_ref.checks import require_finite, require_positive, require_shape


def rms_norm(
    x: Float[Tensor, "*lead d"], weight: Float[Tensor, "..."], *, eps: float, cast: str = "after"
) -> Float[Tensor, "*lead d"]:
    """Scale each vector to unit root-mean-square, then by `weight`: y = w · x / √(mean(x²) + eps) (RMS_NORM-1).

    The statistic is taken in float32 or wider.  `cast` says where the result is rounded to x's dtype:
    "after" the weight (MiniMind-3), or "before" and again after it (MiniMind2, Llama).

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.  Differs: eps inside the root, as in Llama.
    """
    if cast not in ("before", "after"):
        raise ValueError(f"cast={cast!r} must be 'before' or 'after'")
    require_finite("eps", eps, least=0.0)
    if x.ndim == 0:
        raise ValueError("x has 0 axes but needs a last one, the width")
    require_shape("weight", weight, (x.shape[-1],), "the width of x")
    require_positive("width of x", x.shape[-1])
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    unit = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    if cast == "before":
        unit = unit.to(x.dtype)
    return (weight * unit).to(x.dtype)


class RMSNorm(nn.Module):
    """`rms_norm` with an owned weight, ones at the start."""

    def __init__(self, d: int, eps: float, cast: str = "after") -> None:
        super().__init__()
        self.eps, self.cast = eps, cast
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x: Float[Tensor, "*lead d"]) -> Float[Tensor, "*lead d"]:
        return rms_norm(x, self.weight, eps=self.eps, cast=self.cast)
