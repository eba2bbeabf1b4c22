"""The table of peers: its findings are reproduced without the kit, its rows say what a run finds, nothing is made up.

All libraries are run by .ci/peers; here the parts that take seconds.  MINIMIND_PATH=DIR[:DIR…] lists checkouts of
MiniMind.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jaxtyping
import pytest
import torch

from minimind_ref.errors import UserError
from minimind_ref.kit import Implementation, verify
from minimind_ref.kit.__main__ import main
from minimind_ref.kit.binding import CannotExpressError, OtherChoiceError
from minimind_ref.kit.peers import catalogue, known, rows, table
from minimind_ref.kit.peers.offer import chosen, offered
from minimind_ref.kit.report import Failure, Report, Verdict
from minimind_ref.kit.text import numbers

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


def nearly(installed, told):
    """Say whether a row tells of an installed version, or of the minor version behind it."""
    (major, minor), (first, second) = (tuple(map(int, v.split(".")[:2])) for v in (installed or "0.0", told))
    return major == first and second - 1 <= minor <= second


@pytest.mark.parametrize(
    "title", [t for t in table.committed(PAGE, "peers") if t.startswith(("torch ", "transformers "))]
)
def test_the_table_says_what_a_run_finds(title, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # types are checked in the parts' own tests
    (library, version), name = title.partition(": ")[0].split(), title.partition(": ")[2]
    peer = catalogue.load(library)
    if not nearly(peer.version, version):
        pytest.skip(f"the table has {library} {version}, and here is {peer.version or 'none'}")
    (each,) = (each for each in peer.implementations if each.name.removeprefix(f"{library} ") == name)
    assert str(rows.of(title, [verify(each, list(each.functions))])) == table.committed(PAGE, "peers")[title]


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_every_implementation_of_a_library_has_a_row(library):
    peer = catalogue.load(library)
    if peer.missing:
        pytest.skip(f"{library} is {peer.missing}")
    found = [title.partition(": ")[2] for title in table.committed(PAGE, "peers") if title.startswith(f"{library} ")]
    assert found == [each.name.removeprefix(f"{library} ") for each in peer.implementations]


@pytest.mark.parametrize("finding", known.FINDINGS, ids=lambda finding: finding.id)
def test_the_table_has_what_a_finding_breaks_in_each_implementation(finding):
    lines = {title.partition(": ")[2] or title: line for name in ("peers", *GENERATIONS)
             for title, line in table.committed(PAGE, name).items()}  # fmt: skip
    for (name, operation), clauses in finding.breaks.items():
        line = lines.get(name) or lines[name.partition(" ")[2]]
        assert f"`{operation}` {numbers(list(clauses))}: {finding.told(name)}" in re.split(r" \| |<br>", line[:-2]), (
            name
        )
    assert set(finding.links) <= {name for name, _ in finding.breaks}


def test_a_library_that_is_not_installed_is_no_pass(monkeypatch):
    monkeypatch.setattr(catalogue, "version", lambda name: "")
    peer = catalogue.load("torch")
    assert (peer.name, peer.version, peer.missing) == ("torch", "", "not installed") and not peer.implementations
    assert str(rows.Row(peer.title, note=peer.missing)) == "| torch | not installed | | |"


def test_a_library_that_cannot_be_imported_says_why(monkeypatch):
    monkeypatch.setattr(catalogue, "version", lambda name: "1.0")
    peer = catalogue.load("no_such_library")
    assert peer.missing.startswith("cannot be used here: ModuleNotFoundError") and not peer.implementations


def right_norm(x, weight, *, eps):
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


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


def test_what_a_table_is_compared_with(tmp_path):
    page, row = tmp_path / "page.md", rows.Row("a 1: f", passed=2, asked=3, lacking=1, choices=("c", "d"))
    page.write_text("\n".join(table.markers("peers")))
    with pytest.raises(UserError, match="the table peers is empty"):
        table.differences(page, "peers", [row])
    table.write(page, "peers", table.markdown([row, rows.Row("b 1", note="not installed")]))
    assert page.read_text().splitlines()[4:-2] == ["| a 1: f | 2 of 3; 1 not implemented | c; d | – |",
                                                   "| b 1 | not installed | | |"]  # fmt: skip
    ran = [row, rows.Row("b 1", note="not installed"), rows.Row("b 1", 1, 1)]
    assert table.compared(page, "peers", ran) == 2
    (wrong,) = table.differences(page, "peers", ran)
    assert "the table says\n  | b 1 | not installed | | |\nbut a run finds\n  | b 1 | 1 of 1 | – | – |" in wrong
    with pytest.raises(UserError, match="cannot be read"):
        table.committed(tmp_path / "none.md", "peers")
    for text in table.markers("peers"):  # one of the two is not enough
        page.write_text(text)
        with pytest.raises(UserError, match="has no place for the table"):
            table.committed(page, "peers")


def verdict(clause, status, detail="", failure=None, operation="rms_norm"):
    return Verdict(operation, clause, "Forward", status, "", detail, failure=failure)


def test_a_row_counts_a_clause_once_with_the_worst_that_is_said_of_it():
    failure = Failure("c", "", "float64", "y", "it is a | b", "", "", "", 2.0, "")
    first = Report("mine", (
        verdict("RMS_NORM-1", "PASS"), verdict("RMS_NORM-2", "NOT RUN"), verdict("RMS_NORM-3", "PASS"),
        verdict("RMS_NORM-4", "CHOICE", "cast='before': it has no argument cast and is taken to have 'after'"),
        verdict("RMS_NORM-5", "CHOICE", "eps='in': it takes eps='out'"), verdict("RMS_NORM-6", "NOT IMPLEMENTED"),
    ), (), {})  # fmt: skip
    second = Report("mine", (
        verdict("RMS_NORM-1", "FAIL", failure=failure), verdict("RMS_NORM-3", "PASS"),
        verdict("RMS_NORM-7", "FAIL", failure=failure), verdict("MOE-1", "BLOCKED", "route failed", operation="moe"),
        verdict("GRAD_CLIP-1", "FAIL", failure=failure, operation="clip_grad_norm"),
    ), (), {})  # fmt: skip
    row = rows.of("mine", [first, second])
    assert (row.passed, row.asked, row.lacking) == (1, 8, 1)
    assert row.choices == ("`rms_norm` cast='after'", "`rms_norm` eps='out'")
    assert row.failures == (
        "`rms_norm` RMS_NORM-1, -7: UNEXPLAINED: it is a \\| b", "`moe` MOE-1: UNEXPLAINED: route failed",
        "`clip_grad_norm` GRAD_CLIP-1: UNEXPLAINED: it is a \\| b",
    )  # fmt: skip
    finding = known.FINDINGS[0]
    (name, _), _ = next(iter(finding.breaks.items()))
    (told, *rest) = rows.of(name, [Report(name, second.verdicts, (), {})], "PAGE.md").failures
    assert told.startswith(f"`clip_grad_norm` GRAD_CLIP-1: {finding.sentence} ([F1](PAGE.md#f1)), [")
    assert [line[:11] for line in rest] == ["`rms_norm` ", "`moe` MOE-1"]


def test_an_option_that_is_not_there_is_the_first_that_is():
    assert chosen("form", "b", {"a": 1, "b": 2}) == 2
    with pytest.raises(OtherChoiceError, match=re.escape("form='c': it takes form='a'")):
        chosen("form", "c", {"a": 1, "b": 2})
    offered(True, "it has one")
    with pytest.raises(CannotExpressError, match="it has none"):
        offered(False, "it has none")


def test_a_library_is_loaded_with_its_version_and_jax_with_float64(monkeypatch):
    def broken(name):
        raise RuntimeError("one\n  two " + "x" * 300)

    peer = catalogue.load("torch")
    assert peer.title == f"torch {torch.__version__.partition('+')[0]}" and peer.implementations and not peer.missing
    assert catalogue.version("no_such_library") == ""
    monkeypatch.setattr(catalogue, "version", lambda name: "1.0")
    monkeypatch.setattr(catalogue, "import_module", broken)
    monkeypatch.delenv("JAX_ENABLE_X64", raising=False)
    for name, kind in (("torch", None), ("optax", "1")):
        peer = catalogue.load(name)
        assert peer.missing == "cannot be used here: RuntimeError: one two " + "x" * 192 and peer.title == f"{name} 1.0"
        assert os.environ.get("JAX_ENABLE_X64") == kind


@pytest.fixture
def two_libraries(monkeypatch):
    """Two libraries, of which one has two implementations, and a checkout, in place of what is installed."""

    def load(name):
        made = [implementation(f"{name} {kind}", f) for kind, f in (("right", right_norm), ("wrong", wrong_norm))]
        return catalogue.Peer(name, "1.0", tuple(made)) if name == "torch" else catalogue.Peer(name, "", (), "missing")

    def checked_out(path):
        return {"MiniMind9 layers": implementation("MiniMind9 layers", right_norm), "MiniMind9 x": f"none in {path}"}

    monkeypatch.setattr(catalogue, "LIBRARIES", ("torch", "jax"))
    monkeypatch.setattr(catalogue, "load", load)
    monkeypatch.setitem(sys.modules, "minimind_ref.kit.peers.minimind", SimpleNamespace(implementations=checked_out))


@pytest.mark.parametrize(
    "arguments, titles",
    [
        ([], ["torch 1.0: right", "torch 1.0: wrong", "jax"]),
        (["--only", "jax,torch"], ["jax", "torch 1.0: right", "torch 1.0: wrong"]),
        (["--short"], ["torch 1.0", "jax"]),
        (["--minimind", "here"], ["MiniMind9 layers", "MiniMind9 x"]),
        (["--minimind", "here", "--only", "jax"], ["jax", "library", "MiniMind9 layers", "MiniMind9 x"]),
    ],
)
def test_the_command_judges_what_it_is_asked(two_libraries, capsys, arguments, titles):
    main(["peers", *arguments])
    head, _, *printed = capsys.readouterr().out.splitlines()
    assert head.startswith("| library | ")
    assert [line[2:].partition(" | ")[0] for line in printed if not line.startswith("|---")] == titles
    for line in printed:  # the table of a library, in short too, has what fails in each of its implementations
        assert ("UNEXPLAINED" in line) == line.startswith(("| torch 1.0: wrong", "| torch 1.0 |"))


def test_the_command_writes_a_table_compares_it_and_keeps_reports(two_libraries, capsys, tmp_path):
    page, reports = tmp_path / "page.md", tmp_path / "reports.json"
    page.write_text("\n".join([*table.markers("peers"), *table.markers("minimind9")]))
    asked = ["peers", "--only", "torch", "--minimind", "here", "--minimind", "there"]
    main([*asked, "--write", str(page), "--json", str(reports)])
    assert list(table.committed(page, "peers")) == ["torch 1.0: right", "torch 1.0: wrong"]
    found = table.committed(page, "minimind9")
    assert found["MiniMind9 x"] == "| MiniMind9 x | none in there | | |"
    right, layers = table.committed(page, "peers")["torch 1.0: right"], found["MiniMind9 layers"]
    assert right.partition(" | ")[2] == layers.partition(" | ")[2]
    kept = json.loads(reports.read_text())
    assert [report["name"] for report in kept] == ["torch right", "torch wrong", *["MiniMind9 layers"] * 2]
    capsys.readouterr()
    main([*asked, "--check", str(page)])
    said = capsys.readouterr().err.splitlines()
    assert said == [f"{n} rows compared with {page}" for n in (2, 1, 1)]
    page.write_text(page.read_text().replace("torch 1.0: right | ", "torch 1.0: right | 1"))
    with pytest.raises(SystemExit) as stopped:
        main(["peers", "--only", "torch", "--check", str(page)])
    assert stopped.value.code == 1 and "but a run finds" in capsys.readouterr().err


def test_a_checkout_needs_what_minimind_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "minimind_ref.kit.peers.minimind", None)
    with pytest.raises(UserError, match=r"--minimind needs minimind_ref\.kit\.peers\.minimind, which is not installed"):
        main(["peers", "--minimind", "here"])


def test_the_command_refuses_what_it_does_not_know():
    with pytest.raises(UserError, match="'keras' is none of torch"):
        main(["peers", "--only", "keras"])
    pytest.importorskip("transformers", reason="MiniMind's own code needs it")
    with pytest.raises(UserError, match="is no checkout of MiniMind"):
        main(["peers", "--minimind", "."])
