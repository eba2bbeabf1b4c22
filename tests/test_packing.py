"""Packing: every token kept, every label of its own document, and a packed batch costs what its pieces cost alone."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from spec_blocks import definition
from tolerance import assert_same, assert_within, ulps

from minimind_ref import PRESETS, Transformer
from minimind_ref.data import packing
from minimind_ref.loss.cross_entropy import cross_entropy
from minimind_ref.oracle import packing as oracle

PAD = 3  # a pad id that documents hold too, and that is not the default
documents_ = st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=23), min_size=1, max_size=7)
# Each token is its own number: what is lost, repeated or moved shows.
numbered = st.lists(st.integers(1, 23), min_size=1, max_size=7).map(
    lambda sizes: [list(range(100 * d, 100 * d + size)) for d, size in enumerate(sizes, 1)]
)
lengths = st.integers(2, 13)


@st.composite
def with_masks(draw, documents):
    """Documents, and for each a mask, now and then all zeros or all ones."""
    documents = draw(documents)
    flags = draw(st.sampled_from([st.booleans(), st.integers(0, 1), st.just(0), st.just(True)]))
    return documents, [draw(st.lists(flags, min_size=len(d), max_size=len(d))) for d in documents]


def assert_rows_equal(rows, expected):
    assert rows._fields == oracle.Rows._fields
    for array, want in zip(rows, expected, strict=True):
        assert_same(array, np.asarray(want))


@given(documents=documents_, length=lengths, pad_id=st.sampled_from([0, PAD]))
def test_packing_1_pack_agrees_with_oracle_and_definition(documents, length, pad_id):
    rows = packing.pack(documents, length, pad_id=pad_id)
    assert_rows_equal(rows, oracle.pack(documents, length, pad_id=pad_id))
    assert_rows_equal(rows, definition("packing", "float").pack(documents, length, pad_id=pad_id))


@given(documents=documents_, length=lengths, pad_id=st.sampled_from([0, PAD]), keep_end=st.booleans())
def test_packing_9_pad_agrees_with_oracle_and_definition(documents, length, pad_id, keep_end):
    rows = packing.pad(documents, length, pad_id=pad_id, keep_end=keep_end)
    assert_rows_equal(rows, oracle.pad(documents, length, pad_id=pad_id, keep_end=keep_end))
    assert_rows_equal(rows, definition("packing", "float").pad(documents, length, pad_id=pad_id, keep_end=keep_end))


def test_packing_1_documents_may_be_arrays():
    arrays = [np.array([1, 7, 2], np.uint16), np.array([1, 8, 9, 2], np.int32)]
    assert_rows_equal(packing.pack(arrays, 5), packing.pack([array.tolist() for array in arrays], 5))


@given(documents=numbered, length=lengths)
def test_packing_1_conserves_tokens_in_order(documents, length):
    rows = packing.pack(documents, length)
    assert rows.input_ids[rows.segment_ids >= 0].tolist() == [token for document in documents for token in document]


@given(documents=documents_, length=lengths)
def test_packing_2_only_the_end_of_the_last_row_is_padding(documents, length):
    rows = packing.pack(documents, length, pad_id=PAD)
    total = sum(map(len, documents))
    assert rows.input_ids.shape == (-(-total // length), length)
    flat = rows.segment_ids.reshape(-1)
    assert (flat[:total] >= 0).all()
    assert (flat[total:] == -1).all()


@given(documents=numbered, length=lengths)
def test_packing_3_segments_are_the_pieces_in_order(documents, length):
    rows = packing.pack(documents, length)
    for ids, segments in zip(rows.input_ids, rows.segment_ids, strict=True):
        kept = segments[segments >= 0]
        owners = ids[segments >= 0] // 100
        assert kept[0] == 0
        assert ((np.diff(kept) == 0) == (np.diff(owners) == 0)).all()
        assert set(np.diff(kept)) <= {0, 1}


@given(documents=numbered, length=lengths)
def test_packing_4_positions_restart_at_each_piece(documents, length):
    rows = packing.pack(documents, length)
    for segments, positions in zip(rows.segment_ids, rows.position_ids, strict=True):
        for piece in range(segments.max() + 1):
            assert positions[segments == piece].tolist() == list(range((segments == piece).sum()))


@given(documents=numbered, length=lengths)
def test_packing_6_every_token_but_the_first_is_predicted_once_from_the_one_before_it(documents, length):
    rows = packing.pack(documents, length)
    learnt = rows.labels >= 0
    pairs = sorted(zip(rows.input_ids[learnt].tolist(), rows.labels[learnt].tolist(), strict=True))
    assert pairs == sorted(pair for d in documents for pair in pairwise(d))
    assert set(rows.labels[~learnt].tolist()) <= {-100}


def test_packing_5_a_label_crosses_the_end_of_a_row():
    rows = packing.pack([[11, 12], [21, 22, 23, 24, 25, 26, 27]], 3)
    assert rows.labels.tolist() == [[12, -100, 22], [23, 24, 25], [26, 27, -100]]


@given(documents=st.lists(st.lists(st.just(PAD), min_size=2, max_size=9), min_size=1, max_size=5), length=lengths)
def test_packing_7_padding_is_known_by_place_not_by_id(documents, length):
    for rows in (packing.pack(documents, length, pad_id=PAD), packing.pad(documents, length, pad_id=PAD)):
        padding = rows.segment_ids == -1
        assert (rows.input_ids == PAD).all()
        assert (rows.labels[padding] == -100).all()
        assert (rows.position_ids[padding] == 0).all()
        assert (rows.labels != -100).any()
    learnt = sum(len(d) - 1 for d in documents)
    assert (packing.pack(documents, length, pad_id=PAD).labels == PAD).sum() == learnt


@given(documents=numbered, length=lengths)
def test_packing_10_pad_drops_what_is_too_long_and_never_learns_it(documents, length):
    rows = packing.pad(documents, length)
    for document, ids, labels, segments in zip(documents, rows.input_ids, rows.labels, rows.segment_ids, strict=True):
        kept = document[:length]
        assert ids[segments == 0].tolist() == kept
        assert labels[labels >= 0].tolist() == kept[1:]


@pytest.mark.parametrize("face", [packing, oracle], ids=["product", "oracle"])
def test_packing_7_9_padding_is_0_and_the_end_is_cut_unless_told(face):
    documents = [[11, 12, 13, 14], [21]]
    assert face.pack(documents, 3).input_ids.tolist() == [[11, 12, 13], [14, 21, 0]]
    rows = face.pad(documents, 3)
    assert rows.input_ids.tolist() == [[11, 12, 13], [21, 0, 0]]
    assert rows.labels.tolist() == [[12, 13, -100], [-100] * 3]


@given(documents=numbered, length=lengths)
def test_packing_14_keep_end_keeps_the_last_token_and_learns_it(documents, length):
    assume(any(len(document) > length for document in documents))
    rows = packing.pad(documents, length, keep_end=True)
    for document, ids, labels in zip(documents, rows.input_ids, rows.labels, strict=True):
        if len(document) > length:
            assert ids.tolist() == [*document[: length - 1], document[-1]]
            assert labels.tolist() == [*ids[1:].tolist(), -100]
        else:
            assert document[-1] in ids.tolist()


@given(data=st.data(), documents=numbered, length=lengths)
def test_packing_11_permuting_documents_permutes_rows(data, documents, length):
    order = data.draw(st.permutations(range(len(documents))))
    rows = packing.pad(documents, length)
    assert_rows_equal(packing.pad([documents[d] for d in order], length), [array[order] for array in rows])


@pytest.fixture(scope="module")
def network():
    network = Transformer(PRESETS["tiny"], generator=torch.Generator().manual_seed(5)).double()
    with torch.no_grad():  # a fresh network attends almost evenly, and then positions hardly matter
        for layer in network.model.layers:
            layer.self_attn.q_proj.weight.mul_(8)
            layer.self_attn.k_proj.weight.mul_(8)
    return network


def costs(network, ids, labels, **options):
    """The summed loss and every parameter's gradient."""
    network.zero_grad(set_to_none=True)
    loss = cross_entropy(network(ids, **options).logits.flatten(0, 1), labels.flatten(), reduction="sum")
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in network.named_parameters()}


def batch(documents, length):
    return [torch.from_numpy(array) for array in packing.pack(documents, length)]


DOCUMENTS = [[1, *range(10 + 7 * d, 10 + 7 * d + size), 2] for d, size in enumerate([5, 2, 11, 3, 0, 17])]
REORDERED = "the same sums in another order through four layers, the scores of sharp attention among them"


def test_packing_8_packed_documents_cost_what_they_cost_alone(network):
    ids, labels, segments, positions = batch(DOCUMENTS, 13)
    loss, gradients = costs(network, ids, labels, position_ids=positions, segment_ids=segments)
    pieces = [
        costs(network, row_ids[s == piece][None], row_labels[s == piece][None])
        for row_ids, row_labels, s in zip(ids, labels, segments, strict=True)
        for piece in range(int(s.max()) + 1)
    ]
    assert len(pieces) > len(ids) > 2
    alone = sum(piece_loss for piece_loss, _ in pieces)
    assert_within(np.array(loss), np.array(alone), ulps(64, "float64", reason=REORDERED))
    for name, gradient in gradients.items():
        expected = sum(piece_gradients[name] for _, piece_gradients in pieces)
        assert expected.abs().max() > 0
        # units of the largest entry: a small one is what is left of large terms that cancel
        bound = ulps(4096, "float64", reason=REORDERED).of(np.full(expected.shape, expected.abs().max().item()))
        assert_within(gradient, expected, bound)


def test_packing_8_packing_changes_nothing_for_whole_documents(network):
    documents = DOCUMENTS[:5]
    whole = batch(documents, sum(map(len, documents)))
    ids, labels, segments, positions = whole
    loss, _ = costs(network, ids, labels, position_ids=positions, segment_ids=segments)
    ids, labels, segments, _ = map(torch.from_numpy, packing.pad(documents, 13))
    padded, _ = costs(network, ids, labels, attention_mask=(segments >= 0).long())
    assert_within(np.array(loss), np.array(padded), ulps(64, "float64", reason=REORDERED))


def test_packing_8_without_segments_the_loss_is_another(network):
    ids, labels, segments, positions = batch(DOCUMENTS, 13)
    right, _ = costs(network, ids, labels, position_ids=positions, segment_ids=segments)
    only_causal, _ = costs(network, ids, labels, position_ids=positions)
    far = ulps(2**40, "float64", reason="another function, not another rounding")
    with pytest.raises(AssertionError, match="outside their bound"):
        assert_within(np.array(only_causal), np.array(right), far)


def test_packing_8_positions_matter_only_without_the_mask(network):
    ids, labels, segments, positions = batch(DOCUMENTS, 13)
    right, _ = costs(network, ids, labels, position_ids=positions, segment_ids=segments)
    running_on, _ = costs(network, ids, labels, segment_ids=segments)
    assert_within(np.array(running_on), np.array(right), ulps(4096, "float64", reason="rotations by other angles"))
    naive, _ = costs(network, ids, labels)
    assert naive != costs(network, ids, labels, position_ids=positions)[0]


@given(masked=with_masks(documents_), length=lengths, pad_id=st.sampled_from([0, PAD]))
def test_packing_15_pack_agrees_with_oracle_and_definition(masked, length, pad_id):
    documents, supervised = masked
    options = dict(pad_id=pad_id, supervised=supervised)
    rows = packing.pack(documents, length, **options)
    assert_rows_equal(rows, oracle.pack(documents, length, **options))
    assert_rows_equal(rows, definition("packing", "float").pack(documents, length, **options))


@given(masked=with_masks(documents_), length=lengths, keep_end=st.booleans())
def test_packing_15_pad_agrees_with_oracle_and_definition(masked, length, keep_end):
    documents, supervised = masked
    options = dict(pad_id=PAD, keep_end=keep_end, supervised=supervised)
    rows = packing.pad(documents, length, **options)
    assert_rows_equal(rows, oracle.pad(documents, length, **options))
    assert_rows_equal(rows, definition("packing", "float").pad(documents, length, **options))


@given(masked=with_masks(numbered), length=lengths)
def test_packing_15_the_labels_are_the_supervised_tokens_and_nothing_else_changes(masked, length):
    documents, supervised = masked
    rows, plain = packing.pack(documents, length, supervised=supervised), packing.pack(documents, length)
    targets = [t for d, s in zip(documents, supervised, strict=True) for t in np.array(d[1:])[np.array(s[1:], bool)]]
    assert rows.labels[rows.labels >= 0].tolist() == targets
    assert set(rows.labels[rows.labels < 0].tolist()) <= {-100}
    assert (rows.labels == plain.labels)[rows.labels >= 0].all()
    assert_rows_equal(rows._replace(labels=plain.labels), plain)


@given(masked=with_masks(numbered), length=lengths)
def test_packing_15_a_document_cut_inside_a_span_keeps_the_labels_that_are_left(masked, length):
    documents, supervised = masked
    rows = packing.pad(documents, length, supervised=supervised)
    for document, mask, labels in zip(documents, supervised, rows.labels, strict=True):
        kept = zip(document[1:length], mask[1:length], strict=True)
        assert labels[labels >= 0].tolist() == [token for token, is_learnt in kept if is_learnt]


@given(documents=documents_, length=lengths, keep_end=st.booleans())
def test_packing_15_a_mask_of_ones_changes_nothing(documents, length, keep_end):
    ones = [[1] * len(document) for document in documents]
    assert_rows_equal(packing.pack(documents, length, supervised=ones), packing.pack(documents, length))
    options = dict(length=length, keep_end=keep_end)
    assert_rows_equal(packing.pad(documents, supervised=ones, **options), packing.pad(documents, **options))


@pytest.mark.parametrize("face", [packing, oracle], ids=["product", "oracle"])
def test_packing_15_the_mask_is_the_targets_across_the_end_of_a_row_too(face):
    documents, supervised = [[11, 12], [21, 22, 23, 24, 25, 26, 27]], [[0, 1], [0, 0, 1, 1, 0, 0, 1]]
    rows = face.pack(documents, 3, supervised=supervised)
    assert rows.labels.tolist() == [[12, -100, -100], [23, 24, -100], [-100, 27, -100]]
    rows = face.pad(documents, 6, supervised=supervised)
    assert rows.labels.tolist() == [[12] + 5 * [-100], [-100, 23, 24, -100, -100, -100]]
    for length, second in ((4, [-100, 23, 27, -100]), (7, [-100, 23, 24, -100, -100, 27, -100])):
        rows = face.pad(documents, length, keep_end=True, supervised=supervised)
        assert rows.labels.tolist() == [[12] + (length - 1) * [-100], second]
    rows = face.pad(documents, 4, keep_end=True, supervised=[[0, 0], [1, 1, 1, 1, 1, 1, 0]])
    assert rows.labels.tolist() == [4 * [-100], [22, 23, -100, -100]]


def test_packing_15_an_end_token_that_is_the_padding_too_is_learnt():
    rows = packing.pad([[1, 5, PAD, 4, 6, PAD]], 8, pad_id=PAD, supervised=[[0, 0, 0, 0, 1, 1]])
    assert rows.labels.tolist() == [[-100, -100, -100, 6, PAD, -100, -100, -100]]


@pytest.mark.parametrize("face", [packing, oracle], ids=["product", "oracle"])
@pytest.mark.parametrize("function", ["pack", "pad"])
def test_packing_16_refusals(face, function):
    rows_of = getattr(face, function)
    with pytest.raises(ValueError, match=r"supervised\D+1\D+documents\D+2"):
        rows_of([[1, 2], [3]], 4, supervised=[[1, 1]])
    with pytest.raises(ValueError, match=r"supervised\[1\]\D+2\D+documents\[1\]\D+3"):
        rows_of([[1, 2], [3, 4, 5]], 4, supervised=[[1, 1], [1, 1]])
    for wrong in (2, -1, 0.5):
        with pytest.raises(ValueError, match=rf"supervised\[1\] holds {wrong}\D"):
            rows_of([[1, 2], [3, 4]], 4, supervised=[[1, 1], [0, wrong]])


@pytest.mark.parametrize("face", [packing, oracle], ids=["product", "oracle"])
@pytest.mark.parametrize("function", ["pack", "pad"])
def test_packing_12_refusals(face, function):
    rows_of = getattr(face, function)
    with pytest.raises(ValueError, match=r"length\D+1\D+2"):
        rows_of([[1, 2]], 1)
    with pytest.raises(ValueError, match=r"documents.* 0.* 1"):
        rows_of([], 4)
    with pytest.raises(ValueError, match=r"documents\[1\].* 0.* 1"):
        rows_of([[1, 2], []], 4)
    with pytest.raises(ValueError, match=r"documents\[1\].* -1"):
        rows_of([[1, 2], [4, -1]], 4)
    with pytest.raises(ValueError, match=r"documents\[0\].* (\[1, 2\]|2 axes)"):
        rows_of([[[1, 2]]], 4)
    with pytest.raises(ValueError, match=r"documents\[0\].* (float64|1\.0)"):
        rows_of([[1.0, 2.0]], 4)
    with pytest.raises(ValueError, match=r"pad_id=-1"):
        rows_of([[1, 2]], 4, pad_id=-1)


def test_packing_13_a_documents_own_endoftext_is_learnt():
    rows = packing.pad([[1, 0, 0, 2]], 6, pad_id=0)
    assert rows.labels.tolist() == [[0, 0, 2, -100, -100, -100]]


def test_packing_15_without_a_mask_every_token_may_be_a_label():
    tokens, starts = np.array([5, 6, 7, 8]), np.array([0, 2])
    given_ = packing.packed_row(tokens, starts, 5, pad_id=9, supervised=np.ones(4, bool))
    for found, expected in zip(packing.packed_row(tokens, starts, 5, pad_id=9), given_, strict=True):
        assert_same(found, expected)


def test_packing_7_a_row_of_nothing():
    blank = packing.blank_row(3, pad_id=9)
    assert [x.tolist() for x in blank] == [[9] * 3, [-100] * 3, [-1] * 3, [0] * 3]
