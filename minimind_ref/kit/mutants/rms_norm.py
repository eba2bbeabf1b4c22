"""Wrong RMS normalisations."""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.rms_norm import rms_norm, rms_norm_vjp


def mean_square(x):
    """Average the squares of each row."""
    return np.mean(x * x, axis=-1, keepdims=True)


@mutant("rms_norm", "RMS_NORM-M01", owner="RMS_NORM-1", summary="the row is divided by the reciprocal root",
        source="llm-foundry #371 (NRM-1)")  # fmt: skip
def divided_by_the_reciprocal(x, weight, *, eps, cast="after"):
    return weight * x * np.sqrt(mean_square(x) + eps)


@mutant("rms_norm", "RMS_NORM-M02", owner="RMS_NORM-13", summary="the statistic has the input's precision",
        source="MiniMind #301 (NRM-2)", narrow=True)  # fmt: skip
def narrow_statistic(x, weight, *, eps, cast="after"):
    return (weight * (x / np.sqrt(mean_square(x) + x.dtype.type(eps)))).astype(x.dtype)


@mutant("rms_norm", "RMS_NORM-M03", owner="RMS_NORM-9", summary="eps is added outside the root",
        source="OLMo #281 (NRM-4)")  # fmt: skip
def eps_outside_the_root(x, weight, *, eps, cast="after"):
    return weight * x / (np.sqrt(mean_square(x)) + eps)


@mutant("rms_norm", "RMS_NORM-M04", owner="RMS_NORM-9", summary="eps is 1e-5 whatever is asked",
        source="apache/tvm PR #15856 (NRM-5)")  # fmt: skip
def eps_of_its_own(x, weight, *, eps, cast="after"):
    return rms_norm(x, weight, eps=1e-5, cast=cast)


@mutant("rms_norm", "RMS_NORM-M05", owner="RMS_NORM-1", summary="eps is added to the sum of squares, not to their mean",
        source="mlx-lm PR #1624 (NRM-6)")  # fmt: skip
def eps_in_the_sum(x, weight, *, eps, cast="after"):
    return weight * x / np.sqrt((np.sum(x * x, axis=-1, keepdims=True) + eps) / x.shape[-1])


@mutant("rms_norm", "RMS_NORM-M06", owner="RMS_NORM-8", summary="the factor is 1 + weight",
        source="transformers PR #29402 (NRM-7)")  # fmt: skip
def one_plus_weight(x, weight, *, eps, cast="after"):
    return rms_norm(x, 1 + weight, eps=eps, cast=cast)


@mutant("rms_norm", "RMS_NORM-M07", owner="RMS_NORM-6", summary="the row is centred, as LayerNorm does",
        source="a confusion of the two norms")  # fmt: skip
def centred(x, weight, *, eps, cast="after"):
    return rms_norm(x - np.mean(x, axis=-1, keepdims=True), weight, eps=eps, cast=cast)


@mutant("rms_norm", "RMS_NORM-M08", owner="RMS_NORM-1", summary="the sum of squares is not divided by the width",
        source="a confusion with the 2-norm")  # fmt: skip
def sum_of_squares(x, weight, *, eps, cast="after"):
    return weight * x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + eps)


@mutant("rms_norm", "RMS_NORM-M09", owner="RMS_NORM-9", summary="there is no eps: a row of zeros is NaN",
        source="pytorch PR #136727 (NRM-4)")  # fmt: skip
def without_eps(x, weight, *, eps, cast="after"):
    return weight * x / np.sqrt(mean_square(x))


@mutant("rms_norm", "RMS_NORM-M10", owner="RMS_NORM-2", summary="the mean runs over the rows too",
        source="a reduction without an axis")  # fmt: skip
def one_mean_for_all_rows(x, weight, *, eps, cast="after"):
    return weight * x / np.sqrt(np.mean(x * x) + eps)


@mutant("rms_norm", "RMS_NORM-M11", owner="RMS_NORM-10", summary="the statistic is a constant in the gradient",
        source="a detached root", gradient=True)  # fmt: skip
def detached_statistic(x, weight, *, eps, cast="after", cotangent):
    _, dweight = rms_norm_vjp(x, weight, eps=eps, cast=cast, cotangent=cotangent)
    return weight * cotangent / np.sqrt(mean_square(x) + eps), dweight


@mutant("rms_norm", "RMS_NORM-M12", owner="RMS_NORM-11", summary="the weight's gradient is averaged over the rows",
        source="a mean for a sum in a fused kernel's reduction", gradient=True)  # fmt: skip
def weight_gradient_averaged(x, weight, *, eps, cast="after", cotangent):
    dx, dweight = rms_norm_vjp(x, weight, eps=eps, cast=cast, cotangent=cotangent)
    return dx, dweight * x.shape[-1] / x.size


@mutant("rms_norm", "RMS_NORM-M13", owner="RMS_NORM-10", summary="the weight is missing in the gradient's radial part",
        source="a simplified vjp, right for weights of one", gradient=True)  # fmt: skip
def radial_part_without_weight(x, weight, *, eps, cast="after", cotangent):
    _, dweight = rms_norm_vjp(x, weight, eps=eps, cast=cast, cotangent=cotangent)
    r = 1 / np.sqrt(mean_square(x) + eps)
    return r * weight * cotangent - x * r**3 * np.mean(cotangent * x, axis=-1, keepdims=True), dweight


@mutant("rms_norm", "RMS_NORM-M14", owner="RMS_NORM-14", summary="the normalised row is rounded before the weight",
        source="MiniMind2's order where MiniMind-3's is asked (NRM-7)", narrow=True)  # fmt: skip
def rounded_before_the_weight(x, weight, *, eps, cast="after"):
    wide = np.asarray(x, np.float64)
    narrow = (wide / np.sqrt(mean_square(wide) + eps)).astype(x.dtype)
    return (narrow * weight).astype(x.dtype)
