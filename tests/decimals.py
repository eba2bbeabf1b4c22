"""Derivatives of the specs' definitions in 50-digit decimals: an oracle for gradients that shares nothing with them."""

import decimal
from collections.abc import Callable, Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np

from minimind_ref.golden.definitions import DECIMAL, DIGITS, FLOAT, GUARD, _functions, _prepared, source

STEP = Decimal("1e-18")  # truncation ~1e-36, cancellation ~1e-47: far below float64


def composed(name: str, parts: tuple[str, ...], kind: str) -> SimpleNamespace:
    """Execute the definition of specs/NAME.md with the public functions of its parts' definitions in its namespace."""
    injected = DECIMAL if kind == "decimal" else FLOAT
    space: dict[str, Any] = dict(injected)
    for part in parts:
        inner: dict[str, Any] = dict(space if part == "block" else injected)
        exec(compile(source(part), f"specs/{part}.md", "exec"), inner)
        space |= {n: f for n, f in _functions(inner, injected) if n not in space}
    known = dict(space)
    exec(compile(source(name), f"specs/{name}.md", "exec"), space)
    return SimpleNamespace(**{n: _prepared(f, kind) for n, f in _functions(space, known)})


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
