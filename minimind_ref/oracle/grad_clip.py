"""Clipping by the global norm, oracle.  Spec: specs/grad_clip.md."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from minimind_ref.oracle.bounded import Array, store

TINY = 1e-6  # torch's; GRAD_CLIP-2


def clip_grad_norm(
    gradients: Sequence[Float[Array, "..."] | None], max_norm: float
) -> tuple[list[Float[Array, "..."] | None], float | Float[Array, ""]]:
    """Scale all gradients by the one factor min(1, max_norm/(norm + 1e-6)); return them and the norm before.

    The norm is largest·√Σ(g/largest)², whose squares cannot overflow (GRAD_CLIP-7); where it is not finite
    the gradients come back as they went in (GRAD_CLIP-6).
    Source: Pascanu, Mikolov and Bengio 2012, arXiv:1211.5063, alg. 1.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm} but must be above 0 (inf only measures)")
    norm = _global_norm([grad for grad in gradients if grad is not None])
    if not np.isfinite(norm):
        return list(gradients), norm
    factor = np.minimum(1.0, max_norm / (norm + TINY))
    return [None if grad is None else store(grad * factor) for grad in gradients], norm


def _global_norm(gradients: Sequence[Float[Array, "..."]]) -> float | Float[Array, ""]:
    """Take the Euclidean norm of all gradients laid end to end."""
    filled = [grad.reshape(-1) for grad in gradients if grad.size]
    if not filled:
        return 0.0
    line = np.concatenate(filled)
    largest = np.max(np.abs(line))
    if not np.isfinite(largest) or largest == 0:
        return largest
    return largest * np.sqrt(np.sum((line / largest) ** 2))
