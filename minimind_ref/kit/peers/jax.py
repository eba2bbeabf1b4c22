"""JAX's own functions: jax.nn, compiled, as everybody runs them."""

from functools import partial
from typing import Any

import jax  # type: ignore
import jax.numpy as jnp  # type: ignore

from minimind_ref.kit.implementation import Implementation

NARROW = ("float32", "bfloat16")
PROFILES = ("float64", *NARROW) if jax.config.jax_enable_x64 else NARROW
nn = Implementation("jax.nn", arrays="jax", profiles=PROFILES)
product = Implementation(  # float32 inside, whatever the inputs are
    "jax.nn.dot_product_attention", arrays="jax", profiles=NARROW, choices={"attention.nothing_visible": "other"}
)
IMPLEMENTATIONS = [nn, product]


@nn.op("swiglu")
@jax.jit
def swiglu(x: Any, w_gate: Any, w_up: Any, w_down: Any) -> Any:
    """jax.nn.silu between products."""
    return (jax.nn.silu(x @ w_gate.T) * (x @ w_up.T)) @ w_down.T


@product.op("attention")
@partial(jax.jit, static_argnames=("causal", "scale"))
def attention(q: Any, k: Any, v: Any, *, mask: Any = None, causal: bool = True, scale: float | None = None) -> Any:
    """jax.nn.dot_product_attention; is_causal is aligned at the start, so it is used where s = t alone."""
    s, t = q.shape[1], k.shape[1]
    if causal and mask is None and s == t:
        return jax.nn.dot_product_attention(q, k, v, scale=scale, is_causal=True)
    seen = jnp.tril(jnp.ones((s, t), bool), t - s) if causal else jnp.ones((s, t), bool)
    seen = seen[None] if mask is None else seen & mask
    seen = jnp.broadcast_to(seen[:, None], (len(q), 1, s, t))
    return jax.nn.dot_product_attention(q, k, v, mask=seen, scale=scale)


@nn.op("token_logp")
@jax.jit
def token_logp(logits: Any, labels: Any) -> Any:
    """jax.nn.log_softmax in float32 or wider, and the label's entry."""
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return jnp.take_along_axis(jax.nn.log_softmax(wide, axis=-1), labels[..., None], axis=-1)[..., 0]
