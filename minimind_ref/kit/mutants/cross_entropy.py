"""Wrong cross-entropies."""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.cross_entropy import cross_entropy, cross_entropy_vjp, token_logp


def losses(logits, labels, keep, ignored=0.0):
    """Give each row's loss, `ignored` where `keep` is False, by the textbook formula in the logits' dtype."""
    picked = np.take_along_axis(logits, np.where(keep, labels, 0)[..., None], axis=-1)[..., 0]
    top = np.max(logits, axis=-1, keepdims=True)
    total = np.log(np.sum(np.exp(logits - top), axis=-1)) + top[..., 0]
    return np.where(keep, total - picked, ignored)


def reduced(each, count, reduction):
    """Reduce rows; `count` is what a mean divides by."""
    return each if reduction == "none" else np.sum(each) / (count if reduction == "mean" else 1)


@mutant("cross_entropy", "CROSS_ENTROPY-M01", owner="CROSS_ENTROPY-5", summary="aligned labels are shifted once more",
        source="transformers #47394, PR #37830 (LOS-1)")  # fmt: skip
def shifted_again(logits, labels, *, ignore_index=-100, reduction="mean"):
    late = np.full_like(labels, ignore_index)
    late[..., :-1] = labels[..., 1:]
    return cross_entropy(logits, late, ignore_index=ignore_index, reduction=reduction)


@mutant("cross_entropy", "CROSS_ENTROPY-M02", owner="CROSS_ENTROPY-4", summary="nothing supervised is 0/0",
        source="pytorch #70348, torchtune #2341 (LOS-3)")  # fmt: skip
def nothing_is_nan(logits, labels, *, ignore_index=-100, reduction="mean"):
    total = cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    return reduced(total, np.float64(np.sum(labels != ignore_index)), reduction)


@mutant("cross_entropy", "CROSS_ENTROPY-M03", owner="CROSS_ENTROPY-15",
        summary="the ignored label is -100 whatever is asked", source="MiniMind a87f628 (LOS-4)")  # fmt: skip
def fixed_ignore_index(logits, labels, *, ignore_index=-100, reduction="mean"):
    return cross_entropy(logits, labels, reduction=reduction)


@mutant("cross_entropy", "CROSS_ENTROPY-M04", owner="CROSS_ENTROPY-2", summary="the mean divides by all rows",
        source="MiniMind #298: the padded length (DPO-1, LOS-4)")  # fmt: skip
def mean_over_all_rows(logits, labels, *, ignore_index=-100, reduction="mean"):
    each = cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    return reduced(each, labels.size, reduction)


@mutant("cross_entropy", "CROSS_ENTROPY-M05", owner="CROSS_ENTROPY-3",
        summary="ignored rows are multiplied by 0, NaN included", source="a mask as a factor")  # fmt: skip
def ignored_times_zero(logits, labels, *, ignore_index=-100, reduction="mean"):
    keep = labels != ignore_index
    each = losses(logits, np.where(keep, labels, 0), np.ones_like(keep)) * keep
    return reduced(each, max(np.sum(keep), 1), reduction)


@mutant("cross_entropy", "CROSS_ENTROPY-M06", owner="CROSS_ENTROPY-2",
        summary="the mean is one of the sequences' means",
        source="transformers PR #34191, torchtune PR #1875 (LOS-6)")  # fmt: skip
def mean_of_means(logits, labels, *, ignore_index=-100, reduction="mean"):
    if reduction != "mean" or labels.ndim < 2:
        return cross_entropy(logits, labels, ignore_index=ignore_index, reduction=reduction)
    rows = [cross_entropy(z, y, ignore_index=ignore_index) for z, y in zip(logits, labels, strict=True)]
    return np.mean(np.array(rows))


@mutant("cross_entropy", "CROSS_ENTROPY-M07", owner="CROSS_ENTROPY-11",
        summary="exp is taken without the shift by the largest logit", source="a textbook log-softmax")  # fmt: skip
def unshifted(logits, labels, *, ignore_index=-100, reduction="mean"):
    keep = labels != ignore_index
    picked = np.take_along_axis(logits, np.where(keep, labels, 0)[..., None], axis=-1)[..., 0]
    each = np.where(keep, np.log(np.sum(np.exp(logits), axis=-1)) - picked, 0)
    return reduced(each, max(np.sum(keep), 1), reduction)


@mutant("cross_entropy", "CROSS_ENTROPY-M08", owner="CROSS_ENTROPY-11",
        summary="the loss is -log(p + 1e-9): never above 20.7", source="a guard inside the logarithm")  # fmt: skip
def guarded_logarithm(logits, labels, *, ignore_index=-100, reduction="mean"):
    keep = labels != ignore_index
    each = np.where(keep, -np.log(np.exp(-losses(logits, labels, keep)) + 1e-9), 0)
    return reduced(each, max(np.sum(keep), 1), reduction)


@mutant("cross_entropy", "CROSS_ENTROPY-M09", owner="CROSS_ENTROPY-1", summary="labels are smoothed by a tenth",
        source="a default taken over from classification")  # fmt: skip
def smoothed(logits, labels, *, ignore_index=-100, reduction="mean"):
    keep = labels != ignore_index
    every = [losses(logits, np.full_like(labels, j), keep) for j in range(logits.shape[-1])]
    each = 0.9 * losses(logits, labels, keep) + 0.1 * np.mean(every, axis=0)
    return reduced(each, max(np.sum(keep), 1), reduction)


@mutant("cross_entropy", "CROSS_ENTROPY-M10", owner="CROSS_ENTROPY-12", source="autocast that covers the loss",
        narrow=True, summary="the statistics have the logits' precision")  # fmt: skip
def narrow_statistics(logits, labels, *, ignore_index=-100, reduction="mean"):
    keep = labels != ignore_index
    return reduced(losses(logits, labels, keep).astype(logits.dtype), max(np.sum(keep), 1), reduction)


@mutant("cross_entropy", "CROSS_ENTROPY-M11", owner="CROSS_ENTROPY-3", source="labels clamped to 0 before the gradient",
        gradient=True, summary="ignored rows get a gradient, as of label 0")  # fmt: skip
def gradient_of_ignored_rows(logits, labels, *, ignore_index=-100, reduction="mean", cotangent):
    count = max(np.sum(labels != ignore_index), 1) if reduction == "mean" else 1
    clamped = np.where(labels == ignore_index, 0, labels)
    reduction = "none" if reduction == "none" else "sum"
    return cross_entropy_vjp(logits, clamped, reduction=reduction, cotangent=cotangent / count)


@mutant("cross_entropy", "CROSS_ENTROPY-M12", owner="CROSS_ENTROPY-8", summary="the mean's gradient is the sum's",
        source="a fused loss that forgets its divisor", gradient=True)  # fmt: skip
def gradient_of_the_sum(logits, labels, *, ignore_index=-100, reduction="mean", cotangent):
    reduction = "none" if reduction == "none" else "sum"
    return cross_entropy_vjp(logits, labels, ignore_index=ignore_index, reduction=reduction, cotangent=cotangent)


@mutant("token_logp", "CROSS_ENTROPY-M13", owner="CROSS_ENTROPY-1", summary="log-probabilities are positive: the loss",
        source="flash-linear-attention #1073 (RL-6)")  # fmt: skip
def negated_logp(logits, labels):
    return -token_logp(logits, labels)


@mutant("token_logp", "CROSS_ENTROPY-M14", owner="CROSS_ENTROPY-13", summary="the gradient has the loss's sign",
        source="flash-linear-attention #1073 (RL-6)", gradient=True)  # fmt: skip
def negated_logp_gradient(logits, labels, *, cotangent):
    return cross_entropy_vjp(logits, labels, reduction="none", cotangent=cotangent)
