"""Who names a clause: tests, golden cases, laws of the kit, and what is wrong and must be rejected."""

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

from slips import SLIPS

from minimind_ref.golden.definitions import ROOT, Clause, clauses
from minimind_ref.kit import lawful
from minimind_ref.kit.mutant import load_mutants
from minimind_ref.kit.properties import PROPERTIES
from minimind_ref.kit.registry import ALL

COMPONENTS = (
    *("tokenizer", "chat_template", "packing"),
    *("rms_norm", "rope", "attention", "swiglu", "moe", "block", "transformer", "initialisation"),
    *("cross_entropy", "dpo", "grpo"),
    *("adamw", "grad_clip", "accumulation", "cosine_schedule", "grad_scaler"),
    *("training", "sampling"),
)
TESTS = ROOT / "tests"
ID = re.compile(rf"\b({'|'.join(name.upper() for name in COMPONENTS)})-(\d+)\b((?:(?:, | and | to )-?\d+\b)*)")
TEST = re.compile(rf"test_({'|'.join(sorted(COMPONENTS, key=len, reverse=True))})_((?:(?:and_|to_)?\d+_)+)")
ELSEWHERE = ("test_specs.py", "test_golden.py", "test_traceability.py")  # they name clauses that do not exist
EXPLAINED = {"CHAT_TEMPLATE-12": "its test needs MiniMind's own tokenizer files, and is skipped where they are not"}
"""MUSTs for which no wrong implementation can be shown here, with the reason."""


@cache
def all_clauses() -> dict[str, Clause]:
    """Give every clause of every spec by id."""
    return {clause.id: clause for name in COMPONENTS for clause in clauses(name)}


def ids_in(text: str) -> set[str]:
    """Find the ids that a text names: as NAME-1, NAME-2, -3 or NAME-4 to 6."""
    found = set()
    for component, first, rest in ID.findall(text):
        found |= ids_of(component, [("", first), *re.findall(r"(, | and | to )-?(\d+)", rest)])
    return found


def ids_in_name(name: str) -> set[str]:
    """Read the ids that a test's name begins with, as test_rope_1_15_to_17_… or test_moe_1_and_2_…."""
    match = TEST.match(name)
    return ids_of(match[1], re.findall(r"(and_|to_|)(\d+)_", match[2])) if match else set()


def ids_of(component: str, links: list[tuple[str, str]]) -> set[str]:
    """Write out numbers and what stands before each: a "to" means those between, too."""
    found: list[int] = []
    for link, number in links:
        found += range(found[-1] + 1, int(number)) if "to" in link else []
        found.append(int(number))
    return {f"{component.upper()}-{n}" for n in found}


def functions_in(source: str) -> Iterator[tuple[str, set[str]]]:
    """List the tests of a file, functions and hypothesis's machines, each with the clauses that name and text name."""
    lines, classes = source.splitlines(), {}
    for node in ast.parse(source).body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        text = "\n".join(lines[first - 1 : node.end_lineno])
        match node:
            case ast.FunctionDef(name=name) if name.startswith("test_"):
                yield name, ids_in_name(name) | ids_in(text)
            case ast.ClassDef(name=name):
                classes[name] = ids_in(text)
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Attribute(value=ast.Name(id=own), attr="TestCase")):
                yield name, classes[own]


@cache
def tests_by_clause() -> dict[str, list[str]]:
    """Give the tests of each clause, as pytest names them below tests/."""
    found = defaultdict(list)
    for path in sorted(TESTS.glob("test_*.py")):
        for name, named in functions_in(path.read_text(encoding="utf-8")) if path.name not in ELSEWHERE else ():
            for clause in named:
                found[clause].append(f"{path.name}::{name}")
    return dict(found)


@cache
def cases_by_clause() -> dict[str, list[str]]:
    """Give the golden cases of each clause."""
    found = defaultdict(list)
    for path in sorted((ROOT / "golden").glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8")).get("cases", ()):
            for clause in case["clauses"]:
                found[clause].append(case["id"])
    return dict(found)


@cache
def laws() -> dict[str, str]:
    """Give the kit's laws by their clause."""
    for operation in ALL:
        lawful.of(operation)
    return {clause: f"{law.op}/law/{law.check.__name__}" for clause, law in PROPERTIES.items()}


@cache
def mutants_by_clause() -> dict[str, list[str]]:
    """Give what must be rejected for each clause: the kit's mutants, by id, and the files of slips."""
    found = defaultdict(list)
    for m in load_mutants().values():
        found[m.owner].append(m.id)
    for slip in SLIPS:
        found[slip.clause].append(f"slip in {slip.file}")
    return dict(found)


def holders(clause: str) -> list[str]:
    """List the tests, golden cases and the law of a clause."""
    found = tests_by_clause().get(clause, []) + cases_by_clause().get(clause, [])
    return found + [law for named, law in laws().items() if named == clause]
