"""The parts of the judge, one by one: how results are compared, whose finding is which, and what a report says."""

import functools
import itertools
import json
import shlex
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kit_cases import Scripted, answered, asked

from minimind_ref.errors import UserError
from minimind_ref.kit import Implementation, check, generated, suspects, vectors, verdicts, verify
from minimind_ref.kit.case import Expected
from minimind_ref.kit.coarse import computes_in_float32, fine, float32_like
from minimind_ref.kit.compare import Comparison, compare
from minimind_ref.kit.examine import (
    LARGEST_SEED,
    Examined,
    Session,
    cases_of,
    examine,
    narrowed,
    retargeted,
    within_reach,
)
from minimind_ref.kit.findings import NOTHING_WRONG, Finding, judge
from minimind_ref.kit.judging import chosen
from minimind_ref.kit.mutant import load_mutants
from minimind_ref.kit.outcome import Outcome, Result
from minimind_ref.kit.registry import OPERATIONS
from minimind_ref.kit.report import Failure, Report, Verdict
from minimind_ref.kit.runner import LocalRunner

NAN, INF = np.nan, np.inf

# --- one result against what is expected


@pytest.mark.parametrize(
    "got, want, bound, ratio",
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0, 0),
        ([1.0, 2.25], [1.0, 2.0], 0.25, 1),  # an error of exactly the bound
        ([0.75, 2.0], [1.0, 2.0], [0.25, 0.0], 1),
        ([1.0, 2.25, 3.25], [1.0, 2.0, 3.0], [0.5, 0.5, 1.0], 0.5),
        ([NAN, INF, -INF], [NAN, INF, -INF], 0.5, 0),
        ([7.0, INF], [1.0, 2.0], INF, 0),  # undecided: either branch is right
        ([1, 2], [1.0, 2.0], 0.0, 0),  # whole numbers where numbers are expected
        ([True, False], [1.0, 0.0], 0.0, 0),
        (np.array([1, 2], np.uint8), [1.0, 2.0], 0.0, 0),
        (np.zeros((0, 3)), np.zeros((0, 3)), 0.0, 0),
        (3.0, 3.0, 0.0, 0),
    ],
)
def test_what_is_within_the_bound_is_right(got, want, bound, ratio):
    seen = compare("y", Result(np.asarray(got)), Expected(np.asarray(want), np.asarray(bound)))
    assert seen.good and seen.kind == seen.text == "" and seen.ratio == ratio


@pytest.mark.parametrize(
    "got, want, bound, kind, said",
    [
        ([1.25, 2.5], [1.0, 2.0], 0.25, "value", "y[1] is 2.5 instead of 2 ± 0.25, 2 times the bound (1 of 2 are off)"),
        ([[1.0, 1.5], [3.0, 1.0]], [[1.0] * 2] * 2, 0.25, "value",
         "y[1, 0] is 3 instead of 1 ± 0.25, 8 times the bound (2 of 4 are off)"),
        (3.0, 1.0, 0.5, "value", "y is 3 instead of 1 ± 0.5, 4 times the bound (1 of 1 are off)"),
        ([1.0, 2.5], [1.0, 2.0], None, "value", "y[1] is 2.5 instead of 2 ± 0, no error is allowed (1 of 2 are off)"),
        (1 + 2.0**-40, 1.0, 2.0**-41, "value",
         "y is 1.0000000000009095 instead of 1.0 ± 4.55e-13, 2 times the bound (1 of 1 are off)"),
        ([1.0, NAN], [1.0, 2.0], 9.0, "value", "y[1] is nan instead of 2 ± 9 (1 of 2 are off)"),
        ([1.0, 2.0], [1.0, NAN], 9.0, "value", "y[1] is 2 instead of nan ± 9 (1 of 2 are off)"),
        ([1.0, NAN], [1.0, 2.0], INF, "value", "y[1] is nan instead of 2 ± inf (1 of 2 are off)"),
        ([-INF, 1.0], [INF, 1.0], 9.0, "value", "y[0] is -inf instead of inf ± 9 (1 of 2 are off)"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], 9.0, "shape", "y has shape (2,) but (3,) is expected"),
        ([1.0], 1.0, 9.0, "shape", "y has shape (1,) but () is expected"),
        ([1j], [1.0], 9.0, "type", "y is a ndarray but an array of float64 is expected"),
    ],
)  # fmt: skip
def test_what_is_off_is_said_where_it_is_worst(got, want, bound, kind, said):
    expected = Expected(np.asarray(want), None if bound is None else np.asarray(bound))
    seen = compare("y", Result(np.asarray(got)), expected)
    assert (seen.kind, seen.text[: len(said)]) == (kind, said) and seen.ratio > 1 and not seen.good


def test_what_is_off_is_given_as_numbers():
    seen = compare("y", Result(np.array([2.5])), Expected(np.array([2.0]), np.array([0.25])))
    assert (seen.expected, seen.got, seen.bound, seen.ratio) == ("2.0", "2.5", "0.25", 2.0)
    assert compare("y", Result(None), Expected(np.array([2.0]))).text == (
        "y is None but an array of float64 is expected"
    )


@pytest.mark.parametrize(
    "got, said",
    [
        ([1, 2, -3], ""),
        (np.array([1, 2, -3], np.int32), ""),
        ([1, 9, 4], "ids[1] is 9 instead of 2 (2 of 3 are off)"),
        ([1.0, 2.0, -3.0], "ids has dtype float64 but int64 is expected"),
        ([1, 2], "ids has shape (2,) but (3,) is expected"),
        ("123", "ids is a str but an array of int64 is expected"),
    ],
)
def test_whole_numbers_must_be_equal(got, said):
    given = Result(np.asarray(got) if isinstance(got, list) else got)
    seen = compare("ids", given, Expected(np.array([1, 2, -3])))
    assert (seen.text, seen.good, seen.ratio > 1) == (said, not said, bool(said))
    undecided = compare("ids", Result(np.array([1, 9, -3])), Expected(np.array([1, 2, -3]), np.array([0, INF, 0])))
    assert undecided.good and undecided.ratio == 0


def test_a_wrong_whole_number_is_given_as_it_is():
    seen = compare("id", Result(np.array(9)), Expected(np.array(2)))
    assert (seen.expected, seen.got, seen.bound) == ("2", "9", "0") and seen.kind == "value"
    assert seen.text == "id is 9 instead of 2 (1 of 1 are off)"


@pytest.mark.parametrize(
    "got, want, said",
    [
        ("the same", "the same", ""),
        ((1, range(2)), [1, [0, 1]], ""),  # tuples and arrays count as lists
        ([np.array([1, 2]), np.int64(3)], [[1, 2], 3], ""),
        (None, "text", "out is None but a str is expected"),
        ([1], "1", "out is a list but a str is expected"),
        (1, True, "out is a int but a bool is expected"),
        ([1, 2, 9], [1, 2, 3, 4], "out differs from place 2 on: [1, 2, 9] instead of [1, 2, 3, 4]"),
        ([1, 2], [1, 2, 3], "out differs from place 2 on: [1, 2] instead of [1, 2, 3]"),
        (
            "0123456789abcdefX" + "-" * 40,
            "0123456789abcdefY" + "-" * 40,
            f"out differs from place 16 on: '6789abcdefX{'-' * 29}' instead of '6789abcdefY{'-' * 29}'",
        ),
    ],
)
def test_text_and_data_must_be_equal(got, want, said):
    seen = compare("out", Result(got), Expected(want))
    assert (seen.text, seen.good, seen.ratio > 1) == (said, not said, bool(said))
    assert seen.kind == ("" if not said else "value" if "place" in said else "type")


def test_long_data_is_shown_in_part():
    seen = compare("out", Result("b" * 1000), Expected("a" * 1000))
    assert (seen.expected, seen.got, seen.bound) == (repr("a" * 1000)[:300], repr("b" * 1000)[:300], "0")


# --- what one case shows


def told(case, outcome, profile="float32", *, explicit=False, gradient=True):
    found = judge(case, profile, outcome, explicit=explicit, gradient=gradient)
    assert all(f.case is case and f.profile == profile and f.outcome is outcome for f in found)
    return [(f.part, f.state, f.clauses, f.text) for f in found]


OFF = "y[0] is 2 instead of 1 ± 0.5, 2 times the bound (1 of 1 are off)"


def test_a_value_speaks_for_the_forward_clauses():
    right, kept = ("dtype", "pass", (), ""), ("RMS_NORM-1",)
    assert told(asked(), answered()) == [("y", "pass", kept, ""), right]
    assert told(asked(), answered(2.0)) == [("y", "fail", kept, OFF), right]


def test_a_narrow_clause_is_about_narrow_precisions_alone():
    both = ("RMS_NORM-1", "RMS_NORM-14")
    found = told(asked(), answered(dtype="bfloat16"), "bfloat16")
    assert found == [("y", "pass", both, ""), ("dtype", "pass", ("RMS_NORM-16",), "")]
    only = asked(clauses=("RMS_NORM-14",))
    assert told(only, answered())[0] == ("y", "pass", (), "")
    assert told(only, answered(2.0))[0] == ("y", "fail", ("RMS_NORM-1",), OFF)  # the formula's, where none is left
    assert told(only, answered(2.0, "float16"), "float16")[0][2] == ("RMS_NORM-14",)


def test_a_wrong_dtype_breaks_its_own_clause_in_every_precision():
    said = "y has dtype float64 but float32 is expected for float32 inputs"
    assert told(asked(), answered(dtype="float64"))[1] == ("dtype", "fail", ("RMS_NORM-16",), said)
    assert [part for part, *_ in told(asked(), answered(dtype=None))] == ["y"]  # Python's own numbers have none
    # without a clause about dtypes the forward clauses answer
    route = asked("route", clauses=("MOE-1",))
    assert told(route, answered(dtype="float64"))[1] == ("dtype", "fail", ("MOE-1",), said)
    assert [part for part, *_ in told(route, answered())] == ["y"]
    whole = asked(outputs={"y": Expected(np.array([1]))})
    assert told(whole, Outcome({"y": Result(np.array([1]), "int32")}))[0][:2] == ("y", "pass")
    assert "fail" not in [f[1] for f in told(whole, Outcome({"y": Result(np.array([1]), "int32")}))]


def test_what_is_kept_in_float32_is_expected_in_float32():
    narrow = asked("rope_table", clauses=("ROPE-4",), outputs={"cos": Expected(np.array([1.0]), np.array([0.5]))})
    for profile, dtype, wrong in (
        ("bfloat16", "float32", False), ("bfloat16", "bfloat16", True),
        ("float32", "float32", False), ("float64", "float32", True), ("float64", "float64", False),
    ):  # fmt: skip
        found = told(narrow, Outcome({"cos": Result(np.array([1.0]), dtype)}), profile)
        assert (("dtype", "fail") in [f[:2] for f in found]) == wrong, (profile, dtype)


def test_what_is_a_loss_is_float32_in_every_narrow_precision():
    loss = asked("dpo_loss", clauses=("DPO-1",))
    assert [told(loss, answered(dtype=dtype), "float16")[1][1] for dtype in ("float32", "float16")] == ["pass", "fail"]


def test_a_norm_may_have_any_dtype():
    norm = asked("clip_grad_norm", clauses=("GRAD_CLIP-1",), outputs={"norm": Expected(np.array(1.0), np.array(0.5))})
    found = told(norm, Outcome({"norm": Result(np.array(1.0), "float32")}), "bfloat16")
    assert "fail" not in [state for _, state, *_ in found]


@pytest.mark.parametrize(
    "problem, state",
    [("cannot", "missing"), ("choice", "choice"), ("profile", "unasked"), ("raised", "fail"), ("timeout", "fail"),
     ("type", "fail"), ("process", "fail")],
)  # fmt: skip
def test_a_problem_is_all_that_a_case_shows(problem, state):
    dtype = ("RMS_NORM-16",) if state == "unasked" else ()  # nor was its dtype to be seen
    for op, more in (("rms_norm", dtype), ("route", ())):
        kept = ("RMS_NORM-1", "RMS_NORM-10", "RMS_NORM-14", *more)
        assert told(asked(op), Outcome(problem=problem, text="why"), "float16") == [("call", state, kept, "why")]


def test_a_changed_argument_breaks_its_clause():
    said = ("inputs", "fail", ("RMS_NORM-1",), "it changed its argument x, weight")
    assert said in told(asked(), answered(changed=("x", "weight")))
    pure = asked("adamw.step", clauses=("ADAMW-1",))
    assert ("inputs", "pass", ("ADAMW-13",), "") in told(pure, answered())
    assert ("inputs", "fail", ("ADAMW-13",)) in [f[:3] for f in told(pure, answered(changed=("square",)))]


GRADIENTS = {"x": Expected(np.array([1.0]), np.array([0.5])), "weight": Expected(np.array([1.0]), np.array([0.5]))}


def test_a_gradient_speaks_for_the_clause_of_its_input():
    case = asked(gradients=GRADIENTS)
    given = {"x": Result(np.array([1.0])), "weight": Result(np.array([3.0]))}
    said = "gradient of weight[0] is 3 instead of 1 ± 0.5, 4 times the bound (1 of 1 are off)"
    found = told(case, answered(gradients=given))
    assert found[2:] == [
        ("gradient x", "pass", ("RMS_NORM-10",), ""),
        ("gradient weight", "fail", ("RMS_NORM-11",), said),  # the case names no clause of it: the operation's does
    ]
    assert len(told(case, answered(gradients=given), gradient=False)) == 2  # gradients are not claimed
    assert len(told(asked(), answered(gradients=given))) == 2  # and none is asked for


def test_a_gradient_that_is_not_there_is_missing_or_wrong():
    case = asked(gradients=GRADIENTS)
    said = "no gradient: the library has none of its own and no vjp was given"
    assert told(case, answered())[2:] == [("gradient", "missing", ("RMS_NORM-10",), said)]
    broken = answered(gradient_problem="raised", gradient_text="raised ValueError")
    assert told(case, broken)[2:] == [("gradient", "fail", ("RMS_NORM-10",), "the gradient raised ValueError")]
    shared = asked(gradients=GRADIENTS, clauses=("RMS_NORM-1", "RMS_NORM-9"))  # 9 is shown by both halves
    assert told(shared, answered())[0][2] == ("RMS_NORM-1", "RMS_NORM-9")
    assert told(shared, answered())[2][2] == ()  # without a gradient, what the forward pass shows is not missing
    assert told(shared, broken)[2][2] == ("RMS_NORM-9",)
    last = asked(gradients=GRADIENTS, clauses=("RMS_NORM-12",))
    given = {"x": Result(np.array([1.0])), "weight": Result(np.array([1.0]))}
    assert told(last, answered(gradients=given))[2][2] == ("RMS_NORM-12",)
    other = asked(gradients=GRADIENTS, clauses=("RMS_NORM-11",))
    assert told(other, answered(gradients=given))[2][2] == ("RMS_NORM-10",)
    plain = asked(gradients=GRADIENTS, clauses=("RMS_NORM-1",))
    assert told(plain, broken)[2][2] == ("RMS_NORM-10",)  # the operation's first clause about gradients


def test_a_case_of_gradients_alone_is_shown_by_its_values_too():
    case = asked(gradients=GRADIENTS, clauses=("RMS_NORM-10",))
    assert told(case, answered(2.0))[0][2] == ("RMS_NORM-10",)


def test_a_table_of_options_may_be_computed_in_float32():
    off = 1 + 2.0**-20  # within 32 roundings of float32, 2^-19
    table = asked("rope_frequencies", clauses=("ROPE-1",), inputs={"head_dim": 8}, outputs={
        "y": Expected(np.array([1.0]), np.zeros(1)),
    })  # fmt: skip
    passes = {
        (value, dtype, explicit): told(table, answered(value, dtype), "float64", explicit=explicit)[0][1]
        for value in (off, 1 + 2.0**-19, 1 + 2.0**-19 + 2.0**-25, 1 - 2.0**-20)
        for dtype in ("float32", "float64")
        for explicit in (False, True)
    }
    right = {key for key, state in passes.items() if state == "pass"}
    assert right == {(v, "float32", False) for v in (off, 1 + 2.0**-19, 1 - 2.0**-20)}
    doubled = asked("rope_frequencies", clauses=("ROPE-1",), inputs={"head_dim": 8}, outputs={
        "y": Expected(np.array([-8.0]), np.array([2.0**-17])),
    })  # fmt: skip
    assert told(doubled, answered(-8 - 2.0**-16, "float32"), "float64")[0][1] == "pass"
    assert told(doubled, answered(-8 - 2.0**-16 - 2.0**-17, "float32"), "float64")[0][1] == "pass"
    assert told(doubled, answered(-8 - 2.0**-15, "float32"), "float64")[0][1] == "fail"
    assert told(asked(outputs={"y": Expected(np.array([1.0]), np.zeros(1))}), answered(off))[0][1] == "fail"


# --- the report


def verdict(status, clause="RMS_NORM-1", operation="rms_norm", failure=None, **rest):
    return Verdict(operation, clause, "Forward", status, f"What {clause} says.", failure=failure, **rest)


def failure(case="rms_norm/one", message="y is wrong", **rest):
    told = {"expected": "1", "got": "2", "bound": "0", "ratio": INF, "reproduction": "print(1)"}
    return Failure(case, "why it is asked", "float32", "y", message, **(told | rest))


def reported(*given, **rest):
    return Report("mine", tuple(verdict(s, f"RMS_NORM-{i}") for i, s in enumerate(given, 1)), **rest)


@pytest.mark.parametrize(
    "statuses, passed, as_expected, said",
    [
        (["PASS", "CHOICE", "NOT RUN"], True, True, "passed: 1 of 3 clauses; 1 choice, 1 not run"),
        (["PASS"], True, True, "passed: 1 of 1 clauses"),
        (["PASS", "PASS", "FAIL"], False, False, "NOT PASSED: 2 of 3 clauses; 1 fail"),
        (["PASS", "BLOCKED"], False, False, "NOT PASSED: 1 of 2 clauses; 1 blocked"),
        (["PASS", "NOT IMPLEMENTED"], False, False, "INCOMPLETE, none fails: 1 of 2 clauses; 1 not implemented"),
        (
            ["PASS", "NOT IMPLEMENTED", "CHOICE", "NOT RUN"],
            False,
            False,
            "INCOMPLETE, none fails: 1 of 4 clauses; 1 choice, 1 not run, 1 not implemented",
        ),
        (["PASS", "EXPECTED FAILURE"], False, True, "NOT PASSED: 1 of 2 clauses; 1 expected failure"),
        (["EXPECTED FAILURE"], False, True, "NOT PASSED: 0 of 1 clauses; 1 expected failure"),
        (["EXPECTED FAILURE", "FAIL"], False, False, "NOT PASSED: 0 of 2 clauses; 1 expected failure, 1 fail"),
        (["CHOICE", "NOT RUN"], False, False, "NOT PASSED: 0 of 2 clauses; 1 choice, 1 not run"),
        (["NOT IMPLEMENTED"], False, False, "NOT PASSED: 0 of 1 clauses; 1 not implemented"),
        ([], False, False, "NOT PASSED: 0 of 0 clauses"),
    ],
)
def test_what_a_report_comes_to(statuses, passed, as_expected, said):
    found = reported(*statuses)
    assert (found.passed, found.as_expected, found.summary) == (passed, as_expected, f"mine: {said}")
    against = {"FAIL", "BLOCKED", "NOT IMPLEMENTED"}
    assert [v.status for v in found.failures] == [s for s in statuses if s in against]


def test_a_clause_counts_once_by_its_worst_status():
    order = ["FAIL", "BLOCKED", "NOT IMPLEMENTED", "EXPECTED FAILURE", "NOT RUN", "CHOICE", "PASS"]
    for worse, better in itertools.pairwise(order):
        for pair in ([worse, better], [better, worse]):
            assert Report("mine", tuple(map(verdict, pair))).counts == {worse: 1}
    counts = reported(*order, "PASS").counts
    assert list(counts.items()) == [("PASS", 2), *((status, 1) for status in reversed(order[:-1]))]


def test_the_summary_names_the_bugs_once_and_in_order():
    bugs = [failure(looks_like=bug) for bug in ("B-2, b", "B-1, a", "B-2, b", "")]
    found = Report("mine", tuple(verdict("FAIL", f"RMS_NORM-{i}", failure=f) for i, f in enumerate(bugs)))
    assert found.summary == "mine: NOT PASSED: 0 of 4 clauses; 4 fail; looks like B-1, a; looks like B-2, b"


def test_json_has_everything_and_only_numbers_that_json_has():
    given = verdict("FAIL", failure=failure(ratio=INF), margin=NAN), verdict("PASS", "RMS_NORM-2", margin=-INF)
    found = Report("mine", given, ("it prints",), {"seed": 3, "profiles": ("float64",)})
    body = json.loads(found.to_json(), parse_constant=pytest.fail)
    assert {k: body[k] for k in ("name", "passed", "notes", "settings")} == {
        "name": "mine", "passed": False, "notes": ["it prints"], "settings": {"seed": 3, "profiles": ["float64"]},
    }  # fmt: skip
    assert (body["summary"], body["counts"]) == (found.summary, found.counts)
    first, second = body["verdicts"]
    assert (first["failure"]["ratio"], first["margin"], second["margin"]) == ("Infinity", "NaN", "-Infinity")
    assert first | {"failure": None, "margin": None} == {**vars(given[0]), "failure": None, "margin": None}
    assert "1 ± 0" in Report("mine", (verdict("FAIL", failure=failure(message="y is 2 instead of 1 ± 0")),)).to_json()
    plain = Report("mine", (verdict("PASS", margin=0.5, findings=2),))
    assert json.loads(plain.to_json())["verdicts"][0]["margin"] == 0.5
    assert second["findings"] == 0 and second["failure"] is None


def test_the_text_tells_what_is_worst_last_and_what_is_explained_once():
    known = failure(looks_like="RMS_NORM-M03, eps outside", owner="RMS_NORM-4", link="an issue", choice="choices={}")
    given = [
        verdict("FAIL", "RMS_NORM-4", failure=known, detail="detail of 4"),
        verdict("FAIL", "RMS_NORM-5", failure=known),
        verdict("FAIL", "RMS_NORM-6", failure=failure("rms_norm/two", "y is off")),
        verdict("FAIL", "SWIGLU-1", "swiglu", failure("swiglu/one", "out is wrong", printed=" hello\n")),
        verdict("BLOCKED", "BLOCK-1", "block", detail="swiglu failed: mend that first"),
        verdict("EXPECTED FAILURE", "RMS_NORM-7", detail="issue 12"),
        verdict("NOT RUN", "RMS_NORM-8", detail="nothing shows it"),
        verdict("NOT IMPLEMENTED", "RMS_NORM-9", detail="there is none"),
        verdict("CHOICE", "RMS_NORM-10", detail="it takes another"),
        verdict("CHOICE", "RMS_NORM-11", detail="it takes another"),
        verdict("CHOICE", "RMS_NORM-12", detail="it takes a third"),
        verdict("PASS", "RMS_NORM-13"),
    ]
    found = Report("mine", tuple(given), ("it prints",))
    assert str(found) == TEXT.strip() + f"\n{found.summary}"
    alone = Report("mine", (verdict("FAIL", "RMS_NORM-4", failure=known),))
    assert "RMS_NORM-4: What RMS_NORM-4 says." in str(alone)


TEXT = """
CHOICE            rms_norm  RMS_NORM-10, -11: it takes another
CHOICE            rms_norm  RMS_NORM-12: it takes a third
NOT RUN           rms_norm  RMS_NORM-8: nothing shows it
NOT IMPLEMENTED   rms_norm  RMS_NORM-9: there is none
EXPECTED FAILURE  rms_norm  RMS_NORM-7  issue 12
BLOCKED           block  BLOCK-1: swiglu failed: mend that first
FAIL              rms_norm  RMS_NORM-6: rms_norm/two, float32
    found       y is off
FAIL              swiglu  SWIGLU-1
    clause      SWIGLU-1: What SWIGLU-1 says.
    case        swiglu/one, float32: why it is asked
    found       out is wrong
    it printed  'hello'
    again       print(1)
FAIL              rms_norm  RMS_NORM-4, -5
    clause      RMS_NORM-4: What RMS_NORM-4 says.
    clause      RMS_NORM-5: What RMS_NORM-5 says.
    case        rms_norm/one, float32: why it is asked
    found       y is wrong
    looks like  RMS_NORM-M03, eps outside
    if meant    choices={} declares it
    seen in     an issue
    note        detail of 4
    again       print(1)
note: it prints
"""

# --- from findings to verdicts


def session(case=None, profile=None, levels=("Forward", "Backward"), effort="quick", **rest):
    made = Implementation("mine", **rest)
    made.op("rms_norm", OPERATIONS["rms_norm"].reference)
    return Session(made, LocalRunner(made), effort, 0, case, profile, levels)


def found_in(state, clauses=("RMS_NORM-1",), said="", *, at=None, profile="float32", part="call", comparison=None):
    outcome = Outcome(printed="said")
    return Finding(at or asked(), profile, part, state, clauses, said, comparison or NOTHING_WRONG, outcome)


def decided(*found, op="rms_norm", failed=(), **rest):
    examined = Examined(list(found), **{k: rest.pop(k) for k in ("absent", "stopped") if k in rest})
    return {v.clause: v for v in verdicts.of(OPERATIONS[op], examined, session(**rest), set(failed))}


@pytest.mark.parametrize(
    "states, status, detail",
    [
        (["pass", "fail"], "FAIL", ""),
        (["pass", "excused", "fail"], "FAIL", ""),
        (["pass", "excused"], "CHOICE", "about excused"),
        (["missing", "choice", "pass"], "PASS", ""),
        (["choice", "missing"], "NOT IMPLEMENTED", "about missing"),
        (["choice"], "CHOICE", "about choice"),
        (["pass", "excused", "unasked"], "NOT IMPLEMENTED", "about unasked"),
        (["unasked", "fail"], "FAIL", ""),
        (["skipped"], "NOT RUN", "about skipped"),
        (["skipped", "pass"], "PASS", ""),
        ([], "NOT RUN", "no case shows it in float32"),
    ],
)
def test_the_status_of_a_clause_is_the_first_that_counts(states, status, detail):
    found = decided(*(found_in(s, said=f"about {s}") for s in states), profiles=["float32"])["RMS_NORM-1"]
    assert (found.status, found.detail, found.findings) == (status, detail, len(states))
    assert (found.operation, found.level, bool(found.failure)) == ("rms_norm", "Forward", status == "FAIL")
    assert found.text == OPERATIONS["rms_norm"].clauses["RMS_NORM-1"].text


def test_what_was_not_asked_any_more_is_not_run():
    found = decided(found_in("pass"), stopped="rms_norm/one took longer")
    assert found["RMS_NORM-1"].status == "PASS"
    assert (found["RMS_NORM-2"].status, found["RMS_NORM-2"].detail) == (
        "NOT RUN", "not asked any more: rms_norm/one took longer",
    )  # fmt: skip


def test_what_is_absent_is_not_implemented_and_no_more_than_its_own_clauses_where_another_shows_them():
    found = decided(absent=True)
    assert {(v.status, v.detail) for v in found.values()} == {("NOT IMPLEMENTED", "there is no rms_norm")}
    optional = decided(absent=True, op="dpo_losses", levels=("Alignment",))
    assert all((v.status, v.detail) == ("NOT RUN", "there is no dpo_losses") for v in optional.values())
    asked_of_it = verdicts.responsible(OPERATIONS["dpo_losses"])
    assert set(optional) == set(verdicts.only_shown_by(OPERATIONS["dpo_losses"])) < set(asked_of_it)
    shared = set(asked_of_it) - set(optional)
    peers = [e for e in OPERATIONS.values() if e.component == "dpo" and e.name != "dpo_losses"]
    assert shared == set(asked_of_it) & {c for e in peers for c in verdicts.responsible(e)}


def test_only_the_levels_and_the_case_that_are_asked_for_have_verdicts():
    assert set(decided(levels=("Backward",))) == {"RMS_NORM-10", "RMS_NORM-11", "RMS_NORM-12"}
    one = decided(found_in("pass", ("RMS_NORM-2",)), case="rms_norm/made_up")
    assert set(one) == {"RMS_NORM-2"}


def test_a_failure_behind_a_failed_part_is_blocked():
    found = decided(found_in("fail", ("BLOCK-1",)), found_in("pass", ("BLOCK-2",)), op="block",
                    failed={"swiglu", "rms_norm", "adamw.step"})  # fmt: skip
    blocked, passing = found["BLOCK-1"], found["BLOCK-2"]
    assert (blocked.status, blocked.detail) == ("BLOCKED", "rms_norm, swiglu failed: mend that first")
    assert blocked.failure and passing.status == "PASS"
    assert decided(found_in("fail", ("BLOCK-1",)), op="block", failed={"adamw.step"})["BLOCK-1"].status == "FAIL"


def test_an_expected_failure_that_fails_is_expected_and_one_that_passes_fails():
    excuses = {f"RMS_NORM-{n}": f"issue {n}" for n in (1, 2, 3, 4)}
    found = decided(found_in("fail"), found_in("pass", ("RMS_NORM-2",)), found_in("choice", ("RMS_NORM-3",), "other"),
                    found_in("missing", ("RMS_NORM-4",)), expected_failures=excuses)  # fmt: skip
    assert [(found[c].status, found[c].detail) for c in excuses] == [
        ("EXPECTED FAILURE", "issue 1"),
        ("FAIL", "declared as an expected failure (issue 2), but it passes"),
        ("CHOICE", "other"),
        ("EXPECTED FAILURE", "issue 4"),  # a limit that is declared
    ]


def test_the_margin_is_the_largest_ratio_of_a_clause_that_passes():
    ratios = [found_in("pass", comparison=Comparison(r)) for r in (0.25, 0.75, 0.5)]
    assert decided(*ratios)["RMS_NORM-1"].margin == 0.75
    failed = decided(*ratios, found_in("fail", comparison=Comparison(3.0)))["RMS_NORM-1"]
    assert failed.margin is None and decided()["RMS_NORM-1"].margin is None


def test_the_failure_shown_is_the_smallest_in_the_widest_precision():
    big, small = asked(id="rms_norm/big", inputs={"x": np.ones(9)}), asked(id="rms_norm/small")
    tiny = asked(id="rms_norm/tiny", inputs={"x": np.ones(2)})
    found = decided(
        found_in("pass", at=tiny), found_in("fail", said="big", at=big, profile="float64"),
        found_in("fail", at=tiny, part="dtype"), found_in("fail", at=tiny, part="inputs"),
        found_in("fail", said="narrow", at=small, profile="bfloat16"), found_in("fail", said="wide", at=small),
    )["RMS_NORM-1"].failure  # fmt: skip
    assert (found.case, found.profile, found.part, found.message) == ("rms_norm/big", "float64", "call", "big")
    assert (found.why, found.printed, found.looks_like, found.owner, found.choice) == ("made up", "said", "", "", "")
    assert found.reproduction == "print(verify(implementation, ['rms_norm'], case='rms_norm/big', profile='float64'))"


def test_a_suspect_is_named_with_its_owner(monkeypatch):
    bug = load_mutants("rms_norm")["RMS_NORM-M03"]
    monkeypatch.setattr(suspects, "suspect", lambda operation, found: (bug, f"in part {bug}"))
    seen = Comparison(3.0, "value", "off", "1.0", "2.0", "0.5")
    failure = decided(found_in("fail", comparison=seen, at=asked(link="an issue")))["RMS_NORM-1"].failure
    assert (failure.looks_like, failure.owner, failure.link) == (f"in part {bug}", bug.owner, "an issue")
    assert (failure.expected, failure.got, failure.bound, failure.ratio) == ("1.0", "2.0", "0.5", 3.0)


@pytest.mark.parametrize(
    "origin, said",
    [
        ("", "print(verify(implementation, ['rms_norm'], case='rms_norm/made_up', profile='float32'))"),
        ("grade DIR", "python -m minimind_ref.kit grade DIR"),
        ("their:impl", "python -m minimind_ref.kit run their:impl --case rms_norm/made_up --profile float32"),
        ("check('rms_norm', f)", "print(check('rms_norm', f, case='rms_norm/made_up', profile='float32'))"),
        ("from m import f; from k import check; check(1, f)",
         "python -c 'from m import f; from k import check; print(check(1, f, case='\"'\"'rms_norm/made_up'\"'\"', "
         "profile='\"'\"'float32'\"'\"'))'"),
    ],
)  # fmt: skip
def test_a_question_is_asked_again_by_one_line(origin, said):
    asking = session()
    asking.implementation.origin = origin
    assert verdicts.again(found_in("fail"), asking) == said


def outer(x):
    return x


def nested():
    def f(x):
        return x

    return f


class ScriptOfTorch:
    """As torch.jit's: it has the name of its kind."""

    def __call__(self, x):
        return x


scripted = ScriptOfTorch()
scripted.__qualname__, scripted.__name__ = "torch.jit.ScriptOfTorch", "ScriptOfTorch"
LINEAR = torch.ops.aten.linear


@pytest.mark.parametrize(
    "function, arrays, said",
    [
        (LINEAR, "torch", "check('swiglu', torch.ops.aten.linear, arrays='torch')"),
        (LINEAR.default, "torch", "check('swiglu', torch.ops.aten.linear.default, arrays='torch')"),
        ({}.get, "torch", "check('swiglu', get, arrays='torch')"),  # of no module
        (scripted, "torch", "check('swiglu', function, arrays='torch')"),
        (outer, "numpy", f"from {__name__} import outer; from minimind_ref.kit import check; check('swiglu', outer, "
         "arrays='numpy')"),
        (outer, (len, len), "check('swiglu', outer, arrays=arrays)"),
        (lambda x: x, "torch", "check('swiglu', function, arrays='torch')"),
        (json.JSONEncoder.encode, "torch", "check('swiglu', encode, arrays='torch')"),
        (functools.partial(outer), "jax", "check('swiglu', function, arrays='jax')"),
        (nested(), "jax", "check('swiglu', f, arrays='jax')"),
    ],
)  # fmt: skip
def test_the_call_that_judges_a_function(function, arrays, said):
    assert verdicts.call_of("swiglu", function, arrays, None, {}) == said


@pytest.mark.parametrize(
    "vjp, choices, said",
    [
        (nested(), {}, "check('swiglu', outer, arrays='numpy', vjp=f)"),
        (nested, {}, f"from {__name__} import outer; from {__name__} import nested; "
         "from minimind_ref.kit import check; check('swiglu', outer, arrays='numpy', vjp=nested)"),
        (outer, {"a.b": "c"}, f"from {__name__} import outer; from minimind_ref.kit import check; "
         "check('swiglu', outer, arrays='numpy', vjp=outer, choices={'a.b': 'c'})"),
    ],
)  # fmt: skip
def test_the_call_has_all_that_the_question_had(vjp, choices, said):
    assert verdicts.call_of("swiglu", outer, "numpy", vjp, choices) == said


def test_a_function_typed_at_the_prompt_is_called_by_its_name():
    typed = {"__name__": "__main__"}
    exec("def mine(x): return x", typed)
    assert verdicts.call_of("swiglu", typed["mine"], "numpy", None, {}) == "check('swiglu', mine, arrays='numpy')"


def part(name, component="part", dtype=None, pure=None):
    ids = {f"PART-{i}": None for i in range(1, 15)}
    return SimpleNamespace(name=name, component=component, clauses=ids, dtype=dtype, pure=pure)


def test_a_clause_is_answered_for_by_those_that_show_it_and_else_by_the_first(monkeypatch):
    first, second = part("first", dtype="PART-11", pure="PART-14"), part("second", dtype="PART-4", pure="PART-5")
    third, stranger = part("third", dtype="PART-6"), part("stranger", "other", dtype="PART-1")
    shown = {
        "first": "PART-1 PART-3",
        "second": "PART-2 PART-9 PART-11 PART-12 PART-14",
        "third": "PART-3 PART-2 PART-13",
    }
    laws = {"first": "PART-12", "second": "PART-8", "third": "PART-10", "stranger": "PART-9"}
    monkeypatch.setattr(verdicts, "ALL", (stranger, first, second, third))
    monkeypatch.setattr(
        verdicts, "cases_of", lambda op, *_: [SimpleNamespace(clauses=shown.get(op.name, "PART-7").split())]
    )
    monkeypatch.setattr(verdicts.lawful, "of", lambda op: [SimpleNamespace(clause=laws[op.name])])

    def numbers(clauses):
        return [int(clause.partition("-")[2]) for clause in clauses]

    assert numbers(verdicts.responsible(first)) == [1, 3, 7, 11, 12, 14]  # none of the three shows 7
    assert numbers(verdicts.responsible(second)) == [2, 4, 5, 8, 9, 11, 12, 14]
    assert numbers(verdicts.responsible(third)) == [2, 3, 6, 10, 13]
    assert numbers(verdicts.only_shown_by(third)) == [6, 10, 13]
    assert numbers(verdicts.only_shown_by(second)) == [4, 5, 8, 9]


def test_only_an_optional_operation_that_is_absent_leaves_clauses_to_others():
    for op, absent in (("route", True), ("route", False), ("dpo_losses", False)):
        entry = OPERATIONS[op]
        found = decided(absent=absent, op=op, levels=(entry.level, "Backward"))
        assert list(found) == verdicts.responsible(entry) and len(found) > len(verdicts.only_shown_by(entry)), op


# --- which questions are put


def asking(runner, case=None, profile=None, levels=("Forward",), effort="quick", seed=0, **rest):
    return Session(Implementation("mine", **rest), runner, effort, seed, case, profile, levels)


@pytest.mark.parametrize(
    "asked_for, profiles, gradient, explicit",
    [
        ({}, ("float64",), False, False),
        ({"arrays": "torch"}, ("float64", "float32"), False, False),
        ({"profiles": ["float32", "float64"]}, ("float32", "float64"), False, True),
        ({"profiles": ["float32"]}, ("float32",), False, False),
        ({"profiles": ["float32"], "profile": "float64"}, ("float64",), False, True),
        ({"profile": "float32"}, ("float32",), False, False),
        ({"levels": ("Forward", "Backward")}, ("float64",), True, False),
        ({"levels": ("Alignment",)}, ("float64",), True, False),
    ],
)
def test_a_session_says_what_is_asked(asked_for, profiles, gradient, explicit):
    of = asking(Scripted(), **asked_for)
    assert (of.profiles, of.gradient, of.explicit) == (profiles, gradient, explicit)


RMS_NORM = OPERATIONS["rms_norm"]


def test_every_recorded_case_is_asked_and_one_or_six_of_each_generator():
    recorded = [case.id for case in vectors.recorded(RMS_NORM)]
    makers = [g.name for g in generated.load() if g.operation == "rms_norm"]
    for effort, each in (("quick", 1), ("full", 6)):
        made = [f"rms_norm/generated/{name}_{3 + i}" for name in makers for i in range(each)]
        assert [case.id for case in cases_of(RMS_NORM, effort, 3)] == recorded + made
        runner = Scripted()
        examine(RMS_NORM, asking(runner, effort=effort, seed=3))
        assert runner.asked == [(i, "float64") for i in recorded + made] and runner.gradients == {False}
    written = Scripted(live=False)  # what is read from files is there for the recorded cases alone
    examine(RMS_NORM, asking(written, levels=("Backward",)))
    assert [i for i, _ in written.asked] == recorded and written.gradients == {True}


def test_one_case_and_one_precision_can_be_asked_alone():
    runner = Scripted()
    first = vectors.recorded(RMS_NORM)[0].id
    found = examine(RMS_NORM, asking(runner, case=first, profile="bfloat16"))
    assert runner.asked == [(first, "bfloat16")]
    assert [(f.case.id, f.profile, f.state) for f in found.found] == [(first, "bfloat16", "fail")]
    two = Scripted()
    examine(RMS_NORM, asking(two, case=first, profiles=["float16", "float32"]))
    assert two.asked == [(first, "float16"), (first, "float32")]
    law = Scripted()
    found = examine(RMS_NORM, asking(law, case="rms_norm/law/rows_do_not_see_each_other"))
    assert law.asked == [] and [(f.part, f.state, f.clauses) for f in found.found] == [
        ("law", "missing", ("RMS_NORM-2",))
    ]


@pytest.mark.parametrize("slow", [{"problem": "timeout", "text": "took 9 s"},
                                  {"gradient_problem": "timeout", "gradient_text": "took 9 s"}])  # fmt: skip
def test_the_first_that_runs_out_of_time_is_the_last(slow):
    second = vectors.recorded(RMS_NORM)[1].id
    y = {"y": Result(np.zeros(1), "float64")}
    runner = Scripted(lambda case, profile: Outcome(y, **slow) if case.id == second else Outcome(y))
    found = examine(RMS_NORM, asking(runner))
    assert [i for i, _ in runner.asked] == [vectors.recorded(RMS_NORM)[0].id, second]
    assert found.stopped == f"{second} took 9 s" and "law" not in {f.part for f in found.found}


def test_what_the_runner_does_not_have_is_absent():
    found = examine(OPERATIONS["swiglu"], asking(runner := Scripted()))
    assert found.absent and not found.found and runner.asked == []
    assert not examine(RMS_NORM, asking(Scripted())).absent


def test_laws_are_put_to_what_can_be_asked_and_printing_is_noted():
    for live in (True, False):
        found = examine(RMS_NORM, asking(Scripted(lambda c, p: Outcome(problem="raised", printed="!"), live)))
        assert ("law" in {f.part for f in found.found}) == live
        assert found.notes == ["rms_norm prints"]
    assert examine(RMS_NORM, asking(Scripted())).notes == []


def test_a_gradient_is_judged_where_its_level_is_claimed():
    def forward_alone(case, profile):
        return Outcome({n: Result(np.asarray(e.value), profile) for n, e in case.answer(profile)[0].items()})

    for levels, claimed in ((("Forward",), {"profiles": ["float64"]}), (("Backward",), {})):
        found = examine(RMS_NORM, asking(Scripted(forward_alone), levels=levels, **claimed)).found
        assert ("gradient" in {f.part for f in found}) == (levels == ("Backward",))


def test_a_case_that_is_mostly_undecided_is_not_asked(monkeypatch):
    monkeypatch.setattr(generated, "telling", lambda case, profile: profile != "float32")
    examine(RMS_NORM, asking(runner := Scripted(), profiles=["float32", "bfloat16"]))
    assert {profile for _, profile in runner.asked} == {"bfloat16"}


def test_a_declared_behaviour_turns_what_it_explains_into_a_choice():
    def not_supervised(case, profile):
        return Outcome({"loss": Result(np.array(NAN), profile)})

    class Loss(Scripted):
        def has(self, name):
            return True

    nothing = "cross_entropy/nothing_supervised"
    assert nothing in [case.id for case in vectors.recorded(OPERATIONS["cross_entropy"])]
    for choices, state in (({}, "fail"), ({"cross_entropy.nothing_supervised": "nan"}, "excused")):
        of = asking(Loss(not_supervised), case=nothing, choices=choices)
        assert state in {f.state for f in examine(OPERATIONS["cross_entropy"], of).found}


def test_a_case_is_asked_in_what_is_claimed_and_recorded():
    case = asked(profiles=("float64", "bfloat16"))
    assert within_reach(case, ("float32", "bfloat16", "float64")) == (case, ["bfloat16", "float64"])
    assert within_reach(case, ("float16",)) == (case, [])
    options = asked("rope_frequencies", inputs={"head_dim": 8}, profiles=("float32",))
    assert within_reach(options, ("bfloat16",)) == (options, ("float64",))  # no precision matters


def test_what_is_recorded_in_float64_alone_is_answered_in_float32_by_the_oracle():
    case, profiles = within_reach(asked(profiles=("float64",)), ("float32", "bfloat16"))
    assert profiles == ("float32",)
    ones = case.answer("float32")[0]["y"]
    assert ones.value.shape == (2, 3) and np.all(np.abs(ones.value - 1) < 1e-4)


def test_a_declared_choice_is_asked_for_where_a_case_leaves_it_open():
    case = asked()
    before = retargeted(case, {"cast": "before"})
    assert before.parameters == {"eps": 1e-5, "cast": "before"} and before.answer("float32")[0]["y"].value.shape == (
        2,
        3,
    )
    assert retargeted(case, {"cast": "after"}) is case  # which is the default
    named = asked(parameters={"eps": 1e-5, "cast": "after"})
    assert retargeted(named, {"cast": "before"}) is named
    assert retargeted(case, {"nothing_supervised": "nan"}) is case  # no argument
    answer = vectors.recorded(OPERATIONS["grpo_loss"])[0]  # an option that needs a length, of which it says nothing
    kept = retargeted(answer, {"normalise": "constant"})
    assert kept.parameters == answer.parameters | {"normalise": "sequence"} and kept.answer is answer.answer


def single(case, profile):
    """Right in float32, whatever is asked; 2^-24 apart from float64."""
    answer = case.answer(profile)[0]["y"]
    return Outcome({"y": Result(np.asarray(answer.value).astype(np.float32).astype(np.float64), "float32")})


NOTE = "rms_norm computes in float32 inside; it is judged there, not in float64"


def test_what_computes_in_float32_is_judged_there_unless_it_claims_float64():
    found = examine(RMS_NORM, asking(runner := Scripted(single), arrays="torch"))
    assert NOTE in found.notes and {f.profile for f in found.found if f.part != "law"} == {"float32"}
    assert ("rms_norm/basic", "float64") in runner.asked
    for claimed in ({"profiles": ["float64", "float32"]}, {"profile": "float64"}, {}):
        found = examine(RMS_NORM, asking(Scripted(single), **claimed))
        assert found.notes == [] and "float64" in {f.profile for f in found.found}, claimed


def test_where_float64_is_dropped_a_case_of_float64_alone_is_asked_in_float32():
    of, alone, both = asking(runner := Scripted()), asked(profiles=("float64",)), asked()
    one = Outcome(problem="raised")
    assert narrowed(both, "float32", one, of) == [(both, "float32", one)]
    assert narrowed(both, "float64", one, of) == []
    options = asked("rope_frequencies", inputs={"head_dim": 8})
    assert narrowed(options, "float64", one, of) == [(options, "float64", one)]
    [(case, profile, outcome)] = narrowed(alone, "float64", one, of)
    assert (case.id, profile, outcome.text) == (alone.id, "float32", "raised it")
    assert runner.asked == [(alone.id, "float32")] and runner.gradients == {False}
    assert narrowed(alone, "float64", one, asking(Scripted(live=False))) == []


# --- coarse or wrong


def exactly(y=1.0, bound=2.0**-50, narrow=2.0**-20, **rest):
    """A case whose answer is y, within one bound in float64 and another in float32."""

    def answer(profile):
        return {"y": Expected(np.array([y, y]), np.full(2, bound if profile == "float64" else narrow))}, {}

    return asked(outputs={"y": Expected(np.zeros(2))}, answer=answer, **rest)


def gave(*values, dtype="float64", **rest):
    return Outcome({"y": Result(np.array(values), dtype)}, **rest)


COARSE = 1 + 2.0**-21


@pytest.mark.parametrize(
    "outcomes, coarse",
    [
        ([gave(COARSE, COARSE)], True),
        ([gave(COARSE, COARSE, dtype="float32")], True),
        ([gave(1.0, 1.0)], False),  # right in float64
        ([gave(1.0, 1.0, dtype="float32")], False),  # its dtype is wrong, and no number is coarse
        ([gave(1 + 2.0**-40, 1 + 2.0**-40)], False),  # too fine an error for float32
        ([gave(1 + 2.0**-15, 1 + 2.0**-15)], False),  # too large an error for it
        ([gave(COARSE, COARSE), gave(2.0, 2.0)], False),
        ([gave(COARSE, COARSE), gave(1.0, 1.0)], False),
        ([gave(COARSE, COARSE), Outcome(problem="raised")], True),
        ([gave(COARSE, COARSE), Outcome(problem="timeout")], False),
        ([Outcome(problem="raised")], False),  # no answer at all
        ([], False),
    ],
)
def test_what_is_right_to_float32_and_nowhere_to_float64_is_coarse(outcomes, coarse):
    told = [(exactly(), "float64", outcome) for outcome in outcomes]
    assert computes_in_float32(told) is coarse


def test_the_forward_pass_alone_decides_what_is_coarse():
    answers = {"y": Expected(np.ones(1), np.full(1, 1e-3))}, {"x": Expected(np.ones(1), np.zeros(1))}
    case = asked(answer=lambda profile: answers, cotangent={"y": np.ones(1)})
    within = Outcome({"y": Result(np.array([1 + 1e-4]), "float64")}, gradients={"x": Result(np.array([2.0]))})
    assert not computes_in_float32([(case, "float64", within)])


def test_only_numbers_in_float64_decide_and_the_basic_ones_first():
    coarse, right = gave(COARSE, COARSE), gave(1.0, 1.0)
    basic = exactly(flags=("BASIC",))
    assert computes_in_float32([(exactly(), "float64", coarse), (exactly(), "float32", right)])
    options = asked("rope_frequencies", inputs={"head_dim": 8}, outputs={"y": Expected(np.array([1.0]), np.zeros(1))})
    assert computes_in_float32([(exactly(), "float64", coarse), (options, "float64", answered())])
    # an edge case that comes out right in float32 too, such as zeros, says nothing beside a basic one
    assert computes_in_float32([(basic, "float64", coarse), (exactly(), "float64", right)])
    assert not computes_in_float32([(basic, "float64", right), (exactly(), "float64", coarse)])
    refused = Outcome(problem="raised")
    assert computes_in_float32([(basic, "float64", refused), (exactly(), "float32", gave(COARSE, COARSE))])


def test_the_size_of_an_error_is_its_median_over_the_numbers_that_are_not_zero():
    def told(want, got):
        answer = {"y": Expected(np.array(want), np.zeros(len(want)))}, {}
        return fine(asked(answer=lambda profile: answer, outputs=answer[0]), gave(*got))

    tiny, coarse = 2.0**-40, 2.0**-21
    assert told([1.0, 1.0, 1.0], [1 + tiny, 1 + tiny, 1 + coarse])
    assert not told([1.0, 1.0, 1.0], [1 + tiny, 1 + coarse, 1 + coarse])
    assert told([0.0, INF, 1.0], [1.0, 1.0, 1 + tiny]) and not told([0.0, INF, 1.0], [0.0, INF, 1 + coarse])
    assert told([-4.0], [-4 - 8 * tiny]) and not told([2.0**-30], [2.0**-30 + tiny])  # relative to the number
    assert not told([0.0], [0.0]) and not told([1.0], [1.0, 1.0])
    assert not told([1.0], [1 + 2.0**-30]) and told([1.0], [1 + 2.0**-30 - 2.0**-36])
    assert not told([1.0, 1.0], np.array(["a", "b"])) and not told([1.0, 1.0], np.array([None, None]))


def test_float32_may_move_an_answer_by_its_own_rounding_of_the_inputs():
    def answer(profile):
        return {"y": Expected(np.array([1.0 if profile == "float64" else 1.5]), np.array([0.25]))}, {}

    case = asked(answer=answer, outputs={"y": Expected(np.zeros(1))})
    accepted = {y: float32_like(case, gave(y)) for y in (1.75, 0.25, 1.76, 0.24)}
    assert accepted == {1.75: True, 0.25: True, 1.76: False, 0.24: False}

    def overflows(profile):
        return {"y": Expected(np.array([1.0 if profile == "float64" else INF]), np.array([0.25]))}, {}

    case = asked(answer=overflows, outputs={"y": Expected(np.zeros(1))})
    assert {y: float32_like(case, gave(y)) for y in (1.25, 1.2505)} == {1.25: True, 1.2505: False}


def test_a_choice_that_float64_leaves_open_is_open_where_it_is_coarse():
    def answer(profile):
        undecided = np.array([0.0, INF]) if profile == "float64" else None
        return {"y": Expected(np.array([1, 2]), undecided)}, {}

    case = asked(answer=answer, outputs={"y": Expected(np.zeros(2))})
    assert float32_like(case, gave(1, 9, dtype="int64")) and not float32_like(case, gave(9, 2, dtype="int64"))


# --- the whole judgement


def norm(x, weight, *, eps):
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def norms(function=norm, **rest):
    made = Implementation("mine", **rest)
    made.op("rms_norm", function)
    return made


def judged_by(runner, ops=("rms_norm",), *, made=None, **rest):
    return verify(made or norms(), ops, runner=runner, **rest)


def test_a_generated_case_is_asked_again_with_its_own_seed():
    runner = Scripted()
    judged_by(runner, case="rms_norm/generated/heavy_rows_5", level="full", seed=1)
    assert runner.asked == [("rms_norm/generated/heavy_rows_5", "float64")]
    with pytest.raises(UserError, match=r"no case 'rms_norm/generated/heavy_rows' was judged$"):
        judged_by(Scripted(), case="rms_norm/generated/heavy_rows")
    with pytest.raises(UserError, match=r"no case 'rms_norm/basic' was judged in profile float16$"):
        judged_by(Scripted(live=False), ["swiglu"], case="rms_norm/basic", profile="float16")


def test_operations_and_levels_may_be_asked_for():
    def operations(ops, **rest):
        return {v.operation: v.level for v in judged_by(Scripted(), ops, **rest).verdicts}

    assert set(operations("rms_norm")) == set(operations(["rms_norm"])) == {"rms_norm"}
    assert "swiglu" in operations("Forward") and "adamw.step" not in operations("Forward")
    claimed = operations(None, made=norms(levels=["Inference", "Data"]))
    assert set(claimed.values()) == {"Inference", "Data"} and "rms_norm" not in claimed
    levels = {v.level for v in judged_by(Scripted(), "Forward").verdicts}
    assert levels == {"Forward"}  # not those that the implementation claims beside it
    both = judged_by(Scripted(), ["rms_norm", "Inference"], made=norms(levels=["Forward", "Inference"]))
    assert {v.operation for v in both.verdicts} >= {"rms_norm", "filter_logits"}
    assert "swiglu" not in {v.operation for v in both.verdicts}
    assert {v.level for v in both.verdicts} == {"Forward", "Inference"}
    named = judged_by(Scripted(), ["rms_norm"], made=norms(levels=["Backward"]))
    assert {v.level for v in named.verdicts} == {"Backward"}
    assert "rms_norm" not in {entry.name for entry in chosen(None, ["Inference"])}
    gradients = operations("Backward")
    assert {"rms_norm", "attention"} <= set(gradients) and "rope_frequencies" not in gradients
    assert set(gradients.values()) == {"Backward"}


def test_the_report_says_how_it_was_asked():
    found = verify(norms(profiles=["float32"]), ["rms_norm"], "full", seed=7, case="rms_norm/basic")
    assert found.settings == {"level": "full", "seed": 7, "profiles": ("float32",)} and found.name == "mine"
    assert verify(norms(), ["rms_norm"], case="rms_norm/basic").settings == {
        "level": "quick", "seed": 0, "profiles": ("float64",),
    }  # fmt: skip


def wrong(x, weight, *, eps):
    return 2 * x


def wrong_gradient(x, weight, *, eps, cotangent):
    return 2 * x, weight


def test_a_function_that_fails_is_asked_again_by_its_name():
    said = "from test_kit_parts import wrong; from minimind_ref.kit import check; print(check('rms_norm', wrong, "
    found = check("rms_norm", wrong, case="rms_norm/basic")
    assert shlex.split(found.failures[0].failure.reproduction)[2].startswith(f"{said}arrays='numpy', case='rms_norm/")
    assert found.settings["seed"] == 0
    found = check("rms_norm", norm, vjp=wrong_gradient, choices={"cast": "before"}, case="rms_norm/basic")
    line = shlex.split(found.failures[0].failure.reproduction)[2]
    assert "norm, arrays='numpy', vjp=wrong_gradient, choices={'rms_norm.cast': 'before'}, case=" in line


def test_what_cannot_be_judged_is_said():
    with pytest.raises(UserError, match=r"implementation is a function but must be a kit\.Implementation"):
        verify(wrong)
    with pytest.raises(UserError, match="level is 'slow' but must be one of quick, full"):
        verify(norms(), ["rms_norm"], "slow")
    assert generated.FIRST_SEED + generated.SEEDS_A_CASE * (LARGEST_SEED + 6) == 2**32  # that many begin at the last
    for seed in (-1, LARGEST_SEED + 1):
        with pytest.raises(UserError, match=rf"^seed is {seed} but must lie in \[0, 134184954\]$"):
            verify(norms(), ["rms_norm"], seed=seed)
    for seed in (0, LARGEST_SEED):
        assert judged_by(Scripted(), level="full", seed=seed).settings["seed"] == seed
    with pytest.raises(UserError, match="no clause of rms_norm belongs to the claimed levels Inference"):
        verify(norms(levels=["Inference"]), ["rms_norm"])
    with pytest.raises(UserError, match="there is no operation 'rmsnorm'"):
        check("rmsnorm", wrong, choices={"cast": "before"})


def test_what_failed_before_blocks_what_is_made_of_it(monkeypatch):
    monkeypatch.setattr(suspects, "suspect", lambda operation, found: (None, ""))

    def both(route):
        made = Implementation("mine", levels=["Forward"])
        made.op("route", route)
        made.op("moe", lambda *given, **options: (np.zeros(1), np.zeros(1)))
        return {(v.operation, v.status) for v in verify(made, ["route", "moe"]).verdicts}

    right = OPERATIONS["route"].reference
    assert ("moe", "BLOCKED") in both(lambda *given, **options: None)
    assert ("moe", "FAIL") in both(right) and ("moe", "BLOCKED") not in both(right)


def test_check_takes_the_options_of_both():
    def before(x, weight, *, eps):
        return norm(x, weight, eps=eps)

    for choices in ({"cast": "before"}, {"rms_norm.cast": "before"}):
        found = check("rms_norm", before, choices=choices, levels=["Forward"], profiles=["float64"])
        assert found.passed and found.name == "before"
        assert {v.status for v in found.verdicts if v.detail.startswith("cast=")} == set()
    one = check("rms_norm", norm, case="rms_norm/basic", profile="float32", level="full", seed=3)
    assert one.settings == {"level": "full", "seed": 3, "profiles": ("float64",)}
    assert {v.findings for v in one.verdicts} != {0}
    partial = functools.partial(norm)
    assert check("rms_norm", partial, levels=["Forward"]).name == "rms_norm"  # it has no name of its own
    vjp = RMS_NORM.reference_vjp
    given = check("rms_norm", norm, vjp=vjp, profiles=["float64"])
    assert given.passed and "PASS" in {v.status for v in given.verdicts if v.level == "Backward"}


def test_a_call_may_take_its_seconds():
    def spins(x, weight, *, eps):
        begun = time.process_time()
        while time.process_time() - begun < 5:
            pass

    found = check("rms_norm", spins, seconds=0.05)
    assert "took longer than 0.05 s" in str(found)
    assert "took longer than 0.05 s" in str(verify(norms(spins), ["rms_norm"], seconds=0.05))


def test_notes_are_told_once():
    def chatty(x, weight, *, eps):
        print("hello")
        return norm(x, weight, eps=eps)

    made = norms(chatty)
    made.op("swiglu", lambda *given: print("hello"))
    assert verify(made, ["swiglu", "rms_norm", "rms_norm"]).notes == ("rms_norm prints", "swiglu prints")
