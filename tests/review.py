"""The texts of clauses that were reviewed, and the table of what holds each clause.

    python tests/review.py                        write specs/TRACE.md
    python tests/review.py RMS_NORM-3 ROPE-9 ...  lock the text of these clauses, and write it

A clause's fingerprint stands in specs/clauses.lock; a changed text fails tests/test_traceability.py until the clause is
named here.  Its text and its tests are printed: whoever runs it says that they still belong together.
"""

import hashlib
import sys

from traceability import COMPONENTS, EXPLAINED, all_clauses, holders, mutants_by_clause, tests_by_clause

from minimind_ref.golden.definitions import SPECS, Clause, clauses

LOCK, PAGE = SPECS / "clauses.lock", SPECS / "TRACE.md"
INTRODUCTION = """# What holds each clause

Written by `python tests/review.py` and compared by a test. A test names the clause in its name or its text, a
golden case in its `clauses`, a law of the kit as its own. The last column has what must be rejected: the kit's mutants
that the clause owns (`python -m minimind_ref.golden` and the kit's laws reject them), and slips, wrong lines in
tests/slips/ that the clause's own tests must catch (`python tests/run_slips.py`).
"""
TABLE = "\n| clause | tests | golden cases, laws | must be rejected |\n|---|---|---|---|\n"


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


def main(ids: list[str]) -> None:
    """Lock what was reviewed, then write the table."""
    if ids:
        review(ids)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
