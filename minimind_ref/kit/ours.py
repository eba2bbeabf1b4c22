"""Our own faces as implementations: `python -m minimind_ref.kit run minimind_ref.kit.ours:torch_faces`."""

from typing import Any

import torch
from torch import nn

from minimind_ref.golden import faces
from minimind_ref.golden.networks import torch_network
from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.our_step import training_step
from minimind_ref.kit.registry import ALL
from minimind_ref.optim import adamw, grad_clip, grad_scaler

EVERY = ("float64", "float32", "bfloat16", "float16")
torch_faces = Implementation("minimind_ref's torch", arrays="torch", profiles=EVERY)
oracles = Implementation("minimind_ref's oracles", arrays="numpy", profiles=["float64"])


def adamw_step(param: Any, grad: Any, mean: Any, square: Any, *, step: int, **options: Any) -> tuple[Any, Any, Any]:
    """Make one update of `adamw_update`."""
    new, after = adamw.adamw_update(param, grad, adamw.Moments(mean, square, step - 1), **options)
    return new, after.mean, after.square


def holding(gradients: list[Any]) -> list[nn.Parameter]:
    """Make parameters that hold copies of these gradients."""
    parameters = [nn.Parameter(torch.zeros(1) if g is None else torch.zeros_like(g)) for g in gradients]
    for parameter, g in zip(parameters, gradients, strict=True):
        parameter.grad = None if g is None else g.clone()
    return parameters


def clip_grad_norm(gradients: list[Any], max_norm: float) -> tuple[list[Any], Any]:
    """Clip in place, as `clip_grad_norm_` does."""
    parameters = holding(gradients)
    norm = grad_clip.clip_grad_norm_(parameters, max_norm)
    return [parameter.grad for parameter in parameters], norm


def drive_scaler(overflows: Any, **settings: Any) -> list[float]:
    """Drive `GradScaler` through windows, each with one gradient that overflowed or not."""
    scaler, scales = grad_scaler.GradScaler(**settings), []
    for overflow in overflows.tolist():
        gradient = torch.tensor([float("inf") if overflow else 1.0])
        scaler.step(torch.optim.SGD(holding([gradient]), lr=0.0))
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


def unscale(gradients: list[Any], *, scale: float) -> tuple[list[Any], bool]:
    """Unscale gradients that an optimizer holds."""
    scaler, optimizer = grad_scaler.GradScaler(init_scale=scale), torch.optim.SGD(holding(gradients), lr=0.0)
    scaler.unscale_(optimizer)
    found = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
    return found, scaler.found_overflow(optimizer)


def tokenizer_of(vocab: dict[str, int], merges: Any, special_tokens: Any = ()) -> Any:
    """Build the product's tokenizer from a vocabulary and merges."""
    from minimind_ref.data.tokenizer import Tokenizer
    from minimind_ref.golden.texts import written

    special = list(special_tokens) or [t for t in vocab if t.startswith("<|") and t.endswith("|>")]
    return Tokenizer.from_text(written(vocab, [(left, right) for left, right in merges], special))


def encode(text: str, vocab: dict[str, int], merges: Any) -> list[int]:
    """Encode by the product."""
    return tokenizer_of(vocab, merges).encode(text)


def decode(ids: list[int], vocab: dict[str, int], *, special_tokens: Any) -> str:
    """Decode by the product."""
    return tokenizer_of(vocab, [], special_tokens).decode(ids)


def sft_mask(messages: Any, tokenizer: Any, **options: Any) -> tuple[list[int], list[bool]]:
    """Encode a conversation by the product."""
    from minimind_ref.data.chat_template import encode_chat

    made = tokenizer_of(tokenizer.vocab, tokenizer.merges, tokenizer.control_ids)
    found = encode_chat(made, messages, **options)
    return list(found.ids), list(found.supervised)


OWN = {
    "adamw.step": adamw_step, "clip_grad_norm": clip_grad_norm, "grad_scaler": drive_scaler,
    "grad_scaler.unscale": unscale, "bpe.encode": encode, "bpe.decode": decode, "sft_mask": sft_mask,
    "transformer": torch_network, "training.step": training_step,
}  # fmt: skip
for entry in ALL:
    function = OWN.get(entry.name) or faces.torch_face(entry.component, entry.golden)
    if function is not None:
        torch_faces.op(entry.name, function)
    oracles.op(entry.name, entry.reference, vjp=entry.reference_vjp)
