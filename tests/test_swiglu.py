"""specs/swiglu.md, clause by clause."""

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

from minimind_ref.config import PRESETS, ModelConfig
from minimind_ref.model.swiglu import SwiGLU, swiglu
from minimind_ref.oracle import swiglu as oracle

PROFILES = ("float64", "float32", "bfloat16", "float16")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@st.composite
def cases(draw_):
    """Axes that are distinct primes, gates of a few units each way, nothing near float16's largest number."""
    b, s, d, f = draw_(st.sampled_from([(2, 3, 5, 7), (3, 2, 7, 5), (1, 5, 3, 11)]))
    shapes = {"x": (b, s, d), "w_gate": (f, d), "w_up": (f, d), "w_down": (d, f)}
    of = ("normal", "uniform", "sorted", "alternating")
    return {name: draw_(strategies.arrays(shape, of=of, low=-2, high=1)) for name, shape in shapes.items()}


def fixed(scale=1.0):
    shapes = {"x": (2, 3, 5), "w_gate": (7, 5), "w_up": (7, 5), "w_down": (5, 7)}
    return {name: draw(seed, shape, scale) for seed, (name, shape) in enumerate(shapes.items())}


def tensors(case, dtype=torch.float64):
    return tuple(torch.tensor(a, dtype=dtype) for a in case.values())


def silu(z, dtype=torch.float64, face=swiglu):
    """A layer of one hidden unit whose up branch is 1."""
    z = torch.as_tensor(z, dtype=dtype)
    x = torch.stack([z, torch.ones_like(z)], dim=-1)
    one, other = torch.tensor([[1.0, 0.0]], dtype=dtype), torch.tensor([[0.0, 1.0]], dtype=dtype)
    return face(x, one, other, one.T)[..., 0]


# ---- agreement ----
@pytest.mark.parametrize("profile", PROFILES)
@given(case=cases())
def test_swiglu_1_agrees_with_the_oracle(profile, case):
    agree(oracle.swiglu, swiglu, case, profile=profile)


@pytest.mark.parametrize("profile", PROFILES)
@given(case=cases())
def test_swiglu_9_gradients_agree_with_the_oracle(profile, case):
    agree_vjp(oracle.swiglu_vjp, swiglu, case, profile=profile)


@pytest.mark.parametrize("profile", PROFILES)
def test_swiglu_10_long_reductions_agree_with_the_oracle(profile):
    shapes = {"x": (3, 257), "w_gate": (67, 257), "w_up": (67, 257), "w_down": (257, 67)}
    case = {name: draw(9 + i, shape, 0.125 if i else 1.0) for i, (name, shape) in enumerate(shapes.items())}
    agree(oracle.swiglu, swiglu, case, profile=profile)
    agree_vjp(oracle.swiglu_vjp, swiglu, case, profile=profile)


@pytest.mark.parametrize("kind", ["float", "decimal"])
@given(case=cases())
def test_swiglu_1_oracle_agrees_with_the_definition(kind, case):
    expected = floats(definition("swiglu", kind).swiglu(*case.values()))
    assert_law(oracle.swiglu(**case), oracle.swiglu(*exact(*case.values())), expected)


def test_swiglu_9_oracle_gradient_is_the_definitions():
    case = {name: a[..., :3] if name != "w_down" else a[:3] for name, a in fixed().items()}
    case["x"], cotangent = case["x"][0, :2], draw(20, (2, 3))
    gradients = oracle.swiglu_vjp(**case, cotangent=cotangent)
    bounds = oracle.swiglu_vjp(*exact(*case.values()), cotangent=exact(cotangent)[0])
    truth = decimal_vjp(definition("swiglu", "decimal").swiglu, case, cotangent=cotangent)
    for gradient, bounded, expected in zip(gradients, bounds, truth, strict=True):
        assert_law(gradient, bounded, expected)


# ---- SiLU ----
@given(z=strategies.arrays((7,), low=-3, high=5))
def test_swiglu_2_silu_minus_its_mirror_is_the_identity(z):
    rows = np.stack([np.stack([z, np.ones(7)], -1), np.stack([-z, np.ones(7)], -1)])
    bounded = oracle.swiglu(*exact(rows, np.array([[1.0, 0]]), np.array([[0, 1.0]]), np.array([[1.0], [0]])))
    assert_law(silu(z) - silu(-z), (bounded[0] - bounded[1])[..., 0], z)


def test_swiglu_2_minimum_and_slope_at_zero():
    lowest = -0.27846454276107379  # −W(1/e), W Lambert's function: the minimum is at −1 − W(1/e), where silu(z) = z + 1
    grid = np.linspace(-8, 8, 4001)
    y = silu(grid)
    assert (y >= np.nextafter(lowest, -1)).all() and y.min() < lowest + 1e-6
    reason = "exp, a sum, a quotient, a product; the argument is at a minimum"
    assert_within(silu(lowest - 1), np.array(lowest), ulps(8, "float64", reason=reason))
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    silu(zero)
    x = torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    one, other = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
    swiglu(x, one, other, one.T)[0, 0].backward()
    assert x.grad[0, 0] == 0.5


@pytest.mark.parametrize(
    "other",
    [
        lambda z: z * torch.sigmoid(1.702 * z),
        torch.nn.functional.gelu,
        lambda z: torch.nn.functional.gelu(z, approximate="tanh"),
        torch.relu,
    ],
)
def test_swiglu_2_other_activations_differ(other):
    z = torch.tensor([-3.0, -1.0, -0.5, 0.5, 1.0, 3.0], dtype=torch.float64)
    assert ((silu(z) - other(z)).abs() > 1e-3).all()


# ---- which branch is which ----
@pytest.mark.parametrize("profile", PROFILES)
def test_swiglu_3_gate_and_up_are_not_interchangeable(profile):
    case = fixed()
    swapped = {"x": case["x"], "w_gate": case["w_up"], "w_up": case["w_gate"], "w_down": case["w_down"]}
    agree(oracle.swiglu, swiglu, swapped, profile=profile)
    right, wrong = swiglu(*tensors(case)), swiglu(*tensors(swapped))
    assert (right - wrong).abs().max() > right.abs().max() / 4


@given(case=cases(), seed=strategies.seeds)
def test_swiglu_3_linear_in_up_and_down_and_not_in_gate(case, seed):
    x, gate, up, down = exact(*case.values())
    more_up = exact(draw(seed, case["w_up"].shape))[0]
    more_down = exact(draw(seed, case["w_down"].shape))[0]
    parts = oracle.swiglu(x, gate, up, down) + oracle.swiglu(x, gate, more_up, down)
    whole = oracle.swiglu(x, gate, up + more_up, down)
    actual = swiglu(*tensors({**case, "w_up": case["w_up"] + more_up.value}))
    assert_law(actual, whole, parts)
    parts = oracle.swiglu(x, gate, up, down) + oracle.swiglu(x, gate, up, more_down)
    actual = swiglu(*tensors({**case, "w_down": case["w_down"] + more_down.value}))
    assert_law(actual, oracle.swiglu(x, gate, up, down + more_down), parts)


def test_swiglu_3_not_linear_in_the_gate():
    case = fixed()
    doubled = swiglu(*tensors({**case, "w_gate": 2 * case["w_gate"]}))
    assert (doubled - 2 * swiglu(*tensors(case))).abs().max() > doubled.abs().max() / 16


@given(case=cases(), seed=strategies.seeds, profile=st.sampled_from(PROFILES))
def test_swiglu_4_order_of_hidden_units(case, seed, profile):
    order = np.random.default_rng(seed).permutation(case["w_up"].shape[0])
    x, gate, up, down = tensors(case, getattr(torch, profile))
    expected = oracle.swiglu(*exact(*case.values(), profile=profile))
    assert_within(swiglu(x, gate[order], up[order], down[:, order]), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=strategies.seeds, factor=st.sampled_from([-1.0, 2.0, 0.25, -4.0]))
def test_swiglu_5_factor_moved_from_up_to_down_changes_no_bit(dtype, seed, factor):
    shapes = {"x": (3, 5), "w_gate": (7, 5), "w_up": (7, 5), "w_down": (5, 7)}
    # away from float16's subnormal numbers, where a factor would not be exact
    case = {name: draw(seed ^ i, shape, structure="offset") for i, (name, shape) in enumerate(shapes.items())}
    x, gate, up, down = tensors(case, dtype)
    moved_up, moved_down = up.clone(), down.clone()
    moved_up[2] *= factor
    moved_down[:, 2] /= factor
    assert_same(swiglu(x, gate * 0.125, moved_up, moved_down), swiglu(x, gate * 0.125, up, down))


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu_6_zero_in_zero_out(dtype):
    x, gate, up, down = tensors(fixed(), dtype)
    assert not swiglu(torch.zeros_like(x), gate, up, down).any()
    assert not swiglu(x, gate, up, torch.zeros_like(down)).any()
    assert swiglu(x, gate, up, down).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu_7_rows_do_not_see_each_other(dtype):
    x, gate, up, down = tensors(fixed(), dtype)
    before = swiglu(x, gate, up, down)
    changed = x.clone()
    changed[1, 1] = float("nan")
    after = swiglu(changed, gate, up, down)
    others = torch.ones(2, 3, dtype=torch.bool)
    others[1, 1] = False
    assert_same(after[others], before[others])
    assert after[1, 1].isnan().all()


@pytest.mark.parametrize("profile", PROFILES)
def test_swiglu_8_far_gates_stay_finite(profile):
    """Unit 0 has gates of ±1e4, unit 1 of ±89, where exp overflows in float32."""
    case = {
        "x": np.array([[1.0, 2.0], [-1.0, 2.0]]),
        "w_gate": np.array([[1e4, 0.0], [89.0, 0.0]]),
        "w_up": np.array([[0.0, 0.5], [0.0, 0.5]]),
        "w_down": np.array([[1.0, 0.0], [0.0, 1.0]]),
    }
    agree(oracle.swiglu, swiglu, case, profile=profile)
    agree_vjp(oracle.swiglu_vjp, swiglu, case, profile=profile)
    y = swiglu(*tensors(case, getattr(torch, profile)))
    assert_same(y[0, 0], case["w_gate"][0, 0] * y.new_ones(()))
    assert y[1, 0] == 0


# ---- dtypes, module, configuration, refusals ----
@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu_10_shape_and_dtype(dtype):
    x, gate, up, down = tensors(fixed(), dtype)
    for rows in (x, x[0], x[0, 0], x[:, :0]):
        y = swiglu(rows, gate, up, down)
        assert (y.shape, y.dtype) == (rows.shape, dtype)


def test_swiglu_1_9_a_single_row_agrees_with_the_oracle():
    case = fixed()
    case["x"] = case["x"][1, 2]
    agree(oracle.swiglu, swiglu, case, profile="float64")
    agree_vjp(oracle.swiglu_vjp, swiglu, case, profile="float64")


def test_swiglu_10_oracle_without_rows_and_from_float32():
    case = fixed()
    none = case["x"][:, :0]
    weights = list(case.values())[1:]
    assert oracle.swiglu(none, *weights).shape == (2, 0, 5)
    gradients = oracle.swiglu_vjp(none, *weights, cotangent=none)
    assert [g.shape for g in gradients] == [(2, 0, 5), (7, 5), (7, 5), (5, 7)] and not any(g.any() for g in gradients)
    narrow = [a.astype(np.float32) for a in case.values()]
    assert_same(oracle.swiglu(*narrow), oracle.swiglu(*(a.astype(np.float64) for a in narrow)))


def test_swiglu_1_module_owns_three_matrices_and_no_bias():
    module = SwiGLU(5, 7)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    assert shapes == {"gate_proj.weight": (7, 5), "up_proj.weight": (7, 5), "down_proj.weight": (5, 7)}
    x = torch.tensor(draw(30, (2, 3, 5)), dtype=torch.float32)
    assert_same(module(x), swiglu(x, module.gate_proj.weight, module.up_proj.weight, module.down_proj.weight))
    assert [w.shape for w in module.weights] == [(7, 5), (7, 5), (5, 7)]


@pytest.mark.parametrize(
    ("preset", "width"),
    [
        ("minimind2-small", 1408),
        ("minimind2", 2048),
        ("minimind2-moe", 1728),
        ("minimind-3", 2432),
        ("minimind-3-moe", 2432),
    ],
)
def test_swiglu_11_widths_of_the_presets(preset, width):
    assert PRESETS[preset].intermediate_size == width


@pytest.mark.parametrize(("d", "width"), [(8, 64), (24, 64), (32, 128), (512, 1408), (640, 1728), (768, 2048)])
def test_swiglu_11_rule_where_no_width_is_given(d, width):
    assert ModelConfig(hidden_size=d, num_attention_heads=2, num_key_value_heads=1).intermediate_size == width


@pytest.mark.parametrize(
    ("shapes", "sizes"),
    [
        (((3, 4), (7, 5), (7, 5), (5, 7)), ("x", "4", "5")),
        (((3, 1), (7, 5), (7, 5), (5, 7)), ("x", "1", "5")),
        (((3, 5), (7, 5), (1, 5), (5, 7)), ("w_up", "1", "7")),
        (((3, 5), (7, 5), (7, 4), (5, 7)), ("w_up", "4", "5")),
        (((3, 5), (7, 5), (7, 5), (7, 5)), ("w_down", "7", "5")),
        (((3, 5), (7, 5), (7, 5), (5, 1)), ("w_down", "1", "7")),
        (((3, 5), (5,), (7, 5), (5, 7)), ("w_gate", "1", "2")),
        (((3, 0), (7, 0), (7, 0), (0, 7)), ("width of x", "0")),
        (((3, 5), (0, 5), (0, 5), (5, 0)), ("FFN width", "0")),
    ],
)
def test_swiglu_12_refusals(shapes, sizes):
    arrays = [np.ones(shape) for shape in shapes]
    for call in (
        lambda: swiglu(*map(torch.tensor, arrays)),
        lambda: oracle.swiglu(*arrays),
        lambda: oracle.swiglu_vjp(*arrays, cotangent=arrays[0]),
    ):
        with pytest.raises(ValueError) as refusal:
            call()
        assert all(size in str(refusal.value) for size in sizes), refusal.value


def test_swiglu_12_a_scalar_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    arrays = [np.array(1.0), *list(fixed().values())[1:]]
    for call in (
        lambda: swiglu(*map(torch.tensor, arrays)),
        lambda: oracle.swiglu(*arrays),
        lambda: oracle.swiglu_vjp(*arrays, cotangent=arrays[0]),
    ):
        with pytest.raises(ValueError, match=r"x has (0 axes|shape \(\))"):
            call()
