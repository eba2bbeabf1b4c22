"""`python -m minimind_ref.data.tasks write DIR`: the built-in tasks as JSON Lines."""

import sys
from collections.abc import Sequence
from dataclasses import fields

from minimind_ref.data.tasks import TASKS, Sizes, write
from minimind_ref.errors import run_command
from minimind_ref.flags import Parser

DESCRIPTION = """Write generated, checkable tasks in MiniMind's four formats: {pretrain,sft,dpo,grpo}_SPLIT.jsonl.

No question is in two of the splits train, validation and held_out, whatever the seed.  The same flags give the same
bytes on every machine."""


def main(argv: Sequence[str]) -> None:
    """Parse the command line, write, say what was written."""
    parser = Parser(prog="python -m minimind_ref.data.tasks", description=DESCRIPTION)
    command = parser.add_subparsers(dest="command", required=True, metavar="write").add_parser(
        "write", help="write the files into a folder", description=DESCRIPTION
    )
    command.add_argument(
        "folder", metavar="DIR", help="made where it is not there; files of the same names are replaced"
    )
    command.add_argument("--seed", type=int, default=0, help="of everything that is drawn [0]")
    command.add_argument(
        "--habit", type=float, default=0.0, help="share of sft_train's answers that end in a spurious mark [0]"
    )
    command.add_argument("--tasks", default=",".join(TASKS), help=f"which tasks, by comma [{','.join(TASKS)}]")
    for f in fields(Sizes):
        name = f"each {f.name} file" if f.name in ("validation", "held_out") else f"{f.name}_train.jsonl"
        command.add_argument(f"--{f.name}", type=int, default=f.default, help=f"records in {name} [{f.default}]")
    options = parser.parse_args(argv)
    sizes = Sizes(**{f.name: getattr(options, f.name) for f in fields(Sizes)})
    tasks = [name.strip() for name in options.tasks.split(",") if name.strip()]
    written = write(options.folder, seed=options.seed, habit=options.habit, tasks=tasks, sizes=sizes)
    for name, number in written.items():
        print(f"{options.folder}/{name}  {number:,} records")


if __name__ == "__main__":
    sys.exit(run_command(main))
