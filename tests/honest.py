"""Right implementations that were not written for this project, or that compute in another order: none may be rejected.

An entry claims profiles. It gets a case's inputs, rounded to the profile, as torch tensors or NumPy arrays of the
profile's dtype; `NotClaimed` says that a case asks for something that it does not offer.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

NARROW = (np.float16, torch.float16, torch.bfloat16)


class NotClaimed(Exception):
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


# ---- torch's own ----
@honest("rms_norm", "rms_norm", "torch.nn.functional.rms_norm")
def torch_rms_norm(x, weight, *, eps, cast="after"):
    claimed(cast == "after")
    return F.rms_norm(x, weight.shape, weight, eps)


@honest("rms_norm", "rms_norm", "float32 throughout, rounded once")
def torch_wide_rms_norm(x, weight, *, eps, cast="after"):
    claimed(cast == "after")
    rows = wide(x)
    return (rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps) * wide(weight)).to(x.dtype)


@honest("swiglu", "swiglu", "torch.nn.functional.silu between linear layers")
def torch_swiglu(x, w_gate, w_up, w_down):
    return F.linear(F.silu(F.linear(x, w_gate)) * F.linear(x, w_up), w_down)


@honest("attention", "attention", "torch.nn.functional.scaled_dot_product_attention")
def sdpa(q, k, v, *, mask=None, causal=True, scale=None):
    s, t = q.shape[1], k.shape[1]
    seen = torch.ones(s, t, dtype=torch.bool).tril(t - s) if causal else torch.ones(s, t, dtype=torch.bool)
    seen = seen if mask is None else (seen & mask)[:, None]
    claimed(seen.any(-1).all())  # a query that sees nothing: NaN in some of its backends
    heads = (y.transpose(1, 2) for y in (q, k, v))
    plain = causal and mask is None and s == t
    options = {"is_causal": True} if plain else {"attn_mask": seen}
    return F.scaled_dot_product_attention(*heads, **options, scale=scale, enable_gqa=True).transpose(1, 2)


@honest("cross_entropy", "cross_entropy", "torch.nn.functional.cross_entropy", profiles=WIDE)
def torch_cross_entropy(logits, labels, *, ignore_index=-100, reduction="mean"):
    claimed(reduction != "mean" or (labels != ignore_index).any())  # its mean of nothing is NaN
    claimed(logits[labels == ignore_index].isfinite().all())  # NaN under an ignored label: a gradient of NaN
    rows, names = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    loss = F.cross_entropy(rows, names, ignore_index=ignore_index, reduction=reduction)
    return loss.reshape(labels.shape) if reduction == "none" else loss


@honest("cross_entropy", "cross_entropy", "torch.nn.functional.cross_entropy on widened logits")
def torch_wide_cross_entropy(logits, labels, **options):
    return torch_cross_entropy(wide(logits), labels, **options)


@honest("cross_entropy", "token_logp", "torch.nn.functional.log_softmax and gather")
def torch_token_logp(logits, labels):
    return F.log_softmax(wide(logits), dim=-1).gather(-1, labels[..., None])[..., 0]


def torch_adamw(**form: bool):
    """Make one step by torch.optim.AdamW from a given state; its low-precision states are not float32."""

    def step(param, grad, moments, *, lr, beta1, beta2, eps, weight_decay):
        own = param.detach().clone().requires_grad_()
        own.grad = grad.clone()
        optimiser = torch.optim.AdamW([own], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, **form)
        count = torch.tensor(float(moments.step))
        state = {"step": count, "exp_avg": moments.mean.clone(), "exp_avg_sq": moments.square.clone()}
        optimiser.state[own] = state
        optimiser.step()
        return own.detach(), state["exp_avg"], state["exp_avg_sq"], int(state["step"])

    return step


for kind in ("foreach", "fused"):
    honest("adamw", "adamw_update", f"torch.optim.AdamW, {kind}", profiles=WIDE)(torch_adamw(**{kind: True}))
honest("adamw", "adamw_update", "torch.optim.AdamW, one by one", profiles=WIDE)(torch_adamw(foreach=False))


@honest("grad_clip", "clip_grad_norm", "torch.nn.utils.clip_grad_norm_", profiles=WIDE)
def torch_clip_grad_norm(gradients, max_norm):
    parameters = [torch.zeros_like(grad).requires_grad_() for grad in gradients]
    for parameter, grad in zip(parameters, gradients, strict=True):
        parameter.grad = grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return [parameter.grad for parameter in parameters], norm


@honest("grad_scaler", "unscale", "torch.amp.GradScaler", profiles=WIDE)
def torch_unscale(gradients, *, scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    parameters = [torch.zeros_like(grad).requires_grad_() for grad in gradients]
    for parameter, grad in zip(parameters, gradients, strict=True):
        parameter.grad = grad.clone()
    optimiser = torch.optim.SGD(parameters)
    scaler.scale(torch.zeros(()))
    scaler.unscale_(optimiser)
    found = scaler._per_optimizer_states[id(optimiser)]["found_inf_per_device"]
    return [parameter.grad for parameter in parameters], any(bool(flag) for flag in found.values())


@honest("grad_scaler", "update", "torch.amp.GradScaler", profiles=("float64",))
def torch_update(state, found_inf, **options):
    claimed(state.scale >= 2.0**-125)  # its scale goes on to fall: GRAD_SCALER-6
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


# ---- Hugging Face's ----
def transformers(name: str) -> Any:
    """Import a module of transformers, or leave the case out."""
    try:
        return importlib.import_module(f"transformers.{name}")
    except ImportError:
        raise NotClaimed from None


def hugging_face_norm(family: str, name: str) -> Callable[..., Any]:
    """Run a family's RMSNorm, whose statistic is float32 whatever the input and whose cast comes before the weight."""

    def rms_norm(x, weight, *, eps, cast="after"):
        claimed(cast == "before" or x.dtype == torch.float32)
        module = getattr(transformers(f"models.{family}.modeling_{family}"), name)(len(weight), eps)
        return torch.func.functional_call(module, {"weight": weight}, (x,))

    return rms_norm


LOW = ("float32", "bfloat16", "float16")
honest("rms_norm", "rms_norm", "transformers' LlamaRMSNorm", profiles=LOW)(hugging_face_norm("llama", "LlamaRMSNorm"))
honest("rms_norm", "rms_norm", "transformers' Qwen3RMSNorm", profiles=LOW)(hugging_face_norm("qwen3", "Qwen3RMSNorm"))


@honest("rope", "apply_rope", "transformers' apply_rotary_pos_emb", profiles=WIDE)
def hugging_face_rope(x, cos, sin):
    rotate = transformers("models.llama.modeling_llama").apply_rotary_pos_emb
    twice = [torch.cat((y, y), dim=-1) for y in (cos, sin)]
    twice = [y if y.ndim == 3 else y[None] for y in twice]
    return rotate(x, x, *twice, unsqueeze_dim=2)[0]


@honest("rope", "rope_table", "transformers' LlamaRotaryEmbedding", profiles=("float32",))
def hugging_face_table(positions, frequencies, *, attention_factor=1.0):
    llama, config = transformers("models.llama.modeling_llama"), transformers("models.llama").LlamaConfig()
    module = llama.LlamaRotaryEmbedding(config)
    module.inv_freq, module.attention_scaling = frequencies, attention_factor
    cos, sin = module(frequencies, positions if positions.ndim == 2 else positions[None])
    shape = (*positions.shape, len(frequencies))
    return tuple(y[..., : len(frequencies)].reshape(shape) for y in (cos, sin))


@honest("attention", "attention", "transformers' eager_attention_forward", profiles=LOW)
def hugging_face_attention(q, k, v, *, mask=None, causal=True, scale=None):
    s, t = q.shape[1], k.shape[1]
    seen = torch.ones(s, t, dtype=torch.bool).tril(t - s) if causal else torch.ones(s, t, dtype=torch.bool)
    seen = seen[None] if mask is None else seen & mask
    claimed(seen.any(-1).all())  # a query that sees nothing gets the mean there
    added = torch.zeros(seen.shape, dtype=q.dtype).masked_fill(~seen, torch.finfo(q.dtype).min)[:, None]
    module = torch.nn.Module().eval()
    module.num_key_value_groups = q.shape[2] // k.shape[2]
    heads = (y.transpose(1, 2) for y in (q, k, v))
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    return transformers("models.llama.modeling_llama").eager_attention_forward(module, *heads, added, factor)[0]


@honest("swiglu", "swiglu", "transformers' LlamaMLP")
def hugging_face_mlp(x, w_gate, w_up, w_down):
    config = transformers("models.llama").LlamaConfig(
        hidden_size=x.shape[-1], intermediate_size=len(w_gate), num_attention_heads=1, num_key_value_heads=1, head_dim=2
    )
    module = transformers("models.llama.modeling_llama").LlamaMLP(config)
    weights = {"gate_proj.weight": w_gate, "up_proj.weight": w_up, "down_proj.weight": w_down}
    return torch.func.functional_call(module, weights, (x,))


@honest("moe", "route", "transformers' Qwen3MoeTopKRouter", profiles=("float32",))
def hugging_face_router(x, w_router, *, num_chosen, normalise):
    options = {"num_experts_per_tok": num_chosen, "num_experts": len(w_router), "norm_topk_prob": normalise}
    config = transformers("models.qwen3_moe").Qwen3MoeConfig(hidden_size=x.shape[-1], **options)
    module = transformers("models.qwen3_moe.modeling_qwen3_moe").Qwen3MoeTopKRouter(config)
    logits, weight, index = torch.func.functional_call(module, {"weight": w_router}, (x,))
    return torch.softmax(logits, dim=-1), weight, index


def hugging_face_balance(family: str) -> Callable[..., Any]:
    """Run a family's load-balancing loss on the router's logits: the slots form, without its coefficient."""

    def balance(x, w_router, experts, *, num_chosen, form, coef, counts=None, **_):
        claimed(form != "sequence")
        loss = transformers(f"models.{family}.modeling_{family}").load_balancing_loss_func
        aux = loss((x @ w_router.T,), len(w_router), num_chosen, counts)
        return {"aux": coef * aux / (1 if form == "slots" else num_chosen)}

    return balance


for family in ("mixtral", "qwen3_moe"):
    label = f"transformers' load_balancing_loss_func of {family}"
    honest("moe", "moe", label, profiles=("float32",))(hugging_face_balance(family))


@honest("sampling", "filter_logits", "transformers' logits processors", profiles=WIDE)
def hugging_face_filters(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    claimed(temperature > 0)
    claimed(top_p > 0)  # of tokens that tie it keeps another one: SAMPLING-5 has the lower id ahead
    warpers = transformers("generation.logits_process")
    made = [warpers.TemperatureLogitsWarper(float(temperature))]
    made += [warpers.TopKLogitsWarper(top_k)] if top_k else []
    made += [warpers.TopPLogitsWarper(float(top_p))] if top_p < 1 else []
    made += [warpers.MinPLogitsWarper(float(min_p))] if min_p else []
    for warper in made:
        logits = warper(None, logits)
    return logits


@honest("sampling", "penalise_repetition", "transformers' RepetitionPenaltyLogitsProcessor", profiles=WIDE)
def hugging_face_penalty(logits, ids, penalty, *, mask=None):
    claimed(mask is None)
    return transformers("generation.logits_process").RepetitionPenaltyLogitsProcessor(float(penalty))(ids, logits)
