"""Flax: linen.RMSNorm."""

from functools import partial
from typing import Any

import flax.linen as nn  # type: ignore
import jax  # type: ignore

from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.peers.jax import PROFILES

linen = Implementation("flax.linen.RMSNorm", arrays="jax", profiles=PROFILES)
IMPLEMENTATIONS = [linen]


@linen.op("rms_norm")
@partial(jax.jit, static_argnames="eps")
def rms_norm(x: Any, weight: Any, *, eps: float) -> Any:
    """nn.RMSNorm."""
    return nn.RMSNorm(epsilon=eps, dtype=x.dtype).apply({"params": {"scale": weight}}, x)
