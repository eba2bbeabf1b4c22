"""From findings to verdicts: one for each clause of an operation, with the smallest case that fails."""

import shlex
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from minimind_ref.kit import behaviours, findings, lawful, report, suspects, unshown
from minimind_ref.kit.case import ORDER
from minimind_ref.kit.examine import Examined, Session, cases_of
from minimind_ref.kit.findings import Finding
from minimind_ref.kit.mutant import Mutant
from minimind_ref.kit.operation import Operation
from minimind_ref.kit.registry import ALL
from minimind_ref.kit.report import Failure, Verdict


def of(operation: Operation, examined: Examined, session: Session, failed: set[str]) -> list[Verdict]:
    """Give the verdicts of one operation; `failed` are the operations that failed before it."""
    by_clause: dict[str, list[Finding]] = defaultdict(list)
    for finding in examined.found:
        for clause in finding.clauses:
            by_clause[clause].append(finding)
    blockers = [name for name in operation.needs if name in failed]
    suspicion = suspects.suspect(operation, examined.found)
    verdicts = []
    for clause in responsible(operation) if not (operation.optional and examined.absent) else only_shown_by(operation):
        level = operation.level_of(clause)
        if level not in session.levels or (session.case and clause not in by_clause):
            continue
        found = by_clause.get(clause, [])
        status, detail = decide(operation, clause, found, examined, session)
        failure = smallest(found, session, suspicion) if status == report.FAIL else None
        if status == report.FAIL and blockers:
            status, detail = report.BLOCKED, f"{', '.join(blockers)} failed: mend that first"
        excuse = session.implementation.expected_failures.get(clause)
        if excuse is not None and status in (report.FAIL, report.MISSING):
            status, detail = report.EXPECTED, excuse
        elif excuse is not None and status == report.PASS:
            status, detail = report.FAIL, f"declared as an expected failure ({excuse}), but it passes"
        ratios = [f.comparison.ratio for f in found if f.state == findings.PASS]
        text = operation.clauses[clause].text
        margin = max(ratios) if ratios and status == report.PASS else None
        verdicts.append(Verdict(operation.name, clause, level, status, text, detail, margin, len(found), failure))
    return verdicts


def responsible(operation: Operation) -> list[str]:
    """Give the clauses that an operation answers for: those of its cases, and what no other operation shows."""
    shown = {clause for case in cases_of(operation, "quick", 0) for clause in case.clauses}
    shown |= {clause for clause in (operation.dtype, operation.pure) if clause}
    shown |= {law.clause for law in lawful.of(operation)}
    peers = [entry for entry in ALL if entry.component == operation.component]
    if operation is peers[0]:
        others = {c for entry in peers[1:] for case in cases_of(entry, "quick", 0) for c in case.clauses}
        others |= {law.clause for entry in peers[1:] for law in lawful.of(entry)}
        others |= {c for entry in peers[1:] for c in (entry.dtype, entry.pure) if c}
        shown |= set(operation.clauses) - others
    return [clause for clause in operation.clauses if clause in shown]


def only_shown_by(operation: Operation) -> list[str]:
    """Give the clauses of an optional operation that no other one shows."""
    peers = [entry for entry in ALL if entry.component == operation.component and entry is not operation]
    others = {clause for entry in peers for clause in responsible(entry)}
    return [clause for clause in responsible(operation) if clause not in others]


def decide(
    operation: Operation, clause: str, found: list[Finding], examined: Examined, session: Session
) -> tuple[str, str]:
    """Give the status of a clause and what there is to say about it."""
    if examined.absent:
        status = report.NOT_RUN if operation.optional else report.MISSING
        return status, f"there is no {operation.name}"
    states = {finding.state for finding in found}
    for state, status in (
        (findings.FAIL, report.FAIL), (findings.UNASKED, report.MISSING), (findings.EXCUSED, report.CHOICE),
        (findings.PASS, report.PASS), (findings.MISSING, report.MISSING), (findings.CHOICE, report.CHOICE),
        (findings.SKIPPED, report.NOT_RUN),
    ):  # fmt: skip
        if state in states:
            text = next(f.text for f in found if f.state == state)
            return status, "" if status in (report.FAIL, report.PASS) else text
    if examined.stopped:
        return report.NOT_RUN, f"not asked any more: {examined.stopped}"
    return report.NOT_RUN, unshown.reason(operation, clause, session.profiles)


def smallest(found: list[Finding], session: Session, suspicion: tuple[Mutant | None, str]) -> Failure:
    """Show the failing case with the fewest numbers, in the widest profile."""
    bad = [finding for finding in found if finding.state == findings.FAIL]
    worst = min(bad, key=lambda f: (f.part in ("dtype", "inputs"), f.case.size, ORDER.index(f.profile)))
    seen, (bug, called) = worst.comparison, suspicion
    return Failure(
        case=worst.case.id, why=worst.case.why, profile=worst.profile, part=worst.part, message=worst.text,
        expected=seen.expected, got=seen.got, bound=seen.bound, ratio=seen.ratio, printed=worst.outcome.printed,
        reproduction=again(worst, session), looks_like=called,
        owner=bug.owner if bug else "", link=worst.case.link,
        choice=next((f"choices={{{b.key!r}: {b.option!r}}}" for b in behaviours.shown_by(worst)), ""),
    )  # fmt: skip


def again(finding: Finding, session: Session) -> str:
    """Write the line that asks the same question again."""
    origin, case, profile = session.implementation.origin, finding.case.id, finding.profile
    if origin.startswith("grade "):
        return f"python -m minimind_ref.kit {origin}"
    if origin and not origin.endswith(")"):
        return f"python -m minimind_ref.kit run {origin} --case {case} --profile {profile}"
    call = origin or f"verify(implementation, [{finding.case.operation.name!r}])"
    before, _, call = call.rpartition("; ")
    line = f"print({call[:-1]}, case={case!r}, profile={profile!r}))"
    return f"python -c {shlex.quote(f'{before}; {line}')}" if before else line


def call_of(
    name: str, function: Callable[..., Any], arrays: Any, vjp: Callable[..., Any] | None, choices: dict[str, Any]
) -> str:
    """Write the call of `check` that judges this function, with the imports where all of it can be imported."""
    kind = repr(arrays) if isinstance(arrays, str) else "arrays"
    more = (f", vjp={called(vjp)}" if vjp else "") + (f", choices={choices!r}" if choices else "")
    call = f"check({name!r}, {called(function)}, arrays={kind}{more})"
    imports = [imported(f) for f in (function, vjp) if f is not None]
    if not all(imports) or not isinstance(arrays, str):
        return call
    return "; ".join([*dict.fromkeys(imports), "from minimind_ref.kit import check", call])


def called(function: Callable[..., Any]) -> str:
    """Name a function where it is at hand; one that has no name of its own is `function`."""
    if str(getattr(function, "__module__", "")).startswith("torch._ops"):
        return f"torch.ops.{function}"
    name = getattr(function, "__qualname__", "").rpartition(".")[2]
    return name if name.isidentifier() and name != type(function).__name__ else "function"


def imported(function: Callable[..., Any]) -> str:
    """Write the import of a function; "" where there is none."""
    module, name = getattr(function, "__module__", "__main__"), getattr(function, "__qualname__", "")
    return f"from {module} import {name}" if name == called(function) and module != "__main__" else ""
