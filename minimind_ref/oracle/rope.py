"""Rotary position embedding and YaRN, one pair of features at a time.  Spec: specs/rope.md."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from minimind_ref.oracle.bounded import Array, store
from minimind_ref.oracle.checks import (
    float64,
    require_equal,
    require_finite,
    require_option,
    require_positive,
    require_rank,
)

DEFAULTS: dict[str, dict[str, Any]] = {
    "yarn": {"beta_fast": 32.0},
    "yarn-minimind2": {"beta_fast": 4.0, "factor": 4.0},
    "yarn-minimind3": {"beta_fast": 32.0, "factor": 16.0},
}
COMMON = {"beta_slow": 1.0, "original_max_position_embeddings": 2048, "attention_factor": None}
KEYS = ("type", "factor", "beta_fast", *COMMON)


def rope_frequencies(
    head_dim: int, *, theta: float, scaling: Mapping[str, Any] | None = None
) -> Float[np.ndarray, " half"]:
    """Give the pairs' frequencies in radians per position, theta^(−2i/h), rescaled as `scaling` says (ROPE-1, -15…-17).

    Source: Su et al. 2021, arXiv:2104.09864, section 3.2.2; Peng et al. 2023, arXiv:2309.00071, section 3.2.
    """
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"head_dim is {head_dim} but must be even and at least 2")
    lowest = 0 if scaling is None else 1
    if not np.isfinite(theta) or theta <= lowest:
        raise ValueError(f"theta={theta} must be finite and above {lowest}")
    plain = [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    if scaling is None:
        return np.array(plain)
    settings = _settings(scaling)
    if settings["type"] == "yarn-minimind2":
        return np.array(_minimind2(plain, settings))
    return np.array(_yarn(plain, settings, theta))


def yarn_attention_factor(scaling: Mapping[str, Any] | None) -> float:
    """Give the factor of cos and sin: as given, else 0.1·ln s + 1 for the published form and 1 otherwise (ROPE-18).

    Source: Peng et al. 2023, arXiv:2309.00071, eq. 22.
    """
    if scaling is None:
        return 1.0
    settings = _settings(scaling)
    if settings["attention_factor"] is not None:
        return float(settings["attention_factor"])
    return 0.1 * math.log(settings["factor"]) + 1 if settings["type"] == "yarn" else 1.0


def rope_table(
    positions: Int[np.ndarray, "*place"], frequencies: Float[Array, " half"], *, attention_factor: float = 1.0
) -> tuple[Float[Array, "*place half"], Float[Array, "*place half"]]:
    """Give cos and sin of position·frequency, times `attention_factor` (ROPE-2)."""
    if positions.ndim not in (1, 2):
        raise ValueError(f"positions has {positions.ndim} axes but needs 1 or 2; its shape is {positions.shape}")
    require_positive("length of positions", positions.size)
    require_rank("frequencies", frequencies, 1)
    require_finite("attention_factor", attention_factor)
    frequencies = float64(frequencies)
    angles = [frequencies * int(position) for position in positions.flat]
    shape = (*positions.shape, frequencies.shape[0])
    cos, sin = (np.stack([attention_factor * wave(a) for a in angles]).reshape(shape) for wave in (np.cos, np.sin))
    return cos, sin


def apply_rope(
    x: Float[Array, "..."], cos: Float[Array, "... half"], sin: Float[Array, "..."]
) -> Float[Array, "b s n h"]:
    """Turn feature i with feature i + h/2 of every head of x (b, s, n, h) by its position's angle (ROPE-7).

    cos and sin are (b, s, h/2) or (s, h/2).
    """
    x, cos, sin = _checked(x, cos, sin)
    y = np.zeros_like(x)
    half = x.shape[-1] // 2
    for i in range(half):
        a, b, c, s = x[..., i], x[..., i + half], cos[..., i, None], sin[..., i, None]
        y[..., i] = store(a * c - b * s)
        y[..., i + half] = store(b * c + a * s)
    return y


def apply_rope_vjp(
    x: Float[Array, "..."],
    cos: Float[Array, "... half"],
    sin: Float[Array, "..."],
    *,
    cotangent: Float[Array, "b s n h"],
) -> tuple[Float[Array, "b s n h"], Float[Array, "... half"], Float[Array, "... half"]]:
    """Pull `cotangent` back to x, by the rotation back, and to cos and sin (ROPE-11, -12)."""
    x, cos, sin = _checked(x, cos, sin)
    dx, dcos, dsin, g = np.zeros_like(x), np.zeros_like(cos), np.zeros_like(sin), float64(cotangent)
    half, summed = x.shape[-1] // 2, (0, 2) if cos.ndim == 2 else 2
    for i in range(half):
        a, b, c, s = x[..., i], x[..., i + half], cos[..., i, None], sin[..., i, None]
        along, across = g[..., i], g[..., i + half]
        dx[..., i] = store(store(along * c) + store(across * s))
        dx[..., i + half] = store(store(across * c) - store(along * s))
        dcos[..., i] = store(store(np.sum(along * a, axis=summed)) + store(np.sum(across * b, axis=summed)))
        dsin[..., i] = store(store(np.sum(across * a, axis=summed)) - store(np.sum(along * b, axis=summed)))
    return dx, dcos, dsin


def _settings(scaling: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what `scaling` leaves open; refuse what has no meaning (ROPE-22)."""
    require_option("scaling type", scaling.get("type"), DEFAULTS)
    for key in scaling:
        require_option("scaling key", key, KEYS)
    settings = {**COMMON, **DEFAULTS[scaling["type"]], **scaling}
    numbers = {key: s for key, s in settings.items() if key != "type" and (key, s) != ("attention_factor", None)}
    for key, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not np.isfinite(number):
            raise ValueError(f"scaling {key}={number!r} must be a finite number")
        if number <= 0 and key != "attention_factor":
            raise ValueError(f"scaling {key}={number} must be above 0")
    if "factor" not in settings:
        raise ValueError(f"scaling type={settings['type']!r} needs a factor but has only {', '.join(scaling)}")
    if settings["factor"] < 1:
        raise ValueError(f"scaling factor={settings['factor']} must be at least 1")
    fast, slow = settings["beta_fast"], settings["beta_slow"]
    if fast < slow:
        raise ValueError(f"scaling beta_fast={fast} must be at least beta_slow={slow}")
    return settings


def _yarn(plain: list[float], settings: dict[str, Any], theta: float) -> list[float]:
    """Blend f and f/s along a ramp between the pairs that turn beta_fast and beta_slow times within L positions."""
    h, length = 2 * len(plain), settings["original_max_position_embeddings"]

    def index(turns: float) -> float:
        return h / 2 * math.log(length / (2 * math.pi * turns)) / math.log(theta)

    cap = h - 1 if settings["type"] == "yarn" else len(plain) - 1
    low, high = max(math.floor(index(settings["beta_fast"])), 0), min(math.ceil(index(settings["beta_slow"])), cap)
    blended = []
    for i, frequency in enumerate(plain):
        ramp = min(max((i - low) / max(high - low, 0.001), 0.0), 1.0)
        blended.append((1 - ramp) * frequency + ramp * (frequency / settings["factor"]))
    return blended


def _minimind2(plain: list[float], settings: dict[str, Any]) -> list[float]:
    """MiniMind2's own rule (ROPE-17); not YaRN (ROPE-20)."""
    factor, length = settings["factor"], settings["original_max_position_embeddings"]
    beyond = [2 * math.pi / frequency > length for frequency in plain]
    kept = beyond.index(True) if True in beyond else len(plain)
    beta = np.linspace(settings["beta_slow"], settings["beta_fast"], len(plain))
    return [plain[i] * (1 - (1 - 1 / beta[i]) / factor) for i in range(kept)] + [f / factor for f in plain[kept:]]


def _checked(x: Array, cos: Array, sin: Array) -> tuple[Array, Array, Array]:
    require_rank("x", x, 4)
    b, s, _, h = x.shape
    require_equal("shape of sin", tuple(sin.shape), "shape of cos", tuple(cos.shape))
    wanted = (b, s, h // 2) if cos.ndim == 3 else (s, h // 2)
    require_equal("shape of cos", tuple(cos.shape), "(batch, positions, half the head width) of x", wanted)
    require_equal("head width of x", h, "twice the width of cos", 2 * cos.shape[-1])
    require_positive("length of x", s)
    return float64(x), float64(cos), float64(sin)
