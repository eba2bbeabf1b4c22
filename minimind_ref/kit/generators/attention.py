"""Cases of attention."""

import numpy as np

from minimind_ref.golden.generator import draw_integers
from minimind_ref.kit.generated import Drawn, Seeds, generator

WEIGHTS = ("ATTENTION-1", "ATTENTION-2", "ATTENTION-7", "ATTENTION-8", "ATTENTION-15")


def heads(s: Seeds, batch: int, queries: int, keys: int, n: int, k: int, width: int) -> dict[str, np.ndarray]:
    """Draw queries, keys and values; scores reach some units, so that weights are far from uniform."""
    return {
        "q": s.draw(batch, queries, n, width, scale=2.0),
        "k": s.draw(batch, keys, k, width),
        "v": s.draw(batch, keys, k, width),
    }


@generator("attention", *WEIGHTS, "ATTENTION-3", "ATTENTION-13")
def grouped_after_a_cache(s: Seeds) -> Drawn:
    """Three query heads to each key/value head, and more keys than queries: aligned at the end."""
    return Drawn(heads(s, 2, 3, 7, 6, 2, 5), {}, ("out",), {"out": (2, 3, 6, 5)})


@generator("attention", *WEIGHTS, "ATTENTION-4", "ATTENTION-5", "ATTENTION-6")
def masked(s: Seeds) -> Drawn:
    """A mask drawn at random with one query that sees nothing, together with the causal rule."""
    given = heads(s, 2, 5, 5, 4, 2, 3)
    mask = draw_integers(s.take(), (2, 5, 5), 0, 3) > 0
    mask[:, :, 0] = True
    mask[1, 2] = False
    return Drawn(given | {"mask": mask}, {}, ("out",), {"out": (2, 5, 4, 3)})


@generator("attention", *WEIGHTS, "ATTENTION-4", "ATTENTION-6", "ATTENTION-19")
def hidden_keys(s: Seeds) -> Drawn:
    """A mask that hides some keys and leaves every query something to see."""
    given = heads(s, 3, 2, 7, 4, 2, 5)
    mask = draw_integers(s.take(), (3, 2, 7), 0, 2) > 0
    mask[:, :, 1] = True
    return Drawn(given | {"mask": mask}, {}, ("out",), {"out": (3, 2, 4, 5)})


@generator("attention", *WEIGHTS, "ATTENTION-9", "ATTENTION-10", "ATTENTION-12")
def shifted_keys(s: Seeds) -> Drawn:
    """No causal rule; keys and values far from zero: a shift of all keys cancels in the softmax."""
    given = heads(s, 2, 3, 5, 4, 2, 7)
    given |= {"k": given["k"] + 4.0, "v": given["v"] - 8.0}
    return Drawn(given, {"causal": False, "scale": 0.75}, ("out",), {"out": (2, 3, 4, 7)})


@generator("attention", "ATTENTION-1", "ATTENTION-11", "ATTENTION-15")
def zero_queries(s: Seeds) -> Drawn:
    """Queries of zero, which average what they see; the first of them sees one key."""
    given = heads(s, 3, 5, 5, 2, 1, 3)
    given["q"][1] = 0.0
    return Drawn(given, {}, ("out",), {"out": (3, 5, 2, 3)})


@generator("attention", *WEIGHTS, "ATTENTION-3", "ATTENTION-5", "ATTENTION-19")
def left_padded(s: Seeds) -> Drawn:
    """Rows padded on the left, as in a batch of prompts: their first queries see nothing."""
    given = heads(s, 3, 5, 5, 4, 2, 3)
    mask = np.ones((3, 5, 5), bool)
    mask[1, :, :2] = mask[2, :, :3] = False
    return Drawn(given | {"mask": mask}, {}, ("out",), {"out": (3, 5, 4, 3)})
