"""Command-line flags made from the fields of frozen dataclasses.  Standard library only."""

import argparse
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from typing import Any, NoReturn

from minimind_ref.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse, except that a mistake is a UserError of one line that names the nearest flag."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions)
            self.error(f"unknown flag {flag}" + (f"; did you mean {near[0]}?" if near else ""))
        return parsed


def add_fields(parser: argparse.ArgumentParser, config: Any, defaults: Mapping[str, Any], default_group: str) -> None:
    """Add `--field` for every field, in the groups that the fields name; what is not given stays out of the result."""
    groups: dict[str | None, Any] = {group.title: group for group in parser._action_groups}
    for f in fields(config):
        title = f.metadata.get("group", default_group)
        group = groups[title] if title in groups else groups.setdefault(title, parser.add_argument_group(title))
        default = defaults.get(f.name, f.default)
        shown = "" if default is None else f" [{str(default).lower() if isinstance(default, bool) else default}]"
        options: dict[str, Any] = {
            "default": argparse.SUPPRESS,
            "help": (f.metadata["help"] + shown).replace("%", "%%"),
        }
        if f.type == "bool":
            options |= {"nargs": "?", "const": True, "type": _boolean, "metavar": "true|false"}
        else:
            options |= {"type": _converter(f), "metavar": f.name.split("_")[-1].upper()}
            if "options" in f.metadata:
                options |= {"choices": f.metadata["options"], "metavar": "|".join(f.metadata["options"])}
        group.add_argument(f"--{f.name}", **options)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, by name."""
    return vars(parser.parse_args(argv))


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]


def _none_or_integer(text: str) -> int | None:
    return None if text.lower() == "none" else int(text)


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error.msg}") from None
    if value is not None and not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


_none_or_integer.__name__ = "integer or none"


def _converter(f: Field[Any]) -> Any:
    kind = str(f.type).removesuffix(" | None")
    if kind == "int" and (kind != f.type or f.metadata.get("optional")):
        return _none_or_integer
    return {"int": int, "float": float, "str": str}.get(kind, _json_object)
