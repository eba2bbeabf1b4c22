"""The runner of the executable definitions: decimals right to 50 digits, and a reader that refuses what it must."""

import math
from decimal import Decimal, FloatOperation

import mpmath
import numpy as np
import pytest
from arrays import draw
from hypothesis import given
from hypothesis import strategies as st
from spec_blocks import DIGITS, Clause, clauses, definition, floats, numbers

FUNCTIONS = ["sqrt", "exp", "log", "sin", "cos"]
SPEC = """# soft

## Definition

```python definition
def soft(x, *, scale):
    top = max(x)
    weight = [exp((entry - top) * scale) for entry in x]
    return [w / sum(weight) + Number("0.5") for w in weight], len(x)

def angle(x):
    return [[sin(entry), cos(entry)] for entry in x]

def wrong(x):
    return [entry * 0.5 for entry in x]
```

## Clauses
- **SOFT-1** (MUST) The outputs
  sum to one.
- **SOFT-2** (SHOULD: the shift keeps exp finite) The largest entry is taken off first.
- **SOFT-3** (SHOULD) No reason here.
"""


@pytest.fixture(scope="module")
def each(tmp_path_factory):
    folder = tmp_path_factory.mktemp("specs")
    calls = "\n".join(f"def call_{name}(x):\n    return {name}(x)" for name in FUNCTIONS)
    (folder / "each.md").write_text(f"```python definition\n{calls}\n```\n", encoding="utf-8")
    return definition("each", "decimal", folder)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "soft.md").write_text(SPEC, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", FUNCTIONS)
@given(st.integers(1, 10**9), st.integers(-6, 2))
def test_decimal_functions_are_right_to_50_digits(each, name, mantissa, exponent):
    x = Decimal(mantissa).scaleb(exponent - 4)
    x = x % 100 if name == "exp" else x
    with mpmath.workdps(80):
        right = getattr(mpmath, name)(mpmath.mpf(str(x)))
        got = mpmath.mpf(str(getattr(each, f"call_{name}")(x)))
        assert abs(got - right) <= mpmath.mpf(10) ** -DIGITS * max(1, abs(right))


def test_both_kinds_agree_to_double_precision(folder):
    x = draw(3, (7,))
    (decimals, n), (doubles, _) = (definition("soft", kind, folder).soft(x, scale=2.0) for kind in ("decimal", "float"))
    assert n == 7 and isinstance(decimals[0], Decimal) and isinstance(doubles[0], float)
    assert np.abs(floats(decimals) - floats(doubles)).max() <= 8 * np.finfo(float).eps


def test_angles_keep_their_digits_at_position_32767(folder):
    pairs = floats(definition("soft", "decimal", folder).angle(np.array([32767.0])))
    assert pairs.shape == (1, 2) and np.array_equal(pairs[0], [np.sin(32767.0), np.cos(32767.0)])


def test_floats_overflow_and_a_logarithm_of_zero_are_as_in_ieee_arithmetic(tmp_path):
    calls = "def both(x, y):\n    return [exp(x), log(y)]"
    (tmp_path / "both.md").write_text(f"```python definition\n{calls}\n```\n", encoding="utf-8")
    for kind in ("float", "decimal"):
        assert floats(definition("both", kind, tmp_path).both(1e4, 0.0)).tolist() == [math.inf, -math.inf]
    assert definition("both", "float", tmp_path).both(0.5, 2.0) == [math.exp(0.5), math.log(2.0)]


def test_what_is_no_array_of_numbers_stays_a_list(folder):
    for x in ("text", ["a", "b"], ["a", 1], [[1, 2], [3]], [[1], 2], [[], [1.0]]):
        assert floats(x) == x
    assert floats([[1, 2], [3, 4]]).shape == (2, 2)


def test_a_comparison_of_a_decimal_with_a_float_is_an_error(folder):
    (folder / "near.md").write_text("```python definition\ndef near(x):\n    return x < 0.5\n```\n", encoding="utf-8")
    with pytest.raises(FloatOperation):
        definition("near", "decimal", folder).near(0.25)


def test_a_traceback_names_the_line_of_the_specification(folder):
    with pytest.raises(TypeError) as error:
        definition("soft", "decimal", folder).wrong(draw(1, (3,)))
    last = error.traceback[-1]
    assert SPEC.splitlines()[last.lineno].strip() == "return [entry * 0.5 for entry in x]"


def test_a_float_literal_is_an_error_in_the_decimal_run(folder):
    with pytest.raises(TypeError):
        definition("soft", "decimal", folder).wrong(draw(1, (3,)))


def test_numbers_leave_integers_and_masks_alone():
    assert numbers(np.array([[1, 2]]), "decimal") == [[1, 2]]
    assert numbers((True, None, "mean", 0.5), "decimal") == (True, None, "mean", Decimal("0.5"))


def test_floats_become_exactly_the_decimal_that_they_are():
    exact = Decimal("0.1000000000000000055511151231257827021181583404541015625")
    assert numbers({"eps": 0.1, "x": np.array([0.1])}, "decimal") == {"eps": exact, "x": [exact]}
    assert numbers([exact], "float") == [0.1]


def test_clauses_are_read(folder):
    assert clauses("soft", folder) == [
        Clause("SOFT-1", "MUST", None, "The outputs sum to one."),
        Clause("SOFT-2", "SHOULD", "the shift keeps exp finite", "The largest entry is taken off first."),
        Clause("SOFT-3", "SHOULD", None, "No reason here."),
    ]


def test_two_definition_blocks_are_refused(folder):
    (folder / "two.md").write_text(SPEC + SPEC, encoding="utf-8")
    with pytest.raises(ValueError, match=r"two.md has 2 definition blocks"):
        definition("two", "float", folder)
    with pytest.raises(ValueError, match=r"kind is 'double'"):
        definition("soft", "double", folder)
