"""What holds a clause: the tests that name it, its golden cases and laws, its known wrong implementations, its text.

    python tests/traceability.py                     write specs/TRACE.md
    python tests/traceability.py reviewed RMS_NORM-3 ...   lock the text of clauses whose tests were read again

A clause's fingerprint is in specs/clauses.lock.  A changed text fails tests/test_traceability.py until `reviewed` names
the clause: it prints what to read, and whoever runs it says that it was read.
"""

import ast
import hashlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

from slips import SLIPS

from minimind_ref.golden.definitions import ROOT, SPECS, Clause, clauses
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
LOCK, PAGE = SPECS / "clauses.lock", SPECS / "TRACE.md"
ID = re.compile(rf"\b({'|'.join(name.upper() for name in COMPONENTS)})-(\d+)\b((?:(?:, | and | to )-?\d+\b)*)")
TEST = re.compile(rf"test_({'|'.join(sorted(COMPONENTS, key=len, reverse=True))})_((?:(?:and_|to_)?\d+_)+)")
ELSEWHERE = ("test_specs.py", "test_golden.py", "test_traceability.py")  # they name clauses that do not exist
EXPLAINED = {"CHAT_TEMPLATE-12": "its test needs MiniMind's own tokenizer files, and is skipped where they are not"}
"""MUSTs for which no wrong implementation can be shown here, with the reason."""
INTRODUCTION = """# What holds each clause

Written by `python tests/traceability.py` and compared by a test. A test names the clause in its name or its text, a
golden case in its `clauses`, a law of the kit as its own. The last column has what must be rejected: the kit's mutants
that the clause owns (`python -m minimind_ref.golden` and the kit's laws reject them), and slips, wrong lines in
tests/slips/ that the clause's own tests must catch (`python tests/run_slips.py`).
"""


TABLE = "\n| clause | tests | golden cases, laws | must be rejected |\n|---|---|---|---|\n"


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


def laws() -> dict[str, str]:
    """Give the kit's laws by their clause."""
    for operation in ALL:
        lawful.of(operation)
    return {clause: f"{law.op}/law/{law.check.__name__}" for clause, law in PROPERTIES.items()}


def mutants_by_clause() -> dict[str, list[str]]:
    """Give what must be rejected for each clause: the kit's mutants, by id, and the files of slips."""
    found = defaultdict(list)
    for m in load_mutants().values():
        found[m.owner].append(m.id)
    for slip in SLIPS:
        found[slip.clause].append(f"slip in {slip.file}")
    return dict(found)


def fingerprint(clause: Clause) -> str:
    """Shorten a clause's level, reason and text to ten digits."""
    return hashlib.sha256(f"{clause.level} {clause.reason} {clause.text}".encode()).hexdigest()[:10]


def read_lock() -> dict[str, str]:
    """Read specs/clauses.lock: a clause and its fingerprint a line."""
    lines = LOCK.read_text(encoding="utf-8").splitlines() if LOCK.exists() else []
    return dict(line.split() for line in lines)


def unreviewed(lock: dict[str, str]) -> list[str]:
    """List the clauses whose text is not the locked one, and those that are locked and gone."""
    now = {clause.id: fingerprint(clause) for clause in all_clauses().values()}
    return [i for i in {**lock, **now} if lock.get(i) != now.get(i)]


def review(ids: list[str]) -> None:
    """Lock the text of some clauses, and print what should have been read."""
    lock = read_lock()
    for i in ids:
        if i not in all_clauses():
            raise SystemExit(f"{i} is no clause" + (": an id is never given up (specs/README.md)" if i in lock else ""))
        print(i, all_clauses()[i].text, *(f"  {name}" for name in holders(i)), sep="\n")
        lock[i] = fingerprint(all_clauses()[i])
    LOCK.write_text("".join(f"{i} {lock[i]}\n" for i in all_clauses() if i in lock), encoding="utf-8")


def holders(clause: str) -> list[str]:
    """List the tests, golden cases and the law of a clause."""
    found = tests_by_clause().get(clause, []) + cases_by_clause().get(clause, [])
    return found + [law for named, law in laws().items() if named == clause]


def page() -> str:
    """Write the whole text of specs/TRACE.md."""
    parts = [INTRODUCTION, summary()]
    for name in COMPONENTS:
        parts.append(f"\n## [{name}]({name}.md)\n{TABLE}")
        parts += [row(clause, f"test_{name}.py::") for clause in clauses(name)]
    return "".join(parts)


def summary() -> str:
    """Count the clauses, and what they have."""
    must = {i for i, clause in all_clauses().items() if clause.level == "MUST"}
    tested, killed = must & tests_by_clause().keys(), must & mutants_by_clause().keys()
    return (
        f"\nOf {len(all_clauses())} clauses {len(must)} are a MUST. Tests name {len(tested)} of these, "
        f"{len(killed)} have a wrong implementation of their own, {len(must & EXPLAINED.keys())} can have none.\n"
    )


def row(clause: Clause, home: str) -> str:
    """Write a clause's row; the file of a test is left out where it is the component's."""
    tests = [f"`{test.removeprefix(home)}`" for test in tests_by_clause().get(clause.id, [])]
    cases = [f"`{holder}`" for holder in holders(clause.id) if "::" not in holder]
    wrong = mutants_by_clause().get(clause.id, []) or [EXPLAINED.get(clause.id, "")]
    name = f"{clause.id}{' (SHOULD)' if clause.level == 'SHOULD' else ''}"
    return f"| {name} | {', '.join(tests)} | {', '.join(cases)} | {', '.join(wrong)} |\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["reviewed"]:
        review(sys.argv[2:])
    elif sys.argv[1:]:
        raise SystemExit(__doc__)
    PAGE.write_text(page(), encoding="utf-8")
