"""Text to token file: in parallel and in bounded memory."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from minimind_ref.data.token_file import TokenFile
from minimind_ref.data.token_store import Chunk, Encoder, write_chunks

BATCH_BYTES = 2**20
"""What is encoded at once; the tokenizers library takes about 150 bytes of memory for each."""
PIECE = 2**18
"""Characters after which a text is cut at the next safe place."""
_LETTER = r"[^\W\d_]"
SAFE_CUT = re.compile(rf"(?<={_LETTER})(?= {_LETTER})|(?<=\S\n)(?={_LETTER})")
"""Where no pre-tokenisation in use (GPT-2's, GPT-4's, Llama 3's, Qwen's) has one piece on both sides."""


class Piece(NamedTuple):
    """A part of a document's text."""

    text: str
    opens: bool
    closes: bool


def write_token_file(
    texts: Iterable[str],
    tokenizer: Encoder,
    *,
    cache_dir: str | Path,
    name: str,
    wrap: bool,
    settings: dict[str, Any],
    skipped: Counter[str] | None = None,
) -> TokenFile:
    """The token file of texts, one document each; `settings` must hold all that the texts depend on.

    Cached as `token_store.write_chunks` says.  A text that gives no token is no document.
    """
    chunks = _encoded(texts, tokenizer, wrap)
    return write_chunks(
        chunks, tokenizer, cache_dir=cache_dir, name=name, wrap=wrap, settings=settings, skipped=skipped
    )


def pieces(text: str) -> Iterator[Piece]:
    """Cut a long text where that does not change its tokens, so that a book is not encoded in one go."""
    begin = 0
    while (cut := SAFE_CUT.search(text, begin + PIECE)) is not None:
        yield Piece(text[begin : cut.start()], begin == 0, False)
        begin = cut.start()
    yield Piece(text[begin:], begin == 0, True)


def _encoded(texts: Iterable[str], tokenizer: Encoder, wrap: bool) -> Iterator[Chunk]:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # unset, the library warns at every later fork
    for batch in _batches(texts):
        flat: list[int] = []
        ends: list[int] = []
        for piece, ids in zip(batch, tokenizer.encode_batch([piece.text for piece in batch]), strict=True):
            flat += [tokenizer.start_id] if wrap and piece.opens else []
            flat += ids
            flat += [tokenizer.end_id] if wrap and piece.closes else []
            ends += [len(flat)] if piece.closes else []
        yield Chunk(flat, ends)


def _batches(texts: Iterable[str]) -> Iterator[list[Piece]]:
    batch, size = [], 0
    for piece in chain.from_iterable(map(pieces, texts)):
        batch.append(piece)
        size += len(piece.text.encode())
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
