"""Judges an implementation: every claimed operation, every case, in every claimed profile; verdicts by clause."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minimind_ref.errors import UserError
from minimind_ref.kit import verdicts
from minimind_ref.kit.examine import LARGEST_SEED, LEVELS_OF_EFFORT, Session, examine
from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.operation import LEVELS
from minimind_ref.kit.registry import operation, selected
from minimind_ref.kit.report import FAIL, Report, Verdict
from minimind_ref.kit.runner import SECONDS, LocalRunner


def verify(
    implementation: Any, ops: Sequence[str] | str | None = None, level: str = "quick", *, seed: int = 0,
    case: str | None = None, profile: str | None = None, seconds: float = SECONDS, runner: Any = None,
) -> Report:  # fmt: skip
    """Judge an implementation and give the report.

    `ops` are operations or levels; None is every operation of the levels that the implementation claims, so that what
    it lacks is NOT IMPLEMENTED. `level`: "quick", or "full" with more generated inputs.  `case` and `profile` ask one
    question again.  A call may take `seconds`.
    """
    if not isinstance(implementation, Implementation):
        raise UserError(f"implementation is a {type(implementation).__name__} but must be a kit.Implementation")
    if level not in LEVELS_OF_EFFORT:
        raise UserError(f"level is {level!r} but must be one of {', '.join(LEVELS_OF_EFFORT)}")
    wanted = [ops] if isinstance(ops, str) else ops
    levels = [name for name in wanted or () if name in LEVELS] or list(implementation.levels)
    if wanted is not None and any(name not in LEVELS for name in wanted):
        levels = list(implementation.levels)
    if case and "/generated/" in case:
        number = case.rpartition("_")[2]
        seed, level = int(number) if number.isdigit() else seed, "quick"
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed is {seed} but must lie in [0, {LARGEST_SEED}]")
    session = Session(
        implementation, runner or LocalRunner(implementation, seconds), level, seed, case, profile, tuple(levels)
    )
    found: list[Verdict] = []
    notes: list[str] = []
    failed: set[str] = set()
    for entry in chosen(wanted, levels):
        examined = examine(entry, session)
        judged = verdicts.of(entry, examined, session, failed)
        failed |= {entry.name} if any(verdict.status == FAIL for verdict in judged) else set()
        found += judged
        notes += examined.notes
    if case and not any(verdict.findings for verdict in found):
        raise UserError(f"no case {case!r} was judged" + (f" in profile {profile}" if profile else ""))
    if not found:
        raise UserError(f"no clause of {', '.join(wanted or ())} belongs to the claimed levels {', '.join(levels)}")
    settings = {"level": level, "seed": seed, "profiles": implementation.profiles or implementation.library.profiles}
    return Report(implementation.name, tuple(found), tuple(dict.fromkeys(notes)), settings)


def chosen(wanted: Sequence[str] | None, levels: Sequence[str]) -> list[Any]:
    """Give the operations that are asked for: by name, or all that have a clause of the levels."""
    if wanted is not None and any(name not in LEVELS for name in wanted):
        return selected(wanted)
    return [e for e in selected(None) if e.level in levels or (e.differentiable and "Backward" in levels)]


def check(
    name: str, function: Callable[..., Any], arrays: Any = "numpy", *, vjp: Callable[..., Any] | None = None,
    profiles: Sequence[str] | str | None = None, choices: Mapping[str, Any] | None = None,
    levels: Sequence[str] | str | None = None, level: str = "quick", seed: int = 0, case: str | None = None,
    profile: str | None = None, seconds: float = SECONDS,
) -> Report:  # fmt: skip
    """Judge one function: `print(check("rms_norm", my_rms_norm, arrays="torch"))`.

    The arguments are those of `Implementation` and of `verify`; `choices` without the operation's name: {"cast": …}.
    """
    operation(name)
    own = {key if key.startswith(f"{name}.") else f"{name}.{key}": x for key, x in (choices or {}).items()}
    implementation = Implementation(
        getattr(function, "__name__", name), arrays=arrays, profiles=profiles, choices=own, levels=levels
    )
    implementation.op(name, function, vjp=vjp)
    implementation.origin = verdicts.call_of(name, function, arrays, vjp, own)
    return verify(implementation, [name], level, seed=seed, case=case, profile=profile, seconds=seconds)
