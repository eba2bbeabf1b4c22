"""Every spec has its parts, its definition runs, and clauses and tests name each other."""

import ast
import re
from pathlib import Path

import choices
import pytest
from spec_blocks import FLOAT, SPECS, clauses, definition, source

ROOT = SPECS.parent
HEADINGS = ["Definition", "Clauses", "Precision", "Edge cases", "Choices", "Sources", "Example"]
PAGES = {"README", "bounds", "notation", "choices", "errata", "questions"}
COMPONENTS = (
    *("tokenizer", "chat_template", "packing"),
    *("rms_norm", "rope", "attention", "swiglu", "moe", "block", "transformer", "initialisation"),
    *("cross_entropy", "dpo", "grpo"),
    *("adamw", "grad_clip", "accumulation", "cosine_schedule", "grad_scaler"),
    *("training", "sampling"),
)
# These two lists only shrink: a name that has its spec, or a test for every MUST, must leave.
WITHOUT_SPEC: set[str] = set()
WITHOUT_TESTS = {"moe", "block", "transformer", "initialisation"}
FOUND = sorted(path.stem for path in SPECS.glob("*.md") if path.stem not in PAGES)
ID = re.compile(rf"\b({'|'.join(name.upper() for name in COMPONENTS)})-(\d+)\b((?:(?:, | and | to )-?\d+\b)*)")
TEST = re.compile(rf"^ *def test_({'|'.join(sorted(COMPONENTS, key=len, reverse=True))})_((?:\d+_)+)", re.MULTILINE)

SHAPE = re.compile(r"(?:Float|Int|Bool|Integer)\[[\w.]+, \"([^\"]*)\"\]")


def text(name):
    return (SPECS / f"{name}.md").read_text(encoding="utf-8")


def section(name, heading):
    return text(name).split(f"\n## {heading}\n")[1].split("\n## ")[0]


def python_files():
    """List the files that may name clauses; two tests name some that do not exist, to see them found."""
    found = [path for folder in ("tests", "minimind_ref") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if path.name not in ("test_specs.py", "test_golden.py")]


def named_by_tests():
    """Collect the ids that tests name: by a test's name, or as NAME-1, NAME-2, -3 or NAME-4 to 6 in the text."""
    found = set()
    for path in [path for path in python_files() if path.name.startswith("test_")]:
        content = path.read_text(encoding="utf-8")
        found |= {f"{c.upper()}-{n}" for c, numbers in TEST.findall(content) for n in numbers.split("_") if n}
        found |= ids_in(content)
    return found


def ids_in(content):
    found = set()
    for component, first, rest in ID.findall(content):
        numbers = [int(first)]
        for link, number in re.findall(r"(, | and | to )-?(\d+)", rest):
            numbers += range(numbers[-1] + 1, int(number)) if link == " to " else []
            numbers.append(int(number))
        found |= {f"{component}-{n}" for n in numbers}
    return found


def test_every_component_has_a_spec_or_is_listed():
    assert set(FOUND) <= set(COMPONENTS), "a spec without a place in COMPONENTS"
    assert set(COMPONENTS) - set(FOUND) == WITHOUT_SPEC


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


@pytest.mark.parametrize("name", FOUND)
def test_every_must_is_named_by_a_test_or_the_component_is_listed(name):
    without = sorted({c.id for c in clauses(name) if c.level == "MUST"} - named_by_tests())
    if name in WITHOUT_TESTS:
        assert without, f"every MUST of {name} has a test now: take it off WITHOUT_TESTS"
    else:
        assert without == []


def test_no_test_and_no_docstring_names_a_clause_that_does_not_exist():
    known = {c.id for name in FOUND for c in clauses(name)}
    written = {component.upper() for component in FOUND}
    named = named_by_tests().union(*(ids_in(path.read_text(encoding="utf-8")) for path in python_files()))
    assert sorted(i for i in named if i.rpartition("-")[0] in written and i not in known) == []


def test_lists_of_clause_numbers_are_understood():
    assert ids_in("(MOE-1, -3 and -5)") == {"MOE-1", "MOE-3", "MOE-5"}
    assert ids_in("RMS_NORM-1 to 3, RMS_NORM-9 and 10.") == {f"RMS_NORM-{n}" for n in (1, 2, 3, 9, 10)}
    assert TEST.findall("def test_rms_norm_10_11_gradients(x):") == [("rms_norm", "10_11_")]
    assert TEST.findall("def test_adamw_shell_2_d(x):\ndef test_rope_3d(x):") == []


def test_the_table_of_components_is_complete_and_its_links_lead_somewhere():
    page = text("README")
    rows = re.findall(r"^\| \[(\w+)\]\((\S+)\) \|", page, re.MULTILINE)
    assert rows == [(name, f"{name}.md") for name in COMPONENTS]
    for page_name in ("README", "notation"):
        links = re.findall(r"\]\(([^)#]+)\)", text(page_name))
        missing = [link for link in links if "://" not in link and not (SPECS / link).exists()]
        assert [link for link in missing if Path(link).stem not in WITHOUT_SPEC | PAGES] == []


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
