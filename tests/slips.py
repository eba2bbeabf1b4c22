"""Reads tests/slips/*.diff: wrong lines, each with the clause whose own tests must catch it (slips/README.md)."""

import re
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "minimind_ref"
FOLDER = Path(__file__).parent / "slips"
HEAD = re.compile(r"@@ ([A-Z_]+-\d+) (\S+\.py)\n((?:-.*\n)+)((?:\+.*\n)*)\n*")


@dataclass(frozen=True)
class Slip:
    """In `file` of minimind_ref, `right` becomes `wrong`, and the tests that name `clause` must fail."""

    clause: str
    file: str
    right: str
    wrong: str

    @property
    def path(self) -> Path:
        """Give the file's place."""
        return PACKAGE / self.file

    def source(self) -> str:
        """Give the file's text with the wrong line in it."""
        text = self.path.read_text(encoding="utf-8")
        if text.count(self.right) != 1:
            raise ValueError(f"{self}: the text to replace occurs {text.count(self.right)} times")
        return text.replace(self.right, self.wrong)

    def __str__(self) -> str:
        """Name the slip in one line."""
        return f"{self.clause} in {self.file}: {' '.join(self.wrong.split()) or 'nothing'}"


def read(path: Path) -> list[Slip]:
    """Read one file, which must hold slips and nothing else."""
    text, at, found = path.read_text(encoding="utf-8"), 0, []
    while at < len(text):
        match = HEAD.match(text, at)
        if match is None:
            raise ValueError(f"{path.name}: line {text.count(chr(10), 0, at) + 1} begins no slip")
        right, wrong = ("\n".join(line[2:] for line in part.splitlines()) for part in match.group(3, 4))
        found.append(Slip(match[1], match[2], right, wrong))
        at = match.end()
    return found


SLIPS = [slip for path in sorted(FOLDER.glob("*.diff")) for slip in read(path)]
