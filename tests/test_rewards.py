"""Rewards: what the built-in ones say, how they add up, and that a user's mistake is one line that names it."""

import re
import sys
from fractions import Fraction
from textwrap import dedent

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimind_ref.errors import RunError, run_command
from minimind_ref.train.reward_loading import load_rewards
from minimind_ref.train.rewards import BUILT_IN, Rewards, Term

PROMPT = [{"role": "user", "content": "q"}]
SOUND = [
    [1, 0.5],
    (1.0, 0.5),
    [True, Fraction(1, 2)],
    np.array([1, 0.5], np.float32),
    torch.tensor([1, 0.5]),
    [np.float16(1), torch.tensor(0.5)],
]


def judge(name, answer, reference=None):
    (value,) = load_rewards(name)([PROMPT], [answer], [reference])
    return value


def returning(values):
    return Rewards((Term("mine", 1.0, lambda prompts, answers, references: values),))


def write_module(folder, monkeypatch, name, source):
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("answer", ["a b", " a b", "a b\n", "\u3000a b\t "])
def test_exact_match_passes_over_outer_whitespace(answer):
    assert judge("exact_match", answer, "a b") == judge("exact_match", "a b", answer) == 1


@pytest.mark.parametrize("answer", ["", "a  b", "A b", "a b !", "a b.", "ab", "a\nb", "a b a b"])
def test_exact_match_wants_everything_else(answer):
    assert judge("exact_match", answer, "a b") == 0


def test_exact_match_without_a_reference_is_no_silent_zero():
    with pytest.raises(RunError, match="exact_match raised ValueError: the prompt of answer 1 has no reference"):
        load_rewards("exact_match")([PROMPT] * 2, ["a", "b"], ["a", None])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("a b", 1), ("三 个", 1), (" a\n", 1), ("", 0), (" \n", 0), ("a\nb", 0), ("a\ufffd", 0), ("a\u2028b", 0)]
    + [(f"a{token}", 0) for token in ("<|im_end|>", "<|im_start|>", "<|endoftext|>")],
)
def test_format_is_one_sound_line(answer, expected):
    assert judge("format", answer) == expected


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("abc", "abcdef", 0.5),
        ("abcdef", "xyz", 0.5),
        (" ab ", "cd", 1),
        ("ab", "cd\n", 1),
        ("", "abc", 0),
        ("", "", 1),
        ("abc", "", 0),
    ]
    + [("x" * n, None, expected) for n, expected in ((19, 0), (20, 1), (800, 1), (801, 0))],
)
def test_length_compares_with_the_reference(answer, reference, expected):
    assert judge("length", answer, reference) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("a b c d", 1),
        ("a b a c a", 1),
        ("a a a a", 0.5),
        ("A a a A a a", 0.25),
        ("", 1),
        ("aaaaaaaa", 1),
        ("好好好好", 0.5),
        ("word 好 word 好 word", 2 / 3),
    ],
)
def test_repetition_counts_trigrams_of_words_and_characters(answer, expected):
    assert judge("repetition", answer) == expected


@given(st.text(), st.text())
def test_built_in_rewards_lie_between_0_and_1(answer, reference):
    for name in BUILT_IN:
        assert 0 <= judge(name, answer, reference) <= 1
        if name != "format":
            assert name == "repetition" or judge(name, answer, answer) == 1


def test_the_sum_is_weighted_and_the_parts_are_not():
    rewards = load_rewards(" length = -0.5, exact_match,format=2 ")
    arguments = [PROMPT] * 3, ["ab", "abcd", "a\nbc"], ["abcd"] * 3
    assert rewards.parts(*arguments) == {"length": [0.5, 1, 1], "exact_match": [0, 1, 0], "format": [1, 1, 0]}
    assert rewards(*arguments) == [1.75, 2.5, -0.5]


def test_a_function_of_the_users_is_found_and_gets_what_it_is_promised(tmp_path, monkeypatch):
    source = """
        seen = []
        class Box:
            @staticmethod
            def f(prompts, answers, references):
                seen.append((prompts, answers, references))
                return [7]
    """
    write_module(tmp_path, monkeypatch, "box_rewards", dedent(source))
    assert load_rewards("box_rewards:Box.f=2")([PROMPT], ["a"], [None]) == [14]
    import box_rewards  # type: ignore[import-not-found]

    assert box_rewards.seen == [([PROMPT], ["a"], [None])]


def test_what_a_function_does_to_its_arguments_reaches_nobody():
    def spoil(prompts, answers, references):
        count = len(answers)
        prompts[0][0]["content"] = "spoilt"
        for argument in (prompts, answers, references):
            argument.clear()
        return [0.0] * count

    terms = (Term("spoil", 1.0, spoil), Term("exact_match", 1.0, BUILT_IN["exact_match"]))
    prompts, answers, references = [[dict(PROMPT[0])]], ["a"], ["a"]
    assert Rewards(terms)(prompts, answers, references) == [1]
    assert (prompts, answers, references) == ([PROMPT], ["a"], ["a"])


@pytest.mark.parametrize("values", SOUND, ids=repr)
def test_numbers_in_any_sequence_are_taken(values):
    found = returning(values)([PROMPT] * 2, ["a", "b"], [None] * 2)
    assert found == [1, 0.5] and all(type(value) is float for value in found)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "returned 1 values for 2 answers"),
        ([1, 2, 3], "returned 3 values for 2 answers"),
        (np.ones((2, 1)), "returned [1.0] for answer 0, not a finite number"),
        ([1, float("nan")], "returned nan for answer 1, not a finite number"),
        (torch.tensor([1, -torch.inf]), "returned -inf for answer 1, not a finite number"),
        ([None, 1], "returned None for answer 0, not a finite number"),
        (["1", 1], "returned '1' for answer 0, not a finite number"),
        ([1j, 1], "returned 1j for answer 0, not a finite number"),
        (None, "returned None, not a list of numbers"),
        (1.0, "returned 1.0, not a list of numbers"),
        (torch.tensor(1.0), "returned 1.0, not a list of numbers"),
        ("12", "returned '12', not a list of numbers"),
        ({"a": 1, "b": 2}, "returned {'a': 1, 'b': 2}, not a list of numbers"),
        (["x" * 58, 1], f"returned '{'x' * 58}' for answer 0, not a finite number"),
        (["x" * 59, 1], f"returned '{'x' * 56}... for answer 0, not a finite number"),
        (["x" * 99, 1], f"returned '{'x' * 56}... for answer 0, not a finite number"),
        ([1, 10**400], f"returned 1{'0' * 56}... for answer 1, not a finite number"),
        ([1, 10**5000], "returned a number of type int for answer 1, not a finite number"),
    ],
)
def test_what_is_no_list_of_numbers_is_named(values, message):
    with pytest.raises(RunError) as caught:
        returning(values)([PROMPT] * 2, ["a", "b"], [None] * 2)
    assert str(caught.value) == f"reward mine {message}"


def test_finite_rewards_whose_sum_is_not_are_named_with_their_weights():
    terms = [Term(name, 2.0, lambda prompts, answers, references: [1.0, 1e308]) for name in ("one", "other")]
    with pytest.raises(RunError) as caught:
        Rewards(tuple(terms))([PROMPT] * 2, ["a", "b"], [None] * 2)
    assert str(caught.value) == "the rewards of answer 1 add up to no finite number: 2 · 1e+308 + 2 · 1e+308"


def test_a_function_that_raises_is_named_with_the_line(tmp_path, monkeypatch, capsys):
    write_module(tmp_path, monkeypatch, "bad_rewards", "def g():\n    return 1 / 0\ndef f(*_):\n    return g()\n")
    rewards = load_rewards("bad_rewards:f")
    assert run_command(lambda argv: rewards([PROMPT], ["a"], ["a"]), []) == 1
    where = re.escape(str(tmp_path / "bad_rewards.py"))
    expected = rf"error: reward bad_rewards:f raised ZeroDivisionError: division by zero \({where}:2\)\n"
    assert re.fullmatch(expected, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--reward '' names no reward; built in: exact_match, format, length, repetition"),
        (" , ", "--reward ' , ' names no reward; built in: exact_match, format, length, repetition"),
        ("exactmatch", "--reward exactmatch: no such reward; did you mean exact_match?"),
        ("zzz", "--reward zzz: no such reward; built in: exact_match, format, length, repetition; or module:function"),
        ("length=much", "--reward length: the weight 'much' is not a finite number"),
        ("length=nan", "--reward length: the weight 'nan' is not a finite number"),
        ("length=-inf", "--reward length: the weight '-inf' is not a finite number"),
        ("length=", "--reward length: the weight '' is not a finite number"),
        ("length,format,length=2", "--reward names length twice"),
        (":f", "--reward :f: not of the form module:function"),
        ("json:", "--reward json:: not of the form module:function"),
        ("json:load_", "--reward json:load_: json has no load_; did you mean load?"),
        ("json:qqq", "--reward json:qqq: json has no qqq"),
        ("json:decoder", "--reward json:decoder: decoder is a module, not a function"),
        ("no_such:f", "--reward no_such:f: there is no module no_such (looked for from here)"),
        ("json.no_such:f", "--reward json.no_such:f: there is no module json.no_such (looked for from here)"),
        ("no_such.at.all:f", "--reward no_such.at.all:f: there is no module no_such.at.all (looked for from here)"),
        ("broken_rewards:f", "--reward broken_rewards:f: broken_rewards cannot be imported (NameError: name 'x' is"),
        ("needing_rewards:f", "--reward needing_rewards:f: needing_rewards cannot be imported (No module named 'no_"),
        ("model:no/where", "no/where: there is no such reward model"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_and_exit_2(tmp_path, monkeypatch, capsys, text, message):
    write_module(tmp_path, monkeypatch, "broken_rewards", "x\n")
    write_module(tmp_path, monkeypatch, "needing_rewards", "import no_such_thing\n")
    assert run_command(lambda argv: load_rewards(text), []) == 2  # type: ignore[arg-type, return-value]
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_arguments_of_unequal_lengths_are_a_callers_mistake():
    with pytest.raises(ValueError, match="1 prompts, 2 answers and 1 references"):
        load_rewards("format")([PROMPT], ["a", "b"], [None])
