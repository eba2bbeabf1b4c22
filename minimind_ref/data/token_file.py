"""Tokenised documents on disk, read through memory maps: `TokenFile`, and its split into training and held-out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from minimind_ref.data.token_layout import read_metadata


class TokenFile:
    """Documents as one stream of token ids: STEM.tokens.bin, STEM.offsets.bin (int64, documents + 1) and STEM.json.

    Where only a part of the tokens is to be learnt, STEM.supervised.bin has a byte for each, 1 or 0.
    `runs` restricts it to some documents: [first, stop) pairs of document numbers, ascending and disjoint.  The rest
    of the file does then not exist: documents and positions count from 0 within what is left.
    Every access opens the maps anew, so that pages once read do not stay resident.
    """

    def __init__(self, stem: str | Path, runs: Int[np.ndarray, "r 2"] | None = None) -> None:
        self.stem = Path(stem)
        self.metadata = read_metadata(self.stem)
        self.wrap: bool = self.metadata["wrap"]
        self.is_supervised: bool = self.metadata["supervised"]
        self.max_id: int = self.metadata["max_id"]
        total = self.metadata["num_documents"]
        self._runs = np.array([[0, total]], dtype=np.int64) if runs is None else runs.astype(np.int64)
        offsets = self._offsets()
        self._file_start = np.array(offsets[self._runs[:, 0]])
        self._stream = _cumulative(offsets[self._runs[:, 1]] - self._file_start)
        self._documents = _cumulative(self._runs[:, 1] - self._runs[:, 0])
        self.num_tokens = int(self._stream[-1])
        self.num_documents = int(self._documents[-1])

    def document(self, number: int) -> Int[np.ndarray, " n"]:
        """The ids of one document."""
        begin, end = self._range(number)
        return self._tokens()[begin:end].astype(np.int64)

    def supervised(self, number: int) -> Bool[np.ndarray, " n"]:
        """Which tokens of one document are to be learnt: all of them where the file does not say."""
        begin, end = self._range(number)
        return self._flags()[begin:end] != 0 if self.is_supervised else np.ones(end - begin, dtype=bool)

    def slice(self, start: int, stop: int) -> Int[np.ndarray, " n"]:
        """The ids at the stream's positions start … stop - 1."""
        tokens = self._tokens()
        parts = [tokens[begin:end] for begin, end, _ in self._parts(start, stop)]
        return np.concatenate([np.empty(0, dtype=tokens.dtype), *parts]).astype(np.int64)

    def supervised_slice(self, start: int, stop: int) -> Bool[np.ndarray, " n"]:
        """Which tokens at the stream's positions start … stop - 1 are to be learnt."""
        parts = self._parts(start, stop)
        if not self.is_supervised:
            return np.ones(stop - start, dtype=bool)
        flags = self._flags()
        return np.concatenate([np.empty(0, dtype=bool), *(flags[begin:end] != 0 for begin, end, _ in parts)])

    def starts(self, start: int, stop: int) -> Int[np.ndarray, " m"]:
        """The positions in start … stop - 1 at which a document begins."""
        offsets = self._offsets()
        found = [np.empty(0, dtype=np.int64)]
        for begin, end, shift in self._parts(start, stop):
            first, last = np.searchsorted(offsets, (begin, end))
            found.append(offsets[first:last] + shift)
        return np.concatenate(found)

    def select(self, runs: Int[np.ndarray, "r 2"]) -> TokenFile:
        """The same file with only the given [first, stop) runs of the documents that are left in it."""
        cuts = np.union1d(runs, self._documents)
        begins, counts = cuts[:-1], np.diff(cuts)
        wanted = np.searchsorted(runs[:, 0], begins, side="right") > np.searchsorted(runs[:, 1], begins, side="right")
        rows = self._rows(begins[wanted])
        return TokenFile(self.stem, np.stack([rows, rows + counts[wanted]], axis=1))

    def _range(self, number: int) -> tuple[int, int]:
        """Where in the file a document begins and ends."""
        if not 0 <= number < self.num_documents:
            raise IndexError(f"document {number} of {self.num_documents}")
        row = int(self._rows(np.array([number]))[0])
        begin, end = self._offsets()[row : row + 2].tolist()
        return begin, end

    def _rows(self, numbers: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
        """The numbers in the file of documents that are left."""
        run = np.searchsorted(self._documents, numbers, side="right") - 1
        return self._runs[run, 0] + numbers - self._documents[run]

    def _parts(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """(begin, end, what to add to get stream positions) of each range of the file that holds start … stop - 1."""
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.num_tokens}")
        first = int(np.searchsorted(self._stream, start, side="right")) - 1
        last = int(np.searchsorted(self._stream, stop, side="left"))
        parts = []
        for run in range(first, last):
            shift = int(self._stream[run] - self._file_start[run])
            begin, end = max(start, int(self._stream[run])), min(stop, int(self._stream[run + 1]))
            parts.append((begin - shift, end - shift, shift))
        return parts

    def _tokens(self) -> np.ndarray:
        return np.memmap(f"{self.stem}.tokens.bin", dtype=self.metadata["dtype"], mode="r")

    def _flags(self) -> np.ndarray:
        return np.memmap(f"{self.stem}.supervised.bin", dtype=np.uint8, mode="r")

    def _offsets(self) -> np.ndarray:
        return np.memmap(f"{self.stem}.offsets.bin", dtype=np.int64, mode="r")


def split(
    token_file: TokenFile, fraction: float | int, max_documents: int = 1000, *, group: int = 1
) -> tuple[TokenFile, TokenFile]:
    """(training part, held-out part): the documents that `held_out` names are the second part, the rest the first.

    group: so many documents stay together and count as one (a pair is two).
    """
    total, rest = divmod(token_file.num_documents, group)
    if rest:
        raise ValueError(f"the file's {token_file.num_documents} documents make no groups of {group}")
    held = held_out(total, fraction, max_documents)
    between = group * np.stack([np.append(0, held + 1), np.append(held, total)], axis=1)
    return token_file.select(between), token_file.select(group * np.stack([held, held + 1], axis=1))


def held_out(total: int, fraction: float | int, max_documents: int = 1000) -> Int[np.ndarray, " m"]:
    """The documents, of `total`, that are not trained on: every n-th, n = 1/fraction or more to keep the maximum.

    The same ones every time.  At least one, but none of a single document or with fraction 0.
    """
    if not 0 <= fraction <= 0.5:
        raise ValueError(f"fraction={fraction} must lie between 0 and 0.5")
    if fraction == 0 or max_documents == 0 or total < 2:
        return np.empty(0, dtype=np.int64)
    stride = min(max(math.ceil(1 / fraction), -(-total // max_documents)), total)
    return np.arange(stride - 1, total, stride)


def _cumulative(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])
