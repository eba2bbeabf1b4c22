"""Asks an implementation in this process; another runner asks a process (process.py) or reads files (grade.py)."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from minimind_ref.kit import guard, pulling, trees, vectors
from minimind_ref.kit.arrays import Library
from minimind_ref.kit.binding import (
    Call,
    CannotExpressError,
    NoAnswerError,
    OtherChoiceError,
    bind,
    unexpected,
    without,
)
from minimind_ref.kit.case import Case
from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.operation import Operation
from minimind_ref.kit.outcome import Outcome, WrongShapeError, named, result

NARROW = ("bfloat16", "float16")
SECONDS = 20.0


class LocalRunner:
    """Calls the functions of an `Implementation`, each call at most `seconds` long."""

    live = True

    def __init__(self, implementation: Implementation, seconds: float = SECONDS) -> None:
        self.implementation, self.seconds = implementation, seconds
        self.unwanted: dict[str, set[str]] = {}  # by operation: keywords that the function behind a wrapper lacks

    def has(self, name: str) -> bool:
        """Say whether the operation is there."""
        return name in self.implementation.functions

    def has_gradient(self, name: str) -> bool:
        """Say whether a gradient can be had: the library's own, or a supplied one."""
        return name in self.implementation.vjps or self.implementation.library.gradient is not None

    def ask(self, case: Case, profile: str, *, gradient: bool = True) -> Outcome:
        """Call the function on a case, and its gradient where the case has a cotangent."""
        name, library = case.operation.name, self.implementation.library
        function = self.implementation.functions[name]
        inputs, cotangent = case.stored(profile)
        try:
            call = self.call(case, function, inputs, profile)
        except CannotExpressError as error:
            return Outcome(problem="cannot", text=str(error))
        except OtherChoiceError as error:
            return Outcome(problem="choice", text=str(error))
        except ModuleNotFoundError as error:
            return Outcome(problem="profile", text=f"{profile} needs {error.name}, which is not installed")
        before = {n: self.numbers(x) for n, x in trees.leaves(call.arguments)}
        ran = guard.run(lambda: function(*call.positional.values(), **call.keyword), self.seconds)
        if isinstance(ran.error, CannotExpressError | OtherChoiceError):  # it says so itself
            problem = "cannot" if isinstance(ran.error, CannotExpressError) else "choice"
            return Outcome(problem=problem, text=str(ran.error), printed=ran.printed)
        if unwanted := unexpected(ran.error, call):
            self.unwanted.setdefault(name, set()).add(unwanted)
            return self.ask(case, profile, gradient=gradient)
        if ran.problem:
            return Outcome(problem=ran.problem, text=ran.text, printed=ran.printed)
        changed = tuple(n for n, x in trees.leaves(call.arguments) if not same(self.numbers(x), before.get(n)))
        try:
            outputs = {n: result(y, library) for n, y in named(ran.value, case.outputs, library).items()}
        except WrongShapeError as error:
            return Outcome(problem="type", text=str(error), printed=ran.printed)
        outcome = Outcome(outputs, printed=ran.printed, changed=changed)
        if not (gradient and cotangent and self.has_gradient(name)):
            return outcome
        return self.with_gradient(outcome, case, profile, function, cotangent)

    def answer(self, operation: Operation, arguments: dict[str, Any], profile: str) -> Any:
        """Call the function on NumPy arguments and give NumPy results; what it raises is raised."""
        library, name = self.implementation.library, operation.name
        function = self.implementation.functions[name]
        made = trees.map_named(
            lambda _, x: library.make(np.asarray(x), profile) if hasattr(x, "dtype") else x, arguments
        )
        try:
            call = bind(operation, function, made, self.implementation.fixed(name))
        except (CannotExpressError, OtherChoiceError) as error:
            raise NoAnswerError(str(error), choice=isinstance(error, OtherChoiceError)) from None
        ran = guard.run(lambda: function(*call.positional.values(), **call.keyword), self.seconds)
        if isinstance(ran.error, CannotExpressError | OtherChoiceError):
            raise NoAnswerError(str(ran.error), choice=isinstance(ran.error, OtherChoiceError))
        if isinstance(ran.error, Exception):
            raise ran.error
        if ran.problem:
            raise RuntimeError(ran.text)
        return plainly(ordered(ran.value, operation), library)

    def call(
        self, case: Case, function: Callable[..., Any], inputs: dict[str, Any], profile: str,
        given: Mapping[str, Any] = MappingProxyType({}),
    ) -> Call:  # fmt: skip
        """Make the arguments of a call, arrays in the library's own kind; `given` ones are taken as they are."""
        made = trees.map_named(lambda n, x: given[n] if n in given else self.argument(case, n, x, profile), inputs)
        fixed = self.implementation.fixed(case.operation.name)
        bound = bind(case.operation, function, made | case.parameters, fixed)
        return without(case.operation, bound, self.unwanted.get(case.operation.name, ()), fixed)

    def argument(self, case: Case, name: str, x: Any, profile: str) -> Any:
        """Make one array; a state that the specification keeps in float32 is so in a narrow profile too."""
        if not isinstance(x, np.ndarray | np.generic):
            return x
        wide = profile in NARROW and case.operation.stays_wide(name, output=False)
        return self.implementation.library.make(np.asarray(x), "float32" if wide else profile)

    def numbers(self, x: Any) -> Any:
        """Give an array's numbers, to see later whether they were changed."""
        library = self.implementation.library
        return np.array(library.plain(x)[0]) if library.holds(x) else x

    def with_gradient(
        self, outcome: Outcome, case: Case, profile: str, function: Callable[..., Any], cotangent: dict[str, Any]
    ) -> Outcome:
        """Add the gradients of the floating inputs, or say why there are none."""
        library, (inputs, _) = self.implementation.library, case.stored(profile)
        names = tuple(case.answer(profile)[1])
        along = {n: library.make(c, profile) for n, c in cotangent.items()}
        vjp = self.implementation.vjps.get(case.operation.name)
        if vjp is not None:
            own = self.call(case, vjp, inputs, profile)
            pull = partial(pulling.supplied, vjp, list(own.positional.values()), own.keyword, along)
        else:
            sources = {n: self.argument(case, n, x, profile) for n, x in trees.leaves(inputs) if n in names}

            def again(given: dict[str, Any]) -> Any:
                call = self.call(case, function, inputs, profile, given)
                return function(*call.positional.values(), **call.keyword)

            pull = partial(pulling.differentiated, library, case, again, {n: sources[n] for n in names}, along)
        return pulling.added(outcome, guard.run(pull, self.seconds), names, library)


def ordered(returned: Any, operation: Operation) -> Any:
    """Put results that have their names, in a dict or a named tuple, into the order in which a law unpacks them."""
    names = vectors.result_names(operation)
    by_name = returned._asdict() if hasattr(returned, "_asdict") else returned
    if len(names) > 1 and isinstance(by_name, dict) and set(names) <= set(by_name):
        return tuple(by_name[name] for name in names)
    return returned


def plainly(x: Any, library: Library) -> Any:
    """Turn a library's arrays into NumPy's, wherever they are."""
    if library.holds(x):
        return library.plain(x)[0]
    if isinstance(x, dict):
        return {key: plainly(entry, library) for key, entry in x.items()}
    if isinstance(x, tuple | list):
        found = [plainly(entry, library) for entry in x]
        return type(x)(*found) if hasattr(x, "_fields") else type(x)(found)
    return x


def same(a: Any, b: Any) -> bool:
    """Say whether two arguments are the same, NaN included."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return a is b or a == b
