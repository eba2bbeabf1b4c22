"""What functions take and return, as trees: tuples, named tuples and dicts of arrays, with a name for every leaf."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


class GoldenError(ValueError):
    """A case that cannot be computed, or faces that disagree: the message says which and by how much."""


def leaves(x: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Walk over what a function takes or returns, through tuples, named tuples, dicts and lists of arrays."""
    if isinstance(x, tuple | dict) or (isinstance(x, list) and any(hasattr(entry, "dtype") for entry in x)):
        keys = x if isinstance(x, dict) else getattr(x, "_fields", range(len(x)))
        for key, entry in zip(keys, x.values() if isinstance(x, dict) else x, strict=True):
            yield from leaves(entry, f"{name}.{key}" if name else str(key))
    else:
        yield name, x


def map_leaves(f: Callable[[Any], Any], x: Any) -> Any:
    """Apply f to every leaf and keep the structure."""
    if isinstance(x, dict):
        return {key: map_leaves(f, entry) for key, entry in x.items()}
    if isinstance(x, tuple):
        entries = [map_leaves(f, entry) for entry in x]
        return type(x)(*entries) if hasattr(x, "_fields") else tuple(entries)
    return f(x)


def is_floating(x: Any) -> bool:
    """Say whether a leaf is an array of floats, bound or not."""
    return getattr(getattr(x, "dtype", None), "kind", "") == "f"


def typed(function: Callable[..., Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Turn inputs given by parts, named or in order, into the NamedTuple that the function's annotation asks for."""
    asked = {name: p.annotation for name, p in inspect.signature(function).parameters.items()}

    def whole(name: str, x: Any) -> Any:
        if not isinstance(x, dict | tuple) or not hasattr(asked.get(name), "_fields"):
            return x
        return asked[name](**x) if isinstance(x, dict) else asked[name](*x)

    return {name: whole(name, x) for name, x in inputs.items()}


def plain_numbers(x: Any) -> bool:
    """Say whether a result is a Python float or a list of them: it came from no array and carries no bound."""
    return isinstance(x, float) or (isinstance(x, list) and bool(x) and all(isinstance(y, float) for y in x))


def settled(x: Any) -> Any:
    """Turn a result without bounds into what is recorded: plain floats into an array, ranges into lists."""
    if isinstance(x, list):
        x = [list(entry) if isinstance(entry, range) else entry for entry in x]
    return np.array(x) if plain_numbers(x) else x


def is_tensor(x: Any) -> bool:
    """Say whether x is a torch tensor, without importing torch."""
    return hasattr(x, "requires_grad")


def named(names: list[str], x: Any) -> dict[str, Any]:
    """Give the leaves of a result their names."""
    found = [leaf for _, leaf in leaves(x)]
    if len(found) != len(names):
        raise GoldenError(f"there are {len(found)} results where {', '.join(names)} are expected")
    return dict(zip(names, found, strict=True))
