"""The mutation gate itself: which edits it makes, and what it says of a test file with known holes."""

import ast
import json
import signal
import sys
from fnmatch import fnmatch

import pytest

from minimind_ref.kit.peers import catalogue
from tests.mutate.__main__ import explained, files, parsed, summary, survivors
from tests.mutate.judge import Judge, Module, forked, judge_loaded, run_judge
from tests.mutate.mutants import mutants
from tests.mutate.owners import ROOT, owners

EDITS = {
    "y = a + b * 2": ["y = a {+→-} b * 2", "y = a + b {*→/} 2", "y = a + b * {2→3}"],
    "y += 1": ["{y += 1→}", "y += {1→2}", "y {+→-}= 1"],
    "y = x.sum(dim=1)": ["y = x.sum(dim={1→2})", "y = x.sum(dim={1→0})"],
    "y = x.sum(dim=-1)": ["y = x.sum(dim=-{1→2})"],
    "y = zip(a, b, strict=True)": ["y = zip({a, b→b, a}, strict=True)"],
    "y = -x[1:n]": ["y = {-→}x[1:n]", "y = -x[1:n{→ - 1}]", "y = -x[{1→2}:n]"],
    "y = 0.5": ["y = {0.5→0.5005}", "y = {0.5→0.4995}"],
    "y = a < b": ["y = a {<→<=} b", "y = a {<→>=} b"],
    "if a < b:\n        pass": ["if {→not }a < b:", "if a {<→<=} b:"],
    "if not a:\n        return b": ["if {not →}a:", "{return b→}"],
    "y = a and b": ["y = a {and→or} b"],
    "f(a, b)": ["{f(a, b)→}", "f({a, b→b, a})"],
    "f(p=a, q=b)": ["{f(p=a, q=b)→}", "f(p={a, q=b→b, q=a})"],
    "f(p=a, help=b)": ["{f(p=a, help=b)→}"],
    "y = max(a, b)": ["y = {max→min}(a, b)"],
    "y = range(n)": ["y = range(n{→ - 1})"],
    "y = True": ["y = {True→False}"],
    "raise E": ["{raise E→}"],
    "self.y = a": ["{self.y = a→}"],
    "'''A text.'''": [],
    "y: f(1, 2) = a": [],
}


def edits(source):
    found = mutants("m.py", ast.parse(source))
    return [m.identity.partition(": ")[2] for m in found]


@pytest.mark.parametrize("statement", EDITS)
def test_the_edits_of_a_statement(statement):
    assert edits(f"def f(self, a, b):\n    {statement}\n    return y\n") == EDITS[statement]


def test_an_edit_is_undone_and_named_by_its_text_alone():
    source = "def f(a, k=2):\n    return a + 1 if a else a + 1\n\nclass C:\n    def g(self):\n        del self.x\n"
    tree = ast.parse(source)
    found = mutants("m.py", tree)
    assert ast.unparse(tree) == ast.unparse(ast.parse(source))
    names = [m.identity for m in found]
    assert len(set(names)) == len(names)
    assert "m.py::f constant: def f(a, k={2→3}):" in names and "m.py::C.g drop: {del self.x→}" in names
    assert [m.identity for m in mutants("m.py", ast.parse(f"import os\n\n{source}"))] == names
    for m in found:
        before = ast.dump(tree)
        old = m.apply()
        assert ast.dump(tree) != before
        compile(ast.fix_missing_locations(tree), "m.py", "exec")
        m.undo(old)
        assert ast.dump(tree) == before


SOURCE = """
LIMIT = 3
SPARE = 5

def clipped(x, least=0):
    if x > LIMIT:
        return LIMIT
    return max(x, least)

def count(n):
    total = 0
    while n > 0:
        n -= 1
        total += 1
    return total

def never(x):
    return x + 1

def doubled(x):
    return 2 * x
"""
TESTS = """
import pytest

pytest.register_assert_rewrite("mutated_example")  # as the modules of an installed plugin are

from mutated_example import clipped, count, doubled

@pytest.fixture(scope="module")
def ten():
    return doubled(5)

def test_that_the_fixture_is_made_for(ten):
    assert ten

def test_that_looks_at_it(ten):
    assert ten == 10

def test_clipped():
    assert [clipped(x) for x in (-1, 2, 4)] == [0, 2, 3]

def test_count():
    assert count(2) == 2
"""
SURVIVING = {
    "SPARE = {5→6}",
    "if x {>→>=} LIMIT:",
    "return x {+→-} 1",
    "return x + {1→2}",
}


def test_what_the_judge_says_of_tests_with_known_holes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    others = [finder for finder in sys.meta_path if type(finder).__name__ != "AssertionRewritingHook"]
    monkeypatch.setattr(sys, "meta_path", others)  # this run of pytest has its own, which the gate has not
    path, tests = tmp_path / "mutated_example.py", tmp_path / "test_mutated_example.py"
    path.write_text(SOURCE)
    tests.write_text(TESTS)
    tree = ast.parse(SOURCE)
    module, verdicts = Module(path, tree, mutants(path.name, tree)), tmp_path / "verdicts"

    def report(verdict):
        with verdicts.open("a") as file:
            file.write(f"{verdict.name}\t{verdict.by}\t{verdict.mutant.identity.partition(': ')[2]}\n")

    with (tmp_path / "orders").open("w+") as orders:
        assert forked(lambda: run_judge([str(tests)], Judge([module], report, orders)), 300) == 0
        orders.seek(0)
        (order,) = json.load(orders)
    seen = {text: (name, by) for name, by, text in map(lambda x: x.split("\t"), verdicts.read_text().splitlines())}
    assert seen.keys() == {m.identity.partition(": ")[2] for m in module.mutants}
    for m in module.mutants:
        if seen[text := m.identity.partition(": ")[2]][0] == "unreached":
            verdict = judge_loaded(m, module, [str(tests)], order)
            seen[text] = verdict.name, verdict.by
    assert {text for text, (name, _) in seen.items() if name == "survived"} == SURVIVING
    assert "test_clipped" in seen["def clipped(x, least={0→1}):"][1]
    assert f"signal {signal.SIGPROF.value}" in seen["n {-→+}= 1"][1], "it never ends"
    assert seen["LIMIT = {3→4}"] == ("killed", "with its import")


def test_a_survivor_needs_a_reason_and_a_reason_a_survivor(capsys):
    assert explained("# all of it\nequivalent: so\n    a\n    b\n\nother\n    c\n") == {
        "a": "equivalent: so", "b": "equivalent: so", "c": "other"
    }  # fmt: skip
    path = "minimind_ref/loss/tokens.py"
    first, second = parsed(path)[1][:2]

    class Known:
        def verdict(self, mutant):
            return "survived" if mutant is first else "killed"

    assert summary({path: [first, second]}, Known(), {}) == 1
    assert f"survives  {first.identity}" in capsys.readouterr().out
    assert summary({path: [first, second]}, Known(), {first.identity: "equivalent"}) == 0
    assert summary({path: [first, second]}, Known(), {first.identity: "", second.identity: ""}) == 1
    assert f"killed in spite of its reason  {second.identity}" in capsys.readouterr().out


def test_every_explained_survivor_is_an_edit_that_can_be_made():
    reasons = explained(survivors())
    assert reasons and all(len(reason.split()) > 3 for reason in reasons.values())
    for path in {identity.partition("::")[0] for identity in reasons}:
        made = {m.identity for m in parsed(path)[1]}
        assert {identity for identity in reasons if identity.startswith(path)} <= made


def test_every_file_of_the_components_has_tests_that_own_it():
    for folder in ("loss", "optim", "model", "generate", "oracle", "data", "train"):
        paths = [p for p in (ROOT / "minimind_ref" / folder).rglob("*.py") if p.stem != "__init__"]
        assert {str(p.relative_to(ROOT)) for p in paths} == set(files([f"minimind_ref/{folder}"]))
    assert owners("minimind_ref/loss/tokens.py") == ("tests/test_dpo.py", "tests/test_grpo.py")
    assert all((ROOT / test).exists() for path in files(["minimind_ref"]) for test in owners(path))


def test_every_module_has_tests_that_own_its_mutants_but_wrong_ones_and_adapters_of_libraries_that_are_elsewhere():
    elsewhere = [f"kit/peers/{name}.py" for name in (*catalogue.LIBRARIES, "minimind*")]
    elsewhere = [name for name in elsewhere if name not in ("kit/peers/torch.py", "kit/peers/transformers.py")]
    for path in sorted((ROOT / "minimind_ref").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        unjudged = any(fnmatch(name, f"minimind_ref/{pattern}") for pattern in ("kit/mutants/*", *elsewhere))
        expected = path.name != "__init__.py" and not unjudged
        assert bool(owners(name)) == expected, name
        assert all((ROOT / test).exists() for test in owners(name)), name
    assert owners("minimind_ref/kit/generators/attention.py") == ("tests/test_kit_questions.py",)
    assert owners("minimind_ref/kit/peers/table.py") == ("tests/test_peers_table.py",)
    assert owners("minimind_ref/golden/faces.py") == ("tests/test_golden.py",)
