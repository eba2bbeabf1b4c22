"""Rotary position embedding, with YaRN's three known forms.  Spec: specs/rope.md."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minimind_ref.checks import require_finite, require_positive, require_rank, require_shape
from minimind_ref.config import validate_rope_scaling

DEFAULTS = {  # per type: factor, original length, beta_fast, beta_slow
    "yarn": (None, 2048, 32.0, 1.0),
    "yarn-minimind2": (4.0, 2048, 4.0, 1.0),
    "yarn-minimind3": (16.0, 2048, 32.0, 1.0),
}


def rope_frequencies(
    head_dim: int, *, theta: float, scaling: Mapping[str, Any] | None = None
) -> Float[Tensor, " half"]:
    """Angle per position of each rotated pair, θ^(−2i/h), in float64; `scaling` stretches the slow ones (ROPE-1).

    Source: Su et al. 2021, arXiv:2104.09864, eq. 15; YaRN: Peng et al. 2023, arXiv:2309.00071, sec. 3.2.
    """
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"head_dim={head_dim} must be even and at least 2: RoPE rotates pairs")
    if not (0 if scaling is None else 1) < theta < math.inf:
        raise ValueError(f"theta={theta} must be finite and above 0, above 1 with scaling={scaling}")
    index = torch.arange(head_dim // 2, dtype=torch.float64, device="cpu")
    frequencies = theta ** (-2 * index / head_dim)
    if scaling is None:
        return frequencies
    validate_rope_scaling(scaling)
    factor, length, fast, slow = _settings(scaling)
    if scaling["type"] == "yarn-minimind2":
        return frequencies * _minimind2_stretch(frequencies, factor, length, fast, slow)
    cap = head_dim - 1 if scaling["type"] == "yarn" else head_dim // 2 - 1
    low = max(math.floor(_turns_to_dimension(fast, head_dim, theta, length)), 0)
    high = min(math.ceil(_turns_to_dimension(slow, head_dim, theta, length)), cap)
    ramp = ((index - low) / max(high - low, 0.001)).clamp(0, 1)
    return frequencies * (1 - ramp + ramp / factor)


def _settings(scaling: Mapping[str, Any]) -> tuple[float, int, float, float]:
    keys = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow")
    return tuple(scaling.get(key, default) for key, default in zip(keys, DEFAULTS[scaling["type"]], strict=True))  # type: ignore[return-value]


def _turns_to_dimension(turns: float, head_dim: int, theta: float, length: int) -> float:
    """The (real-valued) pair that turns `turns` times over `length` positions."""
    return head_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))


def _minimind2_stretch(
    frequencies: Float[Tensor, " half"], factor: float, length: int, fast: float, slow: float
) -> Float[Tensor, " half"]:
    """MiniMind2's own ramp over beta, kept for its weights: it is not YaRN (ROPE-17, ROPE-20)."""
    half = len(frequencies)
    index = torch.arange(half, dtype=torch.float64, device="cpu")
    beta = slow + (fast - slow) * index / max(half - 1, 1)
    wavelength_exceeds = 2 * math.pi / frequencies > length
    first = int(wavelength_exceeds.nonzero()[0]) if wavelength_exceeds.any() else half
    return torch.where(index < first, (beta * factor - beta + 1) / (beta * factor), torch.full_like(beta, 1 / factor))


def yarn_attention_factor(scaling: Mapping[str, Any] | None) -> float:
    """Factor of cos and sin: 0.1·ln s + 1 as published, 1 in MiniMind's forms and without YaRN (ROPE-18)."""
    if scaling is None:
        return 1.0
    validate_rope_scaling(scaling)
    published = 0.1 * math.log(_settings(scaling)[0]) + 1.0 if scaling["type"] == "yarn" else 1.0
    given = scaling.get("attention_factor")
    return published if given is None else float(given)


def rope_table(
    positions: Int[Tensor, "*lead s"], frequencies: Float[Tensor, " half"], *, attention_factor: float = 1.0
) -> tuple[Float[Tensor, "*lead s half"], Float[Tensor, "*lead s half"]]:
    """Cosine and sine of position × frequency, on the positions' device, in the frequencies' dtype (ROPE-2, ROPE-4).

    Angles are formed in float64: a float32 angle is off by 3u × position.  MPS, which has no float64, gets float32
    tables that were computed on the CPU.
    """
    if positions.ndim not in (1, 2):
        raise ValueError(f"positions has {positions.ndim} axes, shape {tuple(positions.shape)}, but must have 1 or 2")
    require_positive("length of positions", positions.numel())
    require_rank("frequencies", frequencies, 1)
    require_finite("attention_factor", attention_factor)
    device, dtype = positions.device, torch.promote_types(frequencies.dtype, torch.float32)
    if device.type == "mps":
        positions, dtype = positions.cpu(), torch.float32
    angle = positions.double()[..., None] * frequencies.to(positions.device).double()
    cos, sin = angle.cos() * attention_factor, angle.sin() * attention_factor
    return cos.to(dtype).to(device), sin.to(dtype).to(device)


def apply_rope(
    x: Float[Tensor, "..."], cos: Float[Tensor, "... half"], sin: Float[Tensor, "..."]
) -> Float[Tensor, "b s n h"]:
    """Rotate pair (i, i + h/2) of every head of x (b, s, n, h) by its position's angle, in float32 or wider (ROPE-7).

    cos and sin are (s, h/2), or (b, s, h/2) where positions differ between rows.

    Differs: half-split pairing as in GPT-NeoX and Llama's Hugging Face form; the paper rotates neighbours.
    """
    require_rank("x", x, 4)
    b, s, _, h = x.shape
    shape = (s, h // 2) if cos.ndim == 2 else (b, s, h // 2)
    for name, table in (("cos", cos), ("sin", sin)):
        require_shape(name, table, shape, f"the positions and half the head width of x, shape {tuple(x.shape)}")
    if h % 2:
        raise ValueError(f"x has head width {h}, which must be even: cos has width {h // 2} and turns pairs")
    require_positive("length of x", s)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    first, second = wide[..., : h // 2], wide[..., h // 2 :]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
