"""Clauses of specs/moe.md."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from arrays import draw
from decimals import slope
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_blocks import definition, floats
from strategies import seeds
from tolerance import DTYPES, agree, agree_vjp, assert_same, assert_within

from minimind_ref.config import ModelConfig
from minimind_ref.model.moe import MoE, aux_loss, moe, route
from minimind_ref.oracle import moe as oracle
from minimind_ref.oracle.bounded import Bounded, bound, bound_inputs, value

T, D, E, F, X = 7, 3, 5, 4, 2  # tokens, width, experts, FFN width, shared experts
PROFILES = ("float64", "float32", "bfloat16", "float16")
FORMS = ("sequence", "batch", "slots")
fewer = settings(max_examples=6)  # each example runs the oracle with its bounds
dtypes = pytest.mark.parametrize("profile", PROFILES)
forms = pytest.mark.parametrize("form", FORMS)

COUNTS = np.array([1, 1, 0, 1, 0, 1, 1])
SEQUENCES = np.array([4, 4, 9, 1, 9, 1, 1])  # 9 is nothing but padding
COUNTED = {"counts": COUNTS, "sequence_ids": SEQUENCES}
QUIET = {"form": "batch", "coef": 0.0}


def stack(seed, count):
    """Three stacked matrices of `count` experts."""
    return tuple(
        draw(seed % 2**28 + 90 + i, shape) for i, shape in enumerate(((count, F, D), (count, F, D), (count, D, F)))
    )


def arrays(seed=1, tokens=T):
    """Tokens, a router and experts; scores are far from uniform."""
    return {"x": draw(seed, (tokens, D)), "w_router": draw(seed // 2 + 7, (E, D), 1.5), "experts": stack(seed, E)}


def shared(seed=1):
    return stack(seed // 3 + 40, X)


def tensors(x, dtype=torch.float64):
    if isinstance(x, dict):
        return {name: tensors(entry, dtype) for name, entry in x.items()}
    if isinstance(x, tuple):
        return tuple(tensors(entry, dtype) for entry in x)
    if isinstance(x, np.ndarray):
        return torch.tensor(x, dtype=dtype if x.dtype.kind == "f" else None)
    return x


def bounded(x, profile="float64"):
    if isinstance(x, dict):
        return {name: bounded(entry, profile) for name, entry in x.items()}
    return tuple(bound_inputs(*x, profile=profile)) if isinstance(x, tuple) else bound_inputs(x, profile=profile)[0]


def chosen(scores, index):
    return {"scores": scores, "index": index, **COUNTED}


def routed(seed=1, tokens=T, num_chosen=2):
    """Scores and the choice that follows from them."""
    x, w_router, _ = arrays(seed, tokens).values()
    scores, _, index = oracle.route(x, w_router, num_chosen=num_chosen, normalise=True)
    return scores, index


# ---- agreement ----
@dtypes
@pytest.mark.parametrize("num_chosen", (1, 3, E))
@pytest.mark.parametrize("normalise", (True, False))
def test_moe_1_and_2_routing_agrees_with_the_oracle(profile, num_chosen, normalise):
    x, w_router, _ = arrays(1).values()
    wide = torch.promote_types(DTYPES[profile], torch.float32)
    inputs, options = {"x": x, "w_router": w_router}, {"num_chosen": num_chosen, "normalise": normalise}
    agree(oracle.route, route, inputs, profile=profile, output_dtype=wide, undecided=0.15, **options)


@pytest.mark.parametrize("profile", ("float64", "float32"))
@pytest.mark.parametrize("num_chosen", (1, 3, E))
@pytest.mark.parametrize("normalise", (True, False))
def test_moe_19_routing_gradients_agree_with_the_oracle(profile, num_chosen, normalise):
    x, w_router, _ = arrays(2).values()
    inputs, options = {"x": x, "w_router": w_router}, {"num_chosen": num_chosen, "normalise": normalise}
    agree_vjp(oracle.route_vjp, route, inputs, profile=profile, **options)


@forms
@pytest.mark.parametrize("profile", ("float64", "float32"))
@pytest.mark.parametrize("num_chosen", (1, 3))
def test_moe_10_to_12_aux_loss_agrees_with_the_oracle(profile, form, num_chosen):
    inputs = chosen(*routed(3, num_chosen=num_chosen))
    agree(oracle.aux_loss, aux_loss, inputs, profile=profile, form=form, coef=0.3)
    agree_vjp(oracle.aux_loss_vjp, aux_loss, inputs, profile=profile, form=form, coef=0.3)


@dtypes
@pytest.mark.parametrize("num_chosen", (1, 2))
def test_moe_3_agrees_with_the_oracle(profile, num_chosen):
    inputs = {**arrays(4), "shared": shared(4)}
    options = {"num_chosen": num_chosen, "normalise": num_chosen == 2, **QUIET}
    agree(lambda **x: oracle.moe(**x)[0], lambda **x: moe(**x)[0], inputs, profile=profile, undecided=0.15, **options)


@pytest.mark.parametrize("profile", ("float64", "float32"))
@forms
@pytest.mark.parametrize("with_shared", (True, False))
def test_moe_19_gradients_agree_with_the_oracle(profile, form, with_shared):
    inputs = {**arrays(5), "shared": shared(5) if with_shared else None, **COUNTED}
    options = {"num_chosen": 2, "normalise": True, "form": form, "coef": 0.7}
    agree(oracle.moe, moe, inputs, profile=profile, **options)
    agree_vjp(oracle.moe_vjp, moe, inputs, profile=profile, **options)


@pytest.mark.parametrize("kind", ("float", "decimal"))
@forms
@pytest.mark.parametrize("num_chosen", (1, 2))
def test_moe_1_definition_agrees_with_the_oracle(kind, form, num_chosen):
    inputs = {**arrays(6), "shared": shared(6), **COUNTED}
    options = {"num_chosen": num_chosen, "normalise": form != "slots", "form": form, "coef": 0.7}
    y, aux = definition("moe", kind).moe(**inputs, **options)
    expected = oracle.moe(
        **{**bounded({n: inputs[n] for n in ("x", "w_router", "experts", "shared")}), **COUNTED}, **options
    )
    assert_within(floats(y), expected[0])
    assert_within(float(aux), expected[1])


@pytest.mark.parametrize("num_chosen, normalise", ((1, True), (2, True), (2, False)))
def test_moe_19_gradients_are_the_definitions_derivatives(num_chosen, normalise):
    inputs = {**arrays(7), "shared": shared(7)}
    options = {"num_chosen": num_chosen, "normalise": normalise, "form": "sequence", "coef": 0.7, **COUNTED}
    directions = {
        name: tuple(draw(8 + i, m.shape) for i, m in enumerate(x)) if isinstance(x, tuple) else draw(9, x.shape)
        for name, x in inputs.items()
    }
    dy, daux = draw(10, (T, D)), np.float64(0.6)
    exact = slope(
        lambda **x: definition("moe", "decimal").moe(**x, **options), inputs, directions, (dy.tolist(), float(daux))
    )
    pulled = oracle.moe_vjp(**bounded(inputs), **options, cotangent=(dy, daux))
    pairs = zip(pulled, directions.values(), strict=True)
    terms = [
        np.sum(g * d)
        for gradient, direction in pairs
        for g, d in (zip(gradient, direction, strict=True) if isinstance(direction, tuple) else [(gradient, direction)])
    ]
    assert_within(exact, sum(terms[1:], terms[0]))


# ---- routing ----
@given(seeds, st.integers(1, E))
def test_moe_1_every_token_visits_its_c_best_experts(seed, num_chosen):
    scores, index = routed(seed, num_chosen=num_chosen)
    _, weight, found = route(
        *(tensors(a) for a in list(arrays(seed).values())[:2]), num_chosen=num_chosen, normalise=False
    )
    for row, places, weights in zip(scores, found.numpy(), weight.numpy(), strict=True):
        assert len(set(places)) == num_chosen
        assert (np.diff(weights) <= 0).all()
        rest = np.delete(row, places)
        assert not rest.size or weights.min() >= rest.max() - 1e-9 * weights.min()
    assert_same(found, index)


@given(seeds, st.integers(1, E))
def test_moe_2_normalised_weights_sum_to_one(seed, num_chosen):
    x, w_router, _ = arrays(seed).values()
    options = {"num_chosen": num_chosen, "normalise": True}
    weight = route(tensors(x), tensors(w_router), **options)[1]
    limit = bound(np.sum(oracle.route(*bounded((x, w_router)), **options)[1], axis=-1))
    assert_within(weight.sum(dim=-1), np.ones(T), limit)
    assert (weight > 0).all()


def test_moe_2_plain_weights_are_the_scores():
    x, w_router, _ = tensors(arrays(8)).values()
    scores, weight, index = route(x, w_router, num_chosen=2, normalise=False)
    assert_same(weight, scores.gather(-1, index))
    assert (weight.sum(dim=-1) < 1).all()


@pytest.mark.parametrize("num_chosen", (1, 2, 4))
def test_moe_2_choosing_before_or_after_the_softmax_is_the_same_where_weights_are_normalised(num_chosen):
    """A false alarm (litgpt #1286): top-k of the scores, renormalised, is the softmax of the top-k logits."""
    x, w_router, _ = arrays(31).values()
    _, weight, index = oracle.route(*bounded((x, w_router)), num_chosen=num_chosen, normalise=True)
    logits, chosen = (tensors(x) @ tensors(w_router).T).topk(num_chosen, dim=-1)
    assert_same(chosen, value(index))
    assert_within(logits.softmax(dim=-1), weight)


@given(seeds)
def test_moe_11_a_mean_over_tokens_and_slots_has_divided_by_both(seed):
    """A false alarm (MiniMind #290): one-hot rows of all slots, averaged, hold the division by the number chosen."""
    scores, index = routed(seed)
    one_hot = torch.nn.functional.one_hot(torch.tensor(index).flatten(), E).double()
    theirs = 0.7 * E * (one_hot.mean(dim=0) * tensors(scores).mean(dim=0)).sum()
    assert_within(theirs, limit_of(scores, index, coef=0.7))


def test_moe_24_a_single_plain_weight_is_not_one():
    x, w_router, _ = tensors(arrays(8)).values()
    assert (route(x, w_router, num_chosen=1, normalise=False)[1] < 1).all()
    assert (route(x, w_router, num_chosen=1, normalise=True)[1] == 1).all()


def test_moe_6_equal_scores_choose_the_lower_index():
    w_router = np.repeat(draw(11, (1, D)), E, axis=0)
    w_router[0] *= -1
    x = np.tile(w_router[1], (2, 1))
    index = oracle.route(x, w_router, num_chosen=3, normalise=True)[2]
    assert_same(index, np.array([[1, 2, 3]] * 2))
    exact = definition("moe", "decimal").route(x, w_router, num_chosen=3, normalise=True)[2]
    assert exact == [[1, 2, 3]] * 2
    scores, weight, index = oracle.route(*bounded((x, w_router)), num_chosen=3, normalise=True)
    assert np.isinf(bound(index)).all() and np.isinf(bound(weight)).all() and np.isfinite(bound(scores)).all()


def test_moe_6_an_undecided_choice_leaves_everything_that_depends_on_it_undecided():
    inputs = arrays(12)
    inputs["w_router"][1] = inputs["w_router"][0]
    inputs["x"][0] = 3 * inputs["w_router"][0]
    inputs["x"][1] = -inputs["x"][0]  # its best expert is another
    options = {"num_chosen": 1, "normalise": True, "form": "batch", "coef": 1.0}
    y, aux = oracle.moe(**bounded(inputs), **options)
    assert np.isinf(bound(y)[0]).all() and np.isfinite(bound(y)[1]).all() and np.isinf(bound(aux))
    dx, *others, none = oracle.moe_vjp(**bounded(inputs), **options, cotangent=(np.ones((T, D)), np.float64(1.0)))
    assert none is None and np.isinf(bound(dx)[0]).all()
    for gradient in (others[0], *others[1]):
        assert isinstance(gradient, Bounded) and np.isinf(bound(gradient)).all()


@given(seeds)
def test_moe_7_scores_do_not_depend_on_a_common_shift(seed):
    x, w_router, _ = arrays(seed).values()
    shifted = w_router + draw(seed // 5, (1, D), 2.0)
    options = {"num_chosen": 2, "normalise": True}
    sides = [route(tensors(x), tensors(w), **options)[:2] for w in (w_router, shifted)]
    limits = [oracle.route(*bounded((x, w)), **options)[:2] for w in (w_router, shifted)]
    for left, right, *bounds in zip(*sides, *limits, strict=True):
        assert_within(left, right.numpy(), bound(bounds[0]) + bound(bounds[1]))


@fewer
@given(seeds)
def test_moe_7_router_gradients_sum_to_zero_over_experts(seed):
    inputs, dy, options = (
        arrays(seed),
        draw(seed // 7, (T, D)),
        {"num_chosen": 2, "normalise": True, "form": "batch", "coef": 2.0},
    )
    x, w_router, experts = tensors(inputs).values()
    y, aux = moe(x, w_router.requires_grad_(), experts, **options)
    gradient = torch.autograd.grad([y, aux], w_router, [tensors(dy), torch.ones_like(aux)])[0]
    pulled = oracle.moe_vjp(**bounded(inputs), **options, cotangent=(dy, np.float64(1.0)))[1]
    assert_within(gradient.sum(dim=0), np.zeros(D), bound(np.sum(pulled, axis=0)))
    assert (gradient != 0).any()


# ---- combination ----
def combine(inputs, **options):
    options = {"num_chosen": 2, "normalise": True, **QUIET, **options}
    return moe(**tensors(inputs), **options)[0], oracle.moe(**bounded(inputs), **options)[0]


@fewer
@given(seeds, st.permutations(range(T)))
def test_moe_4_tokens_are_independent(seed, order):
    inputs = {**arrays(seed), "shared": shared(seed)}
    y, limit = combine(inputs)
    mixed, _ = combine({**inputs, "x": inputs["x"][order]})
    assert_within(mixed, y[order].numpy(), 2 * bound(limit)[order])
    alone, _ = combine({**inputs, "x": inputs["x"][:1]})
    assert_within(alone, y[:1].numpy(), 2 * bound(limit)[:1])


@fewer
@given(seeds, st.permutations(range(E)))
def test_moe_5_experts_have_no_order(seed, order):
    inputs = arrays(seed)
    mixed = {
        **inputs,
        "w_router": inputs["w_router"][order],
        "experts": tuple(w[order] for w in inputs["experts"]),
    }
    y, limit = combine(inputs)
    other, other_limit = combine(mixed)
    assert_within(y, other.numpy(), bound(limit) + bound(other_limit))


def test_moe_8_all_experts_are_a_dense_mixture_and_equal_ones_are_one():
    inputs = arrays(13)
    y, limit = combine(inputs, num_chosen=E)
    scores = oracle.route(*bounded((inputs["x"], inputs["w_router"])), num_chosen=E, normalise=False)[0]
    only = [
        oracle.moe(
            **bounded(
                {
                    **inputs,
                    "w_router": inputs["w_router"][:1],
                    "experts": tuple(w[e : e + 1] for w in inputs["experts"]),
                }
            ),
            num_chosen=1,
            normalise=True,
            **QUIET,
        )[0]
        for e in range(E)
    ]
    mixture = sum((scores[:, e, None] * only[e] for e in range(1, E)), scores[:, :1] * only[0])
    assert_within(y, mixture, bound(mixture) + bound(limit))
    equal = {**inputs, "experts": tuple(np.repeat(w[:1], E, axis=0) for w in inputs["experts"])}
    y, limit = combine(equal)
    assert_within(y, only[0], bound(only[0]) + bound(limit))


@pytest.mark.parametrize("bad", (0.0, np.inf, np.nan))
def test_moe_9_an_unvisited_expert_has_a_zero_gradient(bad):
    inputs = arrays(14, tokens=3)
    visited = {int(e) for e in np.ravel(routed(14, tokens=3)[1])}
    idle = next(e for e in range(E) if e not in visited)
    for w in inputs["experts"]:
        w[idle] += bad
    leaves = tensors(inputs)
    for w in (sources := [leaves["w_router"], *leaves["experts"]]):
        w.requires_grad_()
    y, _ = moe(**leaves, num_chosen=2, normalise=True, **QUIET)
    gradients = torch.autograd.grad(y.sum(), sources)
    pulled = oracle.moe_vjp(**inputs, num_chosen=2, normalise=True, **QUIET, cotangent=(np.ones((3, D)), 0.0))
    for gradient, other in zip(gradients[1:], pulled[2], strict=True):
        assert (gradient[idle] == 0).all() and (other[idle] == 0).all()
        assert torch.isfinite(gradient).all() and (gradient[sorted(visited)] != 0).any()
    listed = [[w.detach().clone().requires_grad_() for w in stack] for stack in leaves["experts"]]  # as a module's
    y, _ = moe(leaves["x"], leaves["w_router"], tuple(listed), num_chosen=2, normalise=True, **QUIET)
    for gradient in torch.autograd.grad(y.sum(), [stack[idle] for stack in listed]):  # a missing one is an error
        assert (gradient == 0).all()


# ---- the load-balancing loss ----
def balance(scores, index, *, form="batch", coef=1.0, **options):
    return aux_loss(
        tensors(scores), tensors(index), form=form, coef=coef, **{n: tensors(x) for n, x in options.items()}
    )


def limit_of(scores, index, *, form="batch", coef=1.0, **options):
    return oracle.aux_loss(*bounded((scores,)), index, form=form, coef=coef, **options)


@pytest.mark.parametrize("num_chosen", (1, 2, 3))
def test_moe_16_balance_costs_coef_times_one_or_c(num_chosen):
    index = np.array([[(t + c) % E for c in range(num_chosen)] for t in range(E)])
    scores = routed(15, tokens=E)[0]
    ids = np.zeros(E, int)
    for form, expected in (("sequence", 0.25), ("batch", 0.25), ("slots", 0.25 * num_chosen)):
        options = {"form": form, "coef": 0.25, "sequence_ids": ids}
        assert_within(balance(scores, index, **options), expected, bound(limit_of(scores, index, **options)))
        uniform, uneven = np.full((E, E), 1 / E), routed(15, tokens=E, num_chosen=num_chosen)[1]
        assert_within(balance(uniform, uneven, **options), expected, bound(limit_of(uniform, uneven, **options)))


def test_moe_16_the_loss_can_be_less_than_balance():
    scores = np.array([[0.4, 0.35, 0.25], [0.4, 0.35, 0.25], [0.1, 0.44, 0.46]])
    index = np.array([[0], [0], [2]])
    assert_within(balance(scores, index), 0.92, bound(limit_of(scores, index)))


def test_moe_16_collapse_costs_as_many_as_there_are_experts():
    scores = np.eye(E)[np.zeros(T, int)]
    assert_within(balance(scores, np.zeros((T, 1), int)), E, bound(limit_of(scores, np.zeros((T, 1), int))))


@pytest.mark.parametrize("num_chosen", (2, 3))
def test_moe_12_slots_is_c_times_batch(num_chosen):
    scores, index = routed(16, num_chosen=num_chosen)
    batch, slots = (balance(scores, index, form=form) for form in ("batch", "slots"))
    assert_within(slots, num_chosen * batch.numpy(), num_chosen * 2 * bound(limit_of(scores, index)))


def test_moe_10_a_sequence_counts_once_whatever_its_length():
    scores, index = routed(17)
    ids = np.array([3, 3, 3, 3, 3, 8, 8])
    one, two = (limit_of(scores[ids == name], index[ids == name]) for name in (3, 8))
    mean = (one + two) / 2
    assert_within(balance(scores, index, form="sequence", sequence_ids=ids), mean, 2 * bound(mean))
    whole = balance(scores, index, form="batch", sequence_ids=ids)
    with pytest.raises(AssertionError):
        assert_within(whole, mean, 2 * bound(mean))


@forms
@given(seeds)
def test_moe_13_padding_does_not_exist(form, seed):
    scores, index = routed(seed)
    real = COUNTS.astype(bool)
    padded = balance(scores, index, form=form, **COUNTED)
    alone = balance(scores[real], index[real], form=form, sequence_ids=SEQUENCES[real])
    limit = bound(limit_of(scores, index, form=form, **COUNTED))
    assert_within(padded, alone.numpy(), 2 * limit)
    with pytest.raises(AssertionError):
        assert_within(balance(scores, index, form=form, sequence_ids=SEQUENCES), alone.numpy(), 2 * limit)


def test_moe_13_counts_may_be_bools_or_0_and_1():
    scores, index = routed(18)
    assert_same(balance(scores, index, counts=COUNTS), balance(scores, index, counts=COUNTS.astype(bool)))
    assert_same(balance(scores, index, counts=np.ones(T, int)), balance(scores, index))


def test_moe_14_a_sequence_of_padding_is_none():
    scores, index = routed(19)
    with_padding = balance(scores, index, form="sequence", **COUNTED)
    kept = SEQUENCES != 9
    without = balance(scores[kept], index[kept], form="sequence", sequence_ids=SEQUENCES[kept])
    assert_within(with_padding, without.numpy(), 2 * bound(limit_of(scores, index, form="sequence", **COUNTED)))


@forms
@dtypes
def test_moe_14_nothing_counted_costs_nothing(form, profile):
    scores, index = routed(20)
    leaf = torch.tensor(scores, dtype=DTYPES[profile], requires_grad=True)
    nothing = {"counts": torch.zeros(T, dtype=torch.int64), "sequence_ids": torch.tensor(SEQUENCES)}
    loss = aux_loss(leaf, torch.tensor(index), form=form, coef=1.0, **nothing)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert loss.shape == () and loss == 0 and (gradient == 0).all()
    options = {"form": form, "coef": 1.0, "counts": np.zeros(T), "sequence_ids": SEQUENCES}
    assert oracle.aux_loss(scores, index, **options) == 0
    assert (oracle.aux_loss_vjp(scores, index, **options, cotangent=1.0) == 0).all()


@forms
def test_moe_15_the_gradient_is_the_share_of_slots(form):
    scores, index = routed(21)
    leaf = tensors(scores).requires_grad_()
    loss = aux_loss(leaf, tensors(index), form=form, coef=0.6, **tensors(COUNTED))
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert (gradient[COUNTS == 0] == 0).all()
    # The loss is linear in the scores, the choice being fixed: the gradient gives it back.
    limit = limit_of(scores, index, form=form, coef=0.6, **COUNTED)
    assert_within((gradient * leaf).sum(), loss.detach().numpy(), 2 * bound(limit))
    uniform = np.array([[(t + c) % E for c in range(2)] for t in range(E)])
    leaf = tensors(scores[:E]).requires_grad_()
    logits = aux_loss(leaf.log().softmax(dim=-1), tensors(uniform), form="batch", coef=0.6)
    (gradient,) = torch.autograd.grad(logits, leaf)
    assert_within(gradient, np.zeros((E, E)), np.full((E, E), 8 * np.finfo(float).eps) / scores[:E])


def test_moe_17_one_chosen_expert_gives_the_router_no_gradient_from_the_main_loss():
    inputs = arrays(22)
    options = {"num_chosen": 1, "normalise": True, "form": "slots", "coef": 0.5}
    many = {**inputs, "x": draw(28, (307, D))}  # the quotient's noise shows in about one token of four
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x, w_router, experts = tensors(many, dtype).values()
        y, aux = moe(x, w_router.requires_grad_(), experts, **options)
        main, balance_only = (torch.autograd.grad(t.sum(), w_router, retain_graph=True)[0] for t in (y, aux))
        assert (main == 0).all()  # MOE-18: exactly
        assert (balance_only != 0).any()
    directions = {"w_router": draw(23, (E, D))}
    true = slope(
        lambda **x: definition("moe", "decimal").moe(**x, **{**options, "coef": 0.0}),
        inputs,
        directions,
        np.ones(T * D + 1),
    )
    assert 0 < abs(true) < 1e-19  # not nothing: 1e-20/p times what the experts' outputs are worth
    pulled = oracle.moe_vjp(**bounded(inputs), **{**options, "coef": 0.0}, cotangent=(np.ones((T, D)), np.float64(0)))[
        1
    ]
    assert_within(np.zeros((E, D)), pulled)
    assert (value(pulled) == 0).all()


def test_moe_18_two_chosen_experts_do_give_it_one():
    x, w_router, experts = tensors(arrays(22)).values()
    y, _ = moe(x, w_router.requires_grad_(), experts, num_chosen=2, normalise=True, **QUIET)
    assert (torch.autograd.grad(y.sum(), w_router)[0] != 0).any()


@pytest.mark.parametrize("coef", (0.0, 0.3))
def test_moe_20_the_loss_is_a_scalar_and_linear_in_its_coefficient(coef):
    scores, index = routed(24)
    loss = balance(scores, index, coef=coef)
    assert isinstance(loss, torch.Tensor) and loss.shape == ()
    assert_within(loss, coef * balance(scores, index).numpy(), 2 * bound(limit_of(scores, index, coef=coef)))


@dtypes
def test_moe_21_training_gives_what_evaluation_gives_in_its_dtype(profile):
    config = ModelConfig(
        hidden_size=6, num_attention_heads=3, num_key_value_heads=1, intermediate_size=F, use_moe=True, num_experts=E
    )
    torch.manual_seed(0)
    module = MoE(config).to(DTYPES[profile])
    x = torch.tensor(draw(25, (2, 5, 6), 30.0), dtype=DTYPES[profile])
    trained, aux = module.train()(x)
    evaluated, other = module.eval()(x)
    assert trained.dtype == DTYPES[profile]
    assert_same(trained, evaluated)
    assert_same(aux, other)


@dtypes
def test_moe_21_large_outputs_are_not_cut_to_float16(profile):
    inputs = arrays(26)
    inputs["experts"] = tuple(30 * w for w in inputs["experts"])
    y = moe(**tensors(inputs, DTYPES[profile]), num_chosen=2, normalise=True, **QUIET)[0]
    assert y.dtype == DTYPES[profile]
    assert profile == "float16" or y.abs().max() > 65504


def test_moe_3_a_module_has_its_router_its_experts_and_its_shared_experts_and_no_more():
    shape = {
        "hidden_size": D,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 2,
        "intermediate_size": F,
    }
    torch.manual_seed(1)
    module = MoE(ModelConfig(**shape, use_moe=True, num_experts=E, num_shared_experts=2)).double()
    assert list(module.gate.state_dict()) == ["weight"]
    x = torch.tensor(draw(28, (1, T, D)))
    weights = {name: [p for n, p in module.named_parameters() if n.startswith(name)] for name in ("experts", "shared")}
    stacks = {name: tuple(found[i::3] for i in range(3)) for name, found in weights.items()}
    c = module.config
    options = {"num_chosen": c.num_experts_per_tok, "normalise": c.norm_topk_prob, "form": "batch", "coef": 0.0}
    expected, _ = moe(x[0], module.gate.weight, **stacks, **options)
    assert_same(module(x)[0][0], expected)


def test_moe_23_a_module_counts_padding_only_on_request():
    shape = {"hidden_size": 6, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": F}
    x, counts = tensors(draw(27, (2, 5, 6))), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()
    losses = {}
    for counts_padding in (False, True):
        config = ModelConfig(**shape, use_moe=True, num_experts=E, aux_loss_counts_padding=counts_padding)
        torch.manual_seed(1)
        module = MoE(config).double()
        losses[counts_padding] = module(x, counts)[1]
        assert (module(x)[1] == losses[counts_padding]) == counts_padding
    assert losses[False] != losses[True]


# ---- refusals ----
GOOD = {"x": np.ones((T, D)), "w_router": np.ones((E, D)), "num_chosen": 2, "normalise": True}
LOSS = {"scores": np.ones((T, E)), "index": np.zeros((T, 2), int), "form": "batch", "coef": 1.0}
MIXED = {**GOOD, "experts": stack(1, E), "form": "batch", "coef": 1.0}
PARTLY = np.concatenate([np.zeros((T - 1, 2), int), np.full((1, 2), E)])
REFUSED = {
    "rank of x": ("route", {**GOOD, "x": np.ones((2, T, D))}, "x has 3 axes"),
    "rank of w_router": ("route", {**GOOD, "w_router": np.ones(D)}, "w_router has 1 axes"),
    "width": ("route", {**GOOD, "w_router": np.ones((E, 4))}, "4.* 3"),
    "no token": ("route", {**GOOD, "x": np.ones((0, D))}, r"x is 0|x has shape \(0, 3\)"),
    "no expert chosen": ("route", {**GOOD, "num_chosen": 0}, "num_chosen.*0.* 5"),
    "too many chosen": ("route", {**GOOD, "num_chosen": 6}, "num_chosen.*6.* 5"),
    "form": ("aux_loss", {**LOSS, "form": "tokens"}, "form='tokens'.*sequence, batch, slots"),
    "no sequences": ("aux_loss", {**LOSS, "form": "sequence"}, "sequence_ids is None.*'sequence'"),
    "length of counts": ("aux_loss", {**LOSS, "counts": np.ones(6, int)}, "counts.*6.*7"),
    "length of sequence_ids": ("aux_loss", {**LOSS, "sequence_ids": np.ones(8, int)}, "sequence_ids.*8.*7"),
    "an expert that is not there": ("aux_loss", {**LOSS, "index": np.full((T, 2), E)}, "5.*5"),
    "one expert that is not there": ("aux_loss", {**LOSS, "index": PARTLY}, "index (reaches from 0 to 5|holds 5).*5"),
    "an expert below 0": ("aux_loss", {**LOSS, "index": np.full((T, 2), -1)}, "-1.*5"),
    "no token of scores": (
        "aux_loss",
        {**LOSS, "scores": np.ones((0, E)), "index": np.zeros((0, 2), int)},
        "number of tokens in scores is 0",
    ),
    "coefficient": ("aux_loss", {**LOSS, "coef": -0.1}, "coef=-0.1.* 0"),
    "no coefficient": ("aux_loss", {**LOSS, "coef": math.nan}, "coef=nan.* 0"),
    "length of index": ("aux_loss", {**LOSS, "index": np.zeros((6, 2), int)}, "index.*6.*7"),
    "rank of scores": ("aux_loss", {**LOSS, "scores": np.ones((T, E, 1))}, "scores has 3 axes"),
    "rank of index": ("aux_loss", {**LOSS, "index": np.zeros(T, int)}, "index has 1 axes"),
    "experts": ("moe", {**MIXED, "experts": stack(1, 4)}, "experts.* 4.* 5"),
    "a stack that is short": ("moe", {**MIXED, "experts": (*stack(1, E)[:2], stack(1, 4)[2])}, "experts.* 4.* 5|4.*5"),
    "a shared stack that is short": ("moe", {**MIXED, "shared": (*stack(1, X)[:2], stack(1, 1)[2])}, "shared.*1"),
    "an expert's shape": ("moe", {**MIXED, "experts": (*stack(1, E)[:2], np.ones((E, D, 6)))}, r"w_down.*6.*"),
    "shared experts' shape": ("moe", {**MIXED, "shared": (*stack(1, X)[:2], np.ones((X, 4, F)))}, "w_down.*4.*"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("face", ("oracle", "torch"))
def test_moe_22_bad_input_is_refused(case, face, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # under pytest it refuses ranks before
    name, arguments, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        if face == "oracle":
            getattr(oracle, name)(**arguments)
        else:
            {"route": route, "aux_loss": aux_loss, "moe": moe}[name](**tensors(arguments))


ORACLE_REFUSED = {
    "two matrices": ("moe", {**MIXED, "experts": stack(1, E)[:2]}, "stacks in experts is 2 .* 3"),
    "an expert's up matrix": (
        "moe",
        {**MIXED, "experts": (stack(1, E)[0], np.ones((E, 6, D)), stack(1, E)[2])},
        "w_up",
    ),
    "scores' cotangent": ("route_vjp", {**GOOD, "cotangent": (np.ones((T, 4)), np.ones((T, 2)))}, "scores' cotangent"),
    "weights' cotangent": ("route_vjp", {**GOOD, "cotangent": (np.ones((T, E)), np.ones((T, 1)))}, "weights' cotan"),
    "output's cotangent": ("moe_vjp", {**MIXED, "cotangent": (np.ones((T, 4)), np.array(1.0))}, "output's cotangent"),
    "rank of x beside experts": ("moe", {**MIXED, "x": np.ones((2, T, D))}, "x has 3 axes"),
    "no expert": ("route", {**GOOD, "w_router": np.ones((0, D))}, "number of experts in w_router is 0"),
    "another number of experts": ("moe", {**MIXED, "experts": stack(1, E - 1)}, "number of experts is 4 .*is 5"),
    "coefficient of the gradient": (
        "aux_loss_vjp",
        {**LOSS, "coef": -0.0005, "cotangent": np.array(1.0)},
        "coef=-0.0005.* 0",
    ),
    "rank of a stack": ("moe", {**MIXED, "experts": (np.ones((F, D)), *stack(1, E)[1:])}, "experts has 2 axes"),
}


@pytest.mark.parametrize("case", ORACLE_REFUSED)
def test_moe_22_the_oracle_also_refuses(case):
    name, arguments, message = ORACLE_REFUSED[case]
    with pytest.raises(ValueError, match=message):
        getattr(oracle, name)(**arguments)


@pytest.mark.parametrize("t", [7, 11, 13])
def test_moe_15_a_share_may_be_rounded_where_it_is_divided_and_where_it_is_multiplied(t):
    """In float32 an expert's tokens / t, times e/c, over t again: each step rounds, and so does the quotient e/c."""
    e, c = 7, 3
    index = np.stack([(np.arange(c) + i * i) % e for i in range(t)])
    (scores, one) = bound_inputs(np.full((t, e), 1 / 8), np.array(1.0), profile="float32")
    counts = np.bincount(index.ravel(), minlength=e).astype(np.float32)
    share = counts / np.float32(t) * (np.float32(e) / np.float32(c)) / np.float32(t)
    pulled = oracle.aux_loss_vjp(scores, index, form="batch", coef=1.0, cotangent=one)
    assert_within(np.tile(share, (t, 1)), pulled)
