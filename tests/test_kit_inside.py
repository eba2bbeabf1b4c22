"""Inside the kit, part by part: questions, recorded and drawn cases, laws, gradients, programs, files of answers."""

import dataclasses
import importlib
import inspect
import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from kit_cases import Scripted, answered, asked

import minimind_ref.kit.grade as grading
from minimind_ref.errors import UserError
from minimind_ref.golden.definitions import clauses
from minimind_ref.golden.generator import draw
from minimind_ref.kit import (
    Implementation,
    generated,
    gradients,
    guard,
    home,
    lawful,
    mutant,
    process,
    pulling,
    tensors,
    unshown,
    vectors,
)  # fmt: skip
from minimind_ref.kit.adaptations import ADAPTED, adapt, read_tokenizer
from minimind_ref.kit.arrays import library
from minimind_ref.kit.binding import NoAnswerError, NotPutError
from minimind_ref.kit.case import ORDER, Expected, by_oracle, expected, flat
from minimind_ref.kit.compare import compare
from minimind_ref.kit.conventions import WRAPPED
from minimind_ref.kit.examine import Session
from minimind_ref.kit.findings import judge
from minimind_ref.kit.generated import Drawn, Seeds, loosened, telling
from minimind_ref.kit.grade import FilesRunner, stem, write_cases
from minimind_ref.kit.operation import ORACLES, Operation
from minimind_ref.kit.outcome import Result, WrongShapeError
from minimind_ref.kit.program import DiedError, Program
from minimind_ref.kit.properties import PROPERTIES, Property
from minimind_ref.kit.registry import OPERATIONS
from minimind_ref.kit.runner import LocalRunner
from minimind_ref.oracle import grad_scaler
from minimind_ref.oracle.adamw import Moments
from minimind_ref.oracle.bounded import Bounded

NAN, INF = np.nan, np.inf
RMS_NORM = OPERATIONS["rms_norm"]

# --- a question


def test_a_case_counts_its_numbers_and_says_whether_precision_matters():
    many = {"x": np.ones((2, 3)), "text": "four", "ids": [1, 2, 3], "scale": 0.5, "flag": None}
    assert asked(inputs=many).size == 6 + 4 + 3 + 1 + 1
    assert not asked(inputs=many).exact and asked(inputs={"ids": np.ones(2, int), "scale": 0.5}).exact


def test_a_case_is_stored_as_a_precision_stores_it():
    fine = np.array([1 + 2.0**-30, 2.0])
    case = asked(inputs={"x": fine, "ids": np.array([2**40 + 1])}, cotangent={"y": fine})
    inputs, cotangent = case.stored("float32")
    assert inputs["x"].tolist() == cotangent["y"].tolist() == [1.0, 2.0] and inputs["x"].dtype == "float64"
    assert inputs["ids"].tolist() == [2**40 + 1] and case.stored("float64")[0]["x"].tolist() == fine.tolist()
    again = case.restored(inputs, cotangent)
    assert again.inputs is inputs and again.cotangent is cotangent and again.id == case.id


# of one output and several, options alone, numbers as inputs, gradients of all and of a part of the inputs
ANSWERED = ["rms_norm", "rope_table", "route", "moe", "kl_k3", "cosine_schedule", "clip_grad_norm", "bpe.train", "pack"]


@pytest.mark.parametrize("name", ANSWERED)
def test_the_oracle_answers_a_case_as_it_is_recorded(name):
    case = vectors.recorded(OPERATIONS[name])[0]
    for profile in case.profiles[:2]:
        for mine, theirs in zip(by_oracle(case).answer(profile), case.answer(profile), strict=True):
            assert list(mine) == list(theirs)
            for n, e in mine.items():
                assert compare(n, Result(e.value), theirs[n]).good and compare(n, Result(theirs[n].value), e).good, n


def test_without_a_list_the_gradients_are_those_of_all_floating_inputs():
    case = vectors.recorded(RMS_NORM)[0]
    assert list(by_oracle(dataclasses.replace(case, of=())).answer("float64")[1]) == ["x", "weight"]


def test_a_number_among_the_inputs_carries_a_bound():
    case = vectors.recorded(OPERATIONS["cosine_schedule"])[0]
    assert isinstance(case.inputs["peak"], float)
    assert by_oracle(case).answer("float64")[0]["rate"].bound > 0


def test_the_oracle_computes_each_precision_once():
    case = by_oracle(asked())
    assert case.answer("float32") is case.answer("float32") is not case.answer("float64")


def test_the_parts_of_an_oracles_result_are_taken_apart_and_its_lists_are_not():
    x, y, z = np.zeros(1), np.ones(2), np.full(3, 2.0)
    assert [part is of for part, of in zip(flat((x, ([y, z],))), (x, y, z), strict=True)] == [True] * 3
    assert flat(([1, 2], ([3], "text"))) == [[1, 2], [3], "text"] and flat([1, 2]) == [[1, 2]]
    assert [part is of for part, of in zip(flat(Moments(x, y, 3)), (x, y, 3), strict=True)] == [True] * 3


def test_what_the_oracle_gave_is_read_with_its_bound():
    bounds = np.array([0.25, INF])
    told = expected(Bounded(np.array([1.0, 2.0]), bounds, "float32"))
    assert told.value.tolist() == [1, 2] and told.bound.tolist() == bounds.tolist()
    assert expected(Bounded(np.array([1, 2]), np.zeros(2), "float32")).bound is None
    assert expected(Bounded(np.array([1, 2]), bounds * [0, 1], "float32")).bound.tolist() == [0, INF]
    for exact in (np.array([1.5, 2.0]), np.float64(1.5), 1.5):
        assert np.array_equal(expected(exact).value, exact) and np.array_equal(expected(exact).bound, 0 * exact)
    for whole in (np.array([1, 2]), 3, True):
        assert isinstance(expected(whole).value, np.ndarray) and np.array_equal(expected(whole).value, whole)
        assert expected(whole).bound is None
    assert expected("text") == Expected("text") and expected([1, 2]) == Expected([1, 2])


# --- recorded cases, and an operation's own convention


CONVENTIONS = sorted({*WRAPPED, *ADAPTED})


@pytest.mark.parametrize("name", CONVENTIONS)
def test_recorded_cases_and_the_oracle_are_put_into_one_convention(name):
    entry = dataclasses.replace(OPERATIONS[name])  # whose oracle is not known yet
    made = Implementation("oracle", profiles=["float64"])
    made.op(name, entry.reference)
    for case in vectors.recorded.__wrapped__(entry)[:3]:
        found = judge(case, "float64", LocalRunner(made).ask(case, "float64", gradient=False), explicit=True,
                      gradient=False)  # fmt: skip
        assert {f.state for f in found} == {"pass"}, case.id


@pytest.mark.parametrize("name", CONVENTIONS)
def test_an_operations_own_convention_has_the_oracles_defaults(name):
    entry = dataclasses.replace(OPERATIONS[name])
    module = importlib.import_module(f"minimind_ref.oracle.{entry.component}")
    theirs = {"add_generation_prompt": False, "thinking": None, "tools": None}  # of what hands its options on
    own = inspect.signature(getattr(module, ORACLES.get(name, entry.golden))).parameters
    for option, parameter in entry.arguments.items():
        if parameter.default is not parameter.empty:
            assert parameter.default == (
                own[option].default if option in own else theirs.get(option, parameter.default)
            )


def test_a_step_of_the_scaler_is_recorded_as_the_windows_before_it():
    def case(good_steps, expected):
        inputs = {"state": (np.float64(8.0), good_steps), "found_inf": np.bool_(True)}
        return {"id": "made/up", "inputs": inputs, "parameters": {"backoff_factor": 0.25},
                "expected": {"scale": {"values": [expected]}}}  # fmt: skip

    told = adapt("grad_scaler", case(3, 2.0))
    assert told["inputs"]["overflows"].tolist() == [False, False, False, True] and told["outputs"] == ["scales"]
    scales, bound = told["fixed"]["scales"]
    assert scales.tolist() == [8, 8, 8, 2] and bound.tolist() == [0] * 4
    defaults = {n: p.default for n, p in inspect.signature(grad_scaler.update).parameters.items()}
    assert told["parameters"] == {"init_scale": 8.0, "backoff_factor": 0.25} | {
        n: defaults[n] for n in ("growth_factor", "growth_interval")
    }
    with pytest.raises(ValueError, match=r"^made/up: driving the scaler gives 2\.0$"):
        adapt("grad_scaler", case(2, 4.0))
    whole = case(0, 4.0) | {"parameters": {}}
    assert adapt("grad_scaler", whole)["parameters"]["backoff_factor"] == defaults["backoff_factor"]


def test_a_conversations_tokenizer_gives_no_control_id_for_text():
    made = read_tokenizer({"special_tokens": ["<|end|>"], "merges": [["a", "b"]]})
    assert made.control_ids == {"<|end|>": 0} and made.merges == [("a", "b")] and made.vocab["<|end|>"] == 0
    assert made.encode("ab") == [made.vocab["ab"]] and 0 not in made.encode("<|end|>")


def test_a_recorded_case_has_what_its_file_says():
    for name in ("rms_norm", "kl_k3", "attention", "bpe.split", "rope_frequencies"):
        entry = OPERATIONS[name]
        nodes = {n["id"]: n for n in vectors.document.__wrapped__(entry.component)["cases"] if n["op"] == entry.golden}
        found = vectors.recorded.__wrapped__(entry)
        assert [case.id for case in found] == list(nodes)
        for case in found:
            node = nodes[case.id]
            assert (case.operation, case.why, case.link) == (entry, node["why"], node.get("link", ""))
            assert case.clauses == tuple(node["clauses"]) and case.flags == tuple(node["flags"])
            assert set(case.profiles) == (set(node["bound"]) or set(ORDER)) and case.parameters == node["parameters"]
            assert case.outputs == tuple(node["outputs"]) and set(case.inputs) == set(node["inputs"])
            gradients = node.get("gradients", {"expected": {}, "cotangent": {}})
            assert case.of == tuple(gradients["expected"]) and set(case.cotangent) == set(gradients["cotangent"])
            told = [list(part) for part in case.answer("float64")]
            assert told == [list(node["outputs"]), list(gradients["expected"])]
    assert vectors.document.__wrapped__("nothing") == {"cases": []}


def test_an_expected_value_is_read_with_its_bound_in_its_precision():
    def node(*values):
        return {"shape": [2], "dtype": "float", "values": list(values)}

    part = {
        "expected": {"y": node(1.0, "NaN"), "ids": {"json": [1, 2]}, "z": node(0.5, 1.0)},
        "rounded": {"bfloat16": {"y": node(1.5, 2.5)}},
        "bound": {"float64": {"y": [0.25, 0.5]}, "bfloat16": {"y": [0.75, 1.0], "z": 0.5}},
    }
    for profile, y, bound, z in (
        ("float64", [1.0, NAN], [0.25, 0.5], None), ("bfloat16", [1.5, 2.5], [0.75, 1.0], 0.5),
        ("float16", [1.0, NAN], None, None),
    ):  # fmt: skip
        found = vectors.results(part, profile, "rms_norm")
        assert np.array_equal(found["y"].value, y, equal_nan=True) and found["ids"] == Expected([1, 2])
        assert (found["y"].bound is None) == (bound is None) and np.array_equal(found["y"].bound, np.array(bound))
        assert np.array_equal(found["z"].bound, np.array(z)) and found["z"].value.tolist() == [0.5, 1.0]
        assert vectors.gradients({"gradients": part}, profile, "rms_norm").keys() == found.keys()
    assert vectors.gradients({}, "float64", "rms_norm") == {}


# --- where the vectors are


def test_the_vectors_are_beside_the_package_or_where_it_was_installed(tmp_path, monkeypatch):
    assert Path(home.__file__) == home.PACKAGES / "minimind_ref" / "kit" / "home.py"
    assert home.specs() == home.find() / "specs" and home.golden() == home.find() / "golden"
    prefix, packages = tmp_path / "env", tmp_path / "user" / "lib" / "site-packages"
    monkeypatch.setattr(home.definitions, "ROOT", tmp_path / "checkout")
    monkeypatch.setattr(home.sys, "prefix", str(prefix))
    monkeypatch.setattr(home, "PACKAGES", packages)
    find = home.find.__wrapped__

    def make(folder, *, specs=True, manifest=True):
        (folder / "golden").mkdir(parents=True)
        if manifest:
            (folder / "golden" / "manifest.json").write_text("{}")
        if specs:
            (folder / "specs").mkdir()
        return folder

    make(packages / "share" / "minimind_ref", specs=False)
    make(tmp_path / "user" / "lib" / "share" / "minimind_ref", manifest=False)
    with pytest.raises(UserError) as said:
        find()
    assert str(said.value).startswith(
        f"golden/ and specs/ are neither in {tmp_path / 'checkout'} nor in {prefix / 'share' / 'minimind_ref'}: install"
    )
    shared = Path("share") / "minimind_ref"
    for place in (tmp_path / "user" / shared, prefix / shared, tmp_path / "checkout"):  # the first ones come last
        make(place)
        assert find() == place


# --- generated cases


def test_seeds_are_given_out_once():
    taken = [[seeds.take() for _ in range(generated.SEEDS_A_CASE)] for seeds in map(Seeds, range(3))]
    assert len({seed for each in taken for seed in each}) == 3 * generated.SEEDS_A_CASE
    recorded = [node for entry in OPERATIONS.values() for node in vectors.document(entry.component)["cases"]]
    assert min(map(min, taken)) > max(seeds_in(recorded))  # nor does a recorded case have one of them
    seeds = Seeds(1)
    drawn = [seeds.draw(2, 3), seeds.draw(2, 3), seeds.draw(2, 3, scale=4.0, structure="uniform")]
    first = taken[1][0]
    assert np.array_equal(drawn[0], draw(first, (2, 3), 1.0, "normal")) and not np.array_equal(*drawn[:2])
    assert np.array_equal(drawn[2], draw(first + 2, (2, 3), 4.0, "uniform"))


def seeds_in(node):
    """The seeds of the recipes in a golden file."""
    if isinstance(node, dict):
        own = [node["recipe"]["seed"]] if "recipe" in node else []
        return own + [seed for entry in node.values() for seed in seeds_in(entry)]
    return [seed for entry in node for seed in seeds_in(entry)] if isinstance(node, list) else []


def test_a_case_of_a_name_has_the_same_numbers_for_ever():
    first = next(g for g in generated.load() if (g.operation, g.name) == ("rms_norm", "heavy_rows"))
    case = generated.case(RMS_NORM, first, 5)
    numbers = [case.inputs["x"][0, 0], case.inputs["weight"][0], case.cotangent["y"].ravel()[0]]
    assert numbers == [61.009765625, 0.0816650390625, -0.0478668212890625]  # which a report of long ago may name


def test_a_generated_case_has_what_its_generator_says(monkeypatch):
    monkeypatch.setattr(generated, "GENERATORS", [])

    @generated.generator("cosine_schedule", "COSINE_SCHEDULE-2", "COSINE_SCHEDULE-3")
    def made_up(seeds):
        """One step
        of a few."""
        inputs = {"step": 3, "peak": np.asarray(abs(seeds.draw()))}
        return Drawn(inputs, {"total_steps": 7}, ("rate",), profiles=("float64",), ulps=4.0, scalars=("peak",))

    @generated.generator("rms_norm", "RMS_NORM-1")
    def bare(seeds):
        return Drawn({"x": seeds.draw(2, 3), "weight": seeds.draw(3)}, {"eps": 0.5}, ("y",), {"y": (2, 3)})

    one, other = generated.GENERATORS
    assert (one.operation, one.clauses, one.make, one.name) == (
        "cosine_schedule", ("COSINE_SCHEDULE-2", "COSINE_SCHEDULE-3"), made_up, "made_up",
    )  # fmt: skip
    entry = OPERATIONS["cosine_schedule"]
    case = generated.case(entry, one, 9)
    assert (case.id, case.operation) == ("cosine_schedule/generated/made_up_9", entry)
    assert (case.clauses, case.why) == (one.clauses, "One step of a few.")
    assert (case.parameters, case.outputs, case.profiles) == ({"total_steps": 7}, ("rate",), ("float64",))
    assert isinstance(case.inputs["peak"], float) and case.inputs["step"] == 3 and case.cotangent == {}
    plain, wider = by_oracle(case).answer("float64")[0]["rate"], case.answer("float64")[0]["rate"]
    assert wider.value == plain.value and wider.bound == plain.bound + 4 * np.spacing(plain.value) > plain.bound
    case = generated.case(RMS_NORM, other, 9)
    assert case.why == "" and case.profiles == ORDER and isinstance(case.inputs["x"], np.ndarray)
    assert case.cotangent["y"].shape == (2, 3) and not np.array_equal(case.cotangent["y"], case.inputs["x"])
    used = Seeds(9)
    assert all(not np.array_equal(case.cotangent["y"], used.draw(2, 3, structure="uniform")) for _ in range(4))
    assert np.array_equal(case.answer("float64")[0]["y"].bound, by_oracle(case).answer("float64")[0]["y"].bound)
    monkeypatch.setattr(generated, "load", lambda: (one, other))
    named = [c.id for c in generated.cases.__wrapped__(RMS_NORM, 2, 7)]
    assert named == ["rms_norm/generated/bare_7", "rms_norm/generated/bare_8"]


def test_a_bound_is_loosened_by_units_in_the_last_place():
    bound = np.array([0.25, 0.0, 0.0])
    told = loosened(Expected(np.array([-8.0, INF, NAN]), bound), 3.0)
    assert told.bound[0] == 0.25 + 3 * 2.0**-49 and np.all(told.bound[1:] >= 0) and told.bound[1:].max() < 2.0**-1000
    assert told.value.tolist()[:2] == [-8.0, INF]
    for kept, ulps in ((Expected(np.ones(1), np.ones(1)), 0.0), (Expected(np.ones(1)), 3.0)):
        assert loosened(kept, ulps) is kept


def test_a_case_is_telling_unless_more_than_a_quarter_of_it_is_undecided():
    def told(*bounds, gradient=None):
        answers = tuple(
            {str(i): Expected(np.zeros(1), b) for i, b in enumerate(each)} for each in (bounds, (gradient,))
        )
        return telling(asked(answer=lambda profile: answers), "float64")

    assert told(np.array([INF, 0, 0, 0])) and not told(np.array([INF, INF, 0, 0]))
    assert told(np.array([INF]), np.zeros((3, 1))) and not told(np.array([INF]), np.zeros(2))
    assert not told(np.repeat([INF, 0.0], [2001, 5999]))
    assert told() and told(None) and told(np.zeros(0)) and told(None, gradient=np.array([INF]))
    assert not told(None, np.array([INF]))


@pytest.mark.parametrize(
    "module, load, folder",
    [(generated, generated.load.__wrapped__, "generators"), (lawful, lambda: lawful.of(RMS_NORM), "laws"),
     (mutant, mutant.load_mutants, "mutants")],
)  # fmt: skip
def test_every_module_of_a_folder_is_imported(monkeypatch, module, load, folder):
    imported, really = [], module.import_module
    monkeypatch.setattr(module, "import_module", lambda name: imported.append(name) or really(name))
    load()
    own = {f"minimind_ref.kit.{folder}.{p.stem}" for p in Path(module.__file__).with_name(folder).glob("[!_]*.py")}
    assert own and {name for name in imported if f".{folder}" in name} == own | {f"minimind_ref.kit.{folder}"}


# --- laws


@pytest.mark.parametrize(
    "check, state, said",
    [
        (lambda f: None, "pass", ""),
        (lambda f: f"it gives {f(1, option=2)}", "fail", "it gives 3"),
        (lambda f: f(1, option="2"), "fail", "raised TypeError: "),
        (lambda f: f"{np.ones(1) / np.zeros(1)}", "fail", "[inf]"),  # without a warning
    ],
)
def test_a_law_passes_or_says_what_is_wrong(check, state, said):
    found = lawful.verdict(check, lambda x, *, option: x + option)
    assert found[0] == state and found[1].startswith(said) and bool(found[1]) == bool(said)


@pytest.mark.parametrize(
    "error, state",
    [
        (NoAnswerError("not that", choice=True), "choice"),
        (NoAnswerError("not that"), "missing"),
        (NotPutError("not that"), "skipped"),
    ],
)
def test_a_law_without_an_answer_is_missing_or_about_a_choice_or_not_put(error, state):
    def refuse(f):
        raise error

    assert lawful.verdict(refuse, len) == (state, "not that")


def asking(runner, case=None, **claims):
    """A session of one implementation."""
    return Session(Implementation("mine", **claims), runner, "quick", 0, case, None, ("Forward",))


class Lawful(Scripted):
    """A runner that answers laws' questions, and notes them."""

    def answer(self, operation, arguments, profile):
        self.asked.append((operation.name, list(arguments), profile))
        return operation.reference(**arguments)


def test_laws_are_asked_in_the_narrowest_wide_precision_that_is_claimed():
    for claimed, profile in (("float64 float32", "float32"), ("float16 float64", "float64"), ("bfloat16", None)):
        found = lawful.ask(RMS_NORM, asking(runner := Lawful(), profiles=claimed.split()))
        assert {f.profile for f in found} == {p for _, _, p in runner.asked} == ({profile} if profile else set())
        names = ("rms_norm", "x", "weight", "eps")  # by name, though the laws give two by position
        assert {(op, *given) for op, given, _ in runner.asked} == ({names} if profile else set())


def test_a_law_is_a_case_of_its_clause(monkeypatch):
    found = {f.case.id: f for f in lawful.ask(RMS_NORM, asking(Lawful()))}
    told = found["rms_norm/law/rows_do_not_see_each_other"]
    assert (told.case.operation, told.case.why) == (RMS_NORM, "Change one row, and compare the others' bits.")
    assert (told.part, told.state, told.clauses, told.text) == ("law", "pass", ("RMS_NORM-2",), "")
    assert told.case.clauses == ("RMS_NORM-2",) and (told.case.inputs, told.case.parameters) == ({}, {})
    assert told.case.outputs == () and told.case.answer("float64") == ({}, {})
    monkeypatch.setitem(PROPERTIES, "RMS_NORM-2", Property("rms_norm", "RMS_NORM-2", lambda f: None))
    assert "" in {f.case.why for f in lawful.ask(RMS_NORM, asking(Lawful()))}


def test_refusals_are_laws_that_are_asked_where_they_are_claimed():
    rope = OPERATIONS["rope_frequencies"]
    of = {law.clause for law in lawful.of(rope)}
    assert {law.op for law in lawful.of(rope)} == {"rope_frequencies"} and "ROPE-22" in of
    for refusals in (True, False):
        clauses = {c for f in lawful.ask(rope, asking(Lawful(), refusals=refusals)) for c in f.clauses}
        assert clauses == (of if refusals else of - {"ROPE-22"})
    alone = lawful.ask(rope, asking(Lawful(), case="rope_frequencies/law/unknown_scaling_is_refused", refusals=True))
    assert [f.clauses for f in alone] == [("ROPE-22",)]


# --- known bugs, operations and reasons


def test_a_known_bug_is_registered_in_the_oracles_place(monkeypatch):
    monkeypatch.setattr(mutant, "MUTANTS", {})

    def wrong(x):
        return x

    told = {"owner": "RMS_NORM-4", "summary": "it is wrong", "source": "somebody"}
    assert mutant.mutant("rms_norm", "RMS_NORM-M90", **told)(wrong) is wrong
    assert mutant.mutant("rms_norm", "RMS_NORM-M91", **told, gradient=True)(wrong) is wrong
    mutant.mutant("rms_norm", "RMS_NORM-M92", **told, narrow=True)(wrong)
    first, gradient, narrow = mutant.MUTANTS.values()
    assert first == mutant.Mutant("rms_norm", "RMS_NORM-M90", *told.values(), wrong) and not first.narrow
    assert (first.component, first.called, first.vjp) == ("rms_norm", "rms_norm", None)
    assert str(first) == "RMS_NORM-M90, it is wrong (somebody)"
    assert (gradient.function, gradient.vjp, gradient.id) == (RMS_NORM.reference, wrong, "RMS_NORM-M91")
    assert narrow.narrow and narrow.function is wrong
    with pytest.raises(ValueError, match=r"^mutant RMS_NORM-M90 is defined twice$"):
        mutant.mutant("rms_norm", "RMS_NORM-M90", **told)(wrong)
    other = dataclasses.replace(first, id="A", owner="GRAD_SCALER-1")
    mutant.MUTANTS["A"] = other
    assert list(mutant.load_mutants()) == ["A", "RMS_NORM-M90", "RMS_NORM-M91", "RMS_NORM-M92"]
    assert mutant.load_mutants("grad_scaler") == {"A": other}


def test_one_components_bugs_alone_are_imported(monkeypatch):
    imported = []
    package = importlib.import_module("minimind_ref.kit.mutants")
    monkeypatch.setattr(mutant, "import_module", lambda name: imported.append(name) or package)
    mutant.load_mutants("rms_norm")
    assert imported == ["minimind_ref.kit.mutants", "minimind_ref.kit.mutants.rms_norm"]


def test_an_operation_says_what_it_takes_and_which_clauses_are_its_own():
    entry = Operation("bpe.split", "tokenizer", "split", "Data")
    assert entry.reference("a b") == ["a", " b"] and entry.signature == "bpe.split(text)"  # the oracle's `pieces`
    assert not entry.differentiable and entry.reference_vjp is None and not entry.optional
    for claims in ({"backward": ("RMS_NORM-10",)}, {"both": ("RMS_NORM-9",)}):
        entry = Operation("rms_norm", "rms_norm", "rms_norm", "Forward", **claims)
        assert entry.differentiable and entry.reference_vjp is RMS_NORM.reference_vjp is not None
    assert entry.formula == "RMS_NORM-1" and "RMS_NORM-13" in entry.clauses
    moe = Operation("moe", "moe", "moe", "Forward").clauses
    assert list(moe) == [c.id for c in clauses("moe") if c.level == "MUST"] and len(moe) < len(clauses("moe"))


def test_gradients_of_forward_operations_are_a_level_of_their_own():
    forward = Operation("rms_norm", "rms_norm", "rms_norm", "Forward", backward=("RMS_NORM-10",))
    loss = dataclasses.replace(forward, level="Alignment")
    told = [entry.level_of(c) for entry in (forward, loss) for c in ("RMS_NORM-1", "RMS_NORM-10")]
    assert told == ["Forward", "Backward", "Alignment", "Alignment"]


def test_what_stays_wide_is_named_and_a_star_is_every_output():
    named = dataclasses.replace(RMS_NORM, wide=("cos",))
    star = dataclasses.replace(RMS_NORM, wide=("*", "state"))
    assert named.stays_wide("cos", output=True) and named.stays_wide("cos.0", output=False)
    assert not named.stays_wide("x", output=True) and not named.stays_wide("x.cos", output=True)
    assert star.stays_wide("y", output=True) and not star.stays_wide("y", output=False)
    assert star.stays_wide("state.means", output=False)


def test_a_clause_that_nothing_shows_has_a_reason_that_is_about_it():
    known = {c.id for entry in OPERATIONS.values() for c in clauses(entry.component)}
    assert set(unshown.REASONS) <= known and all(isinstance(text, str) for text in unshown.REASONS.values())
    entry = dataclasses.replace(RMS_NORM, narrow=("RMS_NORM-14",))
    said = "only bfloat16 and float16 show it, and neither is claimed"
    assert unshown.reason(entry, "RMS_NORM-14", ["float64", "float32"]) == said
    for clause, profiles in (("RMS_NORM-14", ["float32", "float16"]), ("RMS_NORM-14", ["bfloat16"]),
                             ("RMS_NORM-1", ["float32", "float64"])):  # fmt: skip
        assert unshown.reason(entry, clause, profiles) == f"no case shows it in {', '.join(profiles)}"
    assert unshown.reason(entry, "RMS_NORM-17", ["float64"]) == unshown.REASONS["RMS_NORM-17"]
    laws = {law.clause for entry in OPERATIONS.values() for law in lawful.of(entry)}
    asked_for = {clause for clause, text in unshown.REASONS.items() if "(refusals=True)" in text}
    assert asked_for == unshown.REFUSALS & laws == {"ROPE-22"}  # no promise that nothing keeps


# --- gradients


def pairs(found):
    return {name: r.value.tolist() for name, r in found.items()}


def test_torch_pulls_back_what_is_reached_and_gives_zeros_for_the_rest():
    a, b, c = torch.tensor([2.0, 3.0]), torch.tensor([5.0]), torch.tensor([7.0, 7.0])
    ones = [torch.ones(2, dtype=torch.float64), torch.ones(1), torch.ones(2)]

    def run(given):
        return [given[0] * given[0], torch.ones(1), given[0] * given[1]]  # one is cut off

    found = gradients.torch_gradient(run, [a, b, c], ones)
    assert [g.tolist() for g in found] == [[4 + 5, 6 + 5], [5], [0, 0]] and not a.requires_grad
    with pytest.raises(TypeError, match=r"^the result is cut off from the inputs: it has no gradient"):
        gradients.torch_gradient(lambda given: [torch.ones(1)], [a], [torch.ones(1)])


def test_jax_and_mlx_are_asked_by_their_own_vjp(monkeypatch):
    def vjp(function, *primals):  # as their documentation has it: the primals are the function's arguments
        outputs = function(*primals)
        return outputs, lambda cotangents: ([2 * c for c in cotangents],)

    def mlx_vjp(function, primals, cotangents):
        return function(*primals), [2 * c for c in cotangents]

    core = SimpleNamespace(vjp=mlx_vjp)
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(vjp=vjp))
    monkeypatch.setitem(sys.modules, "mlx", SimpleNamespace(core=core))
    monkeypatch.setitem(sys.modules, "mlx.core", core)
    seen, wanted = [], [np.float32([1.0]), np.float32([3.0])]
    along = [np.array([5.0]), np.array([7.0])]

    def run(given):
        seen.append(given)
        return given

    for own in (gradients.jax_gradient, gradients.mlx_gradient):
        assert [g.tolist() for g in own(run, wanted, along)] == [[10.0], [14.0]]
    assert gradients.jax_gradient(run, wanted, along)[0].dtype == "float32"  # a cotangent has its output's dtype
    assert all(given == wanted for given in seen)


def test_a_vjp_gets_one_cotangent_or_several_in_a_tuple():
    def vjp(*given, cotangent, eps):
        return given, eps, cotangent

    assert pulling.supplied(vjp, [1, 2], {"eps": 3}, {"y": 4}) == ((1, 2), 3, 4)
    assert pulling.supplied(vjp, [1], {"eps": 3}, {"y": 4, "z": 5}) == ((1,), 3, (4, 5))


def test_a_library_differentiates_the_outputs_that_have_a_cotangent():
    case = asked(outputs={"y": Expected(np.zeros(1)), "z": Expected(np.zeros(1))})
    sources = {"x": torch.tensor([3.0]), "weight": torch.tensor([5.0])}

    def call(given):
        return given["x"] * given["x"], given["x"] * given["weight"]

    for along, right in (({"z": torch.ones(1)}, [5.0, 3.0]), ({"y": torch.ones(1)}, [6.0, 0.0])):
        found = pulling.differentiated(library("torch"), case, call, sources, along)
        assert [g.item() for g in found] == right


def test_gradients_are_named_in_order_whatever_they_are_packed_in():
    x, y = np.array([1.0]), np.array([2.0])
    for found in ((x, y), [x, [y]], {"b": x, "a": (y,)}, (x, None, y)):
        assert pairs(pulling.by_name(found, ("x", "weight"), library("numpy"))) == {"x": [1], "weight": [2]}
    assert pairs(pulling.by_name(x, ("x",), library("numpy"))) == {"x": [1]}
    with pytest.raises(WrongShapeError, match=r"^gave 1 gradients but there are 2: x, weight$"):
        pulling.by_name([x], ("x", "weight"), library("numpy"))

    class Tuple(tuple):
        """An array that is a tuple."""

    own = dataclasses.replace(library("numpy"), holds=lambda y: isinstance(y, Tuple))
    assert pulling.flat((Tuple((1, 2)), 3), own) == [(1, 2), 3]


def test_gradients_are_added_to_an_outcome_or_why_there_are_none():
    before = answered(printed="one ", changed=("x",))
    for ran, gradient, problem, said in (
        (guard.Ran(value=[np.array([2.0])], printed="two"), {"x": [2.0]}, "", ""),
        (guard.Ran(value=[], printed="two"), None, "type", "gave 0 gradients but there are 1: x"),
        (guard.Ran(problem="raised", text="raised it", printed="two"), None, "raised", "raised it"),
    ):
        found = pulling.added(before, ran, ("x",), library("numpy"))
        assert (found.gradients and pairs(found.gradients)) == gradient
        assert (found.gradient_problem, found.gradient_text) == (problem, said) and found.outputs is before.outputs
        assert (found.printed, found.changed, found.problem) == ("one two", ("x",), "")


# --- a program


def python(code, folder, seconds=20.0):
    return Program([sys.executable, "-I", "-S", "-c", code], folder, seconds)


def test_a_program_answers_a_line_with_a_line(tmp_path):
    before = set(threading.enumerate())
    told = python("import sys\nfor line in sys.stdin: print(line.strip()[::-1], 'ü', flush=True)", tmp_path)
    assert told.exchange({"a": 1}) == '}1 :"a"{ ü\n' and told.exchange({}) == "}{ ü\n"
    assert all(t.daemon for t in set(threading.enumerate()) - before)  # the kit's own end does not wait for them
    told.stop()
    assert told.process.returncode is not None
    assert told.process.stdin.closed and told.process.stdout.closed and told.complaints.closed
    told.stop()  # once more is no harm


@pytest.mark.parametrize(
    "code, said",
    [
        ("import sys; sys.exit(3)", "died with exit status 3"),
        ("import sys; sys.stderr.write('no GPU'); sys.exit(3)", "died with exit status 3, saying 'no GPU'"),
        ("import sys; sys.stderr.write('x' * 999 + ' last\\nwords'); sys.exit(3)",
         f"died with exit status 3, saying '{'x' * 389} last words'"),
        ("import sys; sys.stderr.buffer.write(b'\\xff!'); sys.exit(3)", "died with exit status 3, saying '\ufffd!'"),
        ("import os, time; os.close(1); time.sleep(60)", "closed its output"),
    ],
)  # fmt: skip
def test_a_program_that_ends_has_last_words(tmp_path, code, said):
    ended = python(code, tmp_path)
    with pytest.raises(DiedError) as error:
        ended.exchange({})
    assert (error.value.kind, str(error.value)) == ("raised", said)
    ended.stop()


def test_what_a_program_says_is_read_in_whatever_encoding(tmp_path):
    told = python("import sys; sys.stdout.buffer.write(b'\\xff\\n'); sys.stdout.flush(); sys.stdin.read()", tmp_path)
    assert told.exchange({}) == "\ufffd\n"
    told.stop()


def test_a_silent_program_has_its_time_and_is_ended(tmp_path):
    silent = python("import time; time.sleep(60)", tmp_path, 0.05)
    with pytest.raises(DiedError, match=r"^did not answer within 0\.05 s$") as error:
        silent.exchange({})
    assert error.value.kind == "timeout"
    silent.stop()
    assert silent.process.returncode < 0


def test_a_program_that_is_not_there_is_one_line_and_leaves_nothing_open(tmp_path, monkeypatch):
    opened, really = [], Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *given, **rest: opened.append(really(self, *given, **rest)) or opened[-1]
    )
    with pytest.raises(UserError, match=r"^--exec no-such-program: No such file or directory$"):
        Program(["no-such-program", "it"], tmp_path, 1.0)
    assert [file.closed for file in opened] == [True]


def test_the_writing_is_over_before_the_answer_is_waited_for():
    class Slow:
        def write(self, line):
            time.sleep(0.02)
            done.extend([line, threading.current_thread().daemon])  # nobody waits for one who does not read

        def flush(self):
            done.append("flushed")

    done, told = [], Program.__new__(Program)
    told.seconds, told.process = 9.0, SimpleNamespace(stdin=Slow())
    told.lines = SimpleNamespace(get=lambda timeout: (list(done), timeout))
    assert told.exchange({"a": 1}) == (['{"a": 1}\n', True, "flushed"], 9.0)


@pytest.mark.parametrize("seconds", [0.25, 60.0])
def test_the_end_of_a_program_is_waited_for_a_moment(tmp_path, seconds):
    def wait(timeout):
        given.append(timeout)
        raise subprocess.TimeoutExpired("it", timeout)

    given, told = [], Program.__new__(Program)
    told.seconds, told.process, told.complaints = seconds, SimpleNamespace(wait=wait), io.StringIO("")
    assert told.last_words() == "closed its output"
    assert given[0] == seconds if seconds < 1 else given[0] < 5


class Written:
    """A program whose answers are written down."""

    greeting: ClassVar = {"ops": ["rms_norm"], "gradients": True, "choices": {"rms_norm.cast": "before"}}
    answer = staticmethod(lambda asked: {"id": asked["id"], "outputs": {"y": {"shape": [1], "values": [1.0]}}})
    made = ()

    def __init__(self, command, folder, seconds):
        self.given, self.asked, self.stopped, self.files = (command, folder, seconds), [], 0, []
        type(self).made = (*self.made, self)

    def exchange(self, message):
        self.asked.append(message)
        if "hello" in message:
            return json.dumps(self.greeting)
        self.files.append(tensors.read(Path(message["tensors"])))
        return json.dumps(self.answer(message))

    def stop(self):
        self.stopped += 1


@pytest.fixture
def written(monkeypatch):
    class Fresh(Written):
        pass

    monkeypatch.setattr(process, "Program", Fresh)
    return Fresh


def test_a_program_is_started_and_says_what_it_has(written, tmp_path):
    runner = process.ProcessRunner("run 'it now'", tmp_path, 3.0)
    assert runner.live and not runner.has("rms_norm") and runner.fixed("rms_norm") == {}
    assert runner.start() is runner.program is written.made[0]
    assert written.made[0].given == (["run", "it now"], tmp_path, 3.0) and written.made[0].asked == [{"hello": 1}]
    assert runner.has("rms_norm") and not runner.has("swiglu") and runner.hello == Written.greeting
    assert runner.fixed("rms_norm") == {"cast": "before"} and runner.fixed("rms") == runner.fixed("swiglu") == {}
    runner.start()
    assert [one.stopped for one in written.made] == [1, 0]
    runner.stop()
    runner.stop()
    assert runner.program is None and [one.stopped for one in written.made] == [1, 1]
    written.greeting = {"ops": [], "choices": None}
    runner.start()
    assert runner.fixed("rms_norm") == {}


def test_each_question_has_its_number_and_its_files_are_removed(written, tmp_path):
    runner = process.ProcessRunner("it", tmp_path / "folder", 3.0)
    case = asked(gradients={"x": Expected(np.ones(1))})

    def outputs_alone(message):
        Path(message["answer"]).mkdir()  # what cannot be removed is left
        return Written.answer(message)

    runner.start()
    found = runner.ask(case, "float32")
    assert (found.problem, found.gradients, found.outputs["y"].value.tolist()) == ("", None, [1.0])
    written.answer = staticmethod(
        lambda message: Written.answer(message) | {"gradients": {"x": {"shape": [1], "values": [2.0]}}}
    )
    assert pairs(runner.ask(case, "bfloat16", gradient=True).gradients) == {"x": [2.0]}
    runner.ask(case, "float64", gradient=False)
    questions = written.made[0].asked[1:]
    assert [(q["id"], q["profile"], "gradients" in q) for q in questions] == [
        (1, "float32", True), (2, "bfloat16", True), (3, "float64", False),
    ]  # fmt: skip
    assert [kept["inputs.x"][1] for kept in written.made[0].files] == ["float32", "bfloat16", "float64"]
    assert list((tmp_path / "folder").iterdir()) == []
    written.greeting = Written.greeting | {"gradients": False}
    runner.start()
    runner.ask(case, "float64")
    assert "gradients" not in written.made[1].asked[1]
    written.answer = staticmethod(outputs_alone)
    assert "cannot be read" in runner.ask(case, "float64").text and len(list((tmp_path / "folder").iterdir())) == 1


def test_a_case_of_another_choice_is_not_put_to_a_program(written, tmp_path):
    runner = process.ProcessRunner("it", tmp_path, 3.0)
    runner.start()
    found = runner.ask(asked(parameters={"eps": 1.0, "cast": "after"}), "float64")
    assert (found.problem, found.text) == ("choice", "cast='after': it takes cast='before'") and runner.number == 0
    for parameters in ({"eps": 1.0}, {"eps": 1.0, "cast": "before"}):
        assert runner.ask(asked(parameters=parameters), "float64").problem == ""


def test_a_program_that_dies_is_started_again_a_few_times(written, tmp_path):
    def die(message):
        raise DiedError("timeout", f"died of {message['id']}")

    runner = process.ProcessRunner("it", tmp_path, 3.0)
    runner.start()
    assert runner.ask(asked(), "float64").problem == "" and runner.program is written.made[0]
    written.answer = staticmethod(die)
    for number in range(process.MOST_STARTS):
        found = runner.ask(asked(), "float64")
        assert (found.problem, found.text) == ("timeout", f"died of {number + 2}") and runner.program is None
    found = runner.ask(asked(), "float64")
    assert found.problem == "raised" and len(written.made) == process.MOST_STARTS == runner.starts > 2
    assert found.text == f"was started {process.MOST_STARTS} times; the last time it died of {number + 2}"
    assert [one.stopped for one in written.made] == [1] * process.MOST_STARTS


def test_a_last_start_that_lives_goes_on(written, tmp_path):
    runner = process.ProcessRunner("it", tmp_path, 3.0)
    for _ in range(process.MOST_STARTS):
        runner.start()
    assert runner.ask(asked(), "float64").problem == "" and len(written.made) == process.MOST_STARTS


@pytest.mark.parametrize(
    "answer, said",
    [
        (lambda message: {"id": message["id"] + 1}, "which is no object with id 1"),
        (lambda message: {"id": 1, "outputs": {"y": {"tensor": ["y"]}}}, "answered what cannot be read: unhashable"),
        (lambda message: {"id": 1, "outputs": {}}, "its outputs lack y"),
    ],
)
def test_an_answer_that_cannot_be_read_is_of_the_wrong_type(written, tmp_path, answer, said):
    written.answer = staticmethod(answer)
    runner = process.ProcessRunner("it", tmp_path, 3.0)
    found = runner.ask(asked(), "float64")  # which starts it
    assert found.problem == "type" and said in found.text and runner.last == found.text
    assert runner.program is None and written.made[0].stopped == 1


def test_a_programs_answer_may_lie_in_a_file(written, tmp_path):
    def write(message):
        tensors.write(Path(message["answer"]), {"mine": (np.array([3.0]), "float32")})
        return {"id": message["id"], "outputs": {"y": {"tensor": "mine"}}}

    written.answer = staticmethod(write)
    found = process.ProcessRunner("it", tmp_path, 3.0).ask(asked(), "float64")
    assert (found.outputs["y"].value.tolist(), found.outputs["y"].dtype) == ([3.0], "float32")


def test_a_law_is_put_to_a_program_as_a_question(written, tmp_path):
    runner = process.ProcessRunner("it", tmp_path, 3.0)
    runner.start()
    x, weight = np.ones((2, 3)), np.ones(3)
    given = {"x": x, "eps": 0.5, "weight": weight, "ids": [1], "tree": {"a": 1}}
    assert runner.answer(RMS_NORM, given, "float32").tolist() == [1.0]
    question = written.made[0].asked[1]
    assert question["inputs"] == {"x": {"tensor": "inputs.x"}, "weight": {"tensor": "inputs.weight"}, "ids": [1],
                                  "tree": {"a": 1}}  # fmt: skip
    assert question["parameters"] == {"eps": 0.5} and (question["op"], question["profile"]) == ("rms_norm", "float32")
    assert question["outputs"] == ["y"]
    several = {n: {"shape": [1], "values": [i]} for i, n in enumerate(("mean", "param", "square"))}
    written.answer = staticmethod(lambda message: {"id": message["id"], "outputs": several})
    assert [y.item() for y in runner.answer(OPERATIONS["adamw.step"], {"param": x}, "float64")] == [1, 0, 2]
    for said, choice in (({"cannot": "eps"}, False), ({"error": "no"}, None)):
        written.answer = staticmethod(lambda message, said=said: {"id": message["id"]} | said)
        with pytest.raises(RuntimeError if choice is None else NoAnswerError) as error:
            runner.answer(RMS_NORM, given, "float32")
        assert choice is None or error.value.choice is choice
    with pytest.raises(NoAnswerError) as error:
        runner.answer(RMS_NORM, given | {"cast": "after"}, "float32")
    assert error.value.choice


def test_a_law_whose_results_have_parts_is_not_put_to_a_program(written, tmp_path, monkeypatch):
    runner = process.ProcessRunner("it", tmp_path, 3.0)
    plain, nested = asked(), asked(outputs={"n": Expected(1), "g.0": Expected(1)})
    for known, put in (((), False), ((nested, plain), False), ((plain, nested), True)):
        monkeypatch.setattr(vectors, "recorded", lambda operation, known=known: known)
        if put:
            assert runner.answer(RMS_NORM, {"x": np.ones(1)}, "float64").tolist() == [1.0]
            continue
        with pytest.raises(NotPutError, match=r"^this law is not put to programs$") as error:
            runner.answer(RMS_NORM, {}, "float64")
        assert not error.value.choice


def test_a_program_is_judged_as_it_greets_and_ended_behind(written):
    with process.program("run 'it'", None, 3.0) as (made, runner):
        folder = runner.folder
        assert (made.name, made.profiles, runner.seconds, runner.program) == (
            "run 'it'",
            ("float64",),
            3.0,
            written.made[0],
        )
        assert made.fixed("rms_norm") == {"cast": "before"} and made.origin == """--exec 'run '"'"'it'"'"''"""
        assert folder.is_dir()
        folder.rmdir()
        folder.write_text("whatever it does with its folder is no error of the kit")
    assert written.made[0].stopped == 1
    folder.unlink(missing_ok=True)
    written.greeting = {"ops": [], "name": "mine", "profiles": ["float32"]}
    for claimed, profiles in ((None, ("float32",)), (["bfloat16"], ("bfloat16",))):
        with process.program("it", claimed, 3.0) as (made, runner):
            assert (made.name, made.profiles) == ("mine", profiles)
    written.greeting = {}
    with pytest.raises(UserError, match=r"^--exec it: at the greeting it answered '\{\}', which has no list of ops$"):
        process.program("it", None, 3.0).__enter__()
    assert written.made[-1].stopped == 1


# --- questions and answers in files


def test_questions_are_written_with_their_tensors_beside_them(tmp_path):
    folder, ops = tmp_path / "deep" / "questions", ["rms_norm", "bpe.encode"]
    claimed = ["float16", "float32"]
    written = [(c, p) for name in ops for c in vectors.recorded(OPERATIONS[name])
               for p in (["float64"] if c.exact else claimed) if p in c.profiles]  # fmt: skip
    for _ in range(2):  # the folder may be there
        assert write_cases(folder, ops, claimed) == len(written)
    files = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()} - {Path("kit.json")}
    assert files == {stem(Path(), c, p).with_name(f"{stem(Path(), c, p).name}.{kind}")
                     for c, p in written for kind in ("json", "safetensors")}  # fmt: skip
    case = vectors.recorded(RMS_NORM)[0]
    assert stem(folder, case, "float16") == folder / "rms_norm" / "basic.float16" and case.id == "rms_norm/basic"
    told = json.loads((folder / "rms_norm" / "basic.float16.json").read_text(encoding="utf-8"))
    assert (told["id"], told["op"], told["profile"], told["gradients"]) == (0, "rms_norm", "float16", ["x", "weight"])
    assert not {"tensors", "answer"} & set(told)
    kept = tensors.read(folder / "rms_norm" / "basic.float16.safetensors")
    assert kept["inputs.x"][1] == "float16" and np.array_equal(kept["inputs.x"][0], case.stored("float16")[0]["x"])
    texts = [p.read_text(encoding="utf-8") for p in (folder / "bpe.encode").glob("*.json")]
    assert all(text.endswith("}\n") for text in texts) and any("é" in text for text in texts)
    text = (folder / "kit.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"name": "questions", "profiles": claimed, "choices": {}} and text.endswith("}\n")


def test_an_answer_in_a_file_is_read_and_one_that_is_not_there_is_not_implemented(tmp_path):
    runner, case = FilesRunner(tmp_path), asked(id="rms_norm/a/b")
    assert not runner.live and not runner.has("rms_norm")
    found = runner.ask(case, "float32", gradient=True)
    assert (found.problem, found.text) == ("cannot", "there is no rms_norm/a_b.float32.answer.json")
    (tmp_path / "rms_norm").mkdir()
    (tmp_path / "rms_norm" / "note.json").write_text("{}")
    assert not runner.has("rms_norm")
    file = tmp_path / "rms_norm" / "a_b.float32.answer.json"
    for text, said in (("{", "answered no JSON: '{'"), ("{}", "its outputs lack y")):
        file.write_text(text)
        found = runner.ask(case, "float32", gradient=True)
        assert (found.problem, found.text) == ("type", f"rms_norm/a_b.float32.answer.json: {said}")
    file.write_text('{"outputs": {"y": {"tensor": "ü"}}}', encoding="utf-8")
    tensors.write(tmp_path / "rms_norm" / "a_b.float32.answer.safetensors", {"ü": (np.array([2.0]), "float32")})
    found = runner.ask(case, "float32", gradient=True)
    assert (found.problem, found.outputs["y"].value.tolist()) == ("", [2.0]) and runner.has("rms_norm")
    with pytest.raises(NotPutError, match=r"^laws are not put to files$"):
        runner.answer(RMS_NORM, {}, "float32")


def test_a_folder_of_answers_is_judged_as_it_says(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(
        grading, "verify", lambda made, ops, runner: given.append((made, ops, runner.folder)) or "report"
    )
    with pytest.raises(UserError) as said:
        grading.grade(tmp_path)
    assert str(said.value) == f"{tmp_path / 'kit.json'} is not there: `kit cases DIR` writes the questions and it"
    for text, words in (("{", f"{tmp_path / 'kit.json'}: Expecting"), ("[]", f"{tmp_path / 'kit.json'} must hold an")):
        (tmp_path / "kit.json").write_text(text)
        with pytest.raises(UserError) as said:
            grading.grade(tmp_path)
        assert str(said.value).startswith(words)
    (tmp_path / "kit.json").write_text("{}")
    with pytest.raises(UserError, match=f"^{tmp_path} has no answers$"):
        grading.grade(tmp_path)
    for name in ("swiglu", "rms_norm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "basic.float64.answer.json").write_text("{}")
    assert grading.grade(tmp_path) == grading.grade(tmp_path, ["moe"]) == "report"
    (tmp_path / "kit.json").write_text(
        json.dumps({"name": "mine", "profiles": ["float32"], "choices": {"rms_norm.cast": "before"}})
    )
    grading.grade(tmp_path)
    (first, all_of_them, folder), (_, one, _), (last, *_) = given
    assert (first.name, first.profiles, first.origin, folder) == (
        tmp_path.name, ("float64",), f"grade {tmp_path}", tmp_path,
    )  # fmt: skip
    assert (all_of_them, one) == (["rms_norm", "swiglu"], ["moe"])
    assert (last.name, last.profiles, last.fixed("rms_norm")) == ("mine", ("float32",), {"cast": "before"})
