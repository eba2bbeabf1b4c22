"""Which known bug a failing implementation looks like: the mutant whose answers to the failing cases are its answers."""

import numpy as np

from minimind_ref.kit import trees
from minimind_ref.kit.case import Expected, Results
from minimind_ref.kit.compare import compare
from minimind_ref.kit.findings import FAIL, Finding
from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.mutant import Mutant, load_mutants
from minimind_ref.kit.operation import Operation
from minimind_ref.kit.outcome import Outcome
from minimind_ref.kit.runner import LocalRunner

MOST = 6  # failing cases that are compared
ROOM = 4  # bounds by which two computations of the same wrong formula may be apart


def suspect(operation: Operation, found: list[Finding]) -> Mutant | None:
    """Give the known bug that explains most of the failing cases, and at least half of them."""
    failing = questions(found)
    if not failing:
        return None
    known = [mutant for mutant in load_mutants().values() if mutant.op == operation.name]
    scores = [(sum(explains(mutant, finding) for finding in failing), mutant) for mutant in known]
    best = max((score for score, _ in scores), default=0)
    return next(m for score, m in scores if score == best) if 2 * best >= len(failing) else None


def name(mutant: Mutant | None) -> str:
    """Write a known bug down: its id, what it is, and where it was seen."""
    return "" if mutant is None else f"{mutant.id}, {mutant.summary} ({mutant.source})"


def questions(found: list[Finding]) -> list[Finding]:
    """Choose the smallest cases with a wrong number, one finding each; outputs first, gradients where only those fail."""
    wrong = [f for f in found if f.state == FAIL and f.comparison.kind in ("value", "shape")]
    forward = [f for f in wrong if not f.part.startswith("gradient")]
    chosen: dict[tuple[str, str], Finding] = {}
    for finding in sorted(forward or wrong, key=lambda f: f.case.size):
        chosen.setdefault((finding.case.id, finding.profile), finding)
    return list(chosen.values())[:MOST]


def explains(mutant: Mutant, finding: Finding) -> bool:
    """Say whether the mutant gives what the implementation gave, to a few bounds."""
    implementation = Implementation(mutant.id, arrays="numpy", profiles=["float64"])
    implementation.op(mutant.op, mutant.function, vjp=mutant.vjp)
    backward = finding.part.startswith("gradient")
    stored, cotangent = finding.case.stored(finding.profile)
    case = finding.case.restored(stored, cotangent)
    theirs = LocalRunner(implementation, 2.0).ask(case, "float64", gradient=backward)
    expected = finding.case.answer(finding.profile)[backward]
    return not theirs.problem and alike(theirs, finding.outcome, expected, backward)


def alike(theirs: Outcome, ours: Outcome, expected: Results, backward: bool) -> bool:
    """Compare two answers, allowing for the rounding of both and for the size of what the bug made of it."""
    mine, other = (ours.gradients, theirs.gradients) if backward else (ours.outputs, theirs.outputs)
    if not mine or not other:
        return False
    return all(
        compare(n, mine[n], Expected(other[n].value, room(other[n].value, e))).good for n, e in expected.items()
    )


def room(value: object, expected: Expected) -> np.ndarray | None:
    """Scale the bound to the mutant's numbers."""
    if expected.bound is None or not trees.is_floating(value):
        return None
    y, right, bound = np.asarray(value), np.asarray(expected.value), np.asarray(expected.bound)
    if y.shape != right.shape:
        return np.zeros(())
    with np.errstate(all="ignore"):
        grown = 1 + np.abs(y) / (np.abs(right) + bound)
        least = np.max(np.where(np.isfinite(bound), bound, 0.0), initial=0.0)
        return np.nan_to_num(ROOM * np.maximum(bound * grown, least * np.minimum(grown, 1e3)), nan=np.inf)
