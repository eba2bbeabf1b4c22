"""Laws of the optimiser's side."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minimind_ref.golden.generator import draw
from minimind_ref.kit.properties import law

Function = Callable[..., Any]


def options(**changed: float) -> dict[str, float]:
    """Give the options of a step, some of them changed."""
    made = {"step": 3, "lr": 2.0**-5, "beta1": 0.75, "beta2": 0.875, "eps": 2.0**-10, "weight_decay": 0.25}
    return made | changed


def state() -> list[np.ndarray]:
    """Give parameter, gradient, mean and square."""
    return [draw(2051, (3, 5)), draw(2052, (3, 5)), draw(2053, (3, 5)), draw(2054, (3, 5), structure="positive")]


def same(a: Any, b: Any) -> bool:
    """Compare bits."""
    return np.array_equal(np.asarray(a), np.asarray(b))


@law("adamw.step", "ADAMW-7")
def odd(step: Function) -> str | None:
    """Negate parameter, gradient and mean: parameter and mean come out negated, the square as it was."""
    param, grad, mean, square = state()
    plain, other = step(param, grad, mean, square, **options()), step(-param, -grad, -mean, square, **options())
    kept = same(plain[0], -np.asarray(other[0])) and same(plain[1], -np.asarray(other[1])) and same(plain[2], other[2])
    return None if kept else "negating parameter, gradient and mean does not negate the result"


@law("adamw.step", "ADAMW-8")
def gradient_scale(step: Function) -> str | None:
    """Multiply gradient, mean and eps by 8 and the square by 64: the parameter keeps its bits."""
    param, grad, mean, square = state()
    new = step(param, grad, mean, square, **options())[0]
    other = step(param, 8 * grad, 8 * mean, 64 * square, **options(eps=8 * options()["eps"]))[0]
    return None if same(new, other) else "the step depends on the gradient's scale (eps scaled along)"


@law("adamw.step", "ADAMW-10")
def no_rate(step: Function) -> str | None:
    """With lr = 0 the parameter keeps its bits and the averages move."""
    param, grad, mean, square = state()
    new, moved, _ = step(param, grad, mean, square, **options(lr=0.0))
    if same(moved, mean):
        return "with lr = 0 the averages do not move"
    return None if same(new, param) else "with lr = 0 the parameter changes"


@law("adamw.step", "ADAMW-20")
def nothing_to_do(step: Function) -> str | None:
    """Without decay and with gradients of zero so far the parameter keeps its bits."""
    param, zero = state()[0], np.zeros((3, 5))
    new = step(param, zero, zero, zero, **options(weight_decay=0.0))[0]
    return None if same(new, param) else "without decay and gradient the parameter changes"


@law("grad_scaler.unscale", "GRAD_SCALER-3")
def missing_gradients(unscale: Function) -> str | None:
    """Unscale a list that has a None in it, which is no overflow."""
    gradients, found_inf = unscale([None, np.array([1.5])], scale=2.0)
    kept = gradients[0] is None and float(gradients[1][0]) == 1.5 / 2 and not found_inf
    return None if kept else "beside a gradient of None the result differs"


@law("cosine_schedule", "COSINE_SCHEDULE-7")
def linear_in_the_peak(rate: Function) -> str | None:
    """Twice the peak is twice the rate, to the bit."""
    run = {"total_steps": 23, "warmup_steps": 5, "floor_ratio": 0.125}
    wrong = [s for s in range(25) if float(rate(s, peak=0.75, **run)) != 2 * float(rate(s, peak=0.375, **run))]
    return f"twice the peak is not twice the rate at step {wrong[0]}" if wrong else None
