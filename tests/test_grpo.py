"""specs/grpo.md, clause by clause."""

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

from minimind_ref.loss.grpo import (
    answer_mask,
    group_advantages,
    grpo_divisor,
    grpo_loss,
    grpo_terms,
    grpo_total,
    is_clipped,
    kl_k3,
)
from minimind_ref.oracle import grpo as oracle
from minimind_ref.oracle.bounded import Bounded, bound, bound_inputs, value

DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "bfloat16", "float16")}
NAMES = ("logp", "old_logp", "reference_logp", "advantages", "mask")
CLIP = {"clip_low": 0.2, "clip_high": 0.28}
OPTIONS = tuple({**CLIP, "beta": beta, "form": form} for beta in (0.0, 0.25) for form in ("clip", "cispo"))
NORMS = ({"normalise": "sequence"}, {"normalise": "token"}, {"normalise": "constant", "length": 13})
SCALES = ({"ddof": 0, "eps": 1e-4}, {"ddof": 1, "eps": 1e-4}, {"ddof": 0, "eps": 0.0}, {"scale": False})
each_profile = pytest.mark.parametrize("profile", DTYPES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
each_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o['form']}-{o['beta']}")
each_norm = pytest.mark.parametrize("norm", NORMS, ids=lambda o: o["normalise"])
each_kind = pytest.mark.parametrize("kind", ("float", "decimal"))
options_, norms, scales = st.sampled_from(OPTIONS), st.sampled_from(NORMS), st.sampled_from(SCALES)


def wide(profile):
    """The dtype of the results: float32, or float64 where the inputs are."""
    return torch.promote_types(DTYPES[profile], torch.float32)


@st.composite
def answers(draw_):
    """Log-probabilities that moved by up to a few nats since the sampling, rows of unequal lengths, one of them empty.

    Ratios from far below to far above the clip, advantages of both signs; 16 bits after the point.
    """
    b, s = draw_(st.sampled_from([(3, 7), (5, 3), (7, 5)]))
    old = draw_(strategies.arrays((b, s), of=("normal", "uniform", "sorted"), low=-1, high=2)) - 8
    moved, apart = (draw_(strategies.arrays((b, s), of=("normal", "uniform"), low=-4, high=0)) for _ in range(2))
    advantages = draw_(strategies.arrays((b,), of=("normal", "alternating"), low=-2, high=1))
    lengths = [0, s, *draw_(st.lists(st.integers(1, s), min_size=b - 2, max_size=b - 2))]
    mask = np.arange(s) < np.array(lengths)[:, None]
    logps = (np.ldexp(np.round(np.ldexp(x, 16)), -16) for x in (old + moved, old, old + apart))
    return dict(zip(NAMES, (*logps, advantages, mask), strict=True))


@st.composite
def groups(draw_):
    """Rewards of 2 to 7 prompts with 3 to 8 answers; ties among them."""
    p, r = draw_(st.sampled_from([(2, 3), (3, 8), (7, 5)]))
    return draw_(strategies.arrays((p, r), of=("normal", "uniform", "ties", "offset"), low=-3, high=6))


def fixed():
    """Five answers of 7, 4, 1, 0 and 5 tokens; both clips are reached on both sides."""
    old = draw(1, (5, 7)) - 3
    values = old + draw(2, (5, 7), 0.5), old, old + draw(3, (5, 7), 0.25), np.array([0.75, -1.5, 1.0, 2.0, -0.5])
    mask = np.arange(7) < np.array([7, 4, 1, 0, 5])[:, None]
    return dict(zip(NAMES, (*values, mask), strict=True))


def one(log_ratio, advantages):
    """Rows of a single token with these log-ratios and advantages, as torch arguments."""
    log_ratio = torch.tensor(log_ratio, dtype=torch.float64)[:, None]
    old = torch.full_like(log_ratio, -2.0)
    advantages = torch.tensor(advantages, dtype=torch.float64)
    return old + log_ratio, old, old.clone(), advantages, torch.ones_like(old, dtype=torch.bool)


def tensors(case, dtype=torch.float64):
    return [torch.tensor(x, dtype=dtype if x.dtype.kind == "f" else None) for x in case.values()]


def slopes(face, inputs, *, of=(0,), **options):
    """Gradients of the sum of a face's result, None where there is none."""
    inputs = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
    total = face(*inputs, **options).sum()
    return torch.autograd.grad(total, [inputs[i] for i in of], allow_unused=True)


def slope(face, inputs, **options):
    return slopes(face, inputs, **options)[0]


# ---- agreement ----
@each_profile
@given(rewards=groups(), options=scales)
def test_grpo_1_2_6_advantages_agree_with_the_oracle(profile, rewards, options):
    agree(
        oracle.group_advantages, group_advantages, {"rewards": rewards}, profile=profile, output_dtype=wide(profile),
        **options,
    )  # fmt: skip


@each_profile
@given(case=answers())
def test_grpo_8_9_k3_agrees_with_the_oracle(profile, case):
    inputs = {"logp": case["logp"], "reference_logp": case["reference_logp"]}
    agree(oracle.kl_k3, kl_k3, inputs, profile=profile, output_dtype=wide(profile))
    agree_vjp(oracle.kl_k3_vjp, kl_k3, inputs, profile=profile)


@each_profile
@given(case=answers(), options=options_)
def test_grpo_12_15_terms_agree_with_the_oracle(profile, case, options):
    agree(oracle.grpo_terms, grpo_terms, case, profile=profile, output_dtype=wide(profile), **options)


@each_profile
@given(case=answers(), options=options_)
def test_grpo_13_15_gradients_of_terms_agree_with_the_oracle(profile, case, options):
    agree_vjp(oracle.grpo_terms_vjp, grpo_terms, case, profile=profile, undecided=0.1, **options)


@each_profile
@given(case=answers(), options=options_, norm=norms)
def test_grpo_20_21_22_24_losses_agree_with_the_oracle(profile, case, options, norm):
    for run, face in ((oracle.grpo_loss, grpo_loss), (oracle.grpo_total, grpo_total)):
        agree(run, face, case, profile=profile, output_dtype=wide(profile), **options, **norm)
    mask = case["mask"]
    assert grpo_divisor(torch.tensor(mask), normalise=norm["normalise"]) == oracle.grpo_divisor(
        mask, normalise=norm["normalise"]
    )


@each_profile
@given(case=answers(), options=options_, norm=norms)
def test_grpo_20_21_22_24_gradients_agree_with_the_oracle(profile, case, options, norm):
    for vjp, face in ((oracle.grpo_loss_vjp, grpo_loss), (oracle.grpo_total_vjp, grpo_total)):
        agree_vjp(vjp, face, case, profile=profile, undecided=0.1, **options, **norm)


@given(case=answers(), form=st.sampled_from(["clip", "cispo"]))
def test_grpo_25_what_is_clipped_agrees_with_the_oracle_and_the_definition(case, form):
    inputs = {name: x for name, x in case.items() if name != "reference_logp"}
    found = is_clipped(*tensors(inputs), **CLIP, form=form).numpy()
    assert_same(found, oracle.is_clipped(**inputs, **CLIP, form=form))
    for kind in ("float", "decimal"):
        assert found.tolist() == definition("grpo", kind).is_clipped(*inputs.values(), **CLIP, form=form)


@given(
    ids=strategies.indices((5, 7), 0, 6),
    ends=st.sampled_from([(2,), (0, 4), (9,)]),
    lengths=st.none() | strategies.indices((5,), 0, 8),
)
def test_grpo_26_answer_mask_agrees_with_the_oracle_and_the_definition(ids, ends, lengths):
    found = answer_mask(torch.tensor(ids), ends, lengths=None if lengths is None else torch.tensor(lengths))
    assert_same(found, oracle.answer_mask(ids, ends, lengths=lengths))
    assert found.tolist() == definition("grpo", "float").answer_mask(ids, ends, lengths=lengths)


@each_kind
@given(rewards=groups(), options=scales)
def test_grpo_1_2_6_oracle_agrees_with_the_definition_of_advantages(kind, rewards, options):
    expected = floats(definition("grpo", kind).group_advantages(rewards, **options))
    bounds = oracle.group_advantages(*exact(rewards), **options)
    assert_law(oracle.group_advantages(rewards, **options), bounds, expected)


@each_kind
@given(case=answers(), options=options_, norm=norms)
def test_grpo_8_12_15_20_21_22_oracle_agrees_with_the_definition(kind, case, options, norm):
    named = definition("grpo", kind)
    for name, more in (("grpo_terms", {}), ("grpo_total", norm), ("grpo_loss", norm)):
        run = getattr(oracle, name)
        expected = floats(getattr(named, name)(*case.values(), **options, **more))
        assert_law(run(**case, **options, **more), run(*exact(*case.values()), **options, **more), expected)
    both = case["logp"], case["reference_logp"]
    assert_law(oracle.kl_k3(*both), oracle.kl_k3(*exact(*both)), floats(named.kl_k3(*both)))
    divisor = oracle.grpo_divisor(case["mask"], normalise=norm["normalise"])
    assert divisor == named.grpo_divisor(case["mask"], normalise=norm["normalise"])


@pytest.mark.parametrize("beta", (0.0, 0.25))
@each_norm
def test_grpo_13_oracle_gradients_are_the_definitions(beta, norm):
    """For `clip` only: CISPO's constant factor cannot be said in values (see GRPO-15)."""
    case = fixed()
    options = {**CLIP, "beta": beta, **norm}
    truth = decimal_vjp(definition("grpo", "decimal").grpo_loss, case, cotangent=np.array(0.75), **options)
    found = oracle.grpo_loss_vjp(**case, **options, cotangent=np.array(0.75))
    bounds = oracle.grpo_loss_vjp(*exact(*case.values()), **options, cotangent=exact(np.array(0.75))[0])
    assert_law(found[0], bounds[0], truth[0])


def test_grpo_9_oracle_gradient_of_k3_is_the_definitions():
    case = {name: fixed()[name] for name in ("logp", "reference_logp")}
    cotangent = draw(4, (5, 7))
    truth = decimal_vjp(definition("grpo", "decimal").kl_k3, case, cotangent=cotangent)
    bounds = oracle.kl_k3_vjp(*exact(*case.values()), cotangent=exact(cotangent)[0])
    assert_law(oracle.kl_k3_vjp(**case, cotangent=cotangent)[0], bounds[0], truth[0])


# ---- advantages ----
def test_grpo_1_a_group_is_a_prompt():
    rewards = torch.tensor(draw(5, (7, 5)))
    whole = group_advantages(rewards)
    for i in range(7):
        assert_same(group_advantages(rewards[i : i + 1]), whole[i : i + 1])
    by_prompt = torch.arange(7.0)[:, None].expand(7, 5)  # reward = index of the prompt: nobody is better
    assert not group_advantages(by_prompt).any() and group_advantages(by_prompt.T).any()


def test_grpo_2_the_groups_own_spread_and_eps_outside_the_root():
    rewards = torch.tensor([[0.0, 0.0, 6.0, 6.0]], dtype=torch.float64)
    assert group_advantages(rewards, eps=0.0).tolist() == [[-1.0, -1.0, 1.0, 1.0]]
    assert group_advantages(rewards, eps=3.0).tolist() == [[-0.5, -0.5, 0.5, 0.5]]
    assert group_advantages(torch.tensor([[0.0, 6.0, 3.0]]), eps=0.0, ddof=1).tolist() == [[-1.0, 1.0, 0.0]]
    assert_same(group_advantages(rewards), group_advantages(rewards, eps=1e-4, ddof=0))
    arrays = rewards.numpy()
    assert_same(oracle.group_advantages(arrays), oracle.group_advantages(arrays, eps=1e-4, ddof=0, scale=True))


@given(rewards=groups(), eps=st.sampled_from([0.0, 1e-4]), ddof=st.sampled_from([0, 1]))
def test_grpo_3_samuelsons_bounds(rewards, eps, ddof):
    found = group_advantages(torch.tensor(rewards), eps=eps, ddof=ddof)
    bounds = oracle.group_advantages(*exact(rewards), eps=eps, ddof=ddof)
    g = rewards.shape[1]
    highest = math.sqrt(g - 1) if ddof == 0 else (g - 1) / math.sqrt(g)
    assert (np.abs(found.numpy()) <= highest + bounds.bound).all()
    assert_law(found.sum(1), np.sum(bounds, axis=1), np.zeros(len(rewards)))


@pytest.mark.parametrize("g", (2, 3, 4, 6, 16))
def test_grpo_3_one_that_differs_reaches_the_bounds(g):
    outlier = np.full((1, g), 3.0)
    outlier[0, 1] = 5.0
    for ddof, highest in ((0, math.sqrt(g - 1)), (1, (g - 1) / math.sqrt(g))):
        found = group_advantages(torch.tensor(outlier), ddof=ddof, eps=0.0)
        bounds = oracle.group_advantages(*exact(outlier), ddof=ddof, eps=0.0)
        assert_law(found[0, 1], bounds[0, 1], np.array(highest))


@each_dtype
@pytest.mark.parametrize("options", ({}, {"eps": 0.0}, {"ddof": 1}, {"ddof": 1, "eps": 0.0}, {"scale": False}), ids=str)
def test_grpo_4_equal_rewards_are_no_advantage(dtype, options):
    rewards = torch.tensor([0.1, -0.3, 1e-3, 7.7, 0.0, 1000.1], dtype=dtype)[:, None].repeat(1, 7)
    assert not group_advantages(rewards, **options).any()
    assert not oracle.group_advantages(rewards.double().numpy(), **options).any()


@given(rewards=groups(), options=scales, seed=strategies.seeds, constant=st.sampled_from([-8.0, 3.0, 1024.0]))
def test_grpo_5_shifts_and_order(rewards, options, seed, constant):
    rewards = np.ldexp(np.round(np.ldexp(rewards, 16)), -16)  # so that adding a whole number rounds nothing
    bounds = oracle.group_advantages(*exact(rewards), **options)
    rows = np.arange(len(rewards))[:, None]  # each group has a number of its own
    shifted = rewards + constant * (rows + 1)
    moved = oracle.group_advantages(*exact(shifted), **options)
    assert_law(group_advantages(torch.tensor(shifted), **options), moved, bounds)
    order = np.random.default_rng(seed).permutation(rewards.shape[1])
    found = group_advantages(torch.tensor(rewards[:, order]), **options)
    assert_law(found, bounds[:, order], bounds[:, order])


@given(rewards=groups(), ddof=st.sampled_from([0, 1]), exponent=st.sampled_from([-3, 2]))
def test_grpo_5_scale(rewards, ddof, exponent):
    a = 2.0**exponent
    for eps in (0.0, 0.25):
        bounds = oracle.group_advantages(*exact(rewards), eps=eps / a, ddof=ddof)
        assert_law(group_advantages(torch.tensor(a * rewards), eps=eps, ddof=ddof), bounds, bounds)
    rewards = torch.tensor(draw(6, (3, 5)))
    assert ((group_advantages(a * rewards, eps=0.25) - group_advantages(rewards, eps=0.25)).abs() > 0.01).all()


def test_grpo_6_without_scale_eps_and_ddof_do_not_matter():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.5, 0.5, 2.0]])
    found = group_advantages(rewards, scale=False)
    assert found.tolist() == [[-2.0, -1.0, 3.0], [-0.5, -0.5, 1.0]]
    assert_same(group_advantages(rewards, scale=False, eps=3.0, ddof=1), found)


def test_grpo_7_advantages_carry_no_gradient():
    assert not group_advantages(torch.tensor(draw(7, (3, 5)), requires_grad=True)).requires_grad


# ---- k3 ----
@each_dtype
def test_grpo_8_9_equal_policies_are_at_distance_0(dtype):
    logp = torch.tensor(draw(8, (5, 7), 4.0) - 9, dtype=dtype)
    assert not kl_k3(logp, logp.clone()).any() and not slope(kl_k3, (logp, logp.clone())).any()
    values = logp.double().numpy()
    assert not oracle.kl_k3(values, values).any()
    assert not oracle.kl_k3_vjp(values, values, cotangent=np.ones((5, 7)))[0].any()


@each_profile
def test_grpo_8_9_11_equality_is_exact_only_to_the_bit(profile):
    (known,) = bound_inputs(draw(9, (2, 3), 4.0) - 9, profile=profile)
    near = Bounded(known.value, 2.0**-10, profile)
    marked, (advantage,) = np.ones((2, 3), bool), bound_inputs(np.array([1.0, -2.0]), profile=profile)
    for a, b in ((known, known), (known, near), (near, known), (near, near)):
        slope = oracle.kl_k3_vjp(a, b, cotangent=np.ones((2, 3)))[0]
        term = oracle.grpo_terms(a, b, a, advantage, marked, **CLIP, beta=0.25)
        for found in (oracle.kl_k3(a, b), slope):
            assert np.all((bound(found) == 0) == (a is b is known)) and not value(found).any()
        assert np.all((bound(term) <= 2.0**-18) == (a is b is known))


@given(case=answers(), exponent=st.integers(-30, 5))
def test_grpo_8_never_negative(case, exponent):
    reference = case["logp"] + draw(9, case["logp"].shape) * 2.0**exponent
    found = kl_k3(torch.tensor(case["logp"]), torch.tensor(reference))
    bounds = oracle.kl_k3(*exact(case["logp"], reference))
    assert (found.numpy() >= -bounds.bound).all() and (bounds.value[np.abs(reference - case["logp"]) > 1e-3] > 0).all()


def test_grpo_9_the_reference_is_a_constant():
    logp, _, reference, *_ = tensors(fixed())
    policy, constant = slopes(kl_k3, (logp, reference), of=(0, 1))
    assert policy.all() and constant is None
    assert not oracle.kl_k3_vjp(logp.numpy(), reference.numpy(), cotangent=np.ones((5, 7)))[1].any()


def test_grpo_10_value_and_gradient_of_k3_belong_to_two_divergences():
    """By enumeration of a vocabulary of 7: every token with its probability."""
    scores = torch.tensor(draw(10, (7,)), requires_grad=True)
    policy, reference = scores.log_softmax(0), torch.tensor(draw(11, (7,))).log_softmax(0)
    mean = (policy.exp().detach() * kl_k3(policy, reference)).sum()
    forward = (policy.exp() * (policy - reference)).sum()
    reverse = (reference.exp() * (reference - policy)).sum()
    room = ulps(256, "float64", reason="probabilities and sums of 7 terms, each some roundings of 1, cancel to 0.01")
    assert_within(mean, forward.detach().numpy(), room)
    of_mean, of_forward, of_reverse = (
        torch.autograd.grad(x, scores, retain_graph=True)[0] for x in (mean, forward, reverse)
    )
    assert_within(of_mean, of_reverse.numpy(), room)
    assert (of_mean - of_forward).abs().max() > 0.05


# ---- a token's term ----
@each_dtype
@pytest.mark.parametrize("clip", ({"clip_low": 0.0, "clip_high": 0.0}, CLIP), ids=("shut", "open"))
@pytest.mark.parametrize("beta", (0.0, 0.25))
def test_grpo_11_on_policy_the_ratio_is_1(dtype, clip, beta):
    logp, *_, advantages, mask = tensors(fixed(), dtype)
    found = grpo_terms(logp, logp.clone(), logp.clone(), advantages, mask, **clip, beta=beta)
    expected = torch.where(mask, -advantages.to(found.dtype)[:, None], 0.0)
    assert_same(found + 0.0, expected + 0.0)
    assert not is_clipped(logp, logp.clone(), advantages, mask, **clip).any()
    values = logp.double().numpy(), advantages.double().numpy(), mask.numpy()
    found = oracle.grpo_terms(values[0], values[0], values[0], *values[1:], **clip, beta=beta)
    assert_same(found + 0.0, np.where(values[2], -values[1][:, None], 0.0) + 0.0)


@given(case=answers())
def test_grpo_12_clipping_never_lowers_a_term(case):
    clipped = grpo_terms(*tensors(case), **CLIP, beta=0.0)
    free = grpo_terms(*tensors(case), clip_low=1.0, clip_high=1e9, beta=0.0)
    marked = is_clipped(*(x for n, x in zip(NAMES, tensors(case), strict=True) if n != "reference_logp"), **CLIP)
    assert (clipped >= free).all() and torch.equal(clipped > free, marked)


def test_grpo_12_13_the_four_corners():
    inputs = one([math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5)], [2.0, -2.0, 2.0, -2.0])
    options = {"clip_low": 0.25, "clip_high": 0.25, "beta": 0.0}
    bounds = oracle.grpo_terms(*exact(*(x.numpy() for x in inputs)), **options)
    assert_law(grpo_terms(*inputs, **options), bounds, np.array([[-2.5], [3.0], [-1.0], [1.5]]))
    found = slope(grpo_terms, inputs, **options)
    pulled = oracle.grpo_terms_vjp(*exact(*(x.numpy() for x in inputs)), **options, cotangent=exact(np.ones((4, 1)))[0])
    assert_law(found, pulled[0], np.array([[0.0], [3.0], [-1.0], [0.0]]))
    assert found[0] == 0 and found[3] == 0


def test_grpo_13_a_ratio_that_overflows_has_no_gradient():
    inputs = one([1000.0, -1000.0, 1000.0], [2.0, -2.0, 0.0])
    options = {"clip_low": 0.25, "clip_high": 0.25, "beta": 0.0}
    assert grpo_terms(*inputs, **options).flatten().tolist() == [-2.5, 1.5, 0.0]
    assert not slope(grpo_terms, inputs, **options).any()
    assert grpo_terms(*one([1000.0], [-2.0]), **options) == math.inf


@pytest.mark.parametrize(("log_ratio", "advantage"), [(0.23, 0.75), (-0.31, -0.75)])
def test_grpo_13_25_at_the_edge_nothing_is_clipped(log_ratio, advantage):
    inputs = one([log_ratio], [advantage])
    ratio = (inputs[0] - inputs[1]).exp().item()
    edge = {"clip_high" if ratio > 1 else "clip_low": abs(ratio - 1)}  # exact, and so is the way back
    inside = {"clip_low": 0.125, "clip_high": 0.125, **edge}
    beyond = {name: math.nextafter(x, 0) if name in edge else x for name, x in inside.items()}
    beyond |= {name: x - 2.0**-53 for name, x in edge.items()}
    arguments = inputs[0], inputs[1], *inputs[3:]
    assert slope(grpo_terms, inputs, **inside, beta=0.0).item() == -ratio * advantage
    assert slope(grpo_terms, inputs, **beyond, beta=0.0).item() == 0
    assert not is_clipped(*arguments, **inside).any() and is_clipped(*arguments, **beyond).all()


@given(case=answers(), beta=st.sampled_from([0.0, 0.25]))
def test_grpo_14_each_side_has_its_own_clip(case, beta):
    base = grpo_terms(*tensors(case), **CLIP, beta=beta)
    other_high = grpo_terms(*tensors(case), clip_low=CLIP["clip_low"], clip_high=0.01, beta=beta)
    other_low = grpo_terms(*tensors(case), clip_low=0.01, clip_high=CLIP["clip_high"], beta=beta)
    positive = torch.tensor(case["advantages"] > 0)
    if not positive.all():
        assert_same(other_high[~positive], base[~positive])
    if positive.any():
        assert_same(other_low[positive], base[positive])


def test_grpo_14_and_each_clip_matters_on_its_side():
    inputs = one([0.5, -0.5], [1.0, -1.0])
    for low, high, same in ((0.2, 0.3, 1), (0.3, 0.2, 0)):
        base = grpo_terms(*inputs, clip_low=0.2, clip_high=0.2, beta=0.0)
        moved = grpo_terms(*inputs, clip_low=low, clip_high=high, beta=0.0)
        assert (moved == base).flatten().tolist() == [same == 0, same == 1]


def test_grpo_15_cispo_cuts_the_weight_and_not_the_gradient():
    inputs = one([0.0, 1.0, 5.0, 1000.0, 1.0, -1000.0], [0.5, 0.5, 0.5, 0.5, -0.5, -0.5])
    options = {"clip_low": 0.25, "clip_high": 0.25, "beta": 0.0, "form": "cispo"}
    found = slope(grpo_terms, inputs, **options)
    assert found.flatten().tolist() == [-0.5, -0.625, -0.625, -0.625, 0.625, 0.0]
    assert grpo_terms(*inputs, **options).flatten().tolist()[:2] == [1.0, 0.625]  # −w·A·logp at −2 and at −1
    cap_5 = slope(grpo_terms, one([2.0], [0.5]), clip_low=0.2, clip_high=4.0, beta=0.0, form="cispo")
    assert cap_5.item() == -2.5


@given(case=answers(), beta=st.sampled_from([0.0, 0.25]))
def test_grpo_15_where_nothing_is_clipped_cispos_gradient_is_clips(case, beta):
    cispo = slope(grpo_terms, tensors(case), **CLIP, beta=beta, form="cispo")
    assert_same(slope(grpo_terms, tensors(case), clip_low=0.9, clip_high=0.28, beta=beta, form="cispo"), cispo)
    free = slope(grpo_terms, tensors(case), clip_low=1.0, clip_high=1e9, beta=beta)
    few = (x for n, x in zip(NAMES, tensors(case), strict=True) if n != "reference_logp")
    capped = is_clipped(*few, **CLIP, form="cispo")
    assert_same(cispo[~capped] + 0.0, free[~capped] + 0.0)
    if beta == 0:
        assert (cispo[capped].abs() <= free[capped].abs()).all()


def test_grpo_16_on_policy_the_loss_is_0_and_the_gradient_is_not():
    logp, *_, mask = tensors(fixed())
    mask = mask.clone()
    mask[3, :2] = True  # no empty row
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 2.0, 0.5]], dtype=torch.float64))[0]
    arguments = (logp, logp.clone(), logp.clone(), advantages, mask)
    values = exact(*(x.numpy() for x in arguments))
    options = {**CLIP, "beta": 0.0}
    bounds = oracle.grpo_loss(*values, **options)
    assert_law(grpo_loss(*arguments, **options), bounds, -advantages.mean().numpy())
    room = np.sum(oracle.group_advantages(*exact(np.array([[1.0, 0.0, 0.0, 2.0, 0.5]])))) / 5
    assert_law(grpo_loss(*arguments, **options), bounds + room, np.zeros(()))
    found = slope(grpo_loss, arguments, **options)
    assert torch.equal(found != 0, mask)
    weight = oracle.grpo_loss_vjp(*values, **options, cotangent=exact(np.array(1.0))[0])[0]
    for form in ("clip", "cispo"):
        rows = slope(grpo_loss, arguments, **options, form=form).sum(1)  # b times it is −A, whatever the length
        assert_law(rows * 5, np.sum(weight, axis=1) * 5, -advantages.numpy())


# ---- what has an influence ----
@each_option
@each_norm
def test_grpo_17_only_logp_has_a_gradient(options, norm):
    found = slopes(grpo_loss, tensors(fixed()), of=range(4), **options, **norm)
    assert found[0].any() and found[1:] == (None, None, None)
    pulled = oracle.grpo_loss_vjp(**fixed(), **options, **norm, cotangent=np.array(1.0))
    assert pulled[0].any() and not any(g.any() for g in pulled[1:])
    pulled = oracle.grpo_terms_vjp(**fixed(), **options, cotangent=np.ones((5, 7)))
    assert pulled[0].any() and not any(g.any() for g in pulled[1:])


@given(case=answers(), norm=norms, form=st.sampled_from(["clip", "cispo"]))
def test_grpo_18_linear_in_beta(case, norm, form):
    options = {**CLIP, **norm, "form": form}
    none, some, more = (oracle.grpo_loss(*exact(*case.values()), **options, beta=b) for b in (0.0, 0.25, 0.75))
    found = grpo_loss(*tensors(case), **options, beta=0.75)
    assert_law(found, more, none + 3 * (some - none))


@pytest.mark.parametrize("form", ("clip", "cispo"))
@each_norm
def test_grpo_18_without_beta_the_reference_is_not_looked_at(form, norm):
    options = {**CLIP, **norm, "form": form, "beta": 0.0}
    clean = fixed()
    dirty = {**clean, "reference_logp": np.full((5, 7), math.nan)}
    assert_same(grpo_loss(*tensors(dirty), **options), grpo_loss(*tensors(clean), **options))
    assert_same(slope(grpo_loss, tensors(dirty), **options), slope(grpo_loss, tensors(clean), **options))
    assert_same(oracle.grpo_loss(**dirty, **options), oracle.grpo_loss(**clean, **options))
    pulled = [oracle.grpo_loss_vjp(**c, **options, cotangent=np.array(1.0))[0] for c in (dirty, clean)]
    assert_same(*pulled)


@pytest.mark.parametrize("options", OPTIONS[2:], ids=lambda o: o["form"])
@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("junk", (math.nan, math.inf, -math.inf, 1e4))
def test_grpo_19_what_is_not_marked_has_no_influence(options, dtype, junk):
    results = []
    for filling in (-1.0, junk):
        case = fixed()
        for name in NAMES[:3]:
            case[name] = np.where(case["mask"], case[name], filling)
        inputs = tensors(case, dtype)
        found = [grpo_terms(*inputs, **options)]
        found.append(is_clipped(inputs[0], inputs[1], *inputs[3:], **CLIP, form=options["form"]))
        for norm in NORMS:
            found += [grpo_loss(*inputs, **options, **norm), slope(grpo_loss, inputs, **options, **norm)]
            assert not found[-1][~inputs[4]].any()
            found.append(oracle.grpo_loss(**case, **options, **norm))
            found.append(oracle.grpo_loss_vjp(**case, **options, **norm, cotangent=np.array(1.0))[0])
            assert not found[-1][~case["mask"]].any()
        results.append(found)
    for clean, dirty in zip(*results, strict=True):
        assert_same(dirty, clean)


@given(case=answers(), options=options_, norm=norms, left=st.integers(0, 3), right=st.integers(0, 40))
def test_grpo_19_padding_changes_nothing(case, options, norm, left, right):
    pad = [torch.nn.functional.pad(x, (left, right)) if x.ndim == 2 else x for x in tensors(case)]
    bounds = oracle.grpo_loss(*exact(*case.values()), **options, **norm)
    assert_law(grpo_loss(*pad, **options, **norm), bounds, bounds)


@each_option
@each_norm
def test_grpo_19_20_21_22_nothing_marked_is_zero(options, norm):
    case = {**fixed(), "mask": np.zeros((5, 7), bool), "advantages": np.full(5, math.nan)}
    for name in NAMES[:3]:
        case[name] = np.full((5, 7), math.nan)
    inputs = tensors(case, torch.float16)
    assert grpo_loss(*inputs, **options, **norm) == 0
    found = slope(grpo_loss, inputs, **options, **norm)
    assert found.shape == (5, 7) and not found.any()
    assert oracle.grpo_loss(**case, **options, **norm) == 0
    assert not oracle.grpo_loss_vjp(**case, **options, **norm, cotangent=np.array(1.0))[0].any()


# ---- normalisation ----
def test_grpo_20_21_22_24_by_hand():
    """On policy a term is −A: rows of 4, 1 and 0 tokens with A = −1, −4 and −8."""
    logp = torch.full((3, 4), -1.0)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    arguments = logp, logp, logp, torch.tensor([-1.0, -4.0, -8.0]), mask
    options = {**CLIP, "beta": 0.0}
    assert grpo_total(*arguments, **options) == 5 and grpo_divisor(mask) == 3
    assert_same(grpo_loss(*arguments, **options), torch.tensor(5.0) / 3)
    assert grpo_total(*arguments, **options, normalise="token") == 8 and grpo_divisor(mask, normalise="token") == 5
    assert_same(grpo_loss(*arguments, **options, normalise="token"), torch.tensor(8.0) / 5)
    assert grpo_total(*arguments, **options, normalise="constant", length=16) == 0.5
    assert grpo_divisor(mask, normalise="constant") == 3
    assert_same(grpo_loss(*arguments, **options, normalise="constant", length=16), torch.tensor(0.5) / 3)


@pytest.mark.parametrize(
    "norm", [{"normalise": "sequence"}, {"normalise": "token"}, {"normalise": "constant", "length": 1}]
)
def test_grpo_20_21_22_divisors_of_one(norm):
    """One answer with one token: on policy the loss is −A, whatever it is divided by."""
    arguments = (*(np.array([[-1.0, -2.0]]),) * 3, np.array([-3.0]), np.array([[1, 0]]))
    assert grpo_loss(*map(torch.tensor, arguments), **CLIP, beta=0.25, **norm) == 3
    assert oracle.grpo_loss(*arguments, **CLIP, beta=0.25, **norm) == 3
    gradient = oracle.grpo_loss_vjp(*arguments, **CLIP, beta=0.25, **norm, cotangent=1.0)[0]
    assert_same(gradient, np.array([[3.0, 0.0]]))


def test_grpo_29_a_ratio_may_be_cut_down_to_zero():
    agree(oracle.grpo_loss, grpo_loss, fixed(), profile="float64", clip_low=1.0, clip_high=0.0, beta=0.0)


def test_grpo_22_length_is_for_constant_alone():
    for normalise in ("sequence", "token"):
        free, given_ = (
            grpo_loss(*tensors(fixed()), **CLIP, beta=0.25, normalise=normalise, length=n) for n in (None, 3)
        )
        assert_same(given_, free)


@given(case=answers(), options=options_)
def test_grpo_23_full_rows_of_that_length_make_them_equal(case, options):
    s = case["mask"].shape[1]
    full = {**case, "mask": np.ones_like(case["mask"])}
    bounds = oracle.grpo_loss(*exact(*full.values()), **options)
    for norm in ({"normalise": "token"}, {"normalise": "constant", "length": s}):
        other = oracle.grpo_loss(*exact(*full.values()), **options, **norm)
        assert_law(grpo_loss(*tensors(full), **options, **norm), other, bounds)


@each_option
def test_grpo_23_unequal_rows_make_three_numbers(options):
    losses = [grpo_loss(*tensors(fixed()), **options, **norm).item() for norm in NORMS]
    assert min(abs(losses[i] - losses[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.01


@given(case=answers(), options=options_, norm=norms, data=st.data())
def test_grpo_24_any_cut_gives_the_same_loss(case, options, norm, data):
    total, divisor, pulled = torch.zeros((), dtype=torch.float64), 0, []
    for piece in data.draw(strategies.cuts(len(case["mask"]))):
        part = [x[piece] for x in tensors(case)]
        total += grpo_total(*part, **options, **norm)
        divisor += grpo_divisor(part[4], normalise=norm["normalise"])
        pulled.append(slope(grpo_total, part, **options, **norm))
    bounds = oracle.grpo_loss(*exact(*case.values()), **options, **norm)
    assert_law(total / divisor, bounds, bounds)
    whole = oracle.grpo_loss_vjp(*exact(*case.values()), **options, **norm, cotangent=exact(np.array(1.0))[0])[0]
    assert_within(torch.cat(pulled) / divisor, whole, 2 * whole.bound, undecided=0.1)


# ---- measures, masks, direction ----
def test_grpo_25_both_sides_are_counted():
    inputs = one([0.5, -0.5, 0.5, -0.5, 0.0, 0.5, -0.5], [1.0, -1.0, -1.0, 1.0, 1.0, 0.0, 0.0])
    arguments = inputs[0], inputs[1], *inputs[3:]
    assert is_clipped(*arguments, **CLIP).flatten().tolist() == [True, True, False, False, False, False, False]
    found = is_clipped(*arguments, **CLIP, form="cispo").flatten().tolist()
    assert found == [True, False, True, False, False, True, False]
    slight = inputs[3] * 2.0**-40
    assert torch.equal(is_clipped(*inputs[:2], slight, inputs[4], **CLIP), is_clipped(*arguments, **CLIP))
    by_hand = oracle.is_clipped(*(x.numpy() for x in (*inputs[:2], slight, inputs[4])), **CLIP)
    assert_same(by_hand, is_clipped(*arguments, **CLIP).numpy())
    unmarked = (*arguments[:3], torch.zeros_like(arguments[3]))
    assert not is_clipped(*unmarked, **CLIP).any() and not is_clipped(*unmarked, **CLIP, form="cispo").any()


@pytest.mark.parametrize("form", ("clip", "cispo"))
def test_grpo_25_a_ratio_on_the_edge_is_not_clipped(form):
    inputs = one([0.0, 0.0], [1.0, -1.0])
    mask = torch.tensor([[True], [False]])
    for advantages in (inputs[3], -inputs[3]):
        edge = {"clip_low": 0.0, "clip_high": 0.0, "form": form}
        assert not is_clipped(*inputs[:2], advantages, mask, **edge).any()
        assert not oracle.is_clipped(*(x.numpy() for x in (*inputs[:2], advantages, mask)), **edge).any()


@given(case=answers())
def test_grpo_25_is_where_the_gradient_is_cut(case):
    few = (x for n, x in zip(NAMES, tensors(case), strict=True) if n != "reference_logp")
    flat = slope(grpo_terms, tensors(case), **CLIP, beta=0.0) == 0
    marked = torch.tensor(case["mask"]) & torch.tensor(case["advantages"] != 0)[:, None]
    assert torch.equal(is_clipped(*few, **CLIP), flat & marked)


def test_grpo_26_up_to_and_including_the_first_end():
    ids = torch.tensor([[5, 2, 5, 2], [2, 2, 2, 2], [5, 5, 5, 2], [5, 5, 5, 5], [3, 5, 2, 5]])
    assert answer_mask(ids, (2,)).int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1] * 4, [1] * 4, [1, 1, 1, 0]]
    assert answer_mask(ids, {3, 2}).sum(1).tolist() == [2, 1, 4, 4, 1]
    lengths = torch.tensor([4, 4, 4, 2, 0])
    assert answer_mask(ids, [2], lengths=lengths).sum(1).tolist() == [2, 1, 4, 2, 0]


@each_norm
@pytest.mark.parametrize("form", ("clip", "cispo"))
def test_grpo_27_one_step_moves_logp_the_way_of_the_advantage(norm, form):
    case = fixed()
    options = {**CLIP, **norm, "form": form, "beta": 0.0}
    logp, *others = tensors(case)
    moved = logp - 0.01 * slope(grpo_loss, (logp, *others), **options)
    cut = is_clipped(logp, others[0], *others[2:], **CLIP) if form == "clip" else torch.zeros(5, 7, dtype=torch.bool)
    direction = torch.where(others[3] & ~cut, others[2].sign()[:, None], 0)
    assert torch.equal((moved - logp).sign(), direction) and (direction > 0).any() and (direction < 0).any()


@each_dtype
@each_option
def test_grpo_28_low_precision_is_widened_first(dtype, options):
    result = torch.promote_types(dtype, torch.float32)
    inputs = tensors(fixed(), dtype)
    widened = [x.to(result) if x.is_floating_point() else x for x in inputs]
    for face in (grpo_terms, grpo_total, grpo_loss):
        assert_same(face(*inputs, **options), face(*widened, **options))
        assert face(*inputs, **options).dtype == result and slope(face, inputs, **options).dtype == dtype
    assert_same(kl_k3(inputs[0], inputs[2]), kl_k3(widened[0], widened[2]))
    assert slope(kl_k3, (inputs[0], inputs[2])).dtype == dtype
    rewards = inputs[0]
    assert_same(group_advantages(rewards), group_advantages(rewards.to(result)))
    few = [(x[0], x[1], *x[3:]) for x in (inputs, widened)]
    assert_same(is_clipped(*few[0], **CLIP), is_clipped(*few[1], **CLIP))


def test_grpo_28_half_precision_policy_and_float32_reference():
    policy, *rest = tensors(fixed(), torch.float32)
    mixed = (policy.bfloat16(), *rest)
    options = {**CLIP, "beta": 0.25}
    assert grpo_loss(*mixed, **options).dtype == torch.float32
    assert_same(grpo_loss(*mixed, **options), grpo_loss(policy.bfloat16().float(), *rest, **options))


@pytest.mark.parametrize("kind", (torch.int64, torch.float32, torch.bfloat16))
def test_grpo_19_a_mask_may_hold_0_and_1(kind):
    case = tensors(fixed())
    for norm in NORMS:
        expected = grpo_loss(*case, **CLIP, beta=0.25, **norm)
        assert_same(grpo_loss(*case[:4], case[4].to(kind), **CLIP, beta=0.25, **norm), expected)


# ---- refusals ----
def refused(calls, words):
    for call in calls:
        with pytest.raises(ValueError) as refusal:
            call()
        assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize(
    ("rewards", "options", "words"),
    [
        (np.ones((3, 1)), {}, ("rewards", "1")),
        (np.ones(4), {}, ("rewards", "1 axes", "2")),
        (np.ones((3, 4, 1)), {}, ("rewards", "3 axes", "2")),
        (np.ones((0, 4)), {}, ("rewards", "0")),
        (np.array([[0.0, 1.0, 2.0], [0.0, 1.0, math.nan]]), {}, ("rewards", "nan", "1", "2")),
        (np.array([[0.0, math.inf, 2.0], [0.0, 1.0, 2.0]]), {}, ("rewards", "inf", "0", "1")),
        (np.ones((3, 4)), {"ddof": 2}, ("ddof", "2", "0", "1")),
        (np.ones((3, 4)), {"ddof": -1}, ("ddof", "-1")),
        (np.ones((3, 4)), {"eps": -1e-9}, ("eps", "-1e-09")),
        (np.ones((3, 4)), {"eps": math.nan}, ("eps", "nan")),
        (np.ones((3, 4)), {"eps": math.inf}, ("eps", "inf")),
    ],
)
def test_grpo_29_advantages_refuse(rewards, options, words):
    refused(
        [
            lambda: group_advantages(torch.tensor(rewards), **options),
            lambda: oracle.group_advantages(rewards, **options),
        ],
        words,
    )


def everywhere(case, **options):
    """Calls of every function of tokens, torch and oracle."""
    norm = {name: x for name, x in options.items() if name in ("normalise", "length")}
    options = {**CLIP, "beta": 0.25, **{name: x for name, x in options.items() if name not in norm}}
    given_ = tensors(case)
    calls = [
        lambda: grpo_loss(*given_, **options, **norm),
        lambda: grpo_total(*given_, **options, **norm),
        lambda: oracle.grpo_loss(**case, **options, **norm),
        lambda: oracle.grpo_loss_vjp(**case, **options, **norm, cotangent=np.array(1.0)),
        lambda: oracle.grpo_total(**case, **options, **norm),
        lambda: oracle.grpo_total_vjp(**case, **options, **norm, cotangent=np.array(1.0)),
    ]
    if norm:
        return calls
    return [
        *calls,
        lambda: grpo_terms(*given_, **options),
        lambda: oracle.grpo_terms(**case, **options),
        lambda: oracle.grpo_terms_vjp(**case, **options, cotangent=np.ones((5, 7))),
    ]


@pytest.mark.parametrize("name", NAMES[1:3])
@pytest.mark.parametrize("shape", [(5, 6), (5, 1), (1, 7), (7,), (5, 7, 1)])
def test_grpo_29_shapes_that_differ_are_refused(name, shape):
    refused(everywhere({**fixed(), name: np.ones(shape)}), (name, "(5, 7)", str(shape)))


@pytest.mark.parametrize("shape", [(5, 6), (5, 1), (1, 7), (7,)])
def test_grpo_29_masks_of_another_shape_are_refused(shape):
    refused(everywhere({**fixed(), "mask": np.ones(shape, bool)}), ("mask",))


@pytest.mark.parametrize("shape", [(4,), (1,), (7,)])
def test_grpo_29_as_many_advantages_as_rows(shape):
    refused(everywhere({**fixed(), "advantages": np.ones(shape)}), ("advantages", "(5,)", str(shape)))


@pytest.mark.parametrize("shape", [(), (5, 1), (5, 7)])
def test_grpo_29_an_advantage_belongs_to_an_answer(shape):
    refused(everywhere({**fixed(), "advantages": np.ones(shape)}), ("advantages",))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((7,), ("1 axes", "2")),
        ((5, 7, 1), ("3 axes", "2")),
        ((0, 7), ("is 0", "1")),
        ((5, 0), ("is 0", "1")),
    ],
)
def test_grpo_29_ranks_and_empty_axes_are_refused(shape, words):
    case = {name: np.ones(shape) for name in NAMES[:3]} | {"advantages": np.ones(shape[:1])}
    refused(everywhere({**case, "mask": np.ones(shape, bool)}), words)


@pytest.mark.parametrize("entry", (2, -1, 0.5))
def test_grpo_29_a_mask_holds_0_and_1(entry):
    mask = np.ones((5, 7), type(entry))
    mask[2, 3] = entry
    calls = [lambda: grpo_divisor(torch.tensor(mask)), lambda: oracle.grpo_divisor(mask)]
    refused([*everywhere({**fixed(), "mask": mask}), *calls], ("mask", str(entry)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clip_low": -1e-9}, ("clip_low", "-1e-09", "0", "1")),
        ({"clip_low": math.nextafter(1, 2)}, ("clip_low", "1.000", "0", "1")),
        ({"clip_low": math.nan}, ("clip_low", "nan")),
        ({"clip_high": -1e-9}, ("clip_high", "-1e-09")),
        ({"clip_high": math.nan}, ("clip_high", "nan")),
        ({"clip_high": math.inf}, ("clip_high", "inf")),
        ({"beta": -1e-9}, ("beta", "-1e-09")),
        ({"beta": math.nan}, ("beta", "nan")),
        ({"beta": math.inf}, ("beta", "inf")),
        ({"form": "ppo"}, ("form", "ppo", "clip", "cispo")),
        ({"normalise": "mean"}, ("normalise", "mean", "sequence", "token", "constant")),
        ({"normalise": "constant"}, ("length", "None", "constant", "1")),
        ({"normalise": "constant", "length": 0}, ("length", "0", "constant", "1")),
    ],
)
def test_grpo_29_settings_are_refused(options, words):
    calls = everywhere(fixed(), **options)
    if "normalise" in options and "length" not in words:
        mask = fixed()["mask"]
        calls += [lambda: grpo_divisor(torch.tensor(mask), **options), lambda: oracle.grpo_divisor(mask, **options)]
    if "beta" not in options and "normalise" not in options:
        case = {name: x for name, x in fixed().items() if name != "reference_logp"}
        settings = {**CLIP, **options}
        calls += [lambda: is_clipped(*tensors(case), **settings), lambda: oracle.is_clipped(**case, **settings)]
    refused(calls, words)


def test_grpo_29_k3_refuses_shapes_that_differ():
    for shape in ((5, 6), (1,), (5, 7, 1)):
        refused(
            [
                lambda s=shape: kl_k3(torch.ones(5, 7), torch.ones(s)),
                lambda s=shape: oracle.kl_k3(np.ones((5, 7)), np.ones(s)),
                lambda s=shape: oracle.kl_k3_vjp(np.ones((5, 7)), np.ones(s), cotangent=np.ones((5, 7))),
            ],
            ("reference_logp", "(5, 7)", str(shape)),
        )
    refused(
        [lambda: kl_k3(torch.ones(5, 0), torch.ones(5, 0)), lambda: oracle.kl_k3(np.ones((5, 0)), np.ones((5, 0)))],
        ("logp", "0"),
    )


@pytest.mark.parametrize(
    ("ids", "ends", "lengths", "words"),
    [
        (np.ones(3, int), (2,), None, ("ids", "1 axes", "2")),
        (np.ones((3, 0), int), (2,), None, ("ids", "0")),
        (np.ones((0, 3), int), (2,), None, ("ids", "0")),
        (np.ones((3, 4), int), (), None, ("end_ids", "0")),
        (np.ones((3, 4), int), (2,), np.array([1, 2]), ("lengths", "(3,)", "(2,)")),
        (np.ones((3, 4), int), (2,), np.array([1, 2, 5]), ("lengths", "5", "4")),
        (np.ones((3, 4), int), (2,), np.array([0, 2, 5]), ("lengths", "5", "4")),
        (np.ones((3, 4), int), (2,), np.array([1, -1, 4]), ("lengths", "-1", "4")),
    ],
)
def test_grpo_29_answer_mask_refuses(ids, ends, lengths, words):
    given_ = None if lengths is None else torch.tensor(lengths)
    refused(
        [
            lambda: answer_mask(torch.tensor(ids), ends, lengths=given_),
            lambda: oracle.answer_mask(ids, ends, lengths=lengths),
        ],
        words,
    )


@pytest.mark.parametrize("name", ["ids", "lengths"])
def test_grpo_29_answer_mask_refuses_what_is_not_an_integer(monkeypatch, name):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user's program has no type checks
    arguments = {"ids": torch.ones(3, 4).long(), "end_ids": (2,), "lengths": torch.ones(3).long()}
    with pytest.raises(ValueError, match=f"{name} has dtype torch.float64 but must hold integers"):
        answer_mask(**{**arguments, name: arguments[name].double()})
