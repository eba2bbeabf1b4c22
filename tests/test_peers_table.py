"""The table of peers: its findings are reproduced without the kit, its rows say what a run finds, nothing is made up.

All libraries are run by .ci/peers; here the parts that take seconds.  MINIMIND_PATH=DIR[:DIR…] lists checkouts of
MiniMind.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minimind_ref.errors import UserError
from minimind_ref.kit import Implementation, verify
from minimind_ref.kit.__main__ import main
from minimind_ref.kit.peers import catalogue, known, rows, table
from minimind_ref.kit.peers.offer import offered

PAGE = Path(__file__).parents[1] / "minimind_ref" / "kit" / "PEERS.md"
TEXT = PAGE.read_text(encoding="utf-8")
SNIPPET = re.compile(r"^```python (\S+)\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", TEXT, re.MULTILINE | re.DOTALL))
SNIPPETS = [(name, *found) for name, section in SECTIONS.items() for found in SNIPPET.findall(section)]
GENERATIONS = {"minimind2": 2, "minimind-3": 3}


def checkout(generation):
    """Find a checkout of MiniMind, or skip."""
    for folder in filter(None, os.environ.get("MINIMIND_PATH", "").split(os.pathsep)):
        source = Path(folder) / "model" / "model_minimind.py"
        if source.is_file() and ("q_norm" in source.read_text(encoding="utf-8")) == (generation == 3):
            return Path(folder)
    pytest.skip(f"MINIMIND_PATH names no checkout of MiniMind{generation}")


@pytest.mark.parametrize(
    "name, library, code, printed", SNIPPETS, ids=[f"{n}-{library}" for n, library, *_ in SNIPPETS]
)
@pytest.mark.filterwarnings("default")  # other people's
def test_a_finding_is_reproduced_without_the_kit(name, library, code, printed):
    if library in GENERATIONS:
        path = checkout(GENERATIONS[library])
        ran = subprocess.run([sys.executable, "-c", code], cwd=path, capture_output=True, text=True, check=True)
        assert ran.stdout == printed
        return
    pytest.importorskip(library, reason=f"{library} is not installed", exc_type=ImportError)
    spoken = io.StringIO()
    with contextlib.redirect_stdout(spoken):
        exec(compile(code, f"PEERS.md {name}", "exec"), {"__name__": "__main__"})
    assert spoken.getvalue() == printed


def test_every_finding_has_a_section_with_a_reproduction():
    assert {name for name, *_ in SNIPPETS} == {finding.id for finding in known.FINDINGS} == set(SECTIONS)


def test_every_finding_is_in_a_table_and_no_failure_is_unexplained():
    for finding in known.FINDINGS:
        assert f"(#{finding.id.lower()})" in TEXT.partition("## Findings")[0]
    assert f"{rows.UNEXPLAINED}: " not in TEXT


def test_every_library_has_a_row():
    titles = " ".join(table.committed(PAGE, "peers"))
    assert all(f"{name} " in titles for name in catalogue.LIBRARIES)


@pytest.mark.parametrize("part", ["adamw.step", "clip_grad_norm", "cosine_schedule", "rms_norm", "swiglu"])
def test_the_table_says_what_torch_does(part):
    peer = catalogue.load("torch")
    for each in peer.implementations:
        if list(each.functions) == [part]:
            row = rows.of(f"{peer.title}: {each.name.removeprefix('torch ')}", [verify(each, [part])])
            line = table.committed(PAGE, "peers").get(row.title)
            if line is None:
                pytest.skip(f"the table has another version of torch than {peer.version}")
            assert line == str(row)
        elif part in each.functions:
            assert verify(each, [part]).passed


def test_a_library_that_is_not_installed_is_no_pass(monkeypatch):
    monkeypatch.setattr(catalogue, "version", lambda name: "")
    peer = catalogue.load("torch")
    assert peer.missing == "not installed" and not peer.implementations
    assert str(rows.Row(peer.title, note=peer.missing)) == "| torch | not installed | | |"


def test_a_library_that_cannot_be_imported_says_why(monkeypatch):
    monkeypatch.setattr(catalogue, "version", lambda name: "1.0")
    peer = catalogue.load("no_such_library")
    assert peer.missing.startswith("cannot be used here: ModuleNotFoundError") and not peer.implementations


def wrong_norm(x, weight, *, eps):
    return 2.0 * x


def test_a_failure_that_nobody_knows_is_unexplained_and_never_hidden():
    row = rows.of("mine", [verify(implementation("mine", wrong_norm), ["rms_norm"])])
    assert row.passed < row.asked and rows.UNEXPLAINED in row.failures[0]


def test_a_known_failure_is_explained_where_it_is_known_and_nowhere_else():
    finding = known.FINDINGS[0]
    (name, operation), clauses = next(iter(finding.breaks.items()))
    assert finding.explains(name, operation, clauses[0])
    assert not finding.explains("mine", operation, clauses[0]) and not finding.explains(name, operation, "GRAD_CLIP-4")


def test_what_is_not_offered_is_not_implemented_and_no_pass():
    def nothing(x, weight, *, eps):
        offered(False, "it has none")

    report = verify(implementation("mine", nothing), ["rms_norm"])
    assert not report.passed and {"NOT IMPLEMENTED"} == {v.status for v in report.verdicts} - {"NOT RUN", "CHOICE"}


def implementation(name, function):
    made = Implementation(name, arrays="torch", profiles=["float64"])
    made.op("rms_norm", function)
    return made


def test_a_table_is_written_between_its_markers_and_compared(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n" + "\n".join(table.markers("peers")) + "\nbehind\n")
    row = rows.Row("a 1: f", passed=2, asked=3)
    table.write(page, "peers", table.markdown([row]))
    assert page.read_text().startswith("before\n") and page.read_text().endswith("\nbehind\n")
    assert table.differences(page, "peers", [row]) == [] and table.compared(page, "peers", [row]) == 1
    assert len(table.differences(page, "peers", [rows.Row("a 1: f", passed=3, asked=3)])) == 1
    assert table.differences(page, "peers", [rows.Row("a 2: f", passed=3, asked=3)]) == []
    page.write_text("no markers")
    with pytest.raises(UserError, match="has no place for the table"):
        table.write(page, "peers", "")


def test_the_command_refuses_what_it_does_not_know():
    with pytest.raises(UserError, match="'keras' is none of torch"):
        main(["peers", "--only", "keras"])
    pytest.importorskip("transformers", reason="MiniMind's own code needs it")
    with pytest.raises(UserError, match="is no checkout of MiniMind"):
        main(["peers", "--minimind", "."])
