"""What one case shows about an implementation: for each part of the answer, whether it is right, and whose."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from minimind_ref.kit.case import Case, Expected, Results
from minimind_ref.kit.compare import Comparison, compare
from minimind_ref.kit.outcome import Outcome, Result

NARROW = ("bfloat16", "float16")
PASS, FAIL, MISSING = "pass", "fail", "missing"
UNASKED, SKIPPED = "unasked", "skipped"  # in a precision that cannot be made; a law that is not put
CHOICE, EXCUSED = "choice", "excused"  # about an option that is not taken; a failure that a declared option is
STATES = {"cannot": MISSING, "choice": CHOICE, "profile": UNASKED, "raised": FAIL, "timeout": FAIL, "type": FAIL}

NOTHING_WRONG, NO_OUTCOME = Comparison(), Outcome()


@dataclass(frozen=True)
class Finding:
    """One observation: `part` is "call", "dtype", "inputs", the output's name, or "gradient NAME"."""

    case: Case
    profile: str
    part: str
    state: str
    clauses: tuple[str, ...]
    text: str = ""
    comparison: Comparison = NOTHING_WRONG
    outcome: Outcome = NO_OUTCOME


def judge(case: Case, profile: str, outcome: Outcome, *, explicit: bool, gradient: bool) -> list[Finding]:
    """Turn an outcome into findings.

    `explicit` says that float64 is claimed by name; `gradient` whether the gradient is in the claimed levels.
    """
    op, found = case.operation, []

    def add(part: str, state: str, clauses: tuple[str, ...], text: str = "", comparison: Comparison = NOTHING_WRONG):
        kept = tuple(c for c in clauses if c not in op.narrow or profile in NARROW)
        if state == FAIL and (part == "dtype" or not kept):
            kept = clauses if part == "dtype" else (op.formula,)
        found.append(Finding(case, profile, part, state, kept, text or comparison.text, comparison, outcome))

    if outcome.problem:
        state = STATES.get(outcome.problem, FAIL)
        shown = (*case.clauses, op.dtype) if state == UNASKED and op.dtype else case.clauses
        add("call", state, shown, outcome.text)
        return found
    forward = owners(case, "forward")
    outputs, gradients = case.answer(profile)
    for name, expected in outputs.items():
        result = outcome.outputs[name]
        seen = compare(name, result, allowed(case, result, expected, explicit))
        add(name, PASS if seen.good else FAIL, forward, comparison=seen)
        if wrong := wrong_dtype(case, name, result, expected, profile):
            add("dtype", FAIL, (op.dtype,) if op.dtype else forward, wrong)
        elif op.dtype and result.dtype:
            add("dtype", PASS, (op.dtype,))
    if outcome.changed:
        text = f"it changed its argument {', '.join(outcome.changed)}"
        add("inputs", FAIL, (op.pure,) if op.pure else forward, text)
    elif op.pure:
        add("inputs", PASS, (op.pure,))
    if case.cotangent and gradient:
        pulled(case, outcome, gradients, add)
    return found


def pulled(case: Case, outcome: Outcome, gradients: Results, add: Any) -> None:
    """Judge the gradients."""
    backward = owners(case, "backward")
    if outcome.gradient_problem:
        add("gradient", FAIL, backward, f"the gradient {outcome.gradient_text}")
    elif outcome.gradients is None:
        only = tuple(c for c in backward if c in case.operation.backward)
        add("gradient", MISSING, only, "no gradient: the library has none of its own and no vjp was given")
    else:
        for name, expected in gradients.items():
            seen = compare(f"gradient of {name}", outcome.gradients[name], expected)
            add(f"gradient {name}", PASS if seen.good else FAIL, of_input(case, name, backward), comparison=seen)


def of_input(case: Case, name: str, clauses: tuple[str, ...]) -> tuple[str, ...]:
    """Give the clauses that speak for the gradient of this input, else one of the operation's that does."""
    first, op = name.split(".")[0], case.operation
    own = tuple(c for c in clauses if first in op.of_input.get(c, (first,)))
    return own or tuple(c for c in op.backward if first in op.of_input.get(c, (first,)))[:1] or clauses


def owners(case: Case, half: str) -> tuple[str, ...]:
    """Give the clauses that the forward pass, or the gradient, of a case speaks for."""
    op = case.operation
    if half == "backward":
        return tuple(c for c in case.clauses if c in (*op.backward, *op.both)) or op.backward[:1]
    return tuple(c for c in case.clauses if c not in op.backward) or case.clauses


def allowed(case: Case, result: Result, expected: Expected, explicit: bool) -> Expected:
    """Widen the bound of a table that comes from options alone where it was computed in float32.

    Sixteen roundings, which is what oracle/propagation.py gives a power, for each of up to two operations in a row.
    """
    if not case.exact or explicit or result.dtype != "float32" or expected.bound is None:
        return expected
    return Expected(expected.value, expected.bound + 32 * 2.0**-24 * np.abs(expected.value))


def wrong_dtype(case: Case, name: str, result: Result, expected: Expected, profile: str) -> str:
    """Say what dtype a floating result should have had."""
    if result.dtype is None or case.exact or np.asarray(expected.value).dtype.kind != "f":
        return ""
    wide = profile in NARROW and case.operation.stays_wide(name, output=True)
    right = "float32" if wide else profile
    if result.dtype == right or name == "norm":
        return ""
    return f"{name} has dtype {result.dtype} but {right} is expected for {profile} inputs"
