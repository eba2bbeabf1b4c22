"""Which known bug a failing implementation looks like: the one whose answers to the failing cases are its answers."""

import numpy as np

from minimind_ref.golden import kills
from minimind_ref.kit import conventions, trees
from minimind_ref.kit.case import Expected, Results
from minimind_ref.kit.compare import compare
from minimind_ref.kit.findings import FAIL, PASS, Finding
from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.mutant import Mutant, load_mutants
from minimind_ref.kit.operation import Operation
from minimind_ref.kit.outcome import Outcome
from minimind_ref.kit.runner import LocalRunner

MOST = 6  # failing cases that are compared, and half of the good ones
GOOD = 0.75  # share of the good ones that a bug must give too: it may differ in an option of its own
CALLED = {  # operation -> what the known bugs call it, where that is another name
    "grad_scaler": "grad_scaler.update",
    "supervised_spans": "chat_template.sft_mask",
    "sft_mask": "chat_template.encode",
    "transformer.loss": "loss_and_gradients",
}
ROOM = 4  # bounds by which two computations of the same wrong formula may be apart


def suspect(operation: Operation, found: list[Finding]) -> tuple[Mutant | None, str]:
    """Give the known bug that explains most of the failing cases, at least half of them, and nearly all good ones.

    A bug that would have shown where the implementation is right is not its bug.  Beside it stands how the kit calls
    it: as it is where it explains every failure, "in part …" otherwise.
    """
    failing, good = questions(found, FAIL)[:MOST], one_each(questions(found, PASS))[: 2 * MOST]
    scores = []
    for mutant in of(operation) if failing else ():
        explained = sum(explains(mutant, finding) for finding in failing)
        if 2 * explained >= len(failing):
            alike = sum(explains(mutant, finding) for finding in good)
            scores += [(explained, alike, mutant)] if alike >= GOOD * len(good) else []
    if not scores:
        return None, ""
    explained, _, bug = max(scores, key=lambda score: score[:2])
    return bug, str(bug) if explained == len(failing) else f"in part {bug}"


def one_each(found: list[Finding]) -> list[Finding]:
    """Keep one precision of each case."""
    return list({finding.case.id: finding for finding in reversed(found)}.values())[::-1]


def of(operation: Operation) -> list[Mutant]:
    """Give the known bugs of an operation."""
    names = {operation.name, CALLED.get(operation.name)}
    return [mutant for mutant in load_mutants(operation.component).values() if mutant.op in names]


def implementation_of(operation: Operation, mutant: Mutant) -> Implementation:
    """Make an implementation of a known bug, in the operation's convention."""
    made = Implementation(mutant.id, arrays="numpy", profiles=["float64"])
    vjp = mutant.function if operation.name == "transformer.loss" else mutant.vjp  # its gradients come with it
    if vjp is not None:
        vjp = kills.adapted(vjp, operation.component, f"{operation.golden}_vjp")
    made.op(operation.name, conventions.public(operation.name, mutant.function), vjp=vjp)
    return made


def questions(found: list[Finding], state: str) -> list[Finding]:
    """Choose the smallest cases that are wrong, or right, in their numbers; gradients where only those are wrong."""
    wrong = [f for f in found if f.state == FAIL and f.comparison.kind in ("value", "shape")]
    backward = all(f.part.startswith("gradient") for f in wrong)
    judged = [f for f in found if f.state == state and f.outcome.outputs and f.part not in ("dtype", "inputs")]
    if state == FAIL:
        judged = wrong
    bad = {(f.case.id, f.profile) for f in wrong}
    chosen: dict[tuple[str, str], Finding] = {}
    for finding in sorted(judged, key=lambda f: f.case.size):
        key = (finding.case.id, finding.profile)
        if finding.part.startswith("gradient") == backward and (state == FAIL or key not in bad):
            chosen.setdefault(key, finding)
    return list(chosen.values())


def explains(mutant: Mutant, finding: Finding) -> bool:
    """Say whether the mutant gives what the implementation gave, to a few bounds."""
    implementation = implementation_of(finding.case.operation, mutant)
    backward = finding.part.startswith("gradient")
    if mutant.vjp is not None and not backward:
        return False  # its forward pass is right
    if mutant.narrow and finding.profile == "bfloat16":
        return False  # it shows in its inputs' own precision, and NumPy has no bfloat16
    case = finding.case if mutant.narrow else finding.case.restored(*finding.case.stored(finding.profile))
    profile = finding.profile if mutant.narrow else "float64"
    theirs = LocalRunner(implementation, 2.0).ask(case, profile, gradient=backward)
    expected = finding.case.answer(finding.profile)[backward]
    return not theirs.problem and alike(theirs, finding.outcome, expected, backward)


def alike(theirs: Outcome, ours: Outcome, expected: Results, backward: bool) -> bool:
    """Compare two answers, allowing for the rounding of both and for the size of what the bug made of it."""
    mine, other = (ours.gradients, theirs.gradients) if backward else (ours.outputs, theirs.outputs)
    if not mine or not other:
        return False
    return all(compare(n, mine[n], Expected(other[n].value, room(other[n].value, e))).good for n, e in expected.items())


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
        scaled = ROOM * np.maximum(bound * grown, least * np.minimum(grown, 1e3))
    return np.where(np.isfinite(y), scaled, 0.0)
