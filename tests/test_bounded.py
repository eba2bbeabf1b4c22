"""Error bounds accept every honest implementation, reject wrong ones, and are no wider than they must be."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from arrays import draw
from expressions import COMPONENTS, SUMS, fused_product, judged, online_softmax, outside, top_two
from hypothesis import given
from strategies import arrays
from tolerance import assert_same, assert_within

from minimind_ref.oracle.bounded import (
    PROFILES,
    Bounded,
    bound,
    bound_inputs,
    constant,
    decide,
    decide_top,
    log_sigmoid,
    logsumexp,
    open_share,
    sigmoid,
    softmax,
    softplus,
    store,
    undecided,
    value,
)
from minimind_ref.oracle.precision import BFLOAT16, FLOAT16, FLOAT32, Profile, gamma
from minimind_ref.oracle.propagation import RULES

ACCUMULATOR = {"float64": np.float64, "float32": np.float32, "bfloat16": np.float32, "float16": np.float32}
every_profile = pytest.mark.parametrize("profile", PROFILES)


def run(function: Callable, *xs: np.ndarray, profile: str) -> tuple:
    """Run a function on bound-carrying inputs; give its result and the rounded inputs in the accumulator's dtype."""
    bounded = bound_inputs(*xs, profile=profile)
    return function(*bounded), *(x.value.astype(ACCUMULATOR[profile]) for x in bounded)


def stored(y: np.ndarray, profile: str) -> np.ndarray:
    return PROFILES[profile].storage.round(y.astype(np.float64))


# ---- honest implementations are accepted ----
@every_profile
@given(x=arrays((3, 257)))
def test_sums_in_every_order(profile, x):
    y, a = run(lambda x: store(np.sum(x, axis=-1)), x, profile=profile)
    for total in SUMS.values():
        assert_within(stored(total(a), profile), y)


@every_profile
@given(x=arrays((3, 101), high=0), w=arrays((101, 5), high=0))
def test_products_of_matrices_in_every_order(profile, x, w):
    y, a, b = run(lambda x, w: store(x @ w), x, w, profile=profile)
    for honest in (*(total(a[:, None, :] * b.T) for total in SUMS.values()), fused_product(a, b), a @ b):
        assert_within(stored(honest, profile), y)


@every_profile
@given(x=arrays((3, 29)), w=arrays((29,)))
def test_forms_of_the_root_mean_square(profile, x, w):
    y, a, b = run(
        lambda x, w: store(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5) * w), x, w, profile=profile
    )
    for total in SUMS.values():
        root = np.sqrt((total(a * a) * a.dtype.type(1 / 29))[:, None] + a.dtype.type(1e-5))
        for honest in (a / root * b, a * (1 / root) * b, a * (b / root), (a / root).astype(np.float64) * b):
            assert_within(stored(honest, profile), y)


@every_profile
@given(x=arrays((3, 37), low=-3, high=3))
def test_forms_of_softmax(profile, x):
    y, a = run(lambda x: store(softmax(x)), x, profile=profile)
    part = np.exp(a - a.max(axis=-1, keepdims=True))
    for total in SUMS.values():
        for honest in (part / total(part)[:, None], part * (1 / total(part)[:, None])):
            assert_within(stored(honest, profile), y)
    for honest in (online_softmax(a, block=16), online_softmax(a, block=1)):
        assert_within(stored(honest, profile), y)
    for sign in (-1, 1):  # an exponential that is wrong by 20 ulp, most where it hurts most
        crooked = part * (1 + sign * 40 * np.finfo(a.dtype).epsneg * np.sign(part - part.mean()))
        assert_within(stored(crooked / crooked.sum(axis=-1, keepdims=True), profile), y)


@every_profile
@given(q=arrays((7, 5), high=3), k=arrays((11, 5), high=3), v=arrays((11, 3)))  # scores that a float32 still knows
def test_forms_of_attention(profile, q, k, v):
    def attend(q, k, v):
        score = q @ k.T * 5**-0.5
        part = np.exp(score - np.max(score, axis=-1, keepdims=True))
        return store(part @ v / np.sum(part, axis=-1, keepdims=True))

    y, a, b, c = run(attend, q, k, v, profile=profile)
    score = fused_product(a, b.T) * a.dtype.type(5**-0.5)
    for weight in (online_softmax(score, block=4), online_softmax(score, block=11)):
        for honest in (weight @ c, fused_product(weight, c), (weight[:, ::-1] @ c[::-1])):
            assert_within(stored(honest, profile), y)


@every_profile
@given(x=arrays((5, 31), low=-3, high=4))
def test_forms_of_cross_entropy(profile, x):
    label = np.arange(5)
    y, a = run(lambda x: store(logsumexp(x, axis=-1) - x[label, label]), x, profile=profile)
    top = a.max(axis=-1)
    for total in SUMS.values():
        log = np.log(total(np.exp(a - top[:, None])))
        for honest in (log + top - a[label, label], log - (a[label, label] - top)):
            assert_within(stored(honest, profile), y)
    assert_within(stored(np.logaddexp.reduce(a, axis=-1) - a[label, label], profile), y)


@every_profile
@given(x=arrays((3, 29), low=-3, high=5))
def test_forms_of_sigmoid_and_softplus(profile, x):
    sig, a = run(sigmoid, x, profile=profile)
    gate, _ = run(open_share, x, profile=profile)
    soft, _ = run(softplus, x, profile=profile)
    low, _ = run(log_sigmoid, x, profile=profile)
    with np.errstate(over="ignore", under="ignore"):
        small = np.exp(-np.abs(a))
        for honest in (1 / (1 + np.exp(-a)), np.where(a < 0, small, 1) / (1 + small)):
            assert_within(honest, sig)
            assert_within(honest, gate)
        assert_within(0.5 * (1 + np.tanh(a / 2)), gate)
        assert_within(0.5 + 0.5 * np.tanh(0.5 * a), gate)
        for honest in (np.maximum(a, 0) + np.log1p(small), np.logaddexp(0, a), np.logaddexp(a, 0)):
            assert_within(honest, soft)
            assert_within(-(honest - a), -(soft - bound_inputs(x, profile=profile)[0]))
    assert_within(-(np.maximum(-a, 0) + np.log1p(small)), low)


@every_profile
def test_a_loop_is_bounded_for_every_order(profile):
    """`+=` knows the terms of its sum: it gives np.sum's bound, not the narrower one of its own order."""
    (x,) = bound_inputs(draw(5, (3, 101), structure="alternating"), profile=profile)
    total, slots = np.zeros_like(x[:, 0]), np.zeros_like(x, shape=(2, 3))
    for column in x.T:
        total += column
        slots[1] += column
    for loop in (total, slots[1]):
        assert_same(bound(loop), bound(np.sum(x, axis=-1)))
    merged = np.sum(x[:, :50], axis=-1)
    merged += np.sum(x[:, 50:], axis=-1)
    assert np.all(bound(merged) >= gamma(100, x.profile.unit) * np.sum(np.abs(value(x)), axis=-1))
    narrow = x[:, 0] + (x[:, 1] + x[:, 2])
    assert np.all(bound(narrow) < bound(x[:, 0] + x[:, 1] + x[:, 2]))


# ---- rules ----
DOMAIN = {np.log: (0.1, 9), np.sqrt: (0.1, 9), np.log1p: (-0.9, 9), np.reciprocal: (0.1, 9), np.power: (0.1, 9)}


@pytest.mark.parametrize("ufunc", RULES, ids=lambda ufunc: ufunc.__name__)
@pytest.mark.parametrize("size", [2.0**-20, 2.0**-4])
def test_rules_bound_what_moved_operands_give(ufunc, size):
    """The corners of the operands' boxes stay inside; where rounding is small, they fill half of the bound."""
    low, high = DOMAIN.get(ufunc, (-4.0, 4.0))
    unit = [(draw(seed, (400,), structure="uniform") + 1) / 2 for seed in range(ufunc.nin)]
    xs = [FLOAT32.round(x * (high - low) + low) for x in unit]
    moves = np.arange(400) % 5 > 0  # every fifth element is exact
    errors = [size * np.minimum(np.abs(x), 1) * moves for x in xs]
    y = ufunc(*(Bounded(x, e, "float32") for x, e in zip(xs, errors, strict=True)))
    reached = np.zeros(400)
    for corner in np.ndindex(*(3,) * ufunc.nin):
        shifts = [(c - 1) * e for e, c in zip(errors, corner, strict=True)]
        exact = ufunc(*(x + shift for x, shift in zip(xs, shifts, strict=True)))
        single = ufunc(*((x + 0.4 * shift).astype(np.float32) for x, shift in zip(xs, shifts, strict=True)))
        assert_within(exact, y)
        assert_within(single, y)
        reached = np.maximum(reached, np.abs(exact - value(y)))
    assert size < 2.0**-4 or np.mean((reached >= bound(y) / 2)[moves]) > 1 / 2


@pytest.mark.parametrize("ufunc", [u for u in RULES if u.nin == 1], ids=lambda ufunc: ufunc.__name__)
@every_profile
def test_functions_of_numpy_and_torch(ufunc, profile):
    low, high = DOMAIN.get(ufunc, (-20.0, 20.0))
    x = (draw(7, (1000,), structure="uniform") + 1) / 2 * (high - low) + low
    y, a = run(ufunc, x, profile=profile)
    assert_within(ufunc(a), y)
    assert_within(getattr(torch, ufunc.__name__)(torch.from_numpy(a)), y)


@pytest.mark.parametrize("exponent", [2, 3, 7, -1, -2, 0.5, -0.5, 1.7])
@given(x=arrays((13,), of=("positive",), low=-3, high=3))
def test_powers(exponent, x):
    y, a = run(lambda x: np.power(x, exponent), x, profile="float32")
    assert_within(torch.from_numpy(a) ** exponent, y)
    assert_within(np.power(a, np.float32(exponent)), y)


def test_scaling_by_powers_of_two_and_exact_zeros_does_not_round():
    (x,) = bound_inputs(draw(3, (17,)), profile="float32")
    for exact in (x * 4, x / 2, x * 0.0, 0.0 / (x * x + 1), x + 0.0, -x, np.abs(x), np.where(x > 0, x, 1.0), x[::-1]):
        assert np.all(bound(exact) <= FLOAT32.tiny * 2)
    assert np.all(bound(x * 3) > 0)


def test_what_only_resembles_a_power_of_two_still_rounds():
    near, factor = Bounded([2.0], [2.0**-20], "float32"), bound_inputs(np.array([1.75]), profile="float32")[0]
    assert bound(near * factor) > 1.75 * 2.0**-20 + 0.9 * FLOAT32.unit * 3.5
    assert bound(factor / near) > 0.875 * 2.0**-21 + 0.9 * FLOAT32.unit * 0.875


def test_sigmoid_forgets_errors_where_it_is_flat():
    assert np.all(bound(sigmoid(Bounded([-9.0, 9.0], 2.0**-3, "float32"))) < 2.0**-3 * 2.0**-12)


def test_an_open_share_is_known_as_well_as_its_hyperbolic_form():
    x = np.linspace(-120, 0, 961)
    for profile in ("float64", "float32"):
        share = open_share(Bounded(x, 0.0, profile))
        assert_within((0.5 + 0.5 * np.tanh(0.5 * x.astype(profile))).astype(float), share)
        unit = PROFILES[profile].unit
        assert np.all(bound(share) <= np.maximum(value(share), 2.01 * unit) + bound(sigmoid(Bounded(x, 0.0, profile))))
        assert np.all(bound(share) < 5 * unit)


def test_literals_are_rounded_unless_the_format_holds_them():
    (x,) = bound_inputs(np.array([1.0]), profile="bfloat16")
    assert bound(x + 0.5) <= 2 * FLOAT32.unit * 1.5
    assert bound(x * np.float64(0.9)) > bound(x * 0.875)
    assert_within(np.array([np.float32(0.9)]), x * 0.9)
    assert outside(np.array([np.float32(0.9)]), Bounded([0.9], [0.0], "float32"))
    (y,) = bound_inputs(np.array([1.0]), profile="float64")
    assert bound(y * 0.9) <= 2 * gamma(1, 2.0**-52) * 0.9
    assert bound(x * np.array([0.9]) - x * 0.9) > 0


def test_a_table_of_options_is_rounded_only_for_bounded_company():
    table = np.array([0.1, 3.0])
    (x,) = bound_inputs(table, profile="float32")
    assert constant(table, like=table) is table
    marked = constant(table, like=x, ulps=3)
    assert_within(table.astype(np.float32) * np.float32(1 + 2**-22), marked)
    assert np.all(bound(marked) <= 6.1 * x.profile.unit * table)


# ---- storage and accumulation ----
@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [
        (BFLOAT16, torch.bfloat16),
        (FLOAT16, torch.float16),
        (FLOAT32, torch.float32),
        (PROFILES["float64"].storage, torch.float64),
    ],
)
def test_formats_round_as_torch_does(fmt, dtype):
    x = draw(11, (4000,), structure="heavy") * 2.0 ** np.linspace(-160, 140, 4000).round()
    x = np.concatenate([FLOAT32.round(x), [0.0, np.inf, -np.inf, fmt.largest, fmt.tiny / 2, fmt.tiny]])
    assert_same(fmt.round(x), torch.from_numpy(x).to(dtype).to(torch.float64).numpy())
    info = torch.finfo(dtype)
    assert (fmt.unit * 2, fmt.largest) == (info.eps, info.max)
    assert (fmt.smallest_normal, fmt.tiny) == (info.tiny, info.tiny * info.eps)


def test_storage_and_accumulation_are_apart():
    """With float32 accumulation a bfloat16 sum of 4096 is known to 1 %; with one precision its bound is infinite."""
    x = draw(1, (4096,), structure="positive")
    y, a = run(lambda x: store(np.sum(x)), x, profile="bfloat16")
    assert_within(torch.from_numpy(a).to(torch.bfloat16).sum(), y)
    assert bound(y) < 2.0**-7 * value(y)
    single = Profile("bfloat16 alone", BFLOAT16, BFLOAT16)
    assert np.isinf(bound(np.sum(bound_inputs(x, profile=single)[0])))


def test_store_rounds_once_and_only_where_it_must():
    for profile in PROFILES.values():
        (x,) = bound_inputs(draw(2, (31,)), profile=profile)
        assert np.all(bound(store(x)) == 0)
        third = store(x / 3.0)
        assert_within(profile.storage.round(value(x) / 3.0), third)
        rounding = profile.storage.unit + 4 * profile.accumulation.unit
        assert np.all(bound(third) <= rounding * np.abs(value(third)) + 2 * profile.storage.tiny)
    assert store(value(third)) is third.value
    index = decide_top(x, 2)
    assert store(index) is index


def test_what_may_leave_the_format_is_undecided():
    (x,) = bound_inputs(np.array([65504.0, 200.0, 181.0, 2.0**-14]), profile="float16")
    y = store(x * x)
    assert undecided(y).tolist() == [True, False, False, False] or undecided(y).tolist() == [True, True, False, False]
    assert_within(np.array([np.inf, 40000.0, 32768.0, 2.0**-28]), y, undecided=1 / 4)
    with pytest.raises(AssertionError, match="undecided"):
        assert_within(np.array([np.inf, 40000.0, 32768.0, 0.0]), y)
    (z,) = bound_inputs(np.array([1e30]), profile="float32")
    assert undecided(z * z).all() and not undecided(z * 1e8).any()


def test_exact_infinities_stay_exact():
    (x,) = bound_inputs(draw(4, (3, 5)), profile="float32")
    score = np.where(np.tril(np.ones((3, 5), bool)), x * 1.1, -np.inf)
    for masked in (score, score + x, score - np.max(score, axis=-1, keepdims=True), np.maximum(score, -np.inf)):
        assert np.all(bound(masked)[value(masked) == -np.inf] == 0) and not undecided(masked).any()
    for weight in (np.exp(score), softmax(score)):
        assert np.all(value(weight)[np.isinf(value(score))] == 0) and np.all(bound(weight)[np.isinf(value(score))] == 0)
    nothing = softmax(np.where(np.zeros((3, 5), bool), x, -np.inf))
    assert not value(nothing).any() and not bound(nothing).any()
    assert np.all(bound(logsumexp(np.full_like(x, -np.inf))) == 0)
    assert undecided(1.0 / (x - x * 1.0)).all()


# ---- decisions ----
def test_a_decision_within_the_bound_is_undecided():
    a = Bounded([1.0, 1.0, 1.0, 1.0], [0.0, 0.1, 0.1, 0.0], "float32")
    b = Bounded([1.0, 1.15, 1.25, 0.5], [0.0, 0.1, 0.1, 0.0], "float32")
    choice = decide(b, a)
    assert value(choice).tolist() == [False, True, True, False]
    assert bound(choice).tolist() == [0, np.inf, 0, 0]
    assert undecided(~choice).tolist() == undecided(choice).tolist()
    assert value(~choice).tolist() == [True, False, False, True]
    flags = np.array([True, False, True, True])
    for both, either in ((choice & flags, choice | flags), (flags & choice, flags | choice)):
        assert value(both).tolist() == [False, False, True, False] and bound(both).tolist() == [0] * 4
        assert value(either).tolist() == [True] * 4 and bound(either).tolist() == [0, np.inf, 0, 0]
    assert value(choice.astype(float)).tolist() == [0, 1, 1, 0]
    assert undecided(np.where(choice, a, 0.0)).tolist() == [False, True, False, False]
    assert undecided(np.where(choice, 2.0, 2.0)).tolist() == [False] * 4
    assert undecided(np.where(choice, 1.0, 2.0)).tolist() == [False, True, False, False]
    assert undecided(decide(Bounded([2.0], 0.5, "float32"), Bounded([1.0], 0.5, "float32"))).all()  # both may be 1.5
    assert undecided(choice.astype(float) * a).tolist() == [False, True, False, False]
    assert decide(value(b), value(a)).tolist() == [False, True, True, False]
    assert decide(np.array([-(2.0**-20), 0.0, 2.0**-20])).tolist() == [False, False, True]
    with pytest.raises(TypeError, match="branch"):
        bool(choice[0])


def test_either_branch_passes_and_the_cap_counts_it():
    x = draw(9, (5, 11))
    x[2], x[2, 4] = np.arange(11.0), 9 - 1e-3  # the second and the third largest are as near as the bound
    y = Bounded(x, 1e-3, "float32")
    kept = top_two(y)
    assert np.argwhere(undecided(kept)).tolist() == [[2, 4], [2, 9]]
    other = x.copy()
    other[2, [4, 9]] = other[2, [9, 4]]  # an implementation whose errors turn the two round
    for either in (top_two(x), top_two(other)):
        assert_within(either, kept, undecided=2 / 55)
    with pytest.raises(AssertionError, match="undecided"):
        assert_within(top_two(x), kept)


def test_top_of_a_row_carries_its_margin():
    x = Bounded([[3.0, 1.0, 2.0, 2.05], [0.0, 5.0, 1.0, 3.0]], 0.03, "float32")
    index = decide_top(x, 3)
    assert value(index).tolist() == [[0, 3, 2], [1, 3, 2]] and index.dtype.kind == "i"
    assert bound(index).tolist() == [[0, np.inf, np.inf], [0, 0, 0]]
    assert undecided(np.take_along_axis(x, index, axis=-1)).tolist() == undecided(index).tolist()
    table = np.arange(8.0).reshape(4, 2)
    (rows,) = bound_inputs(table, profile="float32")
    assert undecided(rows[index]).tolist() == [[[lost] * 2 for lost in row] for row in undecided(index).tolist()]
    assert undecided(rows[index[0, 1]]).all() and not undecided(rows[index[0, 0]]).any()
    assert undecided(np.take(rows, index, axis=0)).any() and table[index[1, 0]].tolist() == [2.0, 3.0]
    tied = decide_top(Bounded([1.0, 1.0, 0.0], 0.0, "float32"), 3)
    assert value(tied).tolist() == [0, 1, 2] and undecided(tied).tolist() == [True, True, False]
    assert decide_top(value(x), 1).tolist() == [[0], [1]]


# ---- wrong implementations are rejected, and by no more than it takes ----
def kills(runs: list, reject: Callable) -> int:
    return sum(reject(result, right) for wrong, result, right in runs if wrong is not None)


def fixed(result: np.ndarray, right: Bounded) -> bool:
    return not np.all(np.abs(result - value(right)) <= 1e-5 * (1 + np.abs(value(right))))


@pytest.mark.parametrize("name", COMPONENTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_no_expression_is_rejected_and_no_bound_is_vacuous(name, dtype):
    for wrong, result, right in judged(COMPONENTS[name], dtype, range(5)):
        if wrong is None:
            report = assert_within(result, right)
            limit = 1e-9 if dtype is np.float64 else 1e-9 * 2.0**29  # the same, in units of u
            assert report.median_bound_over_value <= limit
            assert dtype is np.float64 or report.largest_error_over_bound > 0


def test_bounds_kill_more_than_a_fixed_rule_and_wider_ones_fewer():
    double, single = (
        [run for component in COMPONENTS.values() for run in judged(component, dtype, range(3))]
        for dtype in (np.float64, np.float32)
    )
    wider = [kills(single, lambda y, right, factor=factor: outside(y, right, factor)) for factor in (1, 10, 100)]
    assert kills(double, outside) > wider[0] > kills(single, fixed)
    assert wider[0] > wider[1] > wider[2]
    mutants = 3 * sum(len(component.wrong) for component in COMPONENTS.values())
    assert kills(double, outside) >= 0.95 * mutants
