"""Cases of cross-entropy."""

import numpy as np

from minimind_ref.golden.generator import draw_integers
from minimind_ref.kit.generated import Drawn, Seeds, generator

LOSS = ("CROSS_ENTROPY-1", "CROSS_ENTROPY-5", "CROSS_ENTROPY-8")


def rows(s: Seeds, scale: float = 4.0) -> dict[str, np.ndarray]:
    """Draw logits of some units and labels, of which some are ignored."""
    labels = draw_integers(s.take(), (3, 5), 0, 7)
    labels[0, 1:3] = labels[2, 4] = -100
    return {"logits": s.draw(3, 5, 7, scale=scale), "labels": labels}


@generator("cross_entropy", *LOSS, "CROSS_ENTROPY-2", "CROSS_ENTROPY-3", "CROSS_ENTROPY-10")
def mean_of_supervised(s: Seeds) -> Drawn:
    """Rows with unlike numbers of ignored labels: divided by what is supervised, not by what there is."""
    return Drawn(rows(s), {}, ("loss",), {"loss": ()})


@generator("cross_entropy", *LOSS, "CROSS_ENTROPY-2", "CROSS_ENTROPY-9")
def summed(s: Seeds) -> Drawn:
    """The sum, of which parts add up."""
    return Drawn(rows(s), {"reduction": "sum"}, ("loss",), {"loss": ()})


@generator("cross_entropy", "CROSS_ENTROPY-1", "CROSS_ENTROPY-6", "CROSS_ENTROPY-7", "CROSS_ENTROPY-8")
def far_from_zero(s: Seeds) -> Drawn:
    """Logits around 512: a constant cancels, if the largest is taken off before the exponential."""
    given = rows(s)
    return Drawn(given | {"logits": given["logits"] + 512.0}, {"reduction": "none"}, ("loss",), {"loss": (3, 5)})


@generator("cross_entropy", *LOSS, "CROSS_ENTROPY-2", "CROSS_ENTROPY-15")
def padding_by_id(s: Seeds) -> Drawn:
    """An id of the vocabulary marks what is ignored."""
    labels = draw_integers(s.take(), (11,), 0, 5)
    labels[3], labels[5] = 3, 1
    return Drawn({"logits": s.draw(11, 5), "labels": labels}, {"ignore_index": 3}, ("loss",), {"loss": ()})


@generator("token_logp", "CROSS_ENTROPY-1", "CROSS_ENTROPY-13")
def log_probabilities(s: Seeds) -> Drawn:
    """One log-probability for each label."""
    given = {"logits": s.draw(2, 3, 11, scale=4.0), "labels": draw_integers(s.take(), (2, 3), 0, 11)}
    return Drawn(given, {}, ("logp",), {"logp": (2, 3)})
