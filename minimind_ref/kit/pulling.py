"""Gradients of an implementation in this process: its own vjp, or its array library's differentiation."""

from collections.abc import Callable
from typing import Any

from minimind_ref.kit import guard
from minimind_ref.kit.arrays import Library
from minimind_ref.kit.case import Case
from minimind_ref.kit.outcome import Outcome, Result, WrongShapeError, named, result

Call = Callable[
    [dict[str, Any]], Any
]  # from the floating inputs that are replaced, by name, to what the function gives


def supplied(vjp: Callable[..., Any], positional: list[Any], keyword: dict[str, Any], along: dict[str, Any]) -> Any:
    """Call a vjp that was handed in; the cotangent is one array, or a tuple for several outputs."""
    cotangent = next(iter(along.values())) if len(along) == 1 else tuple(along.values())
    return vjp(*positional, **keyword, cotangent=cotangent)


def differentiated(
    library: Library, case: Case, call: Call, sources: dict[str, Any], along: dict[str, Any]
) -> list[Any]:
    """Let the library differentiate Σ cotangent · output with respect to the sources."""
    assert library.gradient is not None

    def run(arrays: list[Any]) -> list[Any]:
        found = named(call(dict(zip(sources, arrays, strict=True))), case.outputs, library)
        return [found[name] for name in along]

    return library.gradient(run, list(sources.values()), list(along.values()))


def added(outcome: Outcome, ran: guard.Ran, names: tuple[str, ...], library: Library) -> Outcome:
    """Add the gradients to an outcome, or why there are none."""
    text, problem, gradients = ran.text, ran.problem, None
    if not problem:
        try:
            gradients = by_name(ran.value, names, library)
        except WrongShapeError as error:
            problem, text = "type", str(error)
    return Outcome(
        outcome.outputs, gradients, gradient_problem=problem, gradient_text=text,
        printed=outcome.printed + ran.printed, changed=outcome.changed,
    )  # fmt: skip


def by_name(found: Any, names: tuple[str, ...], library: Library) -> dict[str, Result]:
    """Name the gradients, in the order of the floating inputs."""
    listed = [x for x in flat(found, library) if x is not None]
    if len(listed) != len(names):
        raise WrongShapeError(f"gave {len(listed)} gradients but there are {len(names)}: {', '.join(names)}")
    return {name: result(g, library) for name, g in zip(names, listed, strict=True)}


def flat(x: Any, library: Library) -> list[Any]:
    """List what a vjp gives, whatever it is packed in."""
    if not library.holds(x) and isinstance(x, dict | tuple | list):
        return [leaf for part in (x.values() if isinstance(x, dict) else x) for leaf in flat(part, library)]
    return [x]
