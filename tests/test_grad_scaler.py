"""Properties of dynamic loss scaling; each test names the clause of specs/grad_scaler.md that it checks."""

import gc
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from arrays import draw
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from spec_blocks import definition
from strategies import seeds
from tolerance import assert_same, assert_within

from minimind_ref.optim.adamw import AdamW
from minimind_ref.optim.grad_clip import clip_grad_norm_
from minimind_ref.optim.grad_scaler import GradScaler
from minimind_ref.oracle import grad_scaler as oracle
from minimind_ref.oracle.bounded import bound_inputs

BAD = [math.inf, -math.inf, math.nan]
IMPLEMENTATIONS = ["explicit", "foreach"]
patterns = st.lists(st.booleans(), min_size=1, max_size=40)


def model(implementation="foreach") -> tuple[list[torch.Tensor], AdamW]:
    """Three parameters, the last of which never gets a gradient."""
    params = [torch.tensor(draw(i, s)).float().requires_grad_() for i, s in enumerate([(3, 5), (7,), (2,)])]
    return params, AdamW(params, lr=2.0**-5, implementation=implementation)


def give_gradients(params, seed: int, factor: float = 1.0) -> None:
    for i, p in enumerate(params[:2]):
        p.grad = torch.tensor(draw(seed % 2**31 + i, p.shape)).float() * factor


def run(scaler, overflows, **machine) -> list[tuple[float, int]]:
    """Drive a scaler through windows with and without overflow; give scale and count after each."""
    params, optimizer = model()
    seen = []
    for step, found in enumerate(overflows):
        give_gradients(params, step)
        if found:
            params[step % 2].grad.view(-1)[step % 3] = BAD[step % 3]
        scaler.scale(torch.ones(()))
        scaler.step(optimizer)
        scaler.update()
        state = scaler.state_dict()
        seen.append((state["scale"], state["_growth_tracker"]))
    return seen


# --- agreement


@given(overflows=patterns, interval=st.integers(1, 5), growth=st.sampled_from([2.0, 4.0, 1.3]))
def test_grad_scaler_5_agrees_with_oracle(overflows, interval, growth):
    backoff = 0.7 if growth == 1.3 else 1 / growth
    factors = {"growth_factor": growth, "backoff_factor": backoff, "growth_interval": interval}
    state, expected = oracle.initial_state(1024.0), []
    for found in overflows:
        state = oracle.update(state, found, **factors)
        expected.append(tuple(state))
    assert run(GradScaler(1024.0, **factors), overflows) == expected


@pytest.mark.parametrize("kind", ["float", "decimal"])
@given(overflows=patterns, interval=st.integers(1, 4), exponent=st.integers(-126, 127))
def test_grad_scaler_4_agrees_with_spec(kind, overflows, interval, exponent):
    factors = {"growth_factor": 4.0, "backoff_factor": 0.5, "growth_interval": interval}
    state = oracle.initial_state(2.0**exponent)
    spec = tuple(state)
    for found in overflows:
        state, spec = (
            oracle.update(state, found, **factors),
            definition("grad_scaler", kind).update(spec, found, **factors),
        )
        assert (float(spec[0]), spec[1]) == tuple(state)


class AgainstTorch(RuleBasedStateMachine):
    """Ours, torch's and the oracle's scaler, side by side through any sequence of windows (GRAD_SCALER-13)."""

    @initialize(interval=st.integers(1, 4), exponent=st.integers(-20, 20), growth=st.sampled_from([2.0, 8.0, 1.7]))
    def start(self, interval, exponent, growth):
        self.factors = {"growth_factor": growth, "backoff_factor": 0.5, "growth_interval": interval}
        self.state = oracle.initial_state(2.0**exponent)
        self.ours = GradScaler(2.0**exponent, **self.factors)
        self.theirs = torch.amp.GradScaler("cpu", init_scale=2.0**exponent, **self.factors)
        (self.params, self.optimizer), (self.others, self.reference) = model(), model()
        self.taken = 0

    @rule(seed=seeds, bad=st.sampled_from([None, *BAD]), where=st.integers(0, 1), unscale_first=st.booleans())
    def window(self, seed, bad, where, unscale_first):
        for scaler, params, optimizer in (
            (self.ours, self.params, self.optimizer),
            (self.theirs, self.others, self.reference),
        ):
            scaler.scale(torch.ones(()))
            give_gradients(params, seed, scaler.get_scale())
            if bad is not None:
                params[where].grad.view(-1)[seed % 7] = bad
            if unscale_first:
                scaler.unscale_(optimizer)
                with pytest.raises(RuntimeError, match="already"):
                    scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        self.state = oracle.update(self.state, bad is not None, **self.factors)
        self.taken += bad is None

    @rule()
    def save_and_load(self):
        """Each goes on from the other's state dict (GRAD_SCALER-11)."""
        mine, yours = self.ours.state_dict(), self.theirs.state_dict()
        self.ours, self.theirs = GradScaler(3.0), torch.amp.GradScaler("cpu", init_scale=5.0)
        self.ours.load_state_dict(yours)
        self.theirs.load_state_dict(mine)

    @invariant()
    def agree(self):
        if not hasattr(self, "ours"):
            return
        assert self.ours.state_dict() == self.theirs.state_dict()
        assert self.ours.get_scale() == self.state.scale > 0
        assert self.ours.state_dict()["_growth_tracker"] == self.state.good_steps
        for p, q in zip(self.params, self.others, strict=True):
            assert_same(p.detach(), q.detach())
        assert self.optimizer.state.get(self.params[0], {}).get("step", 0) == self.taken


AgainstTorch.TestCase.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
test_grad_scaler_13_is_torchs_machine = AgainstTorch.TestCase


# --- invariants


@given(seed=seeds, exponent=st.integers(-30, 30))
def test_grad_scaler_2_power_of_two_unscales_exactly(seed, exponent):
    params, optimizer = model()
    give_gradients(params, seed)
    plain = [p.grad.clone() for p in params[:2]]
    give_gradients(params, seed, 2.0**exponent)
    GradScaler(2.0**exponent).unscale_(optimizer)
    for p, g in zip(params[:2], plain, strict=True):
        assert_same(p.grad, g)
    assert params[2].grad is None


@given(seed=seeds, scale=st.floats(0.125, 1e5, width=32))
def test_grad_scaler_2_any_scale_agrees_with_oracle(seed, scale):
    params, optimizer = model()
    give_gradients(params, seed)
    carried = [bound_inputs(p.grad.double().numpy(), profile="float32")[0] for p in params[:2]]
    expected, found = oracle.unscale([*carried, None], scale=scale)
    GradScaler(scale).unscale_(optimizer)
    for p, e in zip(params[:2], expected[:2], strict=True):
        assert_within(p.grad, e * 1.0)  # the reciprocal rounds, too
    assert not found and expected[2] is None


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", [(0, 14), (1, 3)])
def test_grad_scaler_3_overflow_changes_nothing(bad, place, implementation):
    params, optimizer = model(implementation)
    scaler = GradScaler(8.0)
    give_gradients(params, 1, 8.0)
    scaler.step(optimizer)
    scaler.update()
    kept = (
        [p.detach().clone() for p in params],
        {k: v.clone() for k, v in optimizer.state[params[0]].items() if k != "step"},
    )
    give_gradients(params, 2, 8.0)
    params[place[0]].grad.view(-1)[place[1]] = bad
    scaler.step(optimizer)
    assert scaler.found_overflow(optimizer)
    for p, before in zip(params, kept[0], strict=True):
        assert_same(p.detach(), before)
    for key, before in kept[1].items():
        assert_same(optimizer.state[params[0]][key], before)
    assert optimizer.state[params[0]]["step"] == 1
    assert oracle.unscale([p.grad.numpy() if p.grad is not None else None for p in params], scale=8.0)[1]
    scaler.update()
    give_gradients(params, 3, 4.0)
    scaler.step(optimizer)
    assert not scaler.found_overflow(optimizer)
    assert optimizer.state[params[0]]["step"] == 2 and not torch.equal(params[0].detach(), kept[0][0])


def test_grad_scaler_3_returns_what_the_optimizer_returns():
    params, optimizer = model()
    optimizer.step = lambda: "stepped"
    for bad, answer in ((False, "stepped"), (True, None)):
        give_gradients(params, 1)
        if bad:
            params[0].grad[0, 0] = math.inf
        scaler = GradScaler()
        assert scaler.step(optimizer) == answer


def test_grad_scaler_6_scale_stays_within_float32():
    """Torch's falls to 0 after 166 overflows; ours stays where its reciprocal is finite, and grows again."""
    torchs = torch.amp.GradScaler("cpu", growth_interval=1)
    assert run(torchs, [True] * 166)[-1] == (0.0, 0)
    ours = GradScaler(growth_interval=1)
    scales = [scale for scale, _ in run(ours, [True] * 170 + [False] * 300)]
    assert min(scales) == scales[169] == 2.0**-126 and max(scales) == scales[-1] == 2.0**127
    state, seen = oracle.initial_state(), []
    for found in [True] * 170 + [False] * 300:
        state = oracle.update(state, found, growth_interval=1)
        seen.append(state.scale)
    assert seen == scales


def test_grad_scaler_7_misuse_is_an_error():
    params, optimizer = model()
    scaler = GradScaler(growth_interval=1)
    give_gradients(params, 1)
    with pytest.raises(RuntimeError, match="update"):
        scaler.update()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="after step"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.step(optimizer)
    scaler.update()
    scaler.unscale_(optimizer)


def test_grad_scaler_7_step_unscales_what_was_not():
    (params, optimizer), (others, other) = model(), model()
    for ps, opt, first in ((params, optimizer, True), (others, other, False)):
        scaler = GradScaler(64.0)
        give_gradients(ps, 5, 64.0)
        if first:
            scaler.unscale_(opt)
        scaler.step(opt)
    assert_same(params[0].detach(), others[0].detach())
    assert_same(params[0].grad, others[0].grad)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(seed=seeds, exponent=st.integers(-20, 20))
def test_grad_scaler_8_update_does_not_depend_on_the_scale(implementation, seed, exponent):
    """GRAD_CLIP-8: backward, unscale, clip, step, update: the threshold meets true gradients."""

    def step(scale: float) -> list[torch.Tensor]:
        params, optimizer = model(implementation)
        scaler = GradScaler(scale)
        scaler.scale(sum((p * torch.tensor(draw(seed % 2**31, p.shape)).float()).sum() for p in params)).backward()
        scaler.unscale_(optimizer)
        norm = clip_grad_norm_(params, 0.5)
        assert norm > 0.5
        scaler.step(optimizer)
        scaler.update()
        return [*(p.detach() for p in params), norm]

    for a, b in zip(step(1.0), step(2.0**exponent), strict=True):
        assert_same(a, b)


def test_grad_scaler_9_disabled_is_the_identity():
    params, optimizer = model()
    scaler = GradScaler(8.0, enabled=False)
    loss = torch.tensor(3.0)
    assert scaler.scale(loss) is loss and scaler.get_scale() == 1.0 and scaler.state_dict() == {}
    give_gradients(params, 4)
    params[0].grad[0, 0] = math.inf
    kept = params[0].grad.clone()
    scaler.unscale_(optimizer)
    scaler.unscale_(optimizer)
    assert not scaler.found_overflow(optimizer)
    assert_same(params[0].grad, kept)
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.state[params[0]]["step"] == 1 and not params[0].isfinite().all()
    for state in ({}, GradScaler(8.0).state_dict()):
        scaler.load_state_dict(state)
        assert scaler.get_scale() == 1.0 and scaler.state_dict() == {}


# --- float16


def test_grad_scaler_1_low_precision_loss_is_scaled_in_float32():
    loss = torch.tensor(3.0, dtype=torch.float16)
    scaled = GradScaler().scale(loss)
    assert scaled.dtype == torch.float32 and float(scaled) == 3 * 65536.0 and GradScaler().get_scale() == 65536.0


def test_grad_scaler_12_rescues_what_float16_loses():
    def gradient(scaler) -> float:
        weight = torch.ones(1, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=1.0)
        scaler.scale((weight.half() * 2.0**-15).float().sum() * 2.0**-15).backward()
        scaler.unscale_(optimizer)
        return float(weight.grad)

    assert gradient(GradScaler(enabled=False)) == 0.0
    assert gradient(GradScaler()) == 2.0**-30


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_grad_scaler_13_float16_run_with_real_overflows(implementation):
    """A linear model under float16 arithmetic: the first scale overflows, training goes on, both scalers agree."""

    def train(scaler) -> tuple[list[float], list[torch.Tensor], float]:
        x, y = torch.tensor(draw(1, (11, 5), 16.0)).float(), torch.tensor(draw(2, (11, 3), 32.0)).float()
        weight = torch.zeros(3, 5, requires_grad=True)
        optimizer = AdamW([weight], lr=0.05, implementation=implementation)
        seen = []
        for _ in range(60):
            with torch.autocast("cpu", dtype=torch.float16):
                guess = torch.nn.functional.linear(x, weight)
            loss = ((guess.float() - y) ** 2).mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            clip_grad_norm_([weight], 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            seen.append(scaler.get_scale())
        return seen, [weight.detach()], float(loss.detach())

    scales, weights, loss = train(GradScaler(2.0**20, growth_interval=7))
    theirs, their_weights, _ = train(torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=7))
    assert scales == theirs
    assert_same(weights[0], their_weights[0])
    falls = sum(b < a for a, b in pairwise([2.0**20, *scales]))
    rises = sum(b > a for a, b in pairwise(scales))
    assert falls >= 4 and rises >= 2 and math.isfinite(loss)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("init_scale", 0.0), ("init_scale", -2.0), ("init_scale", math.inf), ("init_scale", math.nan),
        ("growth_factor", 1.0), ("growth_factor", math.inf), ("backoff_factor", 0.0), ("backoff_factor", 1.0),
        ("backoff_factor", -0.5), ("growth_interval", 0), ("growth_interval", -3),
    ],
)  # fmt: skip
def test_grad_scaler_10_refuses(name, number):
    with pytest.raises(ValueError, match=f"{name}.*{number}"):
        GradScaler(**{name: number})
    with pytest.raises(ValueError, match=f"{name}.*{number}"):
        if name == "init_scale":
            oracle.initial_state(number)
        else:
            oracle.update(oracle.initial_state(), False, **{name: number})


def test_grad_scaler_10_refuses_float16_gradients():
    narrow, wide = (torch.ones(2, dtype=dtype, requires_grad=True) for dtype in (torch.float16, torch.float32))
    for weight in (narrow, wide):
        weight.grad = torch.ones_like(weight)
    for weights in ([narrow], [wide, narrow]):
        with pytest.raises(ValueError, match="float16"):
            GradScaler().unscale_(AdamW(weights))


@pytest.mark.parametrize("scale", [0.0, -2.0, math.nan, math.inf])
def test_grad_scaler_11_refuses_a_state_that_no_scaler_had(scale):
    state = GradScaler().state_dict()
    with pytest.raises(ValueError, match=f"scale={scale}"):
        GradScaler().load_state_dict({**state, "scale": scale})
    for change, message in (
        ({"growth_factor": 0.5}, "growth_factor=0.5 must be above 1"),
        ({"backoff_factor": 5.0}, "backoff_factor=5.0 must lie between"),
        ({"growth_interval": -3}, "growth_interval=-3 must be at least 1"),
        ({"_growth_tracker": -1}, "_growth_tracker=-1 must lie below growth_interval=2000"),
        ({"_growth_tracker": 2000}, "_growth_tracker=2000 must lie below growth_interval=2000"),
        ({"extra": 1}, "'extra' is unknown"),
    ):
        with pytest.raises(ValueError, match=message):
            GradScaler().load_state_dict({**GradScaler().state_dict(), **change})
    with pytest.raises(ValueError, match="'_growth_tracker' is missing"):
        GradScaler().load_state_dict({"scale": 2.0})


def test_grad_scaler_11_refuses_the_state_of_a_disabled_scaler():
    with pytest.raises(ValueError, match="disabled"):
        GradScaler().load_state_dict(GradScaler(enabled=False).state_dict())


@given(overflows=patterns, cut=st.integers(0, 39))
@example(overflows=[False, True, False, False, False], cut=4)  # two of three windows before the scale grows
def test_grad_scaler_11_state_dict_continues(overflows, cut):
    straight = run(GradScaler(256.0, growth_interval=3), overflows)
    first = GradScaler(256.0, growth_interval=3)
    before = run(first, overflows[:cut])
    second = GradScaler()
    second.load_state_dict(first.state_dict())
    assert before + run(second, overflows[cut:]) == straight


def test_grad_scaler_4_found_inf_is_read_from_every_dtype():
    """Gradients of several precisions in one optimizer: the overflow may be in any."""
    for bad in range(3):
        params = [torch.ones(2, dtype=d, requires_grad=True) for d in (torch.float32, torch.bfloat16, torch.float64)]
        for i, p in enumerate(params):
            p.grad = torch.tensor([1.0, math.nan if i == bad else 2.0]).to(p.dtype)
        scaler = GradScaler(8.0)
        scaler.step(AdamW(params))
        scaler.update()
        assert scaler.get_scale() == 4.0
        assert np.array_equal([float(p[0].detach()) for p in params], np.ones(3))


def test_grad_scaler_3_an_optimiser_that_is_forgotten_is_not_taken_for_the_next():
    """Ids of dead objects are given again."""
    scaler, weight = GradScaler(8.0), torch.ones(3, requires_grad=True)
    weight.grad = torch.full((3,), 8.0)
    ids = set()
    for _ in range(20):
        optimizer = AdamW([weight], lr=0.5)
        ids.add(id(optimizer))
        scaler.step(optimizer)
        del optimizer
        gc.collect(0)
    assert len(ids) == 20


def test_grad_scaler_4_one_overflow_among_two_optimisers_lowers_the_scale():
    scaler, states = GradScaler(8.0), []
    for bad in (False, True):
        weight = torch.ones(3, requires_grad=True)
        weight.grad = torch.full((3,), math.inf if bad else 1.0)
        scaler.step(AdamW([weight], lr=0.5))
        states.append(bool((weight != 1).all()))
    scaler.update()
    assert (scaler.get_scale(), states) == (4.0, [True, False])


def test_grad_scaler_11_defaults_are_torchs():
    assert GradScaler().state_dict() == torch.amp.GradScaler("cpu").state_dict()
    state = oracle.initial_state()
    for count in range(1, 2000):
        state = oracle.update(state, False)
        assert state == (65536.0, count)
    assert oracle.update(state, False) == (131072.0, 0) and oracle.update(state, True) == (32768.0, 0)
