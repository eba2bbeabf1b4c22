"""The kit's table of operations agrees with the specifications, the oracles and the cases."""

import re
from functools import cache

import pytest

from minimind_ref.errors import UserError
from minimind_ref.kit import Implementation, suspects, verify
from minimind_ref.kit.examine import cases_of
from minimind_ref.kit.operation import LEVELS
from minimind_ref.kit.ours import oracles
from minimind_ref.kit.registry import ALL, OPERATIONS, operation, selected

SPEAKS = {  # field -> what the text of its clauses is about
    "backward": r"^(?!.*(finite losses|the head is)).*(gradient|cotangent|\bd\w+ = |∂)",  # and of no value
    "both": r"gradient|∂|finite outputs|Only counted|token changes nothing|adds|position",
    "narrow": r"float32|bfloat16|dtype|rounded",
    "dtype": r"float32|dtype",
    "pure": r"changed|keep|kept as state",
}
OPTIONAL = ["dpo_losses", "implicit_reward", "grpo_terms", "grpo_total", "is_clipped"]


def clauses_of(entry, field):
    named = getattr(entry, field)
    return (named,) if isinstance(named, str) else named or ()


@cache
def cases(name):
    return cases_of(operation(name), "quick", 0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_names_what_there_is(name):
    entry = operation(name)
    assert entry.name == name and entry.level in LEVELS and callable(entry.reference)
    assert entry.reference_vjp is None or entry.differentiable
    for field, about in SPEAKS.items():
        for clause in clauses_of(entry, field):
            assert re.search(about, entry.clauses[clause].text), (field, clause)
    both = [*entry.backward, *entry.both]
    assert len({*both, *entry.narrow}) == len(both) + len(entry.narrow)
    for named in (entry.backward, entry.both, entry.narrow):
        assert list(named) == [clause for clause in entry.clauses if clause in named]  # the specification's order
    options = entry.arguments.keys() | {option for case in cases(name) for option in case.parameters}
    assert set(entry.choices) <= options and set(entry.needs) <= OPERATIONS.keys()
    assert entry.dtype is None or entry.dtype in entry.narrow or not entry.narrow
    for clause, inputs in entry.of_input.items():
        assert clause in both and set(inputs) <= entry.arguments.keys(), clause
    outputs = {output.split(".")[0] for case in cases(name) for output in case.outputs}
    assert not entry.of_input or entry.of_input.keys() == set(both)
    assert set(entry.wide) <= {"*"} | outputs | entry.arguments.keys() and isinstance(entry.optional, bool)


@pytest.mark.parametrize("name", OPERATIONS)
def test_clauses_about_gradients_are_named_by_cases_that_ask_for_one(name):
    entry = operation(name)
    pulled = {clause for case in cases(name) if case.cotangent for clause in case.clauses}
    assert {*entry.backward, *entry.both} <= pulled | {*entry.of_input}
    assert bool(pulled) == entry.differentiable


@pytest.mark.parametrize("name", OPERATIONS)
def test_known_bugs_are_seen_where_the_clause_is_said_to_be(name):
    entry = operation(name)
    for bug in suspects.of(entry):
        alone = bug.owner in entry.backward and bug.id not in ON_THE_WAY
        assert (bug.vjp is not None) == alone or (bug.vjp is not None and bug.owner in entry.both), bug.id
        assert not bug.narrow or bug.owner in (*entry.narrow, "ATTENTION-14"), bug.id


ON_THE_WAY = ("GRPO-M20",)  # a clause of the gradient is broken by another value


def test_an_operation_is_found_by_its_name_and_levels_keep_their_order():
    with pytest.raises(UserError, match=r"there is no operation 'ropefrequencies'; did you mean rope_frequencies\?$"):
        operation("ropefrequencies")
    with pytest.raises(UserError, match="there is no operation 'xyz'; known: rms_norm, rope_frequencies, yarn_"):
        operation("xyz")
    assert selected(None) == list(ALL) and selected("moe") == [operation("moe")]
    data = [entry for entry in ALL if entry.level == "Data"]
    assert selected(["Data", "rms_norm"]) == [operation("rms_norm"), *data]
    with pytest.raises(UserError, match="there is no operation 'Sideways'"):
        selected(["Data", "Sideways"])


def test_an_optional_operation_may_be_absent_and_no_other_one():
    assert [entry.name for entry in ALL if entry.optional] == OPTIONAL
    made = Implementation("without", levels=["Alignment"])
    for name, function in oracles.functions.items():
        if name not in OPTIONAL:
            made.op(name, function, vjp=oracles.vjps.get(name))
    report = verify(made)
    assert report.passed, str(report)
