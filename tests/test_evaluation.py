"""Held-out loss: which tokens count, how many bytes they stand for, and that no cut of the rows matters."""

import math
from collections import namedtuple
from itertools import pairwise

import numpy as np
import pytest
import torch
from byte_tokenizer import ByteTokenizer
from tolerance import Ulps, assert_within
from torch import nn

from minimind_ref.data.baselines import fit
from minimind_ref.data.rows import FirstRows, PackedRows, PaddedRows
from minimind_ref.data.token_writer import write_token_file
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.train import evaluation
from minimind_ref.train.device import place
from minimind_ref.train.distributed import Ranks
from minimind_ref.train.evaluation import Evaluation, HeldOut, combine, evaluate, token_bytes

TEXTS = ["abc", "ba", "é", "abcdef", "a", "zyx"]  # é: two bytes
SIZE = 259
SUMS = Ulps(2**7, "float32", "a few dozen logarithms, summed in another order")


class Successor(nn.Module):
    """Gives the id that follows the last one half of the probability, and every other id its share of the rest."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, segment_ids=None):
        assert not self.training and not torch.is_grad_enabled()
        logits = torch.full((*input_ids.shape, SIZE), math.log(0.5 / (SIZE - 1)))
        logits.scatter_(-1, (input_ids[..., None] + 1) % SIZE, math.log(0.5))
        return namedtuple("Output", "logits")(logits)


@pytest.fixture
def tokens(tmp_path):
    return write_token_file(TEXTS, ByteTokenizer(), cache_dir=tmp_path, name="x", wrap=True, settings={})


def byte_sizes():
    return np.array([0] * 3 + [1] * 256)


def held_out(tokens, make=PackedRows, length=7, batch_size=3, count=99):
    rows = FirstRows(make(tokens, length), count)
    return HeldOut(rows, batch_size, byte_sizes(), fit(tokens, SIZE))


def judged(held, ranks=None):
    return evaluate(Successor().train(), held, place("cpu", "float32"), ranks or Ranks())


def assert_near(found, expected):
    assert found.tokens == expected.tokens
    assert_within(np.array(found[:-1]), np.array(expected[:-1]), SUMS.of(np.array(expected[:-1])))


@pytest.mark.parametrize("make", [PackedRows, PaddedRows])
@pytest.mark.parametrize("batch_size", [1, 3, 99])
def test_a_case_counted_by_hand(tokens, make, batch_size):
    """Every text's bytes and its end token are predicted; a→b, b→c, … and start→end never are the successor's only."""
    documents = [[1, *(byte + 3 for byte in text.encode()), 2] for text in TEXTS]
    pairs = [pair for document in documents for pair in pairwise(document)]
    hits = 2 + 5  # in abc and in abcdef
    nll = hits * math.log(2) + (len(pairs) - hits) * math.log(2 * (SIZE - 1))
    previous, labels = np.array(pairs).T
    baselines = fit(tokens, SIZE)
    found = judged(held_out(tokens, make, length=8, batch_size=batch_size))
    expected = Evaluation(
        loss=nll / 23,
        perplexity=math.exp(nll / 23),
        bits_per_byte=nll / math.log(2) / 17,  # 3 + 2 + 2 + 6 + 1 + 3 bytes, six end tokens
        unigram=baselines.unigram_nll(labels).mean(),
        bigram=baselines.bigram_nll(previous, labels).mean(),
        tokens=23,
    )
    assert_near(found, expected)


def test_rows_shorter_than_documents_lose_no_pair_when_packed(tokens):
    assert_near(judged(held_out(tokens, length=3)), judged(held_out(tokens, length=30)))


def test_only_the_first_rows_are_read_and_no_other_is_there(tokens):
    held = held_out(tokens, PaddedRows, count=2)
    assert judged(held).tokens == 4 + 3 and len(held.rows) == 2
    with pytest.raises(IndexError, match="row 2 of 2"):
        held.rows[2]
    assert len(FirstRows(PaddedRows(tokens, 7), 99)) == len(TEXTS)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_judge_what_one_judges(tokens, monkeypatch, world_size):
    """Each rank's own sums, put together by `combine`; the last ranks of the last batch have padding only."""
    whole = judged(held_out(tokens, length=9, batch_size=1))
    seen = []
    monkeypatch.setattr(evaluation, "total", lambda values, ranks, device: seen.append(values) or [1.0] * 5)
    for rank in range(world_size):
        judged(held_out(tokens, length=9, batch_size=1), Ranks(rank, world_size))
    monkeypatch.setattr(evaluation, "total", lambda values, ranks, device: np.sum(seen, axis=0).tolist())
    assert_near(judged(held_out(tokens, length=9, batch_size=1), Ranks(0, world_size)), whole)


def test_combining_parts_is_judging_them_together(tokens):
    parts = [tokens.select(np.array([run])) for run in ([0, 2], [2, 6])]
    baselines = fit(tokens, SIZE)
    found = [judged(HeldOut(FirstRows(PackedRows(p, 7), 9), 2, byte_sizes(), baselines)) for p in parts]
    assert found[0].tokens != found[1].tokens and found[0].loss != found[1].loss
    assert_near(combine(found), judged(held_out(tokens)))


def test_one_token_is_enough_to_judge_and_none_is_nothing(tmp_path):
    """The first token of a text is not predicted, so that of "ab" only b is: from a, as the successor has it."""
    for text, expected in (("ab", (math.log(2), 2.0, 1.0, 0.0, 0.0, 1)), ("a", None)):
        options = dict(cache_dir=tmp_path, name=text, wrap=False, settings={})
        found = judged(held_out(write_token_file([text], ByteTokenizer(), **options)))
        assert found is None if expected is None else found.tokens == 1
        if expected:
            assert_near(found._replace(unigram=0.0, bigram=0.0), Evaluation(*expected))


def test_the_network_trains_on_afterwards(tokens):
    network = Successor()
    evaluate(network, held_out(tokens), place("cpu", "float32"), Ranks())
    assert network.training


def test_an_absurd_loss_has_a_finite_perplexity():
    bad = Evaluation(1e4, 1.0, 3.0, 1.0, 1.0, 5)
    assert combine([bad]).perplexity == math.exp(700)


def test_what_a_person_reads():
    loss, baselines = Evaluation(1.5, math.exp(1.5), 0.75, 3.25, 2.0, 1234).lines()
    assert loss == "loss 1.5000 nats/token, perplexity 4.48, 0.750 bits/byte"
    expected = "unigram 3.2500 (1.75 more than the model), bigram 2.0000 (0.50 more), on the same 1,234 tokens"
    assert baselines == expected


def test_what_is_kept_says_of_what_it_is():
    own = {"held_out_loss": 1.5, "held_out_perplexity": 4.5, "held_out_bits_per_byte": 0.75, "held_out_tokens": 9}
    assert Evaluation(1.5, 4.5, 0.75, 3.25, 2.0, 9).values() == {**own, "unigram": 3.25, "bigram": 2.0}


def test_bytes_of_tokens_add_up_to_the_texts():
    tokenizer, text = Tokenizer.load(), "naïve 猫 — 3.14\n\n"
    sizes = token_bytes(tokenizer, tokenizer.vocab_size + 7)
    assert sizes[tokenizer.encode(text)].sum() == len(text.encode())
    control = [tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id]
    assert not sizes[control].any() and not sizes[tokenizer.vocab_size :].any() and len(sizes) == 6407
