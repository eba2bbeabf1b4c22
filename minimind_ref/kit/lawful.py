"""Puts the laws (properties.py) to an implementation: what no single case can state, such as that no bit changes."""

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import numpy as np

from minimind_ref.kit import findings, guard, unshown
from minimind_ref.kit.binding import NoAnswerError, NotPutError
from minimind_ref.kit.case import Case
from minimind_ref.kit.findings import Finding
from minimind_ref.kit.operation import Operation
from minimind_ref.kit.outcome import Outcome
from minimind_ref.kit.properties import PROPERTIES, Property

WIDE = ("float32", "float64")  # laws are asked in the first of these that is claimed


def of(operation: Operation) -> list[Property]:
    """Give the laws of an operation."""
    package = import_module("minimind_ref.kit.laws")
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    return [law for law in PROPERTIES.values() if law.op == operation.name]


def ask(operation: Operation, session: Any) -> list[Finding]:
    """Check every law in the narrowest wide profile that is claimed; refusals only where they are claimed."""
    profile = next((p for p in WIDE if p in session.profiles), None)
    asked = [law for law in of(operation) if session.implementation.refusals or law.clause not in unshown.REFUSALS]
    asked = [law for law in asked if session.case in (None, named(operation, law))]
    return [checked(operation, law, session.runner, profile) for law in asked] if profile else []


def named(operation: Operation, law: Property) -> str:
    """Name a law as a case is named."""
    return f"{operation.name}/law/{law.check.__name__}"


def checked(operation: Operation, law: Property, runner: Any, profile: str) -> Finding:
    """Check one law."""
    why = " ".join((law.check.__doc__ or "").split())
    case = Case(named(operation, law), operation, (law.clause,), why, {}, {}, (), lambda _: ({}, {}))

    def implementation(*arguments: Any, **options: Any) -> Any:
        return runner.answer(operation, dict(zip(operation.arguments, arguments, strict=False)) | options, profile)

    state, text = verdict(law.check, implementation)
    return Finding(case, profile, "law", state, case.clauses, text, outcome=Outcome())


def verdict(check: Callable[..., str | None], implementation: Callable[..., Any]) -> tuple[str, str]:
    """Say what a law finds; whatever the implementation raises is its own fault."""
    try:
        with np.errstate(all="ignore"):
            complaint = check(implementation)
    except NotPutError as error:
        return findings.SKIPPED, str(error)
    except NoAnswerError as error:
        return findings.CHOICE if error.choice else findings.MISSING, str(error)
    except Exception as error:
        return findings.FAIL, guard.described(error)
    return (findings.FAIL, complaint) if complaint else (findings.PASS, "")
