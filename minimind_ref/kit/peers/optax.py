"""Optax: adamw, clip_by_global_norm, the cosine schedule, the cross entropy."""

from typing import Any

import jax  # type: ignore
import jax.numpy as jnp  # type: ignore
import optax  # type: ignore

from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.peers.jax import PROFILES
from minimind_ref.kit.peers.offer import offered

WIDE = PROFILES[: 1 + PROFILES.index("float32")]  # float64 where it is enabled, and float32
adamw = Implementation("optax.adamw", arrays="jax", profiles=WIDE)
clipping = Implementation(
    "optax.clip_by_global_norm", arrays="jax", profiles=PROFILES,
    choices={"clip_grad_norm.constant": 0, "clip_grad_norm.not_finite": "multiplied"},
)  # fmt: skip
schedule = Implementation("optax cosine schedules", arrays="jax")
loss = Implementation("optax cross entropy", arrays="jax", profiles=WIDE)
IMPLEMENTATIONS = [adamw, clipping, schedule, loss]


@adamw.op("adamw.step")
@jax.jit
def adamw_step(
    param: Any, grad: Any, mean: Any, square: Any, *, step: int, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float,
) -> Any:  # fmt: skip
    """optax.adamw from a given state."""
    rule = optax.adamw(lr, beta1, beta2, eps, weight_decay=weight_decay)
    first, *rest = rule.init(param)  # type: ignore[misc]
    state = (first._replace(count=jnp.asarray(step - 1, jnp.int32), mu=mean, nu=square), *rest)  # type: ignore
    change, (after, *_) = rule.update(grad, state, param)  # type: ignore[misc]
    return optax.apply_updates(param, change), after.mu, after.nu


@clipping.op("clip_grad_norm")
def clip_grad_norm(gradients: list[Any], max_norm: float) -> Any:
    """optax.clip_by_global_norm, and optax.global_norm before it."""
    rule = optax.clip_by_global_norm(max_norm)
    clipped, _ = rule.update(gradients, rule.init(gradients))
    return clipped, optax.global_norm(gradients)


@schedule.op("cosine_schedule")
def cosine_schedule(
    step: int, *, total_steps: int, peak: float, warmup_steps: int = 0, floor_ratio: float = 0.1
) -> Any:
    """cosine_decay_schedule, or warmup_cosine_decay_schedule from peak/(warmup + 1)."""
    offered(total_steps > warmup_steps, "a warm-up that fills the whole run is refused")
    if not warmup_steps:
        return optax.cosine_decay_schedule(peak, total_steps, alpha=floor_ratio)(step)
    first = peak / (warmup_steps + 1)
    rule = optax.warmup_cosine_decay_schedule(first, peak, warmup_steps, total_steps, end_value=peak * floor_ratio)
    return rule(step)


@loss.op("cross_entropy")
def cross_entropy(logits: Any, labels: Any, *, ignore_index: int = -100, reduction: str = "mean") -> Any:
    """softmax_cross_entropy_with_integer_labels; it has no label that is ignored."""
    offered(not (labels == ignore_index).any(), "no label can be ignored")
    rows = jax.jit(optax.softmax_cross_entropy_with_integer_labels)(logits, labels)
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]
