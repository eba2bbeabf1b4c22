"""The page specs/choices.md: every spec's table of choices, and what --compat takes.  Run this file to write it."""

from pathlib import Path

from minimind_ref.train.recipes import COMPAT
from minimind_ref.train.stage_settings import STAGES

SPECS = Path(__file__).parents[1] / "specs"
INTRODUCTION = """# choices

Where good implementations differ, who takes what: the tables of all specs on one page, written by
`python tests/choices.py` and compared with them by a test. The default is what a function or a run does unless asked;
it is right where MiniMind is not, and each other form is a named option.
"""
COMPAT_INTRODUCTION = """
## Training runs

`python -m minimind_ref.train STAGE --compat NAME` takes those of the stage; `aux_loss_counts_padding` too.

| flag | default | `--compat minimind2` | `--compat minimind3` |
|---|---|---|---|
"""


def page():
    """The whole text of specs/choices.md."""
    parts = [INTRODUCTION]
    for path in sorted(SPECS.glob("*.md")):
        section = path.read_text(encoding="utf-8").partition("\n## Choices\n")[2].partition("\n## ")[0].strip()
        if section and path.stem != "choices":
            parts.append(f"\n## [{path.stem}]({path.name})\n\n{section}\n")
    return "".join(parts) + COMPAT_INTRODUCTION + "".join(compat_rows())


def compat_rows():
    """One row for each flag that some --compat changes."""
    for name in sorted({name for choices in COMPAT.values() for name in choices}):
        stage, _, flag = name.rpartition(".")
        stages = [STAGES[stage]] if stage else STAGES.values()
        default = next(getattr(settings, flag) for settings in stages if hasattr(settings, flag))
        values = [COMPAT[generation].get(name, default) for generation in ("minimind2", "minimind3")]
        yield f"| `{name}` | {default} | {values[0]} | {values[1]} |\n"


if __name__ == "__main__":
    (SPECS / "choices.md").write_text(page(), encoding="utf-8")
