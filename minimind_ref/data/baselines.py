"""What a model must beat: a unigram and a smoothed bigram, fitted on the training tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from minimind_ref.data.token_file import TokenFile

CHUNK = 2**20


class Baselines:
    """Counts of tokens and of pairs of neighbours within a document; made by `fit`.

    codes: previous · vocab_size + next of every pair seen, ascending; counts: how often.
    """

    def __init__(self, vocab_size: int, codes: Int[np.ndarray, " m"], counts: Int[np.ndarray, " m"]) -> None:
        self.vocab_size = vocab_size
        self._codes = np.append(codes, vocab_size**2)  # a last one that no pair has, for the search below
        self._counts = np.append(counts, 0)
        previous, following = np.divmod(codes, vocab_size)
        self._follows = np.bincount(following, weights=counts, minlength=vocab_size)
        self._precedes = np.bincount(previous, weights=counts, minlength=vocab_size)
        self._kinds_after = np.bincount(previous, minlength=vocab_size)

    def unigram_nll(self, labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """−ln p(label) in nats, p(w) = (c(w) + 1) / (Σ c + v): add-one (Laplace)."""
        return -np.log(self._unigram(self._checked("labels", labels)))

    def bigram_nll(self, previous: Int[np.ndarray, " n"], labels: Int[np.ndarray, " k"]) -> Float[np.ndarray, " n"]:
        """−ln p(label | previous) in nats, p(w | h) = (c(h, w) + T(h)·p(w)) / (c(h) + T(h)), T(h) kinds seen after h.

        A context never seen gives the unigram.  Source: Witten and Bell 1991, method C, interpolated as in
        Chen and Goodman 1998 (Harvard TR-10-98), "Witten-Bell smoothing".
        """
        if len(previous) != len(labels):
            raise ValueError(f"previous has {len(previous)} entries but labels has {len(labels)}")
        previous, labels = self._checked("previous", previous), self._checked("labels", labels)
        code = previous * self.vocab_size + labels
        index = np.searchsorted(self._codes, code)
        count = np.where(self._codes[index] == code, self._counts[index], 0)
        kinds = np.maximum(self._kinds_after[previous], 1)
        return -np.log((count + kinds * self._unigram(labels)) / (self._precedes[previous] + kinds))

    def _unigram(self, labels: np.ndarray) -> np.ndarray:
        return (self._follows[labels] + 1) / (self._follows.sum() + self.vocab_size)

    def _checked(self, name: str, ids: np.ndarray) -> np.ndarray:
        if ids.size and not 0 <= ids.min() <= ids.max() < self.vocab_size:
            raise ValueError(f"{name} has ids from {ids.min()} to {ids.max()} but vocab_size is {self.vocab_size}")
        return ids.astype(np.int64)


def fit(tokens: TokenFile, vocab_size: int, *, max_tokens: int = 20_000_000) -> Baselines:
    """Count the first `max_tokens` tokens of a token file, in pieces; no pair crosses documents.

    The unigram counts what can be a label, so a document's first token is not in it.  Memory: 16 bytes for each
    different pair, and some MiB.
    """
    if tokens.max_id >= vocab_size:
        raise ValueError(f"the tokens go up to id {tokens.max_id} but vocab_size is {vocab_size}")
    codes, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for pairs in _pairs(tokens, vocab_size, min(max_tokens, tokens.num_tokens)):
        new, repeats = np.unique(pairs, return_counts=True)
        codes, where = np.unique(np.concatenate([codes, new]), return_inverse=True)
        counts = np.bincount(where, weights=np.concatenate([counts, repeats]), minlength=len(codes)).astype(np.int64)
    return Baselines(vocab_size, codes, counts)


def _pairs(tokens: TokenFile, vocab_size: int, stop: int) -> Iterator[np.ndarray]:
    """The codes of all pairs of neighbours in one document, CHUNK tokens at a time (one looked at twice)."""
    for begin in range(0, stop, CHUNK):
        end = min(begin + CHUNK + 1, stop)
        ids = tokens.slice(begin, end)
        inside = np.ones(len(ids), dtype=bool)
        inside[tokens.starts(begin, end) - begin] = False
        yield ids[:-1][inside[1:]] * vocab_size + ids[1:][inside[1:]]
