"""Laws of the layers that say that no bit changes: no tolerance could state them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minimind_ref.golden.generator import draw, draw_integers
from minimind_ref.kit.properties import law

Function = Callable[..., Any]


@law("rms_norm", "RMS_NORM-3")
def odd(rms_norm: Function) -> str | None:
    """Negate x: the result is negated, to the bit."""
    x, weight = draw(2011, (3, 7)), draw(2012, (7,))
    same = np.array_equal(rms_norm(-x, weight, eps=1e-5), -np.asarray(rms_norm(x, weight, eps=1e-5)))
    return None if same else "f(-x) is not -f(x)"


@law("rms_norm", "RMS_NORM-4")
def scaled(rms_norm: Function) -> str | None:
    """Multiply x by 2^5 and eps by 4^5: no bit changes."""
    x, weight, eps = draw(2013, (3, 7)), draw(2014, (7,)), 2.0**-10
    same = np.array_equal(rms_norm(x, weight, eps=eps), rms_norm(32 * x, weight, eps=1024 * eps))
    return None if same else "x·32 with eps·1024 changes the result"


@law("swiglu", "SWIGLU-5")
def rescaled_units(swiglu: Function) -> str | None:
    """Scale and negate rows of w_up, and undo it in w_down: no bit changes."""
    x, gate, up, down = draw(2021, (3, 5)), draw(2022, (7, 5)), draw(2023, (7, 5)), draw(2024, (5, 7))
    factor = np.array([1.0, -1.0, 4.0, 0.5, -8.0, 1.0, 2.0])
    same = np.array_equal(swiglu(x, gate, up, down), swiglu(x, gate, factor[:, None] * up, down / factor))
    return None if same else "rescaling a unit of w_up and undoing it in w_down changes the result"


@law("attention", "ATTENTION-6")
def out_of_sight(attention: Function) -> str | None:
    """Change keys and values that a query does not see: its output keeps its bits."""
    q, k, v = (draw(2031 + i, (2, 5, heads, 3)) for i, heads in enumerate((4, 2, 2)))
    before = np.asarray(attention(q, k, v))
    k[:, 3:] *= 7.0
    v[:, 3:] += 1024.0
    same = np.array_equal(before[:, :3], np.asarray(attention(q, k, v))[:, :3])
    return None if same else "keys and values behind the causal rule change the output"


@law("cross_entropy", "CROSS_ENTROPY-3")
def ignored_rows(cross_entropy: Function) -> str | None:
    """Put other numbers into an ignored row: no bit of the loss changes."""
    logits, labels = draw(2041, (5, 7), 4.0), draw_integers(2042, (5,), 0, 7)
    labels[2] = -100
    before = cross_entropy(logits, labels)
    logits[2] = 1000.0 * logits[1]
    return None if np.array_equal(before, cross_entropy(logits, labels)) else "the logits of an ignored row matter"
