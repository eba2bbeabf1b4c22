"""Every spec has its parts, its definition runs, and clauses and tests name each other."""

import ast
import re

import choices
import pytest
from spec_blocks import FLOAT, SPECS, clauses, definition, source
from traceability import COMPONENTS, ELSEWHERE, ids_in

ROOT = SPECS.parent
HEADINGS = ["Definition", "Clauses", "Precision", "Edge cases", "Choices", "Sources", "Example"]
PAGES = {"README", "bounds", "notation", "choices", "errata", "questions", "TRACE"}
FOUND = sorted(path.stem for path in SPECS.glob("*.md") if path.stem not in PAGES)
SHAPE = re.compile(r"(?:Float|Int|Bool|Integer)\[[\w.]+, \"([^\"]*)\"\]")


def text(name):
    return (SPECS / f"{name}.md").read_text(encoding="utf-8")


def section(name, heading):
    return text(name).split(f"\n## {heading}\n")[1].split("\n## ")[0]


def python_files():
    """List the files that may name clauses; some tests name what does not exist, to see it found."""
    found = [path for folder in ("tests", "minimind_ref") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if path.name not in ELSEWHERE]


def test_every_component_has_a_spec():
    assert set(FOUND) == set(COMPONENTS)


@pytest.mark.parametrize("name", FOUND)
def test_headings_are_those_of_every_spec_in_order(name):
    lines = text(name).splitlines()
    assert lines[0] == f"# {name}" and lines[2].endswith(".")
    assert [line[3:] for line in lines if line.startswith("## ")] == HEADINGS


@pytest.mark.parametrize("name", FOUND)
def test_the_definition_is_plain_python(name):
    tree = ast.parse(source(name))
    kinds = {type(node) for node in ast.walk(tree)}
    assert not kinds & {ast.Import, ast.ImportFrom, ast.Global}
    floats = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is float]
    assert floats == [], "write Number('…'): a float literal is not the decimal that it looks like"


@pytest.mark.parametrize("kind", ["float", "decimal"])
@pytest.mark.parametrize("name", FOUND)
def test_the_definition_executes(name, kind):
    functions = vars(definition(name, kind))
    assert functions and not functions.keys() & FLOAT.keys()


@pytest.mark.parametrize("name", FOUND)
def test_clauses_are_well_formed_and_permanent(name):
    found = clauses(name)
    items = [line for line in section(name, "Clauses").splitlines() if line.startswith("- ")]
    assert len(found) == len(items) > 0, "a line that begins with '- ' and is no clause"
    assert [c.id for c in found] == sorted({c.id for c in found}, key=lambda i: int(i.rpartition("-")[2]))
    assert all(c.id.rpartition("-")[0] == name.upper() and c.text for c in found)
    assert [c.id for c in found if (c.level == "SHOULD") != bool(c.reason)] == [], "a SHOULD, and only it, has a reason"


def test_no_docstring_names_a_clause_that_does_not_exist():
    known = {c.id for name in FOUND for c in clauses(name)}
    named = set().union(*(ids_in(path.read_text(encoding="utf-8")) for path in python_files()))
    assert sorted(named - known) == []


def test_the_table_of_components_is_complete_and_its_links_lead_somewhere():
    page = text("README")
    rows = re.findall(r"^\| \[(\w+)\]\((\S+)\) \|", page, re.MULTILINE)
    assert rows == [(name, f"{name}.md") for name in COMPONENTS]
    for page_name in ("README", "notation"):
        links = re.findall(r"\]\(([^)#]+)\)", text(page_name))
        missing = [link for link in links if "://" not in link and not (SPECS / link).exists()]
        assert missing == []


def test_the_page_of_choices_is_what_the_specs_say():
    assert (SPECS / "choices.md").read_text(encoding="utf-8") == choices.page()


def test_notation_has_every_shape_letter_of_the_signatures():
    legend = set(re.findall(r"^\| `(\w)` \|", text("notation"), re.MULTILINE))
    used = {}
    for path in python_files():
        if path.is_relative_to(ROOT / "minimind_ref"):
            for axes in re.findall(
                r"(?:Float|Int|Bool|Integer)\[\w+(?:\.\w+)?, \"([^\"]*)\"\]", path.read_text(encoding="utf-8")
            ):
                used |= {letter: path.name for letter in axes.split() if re.fullmatch(r"[a-z]", letter)}
    assert {letter: name for letter, name in used.items() if letter not in legend} == {}
