"""PyTorch's own functions: torch.nn.functional, torch.optim.AdamW in three forms, torch.amp, torch.nn.utils."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from minimind_ref.kit.implementation import Implementation

ALL = ("float64", "float32", "bfloat16", "float16")
BLIND = {"attention.nothing_visible": "other"}  # what a query without a key gives is left to the backend
UNSUPERVISED = {"cross_entropy.nothing_supervised": "nan"}
functional = Implementation("torch.nn.functional", arrays="torch", profiles=ALL)
loss = Implementation("torch cross_entropy", arrays="torch", profiles=ALL[:2], choices=UNSUPERVISED)
narrow_loss = Implementation(
    "torch cross_entropy, narrow logits", arrays="torch", profiles=ALL[2:], choices=UNSUPERVISED
)
math = Implementation("torch scaled_dot_product_attention, math", arrays="torch", profiles=ALL, choices=BLIND)
clipping = Implementation(
    "torch.nn.utils.clip_grad_norm_", arrays="torch", profiles=ALL, choices={"clip_grad_norm.not_finite": "multiplied"}
)
scaler = Implementation(
    "torch.amp.GradScaler", arrays="torch", profiles=ALL[:2], choices={"grad_scaler.smallest_scale": 0}
)
schedule = Implementation("torch CosineAnnealingLR", arrays="torch", profiles=ALL[:1])
IMPLEMENTATIONS = [functional, math, loss, narrow_loss, clipping, scaler, schedule]


@functional.op("rms_norm")
def rms_norm(x: Any, weight: Any, *, eps: float) -> Any:
    """F.rms_norm."""
    return F.rms_norm(x, weight.shape, weight, eps)


@functional.op("swiglu")
def swiglu(x: Any, w_gate: Any, w_up: Any, w_down: Any) -> Any:
    """F.silu between linear layers."""
    return F.linear(F.silu(F.linear(x, w_gate)) * F.linear(x, w_up), w_down)


def visible(q: Any, k: Any, mask: Any, causal: bool) -> Any:
    """Combine the causal rule, aligned at the end, with a mask, as (b or 1, s, t)."""
    s, t = q.shape[1], k.shape[1]
    seen = torch.ones(s, t, dtype=torch.bool).tril(t - s) if causal else torch.ones(s, t, dtype=torch.bool)
    return seen[None] if mask is None else seen & mask


@functional.op("attention")
def attention(q: Any, k: Any, v: Any, *, mask: Any = None, causal: bool = True, scale: float | None = None) -> Any:
    """F.scaled_dot_product_attention; is_causal is aligned at the start, so it is used where s = t alone."""
    seen = visible(q, k, mask, causal)
    plain = causal and mask is None and q.shape[1] == k.shape[1]
    options = {"is_causal": True} if plain else {"attn_mask": seen[:, None]}
    heads = (y.transpose(1, 2) for y in (q, k, v))
    return F.scaled_dot_product_attention(*heads, **options, scale=scale, enable_gqa=True).transpose(1, 2)


@math.op("attention")
def math_attention(*arrays: Any, mask: Any = None, causal: bool = True, scale: float | None = None) -> Any:
    """The same in its explicit backend."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return attention(*arrays, mask=mask, causal=causal, scale=scale)


@narrow_loss.op("cross_entropy")
@loss.op("cross_entropy")
def cross_entropy(logits: Any, labels: Any, *, ignore_index: int = -100, reduction: str = "mean") -> Any:
    """F.cross_entropy on rows."""
    rows, names = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    loss = F.cross_entropy(rows, names, ignore_index=ignore_index, reduction=reduction)
    return loss.reshape(labels.shape) if reduction == "none" else loss


@functional.op("token_logp")
def token_logp(logits: Any, labels: Any) -> Any:
    """F.log_softmax in float32, and gather."""
    kind = torch.float32 if logits.dtype in (torch.float16, torch.bfloat16) else None
    return F.log_softmax(logits, dim=-1, dtype=kind).gather(-1, labels[..., None])[..., 0]


def adamw(**form: bool) -> Callable[..., Any]:
    """Make one step by torch.optim.AdamW from a given state."""

    def step(
        param: Any, grad: Any, mean: Any, square: Any, *, step: int, lr: float, beta1: float, beta2: float, eps: float,
        weight_decay: float,
    ) -> Any:  # fmt: skip
        own = param.detach().clone().requires_grad_()
        own.grad = grad.clone()
        optimiser = torch.optim.AdamW([own], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, **form)
        state = {"step": torch.tensor(step - 1.0), "exp_avg": mean.clone(), "exp_avg_sq": square.clone()}
        optimiser.state[own] = state
        optimiser.step()
        return own.detach(), state["exp_avg"], state["exp_avg_sq"]

    return step


FORMS = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
for label, form in FORMS.items():  # the states of narrow parameters are as narrow: only wide ones are claimed
    made = Implementation(f"torch.optim.AdamW, {label}", arrays="torch", profiles=ALL[:2])
    made.op("adamw.step", adamw(**form))
    IMPLEMENTATIONS.append(made)


def with_gradients(gradients: list[Any]) -> list[Any]:
    """Make parameters that hold these gradients."""
    parameters = [torch.zeros(1) if g is None else torch.zeros_like(g) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    return parameters


@clipping.op("clip_grad_norm")
def clip_grad_norm(gradients: list[Any], max_norm: float) -> Any:
    """torch.nn.utils.clip_grad_norm_."""
    parameters = with_gradients(gradients)
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return [parameter.grad for parameter in parameters], norm


@scaler.op("grad_scaler.unscale")
def unscale(gradients: list[Any], *, scale: float) -> Any:
    """GradScaler.unscale_."""
    own = torch.amp.GradScaler("cpu", init_scale=scale)
    parameters = with_gradients(gradients)
    optimiser = torch.optim.SGD(parameters)
    own.scale(torch.zeros(()))
    own.unscale_(optimiser)
    found = own._per_optimizer_states[id(optimiser)]["found_inf_per_device"]
    return [parameter.grad for parameter in parameters], any(bool(flag) for flag in found.values())


@scaler.op("grad_scaler")
def grad_scaler(overflows: Any, **options: Any) -> Any:
    """GradScaler, driven through windows that overflowed or not."""
    own, scales = torch.amp.GradScaler("cpu", **options), []
    parameter = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.SGD([parameter], lr=0.0)
    for overflow in overflows.tolist():
        own.scale(torch.zeros(()))
        parameter.grad = torch.tensor([torch.inf if overflow else 0.0])
        own.step(optimiser)
        own.update()
        scales.append(own.get_scale())
    return torch.tensor(scales, dtype=torch.float64)


@schedule.op("cosine_schedule")
def cosine_schedule(step: int, *, total_steps: int, peak: float, warmup_steps: int = 0, floor_ratio: float = 0.1):
    """CosineAnnealingLR; the warm-up is LinearLR's, put before it by SequentialLR."""
    parameter = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.SGD([parameter], lr=peak)
    rates = torch.optim.lr_scheduler
    made: Any = rates.CosineAnnealingLR(optimiser, total_steps - warmup_steps, eta_min=peak * floor_ratio)
    if warmup_steps:
        warm = rates.LinearLR(optimiser, 1 / (warmup_steps + 1), total_iters=warmup_steps)
        made = rates.SequentialLR(optimiser, [warm, made], [warmup_steps])
    for _ in range(step):
        optimiser.step()
        made.step()
    return optimiser.param_groups[0]["lr"]
