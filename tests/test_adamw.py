"""Properties of the AdamW update and its optimizer shell; each test names the clause of specs/adamw.md it checks."""

import numpy as np
import pytest
import torch
from arrays import draw
from hypothesis import given
from hypothesis import strategies as st
from spec_blocks import definition, floats
from strategies import seeds
from tolerance import assert_same, assert_within

from minimind_ref.optim.adamw import AdamW, Moments, adamw_update, init_moments
from minimind_ref.oracle import adamw as oracle
from minimind_ref.oracle.bounded import bound, bound_inputs, value

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OPTIONS = {"lr": 2.0**-7, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
IMPLEMENTATIONS = ["explicit", "foreach"]

# Gradients down to 2⁻³⁰, where ε = 1e-8 is as large as they are; at 2⁻¹⁴ and above it would not be seen in float32.
states = st.fixed_dictionaries(
    {"seed": seeds, "size": st.sampled_from([2.0**-30, 2.0**-26, 2.0**-14, 1.0]), "step": st.integers(0, 40)}
)


def draw_state(seed: int, size: float, shape=(5, 7)) -> list[np.ndarray]:
    """Draw a parameter, a gradient, and averages that such gradients could have left."""
    square = draw(seed + 3, shape, size, "positive") ** 2
    return [draw(seed, shape), draw(seed + 1, shape, size), draw(seed + 2, shape, size / 4), square]


def torch_step(arrays, step: int, dtype=torch.float64, **changes) -> tuple[torch.Tensor, Moments]:
    """Run the torch face on NumPy arrays; the averages have the state's dtype, float32 below float32."""
    wide = dtype if dtype == torch.float64 else torch.float32
    param, grad = (torch.tensor(a, dtype=dtype) for a in arrays[:2])
    mean, square = (torch.tensor(a, dtype=wide) for a in arrays[2:])
    return adamw_update(param, grad, Moments(mean, square, step), **(OPTIONS | changes))


def oracle_step(arrays, step: int, profile="float64", **changes):
    """Run the oracle on arrays that carry a bound."""
    param, grad, mean, square = bound_inputs(*arrays, profile=profile)
    return oracle.adamw_update(param, grad, oracle.Moments(mean, square, step), **(OPTIONS | changes))


# --- agreement


@pytest.mark.parametrize("profile", DTYPES)
@given(state=states)
def test_adamw_1_agrees_with_oracle(profile, state):
    size = max(state["size"], 2.0**-7) if profile == "float16" else state["size"]  # float16's squares end at 2⁻²⁴
    arrays = [np.asarray(value(a)) for a in bound_inputs(*draw_state(state["seed"] % 2**31, size), profile=profile)]
    expected, moments = oracle_step(arrays, state["step"], profile)
    param, got = torch_step(arrays, state["step"], DTYPES[profile])
    assert_within(param, expected)
    assert_within(got.mean, moments.mean)
    assert_within(got.square, moments.square)
    assert got.step == moments.step == state["step"] + 1


@pytest.mark.parametrize("kind", ["float", "decimal"])
@given(state=states)
def test_adamw_1_agrees_with_spec(kind, state):
    arrays = draw_state(state["seed"] % 2**31, state["size"], shape=(5,))
    expected, moments = oracle_step(arrays, state["step"])
    spec = definition("adamw", kind).adamw_update
    given_ = {"mean": arrays[2], "square": arrays[3], "step": state["step"]}
    param, (mean, square, step) = spec(arrays[0], arrays[1], given_, **OPTIONS)
    assert_within(floats(param), expected)
    assert_within(floats(mean), moments.mean)
    assert_within(floats(square), moments.square)
    assert step == moments.step


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_adamw_18_follows_torch_for_1000_steps(implementation):
    """The figure, 1e-13 of the largest entry, is the one that the project promises."""
    shapes = [(7, 5), (3,), ()]
    ours, theirs = ([torch.tensor(draw(i, s), requires_grad=True) for i, s in enumerate(shapes)] for _ in range(2))
    gradients = [torch.tensor(draw(i + 9, (1000, *s), 1.0, "heavy")) for i, s in enumerate(shapes)]
    mine = AdamW(ours, lr=1e-3, weight_decay=0.03, implementation=implementation)
    reference = torch.optim.AdamW(theirs, lr=1e-3, weight_decay=0.03, foreach=False)
    for step in range(1000):
        for i in range(len(shapes)):
            grad = gradients[i][step] * 2.0 ** (step % 5 - 26 * (step % 2))
            ours[i].grad, theirs[i].grad = grad, grad.clone()
        mine.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = 0.01 / (1 + step % 97)
        mine.step()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        assert_within(a.detach(), b.detach().numpy(), bound=1e-13 * float(b.detach().abs().max()))


# --- invariants


@given(seed=seeds, steps=st.integers(2, 30))
def test_adamw_2_constant_gradient_moves_by_the_same_step(seed, steps):
    """`steps` steps from zero are one step with `steps` times the rate, and that one does not depend on the betas."""
    start, grad = draw(seed % 2**31, (5,)), draw(seed % 2**31 + 1, (5,), 2.0**-26)
    far, near, slope = bound_inputs(start, start, grad, profile="float64")
    moments = oracle.init_moments(far)
    param, state = torch.tensor(start), init_moments(torch.tensor(start))
    for _ in range(steps):
        far, moments = oracle.adamw_update(far, slope, moments, **(OPTIONS | {"weight_decay": 0.0}))
        param, state = adamw_update(param, torch.tensor(grad), state, **(OPTIONS | {"weight_decay": 0.0}))
    one = OPTIONS | {"lr": steps * OPTIONS["lr"], "weight_decay": 0.0, "beta1": 0.5, "beta2": 0.8}
    near, _ = oracle.adamw_update(near, slope, oracle.init_moments(near), **one)
    assert_within(param, value(near), bound=bound(far) + bound(near))


@pytest.mark.parametrize("face", [torch_step, oracle_step])
def test_adamw_3_gradient_of_the_size_of_eps_moves_by_half_the_rate(face):
    """g/(|g| + ε) = 1/2; with ε inside the root, or added before the correction, the step is another."""
    nothing, grad = np.zeros(2), np.array([2.0**-27, -(2.0**-27)])
    got = face([nothing, grad, nothing, nothing], 0, eps=2.0**-27, weight_decay=0.0)[0]
    half = np.array([-(2.0**-8), 2.0**-8])
    assert_within(value(got), half, bound=1e3 * 2.0**-53 * np.abs(half))  # 1 − 0.95 loses four bits, twice


@given(state=states)
def test_adamw_4_decay_and_step_are_independent(state):
    """The new parameter is that of decay alone plus that of the step alone."""
    arrays = draw_state(state["seed"] % 2**31, state["size"])
    nothing = np.zeros_like(arrays[0])
    both = oracle_step(arrays, state["step"])[0]
    decay = torch_step([arrays[0], nothing, nothing, nothing], state["step"])[0]
    step = torch_step([nothing, *arrays[1:]], state["step"])[0]
    assert_within(decay + step, value(both), bound=3 * bound(both))
    assert float((decay - torch.tensor(arrays[0])).abs().max()) > 0


def test_adamw_4_decay_follows_the_rate():
    arrays = [np.array([1.5, -3.0]), *[np.zeros(2)] * 3]
    start = torch.tensor(arrays[0])
    full, half = (torch_step(arrays, 3, lr=lr, weight_decay=2.0**-6)[0] - start for lr in (2.0**-4, 2.0**-5))
    assert_same(full, 2 * half)
    assert_same(full, -start * 2.0**-10)


def test_adamw_5_counts_each_update_once():
    param = torch.tensor(draw(3, (5,)))
    moments = init_moments(param)
    for step in range(4):
        assert moments.step == step
        param, moments = adamw_update(param, torch.tensor(draw(step, (5,))), moments, **OPTIONS)


@given(state=states, order=st.permutations(range(35)))
def test_adamw_6_is_elementwise(state, order):
    arrays = [a.reshape(-1) for a in draw_state(state["seed"] % 2**31, state["size"])]
    whole, moments = torch_step(arrays, state["step"])
    mixed, mixed_moments = torch_step([a[list(order)] for a in arrays], state["step"])
    assert_same(mixed, whole[list(order)])
    assert_same(mixed_moments.square, moments.square[list(order)])
    assert_same(torch_step([a[3:16].reshape(13, 1) for a in arrays], state["step"])[0], whole[3:16, None])


@given(state=states)
def test_adamw_7_is_odd(state):
    param, grad, mean, square = draw_state(state["seed"] % 2**31, state["size"])
    there, moments = torch_step([param, grad, mean, square], state["step"])
    back, mirrored = torch_step([-param, -grad, -mean, square], state["step"])
    assert_same(back, -there)
    assert_same(mirrored.mean, -moments.mean)
    assert_same(mirrored.square, moments.square)


@given(state=states, exponent=st.integers(-9, 9).filter(bool))
def test_adamw_8_step_has_no_unit(state, exponent):
    """At gradients as small as ε: an ε inside the root would need α²·ε."""
    alpha = 2.0**exponent
    _, grad, mean, square = draw_state(state["seed"] % 2**31, state["size"])
    nothing = np.zeros_like(grad)
    plain = torch_step([nothing, grad, mean, square], state["step"])[0]
    scaled = [nothing, alpha * grad, alpha * mean, alpha**2 * square]
    assert_same(torch_step(scaled, state["step"], eps=alpha * OPTIONS["eps"])[0], plain)


def run_from_zero(gradients, **options) -> tuple[float, Moments]:
    """Give the last step, from a parameter at 0, after a series of scalar gradients."""
    moved, moments = torch.zeros(()), init_moments(torch.zeros((), dtype=torch.float64))
    for grad in gradients:
        moved, moments = adamw_update(
            torch.zeros((), dtype=torch.float64), torch.tensor(float(grad), dtype=torch.float64), moments, **options
        )
    return float(moved), moments


@given(seed=seeds, steps=st.integers(1, 20))
def test_adamw_9_no_step_exceeds_the_cauchy_schwarz_bound(seed, steps):
    beta1, beta2 = 0.9, 0.95
    options = {"lr": 1.0, "beta1": beta1, "beta2": beta2, "eps": 0.0, "weight_decay": 0.0}
    tail = sum((beta1**2 / beta2) ** i for i in range(steps)) ** 0.5
    limit = (1 - beta1) / (1 - beta2) ** 0.5 * tail * (1 - beta2**steps) ** 0.5 / (1 - beta1**steps)
    slack = 100 * 2.0**-53 * steps * limit  # the rounding of both sides: under 100 operations a step
    assert abs(run_from_zero(draw(seed, (steps,), 1.0, "heavy"), **options)[0]) <= limit + slack
    worst = [(beta1 / beta2) ** (steps - 1 - i) for i in range(steps)]
    assert_within(np.array(run_from_zero(worst, **options)[0]), np.array(-limit), bound=slack)


@given(state=states)
def test_adamw_10_zero_rate_moves_only_the_averages(state):
    arrays = draw_state(state["seed"] % 2**31, state["size"])
    param, moments = torch_step(arrays, state["step"], lr=0.0)
    assert_same(param, torch.tensor(arrays[0]))
    assert_same(moments.mean, torch_step(arrays, state["step"])[1].mean)
    assert moments.step == state["step"] + 1 and not torch.equal(moments.mean, torch.tensor(arrays[2]))


@given(seed=seeds)
def test_adamw_13_inputs_keep_their_values(seed):
    given_, kept = ([torch.tensor(a) for a in draw_state(seed % 2**31, 1.0)] for _ in range(2))
    adamw_update(given_[0], given_[1], Moments(given_[2], given_[3], 2), **OPTIONS)
    for a, b in zip(given_, kept, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_adamw_20_without_decay_and_gradient_nothing_moves(implementation):
    start = torch.tensor(draw(5, (7,)))
    param = start.clone().requires_grad_()
    optimizer = AdamW([param], lr=0.1, weight_decay=0.0, implementation=implementation)
    for _ in range(3):
        param.grad = torch.zeros_like(start)
        optimizer.step()
    assert_same(param.detach(), start)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_adamw_1_without_averages_a_step_is_the_rate(implementation):
    """Both β may be 0, and √g² = |g| is exact."""
    none = {"beta1": 0.0, "beta2": 0.0, "eps": 0.0, "weight_decay": 0.0}
    start, grad, *averages = draw_state(5, 1.0)
    moved = start - OPTIONS["lr"] * np.sign(grad)
    assert_same(torch_step([start, grad, *averages], 3, **none)[0], torch.tensor(moved))
    assert_within(oracle_step([start, grad, *averages], 3, **none)[0].value, moved)
    param = torch.tensor(start, requires_grad=True)
    param.grad = torch.tensor(grad)
    AdamW([param], OPTIONS["lr"], (0.0, 0.0), 0.0, 0.0, implementation=implementation).step()
    assert_same(param.detach(), torch.tensor(moved))


# --- dtypes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@given(seed=seeds)
def test_adamw_11_low_precision_rounds_once(dtype, seed):
    arrays = [torch.tensor(a).to(dtype).double().numpy() for a in draw_state(seed % 2**31, 1.0)]
    param, moments = torch_step(arrays, 4, dtype)
    wide, wide_moments = torch_step(arrays, 4, torch.float32)
    assert param.dtype == dtype and moments.mean.dtype == moments.square.dtype == torch.float32
    assert_same(param, wide.to(dtype))
    assert_same(moments.square, wide_moments.square)
    assert init_moments(param).mean.dtype == torch.float32


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_adamw_11_eps_is_not_zero_in_float16(implementation):
    start, grad = np.ones(3), np.array([0.0, 2.0**-24, -(2.0**-24)])
    param = torch.tensor(start, dtype=torch.float16, requires_grad=True)
    optimizer = AdamW([param], betas=(0.9, 0.95), lr=0.25, weight_decay=0.0, implementation=implementation)
    param.grad = torch.tensor(grad, dtype=torch.float16)
    optimizer.step()
    assert param.dtype == torch.float16 and optimizer.state[param]["mean"].dtype == torch.float32
    arrays = [start, grad, np.zeros(3), np.zeros(3)]
    assert_within(param.detach(), oracle_step(arrays, 0, "float16", lr=0.25, weight_decay=0.0)[0])
    assert float(param[0].detach()) == 1.0


def test_adamw_12_first_float32_step_is_the_rate():
    """1 − 0.999 computed in float32 would miss it by 6e-6; four roundings are allowed."""
    arrays = [np.zeros(3), np.array([3.0, -0.7, 1e-3]), np.zeros(3), np.zeros(3)]
    got = torch_step(arrays, 0, torch.float32, lr=1e-3, beta2=0.999, eps=0.0)[0]
    assert_within(got, np.array([-1e-3, 1e-3, -1e-3]), bound=np.full(3, 6 * 2.0**-24 * 1e-3))
