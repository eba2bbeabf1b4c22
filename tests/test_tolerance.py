"""The comparisons that all other tests rely on fail when they should."""

import numpy as np
import pytest
import torch
from arrays import draw
from tolerance import agree, agree_vjp, assert_same, assert_within, ulps

from minimind_ref.oracle.bounded import PROFILES, Bounded, decide_top, store

X, W = draw(1, (3, 5)), draw(2, (5,))


def oracle(x, w, index=None, *, power):
    return store(x**power * w), np.sum(store(w * 3.0))


def face(x, w, index=None, *, power, wrong=None):
    y = x**power * w if power == 1 else x * x * w
    if wrong == "value":
        y = y * 1.01
    if wrong == "dtype":
        y = y.to(torch.float64 if y.dtype == torch.float32 else torch.float32)
    if wrong == "nan":
        y = y * torch.where(torch.arange(5) == 3, torch.nan, 1.0).to(y.dtype)
    if wrong == "shape":
        y = y[None]
    if wrong == "detached":
        y = y.detach() + 0 * x
    return (y,) if wrong == "missing" else (y, (w * 3.0).sum())


def oracle_vjp(x, w, index=None, *, power, cotangent):
    dy, dsum = cotangent
    half = store(store(dy * w) * x)  # torch stores every intermediate of this face
    return store(half + half), store(store(np.sum(store(dy * store(x * x)), axis=0)) + store(dsum * 3.0))


@pytest.mark.parametrize("profile", PROFILES)
def test_agree_runs_both_on_the_same_rounded_inputs(profile):
    report = agree(oracle, face, {"x": X, "w": W, "index": np.arange(3)}, profile=profile, power=1)
    assert report.size == 16 and report.undecided == 0
    assert 0 <= report.largest_error_over_bound <= 1 and 0 < report.median_bound_over_value < 0.01


@pytest.mark.parametrize("wrong", ["value", "dtype", "nan", "shape", "missing"])
@pytest.mark.parametrize("profile", ["float64", "float32"])
def test_agree_fails_on_what_is_wrong(profile, wrong):
    with pytest.raises(AssertionError):
        agree(oracle, face, {"x": X, "w": W}, profile=profile, power=2, face_options={"wrong": wrong})


def test_agree_takes_another_output_dtype_and_a_limit():
    inputs = {"x": X, "w": W}
    with pytest.raises(AssertionError, match="dtype"):
        agree(oracle, face, inputs, profile="float32", power=2, output_dtype=torch.float64)
    with pytest.raises(AssertionError, match="median bound"):
        agree(oracle, face, inputs, profile="float64", power=2, median_limit=1e-18)
    agree(lambda x: np.ones(2), lambda x: torch.ones(2), {"x": X}, profile="float32")


def test_agree_compares_choices_exactly():
    def ranked(x):
        return decide_top(x, 2)

    agree(ranked, lambda x: x.topk(2).indices, {"x": X}, profile="bfloat16")
    with pytest.raises(AssertionError):
        agree(ranked, lambda x: (-x).topk(2).indices, {"x": X}, profile="bfloat16")
    tied = np.round(X)
    with pytest.raises(AssertionError, match="undecided"):
        agree(ranked, lambda x: x.topk(2).indices, {"x": tied}, profile="bfloat16")
    assert agree(ranked, lambda x: x.topk(2).indices, {"x": tied}, profile="bfloat16", undecided=1.0).undecided > 0


@pytest.mark.parametrize("profile", PROFILES)
def test_agree_vjp_compares_all_gradients(profile):
    inputs = {"x": X, "w": W, "index": np.arange(3)}
    report = agree_vjp(oracle_vjp, face, inputs, profile=profile, power=2)
    assert report.size == 20
    agree_vjp(oracle_vjp, face, inputs, profile=profile, power=2, cotangent=(draw(3, (3, 5)), np.array(0.5)))


def test_agree_vjp_fails_on_wrong_and_missing_gradients():
    inputs = {"x": X, "w": W}
    for wrong in ("value", "detached"):
        with pytest.raises(AssertionError, match="outside"):
            agree_vjp(oracle_vjp, face, inputs, profile="float32", power=2, face_options={"wrong": wrong})
    with pytest.raises(AssertionError, match="results for 1"):
        agree_vjp(lambda *a, **k: oracle_vjp(*a, **k)[:1], face, inputs, profile="float32", power=2)
    with pytest.raises(AssertionError, match="entries for 2"):
        agree_vjp(oracle_vjp, face, inputs, profile="float32", power=2, cotangent=X)
    with pytest.raises(AssertionError, match="nothing to derive"):
        agree_vjp(oracle_vjp, lambda x: x, {"x": np.arange(3)}, profile="float32")


def test_nested_arguments_reach_both_sides():
    pair = (draw(4, (5, 5)), draw(5, (5,)))
    agree(
        lambda x, pair: x @ pair[0] + pair[1],
        lambda x, pair: x @ pair[0] + pair[1],
        {"x": X, "pair": pair},
        profile="float32",
    )

    def vjp(x, pair, *, cotangent):
        return cotangent @ pair[0].T, (x.T @ cotangent, np.sum(cotangent, axis=0))

    agree_vjp(vjp, lambda x, pair: x @ pair[0] + pair[1], {"x": X, "pair": pair}, profile="float32")


@pytest.mark.parametrize(
    ("actual", "expected", "bound"),
    [
        ([1.0, np.nan], [1.0, np.nan], np.inf),
        ([1.0, 2.0], [1.0, np.nan], np.inf),
        ([], [], None),
        ([1.0, 1.0], 1.0, None),
        ([[1.0, 1.0]], [1.0, 1.0], None),
        ([1.0, 1.0], [1.0, 1.0], [0.0]),
        ([1.0, 1.0 + 1e-15], [1.0, 1.0], None),
        ([1.0, 1.2], [1.0, 1.0], 0.1),
        ([1.0, np.inf], [1.0, 1.0], 0.1),
        ([1.0, 1.0], [1.0, np.inf], 0.1),
        ([1.0, -np.inf], [1.0, np.inf], 0.1),
        ([1.0, 1.0], [1.0, 1.0], [0.0, np.inf]),
    ],
)
def test_assert_within_fails(actual, expected, bound):
    with pytest.raises(AssertionError):
        assert_within(np.array(actual), np.array(expected), None if bound is None else np.array(bound))


def test_assert_within_passes_and_measures():
    right = Bounded([2.0, np.inf, 4.0, 0.0], [1.0, 0.0, np.inf, 0.5], "float32")
    report = assert_within(torch.tensor([1.5, np.inf, 9.0, 0.25]), right, undecided=1 / 4)
    assert (report.size, report.undecided, report.largest_error_over_bound) == (4, 0.25, 0.5)
    assert report.median_bound_over_value == 0.5
    assert_within(np.array([1.0, 1.1]), np.array([1.0, 1.0]), 0.2)


def test_ulps_are_the_spacing_at_the_expected_value():
    one = ulps(1, torch.bfloat16, reason="the spacing itself")
    assert one.of(np.array([1.0, -1.5, 2.0, 0.0])).tolist() == [2.0**-7, 2.0**-7, 2.0**-6, 2.0**-133]
    expected = np.array([1.0, 3.0])
    for dtype in (np.float32, np.float64):
        near = ulps(2, np.dtype(dtype).name, reason="two neighbours")
        step = np.spacing(expected.astype(dtype)).astype(np.float64)
        assert_within(expected + 2 * step, expected, near)
        with pytest.raises(AssertionError, match="2 of 2"):
            assert_within(expected + 3 * step, expected, near)
    for count, dtype, reason in ((1, "float32", " "), (-1, "float32", "why"), (1, "int8", "why")):
        with pytest.raises(ValueError):
            ulps(count, dtype, reason=reason)


def test_same_means_every_bit():
    for a in (
        torch.tensor([1.0, np.nan]),
        np.array([1, 2]),
        np.array([True, False]),
        torch.ones(2, dtype=torch.bfloat16),
    ):
        assert_same(a, a.clone() if isinstance(a, torch.Tensor) else a.copy())
    wrong = (
        (torch.tensor([1.0, 0.0]), torch.tensor([1.0, -0.0])),
        (torch.ones(2), torch.ones(2, dtype=torch.float64)),
        (torch.ones(2), torch.ones(1, 2)),
        (torch.ones(0), torch.ones(0)),
        (np.array([1.0]), np.array([1.0 + 2**-52])),
        (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16) * 1.01),
    )
    for a, b in wrong:
        with pytest.raises(AssertionError):
            assert_same(a, b)
