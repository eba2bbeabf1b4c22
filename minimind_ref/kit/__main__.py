"""`python -m minimind_ref.kit run|cases|grade|peers|ops`: judge an implementation, clause by clause."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minimind_ref.errors import UserError, run_command
from minimind_ref.files import write_atomically
from minimind_ref.flags import Parser
from minimind_ref.kit import vectors
from minimind_ref.kit.examine import LARGEST_SEED, LEVELS_OF_EFFORT
from minimind_ref.kit.grade import grade, write_cases
from minimind_ref.kit.implementation import load
from minimind_ref.kit.judging import verify
from minimind_ref.kit.operation import LEVELS
from minimind_ref.kit.peers import command
from minimind_ref.kit.process import program
from minimind_ref.kit.registry import ALL, operation
from minimind_ref.kit.report import Report
from minimind_ref.kit.runner import SECONDS
from minimind_ref.oracle.bounded import PROFILES

EPILOG = (
    "Exit status: 0 every judged clause passes, 1 one does not, 2 bad input.  How to begin: minimind_ref/kit/README.md."
)


def parser() -> Parser:
    """Describe the commands."""
    top = Parser(prog="python -m minimind_ref.kit", description=__doc__, epilog=EPILOG)
    commands = top.add_subparsers(dest="command", required=True, metavar="run|cases|grade|peers|ops")
    run = commands.add_parser(
        "run", help="judge an implementation", description="Judge an implementation.", epilog=EPILOG
    )
    run.add_argument("target", nargs="?", metavar="PKG.MODULE:IMPL", help="an Implementation in a module")
    run.add_argument(
        "--exec", metavar="COMMAND", help="a program instead, asked by JSON lines (README.md beside the kit)"
    )
    run.add_argument(
        "--ops",
        nargs="+",
        metavar="OP",
        help=f"operations or levels ({', '.join(LEVELS)}), parted by spaces or commas; none: all",
    )
    run.add_argument(
        "--level", choices=list(LEVELS_OF_EFFORT), default="quick", help="how many generated inputs [quick]"
    )
    run.add_argument("--profiles", nargs="+", choices=list(PROFILES), help="what an --exec program claims [float64]")
    run.add_argument("--seed", type=int, default=0, help=f"of the generated inputs, 0 … {LARGEST_SEED} [0]")
    run.add_argument("--seconds", type=float, default=SECONDS, help=f"time for one call [{SECONDS:g}]")
    run.add_argument("--case", help="ask one case again")
    run.add_argument("--profile", choices=list(PROFILES), help="in one precision")
    grade = commands.add_parser(
        "grade", help="judge results that lie in files", description="Judge results in files.", epilog=EPILOG
    )
    grade.add_argument("folder", type=Path, metavar="DIR", help="answers, one JSON or safetensors file a case")
    grade.add_argument("--ops", nargs="+", metavar="OP", help="operations or levels; none: those with an answer")
    cases = commands.add_parser(
        "cases",
        help="write the recorded cases as questions",
        description="Write the questions for `grade`.",
        epilog=EPILOG,
    )
    cases.add_argument("folder", type=Path, metavar="DIR", help="where to write them")
    cases.add_argument("--ops", nargs="+", metavar="OP", help="operations or levels; none: all")
    cases.add_argument(
        "--profiles", nargs="+", choices=list(PROFILES), default=["float64"], help="precisions [float64]"
    )
    for reporting in (run, grade):
        reporting.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON too")
    peers = commands.add_parser(
        "peers",
        help="judge other people's libraries, and MiniMind",
        description="Judge the libraries that are installed, and MiniMind checkouts; print a table.",
        epilog="Exit status: 0, 1 if --check finds a difference, 2 bad input.  To read it: minimind_ref/kit/PEERS.md.",
    )
    command.add_arguments(peers)
    commands.add_parser("ops", help="list the operations with their arguments and results", epilog=EPILOG)
    return top


def main(arguments: Sequence[str]) -> None:
    """Run one command."""
    options = parser().parse_args(list(arguments))
    if getattr(options, "ops", None):
        options.ops = " ".join(options.ops).replace(",", " ").split()
    if options.command == "ops":
        print("\n".join(f"{e.level:10} {e.signature} -> {', '.join(vectors.result_names(e))}" for e in ALL))
        return
    if options.command == "cases":
        options.folder.mkdir(parents=True, exist_ok=True)
        print(f"{write_cases(options.folder, options.ops, options.profiles)} questions in {options.folder}")
        return
    if options.command == "peers":
        command.run(options)
        return
    report = grade(options.folder, options.ops) if options.command == "grade" else judged(options)
    print(report)
    if options.json:
        write_atomically(options.json, lambda file: file.write((report.to_json() + "\n").encode()))
    if not report.as_expected:
        raise SystemExit(1)


def judged(options: Any) -> Report:
    """Judge a module's implementation, or a program."""
    if (options.target is None) == (options.exec is None):
        raise UserError("run: give PKG.MODULE:IMPL or --exec COMMAND, one of the two")
    asked = {"ops": options.ops, "level": options.level, "seed": options.seed, "case": options.case}
    asked |= {"profile": options.profile, "seconds": options.seconds}
    if options.case and not options.ops:
        asked["ops"] = owning(options.case)
    if options.exec is None:
        return verify(load(options.target), **asked)
    with program(options.exec, options.profiles, options.seconds) as (implementation, runner):
        return verify(implementation, runner=runner, **asked)


def owning(case: str) -> list[str]:
    """Give the operations that have a case of this name."""
    for kind in ("/generated/", "/law/"):
        if kind in case:
            return [operation(case.partition(kind)[0]).name]
    names = [entry.name for entry in ALL if any(c.id == case for c in vectors.recorded(entry))]
    if not names:
        raise UserError(f"--case {case}: there is no such case")
    return names


if __name__ == "__main__":
    sys.exit(run_command(main))
