"""Laws that no recorded case can state, each a function of the implementation that gives a failure's text or None.

`PROPERTIES` has them by clause.  An implementation has the oracle's signature and takes and gives NumPy arrays; inputs
come from the generator of golden/README.md, so that a verdict never depends on the day.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minimind_ref.golden.generator import draw

Implementation = Callable[..., Any]


class Property(NamedTuple):
    """A law of the operation `op`, in the words of its clause."""

    op: str
    clause: str
    check: Callable[[Implementation], str | None]


PROPERTIES: dict[str, Property] = {}


def law(op: str, clause: str) -> Callable[[Implementation], Implementation]:
    """Register the decorated check as the property of a clause."""

    def register(check: Implementation) -> Implementation:
        if clause in PROPERTIES:
            raise ValueError(f"clause {clause} has two properties")
        PROPERTIES[clause] = Property(op, clause, check)
        return check

    return register


@law("rms_norm", "RMS_NORM-2")
def rows_do_not_see_each_other(rms_norm: Implementation) -> str | None:
    """Change one row, and compare the others' bits."""
    x, weight = draw(2001, (3, 7)), draw(2002, (7,), 0.25, "offset")
    changed = x.copy()
    changed[1] *= 1024
    before, after = rms_norm(x, weight, eps=1e-5), rms_norm(changed, weight, eps=1e-5)
    same = [np.array_equal(before[row], after[row]) for row in (0, 2)]
    return None if all(same) else "another row's result changed with row 1"


@law("rope_frequencies", "ROPE-22")
def unknown_scaling_is_refused(rope_frequencies: Implementation) -> str | None:
    """Ask for a scaling that does not exist."""
    scaling = {"type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
    return not_refused("scaling type 'llama3'", rope_frequencies, 16, theta=1e4, scaling=scaling)


@law("clip_grad_norm", "GRAD_CLIP-5")
def missing_gradients_stay_missing(clip_grad_norm: Implementation) -> str | None:
    """Clip a list that has a None in it, and one that has nothing else."""
    clipped, norm = clip_grad_norm([draw(2003, (5,)), None, draw(2004, (2,))], 0.5)
    if clipped[1] is not None or clipped[0] is None or clipped[2] is None:
        return "a gradient of None did not stay None"
    if not np.isfinite(norm):
        return f"the norm beside a None is {norm}"
    clipped, norm = clip_grad_norm([None], 0.5)
    return None if norm == 0 and clipped[0] is None else f"without any gradient the norm is {norm}"


@law("clip_grad_norm", "GRAD_CLIP-3")
def infinite_threshold_measures_only(clip_grad_norm: Implementation) -> str | None:
    """Clip with an infinite threshold, which no norm exceeds."""
    gradient = draw(2006, (5,)).astype(np.float32)
    clipped, _ = clip_grad_norm([gradient], np.inf)
    return None if np.array_equal(clipped[0], gradient) else "an infinite threshold changed the gradients"


@law("clip_grad_norm", "GRAD_CLIP-6")
def infinite_norm_scales_nothing(clip_grad_norm: Implementation) -> str | None:
    """Clip gradients with one infinity, or one NaN: the definition is for finite ones, so no case can."""
    for bad in (np.inf, np.nan):
        gradients = [draw(2005, (5,)), np.array([1.5, bad, -0.75])]
        with np.errstate(all="ignore"):
            clipped, norm = clip_grad_norm(gradients, 1.0)
        if not np.array_equal(norm, bad, equal_nan=True):
            return f"the norm of an infinite gradient is {norm}" if bad == np.inf else f"the norm of a NaN is {norm}"
        if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(clipped, gradients, strict=True)):
            return "gradients of infinite norm were changed"
    return None


def not_refused(what: str, function: Implementation, *arguments: Any, **options: Any) -> str | None:
    """Say that a call returned, or raised something else, where a ValueError must refuse it."""
    try:
        function(*arguments, **options)
    except ValueError:
        return None
    except Exception as error:  # whatever an implementation raises is its verdict
        return f"{what} raised {type(error).__name__} instead of a ValueError"
    return f"{what} was accepted"
