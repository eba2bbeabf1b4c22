"""Wrong gated feed-forward layers."""

from math import erf, pi

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.swiglu import swiglu, swiglu_vjp


def sigmoid(z):
    """Give 1/(1 + exp(−z))."""
    return 1 / (1 + np.exp(-z))


def gated(activation, x, w_gate, w_up, w_down):
    """Give the gated layer with another activation."""
    return (activation(x @ w_gate.T) * (x @ w_up.T)) @ w_down.T


@mutant("swiglu", "SWIGLU-M01", owner="SWIGLU-3", summary="SiLU acts on the product of gate and up",
        source="Nijikadesu/breakdown-minimind #3 (FFN-1)")  # fmt: skip
def silu_of_the_product(x, w_gate, w_up, w_down):
    both = (x @ w_gate.T) * (x @ w_up.T)
    return (both * sigmoid(both)) @ w_down.T


@mutant("swiglu", "SWIGLU-M02", owner="SWIGLU-3", summary="gate and up are exchanged", source="mlx-lm PR #767 (FFN-2)")
def gate_and_up_exchanged(x, w_gate, w_up, w_down):
    return swiglu(x, w_up, w_gate, w_down)


@mutant("swiglu", "SWIGLU-M03", owner="SWIGLU-1", summary="there is no gate: SiLU of one projection",
        source="timesfm #493 (FFN-3)")  # fmt: skip
def ungated(x, w_gate, w_up, w_down):
    up = x @ w_up.T
    return (up * sigmoid(up)) @ w_down.T


@mutant("swiglu", "SWIGLU-M04", owner="SWIGLU-2", summary="the activation is GELU by tanh",
        source="gemma_pytorch PR #37 (FFN-4)")  # fmt: skip
def tanh_gelu(x, w_gate, w_up, w_down):
    def gelu(z):
        return z / 2 * (1 + np.tanh(np.sqrt(2 / pi) * (z + 0.044715 * z**3)))

    return gated(gelu, x, w_gate, w_up, w_down)


@mutant("swiglu", "SWIGLU-M05", owner="SWIGLU-2", summary="the activation is exact GELU",
        source="transformers PR #29402 (FFN-4)")  # fmt: skip
def exact_gelu(x, w_gate, w_up, w_down):
    phi = np.vectorize(lambda z: (1 + erf(z / 2**0.5)) / 2, otypes=[x.dtype])
    return gated(lambda z: z * phi(z), x, w_gate, w_up, w_down)


@mutant("swiglu", "SWIGLU-M06", owner="SWIGLU-2", summary="the activation is z·sigmoid(1.702·z)",
        source="GELU's quick form")  # fmt: skip
def quick_gelu(x, w_gate, w_up, w_down):
    return gated(lambda z: z * sigmoid(1.702 * z), x, w_gate, w_up, w_down)


@mutant("swiglu", "SWIGLU-M07", owner="SWIGLU-1", summary="the gate is a sigmoid, not z·sigmoid(z)",
        source="GLU in SwiGLU's place")  # fmt: skip
def plain_glu(x, w_gate, w_up, w_down):
    return gated(sigmoid, x, w_gate, w_up, w_down)


@mutant("swiglu", "SWIGLU-M08", owner="SWIGLU-2", summary="the activation is ReLU", source="ReGLU in SwiGLU's place")
def reglu(x, w_gate, w_up, w_down):
    return gated(lambda z: np.maximum(z, 0), x, w_gate, w_up, w_down)


@mutant("swiglu", "SWIGLU-M09", owner="SWIGLU-8", source="a sigmoid for negative numbers used for all",
        summary="z·exp(z)/(1 + exp(z)) is infinity over infinity for wide gates")  # fmt: skip
def overflowing_silu(x, w_gate, w_up, w_down):
    return gated(lambda z: z * np.exp(z) / (1 + np.exp(z)), x, w_gate, w_up, w_down)


@mutant("swiglu", "SWIGLU-M10", owner="SWIGLU-8", summary="gate values are clamped to at most 7",
        source="another family's clamped SwiGLU")  # fmt: skip
def clamped_gate(x, w_gate, w_up, w_down):
    return gated(lambda z: np.minimum(z, 7) * sigmoid(np.minimum(z, 7)), x, w_gate, w_up, w_down)


@mutant("swiglu", "SWIGLU-M11", owner="SWIGLU-10", summary="products of matrices accumulate in the inputs' precision",
        source="a reduction kernel without a wide accumulator", narrow=True)  # fmt: skip
def narrow_accumulation(x, w_gate, w_up, w_down):
    def times(a, matrix):
        total = np.zeros((*a.shape[:-1], matrix.shape[0]), a.dtype)
        for i in range(a.shape[-1]):
            total = total + a[..., i, None] * matrix[:, i]
        return total

    gate = times(x, w_gate)
    return times(gate * sigmoid(gate) * times(x, w_up), w_down)


@mutant("swiglu", "SWIGLU-M12", owner="SWIGLU-9", summary="SiLU's slope lacks the term of the sigmoid's slope",
        source="sigmoid taken for a constant", gradient=True)  # fmt: skip
def slope_of_a_constant_sigmoid(x, w_gate, w_up, w_down, *, cotangent):
    gate, pulled = x @ w_gate.T, cotangent @ w_down
    dgate = pulled * (x @ w_up.T) * sigmoid(gate)
    dx = dgate @ w_gate + (pulled * gate * sigmoid(gate)) @ w_up
    dw_gate = dgate.reshape(-1, dgate.shape[-1]).T @ x.reshape(-1, x.shape[-1])
    return dx, dw_gate, *swiglu_vjp(x, w_gate, w_up, w_down, cotangent=cotangent)[2:]


@mutant("swiglu", "SWIGLU-M13", owner="SWIGLU-9", summary="the gradient of x lacks the gate's branch",
        source="a fused backward pass that writes where it should add", gradient=True)  # fmt: skip
def branch_overwritten(x, w_gate, w_up, w_down, *, cotangent):
    gate = x @ w_gate.T
    dx = (cotangent @ w_down * gate * sigmoid(gate)) @ w_up
    return dx, *swiglu_vjp(x, w_gate, w_up, w_down, cotangent=cotangent)[1:]
