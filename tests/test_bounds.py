"""Each bound is the number that one derives by hand: no narrower, and wider only by what computing it may cost.

A row: the operation, its operands as value ± bound, how far the operands' bounds carry the result, how many roundings
an honest form has, and the smallest number that it may lose (a subnormal, or a normal one where libraries flush).
"""

from collections.abc import Callable
from decimal import Decimal, localcontext
from math import cosh, e, exp, expm1, inf, log, nan

import numpy as np
import pytest

from minimind_ref.oracle.bounded import (
    Bounded,
    bound,
    bound_inputs,
    constant,
    log_sigmoid,
    logsumexp,
    of_stored,
    open_share,
    sigmoid,
    softmax,
    softplus,
    store,
    store_scaled,
    undecided,
    value,
)
from minimind_ref.oracle.precision import FLOAT16, FLOAT32, gamma

U = 2.0**-24 + 2.0**-53  # the implementation's rounding, and the oracle's own
SUBNORMAL, NORMAL = 2.0**-149, 2.0**-126
EXACT = (0, 0, 0)
UNDECIDED = (inf, 0, 0)


def relative(roundings: float, unit: float = U) -> float:
    """k·u / (1 − k·u): what k roundings come to."""
    return roundings * unit / (1 - roundings * unit)


def assert_derived(actual: np.ndarray | Bounded, derived: object) -> None:
    """Assert that bounds are what was derived, and more by the allowance for float64 at the most."""
    actual, derived = np.asarray(bound(actual) if isinstance(actual, Bounded) else actual), np.asarray(derived, float)
    assert np.all(actual >= derived * (1 - 2.0**-51)), (actual, derived)
    assert np.all(actual <= derived * (1 + 2.0**-43)), (actual, derived)


def single(*operands: tuple) -> list[Bounded]:
    return [Bounded(np.array(v, float), np.array(e, float), "float32") for v, e in operands]


ROWS = [
    # addition; an exact zero changes nothing
    (np.add, [(3, 1 / 8), (5, 1 / 4)], (3 / 8, 1, SUBNORMAL)),
    (np.add, [(3, 0), (5, 0)], (0, 1, SUBNORMAL)),
    (np.add, [(2.0**-130, 0), (2.0**-131, 0)], (0, 1, SUBNORMAL)),
    (np.add, [(3, 1 / 8), (0, 0)], (1 / 8, 0, 0)),
    (np.add, [(0, 0), (3, 1 / 8)], (1 / 8, 0, 0)),
    (np.add, [(0, 1 / 4), (3, 1 / 8)], (3 / 8, 1, SUBNORMAL)),
    (np.subtract, [(3, 1 / 8), (5, 1 / 4)], (3 / 8, 1, SUBNORMAL)),
    (np.negative, [(3, 1 / 8)], (1 / 8, 0, 0)),
    (np.absolute, [(-3, 1 / 8)], (1 / 8, 0, 0)),
    (np.add, [(inf, 0), (3, 1 / 8)], EXACT),
    (np.add, [(3, 1 / 8), (-inf, 0)], EXACT),
    (np.add, [(inf, 0), (-inf, 0)], UNDECIDED),
    (np.add, [(-inf, 0), (3, inf)], UNDECIDED),  # which may be +∞
    (np.add, [(1.7e308, 0), (1.7e308, 0)], UNDECIDED),
    # the largest number is a number, and what may lie beyond it is not
    (np.add, [(FLOAT32.largest, 0), (0, 0)], EXACT),
    (np.add, [(2.0**127, 2.0**127), (0, 0)], UNDECIDED),
    # products; scaling by a power of two loses only what underflows, clearing nothing
    (np.multiply, [(3, 1 / 8), (5, 1 / 4)], (3 / 4 + 5 / 8 + 1 / 32, 1, SUBNORMAL)),
    (np.multiply, [(3 * 2.0**-80, 0), (5 * 2.0**-80, 0)], (0, 1, SUBNORMAL)),
    (np.multiply, [(2, 0), (3, 1)], (2, 0, SUBNORMAL)),
    (np.multiply, [(3, 1), (2, 0)], (2, 0, SUBNORMAL)),
    (np.multiply, [(2.0**-140, 0), (3 * 2.0**-5, 0)], (0, 0, SUBNORMAL)),
    (np.multiply, [(2, 1), (3, 0)], (3, 1, SUBNORMAL)),
    (np.multiply, [(0, 0), (3, 1)], EXACT),
    (np.multiply, [(3, 0), (0, 0)], EXACT),
    (np.multiply, [(0, 1), (3, 0)], (3, 1, SUBNORMAL)),
    (np.multiply, [(0, 0), (1, inf)], UNDECIDED),
    (np.multiply, [(0, 0), (inf, 0)], UNDECIDED),
    (np.multiply, [(inf, 0), (2, 1)], EXACT),
    (np.multiply, [(-2, 1), (inf, 0)], EXACT),
    (np.multiply, [(inf, 0), (1, 1)], UNDECIDED),  # 0·∞
    (np.multiply, [(1, 1), (inf, 0)], UNDECIDED),
    (np.multiply, [(1e300, 0), (2.0**60, 0)], UNDECIDED),
    # quotients
    (np.divide, [(3, 1 / 8), (4, 1 / 4)], ((1 / 8 + 3 / 16) / (15 / 4), 2, SUBNORMAL)),
    (np.divide, [(3, 1 / 8), (1 / 2, 1 / 4)], ((1 / 8 + 6 / 4) / (1 / 4), 2, SUBNORMAL)),
    (np.divide, [(3 * 2.0**-140, 0), (5, 0)], (0, 2, SUBNORMAL)),
    (np.divide, [(3, 1), (2, 0)], (1 / 2, 0, SUBNORMAL)),
    (np.divide, [(3, 0), (1, 0)], (0, 0, SUBNORMAL)),
    (np.divide, [(0, 0), (5, 1)], EXACT),
    (np.divide, [(0, 0), (2, 0)], EXACT),
    (np.divide, [(3, 0), (1, 1)], UNDECIDED),
    (np.divide, [(3, 0), (1, 2)], UNDECIDED),
    (np.divide, [(0, 0), (1, 1)], UNDECIDED),  # 0/0
    (np.divide, [(0, 0), (0, 0)], UNDECIDED),
    (np.divide, [(1, 1 / 2), (0, 0)], EXACT),
    (np.divide, [(1, 1), (0, 0)], UNDECIDED),
    (np.divide, [(inf, 0), (-1 / 2, 1 / 4)], EXACT),
    (np.divide, [(inf, 0), (1, 1)], UNDECIDED),
    (np.divide, [(1e300, 0), (2.0**-60, 0)], UNDECIDED),
    (np.reciprocal, [(3, 1)], (1 / 3 / 2, 2, SUBNORMAL)),
    # the larger of two: an end may move past the other operand; below a power of two numbers are twice as dense
    (np.maximum, [(3, 1 / 4), (2, 1)], (1 / 4, 0, 0)),
    (np.maximum, [(3, 1 / 4), (3, 1)], (1, 0, 0)),
    (np.maximum, [(2, 3), (3, 1 / 4)], (2, 0, 0)),
    (np.maximum, [(1, 2.5 * 2.0**-52), (0, 0)], (2.5 * 2.0**-52, 0, 0)),
    (np.maximum, [(0, 0), (1, 2.5 * 2.0**-52)], (2.5 * 2.0**-52, 0, 0)),
    (np.minimum, [(-3, 1 / 4), (-2, 3)], (2, 0, 0)),
    (np.maximum, [(-inf, 0), (3, 1 / 8)], (1 / 8, 0, 0)),
    (np.maximum, [(-inf, 0), (-inf, 0)], EXACT),
    (np.maximum, [(inf, 0), (3, inf)], EXACT),
    (np.maximum, [(3, inf), (4, 0)], UNDECIDED),
    (np.maximum, [(-inf, inf), (4, 0)], UNDECIDED),  # log(0 ± e), say, may be anything
    (np.maximum, [(4, 0), (-inf, inf)], UNDECIDED),
    (np.maximum, [(inf, inf), (4, 0)], UNDECIDED),
    # functions: the steepest slope over the operand's range
    (np.square, [(3, 1)], (7, 1, SUBNORMAL)),
    (np.square, [(3, 0)], (0, 1, SUBNORMAL)),
    (np.sqrt, [(25, 9)], (1, 5, SUBNORMAL)),
    (np.sqrt, [(1, 8)], (2, 5, SUBNORMAL)),
    (np.sqrt, [(4, 5)], (2, 5, SUBNORMAL)),
    (np.sqrt, [(4, 4)], (2, 5, SUBNORMAL)),
    (np.sqrt, [(0, 4)], (2, 5, SUBNORMAL)),
    (np.sqrt, [(0, 0)], (0, 0, SUBNORMAL)),
    (np.sqrt, [(-1, 0)], UNDECIDED),
    (np.exp, [(0, 1)], (e - 1, 4, NORMAL)),
    (np.exp, [(-85, 0)], (0, 4, NORMAL)),
    (np.exp, [(-inf, 0)], EXACT),
    (np.exp, [(inf, 0)], EXACT),
    (np.exp, [(88, 1)], UNDECIDED),
    (np.expm1, [(1, 1 / 8)], (e * expm1(1 / 8), 4, SUBNORMAL)),
    (np.log, [(4, 1)], (log(4 / 3), 4, SUBNORMAL)),
    (np.log, [(1, 0)], (0, 0, SUBNORMAL)),
    (np.log, [(0, 0)], EXACT),
    (np.log, [(0, 1)], UNDECIDED),
    (np.log, [(1, 1)], UNDECIDED),
    (np.log, [(1, 2)], UNDECIDED),
    (np.log, [(1, 3)], UNDECIDED),
    (np.log, [(-1, 1 / 2)], UNDECIDED),
    (np.log1p, [(3, 1)], (log(4 / 3), 4, SUBNORMAL)),
    (np.sin, [(0, 5)], (2, 4, SUBNORMAL)),
    (np.cos, [(1, 1 / 8)], (1 / 8, 4, SUBNORMAL)),
    (np.cos, [(1, 5)], (2, 4, SUBNORMAL)),
    (np.tanh, [(2, 1)], (1 / cosh(1) ** 2, 4, SUBNORMAL)),
    (np.tanh, [(1 / 2, 2)], (2, 4, SUBNORMAL)),
    (np.tanh, [(inf, 0)], EXACT),
    (np.tanh, [(500, 1)], (0, 4, SUBNORMAL)),
    (sigmoid, [(-2, 1)], (1 / (2 * cosh(1 / 2)) ** 2, 7, NORMAL)),
    (sigmoid, [(1 / 2, 2)], (1 / 2, 7, NORMAL)),
    (sigmoid, [(-85, 0)], (0, 7, NORMAL)),
    (sigmoid, [(-1000, 1)], (0, 7, NORMAL)),
    (softplus, [(0, 1)], (1 / (1 + exp(-1)), 10, NORMAL)),
    (softplus, [(-85, 0)], (0, 10, NORMAL)),
    (log_sigmoid, [(0, 1)], (1 / (1 + exp(-1)), 10, NORMAL)),
    # logaddexp: 1-Lipschitz, and 10 roundings of a part of at most 1
    (np.logaddexp, [(3, 1 / 8), (2, 1 / 4)], (1 / 4 + relative(10), 1, SUBNORMAL)),
    (np.logaddexp, [(-inf, 0), (2, 1 / 4)], (1 / 4 + relative(10), 1, SUBNORMAL)),
    (np.logaddexp, [(-inf, 0), (-inf, 0)], EXACT),
    (np.logaddexp, [(2, 1 / 4), (inf, 0)], EXACT),
    (np.logaddexp, [(-inf, 0), (-inf, inf)], UNDECIDED),
    (np.logaddexp, [(-inf, inf), (2, 0)], UNDECIDED),
    # powers: whole exponents multiply, negative ones divide too; more than four and what is not whole is exp(b·log a)
    (np.power, [(3, 0), (1, 0)], (0, 0, SUBNORMAL)),
    (np.power, [(2, 1), (3, 0)], (3 * 1 * 9, 2, SUBNORMAL)),
    (np.power, [(2, 1), (4, 0)], (4 * 1 * 27, 3, SUBNORMAL)),
    (np.power, [(2, 0), (5, 0)], (0, 16, SUBNORMAL)),
    (np.power, [(1, 1), (0, 0)], (0, 0, SUBNORMAL)),
    (np.power, [(0, 0), (0, 0)], (0, 0, SUBNORMAL)),
    (np.power, [(3, 1), (-1, 0)], (1 / 4, 2, SUBNORMAL)),
    (np.power, [(1 / 2, 1 / 4), (-1, 0)], (4, 2, SUBNORMAL)),
    (np.power, [(-3, 1), (-2, 0)], (2 / 8, 3, SUBNORMAL)),
    (np.power, [(2, 0), (-4, 0)], (0, 5, SUBNORMAL)),
    (np.power, [(1, 1), (-1, 0)], UNDECIDED),
    (np.power, [(inf, 0), (2, 0)], EXACT),
    (np.power, [(0, 0), (-1, 0)], EXACT),
    (np.power, [(0, 1), (-1, 0)], UNDECIDED),
    (np.power, [(2, 0), (1 / 2, 0)], (0, 16, SUBNORMAL)),
    (np.power, [(4, 1), (1 / 2, 0)], (2 * ((4 / 3) ** 0.5 - 1), 16, SUBNORMAL)),
    (np.power, [(4, 0), (1 / 2, 1 / 4)], (2 * (4**0.25 - 1), 16, SUBNORMAL)),
    (np.power, [(2, 0), (3, 1)], (8, 16, SUBNORMAL)),
    (np.power, [(4, 1), (1 / 2, 1 / 4)], (2 * ((4 / 3) ** 0.75 * 4**0.25 - 1), 16, SUBNORMAL)),
    (np.power, [(0, 0), (1 / 2, 0)], (0, 0, SUBNORMAL)),
    (np.power, [(inf, 0), (1 / 2, 0)], EXACT),
    (np.power, [(inf, 0), (1 / 4, 1 / 2)], UNDECIDED),
    (np.power, [(0, 0), (-1 / 2, 0)], EXACT),
    (np.power, [(0, 1), (-1 / 2, 0)], UNDECIDED),
]


@pytest.mark.parametrize(("operation", "operands", "derived"), ROWS)
def test_a_rule_gives_what_one_derives(operation, operands, derived):
    carried, roundings, smallest = derived
    y = operation(*single(*operands))
    rounding = relative(roundings) * (abs(value(y)) + carried) if roundings else 0
    assert_derived(y, carried + rounding + smallest)


def test_one_exponent_that_is_not_whole_takes_all_to_the_form_by_logarithms():
    x, n = single(([3, 3], 0), ([2, 0.5], 0))
    assert_derived(np.power(x, n), relative(16) * np.array([9, 3**0.5]) + SUBNORMAL)


def test_the_units_of_two_roundings_and_of_none():
    """In float64 the oracle's rounding is as large as the implementation's; beyond 1/u roundings nothing is known."""
    (x,) = bound_inputs(np.array([3.0]), profile="float64")
    assert_derived(x * 5.0, relative(1, 2.0**-52) * 15)
    assert_derived(constant(np.array([3.0]), like=x), relative(2, 2.0**-52) * 3)  # 1 ulp is 2 units
    assert gamma([0, 1, 3, 4, 9], 1 / 4).tolist() == [0, 1 / 3, 3, inf, inf]


def test_an_open_share_adds_half_of_what_a_hyperbolic_tangent_near_minus_one_is_wrong_by():
    x = np.array([log(3), 0.0, -log(3), -40.0])
    (narrow, wide) = (f(Bounded(x, 0.0, "float32")) for f in (sigmoid, open_share))
    share = value(wide)
    assert_derived(wide, bound(narrow) + np.array([0, 0, relative(4) / 4, share[3]]))


def test_the_largest_of_a_row_may_be_moved_by_any_of_it():
    below = 2.5 * 2.0**-52
    assert_derived(np.max(single(([3, 2], [1 / 4, 3]))[0]), 2)
    assert_derived(np.min(single(([-3, -2], [1 / 4, 3]))[0]), 2)
    assert_derived(np.max(single(([1, 0], [below, 0]))[0]), below)


# ---- sums ----
def merged(a: Bounded, b: Bounded, c: Bounded) -> Bounded:
    total = np.copy(a)
    total += b + c
    return total  # pyright: ignore[reportReturnType]  # NumPy's stubs know arrays only


A, B, C = 3.0, 5.0, 7.0
SUMS: list[tuple[Callable, object]] = [
    (lambda a, b, c: np.sum(np.stack([a, b, c])), relative(2) * 15),
    (lambda a, b, c: a + b + c, relative(2) * 15),
    (lambda a, b, c: a - b - c, relative(2) * 15),
    (merged, relative(2) * 15),
    (lambda a, b, c: a + (b + c), relative(1) * (15 + relative(1) * 12) + relative(1) * 12 + 2 * SUBNORMAL),
    (lambda a, b, c: (a + b) + c * 0.0, relative(1) * 8 + SUBNORMAL),
    (lambda a, b, c: (a + b) * 1.0 + c, relative(1) * (15 + relative(1) * 8) + relative(1) * 8),
    (lambda a, b, c: (a + b)[()] + c, relative(2) * 15),
    (lambda a, b, c: np.sum(np.stack([a, b * 0.0, c * 0.0])), 0),
    (lambda a, b, c: np.sum(np.stack([a, b * 0.0, c])), relative(1) * 10),
    (lambda a, b, c: np.sum(np.stack([a * 0.0, b * 0.0])), 0),
    (lambda a, b, c: np.sum(a[None]), 0),
    (lambda a, b, c: a * 0.0 + np.sum(np.stack([a, b, c])), relative(2) * 15),
    (lambda a, b, c: np.mean(np.stack([a, b, a, b])), relative(3) * 16 / 4),
    (lambda a, b, c: np.cumsum(np.stack([a, b, c])), [0, relative(1) * 8, relative(2) * 15]),
    (lambda a, b, c: np.stack([a, b]) @ np.stack([b, c]), 2 * relative(1) * 50 + relative(1) ** 2 * 50 + 2 * SUBNORMAL),
    (lambda a, b, c: np.stack([a, b]) @ np.array([1.0, 0.0]), relative(1) * 3 + SUBNORMAL),
    (lambda a, b, c: np.einsum(",,->", a, b, c), relative(2) * 105 + SUBNORMAL),
    (lambda a, b, c: np.einsum("i->", np.stack([a, b])), relative(1) * 8 + 2 * SUBNORMAL),
]


@pytest.mark.parametrize(("function", "derived"), SUMS)
def test_a_sum_of_exact_terms_has_one_rounding_less_than_terms_in_any_order(function, derived):
    assert_derived(function(*single((A, 0), (B, 0), (C, 0))), derived)


def test_terms_bring_their_bounds_along_and_an_exact_zero_none():
    x = single(([3, 5, 0, -7], [1 / 8, 1 / 4, 0, 0]))[0]
    assert_derived(np.sum(x), 3 / 8 + relative(2) * (15 + 3 / 8))
    y = np.zeros_like(x, shape=())
    for i in range(4):
        y += x[i]
    assert_derived(y, 3 / 8 + relative(2) * (15 + 3 / 8))
    assert_derived(x[0] + x[2] + x[2], 1 / 8)
    assert_derived(np.sum(np.zeros_like(x, shape=(3,))), 0)
    many = np.sum(Bounded(np.ones(129), 0.0, "float64"))
    assert_derived(many, relative(128, 2.0**-52) * 129)
    assert undecided(np.sum(single(([nan], 0))[0]))


def test_a_contraction_carries_one_operand_s_bound_at_a_time():
    a, b = single(([3, 5], [1 / 8, 0]), ([7, 2], [0, 1 / 4]))
    carried, size = 7 / 8 + 5 / 4, (3 + 1 / 8) * 7 + 5 * (2 + 1 / 4)
    products = relative(1) * size + 2 * SUBNORMAL
    assert_derived(a @ b, carried + products + relative(1) * size * (1 + relative(1)))
    tiny = 2.0**-80
    for zeros in ([], [0]):
        x, y = single(([*zeros, 3 * tiny], 0), ([*zeros, 5 * tiny], 0))
        assert_derived(x @ y, relative(1) * 15 * tiny**2 + SUBNORMAL)


# ---- exponentials over a row ----
ENTRIES = [
    [(0, 0)],
    [(3, 0), (0, 0)],
    [(5, 0), (2, 0), (-inf, 0)],
    [(0, 0), (-inf, 0)],
    [(0, 0)] * 16,
    [(0, 0)] * 17,
    [(0, 0)] * 33,
    [(0, 0), (-inf, 0)] * 16,
    [(1, 1 / 8), (0, 1 / 4)],
    [(0, 0), (log(1 / 128), 7)],
    [(0, 2.0**-20), (0, 0), (-1, 1 / 2)],
    [(0, 0), (-90, 0)],
]


def spreads(entries: list) -> list[tuple[Decimal, Decimal]]:
    """Per entry, its weight and how wrong the logarithm of its numerator may be: see softmax and _numerators."""
    top = max(x for x, _ in entries)
    seen = [(abs(x - top) + 2 * e, e) for x, e in entries if x > -inf]
    farthest, blocks = max(argument for argument, _ in seen), -(-len(seen) // 16)
    count = [argument + farthest + 40 + (len(seen) - 1) + 5 * (blocks - 1) for argument, _ in seen]
    parts = [Decimal(x - top).exp() for x, _ in entries if x > -inf]
    wrong = [Decimal(e) + Decimal(relative(k)) for k, (_, e) in zip(count, seen, strict=True)]
    return [(part / sum(parts), d) for part, d in zip(parts, wrong, strict=True)]


@pytest.mark.parametrize("entries", ENTRIES)
def test_a_softmax_is_wrong_by_what_its_numerators_are(entries):
    """exp(dᵢ)/Σ pⱼ exp(−dⱼ) above, exp(−dᵢ)/Σ pⱼ exp(dⱼ) below; then a quotient."""
    x = single(tuple(zip(*entries, strict=True)))[0]
    with localcontext() as context:
        context.prec = 60
        known = spreads(entries)
        smaller, larger = (sum((p * (sign * d).exp() for p, d in known), Decimal()) for sign in (-1, 1))
        carried = [float(p * max(d.exp() / smaller - 1, 1 - (-d).exp() / larger)) for p, d in known]
        total = float(larger.ln())
    derived = [c + relative(2) * (float(p) + c) + NORMAL for (p, _), c in zip(known, carried, strict=True)]
    seen = value(x) > -inf
    y = softmax(x)
    assert_derived(bound(y)[seen], derived)
    assert not bound(y)[~seen].any() and not value(y)[~seen].any()
    error = total + relative(4) * log(1 / max(float(p) for p, _ in known))
    assert_derived(logsumexp(x), error + relative(2) * (abs(value(logsumexp(x))) + error) + SUBNORMAL)


def test_an_undecided_logit_leaves_nothing_decided_but_what_is_masked():
    for lost in ((0, inf), (-inf, inf), (-1000, inf), (-800, 900)):
        y = softmax(single(tuple(zip((0, 0), lost, (-inf, 0), strict=True)))[0])
        assert undecided(y).tolist() == [True, True, False] and bound(y)[2] == 0
    assert undecided(logsumexp(single(([0, -inf], [0, inf]))[0]))
    assert undecided(logsumexp(single(([-inf, -inf], [inf, 0]))[0]))
    assert not bound(logsumexp(single(([-inf, -inf], [0, 0]))[0]))


# ---- storage ----
def test_storing_adds_half_a_unit_of_the_format_to_what_it_does_not_hold():
    unit, smallest = 2.0**-11, 2.0**-24
    x = Bounded([3.0, 3.0, 0.1, 2.0**-20, -np.inf, 65504.0], [0, 1 / 8, 0, 0, 0, 1], "float16")
    derived = [0, 1 / 8 + unit * 25 / 8 + smallest, unit * 0.1 + smallest, 0, 0, inf]
    assert_derived(store(x), derived)
    assert_derived(store_scaled(x)[:4], [unit * 3 + smallest, derived[1], derived[2], unit * 2.0**-20 + smallest])
    assert FLOAT16.tiny == smallest
    total = np.sum(x[:2])
    assert_derived(of_stored(total, x[:2]), bound(total) + unit * (6 + 1 / 8))
    y, plain = Bounded([3.0], [1 / 8], "float32"), np.array([3.0])
    assert_derived(store_scaled(y), 1 / 8)
    assert of_stored(y, y) is y and of_stored(plain, y) is plain and store_scaled(plain) is plain
    index = np.argsort(value(x))
    assert store_scaled(Bounded(index, 0.0, "float16")).dtype.kind == "i"
