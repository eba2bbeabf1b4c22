"""A report as a row of the table: clauses passed of those asked, choices taken, what fails."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from minimind_ref.kit import report
from minimind_ref.kit.peers import known
from minimind_ref.kit.report import Report, Verdict
from minimind_ref.kit.text import numbers

UNEXPLAINED = "UNEXPLAINED"


@dataclass(frozen=True)
class Row:
    """A line of the table; `note` stands for all else where nothing could be judged."""

    title: str
    passed: int = 0
    asked: int = 0
    lacking: int = 0
    choices: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return f"| {self.title} | {self.note} | | |"
        count = f"{self.passed} of {self.asked}" + (f"; {self.lacking} not implemented" if self.lacking else "")
        return f"| {self.title} | {count} | {'; '.join(self.choices) or '–'} | {'<br>'.join(self.failures) or '–'} |"


def of(title: str, reports: Sequence[Report], page: str = "") -> Row:
    """Sum reports up: a clause of an operation counts once, with the worst that any says; links lead to `page`."""
    worst: dict[tuple[str, str], str] = {}
    for verdict in (verdict for each in reports for verdict in each.verdicts):
        key = (verdict.operation, verdict.clause)
        both = (worst.get(key, verdict.status), verdict.status)
        worst[key] = min(both, key=report.WORST_FIRST.index)
    statuses = [status for status in worst.values() if status != report.NOT_RUN]
    return Row(
        title, statuses.count(report.PASS), len(statuses), statuses.count(report.MISSING),
        tuple(dict.fromkeys(choice for each in reports for choice in choices(each))),
        tuple(dict.fromkeys(line for each in reports for line in failures(each, page))),
    )  # fmt: skip


def choices(found: Report) -> list[str]:
    """Name the options that it takes where it was asked for others."""
    taken: dict[str, None] = {}
    for verdict in found.verdicts:
        if verdict.status == report.CHOICE:
            taken[f"`{verdict.operation}` {option(verdict.detail)}"] = None
    return list(taken)


def option(detail: str) -> str:
    """Shorten "cast='before': it has no argument cast and is taken to have 'after'" to cast='after'."""
    asked, _, said = detail.rpartition(": ")
    taken = said.rpartition(" ")[2] if "is taken to have" in said else said.removeprefix("it takes ")
    return taken if "=" in taken else f"{asked.partition('=')[0]}={taken}"


def failures(found: Report, page: str = "") -> list[str]:
    """Write a line for each finding, and one for each operation with failures that none explains."""
    against = [v for v in found.verdicts if v.status in (report.FAIL, report.BLOCKED)]
    lines, left = [], list(against)
    for finding in known.FINDINGS:
        told = [v for v in left if finding.explains(found.name, v.operation, v.clause)]
        if told:
            lines.append(f"`{told[0].operation}` {numbers([v.clause for v in told])}: {finding.told(found.name, page)}")
            left = [v for v in left if v not in told]
    rest: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in left:
        rest[verdict.operation].append(verdict)
    for operation, verdicts in rest.items():
        said = verdicts[0].failure.message if verdicts[0].failure else verdicts[0].detail
        said = said.replace("|", "\\|")
        lines.append(f"`{operation}` {numbers([v.clause for v in verdicts])}: {UNEXPLAINED}: {said}")
    return lines
