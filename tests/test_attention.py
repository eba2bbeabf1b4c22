"""Clauses of specs/attention.md."""

import math

import numpy as np
import pytest
import torch
from arrays import draw
from decimals import slope
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_blocks import definition, floats
from strategies import cuts, seeds
from tolerance import DTYPES, agree, agree_vjp, assert_same, assert_within

from minimind_ref.config import ModelConfig
from minimind_ref.model.attention import Attention, attention
from minimind_ref.oracle import attention as oracle
from minimind_ref.oracle.bounded import bound, bound_inputs, value

B, S, T, N, K, H = 2, 3, 5, 6, 2, 4
FORMS = ("explicit", "sdpa")
PROFILES = ("float64", "float32", "bfloat16", "float16")
some_form = st.sampled_from(FORMS)
forms = pytest.mark.parametrize("implementation", FORMS)
fewer = settings(max_examples=8)  # each example runs the oracle with its bounds
dtypes = pytest.mark.parametrize("profile", PROFILES)


def arrays(seed=1, s=S, t=T, scale=1.5):
    """Queries, keys and values whose weights are far from uniform."""
    shapes = {"q": (B, s, N, H), "k": (B, t, K, H), "v": (B, t, K, H)}
    return {name: draw(seed % 2**28 * 10 + i, shape, scale) for i, (name, shape) in enumerate(shapes.items())}


def random_mask(seed=1, s=S, t=T):
    """A mask that bites in every row, and leaves one row of the last batch entry without any key."""
    mask = draw(seed % 2**28 + 500, (B, s, t)) > -0.4
    mask[1, 1] = False
    return mask


def run(inputs, *, implementation="explicit", dtype=torch.float64, **options):
    """The torch face on NumPy arrays."""
    tensors = [torch.tensor(inputs[name], dtype=dtype) for name in "qkv"]
    if options.get("mask") is not None:
        options["mask"] = torch.tensor(options["mask"])
    return attention(*tensors, implementation=implementation, **options)


def bounded(inputs, profile="float64", **options):
    return oracle.attention(*bound_inputs(*inputs.values(), profile=profile), **options)


def assert_equal_within(left, right, *bounds):
    """Two honest results of the same number differ by no more than their bounds together."""
    assert_within(left, right.detach().double().numpy(), sum(bound(b) for b in bounds))


# ---- agreement ----
@forms
@dtypes
@pytest.mark.parametrize("causal", (True, False))
@pytest.mark.parametrize("masked", (True, False))
def test_attention_1_16_17_agrees_with_the_oracle(implementation, profile, causal, masked):
    inputs = {**arrays(), "mask": random_mask() if masked else None}
    agree(
        oracle.attention, attention, inputs, profile=profile, causal=causal,
        face_options={"implementation": implementation},
    )  # fmt: skip


@forms
@pytest.mark.parametrize("s", (1, S))
def test_attention_1_15_agrees_with_one_head_and_with_one_query(implementation, s):
    inputs = {name: x[:, :, :1] for name, x in arrays(s=s).items()}
    options = {"profile": "float64", "face_options": {"implementation": implementation}}
    agree(oracle.attention, attention, inputs, **options)
    agree_vjp(oracle.attention_vjp, attention, inputs, **options)


@forms
def test_attention_1_agrees_where_torch_may_use_its_own_causal_rule(implementation):
    agree(oracle.attention, attention, arrays(s=T), profile="float64", face_options={"implementation": implementation})


@pytest.mark.parametrize("kind", ("float", "decimal"))
@pytest.mark.parametrize("options", ({}, {"causal": False}, {"scale": 0.3}))
def test_attention_1_definition_agrees_with_the_oracle(kind, options):
    inputs, mask = arrays(2), random_mask(2)
    exact = floats(definition("attention", kind).attention(*inputs.values(), mask=mask, **options))
    assert_within(exact, bounded(inputs, mask=mask, **options))


@forms
@dtypes
@pytest.mark.parametrize("masked", (True, False))
def test_attention_15_gradients_agree_with_the_oracle(implementation, profile, masked):
    inputs = {**arrays(3), "mask": random_mask(3) if masked else None}
    agree_vjp(
        oracle.attention_vjp, attention, inputs, profile=profile, scale=0.4,
        face_options={"implementation": implementation},
    )  # fmt: skip


@pytest.mark.parametrize("options", ({}, {"causal": False, "scale": 0.3}))
def test_attention_15_gradients_are_the_definitions_derivatives(options):
    inputs, mask = arrays(4, s=3, t=5), random_mask(4, s=3, t=5)
    directions = {name: draw(i + 70, x.shape) for i, (name, x) in enumerate(inputs.items())}
    cotangent = draw(80, inputs["q"].shape)
    exact = slope(
        lambda **x: definition("attention", "decimal").attention(**x, mask=mask, **options),
        inputs, directions, cotangent,
    )  # fmt: skip
    pulled = oracle.attention_vjp(
        *bound_inputs(*inputs.values(), profile="float64"), mask=mask, **options, cotangent=cotangent
    )
    total = sum(np.sum(gradient * directions[name]) for name, gradient in zip("qkv", pulled, strict=True))
    assert_within(exact, total)


# ---- invariants ----
@forms
def test_attention_2_groups_are_blocks_of_consecutive_heads(implementation):
    inputs = arrays(5)
    grouped = run(inputs, implementation=implementation)
    blocks = {**inputs, **{name: np.repeat(inputs[name], N // K, axis=2) for name in "kv"}}
    tiled = {**inputs, **{name: np.tile(inputs[name], (1, 1, N // K, 1)) for name in "kv"}}
    assert_equal_within(grouped, run(blocks, implementation=implementation), bounded(inputs), bounded(blocks))
    with pytest.raises(AssertionError):
        assert_equal_within(grouped, run(tiled, implementation=implementation), bounded(inputs), bounded(tiled))


@forms
def test_attention_3_causal_is_aligned_at_the_end(implementation):
    inputs = arrays(6, s=T)
    late = {**inputs, "q": inputs["q"][:, T - S :]}
    whole, part = (run(x, implementation=implementation) for x in (inputs, late))
    assert_equal_within(whole[:, T - S :], part, bounded(late), bounded(late))
    free = run(late, implementation=implementation, causal=False)
    assert_equal_within(part[:, -1], free[:, -1], bounded(late)[:, -1], bounded(late, causal=False)[:, -1])


@forms
def test_attention_3_queries_before_the_first_key_see_nothing(implementation):
    out = run(arrays(7, s=5, t=3), implementation=implementation)
    assert_same(out[:, :2], torch.zeros_like(out[:, :2]))
    assert (out[:, 2:] != 0).all()


@forms
def test_attention_4_mask_and_causal_both_have_to_allow(implementation):
    inputs, mask = arrays(8), random_mask(8)
    lower = np.tril(np.ones((S, T), bool), T - S)
    both = run(inputs, implementation=implementation, mask=mask)
    joined = run(inputs, implementation=implementation, mask=mask & lower, causal=False)
    assert_equal_within(both, joined, bounded(inputs, mask=mask), bounded(inputs, mask=mask))
    opposite = run(inputs, implementation=implementation, mask=~mask)
    assert (both[:, 1:] != opposite[:, 1:]).any()


@forms
@dtypes
def test_attention_5_a_row_that_sees_nothing_is_zero_and_disturbs_none(implementation, profile):
    inputs, mask = arrays(9), np.ones((B, S, T), bool)
    mask[:, 0] = False
    options = {"implementation": implementation, "dtype": DTYPES[profile]}
    out = run(inputs, mask=mask, **options)
    assert_same(out[:, 0], torch.zeros_like(out[:, 0]))
    mask[:, 0, 0] = True
    assert_same(out[:, 1:], run(inputs, mask=mask, **options)[:, 1:])


@forms
@dtypes
def test_attention_5_a_row_that_sees_nothing_has_no_gradient(implementation, profile):
    mask = random_mask(10)
    tensors = [torch.tensor(x, dtype=DTYPES[profile], requires_grad=True) for x in arrays(10).values()]
    out = attention(*tensors, mask=torch.tensor(mask), implementation=implementation)
    for gradient in torch.autograd.grad(out[1, 1].sum(), tensors, retain_graph=True):
        assert (gradient == 0).all()
    for gradient in torch.autograd.grad(out.sum(), tensors):
        assert torch.isfinite(gradient).all() and (gradient != 0).any()


@forms
@dtypes
def test_attention_6_what_is_out_of_sight_does_not_matter(implementation, profile):
    inputs, mask = arrays(11), random_mask(11)
    mask[0, :, 1] = False
    changed = {name: x.copy() for name, x in inputs.items()}
    for name in "kv":
        changed[name][0, 1] = 100 + draw(3, (K, H))
        changed[name][:, -1] = -50  # seen by the last query only
    options = {"implementation": implementation, "dtype": DTYPES[profile], "mask": mask}
    assert_same(run(inputs, **options)[:, :-1], run(changed, **options)[:, :-1])
    assert (run(inputs, **options)[:, -1] != run(changed, **options)[:, -1]).any()


@forms
def test_attention_6_gradients_of_later_keys_are_exactly_zero(implementation):
    tensors = [torch.tensor(x, requires_grad=True) for x in arrays(12).values()]
    out = attention(*tensors, implementation=implementation)
    _, dk, dv = torch.autograd.grad(out[:, 1].sum(), tensors)
    for gradient in (dk, dv):
        assert (gradient[:, T - S + 2 :] == 0).all() and (gradient[:, : T - S + 2] != 0).any()


@forms
def test_attention_7_scale_is_of_the_head_width_unless_given(implementation):
    inputs = arrays(13)
    wide = {name: np.concatenate([x, np.zeros_like(x)], axis=-1) for name, x in inputs.items()}
    plain = run(inputs, implementation=implementation)
    kept = run(wide, implementation=implementation, scale=1 / np.sqrt(H))[..., :H]
    assert_equal_within(plain, kept, bounded(inputs), bounded(wide, scale=1 / np.sqrt(H))[..., :H])
    with pytest.raises(AssertionError):
        other = run(wide, implementation=implementation)[..., :H]
        assert_equal_within(plain, other, bounded(inputs), bounded(wide)[..., :H])


@fewer
@given(some_form, seeds)
def test_attention_8_outputs_lie_in_the_hull_of_the_visible_values(implementation, seed):
    inputs, mask = arrays(seed), random_mask(seed)
    mask[:, :, 0] = True
    out, room = run(inputs, implementation=implementation, mask=mask).numpy(), bound(bounded(inputs, mask=mask))
    for row, i, head in np.ndindex(B, S, N):
        seen = [j for j in range(i + T - S + 1) if mask[row, i, j]]
        values = inputs["v"][row, seen, head * K // N]
        assert (out[row, i, head] <= values.max(axis=0) + room[row, i, head]).all()
        assert (out[row, i, head] >= values.min(axis=0) - room[row, i, head]).all()


@fewer
@given(some_form, seeds)
def test_attention_9_one_vector_added_to_all_keys_changes_nothing(implementation, seed):
    inputs, mask = arrays(seed), random_mask(seed)
    shifted = {**inputs, "k": inputs["k"] + 3 * draw(seed // 2, (B, 1, K, H))}
    left, right = (run(x, implementation=implementation, mask=mask) for x in (inputs, shifted))
    assert_equal_within(left, right, bounded(inputs, mask=mask), bounded(shifted, mask=mask))


@fewer
@given(some_form, seeds)
def test_attention_9_key_gradients_sum_to_zero(implementation, seed):
    inputs, mask = arrays(seed), random_mask(seed)
    cotangent = draw(seed // 3, inputs["q"].shape)
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs.values()]
    out = attention(*tensors, mask=torch.tensor(mask), implementation=implementation)
    dk = torch.autograd.grad(out, tensors, torch.tensor(cotangent))[1]
    pulled = oracle.attention_vjp(*bound_inputs(*inputs.values(), profile="float64"), mask=mask, cotangent=cotangent)[1]
    assert_within(dk.sum(dim=1), np.zeros((B, K, H)), bound(np.sum(pulled, axis=1)))
    assert (dk != 0).any()


@forms
def test_attention_10_values_enter_affinely(implementation):
    inputs, matrix, offset = arrays(14), draw(15, (H, H)), draw(16, (H,), 3.0)
    mapped = {**inputs, "v": inputs["v"] @ matrix + offset}
    left = run(mapped, implementation=implementation)
    exact = bounded(inputs) @ matrix + offset
    assert_within(left, exact, bound(exact) + bound(bounded(mapped)))


@forms
@dtypes
def test_attention_11_one_visible_key_gives_its_value_exactly(implementation, profile):
    inputs, mask = arrays(17), np.zeros((B, S, T), bool)
    mask[:, np.arange(S), np.arange(S)] = True
    tensor = torch.tensor(inputs["v"], dtype=DTYPES[profile])
    out = run(inputs, implementation=implementation, mask=mask, dtype=DTYPES[profile])
    assert_same(out, tensor[:, :S].repeat_interleave(N // K, dim=2))


@forms
def test_attention_11_a_zero_query_gives_the_mean_of_the_visible(implementation):
    inputs = {**arrays(18), "q": np.zeros((B, S, N, H))}
    out = run(inputs, implementation=implementation)
    means = [np.repeat(inputs["v"][:, : i + T - S + 1].mean(axis=1), N // K, axis=1) for i in range(S)]
    assert_within(out, np.stack(means, axis=1), 2 * bound(bounded(inputs)))


@given(some_form, seeds, st.permutations(range(T)))
def test_attention_12_keys_have_no_order(implementation, seed, order):
    inputs, mask = arrays(seed), random_mask(seed)
    mixed = {"q": inputs["q"], "k": inputs["k"][:, order], "v": inputs["v"][:, order]}
    left = run(inputs, implementation=implementation, mask=mask, causal=False)
    right = run(mixed, implementation=implementation, mask=mask[:, :, order], causal=False)
    limit = bounded(inputs, mask=mask, causal=False)
    assert_equal_within(left, right, limit, limit)


@fewer
@given(some_form, seeds, cuts(T))
def test_attention_13_queries_can_be_cut_anywhere(implementation, seed, pieces):
    inputs, mask = arrays(seed, s=T), random_mask(seed, s=T)
    whole = run(inputs, implementation=implementation, mask=mask)
    limit = bounded(inputs, mask=mask)
    for piece in pieces:
        seen = {"q": inputs["q"][:, piece], **{name: inputs[name][:, : piece.stop] for name in "kv"}}
        part = run(seen, implementation=implementation, mask=mask[:, piece, : piece.stop])
        assert_equal_within(part, whole[:, piece], limit[:, piece], limit[:, piece])


@forms
def test_attention_20_several_queries_after_a_cache_see_all_of_it(implementation):
    inputs = arrays(19, s=T)
    whole = run(inputs, implementation=implementation)
    late = {**inputs, "q": inputs["q"][:, 2:]}
    assert_equal_within(run(late, implementation=implementation), whole[:, 2:], bounded(late), bounded(inputs)[:, 2:])


# ---- edges and dtypes ----
@forms
@dtypes
def test_attention_14_scores_far_apart_give_the_value_of_the_highest(implementation, profile):
    inputs = arrays(20)
    inputs["k"][:] = 0
    inputs["k"][:, 1] = 90.0
    inputs["q"][:] = 90.0
    out = run(inputs, implementation=implementation, dtype=DTYPES[profile], causal=False)
    tensor = torch.tensor(inputs["v"][:, 1:2], dtype=DTYPES[profile])
    assert_same(out, tensor.repeat_interleave(N // K, dim=2).expand(B, S, N, H))


@forms
@dtypes
def test_attention_16_long_rows_keep_their_weight(implementation, profile):
    t = 521
    inputs = {"q": np.zeros((1, 1, 3, H)), "k": draw(21, (1, t, 1, H)), "v": np.ones((1, t, 1, H))}
    agree(oracle.attention, attention, inputs, profile=profile, face_options={"implementation": implementation})


@forms
def test_attention_19_a_padded_float16_row_is_finite(implementation):
    mask = np.ones((B, T, T), bool)
    mask[0, :, :3] = False
    out = run(arrays(22, s=T), implementation=implementation, dtype=torch.float16, mask=mask)
    assert torch.isfinite(out).all()
    assert (out[0, :3] == 0).all() and (out[0, 3:] != 0).all()


def test_attention_17_dropout_scales_what_it_keeps():
    inputs = {name: torch.tensor(x) for name, x in arrays(23).items()}
    torch.manual_seed(0)
    dropped = torch.stack([attention(**inputs, dropout=0.25) for _ in range(400)])
    plain = attention(**inputs)
    assert (dropped[0] != plain).any()
    spread = dropped.std(dim=0) * 6 / 400**0.5  # six standard errors
    assert ((dropped.mean(dim=0) - plain).abs() <= spread).all()


def test_attention_17_a_module_drops_in_training_alone_weights_and_output():
    shape = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 8}
    torch.manual_seed(0)
    plain, dropping = Attention(ModelConfig(**shape)), Attention(ModelConfig(**shape, dropout=0.5))
    dropping.load_state_dict(plain.state_dict())
    x, table = torch.randn(2, 3, 8), torch.zeros(3, 2)
    expected, _ = plain.train()(x, table + 1, table)
    assert_same(dropping.eval()(x, table + 1, table)[0], expected)
    out, _ = dropping.train()(x, table + 1, table)
    kept = out != 0
    assert 0.2 < kept.double().mean() < 0.8  # the output's dropout
    assert (out[kept] != 2 * expected[kept]).any()  # and that of the weights before it


# ---- refusals ----
def changed(**replacements):
    return {**arrays(24), "mask": random_mask(24), **replacements}


REFUSED = {
    "rank of q": (changed(q=np.ones((B, S, H))), r"q has 3 axes"),
    "rank of k": (changed(k=np.ones((B, T, K))), r"k has 3 axes"),
    "batch of k": (changed(k=np.ones((3, T, K, H)), v=np.ones((3, T, K, H))), r"k.* 3.* 2|k has shape \(3"),
    "head width": (changed(k=np.ones((B, T, K, 6)), v=np.ones((B, T, K, 6))), r"k.* 6.* 4|k has shape \(2, 5, 2, 6"),
    "shape of v": (changed(v=np.ones((B, T, 3, H))), r"v.*\(2, 5, 3, 4\).*\(2, 5, 2, 4\)"),
    "groups": (changed(k=np.ones((B, T, 5, H)), v=np.ones((B, T, 5, H))), r"q.* 6 .*k.* 5\b|k.* 5 .* 6 .*q"),
    "no query": (changed(q=np.ones((B, 0, N, H)), mask=None), r"q.* 0|\(2, 0, 6, 4\)"),
    "no key": (changed(k=np.ones((B, 0, K, H)), v=np.ones((B, 0, K, H)), mask=None), r"k.* 0|\(2, 0, 2, 4\)"),
    "mask's shape": (changed(mask=np.ones((B, S, 6), bool)), r"mask.*\(2, 3, 6\).*\(2, 3, 5\)"),
    "mask's rank": (changed(mask=np.ones((S, T), bool)), r"mask.*\(3, 5\).*\(2, 3, 5\)"),
    "scale": (changed(scale=math.nan), "scale=nan must be finite"),
    "mask's dtype": (changed(mask=np.ones((B, S, T), np.int64)), r"mask is (torch\.)?int64"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("face", ("oracle", "vjp", "torch"))
def test_attention_18_bad_input_is_refused(case, face):
    inputs, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        if face == "oracle":
            oracle.attention(**inputs)
        elif face == "vjp":
            oracle.attention_vjp(**inputs, cotangent=inputs["q"])
        else:
            attention(**{n: torch.tensor(x) if isinstance(x, np.ndarray) else x for n, x in inputs.items()})


def test_attention_18_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match=r"implementation='flash'.*explicit.*sdpa"):
        run(arrays(25), implementation="flash")


def test_attention_18_a_cotangent_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"cotangent is \(2, 3, 6, 3\) but shape of q is \(2, 3, 6, 4\)"):
        oracle.attention_vjp(**arrays(26), cotangent=np.ones((B, S, N, 3)))


def test_attention_1_inputs_are_left_alone():
    inputs = arrays(27)
    before = {name: x.copy() for name, x in inputs.items()}
    oracle.attention_vjp(**inputs, cotangent=inputs["q"])
    for name in inputs:
        assert_same(value(inputs[name]), before[name])
