"""`python -m minimind_ref.kit peers`: every installed library, and MiniMind checkouts, under the kit, as a table."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minimind_ref.errors import UserError
from minimind_ref.files import write_atomically
from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.judging import verify
from minimind_ref.kit.peers import catalogue, rows, table
from minimind_ref.kit.report import Report
from minimind_ref.kit.runner import SECONDS

PATIENCE = 3 * SECONDS  # libraries that compile take their time over each new shape

PAGE = "minimind_ref/kit/PEERS.md"  # where the findings are, seen from the repository's root


def add_arguments(command: Any) -> None:
    """Describe the flags."""
    names = ",".join(catalogue.LIBRARIES)
    command.add_argument("--only", metavar="NAMES", help=f"some of {names} [all]")
    command.add_argument(
        "--minimind",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="a checkout of MiniMind, judged in a table of its own; again for another one",
    )
    command.add_argument("--short", action="store_true", help="one row a library")
    command.add_argument("--write", type=Path, metavar="FILE", help="write the table between the file's markers too")
    command.add_argument(
        "--check",
        type=Path,
        metavar="FILE",
        help="compare with the file's table, same versions permitting; 1 if they differ",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write all reports as JSON too")


def run(options: Any) -> None:
    """Judge, print, write and compare."""
    names = catalogue.LIBRARIES if options.only is None else tuple(options.only.split(","))
    for name in names:
        if name not in catalogue.LIBRARIES:
            raise UserError(f"--only: {name!r} is none of {', '.join(catalogue.LIBRARIES)}")
    reports: list[Report] = []
    if options.only or not options.minimind:
        publish(options, "peers", [row for name in names for row in of_library(name, options.short, reports)])
    for path in options.minimind:
        name, found = of_checkout(path, reports)
        publish(options, name, found)
    if options.json:
        text = json.dumps([json.loads(each.to_json()) for each in reports], ensure_ascii=False, indent=1) + "\n"
        write_atomically(options.json, lambda file: file.write(text.encode()))


def publish(options: Any, name: str, found: list[rows.Row]) -> None:
    """Print a table, write it and compare it, as asked."""
    print(table.markdown(found))
    if options.write:
        table.write(options.write, name, table.markdown(found))
    if options.check:
        wrong = table.differences(options.check, name, found)
        print(f"{table.compared(options.check, name, found)} rows compared with {options.check}", file=sys.stderr)
        if wrong:
            print("\n".join(wrong), file=sys.stderr)
            raise SystemExit(1)


def of_library(name: str, short: bool, reports: list[Report]) -> list[rows.Row]:
    """Judge a library: a row for each implementation, or one for all."""
    peer = catalogue.load(name)
    if peer.missing:
        return [rows.Row(peer.title, note=peer.missing)]
    found = judged(peer.implementations)
    reports += found
    if short:
        return [rows.of(peer.title, found, PAGE)]
    return [rows.of(f"{peer.title}: {each.name.removeprefix(f'{name} ')}", [each]) for each in found]


def of_checkout(path: Path, reports: list[Report]) -> tuple[str, list[rows.Row]]:
    """Judge a checkout of MiniMind; the table's name is its generation."""
    try:
        from minimind_ref.kit.peers.minimind import implementations
    except ImportError as error:
        raise UserError(f"--minimind needs {error.name}, which is not installed") from None
    made, found = implementations(path), []
    for name, implementation in made.items():
        if isinstance(implementation, str):
            found.append(rows.Row(name, note=implementation))
            continue
        reports += judged([implementation])
        found.append(rows.of(name, reports[-1:]))
    return next(iter(made)).partition(" ")[0].lower(), found


def judged(implementations: Sequence[Implementation]) -> list[Report]:
    """Put implementations under the kit, each asked for the operations that it has."""
    return [verify(each, list(each.functions), seconds=PATIENCE) for each in implementations]
