"""Made-up questions and answers, for the tests of the kit's parts."""

import numpy as np

from minimind_ref.kit.binding import NoAnswerError
from minimind_ref.kit.case import Case, Expected
from minimind_ref.kit.outcome import Outcome, Result
from minimind_ref.kit.registry import OPERATIONS


def asked(name="rms_norm", outputs=None, gradients=None, **rest):
    """A case with a made-up answer: one number, the same in every precision."""
    answers = outputs or {"y": Expected(np.array([1.0]), np.array([0.5]))}, gradients or {}
    given = {
        "id": f"{name}/made_up", "operation": OPERATIONS[name], "clauses": ("RMS_NORM-1", "RMS_NORM-10", "RMS_NORM-14"),
        "why": "made up", "inputs": {"x": np.ones((2, 3)), "weight": np.ones(3)}, "parameters": {"eps": 1e-5},
        "outputs": tuple(answers[0]), "answer": lambda profile: answers,
        "cotangent": {"y": np.ones(1)} if gradients else {},
    }  # fmt: skip
    return Case(**(given | rest))


def answered(y=1.0, dtype="float32", **rest):
    return Outcome({"y": Result(np.array([y]), dtype)}, **rest)


class Scripted:
    """A runner whose answers are written down; it notes what it is asked."""

    def __init__(self, answer=lambda case, profile: Outcome(problem="raised", text="raised it"), live=True):
        self.script, self.live, self.asked, self.gradients = answer, live, [], set()

    def has(self, name):
        return name == "rms_norm"

    def ask(self, case, profile, *, gradient=True):
        self.asked.append((case.id, profile))
        self.gradients.add(gradient)
        return self.script(case, profile)

    def answer(self, operation, arguments, profile):
        raise NoAnswerError("laws are not put to it")
