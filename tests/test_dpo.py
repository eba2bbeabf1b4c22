"""specs/dpo.md, clause by clause."""

import math

import numpy as np
import pytest
import strategies
import torch
from arrays import draw
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_law, decimal_vjp, exact
from spec_blocks import definition, floats
from tolerance import agree, agree_vjp, assert_same

from minimind_ref.loss.dpo import dpo_loss, dpo_losses, implicit_reward, sequence_logp
from minimind_ref.oracle import dpo as oracle
from minimind_ref.oracle.bounded import bound

DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "bfloat16", "float16")}
NAMES = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
FORMS = (
    {"form": "sigmoid"},
    {"form": "sigmoid", "label_smoothing": 0.125},
    {"form": "hinge"},
    {"form": "ipo"},
)
REDUCTIONS = ("sum", "mean")
each_profile = pytest.mark.parametrize("profile", DTYPES)
each_form = pytest.mark.parametrize("options", FORMS, ids=lambda o: "-".join(map(str, o.values())))
each_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
each_kind = pytest.mark.parametrize("kind", ("float", "decimal"))
forms = st.sampled_from(FORMS)
betas = st.sampled_from([0.0625, 0.1, 0.5, 1.0])  # times margins of a few nats to hundreds


def wide(profile):
    """The dtype of the losses: float32, or float64 where the inputs are."""
    return torch.promote_types(DTYPES[profile], torch.float32)


@st.composite
def pairs(draw_):
    """Log-probabilities of 3 to 11 pairs: policy and reference alike but for a few nats, chosen and rejected not.

    They have 16 bits after the point, so that adding whole numbers to them rounds nothing.
    """
    p = draw_(st.sampled_from([3, 5, 11]))
    answers = [draw_(strategies.arrays((p,), low=2, high=6)) - 40 for _ in range(2)]
    moved = [draw_(strategies.arrays((p,), of=("normal", "uniform", "alternating"), low=-1, high=4)) for _ in range(2)]
    values = (answers[0] + moved[0], answers[1] + moved[1], *answers)
    return {name: np.ldexp(np.round(np.ldexp(x, 16)), -16) for name, x in zip(NAMES, values, strict=True)}


@st.composite
def answers(draw_):
    """Token log-probabilities and a mask whose rows have unequal numbers of marks, holes included."""
    b, s = draw_(st.sampled_from([(2, 7), (3, 5), (5, 11)]))
    mask = draw_(strategies.indices((b, s), 0, 3)) > 0
    mask[0, :2], mask[-1, 1:] = (True, False), False
    return {"logp": draw_(strategies.arrays((b, s), low=-3, high=3)), "mask": mask}


def fixed():
    return dict(zip(NAMES, (draw(i, (5,), 8.0) - 20 for i in range(4)), strict=True))


def tensors(case, dtype=torch.float64):
    return [torch.tensor(x, dtype=dtype if x.dtype.kind == "f" else None) for x in case.values()]


def of_margin(margin):
    """Four log-probabilities with these margins."""
    margin = torch.as_tensor(margin, dtype=torch.float64)
    zero = torch.zeros_like(margin)
    return [margin, zero, zero, zero]


def gradients(face, inputs, **options):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(face(*inputs, **options).sum(), inputs, allow_unused=True)


def losses_of(bounded, **options):
    return oracle.dpo_losses(*bounded, **options)


# ---- agreement ----
@each_profile
@given(case=answers(), reduction=st.sampled_from(REDUCTIONS))
def test_dpo_1_2_sequence_logp_agrees_with_the_oracle(profile, case, reduction):
    agree(oracle.sequence_logp, sequence_logp, case, profile=profile, output_dtype=wide(profile), reduction=reduction)
    agree_vjp(oracle.sequence_logp_vjp, sequence_logp, case, profile=profile, reduction=reduction)


@each_profile
@given(case=pairs(), beta=betas, options=forms)
def test_dpo_5_6_7_losses_agree_with_the_oracle(profile, case, beta, options):
    for run, face in ((oracle.dpo_losses, dpo_losses), (oracle.dpo_loss, dpo_loss)):
        agree(run, face, case, profile=profile, output_dtype=wide(profile), beta=beta, **options)


@each_profile
@given(case=pairs(), beta=betas, options=forms)
def test_dpo_12_gradients_agree_with_the_oracle(profile, case, beta, options):
    room = 0.34 if options["form"] == "hinge" else 0.0  # two of three pairs may lie on the kink, and half are constants
    for vjp, face in ((oracle.dpo_losses_vjp, dpo_losses), (oracle.dpo_loss_vjp, dpo_loss)):
        agree_vjp(vjp, face, case, profile=profile, undecided=room, beta=beta, **options)


@pytest.mark.parametrize("profile", ("float64", "float32"))
def test_dpo_12_16_the_gradient_of_a_binary_cross_entropy_is_within_the_bound(profile):
    """Its share is 1 − σ(x), which loses what σ(−x) keeps: in float32 it is 0 from a margin of 17 on."""

    def cross_entropy(policy_chosen, policy_rejected, reference_chosen, reference_rejected, *, beta):
        x = beta * ((policy_chosen - reference_chosen.detach()) - (policy_rejected - reference_rejected.detach()))
        return torch.nn.functional.binary_cross_entropy_with_logits(x, torch.ones_like(x))

    chosen = np.array([-9.0, -4.0, -1.0, 0.5, 1.0, 2.0, 3.0, 17.0, 30.0, 36.5, 260.0, 1e4])
    case = dict(zip(NAMES, (chosen, 0 * chosen - 1, 0 * chosen, 0 * chosen - 1), strict=True))
    agree_vjp(oracle.dpo_loss_vjp, cross_entropy, case, profile=profile, beta=1.0)


@each_profile
@given(case=pairs(), beta=betas)
def test_dpo_17_implicit_reward_agrees_with_the_oracle(profile, case, beta):
    inputs = {"policy": case["policy_chosen"], "reference": case["reference_chosen"]}
    agree(oracle.implicit_reward, implicit_reward, inputs, profile=profile, output_dtype=wide(profile), beta=beta)


@each_kind
@given(case=answers(), reduction=st.sampled_from(REDUCTIONS))
def test_dpo_1_2_3_oracle_agrees_with_the_definition_of_sequence_logp(kind, case, reduction):
    expected = floats(definition("dpo", kind).sequence_logp(*case.values(), reduction=reduction))
    bounds = oracle.sequence_logp(*exact(*case.values()), reduction=reduction)
    assert_law(oracle.sequence_logp(**case, reduction=reduction), bounds, expected)


@each_kind
@given(case=pairs(), beta=betas, options=forms)
def test_dpo_5_6_7_8_oracle_agrees_with_the_definition(kind, case, beta, options):
    for name in ("dpo_losses", "dpo_loss"):
        run, named = getattr(oracle, name), getattr(definition("dpo", kind), name)
        expected = floats(named(*case.values(), beta=beta, **options))
        assert_law(run(**case, beta=beta, **options), run(*exact(*case.values()), beta=beta, **options), expected)


@each_kind
@given(case=pairs(), beta=betas)
def test_dpo_17_oracle_agrees_with_the_definition_of_the_implicit_reward(kind, case, beta):
    inputs = (case["policy_rejected"], case["reference_rejected"])
    expected = floats(definition("dpo", kind).implicit_reward(*inputs, beta=beta))
    bounds = oracle.implicit_reward(*exact(*inputs), beta=beta)
    assert_law(oracle.implicit_reward(*inputs, beta=beta), bounds, expected)


@each_form
@pytest.mark.parametrize("name", ("dpo_losses", "dpo_loss"))
def test_dpo_12_oracle_gradients_are_the_definitions(name, options):
    case, vjp = fixed(), getattr(oracle, f"{name}_vjp")
    cotangent = np.array(0.75) if name == "dpo_loss" else draw(5, (5,))
    run = getattr(definition("dpo", "decimal"), name)
    truth = decimal_vjp(run, case, cotangent=cotangent, beta=0.125, **options)
    found = vjp(**case, beta=0.125, cotangent=cotangent, **options)
    bounds = vjp(*exact(*case.values()), beta=0.125, cotangent=exact(cotangent)[0], **options)
    for i in range(2):  # the definition has no "constant": its derivatives by the reference are not what is meant
        assert_law(found[i], bounds[i], truth[i])


@each_reduction
def test_dpo_1_2_oracle_gradient_of_sequence_logp_is_the_definitions(reduction):
    case = {"logp": draw(6, (2, 5)), "mask": np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 0]])}
    cotangent = draw(7, (2,))
    run = definition("dpo", "decimal").sequence_logp
    truth = decimal_vjp(run, case, cotangent=cotangent, reduction=reduction)
    bounds = oracle.sequence_logp_vjp(*exact(*case.values()), cotangent=exact(cotangent)[0], reduction=reduction)
    assert_law(oracle.sequence_logp_vjp(**case, cotangent=cotangent, reduction=reduction), bounds, truth[0])


# ---- an answer's log-probability ----
@given(case=answers())
def test_dpo_1_2_every_token_twice(case):
    logp, mask = tensors(case)
    twice = [torch.cat([x, x], dim=1) for x in (logp, mask)]
    for reduction, factor in (("sum", 2), ("mean", 1)):
        bounds = oracle.sequence_logp(*exact(*case.values()), reduction=reduction) * factor
        assert_law(sequence_logp(*twice, reduction=reduction), bounds, bounds)


def test_dpo_1_sum_is_the_default():
    logp, mask = torch.tensor([[-1.0, -3.0, -5.0]]), torch.tensor([[1, 0, 1]])
    assert sequence_logp(logp, mask).tolist() == [-6.0]
    assert sequence_logp(logp, mask, reduction="mean").tolist() == [-3.0]


@each_reduction
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("junk", (math.nan, math.inf, -math.inf, 1e4))
def test_dpo_3_what_is_not_marked_has_no_influence(reduction, dtype, junk):
    mask = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    results = []
    for filling in (0.0, junk):
        logp = torch.tensor(draw(8, (3, 5)), dtype=dtype).masked_fill(mask == 0, filling).requires_grad_()
        total = sequence_logp(logp, mask, reduction=reduction)
        total.backward(torch.tensor([1.0, -2.0, 3.0], dtype=total.dtype))
        assert total[2] == 0 and not logp.grad[mask == 0].any() and logp.grad[mask == 1].all()
        results.append((total.detach(), logp.grad))
        values = logp.detach().double().numpy(), mask.numpy()
        found = oracle.sequence_logp(*values, reduction=reduction)
        pulled = oracle.sequence_logp_vjp(*values, reduction=reduction, cotangent=np.array([1.0, -2.0, 3.0]))
        assert np.isfinite(found).all() and found[2] == 0 and not pulled[mask.numpy() == 0].any()
    for clean, dirty in zip(*results, strict=True):
        assert_same(dirty, clean)


@each_reduction
@pytest.mark.parametrize("kind", (torch.bool, torch.int64, torch.float32, torch.bfloat16))
def test_dpo_3_a_mask_may_be_bool_or_hold_0_and_1(reduction, kind):
    logp, mask = torch.tensor(draw(9, (3, 5))), torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    expected = sequence_logp(logp, mask.bool(), reduction=reduction)
    assert_same(sequence_logp(logp, mask.to(kind), reduction=reduction), expected)


@given(case=answers(), reduction=st.sampled_from(REDUCTIONS), left=st.integers(0, 3), right=st.integers(0, 40))
def test_dpo_4_padding_changes_nothing(case, reduction, left, right):
    logp, mask = tensors(case)
    padded = torch.nn.functional.pad(logp, (left, right), value=-7.0), torch.nn.functional.pad(mask, (left, right))
    bounds = oracle.sequence_logp(*exact(*case.values()), reduction=reduction)
    assert_law(sequence_logp(*padded, reduction=reduction), bounds, bounds)


# ---- the loss ----
@given(case=pairs(), beta=betas, options=forms, seed=strategies.seeds, data=st.data())
def test_dpo_8_any_order_and_any_cut(case, beta, options, seed, data):
    bounds = oracle.dpo_loss(*exact(*case.values()), beta=beta, **options)
    order = torch.tensor(np.random.default_rng(seed).permutation(len(case["policy_chosen"])))
    moved = [x[order] for x in tensors(case)]
    assert_law(dpo_loss(*moved, beta=beta, **options), bounds, bounds)
    total = torch.zeros((), dtype=torch.float64)
    for piece in data.draw(strategies.cuts(len(order))):
        part = [x[piece] for x in tensors(case)]
        total += dpo_loss(*part, beta=beta, **options) * len(part[0])
    assert_law(total / len(order), bounds, bounds)


@given(case=pairs(), beta=betas, options=forms, constant=st.sampled_from([-64.0, -3.0, 16.0]))
def test_dpo_9_only_the_margin_counts(case, beta, options, constant):
    still = losses_of(exact(*case.values()), beta=beta, **options)
    for both in (NAMES[:2], NAMES[2:], NAMES[::2], NAMES[1::2]):
        shifted = {name: x + constant if name in both else x for name, x in case.items()}
        moved = losses_of(exact(*shifted.values()), beta=beta, **options)
        assert_law(dpo_losses(*tensors(shifted), beta=beta, **options), moved, still)


@each_profile
@pytest.mark.parametrize("beta", (0.1, 0.3, 2.0))
def test_dpo_10_equal_policy_and_reference_give_log_2(profile, beta):
    dtype = DTYPES[profile]
    chosen, rejected = (torch.tensor(draw(seed, (31,), 50.0) - 99.0, dtype=dtype) for seed in (10, 11))
    inputs = (chosen, rejected, chosen.clone(), rejected.clone())
    log_2 = torch.full((31,), math.log(2), dtype=wide(profile))
    assert_same(dpo_losses(*inputs, beta=beta), log_2)
    assert_same(dpo_losses(*inputs, beta=beta, form="hinge"), torch.ones_like(log_2))
    values = {name: x.double().numpy() for name, x in zip(NAMES, inputs, strict=True)}
    for options in FORMS[1:]:
        bounds = losses_of(exact(*values.values(), profile=profile), beta=beta, **options)
        known = {"sigmoid": math.log(2), "hinge": 1.0, "ipo": 1 / (4 * beta**2)}[options["form"]]
        assert_law(dpo_losses(*inputs, beta=beta, **options), bounds, np.full(31, known))
    assert_same(oracle.dpo_losses(**values, beta=beta), np.full(31, math.log(2)))
    of_size, of_zeros = exact(*values.values(), profile=profile), exact(*[np.zeros(31)] * 4, profile=profile)
    assert_same(*(bound(oracle.dpo_losses(*x, beta=beta)) for x in (of_size, of_zeros)))  # the margin is known exactly
    chosen_slope, rejected_slope = gradients(dpo_losses, inputs, beta=beta)[:2]
    assert_same(chosen_slope, torch.full_like(chosen, -beta / 2))
    assert_same(rejected_slope, torch.full_like(chosen, beta / 2))


@each_form
def test_dpo_11_no_gradient_reaches_the_reference(options):
    for face, vjp in ((dpo_losses, oracle.dpo_losses_vjp), (dpo_loss, oracle.dpo_loss_vjp)):
        given_ = gradients(face, tensors(fixed()), beta=0.1, **options)
        assert given_[0].any() and given_[1].any() and given_[2] is None and given_[3] is None
        cotangent = np.ones(5) if face is dpo_losses else np.array(1.0)
        pulled = vjp(**fixed(), beta=0.1, **options, cotangent=cotangent)
        assert pulled[0].any() and pulled[1].any() and not pulled[2].any() and not pulled[3].any()


@each_profile
@given(case=pairs(), beta=betas, options=forms)
def test_dpo_12_chosen_and_rejected_pull_against_each_other(profile, case, beta, options):
    inputs = tensors(case, DTYPES[profile])
    for face in (dpo_losses, dpo_loss):
        chosen, rejected, *_ = gradients(face, inputs, beta=beta, **options)
        assert_same(chosen + 0.0, -rejected + 0.0)  # the sign of a zero aside
    chosen = gradients(dpo_losses, inputs, beta=beta)[0]
    assert (chosen <= 0).all() and (chosen >= -torch.tensor(beta, dtype=chosen.dtype)).all()


@given(case=pairs(), beta=betas, smoothing=st.sampled_from([0.0, 0.125, 0.5]))
def test_dpo_13_exchanging_the_answers(case, beta, smoothing):
    options = {"beta": beta, "label_smoothing": smoothing}
    swapped = {NAMES[i]: case[NAMES[i ^ 1]] for i in range(4)}
    bounded = exact(*case.values())
    margin = (bounded[0] - bounded[2]) - (bounded[1] - bounded[3])
    right = losses_of(bounded, **options) + (1 - 2 * smoothing) * beta * margin
    left = losses_of(exact(*swapped.values()), **options)
    assert_law(dpo_losses(*tensors(swapped), **options), left, right)


@given(case=pairs(), beta=betas, options=forms, exponent=st.sampled_from([-3, -1, 2]))
def test_dpo_14_beta_scales_the_margin(case, beta, options, exponent):
    c = 2.0**exponent
    scaled = {name: x / c for name, x in case.items()}  # exact
    bounds = losses_of(exact(*case.values()), beta=beta, **options)
    factor = c**2 if options["form"] == "ipo" else 1.0
    assert_law(dpo_losses(*tensors(scaled), beta=c * beta, **options) * factor, bounds, bounds)


@each_form
def test_dpo_15_losses_fall_and_are_convex(options):
    margin = torch.linspace(-97, 101, 127, dtype=torch.float64)
    loss = dpo_losses(*of_margin(margin), beta=0.25, **options)
    if options == FORMS[0] or options["form"] == "hinge":
        assert (loss.diff() <= 0).all()
    slope = gradients(dpo_losses, of_margin(margin), beta=0.25, **options)[0]
    bounds = oracle.dpo_losses_vjp(*exact(*(x.numpy() for x in of_margin(margin))), beta=0.25, **options,
                                   cotangent=exact(np.ones(127))[0])[0]  # fmt: skip
    decided = np.isfinite(bounds.bound)
    assert decided.sum() >= 126 and (np.diff(slope.numpy()[decided]) >= -2 * bounds.bound[decided][1:]).all()
    assert slope[-1] > slope[0]  # not linear


def test_dpo_6_the_kink_of_the_hinge():
    margin = [4 - 2**-12, 4.0, 4 + 2**-12]
    assert dpo_losses(*of_margin(margin), beta=0.25, form="hinge").tolist() == [2**-14, 0.0, 0.0]
    assert gradients(dpo_losses, of_margin(margin), beta=0.25, form="hinge")[0].tolist() == [-0.25, 0.0, 0.0]
    values = [x.numpy() for x in of_margin(margin)]
    assert oracle.dpo_losses_vjp(*values, beta=0.25, form="hinge", cotangent=np.ones(3))[0].tolist() == [-0.25, 0, 0]


def test_dpo_7_ipo_wants_a_margin_and_no_more():
    losses = dpo_losses(*of_margin([1.0, 2.0, 3.0]), beta=0.25, form="ipo")
    assert losses.tolist() == [1.0, 0.0, 1.0]


@each_profile
@each_form
@pytest.mark.parametrize("beta", (0.1, 1.0))
def test_dpo_16_large_margins(profile, options, beta):
    size = np.array([1e4, -1e4, 0.0, 2e4])
    case = dict(zip(NAMES, (size, -size, size / 2, -size / 2), strict=True))
    agree(oracle.dpo_losses, dpo_losses, case, profile=profile, output_dtype=wide(profile), beta=beta, **options)
    loss = dpo_losses(*tensors(case, DTYPES[profile]), beta=beta, **options)
    slopes = gradients(dpo_losses, tensors(case, DTYPES[profile]), beta=beta, **options)
    assert loss.isfinite().all() and slopes[0].isfinite().all() and slopes[1].isfinite().all()
    if options == FORMS[0]:
        assert loss[0] == loss[3] == 0 and slopes[0][0] == 0
        assert_same(loss[1], torch.tensor(-1e4, dtype=DTYPES[profile]).to(loss.dtype) * -beta)
        assert_same(slopes[0][1], torch.tensor(-beta, dtype=DTYPES[profile]))


def test_dpo_16_infinite_margins_are_not_nan():
    margin = torch.tensor([math.inf, -math.inf])
    zero = torch.zeros(2)
    assert dpo_losses(margin, zero, zero, zero, beta=0.1).tolist() == [0.0, math.inf]


def test_dpo_17_implicit_rewards_and_what_is_right():
    policy, reference = (torch.tensor(draw(seed, (7,), 9.0), requires_grad=True) for seed in (12, 13))
    reward = implicit_reward(policy, reference, beta=0.5)
    assert not reward.requires_grad
    assert not (implicit_reward(policy, policy, beta=0.5) > implicit_reward(reference, reference, beta=0.5)).any()
    margin = implicit_reward(*tensors(fixed())[::2], beta=0.5) - implicit_reward(*tensors(fixed())[1::2], beta=0.5)
    assert 0 < (margin > 0).sum() < 5
    assert torch.equal(dpo_losses(*tensors(fixed()), beta=0.5) < math.log(2), margin > 0)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@each_form
def test_dpo_18_low_precision_is_widened_first(dtype, options):
    result = torch.promote_types(dtype, torch.float32)
    inputs = tensors(fixed(), dtype)
    for face in (dpo_losses, dpo_loss):
        found = face(*inputs, beta=0.1, **options)
        assert found.dtype == result
        assert_same(found, face(*[x.to(result) for x in inputs], beta=0.1, **options))
        assert all(g.dtype == dtype for g in gradients(face, inputs, beta=0.1, **options)[:2])


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@each_reduction
def test_dpo_18_low_precision_sums_and_rewards_are_wide(dtype, reduction):
    result = torch.promote_types(dtype, torch.float32)
    logp, mask = torch.tensor(draw(14, (3, 257)), dtype=dtype), torch.ones(3, 257)
    found = sequence_logp(logp, mask, reduction=reduction)
    assert_same(found, sequence_logp(logp.to(result), mask, reduction=reduction))
    assert gradients(lambda x: sequence_logp(x, mask, reduction=reduction), [logp])[0].dtype == dtype
    assert implicit_reward(logp[0], logp[1], beta=0.1).dtype == result
    mixed = tensors(fixed(), dtype)[:2] + tensors(fixed(), torch.float32)[2:]
    assert dpo_losses(*mixed, beta=0.1).dtype == result


# ---- refusals ----
def refused(calls, words):
    for call in calls:
        with pytest.raises(ValueError) as refusal:
            call()
        assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize(
    ("logp", "mask", "words"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), ("mask", "(2, 3)", "(2, 4)")),
        (np.ones((2, 3)), np.ones((2, 1)), ("mask", "(2, 3)", "(2, 1)")),
        (np.ones((2, 3)), np.ones(3), ("mask", "(2, 3)", "(3,)")),
        (np.ones(3), np.ones(3), ("logp", "1 axes", "2")),
        (np.ones((2, 3, 1)), np.ones((2, 3, 1)), ("logp", "3 axes", "2")),
        (np.ones((2, 0)), np.ones((2, 0)), ("logp", "0")),
        (np.ones((0, 3)), np.ones((0, 3)), ("logp", "0")),
        (np.ones((2, 2)), np.array([[0, 1], [1, 2]]), ("mask", "2")),
        (np.ones((2, 2)), np.array([[0, 1], [1, -1]]), ("mask", "-1")),
        (np.ones((2, 2)), np.array([[0, 1], [1, 0.5]]), ("mask", "0.5")),
    ],
)
def test_dpo_19_sequence_logp_refuses(logp, mask, words):
    cotangent = np.ones(len(logp))
    refused(
        [
            lambda: sequence_logp(torch.tensor(logp), torch.tensor(mask)),
            lambda: oracle.sequence_logp(logp, mask),
            lambda: oracle.sequence_logp_vjp(logp, mask, cotangent=cotangent),
        ],
        words,
    )


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("shape", [(4,), (1,), (5, 1), (), (0,)])
def test_dpo_19_losses_refuse_shapes(place, shape):
    case = {name: np.ones(shape) if i == place else x for i, (name, x) in enumerate(fixed().items())}
    words = (NAMES[place] if place else "policy", str(shape[0] if len(shape) == 1 else len(shape)))
    given_ = tensors(case)
    refused(
        [
            lambda: dpo_losses(*given_, beta=0.1),
            lambda: dpo_loss(*given_, beta=0.1),
            lambda: oracle.dpo_losses(**case, beta=0.1),
            lambda: oracle.dpo_loss(**case, beta=0.1),
            lambda: oracle.dpo_losses_vjp(**case, beta=0.1, cotangent=np.ones(5)),
        ],
        words,
    )


def test_dpo_19_no_pair_and_unequal_rewards_are_refused():
    none, some = np.ones(0), np.ones(3)
    both = [(torch.tensor, (dpo_loss, dpo_losses, implicit_reward))]
    both.append((np.asarray, (oracle.dpo_loss, oracle.dpo_losses, oracle.implicit_reward)))
    for convert, (mean, each, reward) in both:
        refused([lambda f=f, c=convert: f(*[c(none)] * 4, beta=0.1) for f in (mean, each)], ("policy_chosen", "0"))
        refused([lambda r=reward, c=convert: r(c(none), c(none), beta=0.1)], ("policy", "0"))
        refused([lambda r=reward, c=convert: r(c(some), c(np.ones(2)), beta=0.1)], ("reference", "(3,)", "(2,)"))
    refused([lambda: oracle.dpo_loss_vjp(*[none] * 4, beta=0.1, cotangent=np.array(1.0))], ("policy_chosen", "0"))
    policy, reference = torch.ones(3), torch.ones(2)
    refused([lambda: implicit_reward(policy, reference, beta=0.1)], ("reference has shape (2,)",))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": 0.0}, ("beta", "0.0")),
        ({"beta": -0.1}, ("beta", "-0.1")),
        ({"beta": math.nan}, ("beta", "nan")),
        ({"beta": math.inf}, ("beta", "inf")),
        ({"beta": 0.1, "form": "dpo"}, ("form", "dpo", "sigmoid", "ipo", "hinge")),
        ({"beta": 0.1, "label_smoothing": math.nextafter(0.5, 1)}, ("label_smoothing", "0.5000", "0.5")),
        ({"beta": 0.1, "label_smoothing": 0.6}, ("label_smoothing", "0.6", "0.5")),
        ({"beta": 0.1, "label_smoothing": -0.1}, ("label_smoothing", "-0.1", "0.5")),
        ({"beta": 0.1, "label_smoothing": math.nan}, ("label_smoothing", "nan")),
        ({"beta": 0.1, "label_smoothing": 0.1, "form": "ipo"}, ("label_smoothing", "0.1", "ipo")),
        ({"beta": 0.1, "label_smoothing": 0.1, "form": "hinge"}, ("label_smoothing", "0.1", "hinge")),
    ],
)
def test_dpo_19_options_are_refused(options, words):
    case = fixed()
    calls = [
        lambda: dpo_losses(*tensors(case), **options),
        lambda: dpo_loss(*tensors(case), **options),
        lambda: oracle.dpo_losses(**case, **options),
        lambda: oracle.dpo_loss_vjp(**case, **options, cotangent=np.array(1.0)),
    ]
    if len(options) == 1:
        inputs = tensors(case)[:2]
        calls += [
            lambda: implicit_reward(*inputs, **options),
            lambda: oracle.implicit_reward(*(x.numpy() for x in inputs), **options),
        ]
    refused(calls, words)


def test_dpo_19_unknown_reduction():
    values = np.ones((2, 3)), np.ones((2, 3))
    face = [torch.tensor(x) for x in values]
    refused(
        [
            lambda: sequence_logp(*face, reduction="none"),
            lambda: oracle.sequence_logp(*values, reduction="none"),
            lambda: oracle.sequence_logp_vjp(*values, reduction="none", cotangent=np.ones(2)),
        ],
        ("reduction", "none", "sum", "mean"),
    )
