"""Rows read from disk are those of `packing`; batches lose nothing, however they are cut."""

from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from byte_tokenizer import ByteTokenizer
from hypothesis import given
from hypothesis import strategies as st

from minimind_ref.data.batches import batches, collate, epoch_order, micro_steps, shares, trimmed
from minimind_ref.data.packing import IGNORE, pack, pad
from minimind_ref.data.rows import PackedRows, PaddedRows
from minimind_ref.data.token_file import split
from minimind_ref.data.token_writer import write_token_file

TEXTS = ["first", "the second text", "3", "and a fourth one which is rather long", "five!", "sixth", "a seventh"]
texts_strategy = st.lists(st.text("abc", min_size=1, max_size=30), min_size=1, max_size=15)


def token_file(folder, texts=TEXTS, wrap=True):
    return write_token_file(texts, ByteTokenizer(), cache_dir=folder, name="x", wrap=wrap, settings={"texts": texts})


def documents(tokens):
    return [tokens.document(i) for i in range(tokens.num_documents)]


def same(a, b):
    """Whether two batches are equal in every field."""
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True))


# -- rows --


@given(texts_strategy, st.integers(2, 23), st.booleans())
def test_packed_rows_are_those_of_pack(tmp_path_factory, texts, length, wrap):
    whole = token_file(tmp_path_factory.mktemp("cache"), texts, wrap)
    for view in (whole, *split(whole, 0.3, 3)):
        rows = PackedRows(view, length, pad_id=9)
        if view.num_documents == 0:
            assert len(rows) == 0
            continue
        expected = pack(documents(view), length, pad_id=9)
        assert len(rows) == len(expected.input_ids)
        for field, column in enumerate(expected):
            np.testing.assert_array_equal(
                np.stack([row[field] for row in map(rows.__getitem__, range(len(rows)))]), column
            )


@given(texts_strategy, st.integers(2, 23), st.booleans(), st.sampled_from([None, True, False]))
def test_padded_rows_are_those_of_pad(tmp_path_factory, texts, length, wrap, keep_end):
    whole = token_file(tmp_path_factory.mktemp("cache"), texts, wrap)
    for view in (whole, split(whole, 0.3, 3)[0]):
        rows = PaddedRows(view, length, pad_id=9, keep_end=keep_end)
        expected = pad(documents(view), length, pad_id=9, keep_end=wrap if keep_end is None else keep_end)
        assert len(rows) == len(expected.input_ids)
        for field, column in enumerate(expected):
            np.testing.assert_array_equal(
                np.stack([row[field] for row in map(rows.__getitem__, range(len(rows)))]), column
            )


def test_padding_is_id_0_unless_told(tmp_path):
    tokens = token_file(tmp_path, ["a", "bcdefgh"])
    for kind in (PackedRows, PaddedRows):
        assert (
            kind(tokens, 20)[0].input_ids[-1] == 0 == pack([[5]], 2).input_ids[0, -1] == pad([[5]], 2).input_ids[0, -1]
        )


def test_a_row_that_is_not_there_is_refused(tmp_path):
    for rows in (PackedRows(token_file(tmp_path), 7), PaddedRows(token_file(tmp_path), 7)):
        for row in (-1, len(rows)):
            with pytest.raises(IndexError, match=f"row {row} of {len(rows)}"):
                rows[row]
        with pytest.raises(ValueError, match="length=1 must be at least 2"):
            type(rows)(rows.tokens, 1)


def test_a_wrapped_text_is_cut_before_it_is_wrapped(tmp_path):
    rows = PaddedRows(token_file(tmp_path, ["abcdefgh"]), 6)
    assert rows[0].input_ids.tolist() == [1, *(byte + 3 for byte in b"abcd"), 2]


# -- steps and order --


@pytest.mark.parametrize(
    ("samples", "batch_size", "epochs", "world_size", "steps"),
    [
        (1_413_103, 8, 1, 1, 176_638),
        (1_214_724, 16, 2, 1, 151_842),  # the seed says 151,840
        (1_413_103, 16, 1, 1, 88_319),  # the seed says 88,318
        (1_413_103, 8, 1, 2, 88_319),
        (17, 4, 3, 2, 9),
        (16, 4, 3, 2, 6),
        (1, 4, 1, 2, 1),
        (0, 4, 1, 1, 0),
    ],
)
def test_micro_steps_round_up_in_every_epoch(samples, batch_size, epochs, world_size, steps):
    assert micro_steps(samples, batch_size, epochs, world_size) == steps
    if (epochs, world_size) == (1, 1):
        assert micro_steps(samples, batch_size) == steps


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((-1, 4), "samples=-1 must be at least 0"),
        ((5, 0), "batch_size=0 must be at least 1"),
        ((5, 4, 0), "epochs=0 must be at least 1"),
        ((5, 4, 1, 0), "world_size=0 must be at least 1"),
    ],
)
def test_micro_steps_of_nothing_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        micro_steps(*numbers)


@given(st.integers(0, 10**9), st.integers(1, 10**4), st.integers(1, 64))
def test_micro_steps_are_those_of_the_rank_with_most_samples(samples, batch_size, world_size):
    of_a_rank = -(-samples // world_size)
    assert micro_steps(samples, batch_size, 1, world_size) == -(-of_a_rank // batch_size)


@given(st.integers(1, 500), st.integers(0, 2**63), st.integers(0, 9))
def test_an_order_holds_every_row_once_and_depends_on_seed_and_epoch_only(samples, seed, epoch):
    order = epoch_order(samples, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(samples))
    assert order.tolist() == epoch_order(samples, seed=seed, epoch=epoch).tolist()


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(epoch_order(50, seed=seed, epoch=epoch).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    assert epoch_order(50, seed=0, epoch=3, shuffle=False).tolist() == list(range(50))


def test_an_order_is_the_same_on_every_numpy():
    """Recorded with NumPy 1.26 and 2.x: resuming a run elsewhere must not reshuffle its data."""
    assert epoch_order(12, seed=42, epoch=1).tolist() == [10, 1, 2, 8, 11, 5, 3, 9, 6, 0, 4, 7]


# -- batches --


@given(
    texts=texts_strategy,
    batch_size=st.integers(1, 4),
    world_size=st.integers(1, 4),
    padded=st.booleans(),
    shuffle=st.booleans(),
)
def test_ranks_see_together_what_one_would(tmp_path_factory, texts, batch_size, world_size, padded, shuffle):
    rows = (PaddedRows if padded else PackedRows)(token_file(tmp_path_factory.mktemp("cache"), texts), 7)
    common = dict(seed=3, epoch=1, shuffle=shuffle)
    whole = list(batches(rows, batch_size=batch_size * world_size, **common))
    ranks = [
        list(batches(rows, batch_size=batch_size, rank=rank, world_size=world_size, **common))
        for rank in range(world_size)
    ]
    assert {len(rank) for rank in ranks} == {len(whole)} == {micro_steps(len(rows), batch_size, 1, world_size)}
    for together, parts in zip(whole, zip(*ranks, strict=True), strict=True):
        blank = [share for share in parts if share.num_documents == 0]
        assert all((share.labels == IGNORE).all() and len(share.labels) == 1 for share in blank)
        parts = [share for share in parts if share.num_documents]
        for name in ("input_ids", "labels", "segment_ids", "position_ids", "attention_mask"):
            if getattr(together, name) is not None:
                assert torch.equal(torch.cat([getattr(share, name) for share in parts]), getattr(together, name))
        for count in ("num_targets", "num_documents"):
            assert sum(getattr(share, count) for share in parts) == getattr(together, count)


@given(texts_strategy, st.integers(2, 9), st.integers(1, 4), st.integers(1, 3))
def test_an_epoch_of_packed_batches_predicts_every_pair_once(tmp_path_factory, texts, length, batch_size, world_size):
    tokens = token_file(tmp_path_factory.mktemp("cache"), texts)
    seen = Counter()
    for rank in range(world_size):
        share = dict(batch_size=batch_size, rank=rank, world_size=world_size)
        for batch in batches(PackedRows(tokens, length), seed=0, epoch=0, **share):
            taught = batch.labels != IGNORE
            seen.update(zip(batch.input_ids[taught].tolist(), batch.labels[taught].tolist(), strict=True))
            assert batch.num_targets == taught.sum()
    assert seen == Counter(pair for document in documents(tokens) for pair in pairwise(document.tolist()))


@pytest.mark.parametrize("kind", [PackedRows, PaddedRows])
@pytest.mark.parametrize("world_size", [1, 2])
def test_starting_later_gives_the_rest(tmp_path, kind, world_size):
    rows = kind(token_file(tmp_path), 7)
    common = dict(batch_size=2, seed=5, epoch=2, rank=world_size - 1, world_size=world_size)
    whole = list(batches(rows, **common))
    assert len(whole) > 1
    for start in range(len(whole) + 2):
        rest = list(batches(rows, start=start, **common))
        assert len(rest) == max(0, len(whole) - start)
        assert all(map(same, rest, whole[start:]))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # the tokenizers library's
def test_workers_change_nothing(tmp_path):
    rows = PackedRows(token_file(tmp_path), 7)
    one, two = (list(batches(rows, batch_size=3, seed=1, epoch=0, num_workers=workers)) for workers in (0, 1))
    assert len(one) == len(two) > 2
    assert all(map(same, one, two))


def test_rows_are_shuffled_unless_asked_otherwise(tmp_path):
    rows = PackedRows(token_file(tmp_path), 7)
    told, untold = (list(batches(rows, batch_size=3, seed=1, epoch=2, **more)) for more in ({"shuffle": True}, {}))
    assert all(map(same, told, untold))
    order = epoch_order(len(rows), seed=1, epoch=2).tolist()
    assert torch.cat([batch.input_ids for batch in told]).tolist() == [rows[i].input_ids.tolist() for i in order]
    assert not all(map(same, untold, batches(rows, batch_size=3, seed=1, epoch=2, shuffle=False)))
    assert np.array_equal(epoch_order(9, seed=1, epoch=2), epoch_order(9, seed=1, epoch=2, shuffle=True))


def test_shares_follow_the_epochs_order():
    order = epoch_order(11, seed=1, epoch=4).tolist()
    assert list(chain(*shares(11, batch_size=3, seed=1, epoch=4))) == order
    assert order != epoch_order(11, seed=4, epoch=1).tolist()
    assert list(shares(11, batch_size=2, seed=1, epoch=4, rank=1, world_size=3, start=1)) == [order[8:10]]


def test_a_trimmed_batch_loses_the_columns_that_are_padding_in_every_row(tmp_path):
    tokens = token_file(tmp_path, ["a", "bcd", "e"])  # 3, 5 and 3 tokens
    (padded,) = batches(PaddedRows(tokens, 8, pad_id=9), batch_size=9, seed=0, epoch=0, shuffle=False)
    cut = trimmed(padded)
    for whole, part in zip(padded, cut, strict=True):
        assert torch.equal(part, whole[:, :5]) if isinstance(whole, torch.Tensor) else part == whole
    assert padded.attention_mask[:, 4].any() and not padded.attention_mask[:, 5:].any()
    nothing = trimmed(collate([], packed=False, length=8, pad_id=9))
    assert nothing.input_ids.tolist() == [[9]] and nothing.attention_mask.tolist() == [[0]]
    (packed,) = batches(PackedRows(tokens, 8), batch_size=9, seed=0, epoch=0)
    assert trimmed(packed) is packed


def test_the_global_generator_is_left_alone(tmp_path):
    before = torch.random.get_rng_state()
    list(batches(PackedRows(token_file(tmp_path), 7), batch_size=3, seed=1, epoch=0))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_packed_batch_counts_pieces_and_a_padded_one_documents(tmp_path):
    tokens = token_file(tmp_path, ["a", "bcdefgh", "i"])  # 3 + 9 + 3 tokens
    (packed,) = batches(PackedRows(tokens, 8), batch_size=9, seed=0, epoch=0, shuffle=False)
    assert packed.attention_mask is None
    assert packed.segment_ids.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, -1]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 2, 3, 0, 1, 2, 0]]
    assert (packed.num_documents, packed.num_targets) == (4, 12)
    (padded,) = batches(PaddedRows(tokens, 8), batch_size=9, seed=0, epoch=0, shuffle=False)
    assert padded.segment_ids is padded.position_ids is None
    assert padded.attention_mask.tolist() == [[1] * 3 + [0] * 5, [1] * 8, [1] * 3 + [0] * 5]
    assert (padded.num_documents, padded.num_targets) == (3, 11)
    (by_place,) = batches(PaddedRows(tokens, 8, pad_id=1), batch_size=9, seed=0, epoch=0, shuffle=False)
    assert torch.equal(by_place.attention_mask, padded.attention_mask)  # 1 is the start token's id, too
    tensors = (packed.input_ids, packed.labels, packed.segment_ids, packed.position_ids, padded.attention_mask)
    assert {tensor.dtype for tensor in tensors} == {torch.int64}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"rank": 2, "world_size": 2}, "rank=2 must lie between 0 and world_size=2 less one"),
        ({"rank": -1}, "rank=-1 must lie"),
        ({"start": -1}, "start=-1 must not be negative"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        batches(PackedRows(token_file(tmp_path), 7), **{"batch_size": 2, "seed": 0, "epoch": 0, **arguments})
