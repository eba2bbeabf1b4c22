"""Cases of rms_norm, swiglu, apply_rope and the tables of rope."""

import numpy as np

from minimind_ref.golden.generator import draw_integers
from minimind_ref.kit.generated import Drawn, Seeds, generator

NUMBERS = ("RMS_NORM-1", "RMS_NORM-10", "RMS_NORM-11")


@generator("rms_norm", *NUMBERS, "RMS_NORM-5", "RMS_NORM-7")
def heavy_rows(s: Seeds) -> Drawn:
    """Exponents 16 apart and weights of both signs, so that the mean, the eps and every weight count."""
    x, weight = s.draw(5, 7, structure="heavy"), s.draw(7)
    return Drawn({"x": x, "weight": weight}, {"eps": 2.0**-10}, ("y",), {"y": (5, 7)})


@generator("rms_norm", *NUMBERS, "RMS_NORM-9", "RMS_NORM-12")
def rows_near_eps(s: Seeds) -> Drawn:
    """Rows whose mean square is about eps: its place, and its part in the gradient, decide the result."""
    x, weight = s.draw(3, 11, scale=2.0**-9), s.draw(11, scale=0.25, structure="offset")
    return Drawn({"x": x, "weight": weight}, {"eps": 2.0**-18}, ("y",), {"y": (3, 11)})


@generator("rms_norm", "RMS_NORM-6", "RMS_NORM-8", "RMS_NORM-14")
def offset_rows(s: Seeds) -> Drawn:
    """Three axes, rows far from zero, and a weight of 0: nothing is centred and the factor is the weight."""
    x, weight = s.draw(2, 3, 5, structure="offset"), s.draw(5)
    weight[2] = 0.0
    return Drawn({"x": x, "weight": weight}, {"eps": 1e-6}, ("y",), {"y": (2, 3, 5)})


@generator("swiglu", "SWIGLU-1", "SWIGLU-2", "SWIGLU-3", "SWIGLU-4", "SWIGLU-9")
def wide_gates(s: Seeds) -> Drawn:
    """Gates of some units on both sides of zero, where SiLU is neither linear nor an approximation of it."""
    given = {"x": s.draw(3, 5), "w_gate": s.draw(7, 5, scale=2.0), "w_up": s.draw(7, 5), "w_down": s.draw(5, 7)}
    return Drawn(given, {}, ("y",), {"y": (3, 5)})


@generator("swiglu", "SWIGLU-1", "SWIGLU-7", "SWIGLU-9")
def batches(s: Seeds) -> Drawn:
    """A batch of sequences with one row of zeros, and as many hidden units as no other axis."""
    x = s.draw(2, 3, 7)
    x[1, 2] = 0.0
    given = {"x": x, "w_gate": s.draw(11, 7, scale=0.5), "w_up": s.draw(11, 7, scale=0.5), "w_down": s.draw(7, 11)}
    return Drawn(given, {}, ("y",), {"y": (2, 3, 7)})


@generator("apply_rope", "ROPE-7", "ROPE-8", "ROPE-9", "ROPE-11", "ROPE-12")
def turned_heads(s: Seeds) -> Drawn:
    """Rows at their own places, heads that differ, angles all over the circle."""
    angle = s.draw(2, 3, 5, scale=8.0)
    given = {"x": s.draw(2, 3, 7, 10), "cos": np.cos(angle), "sin": np.sin(angle)}
    return Drawn(given, {}, ("y",), {"y": (2, 3, 7, 10)})


@generator("apply_rope", "ROPE-7", "ROPE-11", "ROPE-12", "ROPE-18")
def one_table(s: Seeds) -> Drawn:
    """One table for all rows, with a factor: its gradient sums over batch and heads."""
    angle = s.draw(5, 3, scale=4.0)
    given = {"x": s.draw(3, 5, 2, 6), "cos": 1.25 * np.cos(angle), "sin": 1.25 * np.sin(angle)}
    return Drawn(given, {}, ("y",), {"y": (3, 5, 2, 6)})


@generator("rope_table", "ROPE-2", "ROPE-3", "ROPE-4")
def far_positions(s: Seeds) -> Drawn:
    """Positions up to 32767 on both sides of zero: the angle must not be rounded before the cosine."""
    positions = draw_integers(s.take(), (2, 7), 0, 32768) * np.array([[1], [-1]])
    frequencies = 10000.0 ** (-np.arange(5) / 5)
    wide = ("float64", "float32")
    return Drawn(
        {"positions": positions, "frequencies": frequencies}, {"attention_factor": 1.25}, ("cos", "sin"), profiles=wide
    )


@generator("rope_frequencies", "ROPE-1")
def plain_frequencies(s: Seeds) -> Drawn:
    """A head width and a base of their own."""
    width = 2 * int(draw_integers(s.take(), (), 3, 40))
    theta = float(draw_integers(s.take(), (), 100, 1_000_000))
    return Drawn({}, {"head_dim": width, "theta": theta}, ("frequencies",), ulps=32)


@generator("rope_frequencies", "ROPE-15", "ROPE-19")
def yarn_frequencies(s: Seeds) -> Drawn:
    """YaRN with settings of its own, some frequencies kept, some between, some divided."""
    length = 512 * int(draw_integers(s.take(), (), 2, 64))
    factor = float(draw_integers(s.take(), (), 2, 33))
    scaling = {"type": "yarn", "factor": factor, "original_max_position_embeddings": length}
    scaling |= {"beta_fast": 32.0, "beta_slow": 1.0}
    return Drawn({}, {"head_dim": 64, "theta": 10000.0, "scaling": scaling}, ("frequencies",), ulps=64)
