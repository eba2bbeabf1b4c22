"""Derivatives of the specs' definitions in 50-digit decimals: an oracle for gradients that shares nothing with them."""

import decimal
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np

from minimind_ref.golden.compositions import composed
from minimind_ref.golden.definitions import DIGITS, GUARD

__all__ = ["composed", "slope"]

STEP = Decimal("1e-18")  # truncation ~1e-36, cancellation ~1e-47: far below float64


def slope(function: Callable, inputs: dict[str, Any], directions: dict[str, Any], cotangent: Any) -> float:
    """Differentiate ⟨cotangent, function(inputs)⟩ along `directions` by a central difference of two decimal runs."""
    with decimal.localcontext() as context:
        context.prec = DIGITS + GUARD
        sides = [
            list(_flat(function(**{n: _moved(x, directions.get(n), sign * STEP) for n, x in inputs.items()})))
            for sign in (1, -1)
        ]
        weights = [Decimal.from_float(float(c)) for c in _flat(cotangent)]
        pairs = zip(weights, *sides, strict=True)
        return float(sum(w * (up - down) for w, up, down in pairs) / (2 * STEP))


def _moved(x: Any, direction: Any, step: Decimal) -> Any:
    """Give x + step·direction, in decimals, over nested tuples, lists, mappings and arrays."""
    if direction is None:
        return x
    if isinstance(x, dict):
        return {name: _moved(entry, direction.get(name), step) for name, entry in x.items()}
    if isinstance(x, float):
        return Decimal.from_float(x) + step * Decimal.from_float(float(direction))
    if isinstance(x, np.ndarray):
        x, direction = x.tolist(), direction.tolist()
    return type(x)(_moved(a, d, step) for a, d in zip(x, direction, strict=True))


def _flat(x: Any) -> Iterator[Any]:
    """Give the numbers of a nested result; integers are choices, not numbers, and are left out."""
    if isinstance(x, np.ndarray):
        x = x.tolist()
    if isinstance(x, list | tuple):
        for entry in x:
            yield from _flat(entry)
    elif not isinstance(x, int):
        yield x
