"""Wrong AdamW updates."""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.adamw import Moments, adamw_update


def averages(grad, moments, beta1, beta2):
    """Give mean, square and count after this gradient."""
    mean = beta1 * moments.mean + (1 - beta1) * grad
    return mean, beta2 * moments.square + (1 - beta2) * grad**2, moments.step + 1


def moved(param, after, *, lr, beta1, beta2, eps, weight_decay=0.0):
    """Give the parameter that the textbook form makes of averages that are already updated."""
    mean, square, step = after
    direction = mean / (1 - beta1**step) / (np.sqrt(square / (1 - beta2**step)) + eps)
    return (1 - lr * weight_decay) * param - lr * direction


@mutant("adamw.step", "ADAMW-M01", owner="ADAMW-4", summary="weight decay is added to the gradient (L2)",
        source="nntrainer PR #3565, pytorch #41679 (OPT-1)")  # fmt: skip
def decay_in_the_gradient(param, grad, moments, *, weight_decay, **options):
    return adamw_update(param, grad + weight_decay * param, moments, weight_decay=0.0, **options)


@mutant("adamw.step", "ADAMW-M02", owner="ADAMW-2", summary="the averages are not corrected",
        source="mlx PR #1640 (OPT-2)")  # fmt: skip
def uncorrected(param, grad, moments, *, lr, beta1, beta2, eps, weight_decay):
    mean, square, step = averages(grad, moments, beta1, beta2)
    return (1 - lr * weight_decay) * param - lr * mean / (np.sqrt(square) + eps), Moments(mean, square, step)


@mutant("adamw.step", "ADAMW-M03", owner="ADAMW-3", summary="eps is inside the root", source="another optimiser's form")
def eps_inside_the_root(param, grad, moments, *, lr, beta1, beta2, eps, weight_decay):
    mean, square, step = after = averages(grad, moments, beta1, beta2)
    direction = mean / (1 - beta1**step) / np.sqrt(square / (1 - beta2**step) + eps)
    return (1 - lr * weight_decay) * param - lr * direction, Moments(*after)


@mutant("adamw.step", "ADAMW-M04", owner="ADAMW-3", summary="eps is added before the square is corrected",
        source="Kingma and Ba's shortened form with eps unscaled")  # fmt: skip
def eps_before_the_correction(param, grad, moments, *, lr, beta1, beta2, eps, weight_decay):
    mean, square, step = after = averages(grad, moments, beta1, beta2)
    size = lr * np.sqrt(1 - beta2**step) / (1 - beta1**step)
    return (1 - lr * weight_decay) * param - size * mean / (np.sqrt(square) + eps), Moments(*after)


@mutant("adamw.step", "ADAMW-M05", owner="ADAMW-4", summary="the decay is weight_decay itself, not times the rate",
        source="apex #1849 (OPT-7)")  # fmt: skip
def decay_without_the_rate(param, grad, moments, *, weight_decay, **options):
    return adamw_update((1 - weight_decay) * param, grad, moments, weight_decay=0.0, **options)


@mutant("adamw.step", "ADAMW-M06", owner="ADAMW-5", summary="the corrections count the updates before this one",
        source="a counter that rises after the update")  # fmt: skip
def counted_afterwards(param, grad, moments, *, lr, beta1, beta2, eps, weight_decay):
    mean, square, step = averages(grad, moments, beta1, beta2)
    options = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
    return moved(param, (mean, square, step - 1), **options), Moments(mean, square, step)


@mutant("adamw.step", "ADAMW-M07", owner="ADAMW-4", summary="the step is decayed together with the parameter",
        source="decay after the step")  # fmt: skip
def decay_after_the_step(param, grad, moments, *, lr, weight_decay, **options):
    stepped, after = adamw_update(param, grad, moments, lr=lr, weight_decay=0.0, **options)
    return (1 - lr * weight_decay) * stepped, after


@mutant("adamw.step", "ADAMW-M08", owner="ADAMW-11", summary="the averages are kept in half precision",
        source="KempnerForge #114, OpenTau #184 (CKP-6)")  # fmt: skip
def half_averages(param, grad, moments, **options):
    stepped, after = adamw_update(param, grad, moments, **options)
    return stepped, Moments(after.mean.astype(np.float16), after.square.astype(np.float16), after.step)


@mutant("adamw.step", "ADAMW-M09", owner="ADAMW-2", summary="both averages are corrected with the first beta",
        source="a line copied for the square")  # fmt: skip
def one_beta_for_both(param, grad, moments, *, lr, beta1, beta2, eps, weight_decay):
    after = averages(grad, moments, beta1, beta2)
    return moved(param, after, lr=lr, beta1=beta1, beta2=beta1, eps=eps, weight_decay=weight_decay), Moments(*after)


@mutant("adamw.step", "ADAMW-M10", owner="ADAMW-1", summary="the square never falls",
        source="AMSGrad's maximum in the average itself")  # fmt: skip
def square_never_falls(param, grad, moments, *, lr, beta1, beta2, eps, weight_decay):
    mean, square, step = averages(grad, moments, beta1, beta2)
    after = mean, np.maximum(square, moments.square), step
    return moved(param, after, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay), Moments(*after)


@mutant("adamw.step", "ADAMW-M11", owner="ADAMW-1", summary="the mean sums gradients, as momentum does",
        source="SGD's momentum in Adam's place")  # fmt: skip
def summed_momentum(param, grad, moments, *, beta1, **options):
    return adamw_update(param, grad / (1 - beta1), moments._replace(square=moments.square), beta1=beta1, **options)


@mutant("adamw.step", "ADAMW-M12", owner="ADAMW-4", source="keras-adamw #39 (OPT-4)",
        summary="the decay has the sign of the parameter, not its size (L1)")  # fmt: skip
def decay_by_sign(param, grad, moments, *, lr, weight_decay, **options):
    stepped, after = adamw_update(param, grad, moments, lr=lr, weight_decay=0.0, **options)
    return stepped - lr * weight_decay * np.sign(param), after


@mutant("adamw.step", "ADAMW-M13", owner="ADAMW-5", summary="the counter stays where it was",
        source="a count kept by the caller alone")  # fmt: skip
def counter_stands_still(param, grad, moments, **options):
    stepped, after = adamw_update(param, grad, moments, **options)
    return stepped, after._replace(step=moments.step)
