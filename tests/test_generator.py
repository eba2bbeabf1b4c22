"""The generator of golden/README.md: known words, exactness, and inputs that are not degenerate."""

import numpy as np
import pytest
from arrays import STRUCTURES, draw, draw_integers
from hypothesis import given
from hypothesis import strategies as st
from strategies import arrays, axes, cuts, indices, lengths, pad, paddings, seeds

from minimind_ref.golden.generator import GOLDEN_RATIO, MASK, words


def mix(z):
    """SplitMix64's finaliser on Python integers: no NumPy, no wrap-around."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_words_are_splitmix64s():
    assert mix(GOLDEN_RATIO) == 0xE220A8397B1DCDAF  # published first output of SplitMix64 seeded with 0
    key = mix(GOLDEN_RATIO)
    assert words(0, 3).tolist() == [mix((key + (k + 1) * GOLDEN_RATIO) & MASK) for k in range(3)]


@pytest.mark.parametrize("i", [0, 1, 20])
def test_elements_are_those_of_the_page(i):
    """Follow golden/README.md on Python integers, for one element."""
    key = mix(101 + GOLDEN_RATIO)
    w = [mix((key + (4 * i + j + 1) * GOLDEN_RATIO) & MASK) for j in range(4)]
    n = (sum((w[j] >> (16 * f)) & 0xFFFF for j in range(3) for f in range(4)) - 393210) / 2**16
    expected = {
        "normal": n, "uniform": (2 * (w[0] >> 48) - 65535) / 2**16, "positive": abs(n) + 2**-16, "tiny": n / 2**14,
        "large": n * 2**10, "heavy": n * 2.0 ** ((w[3] >> 60) - 8), "offset": n / 8 + 4, "ties": ((w[0] >> 61) - 4) / 4,
        "alternating": -abs(n) if i % 7 % 2 else abs(n),
    }  # fmt: skip
    found = {structure: draw(101, (3, 7), structure=structure).ravel()[i] for structure in expected}
    assert found == expected and expected.keys() == STRUCTURES.keys() - {"sorted"}
    assert draw_integers(101, (3, 7), -5, 90).ravel()[i] == -5 + (((w[0] >> 32) * 95) >> 32)


@given(seeds, st.sampled_from(sorted(STRUCTURES)), st.integers(-20, 20))
def test_values_are_float32_numbers_and_mostly_distinct(seed, structure, exponent):
    x = draw(seed, (7, 11), 2.0**exponent, structure)
    assert np.array_equal(x, x.astype(np.float32).astype(np.float64)) and np.isfinite(x).all()
    assert len(np.unique(x)) >= (3 if structure == "ties" else 70)


def test_an_element_depends_on_its_index_only():
    for structure in sorted(set(STRUCTURES) - {"sorted", "alternating"}):
        assert np.array_equal(draw(5, (3, 7), structure=structure).ravel(), draw(5, (41,), structure=structure)[:21])


def test_seeds_give_unrelated_arrays():
    first, second = draw(1, (4000,)), draw(2, (4000,))
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(4000)


def test_moments_of_normal():
    x = draw(3, (40_000,))
    assert abs(x.mean()) < 4 / np.sqrt(x.size) and abs(x.var() - 1) < 4 * np.sqrt(2 / x.size)


def test_structures_are_what_they_are_called():
    assert (np.diff(draw(7, (5, 11), structure="sorted"), axis=-1) >= 0).all()
    alternating = draw(7, (5, 11), structure="alternating")
    assert (alternating[:, ::2] >= 0).all() and (alternating[:, 1::2] <= 0).all()
    assert (draw(7, (99,), structure="positive") > 0).all()
    exponents = np.log2(np.abs(draw(7, (999,), structure="heavy")))
    assert exponents.max() - exponents.min() > 14
    assert (
        np.abs(draw(7, (99,), structure="tiny")).max()
        < 6 * 2.0**-14
        < 1
        < np.abs(draw(7, (9,), structure="large")).min()
    )
    deep = draw(7, (2, 3, 5), structure="alternating")
    assert (deep[..., ::2] > 0).all() and (deep[..., 1::2] < 0).all()
    assert draw(7, (), structure="sorted") == draw(7, ())
    assert draw(7, (), structure="alternating") == abs(draw(7, ()))
    assert np.array_equal(draw(7, (3, 5), 2.0**-3), draw(7, (3, 5)) * 2.0**-3)


def test_alternating_has_no_negative_zero():
    zero = np.full((2, 4), 0x7FFF_8000_7FFF_8000, np.uint64)  # twelve fields whose sum is the mean
    assert STRUCTURES["normal"](zero, (2,)).tolist() == [0.0, 0.0]
    assert not np.signbit(STRUCTURES["alternating"](zero, (2,))).any()


@given(seeds, st.integers(-50, 50), st.integers(1, 99))
def test_integers_stay_in_range_and_reach_the_ends(seed, low, width):
    x = draw_integers(seed, (20 * width,), low, low + width)
    assert x.min() >= low and x.max() < low + width and len(np.unique(x)) > width / 2


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"seed is -1"):
        draw(-1, (2,))
    with pytest.raises(ValueError, match=r"seed is 4294967296"):
        draw(2**32, (2,))
    assert np.isfinite(draw(2**32 - 1, (2,))).all()
    with pytest.raises(ValueError, match=r"structure is 'odd'"):
        draw(1, (2,), structure="odd")
    with pytest.raises(ValueError, match=r"high is 3 and low is 3"):
        draw_integers(1, (2,), 3, 3)
    with pytest.raises(ValueError, match=r"high is 2147483648 and low is 0"):
        draw_integers(1, (2,), 0, 2**31)
    assert (draw_integers(1, (99,), 1, 2**31) >= 1).all()


@given(st.integers(1, 13).flatmap(lambda n: st.tuples(st.just(n), cuts(n))))
def test_cuts_cover_the_range_once(n_and_pieces):
    n, pieces = n_and_pieces
    assert [i for piece in pieces for i in range(n)[piece]] == list(range(n)) and all(p.start < p.stop for p in pieces)


@given(axes(3).flatmap(lambda shape: st.tuples(st.just(shape), arrays(shape), indices(shape, 2, 9))))
def test_array_strategies_have_the_shape(drawn):
    shape, x, ids = drawn
    assert len(set(shape)) == 3 and x.shape == ids.shape == shape and ids.min() >= 2 and ids.max() < 9


@given(paddings(3, 7))
def test_paddings_mark_the_real_entries(drawn):
    side, row_lengths = drawn
    rows = [draw_integers(i, (n,), 5, 99) for i, n in enumerate(row_lengths)]
    padded, mask = pad(rows, side, 0)
    assert mask.sum(axis=1).tolist() == row_lengths and (padded[mask == 0] == 0).all()
    assert all(np.array_equal(padded[i][mask[i] == 1], row) for i, row in enumerate(rows))
    if side != "none":
        assert len(set(row_lengths)) > 1 and mask[:, -1 if side == "left" else 0].all()


@given(lengths(3, 5, shortest=2))
def test_lengths_differ(row_lengths):
    assert len(set(row_lengths)) > 1 and min(row_lengths) >= 2
