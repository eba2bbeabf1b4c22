"""Where the faces must agree before a value is recorded: oracle, definition, torch, and the definition's slopes."""

from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from minimind_ref.golden import faces, files
from minimind_ref.golden.generator import draw
from minimind_ref.golden.trees import GoldenError, leaves, map_leaves

MANY = 8
STEP = Decimal(10) ** -20  # of the central difference in 50-digit decimals: its error is far below float64's


def within(what: str, actual: Any, expected: Any, bound: np.ndarray | None) -> None:
    """Raise GoldenError where |actual − expected| > bound; exact results, NaN and infinities must be the same."""
    if bound is None:
        both_lists = isinstance(actual, list) and isinstance(expected, list)
        if not (actual == expected if both_lists else np.array_equal(actual, expected)):
            raise GoldenError(f"{what} is {actual!r} but {expected!r} is expected")
        return
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if actual.shape != expected.shape:
        raise GoldenError(f"{what} has shape {actual.shape} but {expected.shape} is expected")
    good = close(actual, expected, bound)
    if not good.all():
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        allowed = float(np.broadcast_to(bound, good.shape)[at])
        raise GoldenError(f"{what} is {actual[at]!s} at {list(at)} but {expected[at]!s} ± {allowed:.3g} is expected")


def close(actual: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Say, entry by entry, |actual − expected| ≤ bound, or both the same infinity, or both NaN."""
    with np.errstate(invalid="ignore"):
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        return np.asarray((np.abs(actual - expected) <= bound) | same)


def with_torch(component: str, case: dict[str, Any], outputs: Any, gradients: Any) -> None:
    """Hold the torch face and autograd in float64 against the expected values."""
    found = faces.run_torch(component, case)
    for computed, results, what in zip((outputs, gradients), found or (), ("", "gradient of "), strict=False):
        for n, expected in computed.expected["float64"].items():
            within(f"torch's {what}{n}", results[n], expected, computed.bound["float64"].get(n))


def with_slopes(component: str, case: dict[str, Any], gradients: Any, specs: Path) -> None:
    """Hold ⟨gradient, direction⟩ against the definition's central difference, which 50 digits make as good as exact.

    One input is moved at a time; the many parameters of a network are moved together. What a case names as `detached`
    has a gradient that is no slope.
    """
    inputs = files.build(case["inputs"])
    detached = case.get("gradients", {}).get("detached", ())
    given = gradients.expected.get("float64", {}).items()
    found = {n: g for n, g in given if n not in detached}
    directions = {n: draw(1000 + i, g.shape, structure="uniform") for i, (n, g) in enumerate(found.items())}
    for names in [list(found)] if len(found) > MANY else [[n] for n in found]:
        along = {n: directions[n] for n in names}
        ends = [faces.run_definition(component, case, moved(inputs, along, s), specs) for s in (STEP, -STEP)]
        if ends[0] is None:
            continue
        high, low = (projected(case, end) for end in ends)
        slope = (high - low) / (2 * Fraction(STEP))
        bound = np.asarray(sum(np.sum(np.abs(d) * gradients.bound["float64"][n]) for n, d in along.items()))
        rest = slope - sum((inner(found[n], d) for n, d in along.items()), Fraction(0))
        within(f"the definition's slope along {', '.join(names)}", float(rest), 0.0, bound)


def moved(inputs: dict[str, Any], directions: dict[str, np.ndarray], step: Decimal) -> dict[str, Any]:
    """Move inputs along their directions, in decimals."""
    names = iter([n for n, _ in leaves(inputs)])

    def move(x: Any) -> Any:
        direction = directions.get(next(names))
        if direction is None:
            return x
        return np.vectorize(lambda a, d: Decimal(a) + step * Decimal(d), otypes=[object])(x, direction)

    with localcontext() as context:
        context.prec = 100  # the sum must not be rounded: the step would be lost in it
        return map_leaves(move, inputs)


def inner(x: Any, y: Any) -> Fraction:
    """Sum x·y without rounding."""
    pairs = zip(np.ravel(np.array(x, object)).tolist(), np.ravel(np.array(y, object)).tolist(), strict=True)
    return sum((Fraction(a) * Fraction(b) for a, b in pairs), Fraction(0))


def projected(case: dict[str, Any], result: Any) -> Fraction:
    """Sum cotangent · output over a definition's outputs, exactly."""
    outputs = dict(zip(case["outputs"], (y for _, y in leaves(result)), strict=True))
    cotangents = files.build(case["gradients"]["cotangent"])
    return sum((inner(c, outputs[n]) for n, c in cotangents.items()), Fraction(0))
