"""Tells a function that computes in float32 inside, whatever it is given, from one that is wrong in float64."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minimind_ref.kit import findings
from minimind_ref.kit.arrays import is_numeric
from minimind_ref.kit.case import Case, Expected, by_oracle
from minimind_ref.kit.compare import compare
from minimind_ref.kit.findings import FAIL
from minimind_ref.kit.outcome import Outcome

FINEST = 2.0**-30  # half the bits that a rounding to float32 loses, and room: a median error below is not float32's


def computes_in_float32(asked: Sequence[tuple[Case, str, Outcome]]) -> bool:
    """Say whether float64 inputs get float32 answers: right to float32's bound, and nowhere to float64's.

    An implementation that casts to float32 inside is honest in float32, and has not claimed float64.  One that gives
    no answer at all, in neither precision, is not.
    """
    numeric = [(case, profile, outcome) for case, profile, outcome in asked if not case.exact]
    wide = [(case, outcome) for case, profile, outcome in numeric if profile == "float64"]
    basic = [pair for pair in wide if "BASIC" in pair[0].flags] or wide
    if not basic or all(outcome.problem for _, _, outcome in numeric):
        return False
    if any(kept(case, outcome) or fine(case, outcome) for case, outcome in basic):
        return False
    return all(kept(case, outcome) or float32_like(case, outcome) for case, outcome in wide)


def kept(case: Case, outcome: Outcome) -> bool:
    """Say whether the float64 answer is right in value and dtype."""
    judged = findings.judge(case, "float64", outcome, explicit=False, gradient=False)
    return all(finding.state != FAIL for finding in judged)


def fine(case: Case, outcome: Outcome) -> bool:
    """Say whether the answer has errors that are too small for float32 arithmetic: it is wrong, not coarse."""
    relative = []
    for name, expected in case.answer("float64")[0].items():
        found: Any = getattr(outcome.outputs.get(name), "value", None)
        right = np.asarray(expected.value)
        if is_numeric(found) and found.shape == right.shape and right.dtype.kind == "f":
            sized = np.isfinite(right) & (right != 0)
            relative += list(np.abs(found[sized] - right[sized]) / np.abs(right[sized]))
    return bool(relative) and float(np.median(relative)) < FINEST


def float32_like(case: Case, outcome: Outcome) -> bool:
    """Say whether the answer to float64 inputs is what float32 arithmetic gives, or is refused."""
    if outcome.problem:
        return outcome.problem != "timeout"
    exact, single = case.answer("float64")[0], in_float32(case).answer("float32")[0]
    for name, expected in exact.items():
        if expected.bound is not None and np.asarray(expected.value).dtype.kind == "f":
            moved = np.abs(np.asarray(single[name].value) - np.asarray(expected.value))
            bound = np.asarray(single[name].bound) + np.where(np.isfinite(moved), moved, 0.0)
            expected = Expected(expected.value, bound)
        if not compare(name, outcome.outputs[name], expected).good:
            return False
    return True


def in_float32(case: Case) -> Case:
    """Give a case that float32 can be asked: one that is recorded in float64 alone is answered by the oracle.

    The oracle's own bounds hold there; those of a whole network are wide.
    """
    return case if "float32" in case.profiles else by_oracle(case)
