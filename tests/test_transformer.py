"""Clauses of specs/transformer.md: the three generators (cuts, paddings, packs) and the model without autograd."""

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arrays import draw, draw_integers
from decimals import composed, slope
from hypothesis import example, given, settings
from hypothesis import strategies as st
from spec_blocks import floats
from strategies import cuts, paddings, seeds
from test_block import KINDS, SHAPE, bounded, kinds
from tolerance import DTYPES, assert_same, assert_within

from minimind_ref.config import ModelConfig, count_parameters
from minimind_ref.loss.cross_entropy import cross_entropy
from minimind_ref.model.rms_norm import RMSNorm, rms_norm
from minimind_ref.model.transformer import Transformer, number_sequences
from minimind_ref.oracle import transformer as oracle
from minimind_ref.oracle.block import block_vjp
from minimind_ref.oracle.bounded import bound, value

B, S, V = 3, 5, SHAPE["vocab_size"]
EMBEDDING, HEAD = oracle.EMBEDDING, oracle.HEAD
YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
MODELS = {
    **KINDS,
    "yarn": {"rope_scaling": {"type": "yarn", **YARN}, "tie_word_embeddings": False},
    "yarn-minimind3": {**KINDS["minimind-3"], "rope_scaling": {"type": "yarn-minimind3", **YARN}},
    "yarn-minimind2": {"use_moe": True, "aux_loss_form": "batch", "rope_scaling": {"type": "yarn-minimind2", **YARN}},
}
SMALL = {**SHAPE, "num_attention_heads": 4}
few = settings(max_examples=3)  # each example runs whole models with their bounds
models = pytest.mark.parametrize("name", MODELS)
dtypes = pytest.mark.parametrize("profile", DTYPES)
some_kind = st.sampled_from(list(KINDS))


def model_config(name, **changes):
    return ModelConfig(**{**SMALL, **MODELS[name], **changes})


def parameters_of(config, seed=1, scale=0.5):
    """Weights of a model, none of them neutral."""
    shapes = oracle.parameter_shapes(config.to_dict())
    return {
        name: draw(seed % 2**20 * 100 + i, shape, scale) + (1.0 if "norm" in name else 0.0)
        for i, (name, shape) in enumerate(shapes.items())
    }


def model_of(config, parameters, dtype=torch.float64):
    """The torch face with these weights, strictly loaded under their own names."""
    model = Transformer(config).to(dtype).eval()
    state = {name: torch.tensor(p) for name, p in parameters.items()}
    if config.tie_word_embeddings:
        state[HEAD] = state[EMBEDDING]
    model.load_state_dict(state)
    return model


def ids_of(seed=1, shape=(B, S)):
    return draw_integers(seed % 2**28, shape, 0, V)


def run(model, ids, **inputs):
    given_tensors = {n: torch.tensor(x) if isinstance(x, np.ndarray) else x for n, x in inputs.items()}
    with torch.no_grad():
        return model(torch.tensor(ids), **given_tensors)


def limits(config, parameters, ids, **inputs):
    """The oracle's logits, loss and cache with their bounds."""
    return oracle.transformer(bounded(parameters), ids, config.to_dict(), **inputs)


def masks():
    """One row padded left, one not at all, one right."""
    mask = np.ones((B, S), int)
    mask[0, :2] = 0
    mask[2, 4:] = 0
    return mask


PACKED = np.array([[0, 0, 0, 1, 1], [5, 5, 5, 5, 5], [2, 1, 1, 2, -1]])


# ---- agreement, and the gradient of every parameter ----
@models
def test_transformer_1_and_12_loss_and_every_gradient_agree_with_the_oracle(name):
    config = model_config(name)
    parameters, ids = parameters_of(config, scale=0.25), ids_of()
    options = {"attention_mask": masks(), "segment_ids": PACKED}
    labels = ids_of(2)
    labels[0, :2] = labels[2, 4] = -100
    model = model_of(config, parameters)
    out = model(torch.tensor(ids), **{n: torch.tensor(x) for n, x in options.items()})
    logits, aux, cache = limits(config, parameters, ids, **options)
    report = assert_within(out.logits, logits)
    assert report.median_bound_over_value < 1e-7
    assert_within(out.aux_loss, aux)
    for (keys, values), (k, v) in zip(out.cache, cache, strict=True):
        assert_within(keys, k)
        assert_within(values, v)
    nll = F.cross_entropy(out.logits.reshape(-1, V), torch.tensor(labels).reshape(-1), reduction="sum")
    loss = nll / int((labels != -100).sum()) + out.aux_loss
    expected, shares = oracle.loss_and_gradients(bounded(parameters), ids, labels, config.to_dict(), **options)
    assert_within(loss, expected)
    loss.backward()
    found = {EMBEDDING if config.tie_word_embeddings and n == HEAD else n: p.grad for n, p in model.named_parameters()}
    assert found.keys() == shares.keys()
    for parameter, gradient in found.items():
        assert_within(gradient, shares[parameter])


@pytest.mark.parametrize("name", ("minimind2", "minimind-3-moe", "yarn"))
@pytest.mark.parametrize("number", ("float", "decimal"))
def test_transformer_1_definition_agrees_with_the_oracle(name, number):
    config = model_config(name)
    parameters, ids = parameters_of(config, 3), ids_of(3, (2, 3))
    inputs = {"attention_mask": np.array([[0, 1, 1], [1, 1, 1]]), "segment_ids": np.array([[0, 0, 0], [1, 1, 2]])}
    logits, aux, _ = composed("transformer", number).transformer(parameters, ids, config.to_dict(), **inputs)
    expected = limits(config, parameters, ids, **inputs)
    assert_within(floats(logits), expected[0])
    assert_within(float(aux), expected[1])


def test_transformer_11_gradients_are_the_definitions_derivatives():
    config = model_config("minimind2-moe", num_hidden_layers=1)
    parameters, ids = parameters_of(config, 4), ids_of(4, (2, 3))
    directions = {"parameters": {name: draw(90 + i, p.shape) for i, (name, p) in enumerate(parameters.items())}}
    cotangent = (draw(5, (2, 3, V)), np.float64(0.9))
    define = composed("transformer", "decimal").transformer
    exact = slope(
        lambda parameters: define(parameters, ids, config.to_dict())[:2],
        {"parameters": parameters}, directions, (cotangent[0], 0.9),
    )  # fmt: skip
    shares = oracle.transformer_vjp(bounded(parameters), ids, config.to_dict(), cotangent=cotangent)
    total = sum(np.sum(shares[n] * directions["parameters"][n]) for n in shares if n != EMBEDDING)
    assert_within(exact, total + np.sum(shares[EMBEDDING] * directions["parameters"][EMBEDDING]))


@models
def test_transformer_11_each_layer_s_step_from_stored_activations(name):
    """The running bound of a whole backward pass grows with depth: one layer at a time it stays small."""
    config = model_config(name)
    parameters, ids = parameters_of(config, 2), ids_of(2)
    model, stored = model_of(config, parameters), {}
    for layer, module in enumerate(model.model.layers):
        module.register_forward_pre_hook(lambda _, args, layer=layer: stored.update({layer: args[0]}))
    last, cotangent = len(model.model.layers), torch.tensor(draw(3, (B, S, V)))
    model.model.norm.register_forward_pre_hook(lambda _, args: stored.update({last: args[0]}))
    out = model(torch.tensor(ids), segment_ids=torch.tensor(PACKED))
    streams = [stored[layer] for layer in range(last + 1)]
    names, sources = zip(*model.named_parameters(), strict=True)
    pulled = torch.autograd.grad((out.logits * cotangent).sum() + 0.5 * out.aux_loss, [*streams, *sources])
    along, found = pulled[: last + 1], dict(zip(names, pulled[last + 1 :], strict=True))
    plan = oracle._plan(bounded(parameters), ids, config.to_dict(), None, None, PACKED, None)
    for layer in range(last):
        dx, shares = block_vjp(
            bounded(streams[layer].detach().numpy()), oracle._layer(bounded(parameters), layer), plan.cos, plan.sin,
            **oracle._options(config.to_dict(), plan, layer),
            cotangent=(along[layer + 1].numpy(), np.float64(0.5)),
        )  # fmt: skip
        assert assert_within(along[layer], dx).median_bound_over_value < 1e-7
        for name, share in shares.items():
            assert_within(found[f"model.layers.{layer}.{name}"], share)


def test_transformer_12_the_normaliser_and_the_aux_weight_are_free():
    config = model_config("minimind2-moe")
    parameters, ids, labels = parameters_of(config, 5), ids_of(5), ids_of(6)
    whole = oracle.loss_and_gradients(bounded(parameters), ids, labels, config.to_dict(), normaliser=4, aux_weight=0)
    aux = limits(config, parameters, ids)[1]
    mean = oracle.loss_and_gradients(bounded(parameters), ids, labels, config.to_dict())
    both = whole[0] * (4 / (B * S)) + aux
    assert_within(value(mean[0]), value(both), bound(mean[0]) + bound(both))
    silent = oracle.loss_and_gradients(parameters, ids, np.full((B, S), -100), config.to_dict(), aux_weight=0)
    assert silent[0] == 0 and all((g == 0).all() for g in silent[1].values())
    single = np.where(np.arange(B * S).reshape(B, S) == 7, labels, -100)
    alone, summed = (
        oracle.loss_and_gradients(parameters, ids, single, config.to_dict(), aux_weight=0, **given)[0]
        for given in ({}, {"normaliser": 1})
    )
    assert_same(alone, summed)


# ---- names, head, positions ----
@models
def test_transformer_18_names_and_sizes_are_minimind_s(name):
    config = model_config(name)
    shapes = oracle.parameter_shapes(config.to_dict())
    state = Transformer(config).state_dict()
    assert set(state) - set(shapes) == ({HEAD} if config.tie_word_embeddings else set())
    assert all(tuple(state[n].shape) == shape for n, shape in shapes.items())
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == count_parameters(config).total


def test_transformer_2_a_tied_head_gets_the_sum_of_both_gradients():
    tied, untied = model_config("minimind2"), model_config("minimind2", tie_word_embeddings=False)
    parameters, ids, labels = parameters_of(tied, 7), ids_of(7), ids_of(8)
    apart = {**parameters, HEAD: parameters[EMBEDDING]}
    one = oracle.loss_and_gradients(bounded(parameters), ids, labels, tied.to_dict())[1]
    two = oracle.loss_and_gradients(bounded(apart), ids, labels, untied.to_dict())[1]
    both = two[EMBEDDING] + two[HEAD]
    assert_within(value(one[EMBEDDING]), value(both), bound(both) + bound(one[EMBEDDING]))
    assert (value(two[EMBEDDING]) != 0).any() and (value(two[HEAD]) != 0).any()
    assert_same(
        oracle.transformer(apart, ids, tied.to_dict())[0], oracle.transformer(parameters, ids, tied.to_dict())[0]
    )


def test_transformer_3_positions_start_after_the_cache_and_may_be_given():
    config = model_config("minimind-3")
    parameters, ids = parameters_of(config, 9), ids_of(9)
    model = model_of(config, parameters)
    plain = run(model, ids).logits
    default = np.tile(np.arange(S), (B, 1))
    assert_same(plain, run(model, ids, position_ids=default).logits)
    shifted = run(model, ids, position_ids=default + 9).logits
    room = bound(limits(config, parameters, ids)[0]) + bound(
        limits(config, parameters, ids, position_ids=default + 9)[0]
    )
    assert_within(shifted, plain.numpy(), room)
    assert (run(model, ids, position_ids=2 * default).logits[:, 2:] != plain[:, 2:]).any()
    past = run(model, ids[:, :2]).cache
    later = run(model, ids[:, 2:], cache=past, position_ids=default[:, 2:]).logits
    assert_same(later, run(model, ids[:, 2:], cache=past).logits)


@pytest.mark.parametrize("kind, table", (("yarn", 8), ("yarn", 40), ("yarn-minimind3", 16), ("yarn-minimind3", 17),
                                         ("yarn-minimind2", 16), ("yarn-minimind2", 17)))  # fmt: skip
def test_transformer_10_minimind_s_yarn_needs_a_table_longer_than_the_original(kind, table):
    scaled = model_config("minimind2", max_position_embeddings=table, rope_scaling={"type": kind, **YARN})
    plain = model_config("minimind2", max_position_embeddings=table)
    parameters, ids = parameters_of(plain, 10), ids_of(10)
    acts = kind == "yarn" or table > 16
    left, right = (run(model_of(c, parameters), ids).logits for c in (scaled, plain))
    assert (left != right).any() == acts
    assert_within(left, limits(scaled, parameters, ids)[0])


def test_transformer_10_the_original_length_is_2048_unless_given():
    scaling = {"type": "yarn-minimind3", "factor": 4.0}
    for table, acts in ((2048, False), (2049, True)):
        shape = {"max_position_embeddings": table, "rope_theta": 1e6}
        config = model_config("minimind2", **shape, rope_scaling=scaling)
        assert (oracle._scaling(config.to_dict()) is not None) == acts
        plain = model_config("minimind2", **shape)
        parameters, ids = parameters_of(plain, 10), ids_of(10)
        same = torch.equal(*(run(model_of(c, parameters), ids).logits for c in (config, plain)))
        assert same != acts


# ---- generator 1: padding ----
@few
@given(some_kind, seeds, paddings(B, S))
@example("minimind2", 29, ("left", [3, 5, 2]))
@example("minimind-3-moe", 30, ("right", [4, 1, 3]))
def test_transformer_4_a_padded_row_is_the_row_alone(kind, seed, padding):
    side, sizes = padding
    config = model_config(kind)
    parameters, ids = parameters_of(config, seed), ids_of(seed)
    model, mask = model_of(config, parameters), np.zeros((B, S), int)
    spans = [slice(S - n, S) if side == "left" else slice(0, n) for n in sizes]
    for row, span in enumerate(spans):
        mask[row, span] = 1
    out = run(model, ids, attention_mask=mask)
    room = bound(limits(config, parameters, ids, attention_mask=mask)[0])
    other = np.where(mask == 1, ids, (ids + 1) % V)
    assert torch.isfinite(out.logits).all()
    changed = run(model, other, attention_mask=mask)
    for row, span in enumerate(spans):
        alone = run(model, ids[row : row + 1, span]).logits
        limit = room[row, span] + bound(limits(config, parameters, ids[row : row + 1, span])[0])[0]
        assert_within(out.logits[row, span], alone[0].numpy(), limit)
        if not config.use_moe:  # TRANSFORMER-5; grouped experts may round in another order
            assert_same(out.logits[row, span], changed.logits[row, span])
        assert_within(changed.logits[row, span], out.logits[row, span].numpy(), 2 * room[row, span])
    assert_within(
        changed.aux_loss, out.aux_loss.numpy(), 2 * bound(limits(config, parameters, ids, attention_mask=mask)[1])
    )


@pytest.mark.parametrize("side", ("right", "left"))
def test_transformer_4_training_needs_a_mask_for_padding_on_the_left_alone(side):
    """A false alarm (MiniMind #448, #751): under the causal rule nothing that is learnt sees padding on the right."""
    config = model_config("minimind2")
    parameters, ids = parameters_of(config, 26, scale=0.25), ids_of(26)
    labels, mask = ids_of(27), np.ones((B, S), int)
    padding = np.s_[1:, S - 2 :] if side == "right" else np.s_[1:, :2]
    labels[padding], mask[padding] = -100, 0
    given_mask = oracle.loss_and_gradients(bounded(parameters), ids, labels, config.to_dict(), attention_mask=mask)
    model = model_of(config, parameters)
    loss = cross_entropy(model(torch.tensor(ids)).logits, torch.tensor(labels))
    loss.backward()
    head = model.lm_head.weight.grad
    if side == "right":
        assert_within(loss, given_mask[0])
        assert_within(head, given_mask[1][EMBEDDING])
    else:
        off = abs(head.numpy() - value(given_mask[1][EMBEDDING])) / abs(value(given_mask[1][EMBEDDING])).max()
        assert off.max() > 0.01


@dtypes
@pytest.mark.parametrize("implementation", ("explicit", "sdpa"))
@kinds
def test_transformer_14_and_19_padding_is_finite_in_every_dtype(profile, implementation, kind):
    config = model_config(kind)
    model = model_of(config, parameters_of(config, 11, scale=0.3), DTYPES[profile])
    for layer in model.model.layers:
        layer.self_attn.implementation = implementation
    mask = masks()
    mask[1] = 0  # nothing but padding
    out = model(torch.tensor(ids_of(11)), torch.tensor(mask))
    assert torch.isfinite(out.logits).all() and torch.isfinite(out.aux_loss)
    out.logits.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    alone = run(model, ids_of(11)[2:, :4]).logits
    together = run(model, ids_of(11)[[2, 1]], attention_mask=mask[[2, 1]]).logits
    assert (
        together.shape[-1] == alone.shape[-1]
        and (together[0, :4].argmax(-1) == alone[0].argmax(-1)).float().mean() >= 0.5
    )


def test_transformer_9_padding_counts_in_the_balance_loss_only_on_request():
    ids, mask = ids_of(12), masks()
    for form in ("sequence", "slots"):
        for counts in (False, True):
            config = model_config("minimind2-moe", aux_loss_form=form, aux_loss_counts_padding=counts)
            parameters = parameters_of(config, 12)
            model = model_of(config, parameters)
            loss = run(model, ids, attention_mask=mask).aux_loss
            assert_within(loss, limits(config, parameters, ids, attention_mask=mask)[1])
            changed = run(model, np.where(mask == 1, ids, (ids + 3) % V), attention_mask=mask).aux_loss
            room = 2 * bound(limits(config, parameters, ids, attention_mask=mask)[1])
            assert (abs(float(changed) - float(loss)) > room) == counts


# ---- generator 2: packs ----
@few
@given(some_kind, seeds, cuts(S, max_pieces=3), st.booleans())
def test_transformer_6_packed_documents_are_the_documents_alone(kind, seed, pieces, restart):
    config = model_config(kind, aux_loss_form="sequence")
    parameters, ids, labels = parameters_of(config, seed), ids_of(seed, (1, S)), ids_of(seed // 2, (1, S))
    segments = np.concatenate([np.full(p.stop - p.start, 7 - i) for i, p in enumerate(pieces)])[None]
    positions = np.concatenate([np.arange(p.stop - p.start) for p in pieces])[None]
    packed = {"segment_ids": segments, **({"position_ids": positions} if restart else {})}
    model = model_of(config, parameters)
    whole, parts = gradients(model, ids, labels, **packed), [gradients(model, ids[:, p], labels[:, p]) for p in pieces]
    out, logits = run(model, ids, **packed), limits(config, parameters, ids, **packed)
    for piece in pieces:
        alone = run(model, ids[:, piece])
        room = bound(logits[0])[:, piece] + bound(limits(config, parameters, ids[:, piece])[0])
        assert_within(out.logits[:, piece], alone.logits.numpy(), room)
    room = bound(logits[1]) + sum(bound(limits(config, parameters, ids[:, p])[1]) for p in pieces)
    mean_aux = sum(float(run(model, ids[:, p]).aux_loss) for p in pieces) / len(pieces)
    assert_within(out.aux_loss, mean_aux, room)
    assert_gradients_add_up(config, parameters, ids, labels, packed, whole, parts, pieces)


def assert_gradients_add_up(config, parameters, ids, labels, packed, whole, parts, pieces):
    """The summed losses' gradients: those of the pack are the sum of the documents'."""
    arguments = (bounded(parameters), ids, labels, config.to_dict())
    room = oracle.loss_and_gradients(*arguments, normaliser=1, aux_weight=0, **packed)[1]
    for name, gradient in whole.items():
        total = sum(part[name] for part in parts)
        assert_within(gradient, total.numpy(), (1 + len(pieces)) * bound(room[name]))


def gradients(model, ids, labels, **inputs):
    """Gradients of the summed cross-entropy, by parameter."""
    tied = model.config.tie_word_embeddings
    logits = model(torch.tensor(ids), **{n: torch.tensor(x) for n, x in inputs.items()}).logits
    loss = F.cross_entropy(logits.reshape(-1, V), torch.tensor(labels).reshape(-1), reduction="sum")
    names, sources = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)
    return {EMBEDDING if tied and n == HEAD else n: g for n, g in zip(names, found, strict=True)}


def test_transformer_6_and_7_a_document_goes_on_after_a_cache():
    config = model_config("minimind2-moe")
    parameters, ids = parameters_of(config, 13), ids_of(13)
    model = model_of(config, parameters)
    whole, limit = run(model, ids, segment_ids=PACKED), limits(config, parameters, ids, segment_ids=PACKED)
    past = run(model, ids[:, :2], segment_ids=PACKED[:, :2]).cache
    late = run(model, ids[:, 2:], segment_ids=PACKED, cache=past)
    assert_within(late.logits, whole.logits[:, 2:].numpy(), 2 * bound(limit[0])[:, 2:])
    kept = [(value(k)[:, :2], value(v)[:, :2]) for k, v in limit[2]]
    logits, aux, _ = oracle.transformer(parameters, ids[:, 2:], config.to_dict(), segment_ids=PACKED, cache=kept)
    assert_within(logits, whole.logits[:, 2:].numpy(), 2 * bound(limit[0])[:, 2:])
    assert_within(late.aux_loss, aux, 2 * bound(limit[1]))


def test_transformer_6_a_negative_segment_is_padding():
    config = model_config("minimind2-moe")
    parameters, ids = parameters_of(config, 13), ids_of(13)
    model, other = model_of(config, parameters), ids.copy()
    other[2, 4] = (other[2, 4] + 1) % V
    left, right = (run(model, x, segment_ids=PACKED) for x in (ids, other))
    limit = limits(config, parameters, ids, segment_ids=PACKED)
    assert_within(left.logits[2, :4], right.logits[2, :4].numpy(), 2 * bound(limit[0])[2, :4])
    assert_within(left.aux_loss, right.aux_loss.numpy(), 2 * bound(limit[1]))
    assert (left.logits[2, 4] != right.logits[2, 4]).any()


def test_transformer_6_without_segments_documents_do_see_each_other():
    config = model_config("minimind-3")
    model, ids = model_of(config, parameters_of(config, 13)), ids_of(13)
    apart, together = (run(model, ids, **x).logits for x in ({"segment_ids": PACKED}, {}))
    assert (apart[0, 3:] != together[0, 3:]).all()
    assert_same(apart[1], together[1])


def test_transformer_9_equal_segments_of_two_rows_are_two_sequences():
    for segments in ([[3, 3, 5], [3, 5, 5], [5, 4, 3]], [[-2, -2, -1], [-1, -2, 0], [0, 0, 0]]):
        numbers = number_sequences(torch.tensor(segments)).flatten().tolist()
        named = [(row, segment) for row, segments_of_row in enumerate(segments) for segment in segments_of_row]
        assert len(set(numbers)) == len(set(named)) == len(set(zip(numbers, named, strict=True)))


def test_transformer_18_a_model_starts_as_its_generator_says():
    first, second, other = (
        Transformer(C, generator=torch.Generator().manual_seed(seed)).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_transformer_9_a_sequence_is_a_document_of_a_row():
    config = model_config("minimind2-moe")
    parameters, ids = parameters_of(config, 14), ids_of(14)
    model = model_of(config, parameters)
    renamed = np.array([[9, 9, 9, 2, 2], [2, 2, 2, 2, 2], [3, 9, 9, 3, -4]])
    first, second = (run(model, ids, segment_ids=x) for x in (PACKED, renamed))
    assert_same(first.aux_loss, second.aux_loss)
    assert_within(first.aux_loss, limits(config, parameters, ids, segment_ids=PACKED)[1])
    assert first.aux_loss != run(model, ids).aux_loss


# ---- generator 3: cuts with a cache ----
@few
@given(some_kind, seeds, cuts(S), st.booleans())
def test_transformer_7_any_cut_with_a_cache_is_one_pass(kind, seed, pieces, padded):
    config = model_config(kind)
    parameters, ids = parameters_of(config, seed), ids_of(seed)
    model, mask = model_of(config, parameters), masks() if padded else np.ones((B, S), int)
    whole = run(model, ids, attention_mask=mask)
    limit = limits(config, parameters, ids, attention_mask=mask)
    cache = None
    for piece in pieces:
        seen = {"attention_mask": mask[:, : piece.stop]} if padded else {}
        out = run(model, ids[:, piece], cache=cache, **seen)
        for old, new in zip(cache or (), out.cache, strict=False):
            assert_same(new.keys[:, : piece.start], old.keys)
            assert_same(new.values[:, : piece.start], old.values)
        cache = out.cache
        assert_within(out.logits, whole.logits[:, piece].numpy(), 2 * bound(limit[0])[:, piece])
    assert all(layer.keys.shape[1] == S for layer in cache)


def test_transformer_7_the_oracle_continues_after_a_cache():
    config = model_config("minimind2-moe")
    parameters, ids, mask = parameters_of(config, 15), ids_of(15), masks()
    cache = limits(config, parameters, ids[:, :3], attention_mask=mask[:, :3])[2]
    late, aux, _ = limits(config, parameters, ids[:, 3:], attention_mask=mask, cache=cache)
    whole = limits(config, parameters, ids, attention_mask=mask)[0]
    assert_within(late.value, whole.value[:, 3:], bound(late) + bound(whole)[:, 3:])
    model = model_of(config, parameters)
    past = run(model, ids[:, :3], attention_mask=mask[:, :3]).cache
    out = run(model, ids[:, 3:], attention_mask=mask, cache=past)
    assert_within(out.logits, late)
    assert_within(out.aux_loss, aux)
    plain = [(value(k), value(v)) for k, v in cache]
    shares = oracle.transformer_vjp(
        parameters, ids[:, 3:], config.to_dict(), attention_mask=mask, cache=plain, cotangent=(draw(16, (B, 2, V)), 1.0)
    )
    assert shares.keys() == parameters.keys()


# ---- isolation and symmetries ----
@kinds
def test_transformer_13_later_tokens_and_other_rows_do_not_reach_a_logit(kind):
    config = model_config(kind)
    parameters, ids = parameters_of(config, 17), ids_of(17)
    model, other = model_of(config, parameters), ids.copy()
    other[0, 3:] = (other[0, 3:] + 1) % V
    other[1] = (other[1] + 2) % V
    left, right = run(model, ids).logits, run(model, other).logits
    room = 2 * bound(limits(config, parameters, ids)[0])[0, :3] if config.use_moe else np.zeros((3, V))
    assert_within(right[0, :3], left[0, :3].numpy(), room)
    assert (left[0, 3:] != right[0, 3:]).any()


@kinds
def test_transformer_15_without_outward_projections_the_head_reads_the_embedding(kind):
    config = model_config(kind)
    parameters, ids = parameters_of(config, 18), ids_of(18)
    for name, p in parameters.items():
        if "o_proj" in name or "down_proj" in name:
            p[:] = 0
    short = {n: p for n, p in parameters.items() if ".layers." not in n or ".layers.0." in n}
    one = model_config(kind, num_hidden_layers=1)
    assert_same(run(model_of(config, parameters), ids).logits, run(model_of(one, short), ids).logits)
    y = run(model_of(config, parameters), ids).logits
    embedding, gain = (torch.tensor(parameters[name]) for name in (EMBEDDING, "model.norm.weight"))
    normed = rms_norm(embedding[torch.tensor(ids)], gain, eps=config.rms_norm_eps, cast=config.norm_cast)
    assert_same(y, F.linear(normed, torch.tensor(parameters.get(HEAD, parameters[EMBEDDING]))))


@kinds
def test_transformer_16_the_width_and_the_vocabulary_have_no_order(kind):
    config = model_config(kind)
    parameters, ids = parameters_of(config, 19), ids_of(19)
    order, names = np.array([4, 0, 5, 2, 1, 3]), np.array([3, 7, 1, 10, 0, 6, 9, 2, 8, 5, 4])
    turned = {}
    for name, p in parameters.items():
        outward = "o_proj" in name or "down_proj" in name
        turned[name] = (
            p if "q_norm" in name or "k_norm" in name else p[order] if outward or p.ndim == 1 else p[:, order]
        )
    left, right = (run(model_of(config, p), ids).logits for p in (parameters, turned))
    room = bound(limits(config, parameters, ids)[0]) + bound(limits(config, turned, ids)[0])
    assert_within(left, right.numpy(), room)
    renamed = {**parameters, EMBEDDING: parameters[EMBEDDING][np.argsort(names)]}
    moved = run(model_of(config, renamed), names[ids]).logits
    assert_within(moved[..., names], left.numpy(), 2 * room)


@kinds
def test_transformer_8_the_balance_loss_is_the_layers_sum_in_evaluation_too(kind):
    config = model_config(kind)
    parameters, ids = parameters_of(config, 20), ids_of(20)
    model = model_of(config, parameters)
    evaluated = run(model.eval(), ids).aux_loss
    assert_same(evaluated, run(model.train(), ids).aux_loss)
    assert evaluated.shape == () and (evaluated > 0) == config.use_moe
    double = model_of(model_config(kind, aux_loss_coef=2 * config.aux_loss_coef), parameters)
    assert_same(run(double, ids).aux_loss, 2 * evaluated)


@kinds
def test_transformer_20_halving_a_step_quarters_the_remainder(kind):
    config = model_config(kind)
    parameters, ids, labels = parameters_of(config, 21), ids_of(21), ids_of(22)
    loss, shares = oracle.loss_and_gradients(parameters, ids, labels, config.to_dict())
    square = sum(float((g**2).sum()) for g in shares.values())
    model = model_of(config, parameters)

    def remainder(step):
        with torch.no_grad():
            for n, p in model.named_parameters():
                known = EMBEDDING if config.tie_word_embeddings and n == HEAD else n
                p.copy_(torch.tensor(parameters[known] - step * shares[known]))
            out = run(model, ids)
            moved = F.cross_entropy(out.logits.reshape(-1, V), torch.tensor(labels).reshape(-1)) + out.aux_loss
        return float(moved) - float(loss) + step * square

    ratio = remainder(2e-4 / square) / remainder(1e-4 / square)
    assert 3.8 < ratio < 4.2  # 4 to first order in the step: a typed unit would hide what is tested


@pytest.mark.parametrize("cast", ["before", "after"])
def test_transformer_1_every_norm_has_the_configuration_s_epsilon_and_cast(cast):
    config = ModelConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        qk_norm=True, rms_norm_eps=3e-4, norm_cast=cast,
    )  # fmt: skip
    norms = [module for module in Transformer(config).modules() if isinstance(module, RMSNorm)]
    assert len(norms) == 2 * 4 + 1 and {(norm.eps, norm.cast) for norm in norms} == {(3e-4, cast)}


def test_dropout_acts_in_training_on_embedding_weights_and_both_branches(monkeypatch):
    """Every call is counted, with its probability; and what it gives is used: zeroed, it changes the logits."""
    config = model_config("minimind2").replace(dropout=0.25)
    model, ids = model_of(config, parameters_of(config)), torch.tensor(ids_of())
    calls, zeroed, real = [], [None], F.scaled_dot_product_attention

    def dropout(x, p, training):
        calls.append(("branch", tuple(x.shape), p * training))
        return x * (len(calls) - 1 != zeroed[0])

    def sdpa(*inputs, dropout_p, **options):
        calls.append(("weights", tuple(inputs[0].shape), dropout_p))
        return real(*inputs, **options)

    monkeypatch.setattr(F, "dropout", dropout)
    monkeypatch.setattr(F, "scaled_dot_product_attention", sdpa)
    plain = model.train()(ids).logits
    stream, layers = (B, S, config.hidden_size), config.num_hidden_layers
    assert [(kind, p) for kind, _, p in calls] == [
        ("branch", 0.25),
        *[("weights", 0.25), *[("branch", 0.25)] * 2] * layers,
    ]
    assert all(shape == stream for kind, shape, _ in calls if kind == "branch")
    for call in [i for i, (kind, *_) in enumerate(calls) if kind == "branch"]:
        calls.clear()
        zeroed[0] = call
        assert (model(ids).logits != plain).any()
    calls.clear()
    zeroed[0] = None
    model.eval()(ids)
    assert {p for *_, p in calls} == {0.0}


# ---- refusals ----
C = model_config("minimind2")
P = parameters_of(C)
CACHE = [(np.ones((B, 2, 2, 4)), np.ones((B, 2, 2, 4)))] * 2
REFUSED = {
    "an id too large": ({"input_ids": ids_of() + V}, r"input_ids holds .*11"),
    "an id below 0": ({"input_ids": ids_of() - V}, r"input_ids holds -.*11"),
    "rank": ({"input_ids": ids_of(1, (S,))}, "input_ids has 1 axes"),
    "no token": ({"input_ids": np.zeros((B, 0), int)}, r"input_ids.*(is 0|\(3, 0\))"),
    "no row": ({"input_ids": np.zeros((0, S), int)}, r"input_ids.*(is 0|\(0, 5\))"),
    "mask": ({"attention_mask": np.ones((B, 4), int)}, r"attention_mask.*\(3, 4\).*\(3, 5\)"),
    "mask's halves": ({"attention_mask": np.full((B, S), 0.5)}, r"attention_mask holds 0\.5"),
    "one of the mask's values": ({"attention_mask": masks() + np.eye(B, S, 4, dtype=int)}, "attention_mask holds 2"),
    "mask's values": ({"attention_mask": np.full((B, S), 2)}, r"attention_mask holds 2"),
    "segments": ({"segment_ids": np.ones((B, 4), int)}, r"segment_ids.*\(3, 4\).*\(3, 5\)"),
    "positions": ({"position_ids": np.ones((B, 4), int)}, r"position_ids.*\(3, 4\).*\(3, 5\)"),
    "a position beyond the table": ({"position_ids": np.full((B, S), 40)}, r"position_ids holds 40.*40"),
    "a position below 0": ({"position_ids": np.full((B, S), -1)}, r"position_ids holds -1.*40"),
    "more tokens than positions": ({"input_ids": ids_of(1, (B, 41))}, r"4[01].*40"),
    "cache's depth": ({"cache": CACHE[:1]}, r"cache.* 1 .*2"),
    "cache's batch": ({"cache": [(np.ones((2, 2, 2, 4)),) * 2] * 2}, r"cached keys.*\(2, 2, 2, 4\).*\(3, 2, 2, 4\)"),
    "cache's lengths": (
        {"cache": [CACHE[0], (np.ones((B, 3, 2, 4)),) * 2]}, r"cached keys.*\(3, 3, 2, 4\).*\(3, 2, 2, 4\)"
    ),
    "segments without the cache": ({"cache": CACHE, "segment_ids": PACKED}, r"segment_ids.*\(3, 5\).*\(3, 7\)"),
    "mask without the cache": ({"cache": CACHE, "attention_mask": masks()}, r"attention_mask.*\(3, 5\).*\(3, 7\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("face", ("oracle", "torch"))
def test_transformer_17_bad_input_is_refused(case, face):
    changes, message = REFUSED[case]
    arguments = {"input_ids": ids_of(), **changes}
    with pytest.raises(ValueError, match=message):
        if face == "oracle":
            oracle.transformer(P, config=C.to_dict(), **arguments)
        else:
            run_arrays(model_of(C, P), **arguments)


def run_arrays(model, input_ids, cache=None, **inputs):
    from minimind_ref.model.attention import KeyValue

    past = None if cache is None else tuple(KeyValue(torch.tensor(k), torch.tensor(v)) for k, v in cache)
    return run(model, input_ids, cache=past, **inputs)


def test_transformer_17_a_row_may_fill_the_table():
    limit = C.max_position_embeddings
    assert run(model_of(C, P), ids_of(1, (1, limit))).logits.shape[1] == limit


@pytest.mark.parametrize("name", ["input_ids", "position_ids", "segment_ids"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bool])
def test_transformer_17_numbers_that_are_not_integers_are_refused(name, dtype):
    arguments = {"input_ids": torch.tensor(ids_of()), name: torch.tensor(ids_of()).to(dtype)}
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=f"{name} has dtype {dtype}"):
            model_of(C, P)(**arguments)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16])
def test_transformer_17_every_kind_of_integer_will_do(dtype):
    ids, model = torch.tensor(ids_of()), model_of(C, P)
    assert_same(model(ids.to(dtype)).logits, model(ids).logits)


ORACLE_REFUSED = {
    "missing": ({n: p for n, p in P.items() if n != "model.norm.weight"}, "lacks 'model.norm.weight'"),
    "unknown": ({**P, "model.bias": np.ones(3)}, "unknown name 'model.bias'"),
    "shape": ({**P, "model.norm.weight": np.ones(5)}, r"model.norm.weight.*\(5,\).*\(6,\)"),
    "another head": ({**P, HEAD: P[EMBEDDING] + 1}, "lm_head.weight.*differs.*tie_word_embeddings"),
}


@pytest.mark.parametrize("case", ORACLE_REFUSED)
def test_transformer_17_parameters_that_do_not_fit_are_refused(case):
    parameters, message = ORACLE_REFUSED[case]
    with pytest.raises(ValueError, match=message):
        oracle.transformer(parameters, ids_of(), C.to_dict())
    if case != "another head":
        with pytest.raises(RuntimeError):
            model_of(C, parameters)


def test_transformer_17_a_cotangent_or_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"cotangent is \(3, 5, 4\) but shape of the logits is \(3, 5, 11\)"):
        oracle.transformer_vjp(P, ids_of(), C.to_dict(), cotangent=(np.ones((B, S, 4)), 0.0))
    with pytest.raises(ValueError, match=r"labels is \(3, 4\) but shape of input_ids is \(3, 5\)"):
        oracle.loss_and_gradients(P, ids_of(), ids_of(1, (B, 4)), C.to_dict())


@models
def test_transformer_21_logits_of_some_positions_only(name):
    config = model_config(name)
    parameters, ids = parameters_of(config), ids_of()
    wanted = draw_integers(5, (B, S), 0, 2).astype(bool)
    assert 0 < wanted.sum() < B * S and not wanted[:, 0].all()
    model = model_of(config, parameters)
    whole, some = run(model, ids, attention_mask=masks()), run(model, ids, attention_mask=masks(), logits_mask=wanted)
    logits, _, _ = limits(config, parameters, ids, attention_mask=masks())
    assert_within(some.logits, value(logits)[wanted], bound(logits)[wanted])
    assert_same(some.aux_loss, whole.aux_loss)
    for one, other in zip(some.cache, whole.cache, strict=True):
        assert_same(one.keys, other.keys)
    with pytest.raises(ValueError, match=r"logits_mask has shape \(3, 4\) but must have \(3, 5\)"):
        run(model, ids, logits_mask=wanted[:, 1:])
