"""Gradients by an array library's own differentiation: Σ cotangent · output, pulled back to the wanted inputs.

Each takes `run`, which rebuilds the call from the wanted arrays and gives the differentiable outputs in order.
"""

from collections.abc import Callable
from typing import Any

Run = Callable[[list[Any]], list[Any]]


def torch_gradient(run: Run, wanted: list[Any], cotangents: list[Any]) -> list[Any]:
    """Torch's autograd; an input that is not reached has a gradient of zeros."""
    import torch

    sources = [x.detach().clone().requires_grad_() for x in wanted]
    with torch.enable_grad():
        outputs = run(sources)
        pairs = [(y, c.to(y.dtype)) for y, c in zip(outputs, cotangents, strict=True)]
        if not any(y.requires_grad for y, _ in pairs):
            raise TypeError("the result is cut off from the inputs: it has no gradient (detach, no_grad or .data?)")
        kept = [(y, c) for y, c in pairs if y.requires_grad]
        found = torch.autograd.grad([y for y, _ in kept], sources, [c for _, c in kept], allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(sources, found, strict=True)]


def jax_gradient(run: Run, wanted: list[Any], cotangents: list[Any]) -> list[Any]:
    """jax.vjp."""
    import jax  # type: ignore

    outputs, pull = jax.vjp(run, wanted)
    return pull([c.astype(y.dtype) for y, c in zip(outputs, cotangents, strict=True)])[0]


def mlx_gradient(run: Run, wanted: list[Any], cotangents: list[Any]) -> list[Any]:
    """mx.vjp."""
    import mlx.core as mx  # type: ignore

    _, found = mx.vjp(lambda *sources: run(list(sources)), wanted, cotangents)
    return list(found)
