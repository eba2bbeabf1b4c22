"""The counter-based generator behind every test input: integers only, so that any language gives the same bits.

Element i of an array depends on (seed, structure, i) and on nothing else; golden/README.md defines it in words.
"""

from collections.abc import Callable, Sequence

import numpy as np

GOLDEN_RATIO = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
WORDS_PER_ELEMENT = 4
# Shapes are annotated as a bare Sequence: checking an entry, beartype draws from `random`, which hypothesis forbids.


def _mix(z: np.ndarray) -> np.ndarray:
    """Scramble 64-bit words: the finaliser of SplitMix64, which is a bijection."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def words(seed: int, count: int) -> np.ndarray:
    """Give words 0 … count−1 of a seed's stream: mix(key + (k + 1)·φ) with key = mix(seed + φ), modulo 2⁶⁴."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed} but must lie in [0, 2**32)")
    key = _mix(np.array([(seed + GOLDEN_RATIO) & MASK], np.uint64))
    return _mix(key + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN_RATIO))


def _normal(w: np.ndarray) -> np.ndarray:
    """Sum the twelve 16-bit fields of three words: mean 0 and variance 1 in units of 2⁻¹⁶, within ±6."""
    fields = sum((w[:, j] >> np.uint64(16 * f)) & np.uint64(0xFFFF) for j in range(3) for f in range(4))
    return (np.asarray(fields).astype(np.int64) - 6 * 65535) / 65536.0


def _alternating(w: np.ndarray, shape: tuple) -> np.ndarray:
    sign = np.where(np.arange(shape[-1]) % 2, -1.0, 1.0) if shape else np.array(1.0)
    return (np.abs(_normal(w)).reshape(shape) * sign + 0.0).reshape(-1)  # + 0.0: no negative zero


STRUCTURES: dict[str, Callable[[np.ndarray, tuple], np.ndarray]] = {
    "normal": lambda w, shape: _normal(w),
    "uniform": lambda w, shape: (2 * (w[:, 0] >> np.uint64(48)).astype(np.int64) - 65535) / 65536.0,
    "positive": lambda w, shape: np.abs(_normal(w)) + 2.0**-16,
    "tiny": lambda w, shape: _normal(w) * 2.0**-14,
    "large": lambda w, shape: _normal(w) * 2.0**10,
    "heavy": lambda w, shape: np.ldexp(_normal(w), (w[:, 3] >> np.uint64(60)).astype(np.int64) - 8),
    "offset": lambda w, shape: _normal(w) * 2.0**-3 + 4.0,
    "sorted": lambda w, shape: np.sort(_normal(w).reshape(shape or (1,)), axis=-1).reshape(-1),
    "alternating": _alternating,
    "ties": lambda w, shape: ((w[:, 0] >> np.uint64(61)).astype(np.int64) - 4) / 4.0,
}


def draw(seed: int, shape: Sequence, scale: float | int = 1.0, structure: str = "normal") -> np.ndarray:
    """Draw a float64 array; with a power of two as `scale` every entry is a float32 number too."""
    if structure not in STRUCTURES:
        raise ValueError(f"structure is {structure!r} but the known ones are {', '.join(STRUCTURES)}")
    shape = tuple(shape)
    count = int(np.prod(shape, dtype=np.int64))
    w = words(seed, WORDS_PER_ELEMENT * count).reshape(count, WORDS_PER_ELEMENT)
    return np.asarray(STRUCTURES[structure](w, shape).reshape(shape) * scale)


def draw_integers(seed: int, shape: Sequence, low: int, high: int) -> np.ndarray:
    """Draw int64 with low ≤ value < high: low + ⌊(top 32 bits of the element's first word)·(high − low)/2³²⌋."""
    if not 0 < high - low < 2**31:
        raise ValueError(f"high is {high} and low is {low} but high - low must lie in [1, 2**31)")
    shape = tuple(shape)
    count = int(np.prod(shape, dtype=np.int64))
    w = words(seed, WORDS_PER_ELEMENT * count)[::WORDS_PER_ELEMENT]
    return np.asarray(
        (((w >> np.uint64(32)) * np.uint64(high - low)) >> np.uint64(32)).astype(np.int64).reshape(shape) + low
    )
