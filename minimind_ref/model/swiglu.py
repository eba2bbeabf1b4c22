"""Gated feed-forward network.  Spec: specs/swiglu.md."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minimind_ref.checks import require_positive, require_rank, require_shape


def swiglu(
    x: Float[Tensor, "*lead d"],
    w_gate: Float[Tensor, "..."],
    w_up: Float[Tensor, "..."],
    w_down: Float[Tensor, "..."],
) -> Float[Tensor, "*lead d"]:
    """W_down (silu(W_gate x) ⊙ W_up x), W_gate and W_up (f, d), W_down (d, f), silu(a) = a·σ(a) (SWIGLU-1).

    Source: Shazeer 2020, arXiv:2002.05202, eq. 6.  Differs: no biases.
    """
    require_rank("w_gate", w_gate, 2)
    f, d = w_gate.shape
    require_shape("x", x, (*x.shape[:-1], d), f"the columns of w_gate, shape {(f, d)}")
    require_shape("w_up", w_up, (f, d), "the shape of w_gate")
    require_shape("w_down", w_down, (d, f), "the shape of w_gate, transposed")
    require_positive("width of x", d)
    require_positive("FFN width", f)
    gate = F.silu(F.linear(x, w_gate))
    return F.linear(gate * F.linear(x, w_up), w_down)


class SwiGLU(nn.Module):
    """`swiglu` with owned projections, under MiniMind's names."""

    def __init__(self, d: int, f: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d, f, bias=False)
        self.up_proj = nn.Linear(d, f, bias=False)
        self.down_proj = nn.Linear(f, d, bias=False)

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight

    def forward(self, x: Float[Tensor, "*lead d"]) -> Float[Tensor, "*lead d"]:
        return swiglu(x, *self.weights)
