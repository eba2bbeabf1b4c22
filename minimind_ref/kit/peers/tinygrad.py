"""tinygrad: nn.RMSNorm, scaled_dot_product_attention, sparse_categorical_crossentropy, nn.optim.AdamW.

On the CPU it compiles with clang, which must be on the path.
"""

from typing import Any

import numpy as np
from tinygrad import Context, Tensor, dtypes  # type: ignore
from tinygrad.nn import RMSNorm  # type: ignore
from tinygrad.nn.optim import AdamW  # type: ignore

from minimind_ref.kit.arrays import Library, Plain, widened
from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.peers.offer import offered


def array(x: np.ndarray, dtype: str) -> Tensor:
    """Make a Tensor."""
    if x.dtype.kind != "f":
        return Tensor(x)
    return Tensor(x.astype(np.float32)).cast(getattr(dtypes, dtype)).realize()


def plain(y: Tensor) -> Plain:
    """Give a Tensor's numbers."""
    dtype = {"float": "float32", "half": "float16"}.get(y.dtype.name, y.dtype.name)
    return widened((y.float() if dtype == "__bf16" else y).numpy())[0], dtype


def gradient(run: Any, wanted: list[Any], cotangents: list[Any]) -> list[Any]:
    """Tensor.gradient of Σ cotangent · output."""
    sources = [x.detach().contiguous().realize() for x in wanted]
    outputs = run(sources)
    total = sum(((y * c.cast(y.dtype)).sum() for y, c in zip(outputs, cotangents, strict=True)), Tensor(0.0))
    return list(total.gradient(*sources))


tensors = Library("tinygrad", array, lambda y: isinstance(y, Tensor), plain, ("float32",), gradient)
CHOICES = {"cross_entropy.nothing_supervised": "nan", "attention.nothing_visible": "other"}
nn = Implementation("tinygrad", arrays=tensors, choices=CHOICES)
IMPLEMENTATIONS = [nn]


@nn.op("rms_norm")
def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """nn.RMSNorm."""
    module = RMSNorm(x.shape[-1], eps)
    module.weight = weight
    return module(x)


@nn.op("swiglu")
def swiglu(x: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor) -> Tensor:
    """Tensor.silu between products."""
    return ((x @ w_gate.T).silu() * (x @ w_up.T)) @ w_down.T


@nn.op("attention")
def attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Any = None, causal: bool = True) -> Tensor:
    """Tensor.scaled_dot_product_attention."""
    s, t = q.shape[1], k.shape[1]
    heads = [y.transpose(1, 2) for y in (q, k, v)]
    if causal and mask is None and s == t:
        return heads[0].scaled_dot_product_attention(*heads[1:], is_causal=True, enable_gqa=True).transpose(1, 2)
    seen = Tensor.ones(s, t, dtype=dtypes.bool)
    seen = (seen.tril(t - s) if causal else seen).unsqueeze(0)
    seen = (seen if mask is None else seen & mask).unsqueeze(1)
    return heads[0].scaled_dot_product_attention(*heads[1:], attn_mask=seen, enable_gqa=True).transpose(1, 2)


@nn.op("cross_entropy")
def cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """Tensor.sparse_categorical_crossentropy."""
    offered(ignore_index != -1, "-1 says that no label is ignored")
    return logits.sparse_categorical_crossentropy(labels, ignore_index=ignore_index, reduction=reduction)


@nn.op("adamw.step")
def adamw_step(
    param: Tensor, grad: Tensor, mean: Tensor, square: Tensor, *, step: int, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float,
) -> Any:  # fmt: skip
    """nn.optim.AdamW from a given state; the powers of its betas are multiplied up to the step."""
    own = Tensor(param.numpy()).is_param_(True)
    with Context(TRAINING=1):
        rule = AdamW([own], lr, beta1, beta2, eps, weight_decay)
        rule.m[0].assign(mean).realize()
        rule.v[0].assign(square).realize()
        rule.b1_t = Tensor([float(np.float32(beta1) ** (step - 1))]).is_param_(False)
        rule.b2_t = Tensor([float(np.float32(beta2) ** (step - 1))]).is_param_(False)
        own.grad = grad
        rule.step()
    return own, rule.m[0], rule.v[0]
