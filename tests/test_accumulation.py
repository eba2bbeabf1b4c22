"""Properties of gradient accumulation; each test names the clause of specs/accumulation.md that it checks."""

import numpy as np
import pytest
import torch
from arrays import draw, draw_integers
from hypothesis import given
from hypothesis import strategies as st
from spec_blocks import definition
from strategies import cuts, seeds
from tolerance import assert_same, assert_within

from minimind_ref.optim import accumulation as face
from minimind_ref.oracle import accumulation as oracle
from minimind_ref.oracle.bounded import bound_inputs

FORMS = ["tokens", "mean_of_means"]
FACES = [face, oracle]
counts = st.lists(st.integers(0, 600), min_size=1, max_size=9)
WIDTH = 5


@pytest.mark.parametrize("form", FORMS)
@given(tokens=counts, spare=st.integers(0, 3))
def test_accumulation_5_agrees_with_oracle_and_spec(form, tokens, spare):
    """One correctly rounded division: the same bits."""
    options = {"accumulation_steps": len(tokens) + spare, "form": form}
    expected = oracle.micro_batch_weights(tokens, **options)
    assert face.micro_batch_weights(tokens, **options) == expected
    for kind in ("float", "decimal"):
        assert [float(w) for w in definition("accumulation", kind).micro_batch_weights(tokens, **options)] == expected


@given(number=st.integers(0, 40), steps=st.integers(1, 11))
def test_accumulation_4_windows_agree_with_oracle_and_spec(number, steps):
    cut = face.windows(number, steps)
    assert cut == oracle.windows(number, steps)
    assert [list(w) for w in cut] == definition("accumulation", "float").windows(number, steps)
    assert len(cut) == -(-number // steps)
    assert [i for w in cut for i in w] == list(range(number))
    assert all(len(w) == steps for w in cut[:-1]) and all(cut)


@pytest.mark.parametrize("module", FACES)
def test_accumulation_4_updates_fall_here(module):
    """A known bug of MiniMind (its pull request 698) closed the first window one micro-batch early."""
    assert [w.stop - 1 for w in module.windows(11, 4)] == [3, 7, 10]


def loss_sum(weight: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A loss summed over the tokens of some rows, each of which has a gradient of its own."""
    return ((x @ weight) * y).sum()


def window_gradient(pieces, weights, x, y, supervised) -> torch.Tensor:
    """Backward through every micro-batch of a window, as a training loop does."""
    weight = torch.zeros(WIDTH, dtype=torch.float64, requires_grad=True)
    for piece, factor in zip(pieces, weights, strict=True):
        kept = torch.tensor(supervised[piece])
        (loss_sum(weight, torch.tensor(x[piece])[kept], torch.tensor(y[piece])[kept]) * factor).backward()
    return weight.grad


@st.composite
def batches(draw_):
    """17 tokens' inputs and targets, about half of them supervised, and a cut into micro-batches."""
    seed = draw_(seeds) % 2**31
    supervised = draw_integers(seed, (17,), 0, 2).astype(bool)
    return draw(seed + 1, (17, WIDTH)), draw(seed + 2, (17,)), supervised, draw_(cuts(17, max_pieces=7))


@given(batch=batches(), order=st.randoms(use_true_random=False))
def test_accumulation_3_any_cut_in_any_order_gives_the_gradient_of_the_whole(batch, order):
    x, y, supervised, pieces = batch
    order.shuffle(pieces)
    tokens = [int(supervised[piece].sum()) for piece in pieces]
    weights = face.micro_batch_weights(tokens, accumulation_steps=7)
    carried = bound_inputs(x[supervised] * y[supervised, None], profile="float64")[0] if any(tokens) else None
    got = window_gradient(pieces, weights, x, y, supervised)
    if carried is None:
        assert not got.any()
    else:
        expected = np.sum(carried * 1.0, axis=0) / sum(tokens) * 1.0 * 1.0  # the products above round once more
        assert_within(got, expected)


@pytest.mark.parametrize("module", FACES)
def test_accumulation_3_ranks_share_the_windows_tokens(module):
    """Two ranks, three micro-batches each; a count is that of both ranks, and the gradients are summed."""
    x, y = draw_integers(1, (16, WIDTH), -9, 9).astype(float), draw_integers(2, (16,), -9, 9).astype(float)
    everything = np.ones(16, bool)
    ranks = [[slice(0, 1), slice(1, 4), slice(4, 9)], [slice(9, 11), slice(11, 12), slice(12, 16)]]
    both = [sum(p.stop - p.start for p in pair) for pair in zip(*ranks, strict=True)]
    weights = module.micro_batch_weights(both, accumulation_steps=3)
    summed = sum(window_gradient(pieces, weights, x, y, everything) for pieces in ranks)
    assert_same(summed, window_gradient([slice(0, 16)], [1 / 16], x, y, everything))  # integers / 16: exact


@given(tokens=counts.filter(any))
def test_accumulation_1_shares_add_up_to_one(tokens):
    weights = face.micro_batch_weights(tokens, accumulation_steps=9)
    assert len(set(weights)) == 1
    assert_within(np.array(sum(tokens) * weights[0]), np.array(1.0), bound=2.0**-53)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("module", FACES)
def test_accumulation_2_nothing_supervised_weighs_nothing(module, form):
    assert module.micro_batch_weights([0, 0, 0], accumulation_steps=4, form=form) == [0.0, 0.0, 0.0]
    first, second = module.micro_batch_weights([0, 5], accumulation_steps=2, form=form)
    assert second > 0 and first == (second if form == "tokens" else 0.0)


@pytest.mark.parametrize("module", FACES)
def test_accumulation_6_last_window_has_full_weight(module):
    """Two micro-batches, of 8 and 24 tokens, in a window for four: the shares add up to 1, MiniMind's to 2/4."""
    total = {}
    for form in FORMS:
        first, second = module.micro_batch_weights([8, 24], accumulation_steps=4, form=form)
        total[form] = 8 * first + 24 * second
    assert total == {"tokens": 1.0, "mean_of_means": 0.5}


@given(tokens=st.lists(st.integers(1, 9), min_size=1, max_size=5), spare=st.integers(0, 2))
def test_accumulation_7_mean_of_means_agrees_only_for_equal_counts(tokens, spare):
    options = {"accumulation_steps": len(tokens) + spare}
    same = face.micro_batch_weights(tokens, **options) == face.micro_batch_weights(
        tokens, form="mean_of_means", **options
    )
    assert same == (len(set(tokens)) == 1 and spare == 0)


@given(seed=seeds, pieces=cuts(17, max_pieces=7))
def test_accumulation_8_means_over_sequences_do_not_depend_on_the_cut(seed, pieces):
    (values,) = bound_inputs(draw(seed % 2**31, (17,)), profile="float64")
    sequences = [piece.stop - piece.start for piece in pieces]
    weights = face.micro_batch_weights(sequences, accumulation_steps=7)
    plain = draw(seed % 2**31, (17,))
    got = sum(plain[p].mean() * n * w for p, n, w in zip(pieces, sequences, weights, strict=True))
    assert_within(np.array(got), np.sum(values * 1.0) * 1.0 * 1.0 / 17)  # each mean rounds, and so do n and w


# --- refusals


@pytest.mark.parametrize("module", FACES)
@pytest.mark.parametrize(
    ("tokens", "options", "names"),
    [
        ([3, 2], {"accumulation_steps": 0}, "accumulation_steps.*0 .* at least 1"),
        ([3, 2, 4], {"accumulation_steps": 2}, "token_counts.*"),
        ([], {"accumulation_steps": 2}, "token_counts"),
        ([3, -1], {"accumulation_steps": 2}, "token_counts.*-1"),
        ([3, 2], {"accumulation_steps": 2, "form": "sum"}, "form.*sum"),
    ],
)
def test_accumulation_9_refuses_weights(module, tokens, options, names):
    with pytest.raises(ValueError, match=names):
        module.micro_batch_weights(tokens, **options)


@pytest.mark.parametrize("module", FACES)
@pytest.mark.parametrize(
    ("number", "steps", "names"), [(-1, 4, "num_micro_batches.*-1"), (5, 0, "accumulation_steps.*0")]
)
def test_accumulation_9_refuses_windows(module, number, steps, names):
    with pytest.raises(ValueError, match=names):
        module.windows(number, steps)
