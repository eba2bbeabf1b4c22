"""One training step from our torch faces, as a pure function: what the operation `training.step` asks for."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from minimind_ref.config import ModelConfig
from minimind_ref.loss.cross_entropy import cross_entropy
from minimind_ref.model.transformer import Transformer
from minimind_ref.optim.accumulation import micro_batch_weights
from minimind_ref.optim.adamw import Moments, adamw_update
from minimind_ref.optim.cosine_schedule import cosine_schedule

State = Mapping[str, Any]


def training_step(
    state: State, window: Sequence[Mapping[str, Tensor]], config: Mapping[str, Any], *, learning_rate: float,
    total_steps: int, warmup_steps: int = 0, floor_ratio: float = 0.1, betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8, weight_decay: float = 0.01, max_norm: float = 1.0,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """Make one update from one window of micro-batches; give the new state and what the step saw."""
    weights = {name: p.detach().clone().requires_grad_() for name, p in state["parameters"].items()}
    loss, balance, num_tokens = window_loss(weights, window, config)
    gradients = torch.autograd.grad(loss + balance, list(weights.values()))
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    clock = {"total_steps": total_steps, "warmup_steps": warmup_steps, "floor_ratio": floor_ratio}
    rate = cosine_schedule(state["step"], peak=learning_rate, **clock)
    new: dict[str, Any] = {"parameters": {}, "means": {}, "squares": {}, "step": state["step"] + 1}
    for (name, p), g in zip(weights.items(), gradients, strict=True):
        before = Moments(state["means"][name], state["squares"][name], state["step"])
        new["parameters"][name], after = adamw_update(
            p.detach(), g * factor, before, lr=rate, beta1=betas[0], beta2=betas[1], eps=eps,
            weight_decay=weight_decay if p.ndim > 1 else 0.0,
        )  # fmt: skip
        new["means"][name], new["squares"][name] = after.mean, after.square
    seen = {"loss": loss.detach(), "balance": balance.detach(), "norm": norm, "learning_rate": rate}
    return new, seen | {"num_tokens": num_tokens}


def window_loss(weights: Mapping[str, Tensor], window: Any, config: Any) -> tuple[Tensor, Tensor, int]:
    """Give a window's loss per target, its load balance by documents, and its targets."""
    dtype = next(iter(weights.values())).dtype
    network = Transformer(ModelConfig(**config)).to(dtype).eval()
    tokens = [int((batch["labels"] != -100).sum()) for batch in window]
    documents = [count_documents(batch) for batch in window]
    per_token, per_document = (micro_batch_weights(n, accumulation_steps=len(n)) for n in (tokens, documents))
    loss, balance = torch.zeros((), dtype=dtype), torch.zeros((), dtype=dtype)
    for i, batch in enumerate(window):
        ids = {name: x for name, x in batch.items() if name not in ("input_ids", "labels")}
        out = functional_call(network, dict(weights), (batch["input_ids"],), ids, strict=False)
        loss = loss + cross_entropy(out.logits, batch["labels"], reduction="sum") * per_token[i]
        balance = balance + out.aux_loss * (documents[i] * per_document[i])
    return loss, balance, sum(tokens)


def count_documents(batch: Mapping[str, Tensor]) -> int:
    """Count the segments of each row that have a token which is no padding."""
    shape = batch["input_ids"].shape
    real = batch.get("attention_mask", torch.ones(shape)).bool()
    segment = batch.get("segment_ids", torch.zeros(shape, dtype=torch.int64))
    return sum(len({int(s) for s, r in zip(row, kept, strict=True) if r and s >= 0})
               for row, kept in zip(segment, real, strict=True))  # fmt: skip
