"""Puts one operation's cases to an implementation, and collects what is found."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from minimind_ref.kit import behaviours, findings, generated, lawful, vectors
from minimind_ref.kit.case import Case, by_oracle
from minimind_ref.kit.coarse import computes_in_float32
from minimind_ref.kit.findings import Finding
from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.operation import Operation
from minimind_ref.kit.outcome import Outcome

LEVELS_OF_EFFORT = {"quick": 1, "full": 6}  # how many seeds each generator is given


@dataclass(frozen=True)
class Session:
    """What is asked of whom: the settings of one verification."""

    implementation: Implementation
    runner: Any
    effort: str
    seed: int
    case: str | None
    profile: str | None
    levels: tuple[str, ...]

    @property
    def gradient(self) -> bool:
        """Say whether gradients count."""
        return "Backward" in self.levels or "Alignment" in self.levels

    @property
    def profiles(self) -> tuple[str, ...]:
        """The claimed profiles, or the one that is asked for."""
        if self.profile:
            return (self.profile,)
        return self.implementation.profiles or self.implementation.library.profiles

    @property
    def explicit(self) -> bool:
        """Say whether float64 is claimed by name (or asked for), not only by the library."""
        return "float64" in (self.implementation.profiles or ()) or self.profile == "float64"


@dataclass
class Examined:
    """What was found about an operation; `absent` says that the implementation does not have it."""

    found: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: bool = False
    stopped: str = ""


def cases_of(operation: Operation, effort: str, seed: int) -> list[Case]:
    """Give the recorded cases, then the generated ones."""
    return [*vectors.recorded(operation), *generated.cases(operation, LEVELS_OF_EFFORT[effort], seed)]


def examine(operation: Operation, session: Session) -> Examined:
    """Ask every case in every profile that is claimed, until one runs out of time."""
    examined = Examined()
    if not session.runner.has(operation.name):
        examined.absent = True
        return examined
    asked: list[tuple[Case, str, Outcome]] = []
    live = session.runner.live
    for case in cases_of(operation, session.effort, session.seed) if live else vectors.recorded(operation):
        if session.case and case.id != session.case:
            continue
        case = retargeted(case, session.implementation.fixed(operation.name))
        case, profiles = within_reach(case, session.profiles)
        for profile in profiles:
            if not generated.telling(case, profile):
                continue
            outcome = session.runner.ask(case, profile, gradient=session.gradient)
            asked.append((case, profile, outcome))
            if "timeout" in (outcome.problem, outcome.gradient_problem):
                examined.stopped = f"{case.id} {outcome.text or outcome.gradient_text}"
                break
        if examined.stopped:
            break
    dropped = not session.explicit and "float32" in session.profiles and computes_in_float32(asked)
    if dropped:
        examined.notes.append(f"{operation.name} computes in float32 inside; it is judged there, not in float64")
    for case, profile, outcome in asked:
        if not (dropped and profile == "float64" and not case.exact):
            examined.found += findings.judge(
                case, profile, outcome, explicit=session.explicit, gradient=session.gradient
            )
    if live and not examined.stopped:
        examined.found += lawful.ask(operation, session)
    choices = session.implementation.choices
    examined.found = [behaviours.excused(finding, choices) for finding in examined.found]
    if any(finding.outcome.printed for finding in examined.found):
        examined.notes.append(f"{operation.name} prints")
    return examined


def within_reach(case: Case, claimed: Sequence[str]) -> tuple[Case, Sequence[str]]:
    """Give the profiles to ask in; what is recorded in float64 alone is asked in float32 where only that is claimed.

    The oracle's own bounds hold there; those of a whole network are wide.
    """
    if case.exact:
        return case, ("float64",)
    shared = [profile for profile in claimed if profile in case.profiles]
    if not shared and "float32" in claimed:
        return by_oracle(case), ("float32",)
    return case, shared


def retargeted(case: Case, fixed: dict[str, Any]) -> Case:
    """Ask for the option that the implementation has declared, where a case leaves it at the default."""
    new = {name: x for name, x in fixed.items() if name in case.operation.arguments and name not in case.parameters}
    return by_oracle(replace(case, parameters=case.parameters | new)) if new else case
