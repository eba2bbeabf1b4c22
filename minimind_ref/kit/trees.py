"""Trees of arrays: tuples, named tuples, dicts, and lists that hold arrays; everything else is a leaf."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def holds_arrays(x: Any) -> bool:
    """Say whether a list is a tree: it has an array somewhere inside."""
    return any(hasattr(entry, "dtype") or (isinstance(entry, dict | tuple | list) and is_tree(entry)) for entry in x)


def is_tree(x: Any) -> bool:
    """Say whether x has parts; a list of plain data, such as token ids, has none."""
    if isinstance(x, dict):
        return holds_arrays(x.values())
    return isinstance(x, tuple | list) and holds_arrays(x)


def leaves(x: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Walk over the leaves with their names: "x", "experts.0", "state.means.w"."""
    if not is_tree(x):
        yield name, x
        return
    keys = x if isinstance(x, dict) else getattr(x, "_fields", range(len(x)))
    for key, entry in zip(keys, x.values() if isinstance(x, dict) else x, strict=True):
        yield from leaves(entry, f"{name}.{key}" if name else str(key))


def map_named(f: Callable[[str, Any], Any], x: Any, name: str = "") -> Any:
    """Apply f to every leaf and its name; keep the structure."""
    if not is_tree(x):
        return f(name, x)
    if isinstance(x, dict):
        return {key: map_named(f, entry, f"{name}.{key}" if name else str(key)) for key, entry in x.items()}
    keys = getattr(x, "_fields", range(len(x)))
    found = [map_named(f, e, f"{name}.{key}" if name else str(key)) for key, e in zip(keys, x, strict=True)]
    return type(x)(*found) if hasattr(x, "_fields") else type(x)(found)


def is_floating(x: Any) -> bool:
    """Say whether a leaf is an array of floats."""
    return getattr(getattr(x, "dtype", None), "kind", "") == "f"


def floating(x: Any) -> dict[str, np.ndarray]:
    """Give the floating leaves by name."""
    return {name: leaf for name, leaf in leaves(x) if is_floating(leaf)}
