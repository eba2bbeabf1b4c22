"""The judge is judged: every known wrong implementation is rejected by the clause that owns it, no right one is."""

import importlib
import json
import re
from collections import Counter
from functools import cache

import jaxtyping
import numpy as np
import pytest
from kill_curve import curve

from minimind_ref.golden import kills, safetensors
from minimind_ref.golden.definitions import clauses
from minimind_ref.golden.folder import Folder
from minimind_ref.kit.mutant import MUTANTS, Mutant, load_mutants, mutant
from minimind_ref.kit.properties import PROPERTIES, law, not_refused

FOLDER = Folder()
ALL = load_mutants()
COMPONENTS = sorted({m.component for m in ALL.values()})
# kit/laws/ is asked in the kit's form, whoever has imported it by now: tests/test_kit.py and test_kit_questions.py do.
LAWS = {clause: law for clause, law in PROPERTIES.items() if law.check.__module__ == "minimind_ref.kit.properties"}
ORACLE = {"split": "pieces"}  # golden operation -> the oracle's function


@cache
def document(component):
    """The cases of a component and the tensors beside them."""
    beside = FOLDER.file(component).with_suffix(".safetensors")
    return FOLDER.load(component, complete=True)["cases"], safetensors.read(beside) if beside.exists() else {}


@cache
def rejections(component):
    """What each case of a component says of each mutant that it rejects; types are checked in the parts' own tests."""
    checked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return kills.rejections(component, *document(component))
    finally:
        jaxtyping.config.update("jaxtyping_disable", checked)


def complaints(m):
    """What the cases that name the owner say of a mutant, then what the owner's property says."""
    owned = [case["id"] for case in document(m.component)[0] if m.owner in case["clauses"]]
    said = [rejections(m.component)[i][m.id] for i in owned if m.id in rejections(m.component)[i]]
    law = LAWS.get(m.owner)
    found = law.check(m.function) if law and law.op == m.op else None
    return [*said, found] if found else said


@pytest.mark.parametrize("m", ALL.values(), ids=ALL)
def test_a_mutant_is_rejected_by_its_owner(m):
    assert m.owner in {clause.id for clause in clauses(m.component)}
    said = complaints(m)
    assert said, f"{m} is accepted by all that names {m.owner}"
    case = re.match(r"(\w+/\w+) in float(64|32|16): .+ expected", said[0])
    assert case or said == [LAWS[m.owner].check(m.function)]


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_has_enough_mutants_of_its_own(component):
    own = [m for m in ALL.values() if m.component == component]
    assert 8 <= len(own) <= 20
    assert len({m.owner for m in own}) >= 4, "mutants of one clause say little about the others"
    prefix = f"{component.upper()}-M"
    assert [m.id for m in own] == [f"{prefix}{number:02}" for number in range(1, len(own) + 1)]


def test_mutants_say_what_is_wrong_and_where_it_was_met():
    for m in ALL.values():
        assert re.fullmatch(r"[^\n]{10,75}", m.summary) and m.source, m
    known = [m for m in ALL.values() if re.search(r"\([A-Z]{3}-\d+(, [A-Z]{3}-\d+)*\)$", m.source)]
    assert len(known) >= len(ALL) / 3


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_cases_say_what_they_kill(component):
    stored = {case["id"]: case.get("kills", []) for case in document(component)[0]}
    assert stored == {i: list(said) for i, said in rejections(component).items()}


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_case_kills_something_or_is_basic(component):
    idle = [case["id"] for case in document(component)[0] if not case.get("kills") and "BASIC" not in case["flags"]]
    assert idle == [i for i in IDLE if i.startswith(f"{component}/")]


IDLE: dict[str, str] = {}  # cases that kill no mutant, with what they are for


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_right_implementation_is_accepted(component):
    oracle, seen = importlib.import_module(f"minimind_ref.oracle.{component}"), Counter()
    cases, tensors = document(component)
    for case in cases:
        name = ORACLE.get(case["op"], case["op"])
        right, vjp = getattr(oracle, name), getattr(oracle, f"{name}_vjp", None)
        vjp = right if name == "loss_and_gradients" else vjp
        for m in [Mutant(name, "right", f"{component.upper()}-1", "", "", right, v) for v in {None, vjp}]:
            for profile in case["bound"]:
                assert kills.complaint(case, m, profile, tensors) is None
                seen[m.vjp is None] += 1
    assert seen[True]


@pytest.mark.parametrize("clause", LAWS)
def test_a_property_accepts_the_right_implementation_and_rejects_a_mutant(clause):
    op, named, check = LAWS[clause]
    component = clause.rpartition("-")[0].lower()
    assert named == clause and clause in {c.id for c in clauses(component)}
    own = [m for m in ALL.values() if m.owner == clause and m.op == op]
    assert own and check(getattr(importlib.import_module(f"minimind_ref.oracle.{component}"), own[0].called)) is None
    assert any(isinstance(check(m.function), str) for m in own)


def test_the_judge_compares_every_kind_of_result():
    scalar = {"expected": {"y": {"shape": [], "dtype": "float", "values": [1.0]}}, "bound": {"float64": {"y": [0.5]}}}
    for result, factor, wrong in (
        (1.5, 1, False),
        (1.6, 1, True),
        (1.6, 10, False),
        (np.nan, 10, True),
        ([1.0], 1, True),
    ):
        assert bool(kills.outside(scalar, "y", np.array(result), "float64", {}, factor)) == wrong
    text = {"expected": {"y": {"json": [1, 2]}}, "bound": {"float64": {}}}
    assert kills.outside(text, "y", [1, 2], "float64", {}, 1.0) is None
    assert "[1, 3]" in kills.outside(text, "y", [1, 3], "float64", {}, 1.0)
    whole = {"expected": {"y": {"shape": [2], "dtype": "int64", "values": [1, 2]}}, "bound": {"float64": {}}}
    assert kills.outside(whole, "y", np.array([1, 3]), "float64", {}, 100.0)


def test_an_id_and_a_clause_are_used_once():
    taken = next(iter(MUTANTS))
    with pytest.raises(ValueError, match=f"mutant {taken} is defined twice"):
        mutant("rms_norm", taken, owner="RMS_NORM-1", summary="", source="")(len)
    clause = next(iter(PROPERTIES))
    with pytest.raises(ValueError, match=f"clause {clause} has two properties"):
        law("rms_norm", clause)(len)


def test_a_refusal_is_a_value_error_and_nothing_else():
    assert not_refused("-1", len, 3) == "-1 raised TypeError instead of a ValueError"
    assert not_refused("-1", len, []) == "-1 was accepted"
    assert not_refused("x", int, "x") is None


def test_loading_one_component_gives_only_its_mutants():
    assert set(load_mutants("rms_norm")) == {i for i in ALL if i.startswith("RMS_NORM-")}
    assert json.dumps([str(m) for m in load_mutants("no_such_component").values()]) == "[]"


def test_wider_bounds_reject_less():
    rejected, verdicts = curve(["rms_norm", "attention", "swiglu"])
    for profile, counts in verdicts.items():
        assert counts[1.0] >= counts[10.0] >= counts[100.0] > 0, profile
    assert all(verdicts[p][1.0] > verdicts[p][10.0] > verdicts[p][100.0] for p in ("bfloat16", "float16"))
    assert all(rejected[p][1.0] > rejected[p][100.0] for p in ("bfloat16", "float16"))
