"""Cases of the preference and reinforcement losses: off policy, unlike lengths, ratios on both sides of the clip."""

import numpy as np

from minimind_ref.golden.generator import draw_integers
from minimind_ref.kit.generated import Drawn, Seeds, generator

PAIRS = ("DPO-9", "DPO-11", "DPO-12", "DPO-18")


def marked(s: Seeds, rows: int, width: int) -> np.ndarray:
    """Draw answers of unlike lengths behind prompts of unlike lengths; the last one is in two parts."""
    lengths = 1 + draw_integers(s.take(), (rows, 2), 0, width // 2)
    place = np.arange(width)
    mask = (place >= lengths[:, :1] - 1) & (place < lengths.sum(axis=1, keepdims=True) - 1)
    mask[-1, :3] = [True, False, True]
    return mask


@generator("sequence_logp", "DPO-1", "DPO-3", "DPO-4", "DPO-18")
def summed(s: Seeds) -> Drawn:
    """Answers of unlike lengths, with numbers beside them that must not count."""
    return Drawn(
        {"logp": -s.draw(3, 7, structure="positive"), "mask": marked(s, 3, 7)}, {}, ("logps",), {"logps": (3,)}
    )


@generator("sequence_logp", "DPO-2", "DPO-3", "DPO-4")
def averaged(s: Seeds) -> Drawn:
    """The mean over an answer's own tokens."""
    given = {"logp": -s.draw(3, 11, structure="positive"), "mask": marked(s, 3, 11)}
    return Drawn(given, {"reduction": "mean"}, ("logps",), {"logps": (3,)})


def pairs(s: Seeds) -> dict[str, np.ndarray]:
    """Draw log-probabilities of pairs whose margins are of some units, on both sides."""
    names = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
    return {name: s.draw(5, scale=4.0) - 16.0 for name in names}


@generator("dpo_loss", *PAIRS, "DPO-5", "DPO-13", "DPO-14", "DPO-15")
def sigmoid(s: Seeds) -> Drawn:
    """Five pairs, the policy away from the reference."""
    return Drawn(pairs(s), {"beta": 0.25}, ("loss",), {"loss": ()})


@generator("dpo_loss", *PAIRS, "DPO-5")
def smoothed(s: Seeds) -> Drawn:
    """Labels that are wrong now and then."""
    return Drawn(pairs(s), {"beta": 0.5, "label_smoothing": 0.125}, ("loss",), {"loss": ()})


@generator("dpo_loss", *PAIRS, "DPO-6")
def hinge(s: Seeds) -> Drawn:
    """A margin is enough at 1/beta."""
    return Drawn(pairs(s), {"beta": 0.25, "form": "hinge"}, ("loss",), {"loss": ()})


@generator("dpo_loss", *PAIRS, "DPO-7")
def ipo(s: Seeds) -> Drawn:
    """A margin can be too large."""
    return Drawn(pairs(s), {"beta": 0.25, "form": "ipo"}, ("loss",), {"loss": ()})


@generator("dpo_loss", "DPO-10", "DPO-12")
def at_the_start(s: Seeds) -> Drawn:
    """Policy and reference agree."""
    given = pairs(s)
    given |= {f"reference_{kind}": given[f"policy_{kind}"].copy() for kind in ("chosen", "rejected")}
    return Drawn(given, {"beta": 0.125}, ("loss",), {"loss": ()})


@generator("dpo_loss", "DPO-16")
def far_margins(s: Seeds) -> Drawn:
    """Margins of thousands on both sides."""
    given = {name: x + 16.0 for name, x in pairs(s).items()}
    given["policy_chosen"] = given["policy_chosen"] * 1024.0
    return Drawn(given, {"beta": 0.5}, ("loss",), {"loss": ()}, ("float64", "float32"))


@generator("group_advantages", "GRPO-1", "GRPO-2", "GRPO-3", "GRPO-5")
def groups(s: Seeds) -> Drawn:
    """Groups of unlike spread, and eps large enough to count."""
    rewards = s.draw(3, 5) * np.array([[1.0], [0.125], [4.0]])
    return Drawn({"rewards": rewards}, {"eps": 0.125}, ("advantages",))


@generator("group_advantages", "GRPO-2", "GRPO-4")
def unbiased(s: Seeds) -> Drawn:
    """The unbiased spread, and a group of equal rewards, whose mean is rounded."""
    rewards = s.draw(3, 7)
    rewards[1] = 0.1
    return Drawn({"rewards": rewards}, {"eps": 0.0625, "ddof": 1}, ("advantages",))


@generator("group_advantages", "GRPO-6")
def centred(s: Seeds) -> Drawn:
    """Only the mean is taken off."""
    return Drawn({"rewards": s.draw(2, 7)}, {"eps": 0.5, "scale": False}, ("advantages",))


@generator("kl_k3", "GRPO-8", "GRPO-9", "GRPO-17")
def divergence(s: Seeds) -> Drawn:
    """Gaps of both signs, large enough that an expansion is none."""
    logp = -s.draw(3, 5, structure="positive")
    return Drawn({"logp": logp, "reference_logp": logp + s.draw(3, 5)}, {}, ("kl",), {"kl": (3, 5)})


def rollout(s: Seeds) -> dict[str, np.ndarray]:
    """Draw four answers, off policy, with advantages of both signs and unlike lengths."""
    logp = -s.draw(4, 7, structure="positive")
    advantages = np.abs(s.draw(4)) + 0.25
    return {
        "logp": logp, "old_logp": logp + s.draw(4, 7), "reference_logp": logp + s.draw(4, 7, scale=0.5),
        "advantages": advantages * np.array([1.0, -1.0, 1.0, -1.0]), "mask": marked(s, 4, 7),
    }  # fmt: skip


LOSS = ("GRPO-17", "GRPO-18", "GRPO-19", "GRPO-28")


@generator("grpo_loss", *LOSS, "GRPO-12", "GRPO-13", "GRPO-14", "GRPO-20", "GRPO-23")
def by_sequence(s: Seeds) -> Drawn:
    """Clipped on either side, with a KL term; each answer has weight one."""
    options = {"clip_low": 0.25, "clip_high": 0.375, "beta": 0.125}
    return Drawn(rollout(s), options, ("loss",), {"loss": ()})


@generator("grpo_loss", *LOSS, "GRPO-12", "GRPO-13", "GRPO-21", "GRPO-23")
def by_token(s: Seeds) -> Drawn:
    """Each token has weight one."""
    options = {"clip_low": 0.25, "clip_high": 0.25, "beta": 0.0625, "normalise": "token"}
    return Drawn(rollout(s), options, ("loss",), {"loss": ()})


@generator("grpo_loss", *LOSS, "GRPO-12", "GRPO-22", "GRPO-23")
def by_length(s: Seeds) -> Drawn:
    """Divided by a length that no answer has."""
    options = {"clip_low": 0.25, "clip_high": 0.5, "beta": 0.0, "normalise": "constant", "length": 11}
    return Drawn(rollout(s), options, ("loss",), {"loss": ()})


@generator("grpo_loss", *LOSS, "GRPO-15")
def cispo(s: Seeds) -> Drawn:
    """The cut ratio is a weight, and nothing is without a gradient."""
    options = {"clip_low": 0.25, "clip_high": 0.375, "beta": 0.125, "form": "cispo"}
    return Drawn(rollout(s), options, ("loss",), {"loss": ()})


@generator("grpo_loss", "GRPO-11", "GRPO-16", "GRPO-27")
def on_policy(s: Seeds) -> Drawn:
    """Old and new policy agree: nothing is clipped, and the gradient is not zero."""
    given = rollout(s)
    given["old_logp"] = given["logp"].copy()
    return Drawn(given, {"clip_low": 0.0, "clip_high": 0.0, "beta": 0.0}, ("loss",), {"loss": ()})


@generator("answer_mask", "GRPO-26")
def ends(s: Seeds) -> Drawn:
    """Two ids that end an answer, lengths that end it before, and rows without an end."""
    ids = draw_integers(s.take(), (5, 7), 0, 9)
    return Drawn({"ids": ids, "lengths": draw_integers(s.take(), (5,), 1, 8)}, {"end_ids": [2, 5]}, ("mask",))
