"""Define the number formats and precision profiles for which error bounds are derived.

A profile keeps the precision in which numbers are *stored* (inputs, results, the storage points that a spec names)
apart from the one in which they are *accumulated*: bfloat16 and float16 models accumulate in float32.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

# The oracle computes in float64, so each of its own operations is rounded too.
ORACLE_UNIT = 2.0**-53


@dataclass(frozen=True)
class Format:
    """Describe a binary floating-point format by its significand (hidden bit included) and exponent range."""

    name: str
    digits: int
    smallest_exponent: int
    largest_exponent: int

    @property
    def unit(self) -> float:
        """Give the unit roundoff u: rounding to nearest moves a normal number x by at most u|x|."""
        return 2.0**-self.digits

    @property
    def tiny(self) -> float:
        """Give the smallest subnormal number: the spacing near zero."""
        return 2.0 ** (self.smallest_exponent - self.digits + 1)

    @property
    def smallest_normal(self) -> float:
        """Give the smallest normal number: what libraries that flush to zero flush lies below it."""
        return 2.0**self.smallest_exponent

    @property
    def largest(self) -> float:
        """Give the largest finite number."""
        return (2.0 - 2.0 ** (1 - self.digits)) * 2.0**self.largest_exponent

    def round(self, x: Any) -> Any:
        """Round float64 numbers to the nearest of this format, ties to even; beyond the largest they become inf."""
        x = np.asarray(x, np.float64)
        with np.errstate(all="ignore"):
            exponent = np.maximum(np.frexp(x)[1] - 1, self.smallest_exponent) - (self.digits - 1)
            y = np.ldexp(np.rint(np.ldexp(x, -exponent)), exponent)
        return np.where(np.abs(y) > self.largest, np.copysign(np.inf, x), y)


FLOAT64 = Format("float64", 53, -1022, 1023)
FLOAT32 = Format("float32", 24, -126, 127)
BFLOAT16 = Format("bfloat16", 8, -126, 127)
FLOAT16 = Format("float16", 11, -14, 15)


@dataclass(frozen=True)
class Profile:
    """Pair the format of stored numbers with the format in which sums are accumulated."""

    name: str
    storage: Format
    accumulation: Format

    @property
    def unit(self) -> float:
        """Give u for one operation: the implementation's rounding and the oracle's own."""
        return self.accumulation.unit + ORACLE_UNIT


PROFILES: dict[str, Profile] = {
    "float64": Profile("float64", FLOAT64, FLOAT64),
    "float32": Profile("float32", FLOAT32, FLOAT32),
    "bfloat16": Profile("bfloat16", BFLOAT16, FLOAT32),
    "float16": Profile("float16", FLOAT16, FLOAT32),
}


def as_profile(profile: "str | Profile") -> Profile:
    """Look up a profile by name; a profile passes through."""
    if isinstance(profile, Profile):
        return profile
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}, expected one of {', '.join(PROFILES)}")
    return PROFILES[profile]


def gamma(roundings: Any, unit: float) -> Any:
    """Bound the relative error of k roundings, γ(k) = k·u / (1 − k·u), infinite from k·u = 1.

    Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, lemma 3.1.
    """
    ku = np.asarray(roundings, np.float64) * unit
    with np.errstate(divide="ignore", invalid="ignore"):
        return ku / np.maximum(1 - ku, 0)
