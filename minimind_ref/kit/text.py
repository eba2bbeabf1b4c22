"""A report as text: what is missing or not run in a line each, then every failure with all there is to say."""

from collections import defaultdict
from typing import Any

QUIET = ("CHOICE", "NOT RUN", "NOT IMPLEMENTED")


def of(report: Any) -> str:
    """Write a report for people; what matters most comes last, next to the summary."""
    lines = [line for status in QUIET for line in together(report, status)]
    lines += [f"EXPECTED FAILURE  {v.operation}  {v.clause}  {v.detail}" for v in having(report, "EXPECTED FAILURE")]
    groups: dict[Any, list[Any]] = defaultdict(list)
    for verdict in [*having(report, "BLOCKED"), *having(report, "FAIL")]:
        failure = verdict.failure
        groups[verdict.operation, verdict.status, failure and (failure.case, failure.message)].append(verdict)
    told = [group for group in groups.values() if any(v.failure and v.failure.owner == v.clause for v in group)]
    explained_ones = {group[0].operation for group in told}  # their other clauses are told in two lines
    for group in groups.values():
        if group not in told:
            lines += in_short(group) if group[0].operation in explained_ones else explained(group)
    lines += [line for group in told for line in explained(group)]
    return "\n".join([*lines, *(f"note: {note}" for note in report.notes), report.summary])


def having(report: Any, status: str) -> list[Any]:
    """Give the verdicts of a status."""
    return [verdict for verdict in report.verdicts if verdict.status == status]


def together(report: Any, status: str) -> list[str]:
    """Put the clauses that share an operation and a reason on one line."""
    same: dict[tuple[str, str], list[str]] = defaultdict(list)
    for verdict in having(report, status):
        same[verdict.operation, verdict.detail].append(verdict.clause)
    return [f"{status:16}  {name}  {numbers(ids)}: {detail}" for (name, detail), ids in same.items()]


def numbers(ids: list[str]) -> str:
    """Write RMS_NORM-2, RMS_NORM-3 as RMS_NORM-2, -3."""
    component = ids[0].rpartition("-")[0]
    return ", ".join([ids[0], *(i.removeprefix(component) for i in ids[1:])])


def in_short(verdicts: list[Any]) -> list[str]:
    """Tell a failure in two lines."""
    first, failure = verdicts[0], verdicts[0].failure
    head = f"{first.status:16}  {first.operation}  {numbers([v.clause for v in verdicts])}"
    return [f"{head}: {failure.case}, {failure.profile}", f"    {'found':10}  {failure.message}"]


def explained(verdicts: list[Any]) -> list[str]:
    """Explain a failure once for all the clauses that it shows to be broken."""
    first, failure = verdicts[0], verdicts[0].failure
    head = f"{first.status:16}  {first.operation}  {numbers([v.clause for v in verdicts])}"
    if failure is None:
        return [f"{head}: {first.detail}"]
    rows = [("clause", f"{v.clause}: {v.text}") for v in verdicts]
    rows += [("case", f"{failure.case}, {failure.profile}: {failure.why}"), ("found", failure.message)]
    if failure.looks_like:
        rows.append(("looks like", failure.looks_like))
    if failure.choice:
        rows.append(("if meant", f"{failure.choice} declares it"))
    rows += [("seen in", failure.link)] if failure.link else []
    rows += [("note", first.detail)] if first.detail else []
    rows += [("it printed", repr(failure.printed.strip()[:200]))] if failure.printed.strip() else []
    rows.append(("again", failure.reproduction))
    return [head, *(f"    {key:10}  {value}" for key, value in rows)]
