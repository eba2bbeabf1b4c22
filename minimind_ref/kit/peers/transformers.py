"""Hugging Face transformers: parts of Llama, Qwen3, Mixtral and Qwen3-MoE, and the logits processors of `generate`."""

import importlib
from collections.abc import Callable
from typing import Any

import torch

from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.peers.offer import chosen, offered
from minimind_ref.kit.peers.torch import visible

LOW = ("float32", "bfloat16", "float16")  # their norms and softmax are float32 whatever the weights are
BEFORE = {"rms_norm.cast": "before"}


def part(name: str) -> Any:
    """Import a module of transformers."""
    return importlib.import_module(f"transformers.{name}")


def family(name: str) -> Any:
    """Import a family's modelling code."""
    return part(f"models.{name}.modeling_{name}")


llama = Implementation(
    "transformers Llama", arrays="torch", profiles=LOW, choices=BEFORE | {"attention.nothing_visible": "other"}
)
qwen3 = Implementation("transformers Qwen3RMSNorm", arrays="torch", profiles=LOW, choices=BEFORE)
rotary = Implementation("transformers rotary embedding and YaRN", arrays="torch", profiles=LOW[:1])
processors = Implementation(
    "transformers logits processors", arrays="torch", profiles=("float64", "float32"),
    choices={"filter_logits.temperature_zero": "refused"},
)  # fmt: skip
schedule = Implementation("transformers get_cosine_with_min_lr_schedule", arrays="torch", profiles=("float64",))
IMPLEMENTATIONS = [llama, qwen3, rotary, processors, schedule]


def norm(where: str, name: str) -> Callable[..., Any]:
    """Run a family's RMSNorm."""

    def rms_norm(x: Any, weight: Any, *, eps: float) -> Any:
        module = getattr(family(where), name)(len(weight), eps)
        return torch.func.functional_call(module, {"weight": weight}, (x,))

    return rms_norm


llama.op("rms_norm", norm("llama", "LlamaRMSNorm"))
qwen3.op("rms_norm", norm("qwen3", "Qwen3RMSNorm"))


@llama.op("swiglu")
def swiglu(x: Any, w_gate: Any, w_up: Any, w_down: Any) -> Any:
    """LlamaMLP."""
    sizes = {"hidden_size": x.shape[-1], "intermediate_size": len(w_gate)}
    config = part("models.llama").LlamaConfig(**sizes, num_attention_heads=1, num_key_value_heads=1, head_dim=2)
    weights = {"gate_proj.weight": w_gate, "up_proj.weight": w_up, "down_proj.weight": w_down}
    return torch.func.functional_call(family("llama").LlamaMLP(config), weights, (x,))


@llama.op("attention")
def attention(q: Any, k: Any, v: Any, *, mask: Any = None, causal: bool = True, scale: float | None = None) -> Any:
    """eager_attention_forward, with the mask as it makes it: the dtype's minimum is added."""
    seen = visible(q, k, mask, causal)
    added = torch.zeros(seen.shape, dtype=q.dtype).masked_fill(~seen, torch.finfo(q.dtype).min)[:, None]
    module = torch.nn.Module().eval()
    module.num_key_value_groups = q.shape[2] // k.shape[2]  # type: ignore[assignment]
    heads = (y.transpose(1, 2) for y in (q, k, v))
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    return family("llama").eager_attention_forward(module, *heads, added, factor)[0]


@llama.op("apply_rope")
def apply_rope(x: Any, cos: Any, sin: Any) -> Any:
    """apply_rotary_pos_emb, with the table in x's dtype, as LlamaRotaryEmbedding hands it over."""
    twice = [torch.cat((y, y), dim=-1).to(x.dtype) for y in (cos, sin)]
    twice = [y if y.ndim == 3 else y[None] for y in twice]
    return family("llama").apply_rotary_pos_emb(x, x, *twice, unsqueeze_dim=2)[0]


def rotary_module(head_dim: int, theta: float, scaling: Any) -> Any:
    """Build LlamaRotaryEmbedding."""
    rules = dict(scaling or {"type": "default"})
    kind = rules.pop("type", None) or rules.pop("rope_type")
    offered(kind in ("default", "yarn"), f"MiniMind's own scaling {kind!r} is not there")
    length = int(rules.get("original_max_position_embeddings", 2048) * rules.get("factor", 1))
    config = part("models.llama").LlamaConfig(
        hidden_size=head_dim, num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=length,
        rope_parameters={"rope_type": kind, "rope_theta": theta, **rules},
    )  # fmt: skip
    return family("llama").LlamaRotaryEmbedding(config)


@rotary.op("rope_frequencies")
def rope_frequencies(head_dim: int, *, theta: float, scaling: Any = None) -> Any:
    """LlamaRotaryEmbedding.inv_freq."""
    return rotary_module(head_dim, theta, scaling).inv_freq


@rotary.op("yarn_attention_factor")
def yarn_attention_factor(scaling: Any) -> float:
    """LlamaRotaryEmbedding.attention_scaling."""
    return rotary_module(64, 1e4, scaling).attention_scaling


@rotary.op("rope_table")
def rope_table(positions: Any, frequencies: Any, *, attention_factor: float = 1.0) -> Any:
    """LlamaRotaryEmbedding.forward; both halves of its table are the same."""
    module = rotary_module(2 * len(frequencies), 1e4, None)
    module.inv_freq, module.attention_scaling = frequencies, attention_factor
    cos, sin = module(frequencies, positions if positions.ndim == 2 else positions[None])
    shape = (*positions.shape, len(frequencies))
    return tuple(y[..., : len(frequencies)].reshape(shape) for y in (cos, sin))


@processors.op("filter_logits")
def filter_logits(
    logits: Any, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Any:
    """The warpers, in the order in which `generate` builds them."""
    made = part("generation.logits_process")
    warpers = [made.TemperatureLogitsWarper(float(temperature))]
    warpers += [made.TopKLogitsWarper(top_k)] if top_k else []
    warpers += [made.TopPLogitsWarper(float(top_p))] if top_p < 1 else []
    warpers += [made.MinPLogitsWarper(float(min_p))] if min_p else []
    for warper in warpers:
        logits = warper(None, logits)
    return logits


@processors.op("penalise_repetition")
def penalise_repetition(logits: Any, ids: Any, penalty: float) -> Any:
    """RepetitionPenaltyLogitsProcessor."""
    return part("generation.logits_process").RepetitionPenaltyLogitsProcessor(float(penalty))(ids, logits)


@schedule.op("cosine_schedule")
def cosine_schedule(step: int, *, total_steps: int, peak: float, warmup_steps: int = 0, floor_ratio: float = 0.1):
    """get_cosine_with_min_lr_schedule_with_warmup; its warm-up begins at 0."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    made = part("optimization").get_cosine_with_min_lr_schedule_with_warmup
    rule = made(optimiser, warmup_steps, total_steps, min_lr_rate=floor_ratio).lr_lambdas[0]
    return peak * rule(step)


def expert_weights(experts: Any) -> dict[str, Any]:
    """Fuse gate and up, as transformers stores them."""
    w_gate, w_up, w_down = experts
    return {"experts.gate_up_proj": torch.cat((w_gate, w_up), dim=1), "experts.down_proj": w_down}


def moe_config(name: str, width: int, w_router: Any, num_chosen: int, normalise: bool, hidden: int) -> Any:
    """Describe one layer of experts."""
    common = {"hidden_size": width, "num_experts_per_tok": num_chosen, "experts_implementation": "eager"}
    if name == "mixtral":
        offered(normalise, "Mixtral always divides by the chosen experts' sum")
        return part("models.mixtral").MixtralConfig(**common, num_local_experts=len(w_router), intermediate_size=hidden)
    return part("models.qwen3_moe").Qwen3MoeConfig(
        **common, num_experts=len(w_router), norm_topk_prob=normalise, moe_intermediate_size=hidden
    )


def routing(name: str, router: str, x: Any, w_router: Any, num_chosen: int, normalise: bool) -> Any:
    """Run a family's router."""
    module = getattr(family(name), router)(moe_config(name, x.shape[-1], w_router, num_chosen, normalise, 1))
    logits, weight, index = torch.func.functional_call(module, {"weight": w_router}, (x,))
    return torch.softmax(logits, dim=-1), weight, index


def mixture(name: str, label: str, block: str, router: str) -> Implementation:
    """Put a family's router, block of experts and balance loss under the kit."""
    made = Implementation(label, arrays="torch", profiles=LOW[:1])

    @made.op("route")
    def route(x: Any, w_router: Any, *, num_chosen: int, normalise: bool) -> Any:
        return routing(name, router, x, w_router, num_chosen, normalise)

    @made.op("moe")
    def moe(
        x: Any, w_router: Any, experts: Any, *, num_chosen: int, normalise: bool, form: str, coef: float,
        counts: Any = None,
    ) -> Any:  # fmt: skip
        """The block of experts, and load_balancing_loss_func: the slots form, c times the batch form."""
        scale = chosen("form", form, {"slots": 1, "batch": 1 / num_chosen})
        config = moe_config(name, x.shape[-1], w_router, num_chosen, normalise, experts[0].shape[1])
        weights = {"gate.weight": w_router, **expert_weights(experts)}
        y = torch.func.functional_call(getattr(family(name), block)(config).eval(), weights, (x[None],))[0]
        aux = family(name).load_balancing_loss_func((x @ w_router.T,), len(w_router), num_chosen, counts)
        return y, coef * scale * aux

    return made


IMPLEMENTATIONS += [
    mixture("mixtral", "transformers Mixtral", "MixtralSparseMoeBlock", "MixtralTopKRouter"),
    mixture("qwen3_moe", "transformers Qwen3-MoE", "Qwen3MoeSparseMoeBlock", "Qwen3MoeTopKRouter"),
]
