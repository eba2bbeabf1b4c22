"""Cases of sampling."""

import numpy as np

from minimind_ref.golden.generator import draw_integers
from minimind_ref.kit.generated import Drawn, Seeds, generator

FILTERS = ("SAMPLING-1", "SAMPLING-2", "SAMPLING-8")


@generator("filter_logits", *FILTERS, "SAMPLING-4", "SAMPLING-7")
def top_k(s: Seeds) -> Drawn:
    """Temperature and top-k, of whole logits: some tie with the last that is kept."""
    logits = s.draw(3, 11, scale=4.0, structure="ties")
    return Drawn({"logits": logits}, {"temperature": 0.75, "top_k": 4}, ("filtered",))


@generator("filter_logits", *FILTERS, "SAMPLING-5", "SAMPLING-7")
def top_p(s: Seeds) -> Drawn:
    """Temperature and top-p, whose mass is that of the scaled logits."""
    return Drawn({"logits": s.draw(3, 11, scale=2.0)}, {"temperature": 1.5, "top_p": 0.7}, ("filtered",))


@generator("filter_logits", *FILTERS, "SAMPLING-5", "SAMPLING-6", "SAMPLING-9")
def all_of_them(s: Seeds) -> Drawn:
    """Top-k, top-p and min-p, each on what the one before it left."""
    options = {"temperature": 1.25, "top_k": 7, "top_p": 0.9, "min_p": 0.25}
    return Drawn({"logits": s.draw(3, 13)}, options, ("filtered",))


@generator("filter_logits", "SAMPLING-3", "SAMPLING-10")
def greedy(s: Seeds) -> Drawn:
    """Temperature 0."""
    return Drawn({"logits": s.draw(3, 7)}, {"temperature": 0.0, "top_p": 0.5}, ("filtered",))


@generator("penalise_repetition", "SAMPLING-12", "SAMPLING-13", "SAMPLING-14", "SAMPLING-15")
def seen_tokens(s: Seeds) -> Drawn:
    """Tokens of both signs, seen once, twice or under padding."""
    ids = draw_integers(s.take(), (3, 5), 0, 7)
    mask = draw_integers(s.take(), (3, 5), 0, 4) > 0
    ids[0, 1] = ids[0, 0]
    return Drawn({"logits": s.draw(3, 7), "ids": ids, "mask": mask}, {"penalty": 1.5}, ("penalised",))


@generator("choose_token", "SAMPLING-16")
def by_mass(s: Seeds) -> Drawn:
    """Uniform numbers all over [0, 1), 0 among them, and tokens of mass 0, the first one too."""
    logits = s.draw(7, 5, scale=2.0)
    logits[:, 2] = logits[0, 0] = -np.inf
    uniform = np.abs(s.draw(7, scale=0.875, structure="uniform"))  # below 1 in every precision
    uniform[0] = 0.0
    return Drawn({"logits": logits, "uniform": uniform}, {}, ("token",))
