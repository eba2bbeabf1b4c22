"""`python -m minimind_ref.golden check|diff|regen`: verify, preview and record the golden vectors."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from minimind_ref.errors import UserError
from minimind_ref.flags import Parser
from minimind_ref.golden.definitions import ROOT
from minimind_ref.golden.folder import BadFileError, Folder
from minimind_ref.golden.trees import GoldenError
from minimind_ref.golden.work import Result, check, diff, regen

EPILOG = "Exit status: 0 good, 1 something is wrong or would change, 2 bad input.  The format: golden/README.md."


def parser() -> Parser:
    """Describe the three commands."""
    top = Parser(prog="python -m minimind_ref.golden", description=__doc__, epilog=EPILOG)
    commands = top.add_subparsers(dest="command", required=True, metavar="check|diff|regen")
    for name, text in (
        ("check", "change nothing; verify schema, recipes, expected values, bounds and the manifest's hashes"),
        ("diff", "change nothing; show what regen would change"),
        ("regen", "compute what is missing or wrong, where all faces agree, and record why"),
    ):
        command = commands.add_parser(name, help=text, description=text, epilog=EPILOG)
        command.add_argument("components", nargs="*", metavar="COMPONENT", help="e.g. rms_norm; none: all")
        command.add_argument(
            "--root", type=Path, default=ROOT, help="folder with golden/ and specs/ (default: this one)"
        )
        if name == "regen":
            command.add_argument("--reason", required=True, help="why the vectors change; kept in the manifest")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command over the components and give the exit status."""
    try:
        options = parser().parse_args(arguments)
    except UserError as error:
        return complain(f"error: {error}", 2)
    if options.command == "regen" and not options.reason.strip():
        return complain("regen: --reason is empty", 2)
    folder, status = Folder(options.root), 0
    commands: dict[str, Callable[[str], Result]] = {
        "check": lambda name: check(folder, name),
        "diff": lambda name: diff(folder, name),
        "regen": lambda name: regen(folder, name, options.reason),
    }
    try:
        names = options.components or folder.names()
        if not names:
            return complain(f"{options.command}: {folder.golden} holds no vectors", 1)
        for name in names:
            if name not in folder.names():
                return complain(f"{options.command}: golden/{name}.json does not exist", 2)
            status = max(status, report(options.command, name, commands[options.command]))
    except ModuleNotFoundError as error:
        return complain(f"{options.command}: needs {error.name} (pip install -e '.[test]')", 2)
    return status


def report(command: str, name: str, run: Callable[[str], Result]) -> int:
    """Run a command on one component and print a line for each thing to say."""
    try:
        result = run(name)
    except BadFileError as error:
        return complain(f"{command}: {error}", 1 if command == "check" else 2)
    except GoldenError as error:
        return complain(f"{command}: {name}: {error}", 1)
    for line in result.lines:
        print(line)
    print(f"golden {command}: {name}: {result.summary}")
    return result.status


def complain(message: str, status: int) -> int:
    """Say on standard error what went wrong."""
    print(f"golden {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
