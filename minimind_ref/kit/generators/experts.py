"""Cases of the mixture of experts."""

import numpy as np

from minimind_ref.golden.generator import draw_integers
from minimind_ref.kit.generated import Drawn, Seeds, generator

WIDE = ("float64", "float32")


@generator("route", "MOE-1", "MOE-2", "MOE-4", "MOE-7", "MOE-19")
def chosen(s: Seeds) -> Drawn:
    """Scores far from uniform, two of five experts, weights that are divided by their sum."""
    given = {"x": s.draw(7, 3), "w_router": s.draw(5, 3)}
    options = {"num_chosen": 2, "normalise": True}
    along = {"scores": (7, 5), "weight": (7, 2)}
    return Drawn(given, options, ("scores", "weight", "index"), along, WIDE)


@generator("route", "MOE-2", "MOE-19")
def as_they_are(s: Seeds) -> Drawn:
    """Three of four experts, whose weights stay the scores."""
    given = {"x": s.draw(5, 3), "w_router": s.draw(4, 3)}
    options = {"num_chosen": 3, "normalise": False}
    along = {"scores": (5, 4), "weight": (5, 3)}
    return Drawn(given, options, ("scores", "weight", "index"), along, WIDE)


def routed(s: Seeds, tokens: int, experts: int, count: int) -> dict[str, np.ndarray]:
    """Draw scores and a choice that is not theirs alone, so that f and P differ."""
    logits = s.draw(tokens, experts)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = np.round(scores * 1024) / 1024
    index = np.argsort(-s.draw(tokens, experts), axis=1)[:, :count].astype(np.int64)
    return {"scores": scores, "index": index}


def balance(s: Seeds, form: str) -> Drawn:
    """Draw a case of one form, with padding and sequences of unlike lengths."""
    given = routed(s, 11, 5, 2) | {"counts": draw_integers(s.take(), (11,), 0, 4).clip(0, 1)}
    given |= {"sequence_ids": np.array([0] * 5 + [1] * 2 + [2] * 4)} if form == "sequence" else {}
    return Drawn(given, {"form": form, "coef": 0.375}, ("aux",), {"aux": ()}, WIDE)


@generator("aux_loss", "MOE-10", "MOE-13", "MOE-15")
def by_sequence(s: Seeds) -> Drawn:
    """Sequences of unlike lengths, each of weight one; padding does not count."""
    return balance(s, "sequence")


@generator("aux_loss", "MOE-11", "MOE-13", "MOE-15")
def by_batch(s: Seeds) -> Drawn:
    """All counted tokens as one sequence."""
    return balance(s, "batch")


@generator("aux_loss", "MOE-12", "MOE-13", "MOE-15")
def by_slots(s: Seeds) -> Drawn:
    """The slots summed and not averaged."""
    return balance(s, "slots")


@generator("aux_loss", "MOE-20", "MOE-23")
def without_weight(s: Seeds) -> Drawn:
    """A coefficient of 0 and every token counted: the loss is there, a scalar."""
    return Drawn(routed(s, 7, 3, 2), {"form": "batch", "coef": 0.0}, ("aux",), profiles=WIDE)


def stacks(s: Seeds, experts: int, width: int, hidden: int) -> tuple[np.ndarray, ...]:
    """Draw the three matrices of every expert."""
    return s.draw(experts, hidden, width), s.draw(experts, hidden, width), s.draw(experts, width, hidden)


@generator("moe", "MOE-1", "MOE-2", "MOE-3", "MOE-4", "MOE-5", "MOE-9", "MOE-11", "MOE-19")
def with_shared_experts(s: Seeds) -> Drawn:
    """Seven experts, one at least chosen by none, and two shared ones, of weight one whatever the router says."""
    given = {"x": s.draw(3, 3), "w_router": s.draw(7, 3), "experts": stacks(s, 7, 3, 5), "shared": stacks(s, 2, 3, 5)}
    options = {"num_chosen": 2, "normalise": True, "form": "batch", "coef": 0.25}
    return Drawn(given, options, ("y", "aux"), {"y": (3, 3), "aux": ()}, WIDE)


@generator("moe", "MOE-3", "MOE-8", "MOE-12", "MOE-19")
def all_experts(s: Seeds) -> Drawn:
    """Every expert is chosen: the dense mixture."""
    given = {"x": s.draw(5, 3), "w_router": s.draw(3, 3), "experts": stacks(s, 3, 3, 7)}
    options = {"num_chosen": 3, "normalise": True, "form": "slots", "coef": 0.5}
    return Drawn(given, options, ("y", "aux"), {"y": (5, 3), "aux": ()}, WIDE)
