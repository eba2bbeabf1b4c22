"""specs/rms_norm.md, clause by clause."""

import math

import jaxtyping
import numpy as np
import pytest
import strategies
import torch
from arrays import draw
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_law, decimal_vjp, exact
from spec_blocks import definition, floats
from tolerance import agree, agree_vjp, assert_same, assert_within, ulps

from minimind_ref.model.rms_norm import RMSNorm, rms_norm
from minimind_ref.oracle import rms_norm as oracle
from minimind_ref.oracle.bounded import bound, value

PROFILES = ("float64", "float32", "bfloat16", "float16")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CASTS = ("after", "before")
epsilons = st.sampled_from([1e-6, 1e-5, 1e-2, 1.0])


@st.composite
def cases(draw_, low=-6, high=6):
    """Distinct axes and both arrays away from neutral values; small scales are where eps matters."""
    b, s, d = draw_(st.sampled_from([(2, 3, 5), (3, 2, 7), (1, 5, 3)]))
    x = draw_(strategies.arrays((b, s, d), low=low, high=high))
    return {"x": x, "weight": draw_(strategies.arrays((d,), low=-1, high=1))}


def tensors(case, dtype=torch.float64):
    return tuple(torch.tensor(a, dtype=dtype) for a in case.values())


# ---- agreement ----
@pytest.mark.parametrize("profile", PROFILES)
@given(case=cases(), eps=epsilons, cast=st.sampled_from(CASTS))
def test_rms_norm_1_agrees_with_the_oracle(profile, case, eps, cast):
    agree(oracle.rms_norm, rms_norm, case, profile=profile, eps=eps, cast=cast)


@pytest.mark.parametrize("profile", PROFILES)
@given(case=cases(), eps=epsilons, cast=st.sampled_from(CASTS))
def test_rms_norm_10_11_gradients_agree_with_the_oracle(profile, case, eps, cast):
    agree_vjp(oracle.rms_norm_vjp, rms_norm, case, profile=profile, eps=eps, cast=cast)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("shape", [(1031,), (3, 257)])
def test_rms_norm_13_long_rows_agree_with_the_oracle(profile, cast, shape):
    case = {"x": draw(1, shape, 2.0, "heavy"), "weight": draw(2, shape[-1:])}
    agree(oracle.rms_norm, rms_norm, case, profile=profile, eps=1e-5, cast=cast)
    agree_vjp(oracle.rms_norm_vjp, rms_norm, case, profile=profile, eps=1e-5, cast=cast)


@pytest.mark.parametrize("kind", ["float", "decimal"])
@given(case=cases(), eps=epsilons, cast=st.sampled_from(CASTS))
def test_rms_norm_1_oracle_agrees_with_the_definition(kind, case, eps, cast):
    expected = floats(definition("rms_norm", kind).rms_norm(*case.values(), eps=eps, cast=cast))
    bounds = oracle.rms_norm(*exact(*case.values()), eps=eps, cast=cast)
    assert_law(oracle.rms_norm(**case, eps=eps, cast=cast), bounds, expected)


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_rms_norm_10_11_oracle_gradient_is_the_definitions(cast, eps):
    case = {"x": draw(3, (2, 3, 5), 0.5), "weight": draw(4, (5,))}
    cotangent = draw(5, (2, 3, 5))
    gradients = oracle.rms_norm_vjp(**case, eps=eps, cast=cast, cotangent=cotangent)
    bounds = oracle.rms_norm_vjp(*exact(*case.values()), eps=eps, cast=cast, cotangent=exact(cotangent)[0])
    truth = decimal_vjp(definition("rms_norm", "decimal").rms_norm, case, cotangent=cotangent, eps=eps)
    for gradient, bounded, expected in zip(gradients, bounds, truth, strict=True):
        assert_law(gradient, bounded, expected)


# ---- invariants ----
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cast", CASTS)
@given(case=cases(), eps=epsilons)
def test_rms_norm_2_rows_do_not_see_each_other(dtype, cast, case, eps):
    x, weight = tensors(case, dtype)
    before = rms_norm(x, weight, eps=eps, cast=cast)
    changed = x.clone()
    changed[-1, -2] = float("nan")
    after = rms_norm(changed, weight, eps=eps, cast=cast)
    others = torch.ones(x.shape[:-1], dtype=torch.bool)
    others[-1, -2] = False
    assert_same(after[others], before[others])
    assert after[-1, -2].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cast", CASTS)
@given(case=cases(), eps=epsilons)
def test_rms_norm_3_odd(dtype, cast, case, eps):
    x, weight = tensors(case, dtype)
    assert_same(rms_norm(-x, weight, eps=eps, cast=cast), -rms_norm(x, weight, eps=eps, cast=cast))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@given(case=cases(), exponent=st.integers(-9, 9).filter(bool), eps=st.sampled_from([2.0**-16, 2.0**-3]))
def test_rms_norm_4_power_of_two_scaling_changes_no_bit(dtype, case, exponent, eps):
    x, weight = tensors(case, dtype)
    scaled = rms_norm(x * 2.0**exponent, weight, eps=eps * 4.0**exponent)
    assert_same(scaled, rms_norm(x, weight, eps=eps))


@given(case=cases(), eps=epsilons)
def test_rms_norm_5_energy_is_d_m_over_m_plus_eps(case, eps):
    case["weight"] = np.where(case["weight"] == 0, 0.5, case["weight"])
    x, weight = exact(*case.values())
    y = rms_norm(*tensors(case), eps=eps).numpy()
    energy = np.sum((oracle.rms_norm(x, weight, eps=eps) / weight) ** 2, axis=-1)
    m = np.sum(x * x, axis=-1) / x.shape[-1]
    assert_law(np.sum((y / case["weight"]) ** 2, axis=-1), energy, x.shape[-1] * (m / (m + eps)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_5_no_entry_exceeds_weight_times_root_d(dtype):
    one_hot = torch.zeros(3, 7, dtype=dtype)
    one_hot[0, 2], one_hot[1, 4], one_hot[2, 6] = 3.0, -8.0, 0.25
    weight = torch.full((7,), 1.5, dtype=dtype)
    y = rms_norm(one_hot, weight, eps=0.25).abs().double()
    assert (y < 1.5 * 7**0.5).all()
    assert (
        y[1, 4] > 0.98 * 1.5 * 7**0.5 > y[0, 2] > 3 > y[2, 6] > 0.5
    )  # the limit is approached, and eps holds a small row back


@given(case=cases(low=0), eps=epsilons)
def test_rms_norm_6_nothing_is_centred(case, eps):
    x, weight = tensors(case)
    shifted = {**case, "x": case["x"] + 8 * np.abs(case["x"]).max() + 1.0}
    y = agree(oracle.rms_norm, rms_norm, shifted, profile="float64", eps=eps)
    assert y.size == x.numel()
    centred = rms_norm(x - x.mean(-1, keepdim=True), weight, eps=eps)
    distance = (rms_norm(torch.tensor(shifted["x"]), weight, eps=eps) - centred).abs().max()
    assert distance > 0.1 * weight.abs().max()


@pytest.mark.parametrize("profile", PROFILES)
@given(case=cases(), eps=epsilons, seed=strategies.seeds)
def test_rms_norm_7_permutation_of_features(profile, case, eps, seed):
    order = np.random.default_rng(seed).permutation(case["weight"].size)
    bounded = oracle.rms_norm(*exact(*case.values(), profile=profile), eps=eps)
    x, weight = tensors(case, getattr(torch, profile))
    assert_within(rms_norm(x[..., order], weight[order], eps=eps), bounded[..., order])


@pytest.mark.parametrize("dtype", DTYPES[:3])  # float16 has too few exponents for the factor 4 to be exact
@pytest.mark.parametrize("cast", CASTS)
@given(case=cases(), eps=epsilons)
def test_rms_norm_8_linear_in_the_weight(dtype, cast, case, eps):
    x, weight = tensors(case, dtype)
    y = rms_norm(x, weight, eps=eps, cast=cast)
    assert_same(rms_norm(x, weight * 4, eps=eps, cast=cast), y * 4)
    assert_same(rms_norm(x, -weight, eps=eps, cast=cast), -y)
    assert not rms_norm(x, torch.zeros_like(weight), eps=eps, cast=cast).any()
    kept = torch.arange(weight.numel()) % 2 == 0
    alone = rms_norm(x, torch.where(kept, weight, 0), eps=eps, cast=cast)
    assert_same(alone[..., kept], y[..., kept])
    assert not alone[..., ~kept].any()


# ---- small rows ----
@pytest.mark.parametrize("eps", [1e-6, 1e-5, 1e-2])
@pytest.mark.parametrize("scale", [2.0**-40, 2.0**-30])
def test_rms_norm_9_far_below_root_eps_the_row_is_divided_by_it(eps, scale):
    x, weight = draw(6, (3, 5), scale), draw(7, (5,))
    y = rms_norm(torch.tensor(x), torch.tensor(weight), eps=eps)
    reason = "a root, a quotient, two products; mean(x²)/eps is below 2⁻³⁹ and is allowed for by eps's own share"
    assert_within(y, weight * x / np.sqrt(eps), ulps(2**20, "float64", reason=reason))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cast", CASTS)
def test_rms_norm_9_a_row_of_zeros(dtype, cast):
    x, weight = torch.zeros(2, 5, dtype=dtype, requires_grad=True), torch.tensor(draw(8, (5,)), dtype=dtype)
    y = rms_norm(x, weight, eps=0.25, cast=cast)
    assert not y.any()
    cotangent = torch.tensor(draw(9, (2, 5)), dtype=dtype)
    y.backward(cotangent)
    assert_same(x.grad, weight * cotangent * 2)  # 1/√0.25


@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_rms_norm_1_eps_is_the_one_given_and_inside_the_root(eps):
    small = {"x": draw(10, (3, 5), 2.0**-10), "weight": draw(11, (5,))}
    agree(oracle.rms_norm, rms_norm, small, profile="float64", eps=eps)
    x, weight = tensors(small)
    ratio = rms_norm(x, weight, eps=eps) / rms_norm(x, weight, eps=4 * eps)
    assert (ratio > 1.2).all()


# ---- gradients ----
@given(case=cases(low=-3, high=3), eps=epsilons)
def test_rms_norm_12_euler(case, eps):
    x, weight = tensors(case)
    cotangent = draw(12, x.shape)
    y = rms_norm(x.requires_grad_(), weight, eps=eps)
    (dx,) = torch.autograd.grad(y, x, torch.tensor(cotangent))
    bounded_x, bounded_w = exact(*case.values())
    bounded_dx, _ = oracle.rms_norm_vjp(bounded_x, bounded_w, eps=eps, cotangent=exact(cotangent)[0])
    left = np.sum(bounded_x * bounded_dx, axis=-1)
    m = np.sum(bounded_x * bounded_x, axis=-1) / x.shape[-1]
    along = np.sum(exact(cotangent)[0] * oracle.rms_norm(bounded_x, bounded_w, eps=eps), axis=-1)
    assert_law((x * dx).detach().sum(-1), left, eps / (m + eps) * along)


@given(case=cases(), eps=epsilons)
def test_rms_norm_11_weight_gradient_times_weight_is_the_sum_of_g_y(case, eps):
    x, weight = tensors(case)
    cotangent = draw(13, x.shape)
    y = rms_norm(x, weight.requires_grad_(), eps=eps)
    (dweight,) = torch.autograd.grad(y, weight, torch.tensor(cotangent))
    bounded = exact(*case.values())
    _, bounded_dw = oracle.rms_norm_vjp(*bounded, eps=eps, cotangent=exact(cotangent)[0])
    right = np.sum(exact(cotangent)[0] * oracle.rms_norm(*bounded, eps=eps), axis=(0, 1))
    assert_law((weight * dweight).detach(), bounded[1] * bounded_dw, right)


# ---- dtypes ----
@pytest.mark.parametrize("profile", ["bfloat16", "float16"])
@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("scale", [2.0**-13, 2.0**-11, 2.0**9])
def test_rms_norm_13_the_statistic_is_float32(profile, cast, scale):
    """In float16 the squares of such rows are 0 or inf, in bfloat16 their sum is off by a rounding each."""
    case = {"x": draw(14, (3, 67), scale), "weight": draw(15, (67,))}
    agree(oracle.rms_norm, rms_norm, case, profile=profile, eps=1e-12, cast=cast)
    agree_vjp(oracle.rms_norm_vjp, rms_norm, case, profile=profile, eps=1e-3, cast=cast)
    y = rms_norm(*tensors(case, getattr(torch, profile)), eps=1e-12, cast=cast)
    assert (y / tensors(case, getattr(torch, profile))[1]).square().mean() > 0.9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rms_norm_14_after_rounds_once(dtype):
    x, weight = torch.tensor(draw(16, (11, 13)), dtype=dtype), torch.tensor(draw(17, (13,)), dtype=dtype)
    once = rms_norm(x.float(), weight.float(), eps=1e-5).to(dtype)
    assert_same(rms_norm(x, weight, eps=1e-5, cast="after"), once)
    assert_same(rms_norm(x, weight, eps=1e-5), once)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rms_norm_15_before_rounds_the_row_and_then_the_product(dtype):
    x, weight = torch.tensor(draw(16, (11, 13)), dtype=dtype), torch.tensor(draw(17, (13,)), dtype=dtype)
    row = rms_norm(x, torch.ones(13, dtype=dtype), eps=1e-5)
    twice = rms_norm(x, weight, eps=1e-5, cast="before")
    assert_same(twice, weight * row)
    assert (twice != rms_norm(x, weight, eps=1e-5, cast="after")).any()


def test_rms_norm_15_the_second_rounding_widens_the_bound():
    x, weight = exact(draw(16, (11, 13)), draw(17, (13,)), profile="bfloat16")
    once, twice = (oracle.rms_norm(x, weight, eps=1e-5, cast=cast) for cast in CASTS)
    assert_same(value(once), value(twice))
    assert (bound(twice) > 1.5 * bound(once)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cast", CASTS)
def test_rms_norm_16_result_has_the_dtype_and_shape_of_x(dtype, cast):
    for weight_dtype in DTYPES:
        x, weight = torch.ones(2, 3, 5, dtype=dtype), torch.ones(5, dtype=weight_dtype)
        y = rms_norm(x, weight, eps=1e-5, cast=cast)
        assert (y.dtype, y.shape) == (dtype, x.shape)
    assert rms_norm(torch.ones(2, 0, 5, dtype=dtype), weight, eps=1e-5, cast=cast).shape == (2, 0, 5)


def test_rms_norm_16_oracle_without_rows_and_from_float32():
    none = np.zeros((2, 0, 5))
    assert oracle.rms_norm(none, np.ones(5), eps=1e-5).shape == (2, 0, 5)
    dx, dweight = oracle.rms_norm_vjp(none, np.ones(5), eps=1e-5, cotangent=none)
    assert dx.shape == (2, 0, 5) and not dweight.any() and dweight.shape == (5,)
    x = draw(18, (3, 5))
    assert_same(
        oracle.rms_norm(x.astype(np.float32), np.ones(5, np.float32), eps=1e-5),
        oracle.rms_norm(x, np.ones(5), eps=1e-5),
    )


# ---- module and refusals ----
@pytest.mark.parametrize("cast", CASTS)
def test_rms_norm_1_module_owns_a_weight_of_ones(cast):
    module = RMSNorm(7, 1e-2, cast)
    assert [(name, tuple(p.shape)) for name, p in module.named_parameters()] == [("weight", (7,))]
    assert_same(module.weight, torch.ones(7))
    x = torch.tensor(draw(19, (3, 7), 0.125), dtype=torch.bfloat16)
    with torch.no_grad():
        module.bfloat16().weight.copy_(torch.tensor(draw(20, (7,))))
    assert_same(module(x), rms_norm(x, module.weight, eps=1e-2, cast=cast))


def both(x, weight, **options):
    options = {"eps": 1e-5, **options}
    yield lambda: rms_norm(torch.tensor(x), torch.tensor(weight), **options)
    yield lambda: oracle.rms_norm(x, weight, **options)
    yield lambda: oracle.rms_norm_vjp(x, weight, cotangent=x, **options)


@pytest.mark.parametrize(
    ("x", "weight", "options", "sizes"),
    [
        (np.ones((2, 7)), np.ones(5), {}, ("5", "7")),
        (np.ones((2, 7)), np.ones(1), {}, ("1", "7")),
        (np.ones((2, 7)), np.ones((2, 7)), {}, ("2", "7")),
        (np.ones((2, 7)), np.array(1.0), {}, ("weight",)),
        (np.ones((2, 0)), np.ones(0), {}, ("width of x", "0")),
        (np.ones((2, 7)), np.ones(7), {"cast": "never"}, ("never", "after", "before")),
        (np.ones((2, 7)), np.ones(7), {"eps": -1e-5}, ("eps=-1e-05", "0")),
        (np.ones((2, 7)), np.ones(7), {"eps": math.nan}, ("eps=nan", "0")),
        (np.ones((2, 7)), np.ones(7), {"eps": math.inf}, ("eps=inf", "0")),
    ],
)
def test_rms_norm_17_refusals(x, weight, options, sizes):
    for call in both(x, weight, **options):
        with pytest.raises(ValueError) as refusal:
            call()
        assert all(size in str(refusal.value) for size in sizes), refusal.value


def test_rms_norm_15_a_module_casts_as_the_function_does_unless_told():
    x, weight = (torch.tensor(draw(41 + i, shape), dtype=torch.bfloat16) for i, shape in enumerate([(11, 13), (13,)]))
    norm = RMSNorm(13, 1e-5)
    norm.weight.data = weight.float()
    before = rms_norm(x, weight.float(), eps=1e-5, cast="before")
    assert_same(norm(x), rms_norm(x, weight.float(), eps=1e-5))
    assert (norm(x) != before).any()


def test_rms_norm_17_a_scalar_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for call in both(np.array(1.0), np.ones(1)):
        with pytest.raises(ValueError, match="x has 0 axes"):
            call()
