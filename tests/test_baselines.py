"""The baselines are distributions, agree with counts by hand, and respect documents."""

from fractions import Fraction

import numpy as np
import pytest
from byte_tokenizer import ByteTokenizer
from hypothesis import given
from hypothesis import strategies as st
from tolerance import assert_within

from minimind_ref.data import baselines
from minimind_ref.data.baselines import fit
from minimind_ref.data.token_writer import write_token_file

UNIT = 2.0**-53
SIZE = 7


def token_file(folder, documents):
    class Raw(ByteTokenizer):
        def encode_batch(self, texts):
            return [documents[int(text)] for text in texts]

    settings = {"documents": documents}
    texts = map(str, range(len(documents)))
    return write_token_file(texts, Raw(), cache_dir=folder, name="x", wrap=False, settings=settings)


def table(model, size=SIZE):
    """All probabilities: the unigram's, and the bigram's with a row for each context."""
    every = np.arange(size)
    unigram = np.exp(-model.unigram_nll(every))
    bigram = np.stack([np.exp(-model.bigram_nll(np.full(size, context), every)) for context in every])
    return unigram, bigram


def rounding(probability):
    """A bound for exp(-(-log(p))): the division, the logarithm's error |ln p|·u carried through exp, and exp's own."""
    return probability * UNIT * (8 + 2 * np.abs(np.log(probability)))


documents_strategy = st.lists(
    st.lists(st.integers(0, SIZE - 2), min_size=1, max_size=9), min_size=1, max_size=8
)  # id 6 is never seen


def test_a_case_counted_by_hand(tmp_path):
    """Pairs 01 10 01 12 | 02 | 33 33: c(0) = 3 with 2 kinds after it, c(3) = 2 with 1; ids 4, 5, 6 are never seen."""
    model = fit(token_file(tmp_path, [[0, 1, 0, 1, 2], [0, 2], [3, 3, 3]]), SIZE)
    unigram, bigram = table(model)
    expected = [Fraction(n, 7 + SIZE) for n in (2, 3, 3, 3, 1, 1, 1)]
    after_0 = [(seen + 2 * p) / (3 + 2) for seen, p in zip((0, 2, 1, 0, 0, 0, 0), expected, strict=True)]
    after_1 = [(seen + 2 * p) / (2 + 2) for seen, p in zip((1, 0, 1, 0, 0, 0, 0), expected, strict=True)]
    after_3 = [(seen + p) / (2 + 1) for seen, p in zip((0, 0, 0, 2, 0, 0, 0), expected, strict=True)]
    after = {0: after_0, 1: after_1, 3: after_3, 2: expected, 6: expected}
    for actual, exact in ((unigram, expected), *((bigram[context], exact) for context, exact in after.items())):
        value = np.array(exact, dtype=np.float64)
        assert_within(actual, value, rounding(value))


@given(documents_strategy)
def test_every_context_has_a_distribution(tmp_path_factory, documents):
    unigram, bigram = table(fit(token_file(tmp_path_factory.mktemp("cache"), documents), SIZE))
    for distribution in (unigram, *bigram):
        assert (distribution > 0).all()
        assert_within(distribution.sum(), 1.0, (rounding(distribution) + SIZE * UNIT).sum())


@given(documents_strategy, st.randoms())
def test_the_order_of_documents_and_the_cut_into_chunks_do_not_matter(tmp_path_factory, documents, random):
    model = fit(token_file(tmp_path_factory.mktemp("cache"), documents), SIZE)
    shuffled = random.sample(documents, len(documents))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "CHUNK", random.randint(1, 9))
        other = fit(token_file(tmp_path_factory.mktemp("cache"), shuffled), SIZE)
    for one, two in zip(table(model), table(other), strict=True):
        np.testing.assert_array_equal(one, two)


def test_no_pair_crosses_documents(tmp_path):
    """Cut between the 1 and the 2, the pair 12 is not seen, and 2, which never follows, is as rare as an unseen id."""
    together = table(fit(token_file(tmp_path, [[0, 1, 2, 3]]), SIZE))
    apart = table(fit(token_file(tmp_path, [[0, 1], [2, 3]]), SIZE))
    assert together[1][1, 2] > apart[1][1, 2] == apart[0][2] == apart[0][6]


@given(documents_strategy, st.integers(1, 40))
def test_a_limit_keeps_the_first_tokens(tmp_path_factory, documents, limit):
    kept, left = [], limit
    for document in documents:
        if left:
            kept.append(document[:left])
            left -= len(kept[-1])
    part = fit(token_file(tmp_path_factory.mktemp("cache"), documents), SIZE, max_tokens=limit)
    whole = fit(token_file(tmp_path_factory.mktemp("cache"), kept), SIZE)
    for one, two in zip(table(part), table(whole), strict=True):
        np.testing.assert_array_equal(one, two)


def test_ids_outside_the_vocabulary_are_refused(tmp_path):
    tokens = token_file(tmp_path, [[0, 5, 2]])
    with pytest.raises(ValueError, match="the tokens go up to id 5 but vocab_size is 5"):
        fit(tokens, 5)
    model = fit(tokens, 6)
    with pytest.raises(ValueError, match="labels has ids from -100 to 1 but vocab_size is 6"):
        model.unigram_nll(np.array([1, -100]))
    with pytest.raises(ValueError, match="previous has ids from 1 to 6 but vocab_size is 6"):
        model.bigram_nll(np.array([1, 6]), np.array([1, 1]))
    with pytest.raises(ValueError, match="previous has 1 entries but labels has 2"):
        model.bigram_nll(np.array([1]), np.array([1, 1]))


def test_large_vocabularies_need_no_table(tmp_path):
    """At 150,000 entries a dense table of pairs would need 180 GB."""
    size = 150_000
    model = fit(token_file(tmp_path, [[7, 250, 7, 11]]), size)
    assert model.bigram_nll(np.array([7]), np.array([250])) < model.unigram_nll(np.array([250]))
    nll = model.bigram_nll(np.full(size, 7), np.arange(size))
    total = np.exp(-nll)
    assert_within(total.sum(), 1.0, (rounding(total) + size * UNIT * total).sum())
