"""The computed half of a case: expected values, and for each profile how far an honest result may be from them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minimind_ref.golden import agreement, faces, files
from minimind_ref.golden.trees import GoldenError, is_floating, leaves, map_leaves, plain_numbers, settled

Named = dict[str, Any]


@dataclass
class Computed:
    """Results by profile and name; a profile other than float64 is in `expected` only where it rounds the inputs."""

    by: str = "oracle"
    expected: dict[str, Named] = field(default_factory=dict)
    tolerance: dict[str, Named] = field(default_factory=dict)  # of float64 code on the same inputs
    bound: dict[str, Named] = field(default_factory=dict)


def compute(component: str, case: dict[str, Any], specs: Path, *, full: bool) -> tuple[Computed, Computed]:
    """Compute a case's outputs and gradients with their bounds.

    `full` runs the spec's definition (its values are then the expected ones) and the torch face too, and raises
    GoldenError where a face is outside the float64 bound; otherwise the oracle runs alone.
    """
    from minimind_ref.oracle.bounded import PROFILES

    outputs, gradients, found = Computed(), Computed(), ()
    for profile in ["float64", *[p for p in case.get("profiles", PROFILES) if p != "float64"]]:
        inputs, cotangents = as_stored(case, profile)
        source = profile if profile == "float64" or differ(case, inputs, cotangents) else "float64"
        if source == profile:
            exact = expect(component, case, profile, inputs, cotangents, specs if full else None, outputs, gradients)
            found = found or exact
        if profile != "float64" and any(is_floating(x) for _, x in leaves(inputs)):  # integers and text have no profile
            found = faces.run_oracle(component, case, inputs, cotangents, profile)
        for computed, results in zip((outputs, gradients), found, strict=True):
            computed.bound[profile] = bounds(results, computed.expected[source], profile, case.get("ulps", 0))
    if full:
        agreement.with_torch(component, case, outputs, gradients)
        agreement.with_slopes(component, case, gradients, specs)
    return outputs, gradients


def expect(
    component: str, case: dict[str, Any], profile: str, inputs: Named, cotangents: Named, specs: Path | None,
    outputs: Computed, gradients: Computed,
) -> tuple[Named, Named]:  # fmt: skip
    """Fill in expected values, from the definition where there is one, and tolerances; give the oracle's results.

    Plain floats came from no array, so no bound was carried along: they must be the definition's to the last bit, or
    within the units in the last place that the case states.
    """
    found = faces.run_oracle(component, case, inputs, cotangents, "float64")
    for computed, results in zip((outputs, gradients), found, strict=True):
        computed.expected[profile] = {n: settled(plain(y)) for n, y in results.items()}
        computed.tolerance[profile] = bounds(results, computed.expected[profile], "float64", case.get("ulps", 0))
    exact = faces.exact_outputs(component, case, inputs, specs) if specs else None
    if exact is not None:
        for n, y in outputs.expected[profile].items():
            agreement.within(f"oracle's {n}", y, exact[n], outputs.tolerance[profile].get(n))
            exact[n] = y if isinstance(y, list | str) else exact[n]
        outputs.expected[profile], outputs.by = exact, "definition"
    for n in [n for n, y in found[0].items() if plain_numbers(y)] if specs and exact is None else []:
        raise GoldenError(f"{n} is a plain float without a bound: give the input that it depends on a shape")
    return found


def as_stored(case: dict[str, Any], profile: str) -> tuple[Named, Named]:
    """Build the inputs and the cotangents, rounded to the profile's storage type."""
    given = (files.build(case["inputs"]), files.build(case["gradients"]["cotangent"]) if "gradients" in case else {})
    inputs, cotangents = (map_leaves(plain, faces.with_bounds(x, profile)) for x in given)
    return inputs, cotangents


def differ(case: dict[str, Any], inputs: Named, cotangents: Named) -> bool:
    """Say whether rounding to a storage type changed an input or a cotangent."""
    pairs = zip(as_stored(case, "float64"), (inputs, cotangents), strict=True)
    both = [(a, b) for x, y in pairs for (_, a), (_, b) in zip(leaves(x), leaves(y), strict=True)]
    return any(is_floating(a) and not np.array_equal(a, b, equal_nan=True) for a, b in both)


def plain(y: Any) -> Any:
    """Take the value out of a bound-carrying array; what is no array is returned as it is."""
    from minimind_ref.oracle.bounded import value

    return np.asarray(value(y)) if hasattr(y, "dtype") else y


def bounds(results: Named, expected: Named, profile: str, ulps: float) -> Named:
    """Give the bounds of the floating results: 0 where the expected value is not finite, and never infinite.

    What came from no array carries none: it has the case's `ulps`, 0 where it must be the definition's value rounded.
    """
    from minimind_ref.oracle.bounded import Bounded, bound

    found = {}
    for n, y in results.items():
        if plain_numbers(y) or (is_floating(y) and not isinstance(y, Bounded)):
            found[n] = ulps * np.nan_to_num(np.spacing(np.abs(expected[n])))  # an infinity has no last place
        elif hasattr(y, "dtype"):
            each = np.where(np.isfinite(expected[n]), bound(y), 0.0)
            if not np.isfinite(each).all():
                raise GoldenError(f"{n} is undecided in {profile}: change the inputs or leave the profile out")
            found |= {n: each} if is_floating(y) else {}
    return found
