"""Derivatives of a spec's definition in 50 digits, and identities whose two sides carry their bounds."""

from collections.abc import Callable, Mapping
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
from tolerance import assert_within

from minimind_ref.oracle.bounded import Bounded, bound, bound_inputs, value

STEP = Decimal(10) ** -16


def exact(*arrays: np.ndarray, profile: str = "float64") -> tuple:
    """Give Bounded arrays, so that an oracle run on them says how far float64 may be from its result."""
    return bound_inputs(*arrays, profile=profile)


def decimal_vjp(definition: Callable, inputs: Mapping[str, Any], *, cotangent: np.ndarray, **options: Any) -> tuple:
    """Differentiate Σ cotangent·definition(inputs) by each entry of each floating input, central steps of 1e-16.

    In 65 digits the rounding is below 1e-45 and the cut-off error below 1e-30: correct to float64, without autograd and
    without the oracle's formula; it needs no complex arithmetic, which max and comparisons would not survive.
    """
    numbers = {k: _decimals(x) if x.dtype.kind == "f" else x for k, x in inputs.items()}
    weights = _decimals(np.asarray(cotangent, np.float64)).reshape(-1)

    def total(values: Mapping[str, Any]) -> Decimal:
        given = {k: x.tolist() for k, x in values.items()}
        outputs = np.array(definition(*given.values(), **options), dtype=object).reshape(-1)
        with localcontext() as context:
            context.prec = 80
            return sum((w * y for w, y in zip(weights, outputs, strict=True)), Decimal(0))

    gradients = []
    for name, x in numbers.items():
        if x.dtype != object:
            continue
        gradient = np.zeros(x.shape)
        for index in np.ndindex(*x.shape):
            sides = []
            for step in (STEP, -STEP):
                moved = x.copy()
                moved[index] = x[index] + step
                sides.append(total({**numbers, name: moved}))
            with localcontext() as context:
                context.prec = 80
                gradient[index] = float((sides[0] - sides[1]) / (2 * STEP))
        gradients.append(gradient)
    return tuple(gradients)


def assert_law(actual: Any, left: Bounded, right: Any) -> None:
    """Assert an identity left = right for `actual`, which an implementation computed as `left` was.

    It may be as far from left's value as left's bound, and so may left's value be from the truth; right adds its own.
    """
    assert_within(actual, value(right), 2 * bound(left) + bound(right))


def _decimals(x: np.ndarray) -> np.ndarray:
    return np.array([Decimal(float(entry)) for entry in x.reshape(-1)], dtype=object).reshape(x.shape)
