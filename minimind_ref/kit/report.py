"""Verdicts per clause, and the report that holds them: for people (str), for programs (to_json)."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from minimind_ref.kit import text

PASS, FAIL, CHOICE, MISSING = "PASS", "FAIL", "CHOICE", "NOT IMPLEMENTED"
EXPECTED, BLOCKED, NOT_RUN = "EXPECTED FAILURE", "BLOCKED", "NOT RUN"
WORST_FIRST = (FAIL, BLOCKED, MISSING, EXPECTED, NOT_RUN, CHOICE, PASS)
AGAINST = (FAIL, BLOCKED, MISSING)


@dataclass(frozen=True)
class Failure:
    """The smallest case that fails, how to run it again, the known bug that it looks like, and the choice it may be."""

    case: str
    why: str
    profile: str
    part: str
    message: str
    expected: str
    got: str
    bound: str
    ratio: float
    reproduction: str
    looks_like: str = ""
    owner: str = ""
    link: str = ""
    printed: str = ""
    choice: str = ""


@dataclass(frozen=True)
class Verdict:
    """What was found about one clause of one operation."""

    operation: str
    clause: str
    level: str
    status: str
    text: str
    detail: str = ""
    margin: float | None = None
    findings: int = 0
    failure: Failure | None = None


@dataclass(frozen=True)
class Report:
    """All verdicts about an implementation; `notes` are what else is worth knowing."""

    name: str
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Say whether something was judged, and every judged clause passes: nothing failed, is missing or blocked."""
        found = {verdict.status for verdict in self.verdicts}
        return PASS in found and not found & {*AGAINST, EXPECTED}

    @property
    def as_expected(self) -> bool:
        """Say whether nothing is wrong but what was declared as an expected failure: the command's exit status."""
        found = {verdict.status for verdict in self.verdicts}
        return bool(found & {PASS, EXPECTED}) and not found & set(AGAINST)

    @property
    def failures(self) -> tuple[Verdict, ...]:
        """The verdicts that speak against it."""
        return tuple(verdict for verdict in self.verdicts if verdict.status in AGAINST)

    @property
    def counts(self) -> dict[str, int]:
        """Count the distinct MUST clauses by their worst status over the operations that show them."""
        worst: dict[str, str] = {}
        for verdict in self.verdicts:
            both = (worst.get(verdict.clause, PASS), verdict.status)
            worst[verdict.clause] = min(both, key=WORST_FIRST.index)
        found = Counter(worst.values())
        return {status: found[status] for status in reversed(WORST_FIRST) if found[status]}

    @property
    def summary(self) -> str:
        """Say in one line what came of it; the denominator is every MUST clause that was claimed."""
        total = sum(self.counts.values())
        rest = ", ".join(f"{n} {status.lower()}" for status, n in self.counts.items() if status != PASS)
        bugs = {v.failure.looks_like for v in self.verdicts if v.failure and v.failure.looks_like}
        rest += "".join(f"; looks like {bug}" for bug in sorted(bugs))
        incomplete = set(self.counts) <= {PASS, MISSING, CHOICE, NOT_RUN} and PASS in self.counts
        word = "passed" if self.passed else "INCOMPLETE, none fails" if incomplete else "NOT PASSED"
        return f"{self.name}: {word}: {self.counts.get(PASS, 0)} of {total} clauses" + (f"; {rest}" if rest else "")

    def __str__(self) -> str:
        return text.of(self)

    def to_json(self) -> str:
        """Write everything down, in an order that does not change."""
        body = {
            "name": self.name,
            "passed": self.passed,
            "summary": self.summary,
            "counts": self.counts,
            "settings": self.settings,
            "notes": list(self.notes),
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }
        return json.dumps(_finite(body), ensure_ascii=False, indent=1, allow_nan=False)


def _finite(x: Any) -> Any:
    """Spell out what JSON has no number for."""
    if isinstance(x, dict):
        return {key: _finite(entry) for key, entry in x.items()}
    if isinstance(x, list | tuple):
        return [_finite(entry) for entry in x]
    if isinstance(x, float) and x - x != 0:
        return "NaN" if x != x else "Infinity" if x > 0 else "-Infinity"
    return x
