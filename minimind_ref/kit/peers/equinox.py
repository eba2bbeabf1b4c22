"""Equinox: nn.RMSNorm, one row at a time as its documentation asks, and the table of nn.RotaryPositionalEmbedding."""

from functools import partial
from typing import Any

import equinox as eqx  # type: ignore
import jax  # type: ignore
import jax.numpy as jnp  # type: ignore

from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.peers.jax import PROFILES

norm = Implementation("equinox.nn.RMSNorm", arrays="jax", profiles=PROFILES)
IMPLEMENTATIONS = [norm]


@norm.op("rms_norm")
@partial(jax.jit, static_argnames="eps")
def rms_norm(x: Any, weight: Any, *, eps: float) -> Any:
    """nn.RMSNorm under vmap."""
    module: Any = eqx.nn.RMSNorm(weight.shape, eps=eps, use_bias=False)
    module = eqx.tree_at(lambda m: m.weight, module, weight)
    rows = x.reshape(-1, x.shape[-1])
    return jnp.reshape(jax.vmap(module)(rows), x.shape)
