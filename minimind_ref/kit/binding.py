"""Which arguments a function gets: it may leave out those that have a default, and those that only name a choice."""

import contextlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from minimind_ref.kit.operation import Operation

EMPTY = inspect.Parameter.empty
SCHEMAS = ("_schema", "default._schema", "_opoverload._schema", "schema", "forward.schema")  # operators, then scripts


class CannotExpressError(Exception):
    """The function has no argument for something that the case is about."""


class OtherChoiceError(Exception):
    """The case is about an option that the function does not take."""


class NoAnswerError(Exception):
    """A law cannot be put to the function: it has no argument for it, or (`choice`) takes another option."""

    def __init__(self, text: str, *, choice: bool = False) -> None:
        super().__init__(text)
        self.choice = choice


class NotPutError(NoAnswerError):
    """A law is not put to programs, or files, of this kind, whatever they have."""


@dataclass(frozen=True)
class Call:
    """Positional arguments by name, in order, and keyword arguments."""

    positional: dict[str, Any]
    keyword: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """All of them by name."""
        return self.positional | self.keyword


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """Give a function's parameters; None where it does not tell, as many built-in ones do not."""
    try:
        return in_schema(function) or dict(inspect.signature(function).parameters)
    except (ValueError, TypeError):
        return None


def in_schema(function: Any) -> dict[str, inspect.Parameter]:
    """Give the parameters in the schema of a torch operator or script, of which Python sees *args, **kwargs at most."""
    torch: Any = sys.modules.get("torch")
    for place in SCHEMAS if torch else ():
        with contextlib.suppress(Exception):  # one's attributes may do anything
            schema = attrgetter(place)(function)
            if isinstance(schema, torch._C.FunctionSchema):
                return {x.name: _parameter(x) for x in schema.arguments if x.type.kind() != "ClassType"}  # its self
    return {}


def _parameter(argument: Any) -> inspect.Parameter:
    """Give an argument of a schema as Python would."""
    kind = inspect.Parameter.KEYWORD_ONLY if argument.kwarg_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
    default = argument.default_value if argument.has_default_value() else EMPTY
    return inspect.Parameter(argument.name, kind, default=default)


def bind(operation: Operation, function: Callable[..., Any], given: dict[str, Any], fixed: dict[str, Any]) -> Call:
    """Sort a case's arguments into those of a call; `fixed` are the choices that the implementation has declared."""
    public, own = operation.arguments, parameters_of(function)
    given = {name: given[name] for name in [*public, *given] if name in given}  # in the order of the signature
    for name, option in fixed.items():
        if name in given and given[name] != option:
            raise OtherChoiceError(f"{name}={given[name]!r}: it takes {name}={option!r}")
    if own is None:
        return _split(given, public, None)
    kept = {name: x for name, x in given.items() if _understood(operation, name, x, own, public, fixed)}
    for name, parameter in own.items():  # what the function insists on and the case leaves at its default
        lacking = parameter.default is EMPTY and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if lacking and name not in kept and name in public and public[name].default is not EMPTY:
            kept[name] = public[name].default
    return _split({name: kept[name] for name in [*public, *kept] if name in kept}, public, own)


def _understood(
    operation: Operation, name: str, x: Any, own: dict[str, inspect.Parameter], public: dict[str, Any], fixed: Any
) -> bool:
    """Say whether to pass an argument, and raise where leaving it out would ask for something else."""
    kinds = [p.kind for p in own.values()]
    if name in own or inspect.Parameter.VAR_KEYWORD in kinds:
        return True
    if name in public and public[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
        place = [n for n, p in public.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD].index(name)
        room = sum(
            kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds
        )
        if place < room or inspect.Parameter.VAR_POSITIONAL in kinds:
            return True  # under another name
    if name in fixed or (name in public and _same(public[name].default, x)):
        return False
    if name in operation.choices:
        default = public[name].default if name in public else EMPTY
        takes = "its own" if default is EMPTY else repr(default)
        raise OtherChoiceError(f"{name}={x!r}: it has no argument {name} and is taken to have {takes}")
    raise CannotExpressError(f"it takes no argument {name!r}")


def unexpected(error: BaseException | None, call: Call) -> str:
    """Name the keyword that the function behind a wrapper of any keywords does not take; "" after another error."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error)) if isinstance(error, TypeError) else None
    return found[1] if found and found[1] in call.keyword else ""


def without(operation: Operation, call: Call, names: Iterable[str], fixed: dict[str, Any]) -> Call:
    """Leave out keywords that turned out not to be taken, or raise where that asks for something else."""
    for name in set(names) & set(call.keyword):
        _understood(operation, name, call.keyword[name], {}, operation.arguments, fixed)
    return Call(call.positional, {name: x for name, x in call.keyword.items() if name not in names})


def _same(default: Any, x: Any) -> bool:
    return default is not EMPTY and not isinstance(x, np.ndarray) and type(default) is type(x) and default == x


def _split(given: dict[str, Any], public: dict[str, Any], own: dict[str, inspect.Parameter] | None) -> Call:
    """Pass by position what the operation passes by position, up to the first gap; the rest by name."""
    positional, keyword, gap = {}, {}, False
    for name, parameter in public.items():
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            continue
        insists = own is not None and name in own and own[name].kind is inspect.Parameter.KEYWORD_ONLY
        gap = gap or name not in given or insists
        if name in given and not gap:
            positional[name] = given[name]
    keyword = {name: x for name, x in given.items() if name not in positional}
    return Call(positional, keyword)
