"""Text to token file: in parallel, in bounded memory, and whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from minimind_ref.data.jsonl import DataError
from minimind_ref.data.token_file import FORMAT, TokenFile

BATCH_BYTES = 2**20
"""What is encoded at once; the tokenizers library takes about 150 bytes of memory for each."""
PIECE = 2**18
"""Characters after which a text is cut at the next safe place."""
_LETTER = r"[^\W\d_]"
SAFE_CUT = re.compile(rf"(?<={_LETTER})(?= {_LETTER})|(?<=\S\n)(?={_LETTER})")
"""Where no pre-tokenisation in use (GPT-2's, GPT-4's, Llama 3's, Qwen's) has one piece on both sides."""
STALE_SECONDS = 86400


@runtime_checkable
class Encoder(Protocol):
    """What is needed of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def start_id(self) -> int: ...
    @property
    def end_id(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...


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
    """The token file CACHE_DIR/NAME-FINGERPRINT: opened if it is there, else written from `texts`.

    `settings` must hold all that the texts depend on.  The files are written in a temporary folder, synced and
    renamed, the JSON last: an interruption leaves nothing that could be taken for a token file, and processes that
    race write the same bytes.  A text that gives no token is no document.
    """
    settings = {"format": FORMAT, "tokenizer": tokenizer.fingerprint, "wrap": wrap, **settings}
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    stem = Path(cache_dir) / f"{name}-{fingerprint[:12]}"
    found = _reusable(stem, fingerprint)
    if found is not None:
        return found
    work = _work_folder(stem)
    try:
        metadata = _write(texts, tokenizer, work, wrap=wrap)
        metadata |= {"settings": settings, "fingerprint": fingerprint, "skipped": dict(skipped or {})}
        (work / "json").write_text(json.dumps(metadata, indent=1), encoding="utf-8")
        for suffix in ("tokens.bin", "offsets.bin", "json"):
            with open(work / suffix, "rb+") as file:
                os.fsync(file.fileno())
        for suffix in ("tokens.bin", "offsets.bin", "json"):
            os.replace(work / suffix, f"{stem}.{suffix}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return TokenFile(stem)


def pieces(text: str) -> Iterator[Piece]:
    """Cut a long text where that does not change its tokens, so that a book is not encoded in one go."""
    begin = 0
    while (cut := SAFE_CUT.search(text, begin + PIECE)) is not None:
        yield Piece(text[begin : cut.start()], begin == 0, False)
        begin = cut.start()
    yield Piece(text[begin:], begin == 0, True)


def _reusable(stem: Path, fingerprint: str) -> TokenFile | None:
    try:
        found = TokenFile(stem)
    except DataError:
        return None
    return found if found.metadata["fingerprint"] == fingerprint else None


def _work_folder(stem: Path) -> Path:
    """A new temporary folder beside the result; those that a killed process left a day ago are removed."""
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for old in stem.parent.glob(f".{stem.name}-*"):
            if time.time() - old.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=f".{stem.name}-", dir=stem.parent))
    except OSError as error:
        raise DataError(f"{stem.parent}: cannot be written ({error.strerror})") from None


def _write(texts: Iterable[str], tokenizer: Encoder, work: Path, *, wrap: bool) -> dict[str, Any]:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # unset, the library warns at every later fork
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
    begins, total, max_id, num_documents = 0, 0, 0, 0
    with open(work / "tokens.bin", "wb") as tokens, open(work / "offsets.bin", "wb") as offsets:
        offsets.write(np.zeros(1, dtype=np.int64).tobytes())
        for batch in _batches(texts):
            lists, ends = [], []
            for piece, ids in zip(batch, tokenizer.encode_batch([piece.text for piece in batch]), strict=True):
                start = [tokenizer.start_id] if wrap and piece.opens else []
                lists.append([*start, *ids, tokenizer.end_id] if wrap and piece.closes else [*start, *ids])
                total += len(lists[-1])
                if piece.closes and total > begins:
                    ends.append(total)
                    begins = total
            flat = np.array(list(chain.from_iterable(lists)), dtype=dtype)
            tokens.write(flat.tobytes())
            offsets.write(np.array(ends, dtype=np.int64).tobytes())
            num_documents, max_id = num_documents + len(ends), max(max_id, int(flat.max(initial=0)))
    counts = {"num_tokens": total, "num_documents": num_documents}
    return {"format": FORMAT, "dtype": dtype.str, "wrap": wrap, "max_id": max_id, **counts}


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
