"""specs/rope.md, clause by clause."""

import math
from types import MappingProxyType

import jaxtyping
import numpy as np
import pytest
import strategies
import torch
from arrays import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_law, decimal_vjp, exact
from spec_blocks import definition, floats
from tolerance import agree, agree_vjp, assert_same, assert_within, ulps

from minimind_ref.model.rope import apply_rope, rope_frequencies, rope_table, yarn_attention_factor
from minimind_ref.oracle import rope as oracle
from minimind_ref.oracle.bounded import bound, value

PROFILES = ("float64", "float32", "bfloat16", "float16")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
THETAS = (1e4, 1e6)
FREQUENCY = ulps(
    32, "float64", reason="exp of a rounded argument of up to ln 1e6 = 14, a ramp of four operations, a product"
)
PUBLISHED = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
MINIMIND3 = {"type": "yarn-minimind3"}
MINIMIND2 = {"type": "yarn-minimind2"}
FORMS = (PUBLISHED, MINIMIND3, MINIMIND2)


@st.composite
def scalings(draw_, types=("yarn", "yarn-minimind3", "yarn-minimind2")):
    """Any valid scaling: ramps inside the head, at its ends, of width 0; settings given and left out."""
    scaling = {
        "type": draw_(st.sampled_from(types)),
        "factor": draw_(st.sampled_from([1.0, 1.5, 4.0, 16.0, 40.0])),
        "original_max_position_embeddings": draw_(st.sampled_from([5, 40, 64, 2048, 8191, 131072])),
        "beta_slow": draw_(st.sampled_from([0.5, 1.0, 3.0])),
        "beta_fast": draw_(st.sampled_from([3.0, 4.0, 32.0, 128.0])),
        "attention_factor": draw_(st.sampled_from([None, 1.0, 1.25])),
    }
    optional = [k for k in scaling if k not in ("type", "factor")]
    left_out = draw_(st.sets(st.sampled_from(optional)))
    return {k: v for k, v in scaling.items() if k not in left_out}


@st.composite
def cases(draw_, c=1.0):
    """x (b, s, n, h) with a table of any positions up to 40000, of the batch or of all rows."""
    b, s, n, h = draw_(st.sampled_from([(2, 3, 5, 14), (3, 2, 7, 10), (1, 5, 3, 6)]))
    shape = draw_(st.sampled_from([(b, s), (s,)]))
    positions = draw_(strategies.indices(shape, -50, 40000))
    frequencies = oracle.rope_frequencies(h, theta=1e4)
    cos, sin = oracle.rope_table(positions, frequencies, attention_factor=c)
    return {"x": draw_(strategies.arrays((b, s, n, h))), "cos": cos, "sin": sin}


def tensors(case, dtype=torch.float64):
    return tuple(torch.tensor(a, dtype=dtype) for a in case.values())


def table(positions, frequencies, c=1.0):
    return rope_table(torch.as_tensor(positions), torch.as_tensor(frequencies), attention_factor=c)


def turned(x, positions):
    """x (s, n, h) at these positions, in float64."""
    frequencies = rope_frequencies(x.shape[-1], theta=1e4)
    return apply_rope(torch.as_tensor(x)[None], *table(positions, frequencies))[0]


# ---- frequencies: agreement ----
@given(scaling=st.none() | scalings(), half=st.sampled_from([1, 2, 5, 32, 48]), theta=st.sampled_from(THETAS))
def test_rope_1_15_16_17_frequencies_agree(scaling, half, theta):
    ours = oracle.rope_frequencies(2 * half, theta=theta, scaling=scaling)
    face = rope_frequencies(2 * half, theta=theta, scaling=scaling)
    assert face.dtype == torch.float64 and ours.shape == (half,)
    assert_within(face, ours, FREQUENCY)
    for kind in ("float", "decimal"):
        expected = floats(definition("rope", kind).rope_frequencies(2 * half, theta=theta, scaling=scaling))
        assert_within(ours, expected, FREQUENCY)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form["type"])
@pytest.mark.parametrize(
    ("half", "theta", "length"), [(2, 1e4, 5), (2, 10.0, 131072), (32, 10.0, 131072), (32, 1e4, 40), (32, 10.0, 1000)]
)
def test_rope_15_16_17_ramps_that_leave_the_head_agree(form, half, theta, length):
    scaling = {**form, "factor": 4.0, "original_max_position_embeddings": length}
    expected = floats(definition("rope", "decimal").rope_frequencies(2 * half, theta=theta, scaling=scaling))
    for frequencies in (rope_frequencies, oracle.rope_frequencies):
        assert_within(frequencies(2 * half, theta=theta, scaling=scaling), expected, FREQUENCY)


@given(scaling=st.none() | scalings())
def test_rope_18_attention_factor_agrees(scaling):
    expected = float(definition("rope", "decimal").yarn_attention_factor(scaling))
    assert_within(np.array([oracle.yarn_attention_factor(scaling)]), np.array([expected]), FREQUENCY)
    assert_within(np.array([yarn_attention_factor(scaling)]), np.array([expected]), FREQUENCY)


@pytest.mark.parametrize("frequencies", [rope_frequencies, oracle.rope_frequencies])
def test_rope_1_ends_of_the_range(frequencies):
    f = frequencies(64, theta=1e6)
    assert f[0] == 1.0
    assert_within(f[16:17], np.array([1e-3]), FREQUENCY)  # theta^(−1/2): half way
    assert (f[:-1] / f[1:] > 1.5).all() and f[-1] > 1e-6  # theta^(−62/64), not theta^−1


@pytest.mark.parametrize("factor", [oracle.yarn_attention_factor, yarn_attention_factor])
def test_rope_18_attention_factor(factor):
    assert factor(None) == 1.0
    assert factor({**MINIMIND3, "factor": 8.0}) == factor(MINIMIND2) == 1.0
    assert_within(np.array([factor({**PUBLISHED, "factor": 16.0})]), np.array([1.2772588722239782]), FREQUENCY)
    for form in FORMS:
        assert factor({**form, "attention_factor": 1.5}) == 1.5
        assert factor({**form, "attention_factor": 0.0}) == 0.0  # given, though false
        assert factor({**form, "attention_factor": None}) == factor(form)


# What MiniMind's own code gave (float32): head width 64, theta 1e6, its default YaRN settings, pairs 0, 8, 13, 16, 31.
RECORDED = {
    "yarn-minimind2": [1.0, 0.028173020109534264, 0.003143106121569872, 0.0002500000118743628, 3.8498163235090033e-07],
    "yarn-minimind3": [1.0, 0.021740658208727837, 0.0006086235516704619, 6.25000029685907e-05, 9.624540808772508e-08],
}


@pytest.mark.parametrize("form", RECORDED)
@pytest.mark.parametrize("frequencies", [rope_frequencies, oracle.rope_frequencies])
def test_rope_16_17_minimind_s_own_numbers(form, frequencies):
    f = np.asarray(frequencies(64, theta=1e6, scaling={"type": form}))
    reason = "MiniMind's frequencies are float32: a power, a reciprocal, a ramp, a product"
    assert_within(f[[0, 8, 13, 16, 31]], np.array(RECORDED[form]), ulps(8, "float32", reason=reason))


@pytest.mark.parametrize("h", [64, 128])
@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize(("factor", "length"), [(4.0, 2048), (16.0, 32768), (40.0, 4096), (16.0, 131072)])
def test_rope_15_18_published_form_is_hugging_face_s(h, theta, factor, length):
    transformers = pytest.importorskip("transformers", reason="extra hf is not installed")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {
        "rope_type": "yarn", "rope_theta": theta, "factor": factor, "original_max_position_embeddings": length
    }  # fmt: skip
    config = transformers.LlamaConfig(
        hidden_size=4 * h, num_attention_heads=4, head_dim=h, max_position_embeddings=int(factor * length),
        rope_parameters=parameters,
    )  # fmt: skip
    theirs, attention_factor = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    scaling = {"type": "yarn", "factor": factor, "original_max_position_embeddings": length}
    reason = "Hugging Face computes in float32: a power, two reciprocals, a ramp, two products"
    tolerance = ulps(8, "float32", reason=reason)
    assert_within(rope_frequencies(h, theta=theta, scaling=scaling), theirs.double().numpy(), tolerance)
    assert_within(np.array([yarn_attention_factor(scaling)]), np.array([attention_factor]), FREQUENCY)


# ---- frequencies: laws of YaRN ----
@given(scaling=scalings(types=("yarn", "yarn-minimind3")), half=st.sampled_from([2, 5, 32]))
def test_rope_19_between_unscaled_and_divided(scaling, half):
    plain = rope_frequencies(2 * half, theta=1e4)
    scaled = rope_frequencies(2 * half, theta=1e4, scaling=scaling)
    edge = 1 + 2.0**-50
    assert (scaled <= plain * edge).all() and (scaled * edge >= plain / scaling["factor"]).all()
    assert_same(rope_frequencies(2 * half, theta=1e4, scaling={**scaling, "factor": 1.0}), plain)
    more = rope_frequencies(2 * half, theta=1e4, scaling={**scaling, "factor": 2 * scaling["factor"]})
    assert (more <= scaled * edge).all()


@pytest.mark.parametrize("frequencies", [rope_frequencies, oracle.rope_frequencies])
@pytest.mark.parametrize("form", ["yarn", "yarn-minimind3"])
def test_rope_19_ends_of_the_ramp(frequencies, form):
    """At head width 64, theta 1e4 and L = 4096, index(32) is 10.47… and index(1) is 22.51…."""
    scaling = {"type": form, "factor": 8.0, "original_max_position_embeddings": 4096}
    plain, scaled = (np.asarray(frequencies(64, theta=1e4, scaling=s)) for s in (None, scaling))
    low, high = 10, 23
    assert_same(scaled[: low + 1], plain[: low + 1])
    assert_same(scaled[high:], plain[high:] / 8)
    inside = scaled[low + 1 : high] / plain[low + 1 : high]
    assert (np.diff(inside) < 0).all() and (inside < 1).all() and (inside > 1 / 8).all()
    steps = np.diff(np.concatenate([[1], inside, [1 / 8]]))
    reason = "differences of numbers near 1"
    assert_within(steps, np.full(high - low, -7 / 8 / (high - low)), ulps(2**6, "float64", reason=reason))


@pytest.mark.parametrize("frequencies", [rope_frequencies, oracle.rope_frequencies])
def test_rope_16_the_cap_shows_where_the_ramp_is_longer_than_the_head(frequencies):
    long = {"factor": 4.0, "original_max_position_embeddings": 131072}
    published = frequencies(64, theta=1e4, scaling={"type": "yarn", **long})
    minimind3 = frequencies(64, theta=1e4, scaling={"type": "yarn-minimind3", **long})
    share = (abs(published - minimind3) / published).max()
    assert 0.4 < share < 0.5
    scaled = frequencies(64, theta=1e4)[30:] / 4
    assert (minimind3[30:] == scaled).tolist() == [False, True]  # the ramp ends at the last pair, not at its 35
    assert (published[30:] == scaled).tolist() == [False, False]
    own = {"factor": 16.0, "original_max_position_embeddings": 2048}
    assert_same(*(frequencies(64, theta=1e6, scaling={"type": t, **own}) for t in ("yarn", "yarn-minimind3")))


@pytest.mark.parametrize("frequencies", [rope_frequencies, oracle.rope_frequencies])
def test_rope_20_minimind2_s_form_is_not_yarn(frequencies):
    plain = np.asarray(frequencies(64, theta=1e6))
    at = {s: np.asarray(frequencies(64, theta=1e6, scaling={**MINIMIND2, "factor": s})) for s in (1.0, 4.0, 8.0)}
    assert not (at[1.0] == plain).all()
    assert (at[4.0][1:10] < plain[1:10]).all()  # high frequencies, which YaRN keeps
    assert (at[8.0][1:10] > at[4.0][1:10]).all()  # and a larger factor scales them less
    published = np.asarray(frequencies(64, theta=1e6, scaling=PUBLISHED))
    assert (np.abs(at[4.0] - published) / published).max() > 0.5


@pytest.mark.parametrize("frequencies", [rope_frequencies, oracle.rope_frequencies])
@pytest.mark.parametrize(
    ("form", "given_"),
    [
        ({"type": "yarn", "factor": 3.0}, {"beta_fast": 32.0}),
        ({"type": "yarn-minimind2"}, {"factor": 4.0, "beta_fast": 4.0}),
        ({"type": "yarn-minimind3"}, {"factor": 16.0, "beta_fast": 32.0}),
    ],
    ids=lambda x: x.get("type"),
)
def test_rope_15_16_17_what_is_not_given(frequencies, form, given_):
    """In a head so wide that one part in a thousand of any setting moves the ramp, which is rounded to whole pairs."""
    whole = {**form, **given_, "original_max_position_embeddings": 2048, "beta_slow": 1.0}
    assert_same(*(frequencies(40_000, theta=1e3, scaling=scaling) for scaling in (form, whole)))
    for key, number in whole.items():
        if key != "type":
            other = frequencies(40_000, theta=1e3, scaling={**whole, key: type(number)(number * 1.001)})
            assert (np.asarray(other) != np.asarray(frequencies(40_000, theta=1e3, scaling=whole))).any(), key


# ---- table ----
@settings(max_examples=8)
@given(half=st.sampled_from([1, 2, 5]), scaling=st.none() | scalings(), data=st.data())
def test_rope_2_table_agrees_with_oracle_and_definition(half, scaling, data):
    shape = data.draw(st.sampled_from([(3,), (2, 3)]))
    positions = data.draw(strategies.indices(shape, -100, 40000))
    case = {"positions": positions, "frequencies": oracle.rope_frequencies(2 * half, theta=1e4, scaling=scaling)}
    c = oracle.yarn_attention_factor(scaling)
    agree(oracle.rope_table, rope_table, case, profile="float64", attention_factor=c, median_limit=1e-7)
    bounds = oracle.rope_table(*exact(*case.values()), attention_factor=c)
    expected = floats(definition("rope", "decimal").rope_table(*case.values(), attention_factor=c))
    for ours, bounded, right in zip(oracle.rope_table(**case, attention_factor=c), bounds, expected, strict=True):
        assert_law(ours, bounded, right)


@pytest.mark.parametrize("profile", PROFILES[1:])
@given(positions=strategies.indices((11,), -100, 40000), c=st.sampled_from([1.0, 1.25]))
def test_rope_4_5_a_float32_table_is_within_the_bound_of_float32_angles(profile, positions, c):
    case = {"positions": positions, "frequencies": oracle.rope_frequencies(14, theta=1e4)}
    agree(oracle.rope_table, rope_table, case, profile=profile, attention_factor=c, output_dtype=torch.float32)


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("c", [1.0, 1.2772588722239782])
def test_rope_4_angles_are_right_at_every_position(theta, c):
    """Against 65 digits, at both ends of the table: one rounding to float32, and float64's share of the angle."""
    positions = np.array([0, 1, 257, 4095, 32766, 32767])
    frequencies = oracle.rope_frequencies(64, theta=theta)[::4]
    truth = floats(definition("rope", "decimal").rope_table(positions, frequencies, attention_factor=c))
    share = 4 * 2.0**-53 * np.abs(positions)[:, None] * frequencies * c
    for dtype, unit in ((torch.float64, 4 * 2.0**-53), (torch.float32, 2.0**-24)):
        for actual, expected in zip(table(positions, frequencies, c), truth, strict=True):
            rounded = actual.to(dtype)
            assert_within(rounded, expected, unit * np.abs(expected) + share)


def test_rope_18_a_table_without_a_factor_is_not_stretched():
    positions, frequencies = torch.arange(5), rope_frequencies(14, theta=1e4)
    assert_same(rope_table(positions, frequencies)[0], rope_table(positions, frequencies, attention_factor=1.0)[0])


def test_rope_4_table_has_the_frequencies_dtype_float32_at_the_least():
    positions, frequencies = torch.arange(5), rope_frequencies(14, theta=1e4)
    for dtype in DTYPES:
        for part in rope_table(positions, frequencies.to(dtype)):
            assert part.dtype == torch.promote_types(dtype, torch.float32)
    wide = rope_table(positions + 32763, frequencies)
    assert_same(rope_table(positions.int() + 32763, frequencies)[0], wide[0])


def test_rope_4_oracle_computes_float32_frequencies_in_float64():
    narrow = oracle.rope_frequencies(14, theta=1e4).astype(np.float32)
    positions = np.array([32767, 5])
    assert_same(oracle.rope_table(positions, narrow)[0], oracle.rope_table(positions, narrow.astype(np.float64))[0])


@given(positions=strategies.indices((2, 11), -100, 40000), data=st.data())
def test_rope_3_an_entry_depends_on_its_position_alone(positions, data):
    frequencies = rope_frequencies(14, theta=1e4, scaling=data.draw(st.none() | scalings()))
    whole = table(positions, frequencies)
    for piece in data.draw(strategies.cuts(11)):
        for part, full in zip(table(positions[:, piece], frequencies), whole, strict=True):
            assert_same(part, full[:, piece])
    long = table(np.arange(40000), frequencies)
    for part, full in zip(whole, long, strict=True):
        seen = positions >= 0
        assert_same(part[seen], full[positions[seen]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("position", [255, 256, 257, 258, 259, 4095, 32766])
def test_rope_6_neighbouring_positions_differ_in_low_precision_models(dtype, position):
    frequencies = rope_frequencies(64, theta=1e6)
    cos, sin = table([position, position + 1], frequencies)
    assert (cos[0] != cos[1]).all() and (sin[0] != sin[1]).all()
    x = torch.ones(1, 2, 1, 64, dtype=dtype)
    y = apply_rope(x, cos, sin)
    assert y.dtype == dtype and (y[0, 0, 0, 0] - y[0, 1, 0, 0]).abs() > 0.01


# ---- rotation: agreement ----
@pytest.mark.parametrize("profile", PROFILES)
@given(case=cases(c=1.25))
def test_rope_7_13_agrees_with_the_oracle(profile, case):
    agree(oracle.apply_rope, apply_rope, case, profile=profile)


@pytest.mark.parametrize("kind", ["float", "decimal"])
@given(case=cases(c=1.25))
def test_rope_7_oracle_agrees_with_the_definition(kind, case):
    expected = floats(definition("rope", kind).apply_rope(*case.values()))
    assert_law(oracle.apply_rope(**case), oracle.apply_rope(*exact(*case.values())), expected)


@pytest.mark.parametrize("profile", PROFILES)
@given(case=cases(c=1.25))
def test_rope_11_12_gradients_agree_with_the_oracle(profile, case):
    agree_vjp(oracle.apply_rope_vjp, apply_rope, case, profile=profile)


@pytest.mark.parametrize("per_row", [True, False])
def test_rope_11_12_oracle_gradient_is_the_definitions(per_row):
    cos, sin = oracle.rope_table(np.array([[3, 17], [40, 5]]), oracle.rope_frequencies(6, theta=1e4))
    case = {"x": draw(1, (2, 2, 3, 6)), "cos": cos if per_row else cos[0], "sin": sin if per_row else sin[0]}
    cotangent = draw(2, (2, 2, 3, 6))
    truth = decimal_vjp(definition("rope", "decimal").apply_rope, case, cotangent=cotangent)
    bounds = oracle.apply_rope_vjp(*exact(*case.values()), cotangent=exact(cotangent)[0])
    gradients = oracle.apply_rope_vjp(**case, cotangent=cotangent)
    for gradient, bounded, expected in zip(gradients, bounds, truth, strict=True):
        assert_law(gradient, bounded, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@given(case=cases())
def test_rope_13_low_precision_is_rounded_once(dtype, case):
    x = torch.tensor(case["x"], dtype=dtype)
    cos, sin = (torch.tensor(case[name], dtype=torch.float32) for name in ("cos", "sin"))
    assert_same(apply_rope(x, cos, sin), apply_rope(x.float(), cos, sin).to(dtype))


def test_rope_13_a_wider_table_is_used_in_full():
    case = {"x": draw(3, (2, 3, 5, 6)), "positions": np.array([7, 40, 4095])}
    cos, sin = table(case["positions"], rope_frequencies(6, theta=1e4))
    x = torch.tensor(case["x"], dtype=torch.float32)
    assert_same(apply_rope(x, cos, sin), apply_rope(x.double(), cos, sin).float())


# ---- rotation: laws ----
@given(case=cases(c=1.25))
def test_rope_8_norm_of_each_pair(case):
    x, cos, sin = exact(*case.values())
    half = x.shape[-1] // 2
    y = oracle.apply_rope(x, cos, sin)
    left = y[..., :half] ** 2 + y[..., half:] ** 2
    c_squared = (cos**2 + sin**2)[..., None, :]
    right = c_squared * (x[..., :half] ** 2 + x[..., half:] ** 2)
    actual = apply_rope(*tensors(case))
    assert_law(actual[..., :half] ** 2 + actual[..., half:] ** 2, left, right)
    reason = "cos² + sin² = c²: two squares and a sum of correctly rounded entries"
    assert_within(value(c_squared), np.full(c_squared.shape, 1.25**2), ulps(8, "float64", reason=reason))


@given(
    seed=strategies.seeds,
    m=st.integers(-500, 9000),
    n=st.integers(-500, 9000),
    shift=st.integers(-5000, 30000).filter(bool),
)
def test_rope_9_only_the_distance_matters(seed, m, n, shift):
    q, k = draw(seed, (1, 3, 14)), draw(seed ^ 1, (1, 3, 14))
    frequencies = oracle.rope_frequencies(14, theta=1e4)

    def bounded(position):
        return oracle.rope_table(np.array([position]), exact(frequencies)[0])

    products = []
    for a, b in ((m, n), (m + shift, n + shift)):
        y, z = (oracle.apply_rope(exact(x[None])[0], *bounded(p)) for x, p in zip((q, k), (a, b), strict=True))
        products.append(np.sum(y * z, axis=-1)[0])
    actual = (turned(q, [m + shift]) * turned(k, [n + shift])).sum(-1)
    assert_law(actual, products[1], products[0])
    moved = (turned(q, [m + shift]) * turned(k, [n])).sum(-1)
    assert (moved - actual).abs().max() > 1e-6  # the distance does matter


@given(seed=strategies.seeds, m=st.integers(-9000, 9000), n=st.integers(-9000, 9000))
def test_rope_10_rotations_compose(seed, m, n):
    x = draw(seed, (1, 3, 14))
    frequencies = exact(oracle.rope_frequencies(14, theta=1e4))[0]
    tables = [oracle.rope_table(np.array([p]), frequencies) for p in (m, n, m + n)]
    step = oracle.apply_rope(oracle.apply_rope(exact(x[None])[0], *tables[0]), *tables[1])[0]
    assert_law(turned(turned(x, [m]), [n]), step, oracle.apply_rope(exact(x[None])[0], *tables[2])[0])
    back = oracle.apply_rope(oracle.apply_rope(exact(x[None])[0], *tables[0]), tables[0][0], -tables[0][1])[0]
    assert_law(turned(turned(x, [m]), [-m]), back, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rope_10_position_zero_is_the_identity(dtype):
    x = torch.tensor(draw(4, (2, 3, 5, 14)), dtype=dtype)
    assert_same(apply_rope(x, *table([0, 0, 0], rope_frequencies(14, theta=1e4))), x)


@given(case=cases())
def test_rope_11_the_gradient_turns_back(case):
    x, cos, sin = tensors(case)
    cotangent = torch.tensor(draw(5, x.shape))
    (dx,) = torch.autograd.grad(apply_rope(x.requires_grad_(), cos, sin), x, cotangent)
    assert_same(dx, apply_rope(cotangent, cos, -sin))
    bounds = oracle.apply_rope_vjp(*exact(*case.values()), cotangent=exact(cotangent.numpy())[0])
    assert_within(dx, bounds[0])


@given(case=cases(), exponent=st.integers(-5, 5))
def test_rope_11_linear(case, exponent):
    x, cos, sin = tensors(case)
    assert_same(apply_rope(x * 2.0**exponent, cos, sin), apply_rope(x, cos, sin) * 2.0**exponent)
    other = draw(6, x.shape)
    bx, bc, bs = exact(*case.values())
    parts = oracle.apply_rope(bx, bc, bs) + oracle.apply_rope(exact(other)[0], bc, bs)
    assert_law(apply_rope(x + torch.tensor(other), cos, sin), oracle.apply_rope(bx + exact(other)[0], bc, bs), parts)


@pytest.mark.parametrize("rotate", [apply_rope, oracle.apply_rope])
def test_rope_7_first_pair_is_the_first_of_each_half_and_turns_by_one_radian(rotate):
    x = np.zeros((1, 1, 1, 6))
    x[..., 0] = 2.0
    cos, sin = oracle.rope_table(np.array([1]), oracle.rope_frequencies(6, theta=1e4))
    arguments = (x, cos, sin) if rotate is oracle.apply_rope else tuple(map(torch.tensor, (x, cos, sin)))
    y = np.asarray(rotate(*arguments))[0, 0, 0]
    reason = "cos 1 and sin 1, doubled"
    assert_within(y, np.array([2 * math.cos(1), 0, 0, 2 * math.sin(1), 0, 0]), ulps(2, "float64", reason=reason))


@given(case=cases())
def test_rope_14_the_interleaved_pairing_is_conjugate_and_another_function(case):
    x, cos, sin = tensors(case)
    h = x.shape[-1]
    order = torch.arange(h).reshape(2, h // 2).T.reshape(-1)  # 0, h/2, 1, h/2 + 1, …
    interleaved = torch.view_as_real(
        torch.view_as_complex(x.reshape(*x.shape[:-1], h // 2, 2)) * torch.complex(cos, sin)[..., None, :]
    ).flatten(-2)
    inverse = torch.argsort(order)
    conjugate = apply_rope(x[..., inverse], cos, sin)[..., order]
    bounds = oracle.apply_rope(*(e if i else e[..., inverse.numpy()] for i, e in enumerate(exact(*case.values()))))
    assert_law(interleaved, bounds[..., order.numpy()], conjugate.numpy())
    assert (interleaved - apply_rope(x, cos, sin)).abs().max() > 1e-3 * x.abs().max()


@pytest.mark.parametrize("scaling", [PUBLISHED, {**MINIMIND3, "attention_factor": 1.5}])
def test_rope_18_scores_are_multiplied_by_the_square_of_the_factor(scaling):
    q, k = torch.tensor(draw(7, (1, 3, 5, 14))), torch.tensor(draw(8, (1, 3, 5, 14)))
    frequencies, c = rope_frequencies(14, theta=1e4, scaling=scaling), yarn_attention_factor(scaling)
    scores = []
    for factor in (1.0, c):
        cos, sin = table([3, 40, 700], frequencies, factor)
        scores.append((apply_rope(q, cos, sin) * apply_rope(k, cos, sin)).sum(-1))
    assert c > 1.1
    bounded = exact(q.numpy(), k.numpy())
    t = oracle.rope_table(np.array([3, 40, 700]), exact(frequencies.numpy())[0], attention_factor=c)
    left = np.sum(oracle.apply_rope(bounded[0], *t) * oracle.apply_rope(bounded[1], *t), axis=-1)
    assert_within(scores[1], scores[0] * c * c, 4 * bound(left))


@pytest.mark.parametrize("form", FORMS)
def test_rope_21_the_mapping_decides_alone(form):
    """No argument is a table's length: a scaling acts whatever is asked for later; the mapping stays."""
    scaled = rope_frequencies(64, theta=1e4, scaling=MappingProxyType(form))
    assert not (scaled == rope_frequencies(64, theta=1e4)).all()
    assert_within(oracle.rope_frequencies(64, theta=1e4, scaling=MappingProxyType(form)), scaled, FREQUENCY)


# ---- refusals ----
@pytest.mark.parametrize("head_dim", [0, 1, 7, -2])
def test_rope_22_odd_heads(head_dim):
    for frequencies in (rope_frequencies, oracle.rope_frequencies):
        with pytest.raises(ValueError, match=f"head_dim.*{head_dim}.*2"):
            frequencies(head_dim, theta=1e4)


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({"type": "llama3", "factor": 4.0}, ("llama3", "yarn-minimind3")),
        ({"factor": 4.0}, ("None", "yarn")),
        ({**PUBLISHED, "mscale": 1.0}, ("mscale", "attention_factor")),
        ({"type": "yarn"}, ("factor", "yarn")),
        ({**PUBLISHED, "factor": 0.5}, ("factor", "0.5", "1")),
        ({**PUBLISHED, "factor": math.nan}, ("factor", "nan", "number")),
        ({**PUBLISHED, "beta_fast": 1.0, "beta_slow": 2.0}, ("beta_fast", "1.0", "beta_slow", "2.0")),
        ({**PUBLISHED, "beta_slow": 0.0}, ("beta_slow", "0.0")),
        ({**PUBLISHED, "beta_fast": math.nan}, ("beta_fast", "nan")),
        ({**PUBLISHED, "factor": math.inf}, ("factor", "inf")),
        ({**PUBLISHED, "factor": "4"}, ("factor", "'4'")),
        ({**MINIMIND3, "factor": None}, ("factor", "None")),
        ({**PUBLISHED, "original_max_position_embeddings": 0}, ("original_max_position_embeddings", "0")),
        ({**PUBLISHED, "attention_factor": math.nan}, ("attention_factor", "nan")),
    ],
)
def test_rope_22_scalings_without_meaning(scaling, words):
    for call in (
        lambda: rope_frequencies(14, theta=1e4, scaling=scaling),
        lambda: yarn_attention_factor(scaling),
        lambda: oracle.rope_frequencies(14, theta=1e4, scaling=scaling),
        lambda: oracle.yarn_attention_factor(scaling),
    ):
        with pytest.raises(ValueError) as refusal:
            call()
        assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize("frequencies", (rope_frequencies, oracle.rope_frequencies))
@pytest.mark.parametrize(
    ("theta", "scaling"),
    [(0.0, None), (-1.0, None), (math.nan, None), (math.inf, None), (1.0, PUBLISHED), (math.inf, PUBLISHED)],
)
def test_rope_22_bases_without_meaning(frequencies, theta, scaling):
    with pytest.raises(ValueError, match=f"theta={theta} .* {0 if scaling is None else 1}"):
        frequencies(14, theta=theta, scaling=scaling)
    assert frequencies(14, theta=1.0).tolist() == [1.0] * 7
    assert 0 < frequencies(14, theta=1.5, scaling=PUBLISHED)[-1] < 1


@pytest.mark.parametrize(
    ("x", "cos", "sin", "sizes"),
    [
        ((2, 3, 14), (3, 7), (3, 7), ("x has 3 axes", "4")),
        ((2, 3, 5, 14), (4, 7), (4, 7), ("cos", "4", "3")),
        ((2, 3, 5, 14), (1, 7), (1, 7), ("cos", "1", "3")),
        ((2, 3, 5, 14), (3, 14), (3, 14), ("cos", "14", "7")),
        ((2, 3, 5, 14), (1, 3, 7), (1, 3, 7), ("cos", "1", "2")),
        ((2, 3, 5, 14), (3, 7), (2, 3, 7), ("sin", "(3, 7)", "(2, 3, 7)")),
        ((2, 3, 5, 14), (3, 7), (1, 7), ("sin", "(3, 7)", "(1, 7)")),
        ((2, 3, 5, 14), (7,), (7,), ("cos", "(7,)")),
        ((2, 3, 5, 15), (3, 7), (3, 7), ("x", "15")),
        ((2, 0, 5, 14), (0, 7), (0, 7), ("length of x", "0")),
    ],
)
def test_rope_23_tables_that_do_not_fit(x, cos, sin, sizes):
    arrays = [np.ones(shape) for shape in (x, cos, sin)]
    for call in (
        lambda: apply_rope(*map(torch.tensor, arrays)),
        lambda: oracle.apply_rope(*arrays),
        lambda: oracle.apply_rope_vjp(*arrays, cotangent=np.ones((2, 3, 5, 14))),
    ):
        with pytest.raises(ValueError) as refusal:
            call()
        assert all(size in str(refusal.value) for size in sizes), refusal.value


@pytest.mark.parametrize(
    ("shape", "words"), [((2, 3, 4), ("3", "1 or 2")), ((0,), ("length", "0")), ((2, 0), ("length", "0"))]
)
def test_rope_23_positions_of_a_wrong_rank_or_none(shape, words):
    frequencies = oracle.rope_frequencies(14, theta=1e4)
    positions = np.zeros(shape, np.int64)
    for call in (lambda: table(positions, frequencies), lambda: oracle.rope_table(positions, frequencies)):
        with pytest.raises(ValueError, match="positions") as refusal:
            call()
        assert all(word in str(refusal.value) for word in words), refusal.value


def test_rope_23_an_odd_head_is_told_what_its_table_turns():
    with pytest.raises(ValueError, match=r"x has head width 15, .* cos has width 7 and turns pairs"):
        apply_rope(torch.ones(2, 3, 5, 15), torch.ones(3, 7), torch.ones(3, 7))


def test_rope_23_frequencies_have_one_axis(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    positions, frequencies = np.arange(3), oracle.rope_frequencies(14, theta=1e4)[None]
    for call in (lambda: table(positions, frequencies), lambda: oracle.rope_table(positions, frequencies)):
        with pytest.raises(ValueError, match="frequencies has 2 axes"):
            call()


def test_rope_23_an_attention_factor_that_is_no_number():
    positions, frequencies = np.arange(3), oracle.rope_frequencies(14, theta=1e4)
    for call in (
        lambda: rope_table(torch.tensor(positions), torch.tensor(frequencies), attention_factor=math.nan),
        lambda: oracle.rope_table(positions, frequencies, attention_factor=math.nan),
    ):
        with pytest.raises(ValueError, match="attention_factor=nan"):
            call()
