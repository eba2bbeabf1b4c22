"""Properties of clipping by the global norm; each test names the clause of specs/grad_clip.md that it checks."""

import math

import numpy as np
import pytest
import torch
from arrays import draw
from hypothesis import given
from hypothesis import strategies as st
from spec_blocks import definition, floats
from strategies import cuts, scales, seeds
from tolerance import assert_same, assert_within

from minimind_ref.optim.grad_clip import clip_grad_norm_
from minimind_ref.oracle.bounded import bound, bound_inputs, value
from minimind_ref.oracle.grad_clip import clip_grad_norm

SHAPES = [(7, 5), (3,), None, (2, 3, 5)]
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def draw_gradients(seed: int, scale: float = 1.0) -> list[np.ndarray | None]:
    """Gradients of four parameters, one of which has none, of unequal size."""
    return [None if s is None else draw(seed + i, s, scale * 2.0 ** (2 * i)) for i, s in enumerate(SHAPES)]


def parameters_with(gradients, dtype=torch.float64) -> list[torch.Tensor]:
    """Parameters that carry these gradients."""
    params = []
    for g in gradients:
        p = torch.zeros(() if g is None else np.shape(g), dtype=dtype, requires_grad=True)
        p.grad = None if g is None else torch.tensor(np.asarray(g)).to(dtype)
        params.append(p)
    return params


def clip(gradients, max_norm: float, dtype=torch.float64):
    """Clip by the torch face, handed a generator as model.parameters() is."""
    params = parameters_with(gradients, dtype)
    norm = clip_grad_norm_((p for p in params), max_norm)
    return [p.grad for p in params], norm


def bounded_clip(gradients, max_norm: float, profile="float64"):
    carried = [None if g is None else bound_inputs(g, profile=profile)[0] for g in gradients]
    return clip_grad_norm(carried, max_norm)


@pytest.mark.parametrize("profile", DTYPES)
@given(seed=seeds, scale=scales(-4, 4), max_norm=st.sampled_from([0.3, 1.0, 50.0]))
def test_grad_clip_2_agrees_with_oracle(profile, seed, scale, max_norm):
    gradients = draw_gradients(seed % 2**31, scale)
    expected, expected_norm = bounded_clip(gradients, max_norm, profile)
    gradients = [None if g is None else np.asarray(value(bound_inputs(g, profile=profile)[0])) for g in gradients]
    got, norm = clip(gradients, max_norm, DTYPES[profile])
    assert_within(norm, expected_norm)
    for a, b in zip(got, expected, strict=True):
        if b is None:
            assert a is None
        else:
            assert a.dtype == DTYPES[profile]
            assert_within(a, b)


@pytest.mark.parametrize("kind", ["float", "decimal"])
@given(seed=seeds, max_norm=st.sampled_from([0.3, 1.0, 1e4]))
def test_grad_clip_2_agrees_with_spec(kind, seed, max_norm):
    gradients = [None if g is None else g.reshape(-1) for g in draw_gradients(seed % 2**31)]
    expected, expected_norm = bounded_clip(gradients, max_norm)
    got, norm = definition("grad_clip", kind).clip_grad_norm(gradients, max_norm)
    assert_within(floats(norm), expected_norm)
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert_within(floats(a), b)


def test_grad_clip_1_norm_runs_over_all_parameters():
    got, norm = clip([np.array([3.0, 0.0]), np.array([[-4.0]]), np.array(12.0)], 6.5)
    assert float(norm) == 13.0
    assert_within(got[0], np.array([1.5, 0.0]), bound=np.array([2e-7, 0.0]))  # the 1e-6 shortens by 7.7e-8 relative


@given(seed=seeds)
def test_grad_clip_2_follows_torch(seed):
    gradients = draw_gradients(seed % 2**31)
    params = parameters_with(gradients)
    theirs = torch.nn.utils.clip_grad_norm_(params, 0.7)
    got, norm = clip(gradients, 0.7)
    expected, expected_norm = bounded_clip(gradients, 0.7)
    assert_within(norm, theirs.numpy(), bound=2 * bound(expected_norm))
    for a, p, e in zip(got, params, expected, strict=True):
        if a is not None:
            assert_within(a, p.grad.numpy(), bound=2 * bound(e))


@given(seed=seeds)
def test_grad_clip_2_direction_is_kept_and_length_is_the_threshold(seed):
    """One common factor in (0, 1): the ratios of all entries to their originals agree."""
    gradients = draw_gradients(seed % 2**31)
    got, norm = clip(gradients, 1.0)
    ratios = np.concatenate([(a.numpy() / g).reshape(-1) for a, g in zip(got, gradients, strict=True) if g is not None])
    assert ratios.min() > 0 and ratios.max() < 1
    assert_within(ratios, np.full_like(ratios, ratios[0]), bound=np.full_like(ratios, 4 * 2.0**-53 * ratios[0]))
    again = float(clip(got, math.inf)[1])
    assert 1 - 2e-6 / float(norm) < again < 1


@given(seed=seeds)
def test_grad_clip_3_below_the_threshold_nothing_moves(seed):
    gradients = draw_gradients(seed % 2**31)
    _, norm = clip(gradients, math.inf)
    for threshold in (float(norm) + 2e-6, 10 * float(norm), math.inf):
        for a, g in zip(clip(gradients, threshold)[0], gradients, strict=True):
            assert (a is None) == (g is None)
            if g is not None:
                assert_same(a, torch.tensor(g))


@given(seed=seeds, pieces=cuts(35))
def test_grad_clip_4_cutting_a_tensor_changes_nothing(seed, pieces):
    whole = draw_gradients(seed % 2**31)
    expected, expected_norm = bounded_clip(whole, 1.0)
    got, norm = clip([*(whole[0].reshape(-1)[piece] for piece in pieces), *whole[1:]], 1.0)
    assert_within(norm, expected_norm)
    assert_within(torch.cat(got[: len(pieces)]).reshape(7, 5), expected[0])


@pytest.mark.parametrize("gradients", [[], [None, None], [np.zeros(3), None, np.zeros((2, 5))], [np.zeros((0, 3))]])
def test_grad_clip_5_nothing_to_clip_is_zero(gradients):
    got, norm = clip(gradients, 1.0)
    assert float(norm) == 0.0 == float(clip_grad_norm(gradients, 1.0)[1])
    assert [g is None for g in got] == [g is None for g in gradients]
    assert all(g is None or not g.any() for g in got)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_grad_clip_6_not_finite_is_reported_and_untouched(bad, place):
    gradients = draw_gradients(7)
    gradients[place].reshape(-1)[2] = bad
    got, norm = clip(gradients, 1.0)
    kept, oracle_norm = clip_grad_norm(gradients, 1.0)
    for reported in (float(norm), float(oracle_norm)):
        assert math.isnan(reported) if math.isnan(bad) else reported == math.inf
    for a, b, g in zip(got, kept, gradients, strict=True):
        if g is not None:
            assert_same(a, torch.tensor(g))
            assert_same(torch.tensor(b), torch.tensor(g))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_grad_clip_7_squares_do_not_overflow_silently(dtype):
    """300² is beyond float16: the norm is right. 1e20² is beyond float32: right, or reported and untouched."""
    big = 300.0 if dtype == torch.float16 else 1e20
    gradients = [np.array([big, 0.0]), np.array([big])]
    got, norm = clip(gradients, 1.0, dtype)
    if dtype == torch.float16 or math.isfinite(norm):
        expected, expected_norm = bounded_clip(gradients, 1.0, str(dtype).removeprefix("torch."))
        assert_within(norm, expected_norm)
        assert_within(got[0], expected[0])
    else:
        assert_same(got[0], torch.tensor(gradients[0]).to(dtype))


def test_grad_clip_7_precisions_may_mix():
    params = [*parameters_with([np.array([3.0])], torch.bfloat16), *parameters_with([np.array([4.0])], torch.float32)]
    assert float(clip_grad_norm_(params, 2.5)) == 5.0
    assert params[0].grad.dtype == torch.bfloat16 and params[1].grad.dtype == torch.float32
    assert float(params[0].grad) == 1.5


@given(seed=seeds)
def test_grad_clip_9_twice_is_once(seed):
    once, _ = clip(draw_gradients(seed % 2**31), 1.0)
    for a, b in zip(clip(once, 1.0)[0], once, strict=True):
        if b is not None:
            assert_within(a, b.numpy(), bound=(1e-6 + 2.0**-50) * b.abs().numpy())


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, -math.inf])
def test_grad_clip_10_refuses(bad):
    for attempt in (lambda: clip(draw_gradients(1), bad), lambda: clip_grad_norm(draw_gradients(1), bad)):
        with pytest.raises(ValueError, match=f"max_norm.*{bad}"):
            attempt()
