"""Wrong rotary embeddings and YaRNs."""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.rope import apply_rope, apply_rope_vjp, rope_frequencies, rope_table, yarn_attention_factor


def yarn_ends(head_dim, theta, scaling):
    """Give the real-valued ends of YaRN's ramp."""
    length = scaling.get("original_max_position_embeddings", 2048)
    betas = np.array([scaling.get("beta_fast", 32.0), scaling.get("beta_slow", 1.0)])
    return head_dim * np.log(length / (2 * np.pi * betas)) / (2 * np.log(theta))


def renamed(scaling, form):
    """Put another form in published YaRN's place."""
    return {**scaling, "type": form} if scaling and scaling["type"] == "yarn" else scaling


def blended(head_dim, theta, scaling, ramp):
    """Give the frequencies that a ramp blends."""
    plain = rope_frequencies(head_dim, theta=theta)
    return plain * (1 - ramp) + plain / scaling["factor"] * ramp


@mutant("rope_table", "ROPE-M01", owner="ROPE-6", summary="angles have half precision, so that far positions collide",
        source="transformers PR #29285, gpt-neox PR #1016 (ROP-1)")  # fmt: skip
def half_angles(positions, frequencies, *, attention_factor=1.0):
    angles = positions[..., None].astype(np.float16) * frequencies.astype(np.float16)
    return attention_factor * np.cos(angles), attention_factor * np.sin(angles)


@mutant("apply_rope", "ROPE-M02", owner="ROPE-7", summary="features 2i and 2i + 1 are the pairs",
        source="torchtitan #335 (ROP-2)")  # fmt: skip
def interleaved(x, cos, sin):
    c, s = cos[..., None, :], sin[..., None, :]
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack([even * c - odd * s, odd * c + even * s], axis=-1).reshape(x.shape)


@mutant("rope_frequencies", "ROPE-M03", owner="ROPE-15", summary="YaRN is MiniMind2's own formula",
        source="MiniMind 4e35fb9, mended in 151fdf7 (ROP-3)")  # fmt: skip
def yarn_of_its_own(head_dim, *, theta, scaling=None):
    return rope_frequencies(head_dim, theta=theta, scaling=renamed(scaling, "yarn-minimind2"))


@mutant("rope_frequencies", "ROPE-M04", owner="ROPE-15", summary="the ramp's upper end is capped at half the width",
        source="MiniMind-3, d65ef2c (ROP-3)")  # fmt: skip
def capped_at_half(head_dim, *, theta, scaling=None):
    return rope_frequencies(head_dim, theta=theta, scaling=renamed(scaling, "yarn-minimind3"))


@mutant("rope_frequencies", "ROPE-M05", owner="ROPE-15", summary="every frequency is divided by the factor",
        source="position interpolation in YaRN's place (ROP-6)")  # fmt: skip
def interpolated_throughout(head_dim, *, theta, scaling=None):
    if not scaling or scaling["type"] != "yarn":
        return rope_frequencies(head_dim, theta=theta, scaling=scaling)
    return rope_frequencies(head_dim, theta=theta) / scaling["factor"]


@mutant("rope_frequencies", "ROPE-M07", owner="ROPE-15", summary="the ramp's ends are not rounded to whole pairs",
        source="floor and ceiling left out (ROP-3)")  # fmt: skip
def ends_not_rounded(head_dim, *, theta, scaling=None):
    if not scaling or scaling["type"] != "yarn":
        return rope_frequencies(head_dim, theta=theta, scaling=scaling)
    low, high = yarn_ends(head_dim, theta, scaling)
    low, high = max(low, 0), min(high, head_dim - 1)
    return blended(head_dim, theta, scaling, np.clip((np.arange(head_dim // 2) - low) / max(high - low, 0.001), 0, 1))


@mutant("rope_frequencies", "ROPE-M08", owner="ROPE-1", summary="exponents run to the whole width, not to half of it",
        source="i/h for 2i/h")  # fmt: skip
def exponents_of_the_whole_width(head_dim, *, theta, scaling=None):
    return np.sqrt(rope_frequencies(head_dim, theta=theta, scaling=scaling))


@mutant("rope_frequencies", "ROPE-M09", owner="ROPE-22", summary="an unknown scaling is no scaling, without a word",
        source="litgpt #1713 (ROP-6)")  # fmt: skip
def unknown_scaling_ignored(head_dim, *, theta, scaling=None):
    known = scaling and scaling.get("type") in ("yarn", "yarn-minimind2", "yarn-minimind3")
    return rope_frequencies(head_dim, theta=theta, scaling=scaling if known else None)


@mutant("yarn_attention_factor", "ROPE-M10", owner="ROPE-18", summary="a given attention factor is ignored",
        source="vllm PR #46280 (ROP-4)")  # fmt: skip
def given_factor_ignored(scaling):
    return yarn_attention_factor(scaling and {**scaling, "attention_factor": None})


@mutant("yarn_attention_factor", "ROPE-M11", owner="ROPE-18",
        summary="the attention factor is 1 for published YaRN too", source="MiniMind-3, d65ef2c (ROP-4)")  # fmt: skip
def factor_of_one(scaling):
    given = scaling and scaling.get("attention_factor")
    return 1.0 if given is None else given


@mutant("yarn_attention_factor", "ROPE-M06", owner="ROPE-18", summary="MiniMind-3's form has the published factor",
        source="a config read as Hugging Face's own YaRN (ROP-4)")  # fmt: skip
def published_factor_for_every_form(scaling):
    return yarn_attention_factor(scaling and {**scaling, "type": "yarn"})


@mutant("rope_table", "ROPE-M12", owner="ROPE-2", summary="the attention factor is applied twice",
        source="sglang PR #33558 (ROP-4)")  # fmt: skip
def factor_twice(positions, frequencies, *, attention_factor=1.0):
    return rope_table(positions, frequencies, attention_factor=attention_factor**2)


@mutant("rope_table", "ROPE-M13", owner="ROPE-3", summary="positions count from the first of the call",
        source="mlx-lm #1699 (ROP-9)")  # fmt: skip
def counted_from_the_first(positions, frequencies, *, attention_factor=1.0):
    return rope_table(positions - positions[..., :1], frequencies, attention_factor=attention_factor)


@mutant("apply_rope", "ROPE-M14", owner="ROPE-7", summary="the rotation turns the other way",
        source="an exchanged sign")  # fmt: skip
def turned_back(x, cos, sin):
    return apply_rope(x, cos, -sin)


@mutant("apply_rope", "ROPE-M15", owner="ROPE-11", summary="the gradient is rotated forward, not back",
        source="the forward kernel called in the backward pass", gradient=True)  # fmt: skip
def gradient_turned_forward(x, cos, sin, *, cotangent):
    return apply_rope(cotangent, cos, sin), *apply_rope_vjp(x, cos, sin, cotangent=cotangent)[1:]
