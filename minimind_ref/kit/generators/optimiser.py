"""Cases of the optimiser's side."""

import numpy as np

from minimind_ref.golden.generator import draw_integers
from minimind_ref.kit.generated import Drawn, Seeds, generator

STEPS = ("ADAMW-1", "ADAMW-2", "ADAMW-3", "ADAMW-4", "ADAMW-5")
NEW = ("param", "mean", "square")


def state(s: Seeds, scale: float) -> dict[str, np.ndarray]:
    """Draw a parameter, a gradient and averages of the gradient's size."""
    return {
        "param": s.draw(3, 5), "grad": s.draw(3, 5, scale=scale), "mean": s.draw(3, 5, scale=scale / 2),
        "square": s.draw(3, 5, scale=scale, structure="positive") * scale,
    }  # fmt: skip


@generator("adamw.step", *STEPS, "ADAMW-6", "ADAMW-9")
def under_way(s: Seeds) -> Drawn:
    """Some steps done, decay and both betas at work."""
    step = int(draw_integers(s.take(), (), 2, 40))
    options = {"step": step, "lr": 2.0**-5, "beta1": 0.75, "beta2": 0.875, "eps": 2.0**-20, "weight_decay": 0.25}
    return Drawn(state(s, 1.0), options, NEW)


@generator("adamw.step", *STEPS)
def small_gradients(s: Seeds) -> Drawn:
    """Gradients about as large as eps: its place decides the step."""
    options = {"step": 3, "lr": 2.0**-6, "beta1": 0.9, "beta2": 0.95, "eps": 2.0**-12, "weight_decay": 0.125}
    return Drawn(state(s, 2.0**-12), options, NEW, profiles=("float64", "float32", "bfloat16"))


@generator("adamw.step", "ADAMW-1", "ADAMW-2", "ADAMW-5", "ADAMW-20")
def first_update(s: Seeds) -> Drawn:
    """The first update, from averages of zero: a step of lr whatever the gradient's size; no decay."""
    given = state(s, 1.0) | {"mean": np.zeros((3, 5)), "square": np.zeros((3, 5))}
    options = {"step": 1, "lr": 2.0**-6, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    return Drawn(given, options, NEW, profiles=("float64", "float32", "bfloat16"))


@generator("cosine_schedule", "COSINE_SCHEDULE-1", "COSINE_SCHEDULE-3", "COSINE_SCHEDULE-5", "COSINE_SCHEDULE-6")
def anywhere(s: Seeds) -> Drawn:
    """A step anywhere in a run of its own length, warm-up included."""
    total, warmup = 37 + int(draw_integers(s.take(), (), 0, 50)), int(draw_integers(s.take(), (), 1, 20))
    step = int(draw_integers(s.take(), (), 0, total))
    options = {"total_steps": total, "warmup_steps": warmup, "floor_ratio": 0.125}
    given = {"step": step, "peak": np.array(0.375)}
    return Drawn(given, options, ("rate",), profiles=("float64",), scalars=("peak",))


@generator("cosine_schedule", "COSINE_SCHEDULE-4", "COSINE_SCHEDULE-8")
def after_the_end(s: Seeds) -> Drawn:
    """A step beyond the end, where the rate stays at the floor."""
    given = {"step": 29 + int(draw_integers(s.take(), (), 0, 60)), "peak": np.array(0.75)}
    options = {"total_steps": 29, "warmup_steps": 3, "floor_ratio": 0.25}
    return Drawn(given, options, ("rate",), profiles=("float64",), scalars=("peak",))


@generator("cosine_schedule", "COSINE_SCHEDULE-3", "COSINE_SCHEDULE-5")
def without_warm_up(s: Seeds) -> Drawn:
    """The schedule that most trainers have: no warm-up, and a tenth of the peak at the end."""
    total = 37 + int(draw_integers(s.take(), (), 0, 50))
    given = {"step": int(draw_integers(s.take(), (), 0, total)), "peak": np.array(0.375)}
    return Drawn(given, {"total_steps": total}, ("rate",), profiles=("float64",), scalars=("peak",))


@generator("cosine_schedule", "COSINE_SCHEDULE-4")
def after_its_end(s: Seeds) -> Drawn:
    """The same one, beyond its end."""
    given = {"step": 30 + int(draw_integers(s.take(), (), 0, 20)), "peak": np.array(0.75)}
    return Drawn(given, {"total_steps": 29}, ("rate",), profiles=("float64",), scalars=("peak",))


@generator("clip_grad_norm", "GRAD_CLIP-1", "GRAD_CLIP-2", "GRAD_CLIP-4")
def several(s: Seeds) -> Drawn:
    """Three gradients of unlike sizes under one norm."""
    given = {"gradients": [s.draw(3, 5), s.draw(7, scale=4.0), s.draw(2, scale=0.25)]}
    names = ("gradients.0", "gradients.1", "gradients.2", "norm")
    return Drawn(given, {"max_norm": 1.5}, names, profiles=("float64", "float32"))


@generator("clip_grad_norm", "GRAD_CLIP-3", "GRAD_CLIP-1")
def below(s: Seeds) -> Drawn:
    """Gradients below the threshold, which are not touched."""
    given = {"gradients": [s.draw(3, scale=2.0**-6), s.draw(2, 3, scale=2.0**-6)]}
    return Drawn(given, {"max_norm": 2.0}, ("gradients.0", "gradients.1", "norm"), profiles=("float64", "float32"))


@generator("grad_scaler", "GRAD_SCALER-4", "GRAD_SCALER-5", "GRAD_SCALER-13")
def driven(s: Seeds) -> Drawn:
    """Many windows of which some overflow: the scale after each."""
    overflows = draw_integers(s.take(), (40,), 0, 6) == 0
    options = {"init_scale": 1024.0, "growth_factor": 2.0, "backoff_factor": 0.25, "growth_interval": 3}
    return Drawn({"overflows": overflows}, options, ("scales",))


@generator("grad_scaler", "GRAD_SCALER-4", "GRAD_SCALER-5", "GRAD_SCALER-6")
def always_the_same(s: Seeds) -> Drawn:
    """Windows that all overflow, then windows that are all clean: the scale stays a finite float32 number above 0."""
    first = bool(draw_integers(s.take(), (), 0, 2))
    overflows = np.array([first] * 150 + [not first] * 150)
    options = {"init_scale": 65536.0, "growth_factor": 4.0, "backoff_factor": 0.25, "growth_interval": 2}
    return Drawn({"overflows": overflows}, options, ("scales",))


@generator("grad_scaler", "GRAD_SCALER-6", "GRAD_SCALER-13")
def odd_factors(s: Seeds) -> Drawn:
    """Factors that are no powers of two, whose products float32 soon has to round."""
    overflows = draw_integers(s.take(), (90,), 0, 6) == 0
    options = {"init_scale": 1024.0, "growth_factor": 1.5, "backoff_factor": 0.75, "growth_interval": 3}
    return Drawn({"overflows": overflows}, options, ("scales",))


@generator("grad_scaler.unscale", "GRAD_SCALER-2", "GRAD_SCALER-3")
def finite_or_not(s: Seeds) -> Drawn:
    """Two gradients, with an infinity or a NaN anywhere or nowhere."""
    given = [s.draw(3, 5, scale=64.0), s.draw(7, scale=256.0)]
    bad = (np.inf, -np.inf, np.nan, 1.0)[s.number % 4]
    given[1][int(draw_integers(s.take(), (), 0, 7))] = bad
    names = ("gradients.0", "gradients.1", "found_inf")
    return Drawn({"gradients": given}, {"scale": 256.0}, names, profiles=("float64", "float32"))


@generator("micro_batch_weights", "ACCUMULATION-1", "ACCUMULATION-3", "ACCUMULATION-6")
def windows_of_tokens(s: Seeds) -> Drawn:
    """Unlike counts, one of them 0, in a window that is not full."""
    counts = [int(n) for n in draw_integers(s.take(), (4,), 0, 50)]
    return Drawn({}, {"token_counts": [0, *counts], "accumulation_steps": 7}, ("weights",))


@generator("windows", "ACCUMULATION-4")
def an_epoch(s: Seeds) -> Drawn:
    """An epoch that the window's length does not divide."""
    return Drawn(
        {}, {"num_micro_batches": 7 * int(draw_integers(s.take(), (), 1, 9)) + 3, "accumulation_steps": 7}, ("windows",)
    )
