"""What somebody hands in: functions by the operation that they claim to be, and what they claim about them."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from minimind_ref.errors import UserError
from minimind_ref.kit import vectors
from minimind_ref.kit.arrays import Library, library
from minimind_ref.kit.behaviours import KEYS
from minimind_ref.kit.case import compute
from minimind_ref.kit.operation import LEVELS, Operation
from minimind_ref.kit.registry import OPERATIONS, operation
from minimind_ref.oracle.bounded import PROFILES

Function = Callable[..., Any]


class Implementation:
    """Functions under one name, registered by operation.

    `arrays`: "numpy", "torch", "jax", "mlx", or a pair of converters (to_array, from_array), of which the second may
    give an array and the name of the dtype that theirs had, which NumPy may lack.
    `profiles`: the precisions that are claimed; None claims the library's own (float64 for NumPy, float32 for the rest,
    and float64 where an implementation keeps it).
    `choices`: what it is fixed to where good implementations differ, as {"rms_norm.cast": "before"}.
    `levels`: the levels that it claims, which are the denominator; None claims all.
    `refusals`: it claims to refuse a scaling of RoPE that does not exist by a ValueError, as this package does; it is
    not asked otherwise, and no other refusal is.
    `expected_failures`: {"ROPE-4": "angles are float32, issue 12"}, or what it does not have; one that passes is a
    failure.
    """

    def __init__(
        self, name: str, *, arrays: Any = "numpy", profiles: Sequence[str] | str | None = None,
        choices: Mapping[str, Any] | None = None, levels: Sequence[str] | str | None = None,
        expected_failures: Mapping[str, str] | None = None, refusals: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.arrays, self.refusals, self.origin = name, arrays, refusals, ""
        profiles, levels = ([given] if isinstance(given, str) else given for given in (profiles, levels))
        for kind, given, known in (("profiles", profiles, PROFILES), ("levels", levels, LEVELS)):
            for one in given or ():
                if one not in known:
                    raise UserError(f"{kind} has {one!r} but the known ones are {', '.join(known)}")
        self.profiles = None if profiles is None else tuple(profiles)
        self.levels = LEVELS if levels is None else tuple(levels)
        self.choices, self.expected_failures = dict(choices or {}), dict(expected_failures or {})
        for key, option in self.choices.items():
            known_choice(key, option)
        for clause in self.expected_failures:
            if not any(clause in entry.clauses for entry in OPERATIONS.values()):
                raise UserError(f"expected_failures has {clause!r}, which is no MUST clause of specs/")
        self.functions: dict[str, Function] = {}
        self.vjps: dict[str, Function] = {}

    @cached_property
    def library(self) -> Library:
        """The array library, imported when it is first needed."""
        return library(self.arrays)

    def op(self, name: str, function: Function | None = None, *, vjp: Function | None = None) -> Any:
        """Register a function as an operation; without one, give the decorator that does.

        `vjp(inputs…, *, options…, cotangent)` gives the gradients of the floating inputs in order, for libraries
        that have none of their own.
        """
        operation(name)
        if vjp is not None:
            self.vjps[name] = vjp
        if function is None:
            return lambda decorated: self.op(name, decorated)
        self.functions[name] = function
        return function

    def vjp(self, name: str) -> Callable[[Function], Function]:
        """Register the gradient of an operation: a decorator beside `op`."""
        operation(name)

        def register(function: Function) -> Function:
            self.vjps[name] = function
            return function

        return register

    def fixed(self, name: str) -> dict[str, Any]:
        """Give the arguments of an operation to which the implementation is fixed."""
        prefix = f"{name}."
        return {key[len(prefix) :]: x for key, x in self.choices.items() if key.startswith(prefix)}


def known_choice(key: str, option: Any) -> None:
    """Refuse a choice that no operation has."""
    if key in KEYS:
        if option not in KEYS[key]:
            raise UserError(f"choices has {key}={option!r} but the option is {' or '.join(map(repr, KEYS[key]))}")
        return
    name, _, argument = key.rpartition(".")
    if name not in OPERATIONS or argument not in OPERATIONS[name].choices:
        known = [*KEYS, *(f"{entry.name}.{choice}" for entry in OPERATIONS.values() for choice in entry.choices)]
        near = get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise UserError(f"choices has {key!r}, which no operation has; {hint}")
    known_option(OPERATIONS[name], argument, option)


def known_option(entry: Operation, argument: str, option: Any) -> None:
    """Refuse an option with which the oracle answers no recorded case, in its words."""
    said = ""
    for case in vectors.recorded(entry) if argument in entry.arguments else ():
        try:
            compute(replace(case, parameters=case.parameters | {argument: option}, cotangent={}), "float64")
            return
        except (TypeError, ValueError) as error:
            said = str(error)
    if said:
        raise UserError(f"choices has {entry.name}.{argument}={option!r}: {said}")


def load(target: str) -> Implementation:
    """Import PKG.MODULE:NAME, also from the working directory; what is not found is a UserError of one line."""
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise UserError(f"{target!r} must be PKG.MODULE:NAME, such as their_kit:impl")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(f"{target}: importing {module_name} raised {type(error).__name__}: {error}") from None
    found = getattr(module, attribute, None)
    if not isinstance(found, Implementation):
        kind = "not there" if found is None else f"a {type(found).__name__}"
        raise UserError(f"{target}: {attribute} is {kind} but must be a minimind_ref.kit.Implementation")
    found.origin = target
    return found
