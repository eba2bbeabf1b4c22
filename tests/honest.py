"""Right implementations that were not written for this project, or that compute in another order: none may be rejected.

An entry claims profiles. It gets a case's inputs, rounded to the profile, as torch tensors or NumPy arrays of the
profile's dtype; `NotClaimed` says that a case asks for something that it does not offer.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from minimind_ref.kit.binding import CannotExpressError
from minimind_ref.kit.peers import torch as torch_peers
from minimind_ref.kit.peers import transformers as hugging_face

NARROW = (np.float16, torch.float16, torch.bfloat16)


class NotClaimed(CannotExpressError):
    """A case is outside what an implementation offers."""


class Honest(NamedTuple):
    """One right implementation of an operation."""

    name: str
    component: str
    op: str
    function: Callable[..., Any]
    arrays: str
    profiles: tuple[str, ...]


HONEST: list[Honest] = []
ALL = ("float64", "float32", "bfloat16", "float16")
NUMPY = ("float64", "float32", "float16")
WIDE = ("float64", "float32")


def honest(component: str, op: str, name: str, *, arrays: str = "torch", profiles: tuple[str, ...] = ALL):
    """Enter the decorated function into the corpus."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        HONEST.append(Honest(name, component, op, function, arrays, profiles))
        return function

    return enter


def claimed(condition: Any) -> None:
    """Leave a case out where an implementation does not offer what it asks for."""
    if not condition:
        raise NotClaimed


def wide(x: Any) -> Any:
    """Widen to the accumulation's precision."""
    if isinstance(x, torch.Tensor):
        return x.float() if x.dtype in NARROW else x
    return x.astype(np.float32) if x.dtype in NARROW else x


# ---- orders of summation ----
def sequential(terms: np.ndarray) -> np.ndarray:
    """Add the last axis from the left."""
    total = np.zeros(terms.shape[:-1], terms.dtype)
    for i in range(terms.shape[-1]):
        total = total + terms[..., i]
    return total


def backwards(terms: np.ndarray) -> np.ndarray:
    """Add the last axis from the right."""
    return sequential(terms[..., ::-1])


def pairwise(terms: np.ndarray) -> np.ndarray:
    """Add the last axis as a balanced tree."""
    n = terms.shape[-1]
    return terms[..., 0] if n == 1 else pairwise(terms[..., : n // 2]) + pairwise(terms[..., n // 2 :])


def chunked(terms: np.ndarray) -> np.ndarray:
    """Add the last axis in pieces of five."""
    return sequential(np.stack([sequential(terms[..., i : i + 5]) for i in range(0, terms.shape[-1], 5)], axis=-1))


def in_every_order(component: str, op: str, made: Callable[..., Any]) -> None:
    """Enter `made(sum)` for each order of summation."""
    for order in (sequential, backwards, pairwise, chunked):
        honest(component, op, order.__name__, arrays="numpy", profiles=NUMPY)(made(order))


def rms_norm_by(add: Callable[..., Any]) -> Callable[..., Any]:
    """Normalise with a given sum."""

    def rms_norm(x, weight, *, eps, cast="after"):
        rows = wide(x)
        with np.errstate(invalid="ignore"):  # a row of zeros where eps is 0
            normed = rows / np.sqrt(add(rows * rows)[..., None] / x.shape[-1] + rows.dtype.type(eps))
        return (normed.astype(x.dtype) * weight if cast == "before" else normed * wide(weight)).astype(x.dtype)

    return rms_norm


def swiglu_by(add: Callable[..., Any]) -> Callable[..., Any]:
    """Multiply matrices with a given sum, and store nothing in between."""

    def swiglu(x, w_gate, w_up, w_down):
        def times(a, w):
            return add(a[..., None, :] * wide(w))

        gate, up = times(wide(x), w_gate), times(wide(x), w_up)
        with np.errstate(over="ignore"):
            return times(gate / (1 + np.exp(-gate)) * up, w_down).astype(x.dtype)

    return swiglu


def cross_entropy_by(add: Callable[..., Any]) -> Callable[..., Any]:
    """Take the logarithm of a given sum."""

    def cross_entropy(logits, labels, *, ignore_index=-100, reduction="mean"):
        keep = labels != ignore_index
        z, names = wide(logits)[keep], labels[keep]
        losses = np.zeros(labels.shape, z.dtype)
        top = np.max(z, axis=-1, initial=-np.inf)
        picked = np.take_along_axis(z, names[:, None], axis=-1)[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            losses[keep] = np.log(add(np.exp(z - top[:, None]))) + (top - picked)
        if reduction == "none":
            return losses
        total = add(losses.reshape(1, -1))[0]
        return total / max(int(keep.sum()), 1) if reduction == "mean" else total

    return cross_entropy


in_every_order("rms_norm", "rms_norm", rms_norm_by)
in_every_order("swiglu", "swiglu", swiglu_by)
in_every_order("cross_entropy", "cross_entropy", cross_entropy_by)


@honest("attention", "attention", "online softmax over blocks of keys", arrays="numpy", profiles=NUMPY)
def online_attention(q, k, v, *, mask=None, causal=True, scale=None):
    s, t, group = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    seen = np.ones((len(q), s, t), bool) if mask is None else mask
    seen = seen & (np.arange(t) <= np.arange(s)[:, None] + t - s) if causal else seen
    query, keys, values = wide(q), np.repeat(wide(k), group, axis=2), np.repeat(wide(v), group, axis=2)
    factor = query.dtype.type(q.shape[-1] ** -0.5 if scale is None else scale)
    top = np.full((len(q), q.shape[2], s, 1), -np.inf, query.dtype)
    total, out = np.zeros_like(top), np.zeros((len(q), q.shape[2], s, q.shape[3]), query.dtype)
    for at in range(0, t, 3):
        block = slice(at, at + 3)
        z = np.einsum("bsnh,btnh->bnst", query * factor, keys[:, block])
        z = np.where(seen[:, None, :, block], z, -np.inf)
        new = np.maximum(top, np.max(z, axis=-1, keepdims=True))
        safe = np.where(np.isinf(new), 0, new)
        weight, kept = np.exp(z - safe), np.exp(np.where(np.isinf(top), -np.inf, top - safe))
        total = total * kept + np.sum(weight, axis=-1, keepdims=True)
        out, top = out * kept + np.einsum("bnst,btnh->bnsh", weight, values[:, block]), new
    return (out / np.where(total == 0, 1, total)).swapaxes(1, 2).astype(q.dtype)


@honest("cross_entropy", "cross_entropy", "online over pieces of the vocabulary", arrays="numpy", profiles=NUMPY)
def online_cross_entropy(logits, labels, *, ignore_index=-100, reduction="mean"):
    keep = labels != ignore_index
    z = wide(logits)[keep]
    top, total = np.full(len(z), -np.inf, z.dtype), np.zeros(len(z), z.dtype)
    with np.errstate(invalid="ignore", divide="ignore"):
        for at in range(0, z.shape[-1], 3):
            new = np.maximum(top, np.max(z[:, at : at + 3], axis=-1))
            safe = np.where(np.isinf(new), 0, new)
            total = total * np.exp(top - safe) + np.sum(np.exp(z[:, at : at + 3] - safe[:, None]), axis=-1)
            top = new
        losses = np.zeros(labels.shape, z.dtype)
        losses[keep] = np.log(total) + top - np.take_along_axis(z, labels[keep][:, None], axis=-1)[:, 0]
    total = np.sum(losses)
    return {"none": losses, "sum": total, "mean": total / max(int(keep.sum()), 1)}[reduction]


@honest("cosine_schedule", "cosine_schedule", "by the cosine itself", arrays="numpy", profiles=NUMPY)
def schedule_by_cosine(step, *, total_steps, peak, warmup_steps=0, floor_ratio=0.1, form="cosine"):
    peak = wide(np.asarray(peak))
    if step >= total_steps:
        return peak * peak.dtype.type(floor_ratio)
    if step < warmup_steps:
        return peak * peak.dtype.type((step + 1) / (warmup_steps + 1))
    turn = (1 + np.cos(np.pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2
    return peak * peak.dtype.type(floor_ratio + (1 if form == "minimind2" else 1 - floor_ratio) * turn)


# ---- torch's own and Hugging Face's: minimind_ref/kit/peers, in the oracles' conventions ----
def of_the_kit(
    component: str, op: str, name: str, function: Callable[..., Any], profiles: tuple[str, ...], **fixed: Any
):
    """Enter a peer of the kit; what it has no argument for must be at the oracle's default."""
    own = inspect.signature(function).parameters
    defaults = inspect.signature(getattr(importlib.import_module(f"minimind_ref.oracle.{component}"), op)).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values())

    def call(*inputs, **options):
        for option, asked in options.items():
            default = defaults[option].default if option in defaults else None
            claimed(option in own or anything or asked is default or asked == default)
        return function(*inputs, **{o: x for o, x in options.items() if o in own or anything})

    def with_inputs_by_name(**given):
        places = [n for n, p in defaults.items() if p.kind is p.POSITIONAL_OR_KEYWORD and n in given]
        return call(*[given.pop(n) for n in places], **given)

    honest(component, op, name, profiles=profiles)(with_inputs_by_name)


def in_sight(function: Callable[..., Any]) -> Callable[..., Any]:
    """Leave out a query that sees nothing: what it gives depends on the backend."""

    def attention(q, k, v, *, mask=None, causal=True, scale=None):
        claimed(torch_peers.visible(q, k, mask, causal).any(-1).all())
        return function(q, k, v, mask=mask, causal=causal, scale=scale)

    return attention


def ordinary_cross_entropy(logits, labels, *, ignore_index=-100, reduction="mean"):
    """Leave out its mean of nothing, NaN, and NaN under an ignored label, which has a gradient of NaN."""
    claimed(reduction != "mean" or (labels != ignore_index).any())
    claimed(logits[labels == ignore_index].isfinite().all())
    return torch_peers.cross_entropy(logits, labels, ignore_index=ignore_index, reduction=reduction)


def wide_cross_entropy(logits, labels, **options):
    return ordinary_cross_entropy(wide(logits), labels, **options)


def step_of(form: dict[str, bool]) -> Callable[..., Any]:
    """Take moments as the oracle does."""
    step = torch_peers.adamw(**form)

    def update(param, grad, moments, **options):
        found = step(param, grad, moments.mean, moments.square, step=int(moments.step) + 1, **options)
        return *found, int(moments.step) + 1

    return update


@honest("rms_norm", "rms_norm", "float32 throughout, rounded once")
def torch_wide_rms_norm(x, weight, *, eps, cast="after"):
    claimed(cast == "after")
    rows = wide(x)
    return (rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps) * wide(weight)).to(x.dtype)


@honest("swiglu", "swiglu", "the sigmoid by a hyperbolic tangent")
def swiglu_by_tanh(x, w_gate, w_up, w_down):
    """½ + ½·tanh(gate/2), in float32 or wider."""
    gate = wide(F.linear(x, w_gate))
    silu = (gate * (0.5 + 0.5 * torch.tanh(0.5 * gate))).to(x.dtype)
    return F.linear(silu * F.linear(x, w_up), w_down)


@honest("grad_scaler", "update", "torch.amp.GradScaler", profiles=("float64",))
def torch_update(state, found_inf, **options):
    claimed(state.scale * options["backoff_factor"] >= 2.0**-126)  # its scale goes on to fall: GRAD_SCALER-6
    scaler = torch.amp.GradScaler("cpu", init_scale=state.scale, **options)
    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.tensor([torch.inf if found_inf else 0.0])
    scaler.scale(torch.zeros(()))
    scaler._growth_tracker.fill_(state.good_steps)
    scaler.step(torch.optim.SGD([parameter], lr=0.0))
    scaler.update()
    return scaler.get_scale(), int(scaler._growth_tracker)


@honest("dpo", "dpo_losses", "torch.nn.functional.logsigmoid")
def torch_dpo_losses(policy_chosen, policy_rejected, reference_chosen, reference_rejected, *, beta, **options):
    claimed(options.get("form", "sigmoid") == "sigmoid")
    ratios = wide(policy_chosen) - wide(policy_rejected)
    margin = ratios - (wide(reference_chosen) - wide(reference_rejected)).detach()
    smoothing = options.get("label_smoothing", 0)
    return -F.logsigmoid(beta * margin) * (1 - smoothing) - F.logsigmoid(-beta * margin) * smoothing


@honest("grpo", "kl_k3", "torch.expm1")
def torch_kl_k3(logp, reference_logp):
    gap = wide(reference_logp).detach() - wide(logp)
    return torch.expm1(gap) - gap


@honest("grpo", "group_advantages", "torch.std")
def torch_advantages(rewards, *, eps=1e-4, ddof=0, scale=True):
    claimed(eps > 0)  # equal rewards, whose mean is rounded, are 0 within the bound but not to the bit
    centred = wide(rewards) - wide(rewards).mean(dim=1, keepdim=True)
    return centred / (wide(rewards).std(dim=1, correction=ddof, keepdim=True) + eps) if scale else centred


@honest("grpo", "grpo_loss", "torch.clamp and torch.minimum")
def torch_grpo_loss(logp, old_logp, reference_logp, advantages, mask, *, clip_low, clip_high, beta, **options):
    claimed(options.get("form", "clip") == "clip")
    marked = mask.bool()
    new, old, reference = (torch.where(marked, wide(y), 0.0) for y in (logp, old_logp, reference_logp))
    ratio, gain = torch.exp(new - old.detach()), wide(advantages)[:, None].detach()
    terms = -torch.minimum(ratio * gain, ratio.clamp(1 - clip_low, 1 + clip_high) * gain)
    terms = torch.where(marked, terms + beta * torch_kl_k3(new, reference) if beta else terms, 0.0)
    if options.get("normalise", "sequence") == "sequence":
        return (terms.sum(1) / marked.sum(1).clamp(min=1)).mean()
    if options["normalise"] == "constant":
        return terms.sum() / (options["length"] * len(terms))
    return terms.sum() / marked.sum().clamp(min=1)


def positive_top_p(logits, *, top_p=1.0, **options):
    claimed(options.get("temperature", 1.0) > 0)
    # of tokens that tie it keeps another one: SAMPLING-5 has the lower id ahead
    claimed(top_p == 1 or all(len(row.unique()) == len(row) for row in logits))
    return hugging_face.filter_logits(logits, top_p=top_p, **options)


def balance_of(family: str) -> Callable[..., Any]:
    """Run a family's load-balancing loss on the router's logits: the slots form, without its coefficient."""

    def balance(x, w_router, experts, *, num_chosen, form, coef, counts=None, **_):
        claimed(form != "sequence")
        loss = hugging_face.family(family).load_balancing_loss_func
        aux = loss((x @ w_router.T,), len(w_router), num_chosen, counts)
        return {"aux": coef * aux / (1 if form == "slots" else num_chosen)}

    return balance


def cast_before(norm: Callable[..., Any]) -> Callable[..., Any]:
    """Take the option cast, to which narrow inputs are fixed."""

    def rms_norm(x, weight, *, eps, cast="after"):
        claimed(cast == "before" or x.dtype == torch.float32)
        return norm(x, weight, eps=eps)

    return rms_norm


def router(x, w_router, *, num_chosen, normalise):
    return hugging_face.routing("qwen3_moe", "Qwen3MoeTopKRouter", x, w_router, num_chosen, normalise)


LOW = ("float32", "bfloat16", "float16")
SDPA, LOSS = "scaled_dot_product_attention", "torch.nn.functional.cross_entropy"
of_the_kit("rms_norm", "rms_norm", "torch.nn.functional.rms_norm", torch_peers.rms_norm, ALL)
of_the_kit("swiglu", "swiglu", "torch.nn.functional.silu between linear layers", torch_peers.swiglu, ALL)
of_the_kit("attention", "attention", f"torch.nn.functional.{SDPA}", in_sight(torch_peers.attention), ALL)
of_the_kit("cross_entropy", "cross_entropy", LOSS, ordinary_cross_entropy, WIDE)
of_the_kit("cross_entropy", "cross_entropy", f"{LOSS} on widened logits", wide_cross_entropy, ALL)
of_the_kit("cross_entropy", "token_logp", "torch.nn.functional.log_softmax and gather", torch_peers.token_logp, ALL)
for label, form in torch_peers.FORMS.items():
    of_the_kit("adamw", "adamw_update", f"torch.optim.AdamW, {label}", step_of(form), WIDE)
of_the_kit("grad_clip", "clip_grad_norm", "torch.nn.utils.clip_grad_norm_", torch_peers.clip_grad_norm, WIDE)
of_the_kit("grad_scaler", "unscale", "torch.amp.GradScaler", torch_peers.unscale, WIDE)

for family, part in (("llama", "LlamaRMSNorm"), ("qwen3", "Qwen3RMSNorm")):
    of_the_kit("rms_norm", "rms_norm", f"transformers' {part}", cast_before(hugging_face.norm(family, part)), LOW)
of_the_kit("rope", "apply_rope", "transformers' apply_rotary_pos_emb", hugging_face.apply_rope, WIDE)
of_the_kit("rope", "rope_table", "transformers' LlamaRotaryEmbedding", hugging_face.rope_table, ("float32",))
eager = in_sight(hugging_face.attention)
of_the_kit("attention", "attention", "transformers' eager_attention_forward", eager, LOW)
of_the_kit("swiglu", "swiglu", "transformers' LlamaMLP", hugging_face.swiglu, ALL)
of_the_kit("moe", "route", "transformers' Qwen3MoeTopKRouter", router, ("float32",))
for family in ("mixtral", "qwen3_moe"):
    label = f"transformers' load_balancing_loss_func of {family}"
    honest("moe", "moe", label, profiles=("float32",))(balance_of(family))
of_the_kit("sampling", "filter_logits", "transformers' logits processors", positive_top_p, WIDE)
penalty = hugging_face.penalise_repetition
of_the_kit("sampling", "penalise_repetition", "transformers' RepetitionPenaltyLogitsProcessor", penalty, WIDE)
