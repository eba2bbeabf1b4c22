"""What a model must beat: a unigram and a smoothed bigram, fitted on the training tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from minimind_ref.data.token_file import TokenFile

CHUNK = 2**20


class Baselines:
    """Counts of tokens and of pairs of neighbours within a document; see `fit`."""

    def __init__(self, vocab_size: int, codes: Int[np.ndarray, " m"], counts: Int[np.ndarray, " m"]) -> None:
        self.vocab_size = vocab_size
        self._codes, self._counts = codes, counts  # previous · vocab_size + next, ascending, and how often
        previous, following = np.divmod(codes, vocab_size)
        self._followers = np.bincount(following, weights=counts, minlength=vocab_size)
        self._context = np.bincount(previous, weights=counts, minlength=vocab_size)
        self._types = np.bincount(previous, minlength=vocab_size)

    def unigram_nll(self, labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """−ln p(label) in nats, p(w) = (c(w) + 1) / (Σc + v): add-one (Laplace)."""
        return -np.log(self._unigram(labels))

    def bigram_nll(self, previous: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """−ln p(label | previous) in nats, p(w | h) = (c(h, w) + T(h)·p(w)) / (c(h) + T(h)), T(h) kinds seen after h.

        A context never seen gives the unigram.  Source: Witten & Bell 1991, method C, interpolated as in
        Chen & Goodman 1998, arXiv:cmp-lg/9606011, section 2.4.
        """
        code = previous * self.vocab_size + labels
        index = np.minimum(np.searchsorted(self._codes, code), len(self._codes) - 1)
        count = np.where(self._codes[index] == code, self._counts[index], 0)
        weight = np.maximum(self._types[previous], (self._context[previous] == 0).astype(np.int64))
        return -np.log((count + weight * self._unigram(labels)) / (self._context[previous] + weight))

    def _unigram(self, labels: np.ndarray) -> np.ndarray:
        return (self._followers[labels] + 1) / (self._followers.sum() + self.vocab_size)


def fit(tokens: TokenFile, vocab_size: int, *, max_tokens: int = 20_000_000) -> Baselines:
    """Count the first `max_tokens` tokens of a token file, in pieces; no pair crosses documents.

    The unigram counts what can be a label, so a document's first token is not in it.
    """
    codes, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for pairs in _pairs(tokens, vocab_size, min(max_tokens, tokens.num_tokens)):
        new, repeats = np.unique(pairs, return_counts=True)
        merged, where = np.unique(np.concatenate([codes, new]), return_inverse=True)
        counts = np.bincount(where, weights=np.concatenate([counts, repeats])).astype(np.int64)
        codes = merged
    return Baselines(vocab_size, codes, counts)


def _pairs(tokens: TokenFile, vocab_size: int, stop: int) -> Iterator[np.ndarray]:
    for begin in range(0, stop, CHUNK):
        end = min(begin + CHUNK + 1, stop)
        ids = tokens.slice(begin, end)
        follows = np.ones(len(ids), dtype=bool)
        follows[tokens.starts(begin, end) - begin] = False
        follows = follows[1:]
        yield ids[:-1][follows] * vocab_size + ids[1:][follows]
