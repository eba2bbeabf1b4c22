"""The table of peers as Markdown, between two markers of a file, and its comparison with a new run."""

from collections.abc import Sequence
from pathlib import Path

from minimind_ref.errors import UserError
from minimind_ref.files import write_atomically
from minimind_ref.kit.peers.rows import Row

HEAD = "| library | clauses passed of those asked | choices taken | what fails |\n|---|---|---|---|"


def markdown(rows: Sequence[Row]) -> str:
    """Write the table."""
    return "\n".join([HEAD, *map(str, rows)])


def markers(name: str) -> tuple[str, str]:
    """Give the comments that enclose a table of this name."""
    return f"<!-- {name}: written by python -m minimind_ref.kit peers -->", f"<!-- /{name} -->"


def split(path: Path, name: str) -> tuple[str, str, str]:
    """Give what stands before, between and behind the markers of a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    first, last = markers(name)
    before, opened, rest = text.partition(first)
    between, closed, behind = rest.partition(last)
    if not (opened and closed):
        raise UserError(f"{path}: has no place for the table: {first} … {last}")
    return before, between.strip("\n"), behind


def write(path: Path, name: str, table: str) -> None:
    """Put a table between the markers."""
    before, _, behind = split(path, name)
    first, last = markers(name)
    text = f"{before}{first}\n\n{table}\n\n{last}{behind}"
    write_atomically(path, lambda file: file.write(text.encode()))


def committed(path: Path, name: str) -> dict[str, str]:
    """Read the lines of a table by their first cell."""
    lines = split(path, name)[1].splitlines()[2:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}


def differences(path: Path, name: str, rows: Sequence[Row]) -> list[str]:
    """Say where a run and the committed table differ; a row of another version, or not run here, is not compared."""
    before = committed(path, name)
    if not before:
        raise UserError(f"{path}: the table {name} is empty")
    judged = [row for row in rows if not row.note]
    return [
        f"{path}: the table says\n  {before[row.title]}\nbut a run finds\n  {row}"
        for row in judged
        if row.title in before and before[row.title] != str(row)
    ]


def compared(path: Path, name: str, rows: Sequence[Row]) -> int:
    """Count the rows that a table and a run share."""
    before = committed(path, name)
    return sum(row.title in before and not row.note for row in rows)
