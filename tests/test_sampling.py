"""Clauses of specs/sampling.md."""

import math

import numpy as np
import pytest
import torch
from arrays import draw, draw_integers
from hypothesis import given
from hypothesis import strategies as st
from spec_blocks import definition, floats
from strategies import arrays, seeds
from tolerance import DTYPES, agree, assert_same, assert_within

from minimind_ref.generate import sampling
from minimind_ref.oracle import sampling as oracle
from minimind_ref.oracle.bounded import bound, bound_inputs, softmax, value

B, V, T = 5, 13, 7  # rows, vocabulary, ids of a history
SETTINGS = (
    {"temperature": 0.7},
    {"top_k": 4},
    {"top_p": 0.8},
    {"min_p": 0.07},
    {"temperature": 1.3, "top_k": 9, "top_p": 0.9, "min_p": 0.11},
    {"temperature": 0.4, "top_k": 6, "min_p": 0.01},
    {"temperature": 0.0, "top_k": 3, "top_p": 0.5},
)
each_profile = pytest.mark.parametrize("profile", DTYPES)
each_setting = pytest.mark.parametrize("options", SETTINGS, ids=str)
each_kind = pytest.mark.parametrize("kind", ("float", "decimal"))
rows = arrays((B, V), low=-1, high=2).filter(lambda z: all(len(set(row)) == V for row in z.tolist()))  # without ties
HIDDEN = -np.inf
LOGITS = draw(1, (B, V), 2.0)
IDS = draw_integers(2, (B, T), 0, V)
MASK = draw_integers(3, (B, T), 0, 2).astype(bool)
UNIFORM = (draw(4, (B,), structure="uniform") + 1) / 2.2


def kept(logits, **options):
    """Which tokens the torch face keeps, of logits in float64."""
    return np.isfinite(sampling.filter_logits(torch.tensor(logits), **options).numpy())


def filtered(logits, **options):
    return sampling.filter_logits(torch.tensor(logits), **options).numpy()


def exact(*inputs):
    return bound_inputs(*inputs, profile="float64")


# ---- agreement ----
@each_profile
@each_setting
@pytest.mark.parametrize("structure", ("normal", "ties", "heavy"))
def test_sampling_1_filters_agree_with_the_oracle(profile, options, structure):
    inputs = {"logits": draw(5, (B, V), 2.0, structure)}
    agree(oracle.filter_logits, sampling.filter_logits, inputs, profile=profile, undecided=0.02, **options)


@each_profile
@pytest.mark.parametrize("penalty", (1.3, 0.6))
@pytest.mark.parametrize("mask", (MASK, None), ids=("mask", "all"))
def test_sampling_12_penalty_agrees_with_the_oracle(profile, penalty, mask):
    inputs = {"logits": LOGITS, "ids": IDS}
    masks = {"mask": None if mask is None else torch.tensor(mask)}
    agree(
        lambda **x: oracle.penalise_repetition(**x, penalty=penalty, mask=mask),
        lambda **x: sampling.penalise_repetition(**x, penalty=penalty, **masks),
        inputs,
        profile=profile,
    )


@each_profile
@pytest.mark.parametrize("structure", ("normal", "ties", "heavy"))
def test_sampling_16_choice_agrees_with_the_oracle(profile, structure):
    logits = draw(6, (B, V), 2.0, structure)
    logits[:, 4] = logits[2, 12] = HIDDEN
    agree(oracle.choose_token, sampling.choose_token, {"logits": logits, "uniform": UNIFORM}, profile=profile)


@each_kind
@each_setting
@pytest.mark.parametrize("structure", ("normal", "ties"))
def test_sampling_1_definition_agrees_with_the_oracle(kind, options, structure):
    logits = draw(7, (B, V), 2.0, structure)
    found = definition("sampling", kind).filter_logits(logits, **options)
    assert_within(floats(found), oracle.filter_logits(*exact(logits), **options))


@each_kind
def test_sampling_12_16_definitions_agree_with_the_oracle(kind):
    found = definition("sampling", kind)
    assert_within(
        floats(found.penalise_repetition(LOGITS, IDS, 1.3, mask=MASK)),
        oracle.penalise_repetition(*exact(LOGITS), IDS, 1.3, mask=MASK),
    )
    assert found.choose_token(LOGITS, UNIFORM) == oracle.choose_token(LOGITS, UNIFORM).tolist()


def test_sampling_5_the_oracle_leaves_an_exact_boundary_open_and_nothing_else():
    found = oracle.filter_logits(*exact(np.zeros((1, 8))), top_p=0.5)
    assert np.flatnonzero(np.isinf(bound(found))).tolist() == [4]
    assert np.isinf(bound(oracle.choose_token(*exact(np.zeros((1, 8)), np.array([0.5]))))).all()


def test_sampling_4_the_oracle_leaves_near_ties_with_the_kth_open_and_nothing_else():
    near, equal = (exact(np.array([row])) for row in ([1.0, 1 + 2.0**-52, 0.0], [1.0, 1.0, 0.0]))
    opened = bound(oracle.filter_logits(*near, temperature=3.0, top_k=1))
    assert np.isinf(opened).tolist() == [[True, False, False]]
    found = oracle.filter_logits(*equal, temperature=3.0, top_k=1)
    assert np.isfinite(value(found)).tolist() == [[True, True, False]] and not np.isinf(bound(found)).any()
    near = exact(np.array([[2.0, 1 + 2.0**-52, 1.0]]))
    for top_k in (0, 3, 99):  # all stay, whatever the order of the last two
        assert not np.isinf(bound(oracle.filter_logits(*near, temperature=3.0, top_k=top_k))).any()


# ---- peers ----
@pytest.mark.parametrize(
    "peer, options",
    (
        ("TemperatureLogitsWarper", {"temperature": 0.7}),
        ("TopKLogitsWarper", {"top_k": 4}),
        ("TopPLogitsWarper", {"top_p": 0.8}),
        ("TopPLogitsWarper", {"top_p": 0.0}),
        ("MinPLogitsWarper", {"min_p": 0.07}),
        ("MinPLogitsWarper", {"min_p": 1.0}),
    ),
)
def test_sampling_1_filters_are_hugging_faces(peer, options):
    warpers = pytest.importorskip("transformers.generation.logits_process", reason="peers need transformers (extra hf)")
    logits = torch.tensor(draw(8, (31, V), 2.0))
    theirs = getattr(warpers, peer)(*options.values())(None, logits.clone())
    assert_same(sampling.filter_logits(logits, **options), theirs)


def test_sampling_4_12_ties_and_the_penalty_are_hugging_faces():
    warpers = pytest.importorskip("transformers.generation.logits_process", reason="peers need transformers (extra hf)")
    tied = torch.tensor(draw(9, (31, V), 2.0, "ties"))
    assert_same(sampling.filter_logits(tied, top_k=3), warpers.TopKLogitsWarper(3)(None, tied.clone()))
    ids, logits = torch.tensor(IDS), torch.tensor(LOGITS)
    theirs = warpers.RepetitionPenaltyLogitsProcessor(1.3)(ids, logits.clone())
    assert_same(sampling.penalise_repetition(logits, ids, 1.3), theirs)


# ---- filters ----
@given(rows, st.sampled_from(SETTINGS))
def test_sampling_1_filters_act_one_after_the_other(logits, options):
    step = torch.tensor(logits)
    for name in ("temperature", "top_k", "top_p", "min_p"):
        if name in options:
            step = sampling.filter_logits(step, **{name: options[name]})
    assert_same(sampling.filter_logits(torch.tensor(logits), **options), step)


@given(rows, st.sampled_from(SETTINGS))
def test_sampling_2_kept_logits_are_scaled_and_others_gone(logits, options):
    found, scale = filtered(logits, **options), options.get("temperature", 1.0) or 1.0
    stays = np.isfinite(found)
    assert stays.any(axis=1).all()
    assert_same(found[stays], (logits / scale)[stays])
    assert (found[~stays] == HIDDEN).all()


@given(rows)
def test_sampling_3_temperature_zero_is_greedy_and_the_limit(logits):
    found = filtered(logits, temperature=0.0, top_k=5, top_p=0.5, min_p=0.5)
    assert_same(np.isfinite(found).argmax(axis=1), logits.argmax(axis=1))
    assert_same(np.isfinite(found).sum(axis=1), np.ones(B, int))
    assert_same(found.max(axis=1), logits.max(axis=1))
    cold = torch.tensor(filtered(logits, temperature=1e-300)).softmax(dim=-1)
    assert_same(cold > 0, torch.tensor(np.isfinite(found)))


def test_sampling_3_the_first_of_equals_wins():
    assert_same(kept(np.array([[1.0, 3.0, 3.0, 3.0], [2.0, 2.0, 0.0, 2.0]]), temperature=0.0).argmax(1), [1, 0])


@given(rows, st.integers(1, V + 2))
def test_sampling_4_top_k_keeps_k_tokens(logits, top_k):
    stays = kept(logits, top_k=top_k)
    assert_same(stays.sum(axis=1), np.full(B, min(top_k, V)))
    for row, these in zip(logits, stays, strict=True):
        assert these.all() or row[these].min() > row[~these].max()


def test_sampling_4_ties_stay_and_zero_and_large_k_keep_all():
    logits = np.array([[2.0, 1.0, 3.0, 2.0, 0.0]])
    assert_same(kept(logits, top_k=2), np.array([[True, False, True, True, False]]))
    for top_k in (0, 5, 99):
        assert_same(filtered(logits, top_k=top_k), logits)


@given(rows, st.floats(0.01, 0.99))
def test_sampling_5_top_p_is_the_smallest_set_that_reaches_p(logits, top_p):
    for row, these in zip(logits, kept(logits, top_p=top_p), strict=True):
        mass = softmax(*exact(row))[these]
        total, least = np.sum(mass), value(mass).min()
        assert value(total) + bound(total) >= top_p
        assert value(total) - least < top_p + bound(total)
        assert these.all() or row[these].min() > row[~these].max()


@pytest.mark.parametrize("profile", ("float64", "float32"))
def test_sampling_5_the_boundary_is_reached_and_lower_ids_go_first(profile):
    """Eight equal tokens have 1/8 each, exactly: four reach one half, and MiniMind's fifth does not belong to them."""
    for top_p, count in ((0.0, 1), (0.125, 1), (0.126, 2), (0.5, 4), (0.875, 7), (0.9, 8), (1.0, 8)):
        found = sampling.filter_logits(torch.zeros(2, 8, dtype=DTYPES[profile]), top_p=top_p)
        assert_same(found.isfinite(), (torch.arange(8) < count).expand(2, 8))


def test_sampling_5_p_of_one_keeps_tokens_that_weigh_nothing():
    logits = np.array([[0.0, -800.0, -2000.0, HIDDEN]])
    assert_same(filtered(logits, top_p=1.0), logits)
    assert_same(kept(logits, top_p=0.999), np.array([[True, False, False, False]]))


@given(rows, st.floats(0.01, 0.99))
def test_sampling_6_min_p_compares_with_the_largest(logits, min_p):
    for row, these in zip(logits, kept(logits, min_p=min_p), strict=True):
        mass = softmax(*exact(row))
        ratio = mass / mass[int(row.argmax())]
        assert (value(ratio)[these] >= min_p - bound(ratio)[these]).all()
        assert (value(ratio)[~these] < min_p + bound(ratio)[~these]).all()


def test_sampling_6_one_keeps_the_ties_and_zero_all():
    logits = np.array([[3.0, 1.0, 3.0, -900.0]])
    assert_same(kept(logits, min_p=1.0), np.array([[True, False, True, False]]))
    assert_same(filtered(logits, min_p=0.0), logits)


def in_order(logits, *options):
    step = torch.tensor(logits)
    for option in options:
        step = sampling.filter_logits(step, **option)
    return step


@given(rows, st.integers(1, V), st.floats(0.2, 3), st.floats(0.01, 1))
def test_sampling_7_top_k_commutes_with_temperature_and_min_p(logits, top_k, temperature, min_p):
    k, t, m = {"top_k": top_k}, {"temperature": temperature}, {"min_p": min_p}
    assert_same(in_order(logits, t, k), in_order(logits, k, t))
    assert_same(in_order(logits, k, m), in_order(logits, m, k))


@pytest.mark.parametrize(
    "first, second, parts, kept_first, kept_swapped",
    (
        ({"temperature": 2.0}, {"top_p": 0.6}, (16, 4, 1), 2, 1),  # shares 4/7, 2/7, 1/7 instead of 16/21
        ({"top_k": 2}, {"top_p": 0.55}, (4, 3, 2, 1), 1, 2),  # 4/7 reaches 0.55, 4/10 does not
        ({"top_p": 0.7}, {"min_p": 0.3}, (10, 4, 2, 2, 2, 2), 2, 1),  # min-p leaves 10/14, which reaches 0.7
        ({"temperature": 2.0}, {"min_p": 0.3}, (16, 4, 1), 2, 1),
    ),
    ids=("temperature, top_p", "top_k, top_p", "top_p, min_p", "temperature, min_p"),
)
def test_sampling_7_a_witness_for_every_order_that_matters(first, second, parts, kept_first, kept_swapped):
    logits = np.log(np.array([parts], float))
    together = sampling.filter_logits(torch.tensor(logits), **first, **second)
    assert int(together.isfinite().sum()) == kept_first
    assert int(in_order(logits, second, first).isfinite().sum()) == kept_swapped


@given(rows, st.sampled_from(SETTINGS), st.integers(-20, 20), st.permutations(range(V)), st.permutations(range(B)))
def test_sampling_8_shifts_permutations_and_rows(logits, options, shift, order, swap):
    stays = kept(logits, **options)
    assert_same(kept(logits + shift, **options), stays)  # exact: the logits are multiples of 2⁻²⁵ below 2¹²
    assert_same(kept(logits[:, order], **options), stays[:, order])
    assert_same(filtered(logits[list(swap)], **options), filtered(logits, **options)[list(swap)])
    assert_same(filtered(logits[:1], **options), filtered(logits, **options)[:1])


@given(rows, st.data())
def test_sampling_9_kept_sets_are_nested(logits, data):
    for name, numbers, grows in (
        ("top_k", st.integers(1, V), True),
        ("top_p", st.floats(0, 1), True),
        ("min_p", st.floats(0, 1), False),
    ):
        low, high = sorted(data.draw(st.tuples(numbers, numbers), label=name))
        small, large = (kept(logits, **{name: x}) for x in ((low, high) if grows else (high, low)))
        assert (large | ~small).all()


@given(rows)
def test_sampling_10_the_narrowest_settings_are_greedy(logits):
    greedy = kept(logits, temperature=0.0)
    for options in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}):
        assert_same(kept(logits, **options), greedy)


@given(rows, st.sampled_from(SETTINGS[:-1]))
def test_sampling_11_hidden_tokens_weigh_nothing(logits, options):
    logits[:, [2, 7]] = HIDDEN
    found = filtered(logits, **options)
    assert (found[:, [2, 7]] == HIDDEN).all()
    others = np.delete(np.arange(V), [2, 7])
    assert_same(found[:, others], filtered(logits[:, others], **options))
    ids = torch.full((B, 3), 2)
    assert_same(sampling.penalise_repetition(torch.tensor(logits), ids, 1.5), logits)


# ---- the repetition penalty ----
@given(rows, seeds, st.floats(1.01, 3))
def test_sampling_12_a_penalty_raises_no_seen_token(logits, seed, penalty):
    logits[0, 0] = 0.0
    ids = draw_integers(seed, (B, T), 0, V)
    seen = np.array([[i in row for i in range(V)] for row in ids.tolist()])
    given_ids, given_logits = torch.tensor(ids), torch.tensor(logits)
    lower = sampling.penalise_repetition(given_logits, given_ids, penalty).numpy()
    higher = sampling.penalise_repetition(given_logits, given_ids, 1 / penalty).numpy()
    assert_same(lower[~seen], logits[~seen])
    assert ((lower < logits) | (logits == 0))[seen].all() and ((higher > logits) | (logits == 0))[seen].all()
    assert (np.sign(lower) == np.sign(logits)).all()


def test_sampling_13_a_token_is_penalised_once():
    logits = torch.tensor([[3.0, -3.0, 1.0]])
    once = sampling.penalise_repetition(logits, torch.tensor([[0, 1]]), 1.5)
    assert_same(sampling.penalise_repetition(logits, torch.tensor([[0, 1, 1, 0, 1]]), 1.5), once)
    assert_same(once, torch.tensor([[2.0, -4.5, 1.0]]))


@given(rows, seeds, st.integers(-100, 100))
def test_sampling_14_padding_is_not_seen(logits, seed, anything):
    ids, mask = draw_integers(seed, (B, T), 0, V), draw_integers(seed // 2, (B, T), 0, 2)
    mask[1], mask[2] = 0, 1
    padded = torch.tensor(np.where(mask, ids, anything))
    found = sampling.penalise_repetition(torch.tensor(logits), padded, 1.7, mask=torch.tensor(mask))
    for n, row in enumerate(logits):
        alone = torch.tensor(ids[n : n + 1, mask[n] == 1])
        assert_same(found[n : n + 1], sampling.penalise_repetition(torch.tensor(row[None]), alone, 1.7))
    assert_same(found[1], logits[1])


@given(rows, st.integers(-3, 3), st.floats(1.1, 3))
def test_sampling_15_the_penalty_commutes_with_the_temperature(logits, exponent, penalty):
    ids, options = torch.tensor(IDS), {"temperature": 2.0**exponent}
    first = sampling.penalise_repetition(sampling.filter_logits(torch.tensor(logits), **options), ids, penalty)
    second = sampling.filter_logits(sampling.penalise_repetition(torch.tensor(logits), ids, penalty), **options)
    assert_same(first, second)  # to the bit, because the temperature is a power of two


def test_sampling_12_padding_may_be_any_number_for_a_vocabulary_of_one():
    logits, ids, mask = np.array([[0.5], [0.5]]), np.array([[7, 0], [-3, 9]]), np.array([[0, 1], [0, 0]])
    found = sampling.penalise_repetition(*map(torch.tensor, (logits, ids)), 2.0, mask=torch.tensor(mask))
    assert found.tolist() == oracle.penalise_repetition(logits, ids, 2.0, mask=mask).tolist() == [[0.25], [0.5]]


def test_sampling_15_the_penalty_does_not_commute_with_a_filter_or_a_shift():
    logits, ids = torch.tensor([[3.0, 2.9, 1.0]]), torch.tensor([[0]])
    penalised = sampling.penalise_repetition(logits, ids, 2.0)
    filtered_last = sampling.filter_logits(penalised, top_k=1)
    filtered_first = sampling.penalise_repetition(sampling.filter_logits(logits, top_k=1), ids, 2.0)
    assert filtered_last.isfinite().tolist() == [[False, True, False]]
    assert filtered_first.isfinite().tolist() == [[True, False, False]]
    shifted = sampling.penalise_repetition(logits + 4, ids, 2.0) - 4
    assert shifted[0, 0] != penalised[0, 0]


# ---- the choice ----
def test_sampling_16_the_share_of_numbers_is_the_probability():
    logits = draw(11, (1, V), 1.5)
    logits[0, [0, 5, V - 1]] = HIDDEN
    n = 2**13
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens = sampling.choose_token(torch.tensor(logits).expand(n, V), grid)
    assert (tokens.diff() >= 0).all()
    mass = softmax(*exact(logits[0]))
    assert_within(torch.bincount(tokens, minlength=V) / n, value(mass), bound(mass) + 1 / n)


def test_sampling_16_ends_of_the_interval_never_choose_what_weighs_nothing():
    logits = torch.tensor([[HIDDEN, -2000.0, 1.0, HIDDEN, 2.0, -2000.0, HIDDEN]]).float()
    ends = torch.tensor([0.0, math.nextafter(1, 0)], dtype=torch.float64)
    assert sampling.choose_token(logits.expand(2, -1), ends).tolist() == [2, 4]
    assert oracle.choose_token(logits.double().numpy()[[0, 0]], ends.numpy()).tolist() == [2, 4]


def test_sampling_16_a_total_below_the_number_still_gives_a_token():
    """In float32, 41 shares of 1/41 add up to less than the largest number below 1; in float64, 7 shares of 1/7 do."""
    logits, u = torch.zeros(1, 41), torch.tensor([math.nextafter(1, 0)], dtype=torch.float64)
    assert float(logits.softmax(dim=-1).cumsum(dim=-1)[0, -1]) <= u.item()
    assert sampling.choose_token(logits, u).tolist() == [40]
    rows = torch.full((3, 45), -torch.inf)
    for row, first in zip(rows, (0, 4, 2), strict=True):
        row[first : first + 41] = 0
    assert sampling.choose_token(rows, u.expand(3)).tolist() == [40, 44, 42]
    assert np.sum(softmax(np.zeros(7))) <= u.item()
    row = np.array([[*np.zeros(7), HIDDEN, HIDDEN]])
    assert oracle.choose_token(row, u.numpy()).tolist() == [6]


def test_sampling_16_drawn_frequencies_are_the_probabilities():
    """Exact tails of the binomial distribution, with one seed: neither a tolerance nor a test that can flake."""
    n, logits = 1000, torch.tensor(draw(12, (1, 5), 1.0))
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(13))
    counts = torch.bincount(sampling.choose_token(logits.expand(n, 5), uniform), minlength=5)
    for count, p in zip(counts.tolist(), logits.softmax(dim=-1)[0].tolist(), strict=True):
        at_most = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(count + 1))
        at_least = 1 - at_most + math.comb(n, count) * p**count * (1 - p) ** (n - count)
        assert min(at_most, at_least) > 1e-4
    assert counts.min() > 10


# ---- precision ----
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_sampling_17_sums_and_decisions_are_float32s(dtype):
    """bfloat16 cannot add up 4096 equal shares (they stall at half), nor float16 shares whose sum needs 12 bits."""
    logits = torch.zeros(3, 4096, dtype=dtype)
    found = sampling.filter_logits(logits, top_p=0.75)
    assert found.dtype == dtype and found.isfinite().sum(dim=-1).tolist() == [3072] * 3
    u = torch.tensor([0.0, 0.75, 0.99976])
    assert sampling.choose_token(logits, u).tolist() == [0, 3072, 4095]
    close = torch.tensor([[1.0, 1.0 + torch.finfo(dtype).eps]], dtype=dtype)
    assert sampling.filter_logits(close, temperature=3.0, top_k=1).isfinite().tolist() == [[False, True]]


def test_sampling_17_arguments_stay_as_they_were():
    logits, ids, mask = torch.tensor(LOGITS), torch.tensor(IDS), torch.tensor(MASK)
    plain = LOGITS.copy()
    for options in SETTINGS:
        sampling.filter_logits(logits, **options)
        oracle.filter_logits(plain, **options)
    sampling.penalise_repetition(logits, ids, 1.5, mask=mask)
    oracle.penalise_repetition(plain, IDS, 1.5, mask=MASK)
    sampling.choose_token(logits, torch.tensor(UNIFORM))
    assert_same(logits, LOGITS)
    assert_same(plain, LOGITS)
    assert_same(ids, IDS)


# ---- refusals ----
GOOD = np.ones((2, 3))
BAD = np.array([[1.0, 2.0, 3.0]] * 2)
FILTER_REFUSALS = (
    ({"logits": np.ones(3)}, "logits has 1 axes"),
    ({"logits": np.ones((0, 3))}, "batch of logits is 0"),
    ({"logits": np.ones((2, 0))}, "vocabulary of logits is 0"),
    ({"temperature": -0.1}, "temperature.*-0.1"),
    ({"temperature": np.inf}, "temperature.*inf"),
    ({"temperature": np.nan}, "temperature.*nan"),
    ({"top_k": -1}, "top_k.*-1"),
    ({"top_p": 1.01}, r"top_p.*1\.01"),
    ({"top_p": np.nan}, "top_p.*nan"),
    ({"min_p": -0.2}, "min_p.*-0.2"),
    ({"logits": np.array([[1.0, 2.0], [1.0, np.nan]])}, "row 1"),
    ({"logits": np.array([[1.0, np.inf], [1.0, 2.0]])}, "row 0"),
    ({"logits": np.array([[1.0, 2.0], [HIDDEN, HIDDEN]])}, "row 1"),
)
PENALTY_REFUSALS = (
    ({"ids": np.ones(2, int)}, "ids has 1 axes"),
    ({"ids": np.ones((5, 2), int)}, "ids.*5"),
    ({"ids": np.array([[0, 3], [1, 1]])}, "ids holds 3"),
    ({"ids": np.array([[0, -1], [1, 1]])}, "ids holds -1"),
    ({"penalty": 0.0}, "penalty.*0"),
    ({"penalty": np.nan}, "penalty.*nan"),
    ({"penalty": np.inf}, "penalty.*inf"),
    ({"mask": np.ones((2, 5), bool)}, "mask.*5"),
    ({"mask": np.ones((2, 2), bool), "ids": np.array([[0, 3], [1, 1]])}, "ids holds 3"),
    ({"logits": GOOD[0]}, "logits has 1 axes"),
)
CHOICE_REFUSALS = (
    ({"uniform": np.array([0.5])}, "uniform.*1"),
    ({"uniform": np.full((2, 1), 0.5)}, r"uniform has .*\(2, 1\)"),
    ({"uniform": np.array([0.5, 1.0])}, r"uniform.*1\.0"),
    ({"uniform": np.array([-0.25, 0.5])}, r"uniform.*-0\.25"),
    ({"uniform": np.array([np.nan, 0.5])}, "uniform.*nan"),
    ({"logits": np.full((2, 3), HIDDEN)}, "row 0"),
)
ARGUMENTS = {
    "filter_logits": {"logits": BAD},
    "penalise_repetition": {"logits": BAD, "ids": np.array([[0, 2], [1, 1]]), "penalty": 1.5},
    "choose_token": {"logits": BAD, "uniform": np.array([0.25, 0.5])},
}
REFUSALS = [
    (name, changes, message)
    for name, cases in zip(ARGUMENTS, (FILTER_REFUSALS, PENALTY_REFUSALS, CHOICE_REFUSALS), strict=True)
    for changes, message in cases
]


@pytest.mark.parametrize("name, changes, message", REFUSALS, ids=lambda x: str(x)[:40])
def test_sampling_18_refusals(name, changes, message):
    given_arguments = {**ARGUMENTS[name], **changes}
    with pytest.raises(ValueError, match=message):
        getattr(oracle, name)(**given_arguments)
    tensors = {n: torch.tensor(x) if isinstance(x, np.ndarray) else x for n, x in given_arguments.items()}
    with pytest.raises(ValueError, match=message):
        getattr(sampling, name)(**tensors)


def test_sampling_18_edges_that_are_allowed():
    one = torch.tensor([[5.0], [-2.0]])
    assert_same(sampling.filter_logits(one, temperature=2.0, top_k=1, top_p=0.0, min_p=1.0), one / 2)
    assert sampling.choose_token(one, torch.tensor([0.0, 0.9])).tolist() == [0, 0]
    nothing = torch.zeros(2, 0, dtype=torch.long)
    assert_same(sampling.penalise_repetition(one, nothing, 2.0), one)
    assert_same(oracle.penalise_repetition(one.numpy(), nothing.numpy(), 2.0), one.double())
