"""Between the kit and what it judges: arguments, results, time, and which known bug an answer looks like."""

import contextlib
import inspect
import json
import signal
import sys
import threading
import time
import warnings
from collections import namedtuple
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from kit_cases import asked
from safetensors.torch import load_file, save_file

import minimind_ref.kit.__main__ as command
from minimind_ref.errors import UserError
from minimind_ref.kit import (
    Implementation,
    gradients,
    guard,
    judging,
    plugin,
    properties,
    protocol,
    suspects,
    tensors,
    text,
    trees,
    vectors,
    verify,
)  # fmt: skip
from minimind_ref.kit.__main__ import main
from minimind_ref.kit.arrays import library
from minimind_ref.kit.binding import (
    Call,
    CannotExpressError,
    NoAnswerError,
    OtherChoiceError,
    bind,
    parameters_of,
    unexpected,
    without,
)
from minimind_ref.kit.case import Expected
from minimind_ref.kit.compare import Comparison, compare
from minimind_ref.kit.findings import Finding
from minimind_ref.kit.implementation import load
from minimind_ref.kit.mutant import load_mutants
from minimind_ref.kit.operation import LEVELS
from minimind_ref.kit.outcome import Outcome, Result, WrongShapeError, named, result
from minimind_ref.kit.properties import PROPERTIES
from minimind_ref.kit.protocol import question
from minimind_ref.kit.registry import OPERATIONS
from minimind_ref.kit.report import Failure, Report, Verdict
from minimind_ref.kit.runner import SECONDS, LocalRunner, ordered, plainly, same

NAN, INF = np.nan, np.inf
RMS_NORM, ATTENTION = OPERATIONS["rms_norm"], OPERATIONS["attention"]
NUMPY = library("numpy")
Pair = namedtuple("Pair", "first second")

# --- arguments


def called(operation, function, fixed=None, **given):
    call = bind(operation, function, given, fixed or {})
    return list(call.positional.items()), call.keyword


@pytest.mark.parametrize(
    "function, positional, keyword",
    [
        (lambda x, weight, *, eps: 0, ["x", "weight"], {"eps": 3}),
        (lambda a, b, *, eps: 0, ["x", "weight"], {"eps": 3}),  # under other names
        (lambda *given, **options: 0, ["x", "weight"], {"eps": 3}),
        (lambda a, /, b, *, eps: 0, ["x", "weight"], {"eps": 3}),
        (lambda x, *, weight, eps: 0, ["x"], {"weight": 2, "eps": 3}),  # one that insists on the name
        (lambda x, weight, *, eps, cast: 0, ["x", "weight"], {"eps": 3, "cast": "after"}),  # at its default
        (lambda x, weight, *, eps, cast="before": 0, ["x", "weight"], {"eps": 3}),  # its own default is its own
        (lambda x, weight, *, eps, bias=None: 0, ["x", "weight"], {"eps": 3}),
        (lambda x, weight, *, eps, bias: 0, ["x", "weight"], {"eps": 3}),  # the call will say that it lacks one
        (len, [], None),
    ],
)
def test_arguments_come_by_position_and_options_by_name(function, positional, keyword):
    if keyword is None:
        with pytest.raises(CannotExpressError):
            called(RMS_NORM, function, eps=3, weight=2, x=1)
        return
    values = {"x": 1, "weight": 2}
    assert called(RMS_NORM, function, eps=3, weight=2, x=1) == ([(n, values[n]) for n in positional], keyword)


@torch.library.custom_op("minimind_ref_tests::norm", mutates_args=())
def operator(x: torch.Tensor, weight: torch.Tensor, *, eps: float, gain: float = 1.0) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight * gain


def written_out(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


class Normed(torch.nn.Module):
    def forward(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return written_out(x, weight, eps)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, which people still have
    SCRIPTS = [torch.jit.script(Normed()), torch.jit.script(written_out)]
OPERATORS = [operator, torch.ops.minimind_ref_tests.norm, torch.ops.minimind_ref_tests.norm.default]


@pytest.mark.parametrize("function", [*OPERATORS, *SCRIPTS])
def test_what_torch_has_in_a_schema_is_asked_for_that_and_no_more(function):
    assert called(RMS_NORM, function, x=1, weight=2, eps=3, cast="after") == ([("x", 1), ("weight", 2)], {"eps": 3})
    with pytest.raises(OtherChoiceError, match="has no argument cast"):
        called(RMS_NORM, function, x=1, weight=2, eps=3, cast="before")
    assert not local(function, arrays="torch").ask(basic(), "float64", gradient=False).problem


def test_a_schema_says_what_goes_by_name_and_what_has_a_default():
    own = parameters_of(operator)
    assert [str(p.kind) for p in own.values()] == ["POSITIONAL_OR_KEYWORD"] * 2 + ["KEYWORD_ONLY"] * 2
    assert [p.default for p in own.values()] == [inspect.Parameter.empty] * 3 + [1.0]


class Silent:
    """It does not say what it takes."""

    __signature__ = "none"

    def __call__(self, *given, **options):
        return 0


def test_a_function_that_does_not_tell_gets_everything():
    assert called(RMS_NORM, Silent(), eps=3, weight=2, x=1) == ([("x", 1), ("weight", 2)], {"eps": 3})


def test_what_comes_behind_a_gap_goes_by_name():
    route = OPERATIONS["aux_loss"]
    names = list(route.arguments)
    assert names[:2] == ["scores", "index"]
    assert called(route, lambda scores, index, **o: 0, index=2) == ([], {"index": 2})


def test_an_option_at_its_default_may_be_left_out_and_no_other():
    assert called(ATTENTION, lambda q, k, v: 0, q=1, k=2, v=3, causal=True, mask=None)[1] == {}
    for option in ({"causal": False}, {"mask": np.ones(1)}, {"scale": 1}):
        with pytest.raises(CannotExpressError, match=f"^it takes no argument '{next(iter(option))}'$"):
            called(ATTENTION, lambda q, k, v: 0, q=1, k=2, v=3, **option)
    with pytest.raises(CannotExpressError, match="'causal'"):  # 1 is not True
        called(ATTENTION, lambda q, k, v: 0, q=1, k=2, v=3, causal=1)
    with pytest.raises(CannotExpressError, match="'v'"):
        called(ATTENTION, lambda q, k: 0, q=1, k=2, v=3)


def test_a_choice_that_a_function_does_not_take_is_another_choice():
    plain = lambda x, weight, *, eps: 0  # noqa: E731
    with pytest.raises(OtherChoiceError) as said:
        called(RMS_NORM, plain, x=1, weight=2, eps=3, cast="before")
    assert str(said.value) == "cast='before': it has no argument cast and is taken to have 'after'"
    assert called(RMS_NORM, plain, {"cast": "before"}, x=1, weight=2, eps=3, cast="before")[1] == {"eps": 3}
    with pytest.raises(OtherChoiceError, match=r"^cast='after': it takes cast='before'$"):
        called(RMS_NORM, plain, {"cast": "before"}, x=1, weight=2, eps=3, cast="after")
    form = OPERATIONS["aux_loss"]
    assert form.arguments["form"].default is inspect.Parameter.empty
    with pytest.raises(OtherChoiceError, match="has no argument form and is taken to have its own"):
        called(form, lambda scores, index, *, coef: 0, scores=1, index=2, form="token", coef=3)


def test_a_law_that_is_not_put_is_missing_unless_it_is_about_another_choice():
    assert not NoAnswerError("laws are not put to files").choice and NoAnswerError("x", choice=True).choice


def test_a_keyword_that_a_wrapper_hands_on_in_vain_is_left_out():
    def inner(x, *, eps):
        return x

    call = Call({"x": 1}, {"eps": 3, "cast": "after"})
    assert call.arguments == {"x": 1, "eps": 3, "cast": "after"}
    try:
        inner(1, **call.keyword)
    except TypeError as error:
        assert unexpected(error, call) == "cast"
        assert unexpected(error, Call({"x": 1}, {"eps": 3})) == ""  # not one of ours
        assert unexpected(ValueError(str(error)), call) == ""
    assert unexpected(TypeError("x"), call) == unexpected(None, call) == ""
    assert without(RMS_NORM, call, {"cast"}, {}) == Call({"x": 1}, {"eps": 3})
    assert without(RMS_NORM, call, (), {}) == call and without(RMS_NORM, call, {"mask"}, {}) == call
    other = Call({"x": 1}, {"eps": 3, "cast": "before"})
    with pytest.raises(OtherChoiceError):
        without(RMS_NORM, other, {"cast"}, {})
    assert without(RMS_NORM, other, {"cast"}, {"cast": "before"}).keyword == {"eps": 3}
    with pytest.raises(CannotExpressError, match="'eps'"):
        without(RMS_NORM, call, {"eps"}, {})


# --- results


def test_a_result_is_read_with_its_dtype():
    assert result(np.float32([1.5]), NUMPY).dtype == "float32" and result(np.float32([1.5]), NUMPY).value[0] == 1.5
    for plain in (True, 2, 2.5):
        assert result(plain, NUMPY).dtype is None and result(plain, NUMPY).value == np.asarray(plain)
        assert isinstance(result(plain, NUMPY).value, np.ndarray)
    assert result("text", NUMPY) == Result("text") and result([1, 2], NUMPY) == Result([1, 2])

    class Sparse:
        pass

    def refuse(y):
        raise RuntimeError("no\nnumbers " + "x" * 300)

    of = replace(NUMPY, holds=lambda y: isinstance(y, Sparse), plain=refuse)
    with pytest.raises(WrongShapeError) as said:
        result(Sparse(), of)
    assert str(said.value) == f"returned a Sparse whose numbers cannot be read: no numbers {'x' * 189}"


A, B, C = np.zeros(1), np.ones(2), np.full(3, 2.0)


@pytest.mark.parametrize(
    "returned, names, expected",
    [
        (A, "y", {"y": A}),
        ((A,), "y", {"y": A}),  # a tuple of one
        ([A], "y", {"y": [A]}),
        ((A, B), "y", {"y": (A, B)}),  # which is none: the comparison says so
        ((A, B), "y z", {"y": A, "z": B}),
        ([A, B], "y z", {"y": A, "z": B}),
        ({"z": B, "y": A}, "y z", {"y": A, "z": B}),
        ({"z": B, "y": A, "more": C}, "y z", {"y": A, "z": B}),
        ({"a": A, "b": B}, "y z", {"y": A, "z": B}),  # other names: in order
        (Pair(A, B), "second first", {"second": B, "first": A}),
        (((A, B), C), "y z w", {"y": A, "z": B, "w": C}),
        (([1, 2], [3]), "y z", {"y": [1, 2], "z": [3]}),  # lists inside are data
        (([A, B], C), "g.0 g.1 n", {"g.0": A, "g.1": B, "n": C}),  # unless the names are nested
        ({"n": C, "g": [A, B]}, "g.0 g.1 n", {"g.0": A, "g.1": B, "n": C}),
        ({"n": C, "g": [[A, B]]}, "g.0.0 g.0.1 n", {"g.0.0": A, "g.0.1": B, "n": C}),
        ({"n": C, "g": {"1": B, "0": A}}, "g.0 g.1 n", {"g.0": A, "g.1": B, "n": C}),
        ({"s": Pair(A, B)}, "s.second s.first", {"s.second": B, "s.first": A}),
        ((A, B, ((C, C), (C, C))), "y z", {"y": A, "z": B}),  # a cache comes with them
        ((A, B, {"layer": C}, None), "y z", {"y": A, "z": B}),
    ],
)
def test_results_are_named_by_name_or_by_order(returned, names, expected):
    found = named(returned, tuple(names.split()), NUMPY)
    assert list(found) == list(expected)
    for name, x in expected.items():
        parts = zip(found[name], x, strict=True) if isinstance(x, list | tuple) else [(found[name], x)]
        assert all(a is b for a, b in parts), name


@pytest.mark.parametrize(
    "returned, said",
    [
        (None, "returned None but y, z are expected"),
        (A, "returned one ndarray but y, z are expected"),
        ((A, B, C), "returned 3 results but y, z are expected"),
        ((A, B, (C, C), C), "returned 4 results but y, z are expected"),
        (((A, B, C), None), "returned 2 results but y, z are expected"),
        ({"a": A}, "returned a dict with a but y, z are expected"),
        ({}, "returned a dict with nothing but y, z are expected"),
        (dict.fromkeys("abcdefgh", A), "returned a dict with a, b, c, d, e, f but y, z are expected"),
    ],
)
def test_a_wrong_number_of_results_is_told(returned, said):
    with pytest.raises(WrongShapeError) as error:
        named(returned, ("y", "z"), NUMPY)
    assert str(error.value) == said


def test_many_names_are_told_in_short():
    for count, said in ((6, "0, 1, 2, 3, 4, 5"), (7, "0, 1, 2, 3, 4, … (7 in all)")):
        with pytest.raises(WrongShapeError) as error:
            named(None, tuple(map(str, range(count))), NUMPY)
        assert str(error.value) == f"returned None but {said} are expected"


# --- trees


def test_the_leaves_of_a_tree_have_their_names():
    tree = {"x": A, "experts": (A, [B, {"deep": C}]), "ids": [1, 2], "pair": Pair(A, 3), "n": None, "none": ()}
    found = dict(trees.leaves(tree))
    assert list(found) == [
        "x", "experts.0", "experts.1.0", "experts.1.1.deep", "ids", "pair.first", "pair.second", "n", "none",
    ]  # fmt: skip
    assert dict(trees.leaves({"rows": [[1, 2], [3]]})) == {"": {"rows": [[1, 2], [3]]}}  # plain data, however deep
    assert found["ids"] == [1, 2] and found["pair.second"] == 3 and found["experts.1.1.deep"] is C
    doubled = trees.map_named(lambda name, x: (name, x), tree)
    assert doubled["experts"][1][1]["deep"] == ("experts.1.1.deep", C) and doubled["ids"] == ("ids", [1, 2])
    assert isinstance(doubled["pair"], Pair) and doubled["pair"].second == ("pair.second", 3)
    assert isinstance(doubled["experts"], tuple) and isinstance(doubled["experts"][1], list)
    assert trees.map_named(lambda name, x: name, tree, "in")["experts"][0] == "in.experts.0"
    assert dict(trees.leaves(A)) == {"": A} and trees.map_named(lambda n, x: n, [1], "here") == "here"
    whole = {"a": np.ones(1, int), "b": np.float32(1), "c": 1.0, "d": [np.ones(2)]}
    assert list(trees.floating(whole)) == ["b", "d.0"]


# --- time, and what is raised


def test_what_is_printed_and_warned_is_kept_from_the_screen(capsys):
    def speaks():
        print("out")
        print("err", file=sys.stderr)
        warnings.warn("a warning", stacklevel=1)
        return 3

    ran = guard.run(speaks, 5)
    assert (ran.value, ran.printed, ran.problem, ran.error) == (3, "out\nerr\n", "", None)
    assert capsys.readouterr() == ("", "")


def test_what_is_raised_is_told_on_one_line_with_its_place():
    def fails():
        raise ValueError("two\nlines " + "x" * 400)

    ran = guard.run(fails, 5)
    line = fails.__code__.co_firstlineno + 1
    assert (ran.problem, ran.text) == ("raised", f"raised ValueError: two lines {'x' * 290} ({__file__}:{line})")
    assert isinstance(ran.error, ValueError) and ran.value is None
    assert guard.described(KeyError()) == "raised KeyError"
    inside = compile("raise ValueError", "C:\\minimind_ref\\kit\\guard.py", "exec")
    assert __file__ in guard.run(lambda: exec(inside), 5).text  # the kit's own lines are nobody's fault
    assert guard.run(lambda: sys.exit(3), 5).text.startswith("raised SystemExit: 3 (")
    with pytest.raises(KeyboardInterrupt):
        guard.run(lambda: signal.raise_signal(signal.SIGINT), 5)


def test_an_own_timer_and_handler_are_put_back():
    def mine(*_):
        raise AssertionError("not now")

    before = signal.signal(signal.SIGALRM, mine)
    try:
        signal.setitimer(signal.ITIMER_REAL, 50)
        assert guard.run(lambda: 3, 5).value == 3
        assert signal.getsignal(signal.SIGALRM) is mine and 40 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50
        signal.setitimer(signal.ITIMER_REAL, 0)
        guard.run(lambda: 3, 5)
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_time_out_that_is_swallowed_comes_again():
    def stubborn():
        for _ in range(2):
            try:
                while True:
                    pass
            except BaseException:
                continue
        while True:
            pass

    ran = guard.run(stubborn, 0.05)
    assert (ran.problem, ran.text) == ("timeout", "took longer than 0.05 s")


def test_the_clock_counts_computing_and_much_more_of_waiting(monkeypatch):
    now = {"process_time": 100.0, "monotonic": 1000.0}
    for name in now:
        monkeypatch.setattr(guard.time, name, lambda name=name: now[name])
    for computed, waited, over in ((0, 9.9, False), (0, 10, True), (1.9, 2.1, False), (2, 2, True), (1.9, 10, True)):
        now.update(process_time=100.0, monotonic=1000.0)
        spent = guard.clock(2.0)
        now.update(process_time=100.0 + computed, monotonic=1000.0 + waited)
        assert spent() is over, (computed, waited)


def test_waiting_alone_is_no_time_out(monkeypatch):
    monkeypatch.setattr(guard, "PATIENCE", 1000)
    assert guard.run(lambda: time.sleep(0.12) or "done", 0.05).value == "done"


def test_outside_the_main_thread_it_is_the_same(monkeypatch):
    monkeypatch.setattr(guard, "PATIENCE", 1000)
    found = []

    def elsewhere():
        found.append(guard.run(lambda: 3, 5))
        found.append(guard.run(lambda: 1 / 0, 5))
        found.append(guard.run(lambda: time.sleep(0.12) or "done", 0.05))
        found.append(guard.run(lambda: threading.current_thread().daemon, 5))
        monkeypatch.setattr(guard, "PATIENCE", 1)
        found.append(guard.run(lambda: time.sleep(0.5), 0.05))

    worker = threading.Thread(target=elsewhere)
    worker.start()
    worker.join()
    assert [ran.value for ran in found] == [3, None, "done", True, None]  # True: the program's end does not wait for it
    assert (found[4].problem, found[4].text) == ("timeout", "took longer than 0.05 s")
    assert "ZeroDivisionError" in found[1].text


# --- which known bug it looks like


def at_question(case="rms_norm/one", part="y", state="fail", kind="value", profile="float64", size=3, outputs=True):
    """A finding about a case of some size."""
    about = asked(id=case, inputs={"x": np.ones(size)})
    outcome = Outcome({"y": Result(np.ones(1))} if outputs else {})
    return Finding(about, profile, part, state, (), comparison=Comparison(kind=kind), outcome=outcome)


def chosen(found, state):
    return [(f.case.id, f.profile, f.part) for f in suspects.questions(found, state)]


def test_the_smallest_cases_with_wrong_numbers_are_compared():
    wrong = [at_question("big", size=9), at_question("small"), at_question("small", profile="float32")]
    others = [
        at_question("dtype", "dtype", kind=""),
        at_question("type", kind="type"),
        at_question("call", "call", kind=""),
    ]
    assert chosen([*wrong, *others], "fail") == [
        ("small", "float64", "y"), ("small", "float32", "y"), ("big", "float64", "y"),
    ]  # fmt: skip
    assert chosen([at_question(kind="shape")], "fail") == [("rms_norm/one", "float64", "y")]
    twice = [at_question(part="y"), at_question(part="z")]
    assert chosen(twice, "fail") == [("rms_norm/one", "float64", "y")]  # one finding a question


def test_gradients_are_compared_where_nothing_else_is_wrong():
    gradient, forward = at_question("g", "gradient x"), at_question("f")
    assert chosen([gradient], "fail") == [("g", "float64", "gradient x")]
    assert chosen([gradient, forward], "fail") == [("f", "float64", "y")]


def test_what_is_right_is_compared_too():
    good = [at_question("good", state="pass", kind=""), at_question("half", state="pass", kind="")]
    rest = [at_question("none", state="pass", kind="", outputs=False), at_question("d", "dtype", "pass", ""),
            at_question("i", "inputs", "pass", ""), at_question("g", "gradient x", "pass", "")]  # fmt: skip
    wrong = at_question("half", "z")
    assert chosen([*good, *rest, wrong], "pass") == [("good", "float64", "y")]
    assert chosen([*good, *rest, at_question("h", "gradient x")], "pass") == [("g", "float64", "gradient x")]


def test_one_precision_of_each_case_is_kept():
    found = [at_question("a"), at_question("a", profile="float32"), at_question("b")]
    assert [(f.case.id, f.profile) for f in suspects.one_each(found)] == [("a", "float64"), ("b", "float64")]


def test_the_bug_that_explains_most_and_contradicts_least_is_suspected(monkeypatch):
    bugs = list(load_mutants("rms_norm").values())[:3]
    wrong = [at_question(f"w{i}") for i in range(9)]
    right = [at_question(f"r{i}", state="pass", kind="") for i in range(20)]

    def told(*explained, failing=8, good=16):
        table = dict(zip([bug.id for bug in bugs], explained, strict=False))
        monkeypatch.setattr(suspects, "of", lambda operation: bugs[: len(explained)])
        monkeypatch.setattr(suspects, "explains", lambda bug, finding: finding.case.id in table[bug.id])
        bug, said = suspects.suspect(RMS_NORM, wrong[:failing] + right[:good])
        return (bugs.index(bug), said) if bug else (None, said)

    every, all_right = {f"w{i}" for i in range(6)}, {f"r{i}" for i in range(12)}  # six wrong ones and twelve right ones
    assert told(every | all_right) == (0, str(bugs[0]))
    assert told({"w0", "w1", "w2"} | all_right) == (0, f"in part {bugs[0]}")
    assert told({"w0", "w1"} | all_right) == (None, "")
    assert told(every | {f"r{i}" for i in range(9)}) == (0, str(bugs[0]))
    assert told(every | {f"r{i}" for i in range(8)}) == (None, "")
    assert told({"w0", "w1", "w2", "w3"} | all_right, every | all_right)[0] == 1
    assert told(every | {f"r{i}" for i in range(10)}, every | all_right)[0] == 1
    assert told(every | all_right, every | all_right)[0] == 0
    assert told(every | all_right, failing=0) == (None, "") and told() == (None, "")
    assert told({"w0"}, failing=1, good=0) == (0, str(bugs[0]))
    assert told({"w6", "w7"} | all_right) == (None, "")  # six are compared


def test_answers_are_alike_within_a_few_bounds_of_the_wrong_number():
    def told(ours, theirs, right, bound=1.0, backward=False):
        expected = {"y": Expected(np.array(right), None if bound is None else np.full(np.shape(right), bound))}
        one, other = ({"y": Result(np.array(y))} for y in (ours, theirs))
        if backward:
            return suspects.alike(Outcome({}, other), Outcome({}, one), expected, True)
        return suspects.alike(Outcome(other), Outcome(one), expected, False)

    # of a right 9 ± 1, a bug's 30 is four times as large as they are together: four bounds, each four times as wide
    assert told([30.0 + 15.9], [30.0], [9.0]) and not told([30.0 + 16.1], [30.0], [9.0])
    assert told([30.0 + 15.9], [30.0], [9.0], backward=True) and not told([30.0 + 16.1], [30.0], [9.0], backward=True)
    assert told([-30.0 - 15.9], [-30.0], [-9.0]) and not told([46.1], [30.0], [9.0])
    assert told([3.0], [3.0], [9.0], 0.0) and not told([3.1], [3.0], [9.0], 0.0)
    assert told([NAN], [NAN], [1.0]) and told([INF], [INF], [1.0]) and not told([1e9], [INF], [1.0])
    assert told([2], [2], [1], None) and not told([3], [2], [1], None)
    assert told([1.0, 2.0], [1.0, 2.0], [1.0]) and not told([1.0, 2.1], [1.0, 2.0], [1.0])  # both of a wrong shape
    assert not suspects.alike(Outcome(), Outcome({"y": Result(1)}), {}, False)
    assert not suspects.alike(Outcome({"y": Result(1)}), Outcome(), {}, False)


@pytest.mark.parametrize("bug", ["RMS_NORM-M03", "RMS_NORM-M11", "RMS_NORM-M14"])  # a value, a gradient, a rounding
def test_a_known_bug_is_called_by_its_name(bug):
    known = load_mutants("rms_norm")[bug]
    made = suspects.implementation_of(RMS_NORM, known)
    assert made.name == bug and made.profiles == ("float64",) and ("rms_norm" in made.vjps) == (known.vjp is not None)
    made.levels = ("Forward", "Backward") if known.vjp else ("Forward",)
    made.profiles = ("float16", "float32") if known.narrow else ("float64",)
    report = verify(made, ["rms_norm"])
    assert f"looks like  {known}" in str(report) and known.owner in {v.clause for v in report.failures}


def test_a_bug_explains_what_it_shows_in():
    forward, gradient, narrow = (load_mutants("rms_norm")[f"RMS_NORM-M{n}"] for n in ("03", "11", "14"))
    case = next(c for c in vectors.recorded(RMS_NORM) if c.id == "rms_norm/basic")

    def gives(bug, profile="float64", part="y"):
        made = suspects.implementation_of(RMS_NORM, bug)
        outcome = LocalRunner(made).ask(case, profile, gradient=bug.vjp is not None)
        return Finding(case, profile, part, "fail", (), outcome=outcome)

    right = suspects.implementation_of(RMS_NORM, replace(forward, function=RMS_NORM.reference))
    honest = Finding(case, "float64", "y", "fail", (), outcome=LocalRunner(right).ask(case, "float64"))
    assert suspects.explains(forward, gives(forward)) and not suspects.explains(forward, honest)
    assert suspects.explains(gradient, gives(gradient, part="gradient x"))
    assert not suspects.explains(gradient, gives(gradient))  # its forward pass is right
    assert suspects.explains(narrow, gives(narrow, "float16"))
    bfloat16 = replace(gives(narrow, "float16"), profile="bfloat16")
    assert not suspects.explains(narrow, bfloat16)  # NumPy has none


def test_known_bugs_are_found_where_they_have_another_name():
    for name, other in suspects.CALLED.items():
        assert {bug.op for bug in suspects.of(OPERATIONS[name])} & {other} == {other}
    assert {bug.op for bug in suspects.of(RMS_NORM)} == {"rms_norm"}
    assert {bug.op for bug in suspects.of(OPERATIONS["route"])} == {"route"}  # and not those of the whole component
    made = suspects.implementation_of(OPERATIONS["transformer.loss"], suspects.of(OPERATIONS["transformer.loss"])[0])
    assert set(made.vjps) == {"transformer.loss"}  # whose gradients come with it


# --- the command


@pytest.fixture
def theirs(monkeypatch):
    """A module of implementations: one right, one wrong, one whose fault is known."""

    def wrong(x, weight, *, eps):
        return 2 * RMS_NORM.reference(x, weight, eps=eps)

    module = ModuleType("their_kit_here")
    for name, function in (("right", RMS_NORM.reference), ("wrong", wrong), ("known", wrong)):
        made = Implementation(name, levels=["Forward"])
        made.op("rms_norm", function)
        setattr(module, name, made)
    failing = {v.clause for v in verify(module.known, ["rms_norm"]).failures}
    module.known.expected_failures = dict.fromkeys(failing, "issue 12")
    monkeypatch.setitem(sys.modules, "their_kit_here", module)


@pytest.mark.parametrize("name, code", [("right", 0), ("wrong", 1), ("known", 0)])
def test_the_command_ends_with_1_where_something_is_wrong_that_was_not_declared(theirs, capsys, tmp_path, name, code):
    arguments = ["run", f"their_kit_here:{name}", "--ops", "rms_norm", "--json", str(tmp_path / "report.json")]
    if code:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 1
    else:
        main(arguments)
    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith(f"{name}: {'passed' if name == 'right' else 'NOT PASSED'}: ")
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text)["summary"] == said.splitlines()[-1] and text.endswith("}\n")


def told_to(monkeypatch, *arguments):
    """What the command asks of `verify`."""
    given = {}

    def verify(implementation, **options):
        given.update(options, implementation=implementation.name)
        return Report("mine", (Verdict("rms_norm", "RMS_NORM-1", "Forward", "PASS", "text"),))

    monkeypatch.setattr(command, "verify", verify)
    main(["run", *arguments])
    return given


def test_the_command_hands_its_options_on(theirs, monkeypatch):
    plain = told_to(monkeypatch, "their_kit_here:right")
    assert plain == {"implementation": "right", "ops": None, "level": "quick", "seed": 0, "case": None, "profile": None,
                     "seconds": SECONDS}  # fmt: skip
    given = told_to(monkeypatch, "their_kit_here:right", "--ops", "rms_norm", "swiglu", "--level", "full", "--seed",
                    "3", "--case", "rms_norm/basic", "--profile", "float32", "--seconds", "2.5")  # fmt: skip
    assert given == {"implementation": "right", "ops": ["rms_norm", "swiglu"], "level": "full", "seed": 3,
                     "case": "rms_norm/basic", "profile": "float32", "seconds": 2.5}  # fmt: skip
    assert told_to(monkeypatch, "their_kit_here:right", "--case", "rms_norm/basic")["ops"] == ["rms_norm"]


def test_a_program_is_judged_by_its_runner_with_the_profiles_it_is_to_claim(monkeypatch):
    asked_of = []

    @contextlib.contextmanager
    def program(line, profiles, seconds):
        asked_of.append((line, profiles, seconds))
        yield Implementation("theirs"), "its runner"

    monkeypatch.setattr(command, "program", program)
    given = told_to(monkeypatch, "--exec", "run me", "--profiles", "float32", "bfloat16", "--seconds", "3")
    assert (given["implementation"], given["runner"], given["seconds"]) == ("theirs", "its runner", 3.0)
    told_to(monkeypatch, "--exec", "run me")
    assert asked_of == [("run me", ["float32", "bfloat16"], 3.0), ("run me", None, SECONDS)]


@pytest.mark.parametrize("arguments", [[], ["their:impl", "--exec", "run me"]])
def test_one_of_the_two_is_judged(arguments):
    with pytest.raises(UserError, match=r"give PKG.MODULE:IMPL or --exec COMMAND, one of the two"):
        main(["run", *arguments])


def test_the_operations_that_have_a_case_are_found_by_its_name():
    assert command.owning("rms_norm/generated/heavy_rows_3") == command.owning("rms_norm/law/scaled") == ["rms_norm"]
    assert command.owning("cross_entropy/basic") == ["cross_entropy"]
    assert set(command.owning("transformer/minimind2")) >= {"transformer"}
    with pytest.raises(UserError, match=r"^--case rms_norm/nine: there is no such case$"):
        command.owning("rms_norm/nine")
    with pytest.raises(UserError, match="there is no operation 'rmsnorm'"):
        command.owning("rmsnorm/law/scaled")


def test_the_other_commands_do_what_they_say(monkeypatch, capsys, tmp_path):
    calls = []
    report = Report("graded", (Verdict("rms_norm", "RMS_NORM-1", "Forward", "PASS", "text"),))
    monkeypatch.setattr(command, "write_cases", lambda *given: calls.append(given) or 7)
    monkeypatch.setattr(command, "grade", lambda *given: calls.append(given) or report)
    monkeypatch.setattr(command.command, "run", lambda options: calls.append(options.command))
    folder = tmp_path / "deep" / "folder"
    for _ in range(2):  # the folder may be there
        main(["cases", str(folder), "--ops", "rms_norm"])
    assert folder.is_dir() and capsys.readouterr().out == f"7 questions in {folder}\n" * 2
    main(["cases", str(folder), "--profiles", "float32", "float64"])
    main(["grade", str(folder), "--json", str(tmp_path / "graded.json")])
    assert json.loads((tmp_path / "graded.json").read_text())["name"] == "graded"
    main(["grade", str(folder), "--ops", "rms_norm,", "swiglu,route"])
    assert capsys.readouterr().out.count(f"{report.summary}\n") == 2
    main(["peers", "--only", "torch"])
    assert calls == [
        *[(folder, ["rms_norm"], ["float64"])] * 2, (folder, None, ["float32", "float64"]), (folder, None),
         (folder, ["rms_norm", "swiglu", "route"]), "peers",
    ]  # fmt: skip
    clip = OPERATIONS["clip_grad_norm"]
    monkeypatch.setattr(command, "ALL", [RMS_NORM, clip])
    main(["ops"])
    assert capsys.readouterr().out.splitlines() == [
        f"Forward    {RMS_NORM.signature} -> y", f"Optimiser  {clip.signature} -> gradients, norm",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [[], ["judge"], ["run", "a:b", "--level", "slow"], ["run", "a:b", "--profile", "float8"], ["run", "a:b", "--ops"],
     ["run", "a:b", "--profiles", "float8"], ["run", "a:b", "--seed", "x"], ["run", "a:b", "--seconds", "x"],
     ["grade"], ["cases"], ["cases", "d", "--profiles", "float8"], ["grade", "d", "--ops"], ["cases", "d", "--ops"],
     ["cases", "d", "--json", "f"]],
)  # fmt: skip
def test_a_wrong_command_line_is_bad_input(arguments):
    with pytest.raises((UserError, SystemExit)) as said:
        main(arguments)
    assert getattr(said.value, "code", 2) == 2


# --- files of tensors


TENSORS = {
    "w": (np.array([[1.0, -0.5, 2.0**-14], [0.0, 3.0, -256.0]]), "float32"),
    "b": (np.array([1.5, -2.0]), "bfloat16"),
    "n": (np.array(2.5), "float16"),
    "d": (np.array([2.0**-60]), "float64"),
    "i": (np.array([1, -(2**40)]), "int64"),
    "j": (np.array([1, -7]), "int32"),
    "u": (np.array([0, 255]), "uint8"),
    "m": (np.array([True, False]), "bool"),
    "e": (np.zeros((0, 3)), "bfloat16"),
}


def test_the_library_of_safetensors_reads_what_is_written_and_the_other_way(tmp_path):
    tensors.write(tmp_path / "a", TENSORS)
    read = load_file(tmp_path / "a")
    for name, (array, dtype) in TENSORS.items():
        assert str(read[name].dtype) == f"torch.{dtype}" and read[name].shape == array.shape
        assert np.array_equal(read[name].double().numpy(), array.astype(float)), name
    save_file(read, tmp_path / "b", metadata={"format": "pt"})
    for path in (tmp_path / "a", tmp_path / "b"):
        found = tensors.read(path)
        assert {name: dtype for name, (_, dtype) in found.items()} == {n: dtype for n, (_, dtype) in TENSORS.items()}
        for name, (array, dtype) in TENSORS.items():
            wide = "float64" if "float" in dtype else "bool" if dtype == "bool" else "int64"
            assert found[name][0].dtype == wide and np.array_equal(found[name][0], array), name
            assert found[name][0].shape == array.shape
    assert int.from_bytes((tmp_path / "a").read_bytes()[:8], "little") % 8 == 0  # the tensors begin aligned


def test_what_is_no_file_of_tensors_is_told(tmp_path):
    def headed(text):
        return len(text).to_bytes(8, "little") + text

    for data in (
        *(b"", b"\0" * 7, b"x" * 40, (9).to_bytes(8, "little") + b"{}"),
        *map(headed, (b"[]", b"null", b"{]", b'{"x": [1]}', b'{"x": {"a":1}}')),
    ):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(ValueError, match=r"^x is no safetensors file"):
            tensors.read(tmp_path / "x")


def test_a_file_without_tensors_is_one(tmp_path):
    tensors.write(tmp_path / "x", {})
    assert tensors.read(tmp_path / "x") == {}
    (tmp_path / "y").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert tensors.read(tmp_path / "y") == {}


# --- asking in this process


def local(function, name="rms_norm", vjp=None, seconds=20.0, **rest):
    made = Implementation("mine", **rest)
    made.op(name, function, vjp=vjp)
    return LocalRunner(made, seconds)


def basic(name="rms_norm/basic"):
    entry = OPERATIONS[name.partition("/")[0]]
    return next(case for case in vectors.recorded(entry) if case.id == name)


def norm(x, weight, *, eps):
    return RMS_NORM.reference(x, weight, eps=eps)


def refuses(error):
    def function(x, weight, *, eps):
        print("so be it")
        raise error

    return function


@pytest.mark.parametrize(
    "function, problem, said",
    [
        (lambda x, *, eps: x, "cannot", "it takes no argument 'weight'"),
        (refuses(CannotExpressError("not offered")), "cannot", "not offered"),
        (refuses(OtherChoiceError("another")), "choice", "another"),
        (refuses(ValueError("no")), "raised", "raised ValueError: no"),
        (lambda x, weight, *, eps: Pair, "", ""),
    ],
)
def test_what_comes_of_a_call(function, problem, said):
    found = local(function).ask(basic(), "float64")
    assert found.problem == problem and found.text.startswith(said)
    assert found.printed == ("so be it\n" if problem and "lambda" not in function.__name__ else "")


def test_a_call_that_asks_for_another_choice_is_not_made():
    case = replace(basic(), parameters={"eps": 1e-5, "cast": "before"})
    found = local(norm).ask(case, "float64")
    assert (found.problem, found.text[:13]) == ("choice", "cast='before'")
    fixed = local(norm, choices={"rms_norm.cast": "after"}).ask(case, "float64")
    assert (fixed.problem, fixed.text) == ("choice", "cast='before': it takes cast='after'")


def test_results_of_the_wrong_number_are_of_the_wrong_type():
    def one(documents, length, *, pad_id=0):
        print("here")
        return np.zeros(1)

    case = vectors.recorded(OPERATIONS["pack"])[0]
    found = local(one, "pack").ask(case, "float64")
    assert (found.problem, found.printed) == ("type", "here\n") and "returned one ndarray but input_ids" in found.text


def test_a_library_that_lacks_a_precision_is_not_asked_in_it():
    def to_array(x, dtype):
        raise ModuleNotFoundError("no", name="their_dtypes")

    found = local(norm, arrays=(to_array, np.asarray)).ask(basic(), "bfloat16")
    assert (found.problem, found.text) == ("profile", "bfloat16 needs their_dtypes, which is not installed")


def test_a_wrapper_is_asked_again_without_what_it_hands_on_in_vain():
    asked_of = []

    def wrapper(*given, **options):
        asked_of.append(sorted(options))
        return norm(*given, **options)

    case, runner = replace(basic(), parameters={"eps": 1e-5, "cast": "after"}), local(wrapper)
    assert runner.ask(case, "float64", gradient=False).problem == ""
    assert runner.ask(case, "float64").problem == "" and runner.unwanted == {"rms_norm": {"cast"}}
    assert asked_of == [["cast", "eps"], ["eps"], ["eps"]]


def test_the_arguments_that_changed_are_named():
    def spoils(x, weight, *, eps):
        y = norm(x, weight, eps=eps)
        weight[0] = NAN
        return y

    found = local(spoils).ask(basic(), "float64")
    assert found.changed == ("weight",) and local(norm).ask(basic(), "float64").changed == ()
    whole = replace(basic(), inputs={"x": np.full((2, 3), NAN), "weight": np.ones(3)})
    assert local(norm).ask(whole, "float64").changed == ()  # NaN is the same as itself


def test_gradients_come_from_a_vjp_or_the_library_where_they_are_asked_for():
    def vjp(x, weight, *, eps, cotangent):
        return RMS_NORM.reference_vjp(x, weight, eps=eps, cotangent=cotangent)

    case = basic()
    assert local(norm).ask(case, "float64").gradients is None
    given = local(norm, vjp=vjp)
    assert given.has_gradient("rms_norm") and not local(norm).has_gradient("rms_norm") and given.has("rms_norm")
    assert given.live
    assert not given.has("swiglu") and given.ask(case, "float64", gradient=False).gradients is None
    assert given.ask(replace(case, cotangent={}), "float64").gradients is None

    def in_torch(x, weight, *, eps):
        return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)

    by_torch = local(in_torch, arrays="torch").ask(case, "float64")
    expected = case.answer("float64")[1]
    for outcome in (given.ask(case, "float64"), by_torch):
        assert list(outcome.gradients) == ["x", "weight"] and outcome.outputs["y"].dtype == "float64"
        assert all(compare(n, outcome.gradients[n], e).good for n, e in expected.items())
    narrow = local(in_torch, arrays="torch").ask(case, "bfloat16")
    assert narrow.gradient_problem == "" and narrow.gradients["x"].dtype == "bfloat16"
    failed = local(norm, vjp=refuses(ValueError("no"))).ask(case, "float64")
    assert failed.gradient_problem == "raised" and failed.outputs and failed.gradients is None
    few = local(norm, vjp=lambda x, weight, *, eps, cotangent: x).ask(case, "float64")
    assert (few.gradient_problem, few.gradient_text) == ("type", "gave 1 gradients but there are 2: x, weight")


def test_what_stays_float32_is_given_so_in_a_narrow_precision():
    kinds = {}

    def rope(x, cos, sin):
        kinds.update(x=x.dtype, cos=cos.dtype)
        return x

    case = vectors.recorded(OPERATIONS["apply_rope"])[0]
    for profile, x, cos in (("float16", "float16", "float32"), ("float64", "float64", "float64")):
        local(rope, "apply_rope").ask(case, profile, gradient=False)
        assert kinds == {"x": x, "cos": cos}
    given = []  # its results are float32, and its inputs what the precision says
    case = vectors.recorded(OPERATIONS["sequence_logp"])[0]
    local(lambda logp, *rest, **options: given.append(logp.dtype), "sequence_logp").ask(case, "float16", gradient=False)
    assert given == ["float16"]


def test_data_is_given_as_it_is():
    seen = []
    case = vectors.recorded(OPERATIONS["pack"])[0]
    local(lambda documents, length, **rest: seen.extend([documents, length]), "pack").ask(case, "float64")
    assert seen == [case.inputs["documents"], case.inputs["length"]] and [type(x) for x in seen] == [list, int]
    among = vectors.recorded(OPERATIONS["training.step"])[0]  # a count among arrays
    local(lambda state, window, config, **rest: seen.append(state["step"]), "training.step").ask(among, "float64")
    assert seen[2] == among.inputs["state"]["step"] and isinstance(seen[2], int)


def test_a_law_gets_numpy_results_and_what_is_raised():
    x, weight = np.ones((2, 3)), np.full(3, 2.0)

    def answer(function, arguments=None, **rest):
        runner = local(function, **rest)
        return runner.answer(RMS_NORM, arguments or {"x": x, "weight": weight, "eps": 3.0}, "float32")

    assert isinstance(answer(lambda x, weight, *, eps: x * weight / 2, arrays="torch"), np.ndarray)
    assert np.array_equal(answer(lambda x, weight, *, eps: x * weight / 2, arrays="torch"), x)
    assert answer(lambda x, weight, *, eps: str(x.dtype)) == "float32"
    for error, choice in ((CannotExpressError("e"), False), (OtherChoiceError("e"), True)):
        with pytest.raises(NoAnswerError, match=r"^e$") as said:
            answer(refuses(error))
        assert said.value.choice is choice
    for function, choice in ((lambda x: x, False), (norm, True)):
        with pytest.raises(NoAnswerError) as said:
            answer(function, {"x": x, "weight": weight, "eps": 3.0, "cast": "before"})
        assert said.value.choice is choice
    with pytest.raises(ZeroDivisionError):
        answer(lambda x, weight, *, eps: 1 / 0)
    with pytest.raises(RuntimeError, match=r"^raised SystemExit: 3"):
        answer(lambda x, weight, *, eps: sys.exit(3))

    def spins(x, weight, *, eps):
        while True:
            pass

    with pytest.raises(RuntimeError, match=r"^took longer than 0\.05 s$"):
        answer(spins, seconds=0.05)


def test_results_by_name_come_in_the_order_in_which_a_law_unpacks_them():
    adamw = OPERATIONS["adamw.step"]
    named_ones = {"square": 3, "more": 4, "mean": 2, "param": 1}
    assert ordered(named_ones, adamw) == (1, 2, 3)
    Step = namedtuple("Step", "mean square param")
    assert ordered(Step(2, 3, 1), adamw) == (1, 2, 3)
    assert ordered({"param": 1}, adamw) == {"param": 1} and ordered((2, 1, 3), adamw) == (2, 1, 3)
    assert ordered({"y": 1}, RMS_NORM) == {"y": 1}  # one result has no order
    assert ordered({"sin": 2, "cos": 1}, OPERATIONS["rope_table"]) == (1, 2)
    t = torch.ones(2)
    found = plainly({"a": (t, [t, "text"]), "b": Pair(t, 1)}, library("torch"))
    assert isinstance(found["a"][0], np.ndarray) and isinstance(found["a"][1][0], np.ndarray)
    assert found["a"][1][1] == "text" and isinstance(found["b"], Pair) and isinstance(found["b"].first, np.ndarray)


def test_arguments_are_the_same_in_shape_and_numbers():
    a = np.array([1.0, NAN])
    assert same(a, a.copy()) and same(np.array([1]), np.array([1])) and same("x", "x") and same(None, None)
    assert same([1], [1]) and not same(None, np.ones(2)) and not same([1.0], np.ones(1))
    assert not same(a, np.array([2.0, NAN])) and not same(a, None) and not same(np.ones(1), np.ones((1, 1)))
    assert not same(np.ones(1), 1.0) and not same("x", "y")


# --- the words of the protocol


def test_a_question_to_a_program_has_its_tensors_in_a_file(tmp_path):
    case = basic()
    told = question(case, "float32", 7, tmp_path, gradient=True)
    assert told == {
        "id": 7, "op": "rms_norm", "profile": "float32", "parameters": case.parameters, "outputs": ["y"],
        "inputs": {"x": {"tensor": "inputs.x"}, "weight": {"tensor": "inputs.weight"}},
        "cotangent": {"y": {"tensor": "cotangent.y"}}, "gradients": ["x", "weight"],
        "tensors": str(tmp_path / "7.safetensors"), "answer": str(tmp_path / "7.answer.safetensors"),
    }  # fmt: skip
    kept = tensors.read(tmp_path / "7.safetensors")
    inputs, cotangent = case.stored("float32")
    for name, x in (("inputs.x", inputs["x"]), ("cotangent.y", cotangent["y"])):
        assert kept[name][1] == "float32" and np.array_equal(kept[name][0], x)
    assert not {"cotangent", "gradients"} & set(question(case, "float32", 7, tmp_path, gradient=False))
    assert "cotangent" not in question(replace(case, cotangent={}), "float32", 7, tmp_path, gradient=True)
    rope = vectors.recorded(OPERATIONS["apply_rope"])[0]
    question(rope, "bfloat16", 8, tmp_path, gradient=True)
    kept = {name: dtype for name, (_, dtype) in tensors.read(tmp_path / "8.safetensors").items()}
    assert (kept["inputs.x"], kept["inputs.cos"], kept["cotangent.y"]) == ("bfloat16", "float32", "bfloat16")
    question(rope, "float64", 9, tmp_path, gradient=True)
    assert tensors.read(tmp_path / "9.safetensors")["inputs.cos"][1] == "float64"
    question(vectors.recorded(OPERATIONS["kl_k3"])[0], "bfloat16", 9, tmp_path, gradient=True)
    kept = tensors.read(tmp_path / "9.safetensors")
    assert {dtype for name, (_, dtype) in kept.items() if name.startswith("inputs.")} == {"bfloat16"}
    ids = vectors.recorded(OPERATIONS["cross_entropy"])[0]
    question(ids, "float32", 9, tmp_path, gradient=True)
    assert tensors.read(tmp_path / "9.safetensors")["inputs.labels"][1] == "int64"
    talk = question(vectors.recorded(OPERATIONS["sft_mask"])[0], "float64", 9, tmp_path, gradient=True)
    assert set(talk["inputs"]["tokenizer"]) == {"vocab", "merges", "control_ids"}


@pytest.mark.parametrize(
    "line, number, said",
    [
        ("y = 1\n", 7, "answered no JSON: 'y = 1'"),
        ("[1]", 7, "answered '[1]', which is no object with id 7"),
        ('{"id": 6}', 7, """answered '{"id": 6}', which is no object with id 7"""),
        ("x" * 200, 7, f"answered no JSON: '{'x' * 120}'"),
        ('"' + "x" * 200 + '"', 7, f"""answered '"{"x" * 119}', which is no object with id 7"""),
    ],
)
def test_an_answer_is_an_object_with_the_id_of_the_question(line, number, said):
    with pytest.raises(protocol.NonsenseError) as error:
        protocol.parsed(line, number)
    assert str(error.value) == said
    assert protocol.parsed('{"id": 7, "outputs": 3}', 7) == {"id": 7, "outputs": 3}
    assert protocol.parsed('{"outputs": 3}', 0) == {"outputs": 3}  # a file has no id


@pytest.mark.parametrize(
    "line, said",
    [
        ("{}", "answered '{}', which has no list of ops"),
        ('{"ops": null}', "which has no list of ops"),
        ('{"ops": "x"}', "which has no list of ops"),
        ('{"ops": [], "profiles": "x"}', "which has no list of profiles"),
        ('{"ops": [], "choices": []}', "which has no dict of choices"),
    ],
)
def test_a_greeting_says_what_there_is(line, said):
    with pytest.raises(protocol.NonsenseError) as error:
        protocol.greeting(line)
    assert said in str(error.value)
    whole = {"ops": ["a"], "profiles": None, "choices": None}
    assert protocol.greeting(json.dumps(whole)) == whole


def test_an_answer_is_read_from_the_line_and_the_file(tmp_path):
    case, file = basic(), tmp_path / "a.safetensors"
    tensors.write(file, {"y": (np.ones((2, 3)), "float32"), "dx": (np.zeros(2), "bfloat16")})
    y, data = {"tensor": "y"}, {"shape": [2, 1], "dtype": "float16", "values": ["NaN", "-Infinity"]}
    found = protocol.outcome({"outputs": {"y": y, "more": 1}}, case, "float32", file)
    assert (list(found.outputs), found.outputs["y"].dtype, found.gradients) == (["y"], "float32", None)
    gradients = {"x": {"tensor": "dx"}, "weight": {"shape": [2], "values": [1.5, "Infinity"]}}
    found = protocol.outcome({"outputs": {"y": data}, "gradients": gradients}, case, "float32", file)
    assert found.outputs["y"].dtype == "float16" and found.outputs["y"].value.shape == (2, 1)
    assert np.isnan(found.outputs["y"].value[0, 0]) and found.outputs["y"].value[1, 0] == -INF
    assert found.gradients["x"].dtype == "bfloat16"
    assert (found.gradients["weight"].dtype, found.gradients["weight"].value.tolist()) == ("float64", [1.5, INF])
    forward = replace(case, answer=lambda profile: (case.answer(profile)[0], {}))
    assert protocol.outcome({"outputs": {"y": y}, "gradients": {}}, forward, "float32", file).gradients is None
    for said, problem, words in (({"error": "e" * 400}, "raised", f"answered the error {'e' * 300!r}"),
                                 ({"cannot": "mask"}, "cannot", "it takes no argument 'mask'")):  # fmt: skip
        found = protocol.outcome(said, case, "float32", tmp_path / "none")
        assert (found.problem, found.text) == (problem, words)


@pytest.mark.parametrize(
    "answer, said",
    [
        ({}, "its outputs lack y"),
        ({"outputs": [1]}, "its outputs lack y"),
        ({"outputs": {"z": 1}}, "its outputs lack y"),
        ({"outputs": {"y": 1}, "gradients": {"x": 1}}, "its gradients lack weight"),
        ({"outputs": {"y": 1}, "gradients": None}, "its gradients lack weight, x"),
        ({"outputs": {"y": {"tensor": "y"}}}, "the answer's file has no tensor 'y'"),
        ({"outputs": {"y": {"shape": [3], "values": [1, 2]}}}, "a tensor's values cannot be read: cannot reshape"),
        (
            {"outputs": {"y": {"shape": [2], "values": [1, None]}}},
            "a tensor's values have null, which is no number; NaN, Infinity, -Infinity are, as strings",
        ),
    ],
)
def test_an_answer_that_lacks_something_says_what(tmp_path, answer, said):
    with pytest.raises(protocol.NonsenseError) as error:
        protocol.outcome(answer, basic(), "float32", tmp_path / "none")
    assert str(error.value).startswith(said)


def test_an_answer_of_whole_numbers_and_data_is_one():
    ids = protocol.one({"shape": [2], "values": [1, 2], "dtype": "int32"}, {})
    assert (ids.dtype, ids.value.dtype.kind) == ("int32", "i")
    assert protocol.one({"shape": [1], "values": [1]}, {}).dtype == "int64"
    assert protocol.one({"shape": [1], "values": [1], "dtype": "float32"}, {}).value.dtype == "float64"
    for plain in (True, 2, 2.5):
        assert protocol.one(plain, {}).dtype is None and protocol.one(plain, {}).value == np.asarray(plain)
        assert isinstance(protocol.one(plain, {}).value, np.ndarray)
    assert protocol.one([1, 2], {}) == Result([1, 2]) and protocol.one({"shape": [1]}, {}) == Result({"shape": [1]})
    assert protocol.one({"values": ["text"], "shape": [1]}, {}).value.tolist() == ["text"]


# --- array libraries


def test_numpy_arrays_go_out_in_their_precision_and_come_back_wide():
    x = np.array([1.0, 2.0**-30 + 1])
    for profile, dtype in (("float32", "float32"), ("float16", "float16"), ("float64", "float64")):
        assert NUMPY.make(x, profile).dtype == dtype
    assert NUMPY.make(np.array([1, 2], np.int32), "float32").dtype == np.int32
    assert NUMPY.make(np.array([True]), "float32").dtype == bool and NUMPY.profiles == ("float64",)
    NUMPY.make(x, "float64")[0] = 9
    assert x[0] == 1  # it is a copy
    for y, kind in ((np.float16([1]), "float64"), (np.uint8([1]), "int64"), (np.array([True]), "bool"),
                    (np.float32(1), "float64")):  # fmt: skip
        numbers, dtype = NUMPY.plain(y)
        assert numbers.dtype == kind and dtype == y.dtype.name and isinstance(numbers, np.ndarray)
    assert [NUMPY.holds(y) for y in (np.ones(1), np.float32(1), 1.0, [1.0], np.array(["a"]), np.array([None]))] == [
        True, True, False, False, False, False,
    ]  # fmt: skip


def test_numpy_has_bfloat16_where_ml_dtypes_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", SimpleNamespace(bfloat16=np.float16))  # as a stand-in
    assert NUMPY.make(np.ones(2), "bfloat16").dtype == np.float16
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ModuleNotFoundError):
        NUMPY.make(np.ones(2), "bfloat16")


def test_torch_tensors_go_out_and_come_back(monkeypatch):
    of = library("torch")
    assert (
        of.make(np.ones(2), "bfloat16").dtype == torch.bfloat16
        and of.make(np.array([1]), "float32").dtype == torch.int64
    )
    x = np.ones(2)
    of.make(x, "float64")[0] = 9
    assert x[0] == 1
    for y, kind, dtype in (
        (torch.ones(1, dtype=torch.bfloat16, requires_grad=True), "float64", "bfloat16"),
        (torch.tensor([1], dtype=torch.int32), "int64", "int32"),
        (torch.ones(1) > 0, "bool", "bool"),
    ):
        numbers, found = of.plain(y)
        assert (numbers.dtype, found) == (kind, dtype)
    assert of.holds(torch.ones(1)) and not of.holds(np.ones(1)) and not of.holds(torch.ones(1, dtype=torch.complex64))
    assert (of.profiles, of.name, library(of)) == (("float64", "float32"), "torch", of)
    begun = []  # before the clock of a call runs, torch has differentiated something
    monkeypatch.setattr(gradients, "torch_gradient", lambda run, wanted, along: begun.append(run(wanted)))
    library("torch")
    assert len(begun) == 1


@pytest.fixture
def elsewhere(monkeypatch):
    """As much of JAX and of MLX as the kit asks for, made of NumPy: neither is installed where the tests run."""

    class Array:
        def __init__(self, x, dtype=None):
            self.x, self.dtype = np.array(x), dtype or f"mlx.core.{np.array(x).dtype}"

        def astype(self, dtype):
            return Array(self.x, dtype)

        def __array__(self, dtype=None, copy=None):
            if self.dtype == "mlx.core.bfloat16":
                raise RuntimeError("NumPy has no bfloat16")
            return self.x

    core = SimpleNamespace(array=Array, **{d: f"mlx.core.{d}" for d in ("float32", "float16", "bfloat16", "bool_")})
    jnp = SimpleNamespace(asarray=lambda x, dtype=None: np.asarray(x, dtype))
    jax = SimpleNamespace(Array=np.ndarray, numpy=jnp, config=SimpleNamespace(jax_enable_x64=True))
    for name, module in {"jax": jax, "jax.numpy": jnp, "mlx": SimpleNamespace(core=core), "mlx.core": core}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return SimpleNamespace(jax=jax, mlx=core)


def test_jax_arrays_go_out_and_come_back(elsewhere):
    of = library("jax")
    assert of.make(np.ones(1), "float32").dtype == "float32" and of.make(np.ones(1, int), "float32").dtype == "int64"
    assert of.holds(np.ones(1)) and not of.holds([1.0]) and of.gradient is gradients.jax_gradient
    numbers, dtype = of.plain(np.float16([2.0]))
    assert (numbers.dtype, dtype, of.profiles, of.name) == ("float64", "float16", ("float64", "float32"), "jax")
    elsewhere.jax.config.jax_enable_x64 = False
    assert library("jax").profiles == ("float32",)


def test_mlx_arrays_go_out_and_come_back(elsewhere):
    of = library("mlx")
    made = of.make(np.array([2.5]), "bfloat16")
    assert made.dtype == elsewhere.mlx.bfloat16 and made.x.dtype == np.float32 and of.profiles == ("float32",)
    assert of.make(np.array([1, 2]), "float32").x.dtype == np.int64
    assert of.holds(made) and not of.holds(np.ones(1)) and of.name == "mlx" and of.gradient is gradients.mlx_gradient
    mask = elsewhere.mlx.array([True], elsewhere.mlx.bool_)
    for y, kind, dtype in ((made, "float64", "bfloat16"), (of.make(np.ones(1), "float16"), "float64", "float16"),
                           (mask, "bool", "bool")):  # fmt: skip
        numbers, found = of.plain(y)
        assert (numbers.dtype, found) == (kind, dtype)


def test_converters_stand_for_a_library():
    class Theirs:
        def __init__(self, numbers):
            self.numbers = numbers

    def out(y):
        return y.numbers

    given = []
    one, two = library((Theirs, out)), library([lambda x, dtype: given.append(dtype) or Theirs(x), out])
    assert one.make(np.ones(2), "float32").numbers.dtype == np.float32 and one.profiles == ("float32",)
    assert two.make(np.ones(2), "float16").numbers.dtype == np.float64 and given == ["float16"]
    assert one.holds(Theirs(np.ones(1))) and not one.holds(Theirs("text")) and not one.holds(object())
    pair = library((lambda x: x, np.asarray))
    assert pair.holds(np.ones(1))
    assert not any(pair.holds(y) for y in (None, True, 1, 1.0, "1", [1.0], (1.0,), {"a": 1.0}))
    numbers, dtype = one.plain(Theirs(np.float32([2.0])))
    assert (numbers.dtype, dtype, numbers[0]) == ("float64", "float32", 2.0)


def test_a_converter_may_say_which_dtype_it_was():
    of = library((torch.from_numpy, lambda y: (y.float().numpy(), str(y.dtype).removeprefix("torch."))))
    y = torch.full((2,), 1.5, dtype=torch.bfloat16)  # which NumPy has not
    numbers, dtype = of.plain(y)
    assert of.holds(y) and not of.holds("text") and (numbers.tolist(), numbers.dtype) == ([1.5, 1.5], "float64")
    assert of.make(np.ones(2), "float32").dtype == torch.float32  # by a function that does not say what it takes
    assert dtype == "bfloat16" and result(y, of).dtype == "bfloat16"
    assert not library((len, lambda y: ("text", "float32"))).holds(y)


@pytest.mark.parametrize("arrays", ["numba", (len,), (len, 3), [len, len, len], None])
def test_a_library_that_nobody_knows_is_told(arrays):
    with pytest.raises(UserError) as said:
        library(arrays)
    assert (
        str(said.value) == f"arrays is {arrays!r} but must be one of numpy, torch, jax, mlx or (to_array, from_array)"
    )


@pytest.mark.parametrize("arrays", ["jax", "mlx"])
def test_a_library_that_is_not_installed_is_told(monkeypatch, arrays):
    monkeypatch.setitem(sys.modules, arrays, None)
    with pytest.raises(UserError, match=f"^arrays='{arrays}' needs .*{arrays}.*, which is not installed$"):
        library(arrays)


# --- what somebody hands in


def test_functions_are_registered_with_their_gradients():
    made = Implementation("mine")

    @made.op("rms_norm")
    def one(x, weight, *, eps):
        return x

    @made.vjp("rms_norm")
    def pulled(x, weight, *, eps, cotangent):
        return x, weight

    assert made.op("swiglu", one, vjp=pulled) is one and made.functions == {"rms_norm": one, "swiglu": one}
    assert made.vjps == {"rms_norm": pulled, "swiglu": pulled} and one(1, 2, eps=3) == 1
    made.op("attention", vjp=pulled)(one)
    assert made.functions["attention"] is one and made.vjps["attention"] is pulled
    for register in (made.op, made.vjp):
        with pytest.raises(UserError, match="there is no operation 'rmsnorm'"):
            register("rmsnorm")
    assert made.fixed("rms_norm") == {} and not made.refusals and made.origin == ""
    assert (made.profiles, made.levels, made.expected_failures) == (None, LEVELS, {})
    claims = Implementation("mine", profiles=["float32"], levels=["Forward"], refusals=True,
                            choices={"rms_norm.cast": "before", "moe.form": "batch", "dpo_loss.form": "ipo"},
                            expected_failures={"ROPE-4": "issue 12"})  # fmt: skip
    assert (claims.profiles, claims.levels, claims.refusals) == (("float32",), ("Forward",), True)
    alone = Implementation("mine", profiles="float32", levels="Forward")
    assert (alone.profiles, alone.levels) == (claims.profiles, claims.levels)
    assert claims.expected_failures == {"ROPE-4": "issue 12"}
    assert claims.fixed("rms_norm") == {"cast": "before"} and claims.fixed("dpo_loss") == {"form": "ipo"}


@pytest.mark.parametrize(
    "choices, said",
    [
        ({"rms_norm.eps": 1}, "choices has 'rms_norm.eps', which no operation has; "),
        ({"cast": 1}, "choices has 'cast', which no operation has; "),
        ({"rms_norm.casts": 1}, "choices has 'rms_norm.casts', which no operation has; did you mean rms_norm.cast?"),
        ({"zzz": 1}, "choices has 'zzz', which no operation has; known: cross_entropy.nothing_supervised, "),
        ({"clip_grad_norm.constant": 1}, "choices has clip_grad_norm.constant=1 but the option is 0"),
        ({"rms_norm.cast": "befor"}, "choices has rms_norm.cast='befor': cast='befor' must be one of after, before"),
        ({"dpo_loss.label_smoothing": "x"}, "choices has dpo_loss.label_smoothing='x': "),
        ({"dpo_loss.label_smoothing": 0.75}, "choices has dpo_loss.label_smoothing=0.75: label_smoothing is 0.75 but "),
    ],
)
def test_a_choice_that_no_operation_has_is_told(choices, said):
    with pytest.raises(UserError) as error:
        Implementation("mine", choices=choices)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    "claims, said",
    [
        ({"profiles": ["float32", "float8"]}, "profiles has 'float8' but the known ones are float64, float32, "),
        ({"levels": ["Sideways"]}, "levels has 'Sideways' but the known ones are Forward, Backward, "),
        (
            {"expected_failures": {"ROPE-nine": "x"}},
            "expected_failures has 'ROPE-nine', which is no MUST clause of specs/",
        ),
    ],
)
def test_a_claim_that_nobody_knows_is_told(claims, said):
    with pytest.raises(UserError) as error:
        Implementation("mine", **claims)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    "name, option",
    [
        ("clip_grad_norm.constant", 0),
        ("block.form", "batch"),  # which no argument names either
        ("grpo_loss.normalise", "constant"),  # which the first recorded case, without a length, does not allow
        ("aux_loss.form", "slots"),
    ],
)
def test_an_option_that_there_is_may_be_chosen(name, option):
    entry, _, argument = name.rpartition(".")
    assert Implementation("mine", choices={name: option}).fixed(entry) == {argument: option}


def test_an_implementation_is_loaded_by_its_name(theirs, tmp_path, monkeypatch):
    found = load("their_kit_here:right")
    assert (found.name, found.origin) == ("right", "their_kit_here:right")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    (tmp_path / "their_kit_there.py").write_text(
        "from minimind_ref.kit import Implementation\nimpl = Implementation('m')\n"
    )
    before = len(sys.path)
    assert load("their_kit_there:impl").name == "m" and sys.path[0] == str(tmp_path)
    load("their_kit_there:impl")
    assert len(sys.path) == before + 1
    sys.modules.pop("their_kit_there")
    for target, said in (
        ("nowhere", "'nowhere' must be PKG.MODULE:NAME, such as their_kit:impl"),
        ("a:", "'a:' must be PKG.MODULE:NAME"), (":b", "':b' must be PKG.MODULE:NAME"),
        ("no_such:b", "no_such:b: importing no_such raised ModuleNotFoundError"),
        ("their_kit_here:none", "their_kit_here:none: none is not there but must be a minimind_ref.kit.Implementation"),
        ("json:loads", "json:loads: loads is a function but must be a minimind_ref.kit.Implementation"),
    ):  # fmt: skip
        with pytest.raises(UserError) as error:
            load(target)
        assert str(error.value).startswith(said)


# --- laws


def spoilt(name, spoil):
    """The right function, whose result is spoilt."""
    return lambda *given, **options: spoil(OPERATIONS[name].reference(*given, **options), *given)


def first_row_of_all(y, x, weight):
    y = y.copy()
    y[0] += x.sum()
    return y


def last_row_of_all(y, x, weight):
    y = y.copy()
    y[2] += x.sum()
    return y


def refusing_all_but_the_scaling(head_dim, *, theta, scaling):
    return OPERATIONS["rope_frequencies"].reference(head_dim, theta=theta)


@pytest.mark.parametrize(
    "clause, function, said",
    [
        ("RMS_NORM-2", spoilt("rms_norm", first_row_of_all), "another row's result changed with row 1"),
        ("RMS_NORM-2", spoilt("rms_norm", last_row_of_all), "another row's result changed with row 1"),
        ("ROPE-22", lambda *given, **options: 1, "scaling type 'llama3' was accepted"),
        ("ROPE-22", refuses(KeyError("x")), "scaling type 'llama3' raised TypeError instead of a ValueError"),
        ("ROPE-22", refusing_all_but_the_scaling, "scaling type 'llama3' was accepted"),
        ("GRAD_CLIP-5", spoilt("clip_grad_norm", lambda y, g, m: ([y[0][0], 0.0, y[0][2]], y[1])), "a gradient of"),
        ("GRAD_CLIP-5", spoilt("clip_grad_norm", lambda y, g, m: ([None, None, y[0][2]], y[1])), "a gradient of None"),
        ("GRAD_CLIP-5", spoilt("clip_grad_norm", lambda y, g, m: ([y[0][0], None, None], y[1])), "a gradient of None"),
        ("GRAD_CLIP-5", spoilt("clip_grad_norm", lambda y, g, m: (y[0], NAN)), "the norm beside a None is nan"),
        ("GRAD_CLIP-6", spoilt("clip_grad_norm", lambda y, g, m: (y[0], 3.0)), "the norm of an infinite gradient is"),
        ("GRAD_CLIP-6", spoilt("clip_grad_norm", lambda y, g, m: ([g[0], 0 * g[1]], y[1])),
         "gradients of infinite norm were changed"),
        ("GRAD_CLIP-6", spoilt("clip_grad_norm", lambda y, g, m: ([0 * g[0], g[1]], y[1])),
         "gradients of infinite norm were changed"),
    ],
)  # fmt: skip
def test_a_law_that_is_broken_says_how(clause, function, said):
    with np.errstate(all="ignore"):
        found = PROPERTIES[clause].check(function)
    assert found is not None and found.startswith(said)
    assert PROPERTIES[clause].check(OPERATIONS[PROPERTIES[clause].op].reference) is None


def test_a_clause_has_one_law(monkeypatch):
    monkeypatch.setattr(properties, "PROPERTIES", {})
    check = properties.law("rms_norm", "RMS_NORM-2")(len)
    assert check is len and [*properties.PROPERTIES.values()] == [("rms_norm", "RMS_NORM-2", len)]
    with pytest.raises(ValueError, match=r"^clause RMS_NORM-2 has two properties$"):
        properties.law("rms_norm", "RMS_NORM-2")(max)
    assert properties.PROPERTIES["RMS_NORM-2"].check is len


# --- the plugin


def clause(status, failure=None):
    return Verdict("rms_norm", "RMS_NORM-1", "Forward", status, "What it says.", "the detail", failure=failure)


def test_an_item_ends_as_its_clause_does():
    def ends(status):
        try:
            plugin.ClauseItem.runtest(SimpleNamespace(verdict=clause(status)))
        except BaseException as error:
            return type(error).__name__, str(error)
        return "passed", ""

    assert ends("PASS") == ("passed", "")
    assert ends("CHOICE") == ("Skipped", "CHOICE: the detail") and ends("NOT RUN") == ("Skipped", "NOT RUN: the detail")
    assert ends("EXPECTED FAILURE") == ("XFailed", "the detail")
    for status in ("FAIL", "BLOCKED", "NOT IMPLEMENTED"):
        assert ends(status)[0] == "ClauseError"


class Config:
    """As much of pytest's as the plugin uses."""

    def __init__(self, **options):
        self.options, self.stash = options, pytest.Stash()

    def getoption(self, name):
        return self.options[name.removeprefix("--minimind-")]


@pytest.mark.parametrize(
    "ops, asked_for",
    [
        (None, None),
        ("rms_norm,swiglu", ["rms_norm", "swiglu"]),
        ("rms_norm, swiglu route", ["rms_norm", "swiglu", "route"]),
    ],
)
def test_the_plugin_judges_what_it_is_told_to(monkeypatch, theirs, ops, asked_for):
    given = []
    report = Report("mine", (clause("PASS"), clause("FAIL")))
    monkeypatch.setattr(judging, "verify", lambda made, *rest: given.append((made.name, *rest)) or report)
    config = Config(impl="their_kit_here:right", ops=ops, level="full")
    plugin.pytest_collection(SimpleNamespace(config=config))
    assert given == [("right", asked_for, "full")] and config.stash[plugin.KEY] is report
    monkeypatch.setattr(plugin.Clauses, "from_parent", lambda parent, **rest: SimpleNamespace(
        collect=lambda: [(parent, rest["name"], rest["report"])],
    ))  # fmt: skip
    items = ["before"]
    plugin.pytest_collection_modifyitems("the session", config, items)
    assert items == ["before", ("the session", "their_kit_here:right", report)]


def test_the_plugin_does_nothing_where_it_is_not_asked():
    config, items = Config(impl=None), ["before"]
    plugin.pytest_collection(SimpleNamespace(config=config))
    plugin.pytest_collection_modifyitems("the session", config, items)
    assert items == ["before"] and plugin.KEY not in config.stash


def test_the_plugin_says_what_it_does_not_find():
    with pytest.raises(pytest.UsageError, match=r"^--minimind-impl: nowhere:impl: importing nowhere raised"):
        plugin.pytest_collection(SimpleNamespace(config=Config(impl="nowhere:impl", ops=None, level="quick")))


def test_the_plugin_adds_its_options():
    parser = pytest.Parser(_ispytest=True)
    plugin.pytest_addoption(parser)
    group = next(g for g in parser._groups if g.name == "minimind_ref")
    assert [option.names()[0] for option in group.options] == ["--minimind-impl", "--minimind-ops", "--minimind-level"]
    level = group.options[2].attrs()
    assert level["default"] == "quick" and set(level["choices"]) == {"quick", "full"}


def test_an_item_for_each_verdict_shows_the_kits_message(request):
    failure = Failure("rms_norm/one", "why", "float32", "y", "y is wrong", "1", "2", "0", 2.0, "print(1)")
    report = Report("mine", (clause("PASS"), clause("FAIL", failure)))
    parent = plugin.Clauses.from_parent(request.session, name="their:impl", report=report)
    passing, failing = parent.collect()
    assert [item.name for item in (passing, failing)] == ["rms_norm[RMS_NORM-1]"] * 2
    assert failing.reportinfo() == ("specs/rms_norm.md", None, "rms_norm[RMS_NORM-1]")
    with pytest.raises(plugin.ClauseError) as ended:
        failing.runtest()
    assert failing.repr_failure(ended) == "\n".join(text.explained([report.verdicts[1]]))
    with pytest.raises(ZeroDivisionError) as ended:
        raise ZeroDivisionError("its own")
    assert "its own" in str(failing.repr_failure(ended))
