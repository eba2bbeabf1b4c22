"""What an implementation gave: results by name, the gradients, or a problem."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minimind_ref.kit.arrays import Library


@dataclass(frozen=True)
class Result:
    """A result as numbers, with the dtype that it had (None for Python's own numbers and for data that is no array)."""

    value: Any
    dtype: str | None = None


class WrongShapeError(Exception):
    """A result that does not have the parts, or the numbers, that it must have."""


@dataclass(frozen=True)
class Outcome:
    """The answer of an implementation to one case.

    `problem` is "", or how it failed: raised, timeout, type, cannot (no argument for it), choice (another option),
    missing (the operation is not there), process.  `gradients` is None where it has none to offer.
    """

    outputs: dict[str, Result] = field(default_factory=dict)
    gradients: dict[str, Result] | None = None
    problem: str = ""
    text: str = ""
    gradient_problem: str = ""
    gradient_text: str = ""
    printed: str = ""
    changed: tuple[str, ...] = ()


def result(y: Any, library: Library) -> Result:
    """Read one result: an array of the library, a number, or plain data; one without readable numbers is refused."""
    if library.holds(y):
        try:
            return Result(*library.plain(y))
        except Exception as error:  # a sparse, quantised or meta tensor
            said = " ".join(str(error).split())[:200]
            raise WrongShapeError(f"returned a {type(y).__name__} whose numbers cannot be read: {said}") from None
    if isinstance(y, bool | int | float):
        return Result(np.asarray(y))
    return Result(y)


def named(returned: Any, names: tuple[str, ...], library: Library) -> dict[str, Any]:
    """Give what was returned its names: by name where it has them (a dict, a named tuple), by order otherwise.

    In a tuple a state may follow the results: a cache, say, or None for it.
    """
    if len(names) == 1:
        alone = isinstance(returned, tuple) and len(returned) == 1
        return {names[0]: returned[0] if alone else returned}
    found = list(_parts(returned, "", True, any("." in name for name in names), library))
    by_name = dict(found)
    if set(names) <= set(by_name):
        return {name: by_name[name] for name in names}
    beside = returned[len(names) :] if isinstance(returned, tuple) else ()
    if beside and all(x is None or isinstance(x, tuple | list | dict) for x in beside):
        return named(returned[: len(names)], names, library)
    if len(found) != len(names):
        raise WrongShapeError(f"returned {_described(returned)} but {', '.join(_short(names))} are expected")
    return {name: leaf for name, (_, leaf) in zip(names, found, strict=True)}


def _parts(x: Any, name: str, outermost: bool, nested: bool, library: Library) -> Iterator[tuple[str, Any]]:
    """Walk over what was returned; lists inside it are data unless the expected names are nested."""
    labelled = isinstance(x, dict) or hasattr(x, "_fields")
    inner = isinstance(x, dict | tuple) or (isinstance(x, list) and (outermost or nested))
    if not inner or library.holds(x):
        yield name, x
        return
    keys = x if isinstance(x, dict) else getattr(x, "_fields", range(len(x)))
    for key, entry in zip(keys, x.values() if isinstance(x, dict) else x, strict=True):
        own = f"{name}.{key}" if name else str(key) if labelled else ""
        yield from _parts(entry, own, False, nested, library)


def _described(x: Any) -> str:
    if isinstance(x, dict):
        return f"a dict with {', '.join(map(str, list(x)[:6])) or 'nothing'}"
    if isinstance(x, tuple | list):
        return f"{len(x)} results"
    return f"one {type(x).__name__}" if x is not None else "None"


def _short(names: tuple[str, ...]) -> list[str]:
    return list(names) if len(names) <= 6 else [*names[:5], f"… ({len(names)} in all)"]
