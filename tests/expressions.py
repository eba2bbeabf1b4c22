"""Small expressions to judge the error bounds by: honest ways to sum them, and wrong ways to write them.

Each runs on float64, float32 and bound-carrying arrays alike; `wrong` names a mutant.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from arrays import draw, draw_integers

from minimind_ref.oracle.bounded import Bounded, bound, bound_inputs, constant, decide, sigmoid, value


def _chunked(x: np.ndarray) -> np.ndarray:
    return np.add.reduceat(x, range(0, x.shape[-1], 7), axis=-1)[..., ::-1].cumsum(axis=-1, dtype=x.dtype)[..., -1]


# Every one sums the last axis in the array's own dtype.
SUMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sequential": lambda x: x.cumsum(axis=-1, dtype=x.dtype)[..., -1],
    "reversed": lambda x: x[..., ::-1].cumsum(axis=-1, dtype=x.dtype)[..., -1],
    "pairwise": lambda x: np.sum(x, axis=-1),
    "chunked": _chunked,
    "sorted": lambda x: np.sort(x, axis=-1).cumsum(axis=-1, dtype=x.dtype)[..., -1],
    "wide": lambda x: x.astype(np.float64).sum(axis=-1).astype(x.dtype),
}


def fused_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multiply matrices with a fused multiply-add: the product is not rounded before it is added."""
    total = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    for k in range(a.shape[1]):
        total = (total.astype(np.float64) + a[:, k, None].astype(np.float64) * b[k].astype(np.float64)).astype(a.dtype)
    return total


def online_softmax(x: np.ndarray, block: int) -> np.ndarray:
    """Compute a softmax block by block, rescaling what is there when the maximum rises."""
    top, total, parts = np.full((*x.shape[:-1], 1), -np.inf, x.dtype), 0 * x[..., :1], []
    for start in range(0, x.shape[-1], block):
        piece = x[..., start : start + block]
        rise = np.maximum(top, piece.max(axis=-1, keepdims=True))
        scale, top = np.exp(top - rise), rise
        parts = [part * scale for part in parts] + [np.exp(piece - top)]
        total = total * scale + parts[-1].sum(axis=-1, keepdims=True)
    return np.concatenate(parts, axis=-1) / total


def rms_norm(x, w, wrong=None):
    n = x.shape[-1]
    x = x - np.sum(x, axis=-1, keepdims=True) / n if wrong == "centred" else x
    mean = np.sum(x * x, axis=-1, keepdims=True) / (n - 1 if wrong == "n - 1" else n)
    eps = 1e-5 if wrong == "eps" else 1e-6
    root = np.sqrt(mean) + eps if wrong == "eps outside" else np.sqrt(mean if wrong == "no eps" else mean + eps)
    return x / root * (1.0 + w if wrong == "1 + w" else w)


def swiglu(gate, up, wrong=None):
    if wrong == "swapped":
        gate, up = up, gate
    return gate * sigmoid(gate * 1.702 if wrong == "quick" else gate) * up


def rope(x, position, wrong=None):
    half = x.shape[-1] // 2
    divisor = x.shape[-1] - 2 if wrong == "d - 2" else x.shape[-1]
    table = (1e4 if wrong == "base" else 1e6) ** (-2.0 * np.arange(half) / divisor)
    table = constant(table, like=x, ulps=2) if isinstance(x, Bounded) else table.astype(x.dtype)
    angle = (position + (wrong == "late")).astype(table.dtype)[:, None] * table
    a, b = (x[:, 0::2], x[:, 1::2]) if wrong == "interleaved" else (x[:, :half], x[:, half:])
    cos, sin = np.cos(angle), -np.sin(angle) if wrong == "sign" else np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attention(q, k, v, wrong=None):
    t, width = q.shape
    seen = np.tril(np.ones((t, t), bool), 1 if wrong == "leak" else 0)
    if wrong == "window":
        seen = seen & ~np.tril(np.ones((t, t), bool), 1 - t)
    score = np.where(seen, q @ k.T * (1.0 / (width if wrong == "1/d" else width**0.5)), -np.inf)
    part = np.exp(score - np.max(score, axis=-1, keepdims=True))
    total = np.sum(part, axis=-1, keepdims=True)
    return part / (total + 1.0 if wrong == "softmax1" else total) @ v


def cross_entropy(logits, label, wrong=None):
    supervised = label > 2
    label = np.roll(label, 1) if wrong == "shifted" else label
    z = logits - np.max(logits, axis=-1, keepdims=True)
    total = np.log(np.sum(np.exp(z), axis=-1))
    loss = np.where(supervised, total - np.take_along_axis(z, label[:, None], axis=-1)[:, 0], 0.0)
    count = len(label) if wrong == "all rows" else np.count_nonzero(supervised) + (wrong == "count + 1")
    return np.sum(loss) / int(count)


def adamw(p, g, m, v, wrong=None):
    lr, beta1, beta2, eps, decay, t = 1e-3, 0.9, 0.95, 1e-8, 0.1, 3
    g = g + decay * p if wrong == "l2" else g
    beta2 = 0.999 if wrong == "beta2" else beta2
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * (g * g)
    m_hat = m if wrong == "no correction" else m / (1 - beta1**t)
    v_hat = v / (1 - beta2 ** (t - 1 if wrong == "t - 1" else t))
    step = m_hat / (np.sqrt(v_hat + eps) if wrong == "eps inside" else np.sqrt(v_hat) + eps)
    if wrong == "l2":
        return p - lr * step
    if wrong == "decay after":
        return (p - lr * step) * (1 - lr * decay)
    return p * (1 - lr * decay) - lr * step


def grpo(logp, old, reference, advantage, wrong=None):
    ratio = np.exp(logp - old)
    clipped = np.clip(ratio, 1 - 0.2, 1 + (0.28 if wrong == "clip" else 0.2))
    pair = (ratio * advantage[:, None], clipped * advantage[:, None])
    surrogate = np.maximum(*pair) if wrong == "max" else np.minimum(*pair)
    gap = logp - reference if wrong == "reversed" else reference - logp
    penalty = -gap if wrong == "k1" else np.exp(gap) - gap - 1.0
    return np.mean(0.04 * penalty - surrogate)


def top_two(x, wrong=None):
    """Keep what is above the middle between the second and the third largest of its row: a jump."""
    order = np.sort(value(x), axis=-1)
    bar = (order[:, -3, None] + order[:, -4 if wrong == "three" else -2, None]) / 2
    return np.where(decide(x, bar), x, 0.0)


@dataclass(frozen=True)
class Component:
    """An expression, the shapes and scales of its inputs, and the names of its mutants."""

    function: Callable
    inputs: tuple[tuple, ...]
    wrong: tuple[str, ...]

    def draw(self, seed: int) -> list[np.ndarray]:
        """Draw N(0, 1)-like inputs, whole numbers where the scale is one, positive ones where it is "positive"."""
        return [_draw(seed * 100 + i, *recipe) for i, recipe in enumerate(self.inputs)]


def _draw(seed: int, shape: tuple, kind: float | int | str = 1.0) -> np.ndarray:
    if isinstance(kind, int):
        return draw_integers(seed, shape, 0, kind)
    return draw(seed, shape, structure="positive") if kind == "positive" else draw(seed, shape, kind)


COMPONENTS = {
    "rms_norm": Component(
        rms_norm, (((3, 29),), ((29,),)), ("centred", "n - 1", "eps", "eps outside", "no eps", "1 + w")
    ),
    "swiglu": Component(swiglu, (((3, 29),), ((3, 29),)), ("swapped", "quick")),
    "rope": Component(rope, (((5, 14),), ((5,), 40)), ("d - 2", "base", "late", "interleaved", "sign")),
    "attention": Component(attention, (((7, 5),),) * 3, ("leak", "window", "1/d", "softmax1")),
    "cross_entropy": Component(cross_entropy, (((7, 11),), ((7,), 11)), ("shifted", "all rows", "count + 1")),
    "adamw": Component(
        adamw,
        (((31,),), ((31,),), ((31,),), ((31,), "positive")),
        ("l2", "beta2", "no correction", "t - 1", "eps inside", "decay after"),
    ),
    "grpo": Component(
        grpo, (((5, 7), 2.0**-4), ((5, 7), 2.0**-4), ((5, 7), 2.0**-4), ((5,),)), ("clip", "max", "reversed", "k1")
    ),
}


def judged(component: Component, dtype: type, seeds: range) -> Iterator[tuple[str | None, np.ndarray, Bounded]]:
    """Run the expression and its mutants plainly in a dtype; give each one's name and result, and what is right."""
    for seed in seeds:
        xs = component.draw(seed)
        with np.errstate(all="ignore"):
            right = component.function(*bound_inputs(*xs, profile=np.dtype(dtype).name))
            for wrong in (None, *component.wrong):
                plain = [x.astype(dtype) if x.dtype.kind == "f" else x for x in xs]
                yield wrong, np.asarray(component.function(*plain, wrong=wrong)), right


def outside(result: np.ndarray, right: Bounded, factor: float = 1.0) -> bool:
    """Tell whether a rule of `factor` × bound rejects a result."""
    return not bool(np.all(np.abs(result - value(right)) <= factor * bound(right)))
