"""Wrong clippings of gradients."""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.grad_clip import clip_grad_norm


def norm_of(gradients):
    """Give the norm of all gradients that are there."""
    return np.sqrt(sum(np.sum(grad * grad) for grad in gradients if grad is not None))


def scaled(gradients, factor):
    """Multiply all gradients that are there."""
    return [None if grad is None else grad * factor for grad in gradients]


@mutant("clip_grad_norm", "GRAD_CLIP-M01", owner="GRAD_CLIP-1", summary="each gradient is clipped by its own norm",
        source="a loop over the parameters")  # fmt: skip
def each_by_its_own(gradients, max_norm):
    return [clip_grad_norm([grad], max_norm)[0][0] for grad in gradients], norm_of(gradients)


@mutant("clip_grad_norm", "GRAD_CLIP-M02", owner="GRAD_CLIP-1", summary="the norm after clipping is returned",
        source="a norm that is measured too late")  # fmt: skip
def norm_afterwards(gradients, max_norm):
    clipped, _ = clip_grad_norm(gradients, max_norm)
    return clipped, norm_of(clipped)


@mutant("clip_grad_norm", "GRAD_CLIP-M03", owner="GRAD_CLIP-2", summary="entries are clipped, not the norm",
        source="clip by value in clip by norm's place")  # fmt: skip
def by_value(gradients, max_norm):
    return [None if g is None else np.clip(g, -max_norm, max_norm) for g in gradients], norm_of(gradients)


@mutant("clip_grad_norm", "GRAD_CLIP-M04", owner="GRAD_CLIP-3", source="a factor without its limit of 1 (GRD-5)",
        summary="short gradients are lengthened to the threshold")  # fmt: skip
def lengthened(gradients, max_norm):
    norm = norm_of(gradients)
    return scaled(gradients, max_norm / (norm + 1e-6)), norm


@mutant("clip_grad_norm", "GRAD_CLIP-M05", owner="GRAD_CLIP-2", summary="the 1e-6 in the denominator is missing",
        source="the paper's formula in torch's place")  # fmt: skip
def without_tiny(gradients, max_norm):
    norm = norm_of(gradients)
    return scaled(gradients, min(1.0, max_norm / norm) if norm > 0 else 1.0), norm


@mutant("clip_grad_norm", "GRAD_CLIP-M06", owner="GRAD_CLIP-2", summary="the factor divides by the norm's square",
        source="DeepSpeed PR #5150 (GRD-5)")  # fmt: skip
def squared_norm(gradients, max_norm):
    norm = norm_of(gradients)
    return scaled(gradients, min(1.0, max_norm / (norm**2 + 1e-6))), norm


@mutant("clip_grad_norm", "GRAD_CLIP-M07", owner="GRAD_CLIP-7", source="gradients squared in their own dtype",
        narrow=True, summary="squares are taken in half precision and overflow")  # fmt: skip
def narrow_squares(gradients, max_norm):
    norm = norm_of(gradients)
    factor = np.minimum(gradients[0].dtype.type(1), max_norm / (norm + 1e-6))
    return [grad * factor for grad in gradients], norm


@mutant("clip_grad_norm", "GRAD_CLIP-M08", owner="GRAD_CLIP-6",
        summary="an infinite norm makes every gradient zero or NaN",
        source="torch's clip_grad_norm_ with error_if_nonfinite=False")  # fmt: skip
def infinite_norm_is_a_factor(gradients, max_norm):
    norm = norm_of(gradients)
    return scaled(gradients, np.minimum(1.0, max_norm / (norm + 1e-6))), norm


@mutant("clip_grad_norm", "GRAD_CLIP-M09", owner="GRAD_CLIP-5", summary="gradients of zeros become NaN",
        source="a direction divided by its own length")  # fmt: skip
def zeros_become_nan(gradients, max_norm):
    norm = norm_of(gradients)
    return [
        None if g is None else g / norm * np.minimum(norm, max_norm / (norm + 1e-6) * norm) for g in gradients
    ], norm


@mutant("clip_grad_norm", "GRAD_CLIP-M10", owner="GRAD_CLIP-1", summary="the norm is the largest entry",
        source="norm_type=inf taken for the default")  # fmt: skip
def largest_entry(gradients, max_norm):
    norm = max(np.max(np.abs(grad), initial=0) for grad in gradients if grad is not None)
    return scaled(gradients, min(1.0, max_norm / (norm + 1e-6))), norm


@mutant("clip_grad_norm", "GRAD_CLIP-M11", owner="GRAD_CLIP-1", summary="the norms of the gradients are added",
        source="a sum of norms for a norm of norms")  # fmt: skip
def norms_added(gradients, max_norm):
    norm = sum(norm_of([grad]) for grad in gradients)
    return scaled(gradients, min(1.0, max_norm / (norm + 1e-6))), norm


@mutant("clip_grad_norm", "GRAD_CLIP-M12", owner="GRAD_CLIP-5", summary="a missing gradient comes back as a number",
        source="None replaced by zeros, which the optimiser then counts as a gradient")  # fmt: skip
def missing_becomes_zero(gradients, max_norm):
    clipped, norm = clip_grad_norm(gradients, max_norm)
    return [np.zeros(()) if grad is None else grad for grad in clipped], norm
