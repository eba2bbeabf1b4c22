"""Puts one operation's cases to an implementation, and collects what is found."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from minimind_ref.kit import behaviours, findings, generated, lawful, vectors
from minimind_ref.kit.case import Case, by_oracle
from minimind_ref.kit.coarse import computes_in_float32, in_float32
from minimind_ref.kit.findings import Finding
from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.operation import Operation
from minimind_ref.kit.outcome import Outcome

LEVELS_OF_EFFORT = {"quick": 1, "full": 6}  # how many seeds each generator is given
LARGEST_SEED = ((1 << 32) - generated.FIRST_SEED) // generated.SEEDS_A_CASE - LEVELS_OF_EFFORT["full"]


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
    asked, live = questions(operation, session, examined), session.runner.live
    dropped = not session.explicit and "float32" in session.profiles and computes_in_float32(asked)
    if dropped:
        examined.notes.append(f"{operation.name} computes in float32 inside; it is judged there, not in float64")
        asked = [entry for question in asked for entry in narrowed(*question, session)]
    for case, profile, outcome in asked:
        examined.found += findings.judge(case, profile, outcome, explicit=session.explicit, gradient=session.gradient)
    if live and not examined.stopped:
        examined.found += lawful.ask(operation, session)
    choices = session.implementation.choices
    examined.found = [behaviours.excused(finding, choices) for finding in examined.found]
    if any(finding.outcome.printed for finding in examined.found):
        examined.notes.append(f"{operation.name} prints")
    return examined


def questions(operation: Operation, session: Session, examined: Examined) -> list[tuple[Case, str, Outcome]]:
    """Ask the cases one by one; the first that runs out of time is the last."""
    asked: list[tuple[Case, str, Outcome]] = []
    live, fixed = session.runner.live, session.implementation.fixed(operation.name)
    for case in cases_of(operation, session.effort, session.seed) if live else vectors.recorded(operation):
        if session.case and case.id != session.case:
            continue
        case, profiles = within_reach(retargeted(case, fixed), session.profiles)
        for profile in profiles:
            if not generated.telling(case, profile):
                continue
            outcome = session.runner.ask(case, profile, gradient=session.gradient)
            asked.append((case, profile, outcome))
            if "timeout" in (outcome.problem, outcome.gradient_problem):
                examined.stopped = f"{case.id} {outcome.text or outcome.gradient_text}"
                return asked
    return asked


def narrowed(case: Case, profile: str, outcome: Outcome, session: Session) -> list[tuple[Case, str, Outcome]]:
    """Give what is judged where float64 is dropped: the case in float32 instead, where float32 was not asked anyway."""
    if profile != "float64" or case.exact:
        return [(case, profile, outcome)]
    if "float32" in case.profiles or not session.runner.live:
        return []
    asked = in_float32(case)
    return [(asked, "float32", session.runner.ask(asked, "float32", gradient=session.gradient))]


def within_reach(case: Case, claimed: Sequence[str]) -> tuple[Case, Sequence[str]]:
    """Give the profiles to ask in; what is recorded in float64 alone is asked in float32 where only that is claimed."""
    if case.exact:
        return case, ("float64",)
    shared = [profile for profile in claimed if profile in case.profiles]
    if not shared and "float32" in claimed:
        return in_float32(case), ("float32",)
    return case, shared


def retargeted(case: Case, fixed: dict[str, Any]) -> Case:
    """Ask for the option that the implementation has declared, where a case leaves it at the default."""
    public = case.operation.arguments
    left = {name: x for name, x in fixed.items() if name in public and name not in case.parameters}
    new = {name: x for name, x in left.items() if x != public[name].default}
    if not new:
        return case
    asked = by_oracle(replace(case, parameters=case.parameters | new))
    try:
        asked.answer("float64")
    except ValueError:  # the option needs another argument, which the case does not give: it is about the default
        return replace(case, parameters=case.parameters | {name: public[name].default for name in new})
    return asked
