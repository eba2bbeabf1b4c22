"""Clipping by the global norm.  Spec: specs/grad_clip.md."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[Tensor] | Tensor, max_norm: float) -> Float[Tensor, ""]:
    """Scale all gradients in place by min(1, max_norm / (‖g‖ + 1e-6)); returns ‖g‖ from before (GRAD_CLIP-1).

    The norm runs over all parameters together, in float32 or wider; parameters without a gradient are skipped.
    A norm that is not finite is returned and nothing is scaled: whoever calls decides (GRAD_CLIP-6).

    Source: Pascanu et al. 2012, arXiv:1211.5063, alg. 1.  Differs: the 1e-6, which is torch's.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm={max_norm} must be above 0 (inf only measures)")
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros(())
    wide = [g.to(torch.promote_types(g.dtype, torch.float32)) for g in grads]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g).to(wide[0].device) for g in wide]))
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    if norm.isfinite() and factor < 1:
        for g in grads:
            g.mul_(factor.to(g.device))
    return norm
