"""MLX: mlx.core.fast, mlx.nn.losses, mlx.optimizers."""

from typing import Any

import mlx.core as mx  # type: ignore
import mlx.nn as nn  # type: ignore
import mlx.optimizers as optimizers  # type: ignore

from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.peers.offer import offered

ALL = ("float32", "bfloat16", "float16")
fast = Implementation(  # off the GPU its RMSNorm is rounded before the weight
    "mlx.core.fast", arrays="mlx", profiles=ALL,
    choices={"rms_norm.cast": "before", "attention.nothing_visible": "other"},
)  # fmt: skip
silu = Implementation("mlx.nn.silu SwiGLU", arrays="mlx", profiles=ALL)
loss = Implementation("mlx.nn.losses.cross_entropy", arrays="mlx", profiles=ALL[:1])
adamw = Implementation("mlx.optimizers.AdamW", arrays="mlx", profiles=ALL[:1])
clipping = Implementation(
    "mlx.optimizers.clip_grad_norm", arrays="mlx", profiles=ALL, choices={"clip_grad_norm.not_finite": "multiplied"}
)
schedule = Implementation("mlx.optimizers.cosine_decay", arrays="mlx")
IMPLEMENTATIONS = [fast, silu, loss, adamw, clipping, schedule]


@fast.op("rms_norm")
def rms_norm(x: Any, weight: Any, *, eps: float) -> Any:
    """mx.fast.rms_norm."""
    return mx.fast.rms_norm(x, weight, eps)


@fast.op("attention")
def attention(q: Any, k: Any, v: Any, *, mask: Any = None, causal: bool = True, scale: float | None = None) -> Any:
    """mx.fast.scaled_dot_product_attention; its causal mask is aligned at the end."""
    s, t = q.shape[1], k.shape[1]
    seen: Any = "causal" if causal else None
    if mask is not None:
        seen = mx.tril(mx.ones((s, t)), t - s).astype(mx.bool_) & mask if causal else mask
        seen = seen[:, None]
    heads = (y.swapaxes(1, 2) for y in (q, k, v))
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    return mx.fast.scaled_dot_product_attention(*heads, scale=factor, mask=seen).swapaxes(1, 2)


@fast.op("rope_table")
def rope_table(positions: Any, frequencies: Any, *, attention_factor: float = 1.0) -> Any:
    """mx.fast.rope of the vector (factor, …, 0, …): the table that it turns by; it takes wavelengths."""
    offered(mx.all(frequencies > 0).item(), "a frequency of 0 has no wavelength")
    half, flat = len(frequencies), positions.reshape(-1)
    x = mx.concatenate([mx.full((len(flat), 1, 1, half), attention_factor), mx.zeros((len(flat), 1, 1, half))], axis=-1)
    turned = mx.fast.rope(
        x, 2 * half, traditional=False, base=None, scale=1.0, offset=flat.astype(mx.int32), freqs=1 / frequencies
    )
    return tuple(y.reshape(*positions.shape, half) for y in (turned[..., :half], turned[..., half:]))


@silu.op("swiglu")
def swiglu(x: Any, w_gate: Any, w_up: Any, w_down: Any) -> Any:
    """nn.silu between products."""
    return (nn.silu(x @ w_gate.T) * (x @ w_up.T)) @ w_down.T


@loss.op("cross_entropy")
def cross_entropy(logits: Any, labels: Any, *, ignore_index: int = -100, reduction: str = "mean") -> Any:
    """nn.losses.cross_entropy; it has no label that is ignored."""
    offered(not mx.any(labels == ignore_index).item(), "no label can be ignored")
    return nn.losses.cross_entropy(logits, labels, reduction=reduction)  # type: ignore[arg-type]


@adamw.op("adamw.step")
def adamw_step(
    param: Any, grad: Any, mean: Any, square: Any, *, step: int, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float,
) -> Any:  # fmt: skip
    """AdamW from a given state, with its bias correction on."""
    rule = optimizers.AdamW(lr, [beta1, beta2], eps, weight_decay, bias_correction=True)
    rule.init({"p": param})
    rule.state["step"], rule.state["p"] = mx.array(step - 1, mx.uint64), {"m": mean, "v": square}
    new = rule.apply_gradients({"p": grad}, {"p": param})
    return new["p"], rule.state["p"]["m"], rule.state["p"]["v"]


@clipping.op("clip_grad_norm")
def clip_grad_norm(gradients: list[Any], max_norm: float) -> Any:
    """clip_grad_norm."""
    held = [gradient for gradient in gradients if gradient is not None]
    clipped, norm = optimizers.clip_grad_norm(held, max_norm)
    left = iter(clipped)
    return [None if gradient is None else next(left) for gradient in gradients], norm


@schedule.op("cosine_schedule")
def cosine_schedule(
    step: int, *, total_steps: int, peak: float, warmup_steps: int = 0, floor_ratio: float = 0.1
) -> Any:
    """cosine_decay, after linear_schedule from peak/(warmup + 1)."""
    offered(total_steps > warmup_steps, "a warm-up that fills the whole run is refused")
    rule = optimizers.cosine_decay(peak, total_steps - warmup_steps, peak * floor_ratio)
    if warmup_steps:
        warm = optimizers.linear_schedule(peak / (warmup_steps + 1), peak, warmup_steps)
        rule = optimizers.join_schedules([warm, rule], [warmup_steps])
    return rule(mx.array(step))
