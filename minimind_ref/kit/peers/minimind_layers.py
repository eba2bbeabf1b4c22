"""MiniMind's layers as operations: RMSNorm, the rotary table, attention without its projections, SwiGLU, experts."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from minimind_ref.kit.peers.minimind_checkout import Checkout
from minimind_ref.kit.peers.offer import chosen, offered

EXPERTS = {2: "n_routed_experts", 3: "num_experts"}
TWO = {"sequence": 1, "batch": 1}
COEFFICIENT = {2: "aux_loss_alpha", 3: "router_aux_loss_coef"}


class Part(nn.Module):
    """Stands in for a projection: takes a slice of the input."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__()
        self.columns = slice(start, end)

    def forward(self, x: Any) -> Any:
        """Take the slice."""
        return x[..., self.columns]


class Layers:
    """The layers of one checkout."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout, self.generation = checkout, checkout.generation

    def operations(self) -> dict[str, Callable[..., Any]]:
        """Name the functions."""
        return {
            "rms_norm": self.rms_norm, "rope_frequencies": self.rope_frequencies, "apply_rope": self.apply_rope,
            "yarn_attention_factor": self.yarn_attention_factor, "attention": self.attention, "swiglu": self.swiglu,
        }  # fmt: skip

    def rms_norm(self, x: Any, weight: Any, *, eps: float) -> Any:
        """RMSNorm."""
        return functional_call(self.checkout.model.RMSNorm(len(weight), eps), {"weight": weight}, (x,))

    def table(self, head_dim: int, theta: float, scaling: Any) -> Any:
        """precompute_freqs_cis, long enough for its scaling to act; the first halves of the rows."""
        rules, end = None if scaling is None else dict(scaling), 2
        if rules is not None:
            kind = rules.pop("type")
            offered(kind == f"yarn-minimind{self.generation}", f"{kind} is not its scaling")
            end = 2 * int(rules.get("original_max_position_embeddings", 2048))
        found = self.checkout.model.precompute_freqs_cis(head_dim, end, theta, rules)
        return tuple(y[:, : head_dim // 2].double() for y in found)

    def rope_frequencies(self, head_dim: int, *, theta: float, scaling: Any = None) -> Any:
        """The angles at position 1 of its table."""
        cos, sin = self.table(head_dim, theta, scaling)
        return torch.atan2(sin[1], cos[1]).float()

    def yarn_attention_factor(self, scaling: Any) -> float:
        """The cosine at position 0 of its table."""
        return float(self.table(64, 1e4, scaling)[0][0, 0])

    def apply_rope(self, x: Any, cos: Any, sin: Any) -> Any:
        """apply_rotary_pos_emb."""
        twice = [torch.cat((y, y), dim=-1) for y in (cos, sin)]
        axis = 1 if cos.ndim == 2 else 2
        return self.checkout.model.apply_rotary_pos_emb(x, x, *twice, unsqueeze_dim=axis)[0]

    def attention(self, q: Any, k: Any, v: Any, *, mask: Any = None) -> Any:
        """Attention: slices for its projections, a table that does not turn, early keys as its cache."""
        (b, s, n, h), (_, t, heads, _) = q.shape, k.shape
        past = t - s
        offered(past >= 0, "it has no queries beyond the keys")
        offered(mask is None or (mask == mask[:, :1]).all(), "a mask hides a key from all queries alike")
        fields = {"hidden_size": n * h, "num_attention_heads": n, "num_key_value_heads": heads}
        module = self.checkout.model.Attention(self.checkout.config(**fields)).eval()
        ends = [0, n * h, (n + heads) * h, (n + 2 * heads) * h]
        module.q_proj, module.k_proj, module.v_proj = (Part(*ends[i : i + 2]) for i in range(3))
        module.o_proj = module.q_norm = module.k_norm = nn.Identity()
        x = torch.cat([y[:, -s:].reshape(b, s, -1) for y in (q, k, v)], dim=-1)
        straight = (torch.ones(s, h, dtype=q.dtype), torch.zeros(s, h, dtype=q.dtype))
        cache = (k[:, :past], v[:, :past]) if past else None
        padding = None if mask is None else mask[:, 0].long()
        return module(x, straight, cache, False, padding)[0].reshape(b, s, n, h)

    def swiglu(self, x: Any, w_gate: Any, w_up: Any, w_down: Any) -> Any:
        """FeedForward."""
        module = self.checkout.model.FeedForward(
            self.checkout.config(hidden_size=x.shape[-1], intermediate_size=len(w_gate))
        )
        return functional_call(module.eval(), feed_forward("", w_gate, w_up, w_down), (x,))


class Half(Layers):
    """Its attention alone: what float16 makes of it is a question of its own."""

    def operations(self) -> dict[str, Callable[..., Any]]:
        """Name the function."""
        return {"attention": self.attention}


class Experts(Layers):
    """Its mixture of experts."""

    def operations(self) -> dict[str, Callable[..., Any]]:
        """Name the function."""
        return {"moe": self.moe}

    def moe(
        self, x: Any, w_router: Any, experts: Any, *, num_chosen: int, normalise: bool, shared: Any = None, form: str,
        coef: float, sequence_ids: Any = None,
    ) -> Any:  # fmt: skip
        """MOEFeedForward in training, where it has a balance loss; MiniMind-3's is c times the batch form."""
        scale = chosen("form", form, {"slots": 1, "batch": 1 / num_chosen} if self.generation == 3 else TWO)
        count = 0 if shared is None else len(shared[0])
        offered(count == 0 or self.generation == 2, "it has no shared experts")
        fields = {
            "hidden_size": x.shape[-1], "use_moe": True, "num_experts_per_tok": num_chosen, "norm_topk_prob": normalise,
            "intermediate_size": experts[0].shape[1], "n_shared_experts": count, "seq_aux": form == "sequence",
            EXPERTS[self.generation]: len(w_router), COEFFICIENT[self.generation]: coef * scale,
        }  # fmt: skip
        module = self.checkout.model.MOEFeedForward(self.checkout.config(**fields)).train()
        weights = {"gate.weight": w_router, **stacked("experts", experts), **stacked("shared_experts", shared)}
        rows = 1 if sequence_ids is None else in_rows(sequence_ids)
        y = functional_call(module, weights, (x.reshape(rows, -1, x.shape[-1]),))
        return y.reshape(x.shape), module.aux_loss


def feed_forward(prefix: str, w_gate: Any, w_up: Any, w_down: Any) -> dict[str, Any]:
    """Name the weights of one expert."""
    names = ("gate_proj", "up_proj", "down_proj")
    return {f"{prefix}{name}.weight": w for name, w in zip(names, (w_gate, w_up, w_down), strict=True)}


def stacked(name: str, weights: Any) -> dict[str, Any]:
    """Name the weights of a stack of experts."""
    if weights is None:
        return {}
    return {
        key: w
        for i, each in enumerate(zip(*weights, strict=True))
        for key, w in feed_forward(f"{name}.{i}.", *each).items()
    }


def in_rows(sequence_ids: Any) -> int:
    """Count the sequences, where they are a batch of equally long ones, one behind the other."""
    _, counts = torch.unique_consecutive(sequence_ids, return_counts=True)
    offered(len(counts) == len(sequence_ids.unique()) and (counts == counts[0]).all(), "sequences are rows of a batch")
    return len(counts)
