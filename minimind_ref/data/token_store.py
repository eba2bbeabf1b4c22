"""The cache of token files: written whole or not at all, and reused while all that they depend on is the same."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from minimind_ref.data.jsonl import DataError
from minimind_ref.data.token_file import TokenFile
from minimind_ref.data.token_layout import FORMAT, suffixes

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


class Chunk(NamedTuple):
    """The next tokens of the stream, and after how many of them documents end; the last one may go on in the next."""

    ids: list[int]
    ends: list[int]
    supervised: list[bool] | None = None


def write_chunks(
    chunks: Iterable[Chunk],
    tokenizer: Encoder,
    *,
    cache_dir: str | Path,
    name: str,
    wrap: bool = False,
    supervised: bool = False,
    settings: dict[str, Any],
    skipped: Counter[str] | None = None,
    extra: dict[str, Any] | None = None,
) -> TokenFile:
    """The token file CACHE_DIR/NAME-FINGERPRINT: opened if it is there, else written from `chunks`.

    `settings` must hold all that the chunks depend on.  The files are written in a temporary folder, synced and
    renamed, the JSON last: an interruption leaves nothing that could be taken for a token file, and processes that
    race write the same bytes.  A document without a token is none.  `skipped` and `extra` go to the metadata as they
    are at the end.
    """
    settings = {"format": FORMAT, "tokenizer": tokenizer.fingerprint, "wrap": wrap, **settings}
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    stem = Path(cache_dir) / f"{name}-{fingerprint[:12]}"
    found = _reusable(stem, fingerprint)
    if found is not None:
        return found
    work = _work_folder(stem)
    try:
        counts = _write(chunks, work, np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4"), supervised)
        metadata = {"format": FORMAT, "wrap": wrap, "supervised": supervised, **counts}
        metadata |= {"settings": settings, "fingerprint": fingerprint, "skipped": dict(skipped or {}), **(extra or {})}
        (work / "json").write_text(json.dumps(metadata, indent=1), encoding="utf-8")
        for suffix in suffixes(supervised):
            with open(work / suffix, "rb+") as file:
                os.fsync(file.fileno())
        for suffix in suffixes(supervised):
            os.replace(work / suffix, f"{stem}.{suffix}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return TokenFile(stem)


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


def _write(chunks: Iterable[Chunk], work: Path, dtype: np.dtype, supervised: bool) -> dict[str, Any]:
    total, last_end, num_documents, max_id = 0, 0, 0, 0
    with ExitStack() as stack:
        files = {suffix: stack.enter_context(open(work / suffix, "wb")) for suffix in suffixes(supervised)[:-1]}
        files["offsets.bin"].write(np.zeros(1, dtype=np.int64).tobytes())
        for chunk in chunks:
            ids = np.array(chunk.ids, dtype=dtype)
            ends = np.array(chunk.ends, dtype=np.int64) + total
            ends = ends[np.diff(ends, prepend=last_end) > 0]
            files["tokens.bin"].write(ids.tobytes())
            files["offsets.bin"].write(ends.tobytes())
            if supervised:
                files["supervised.bin"].write(np.array(chunk.supervised, dtype=np.uint8).tobytes())
            total, last_end = total + len(ids), int(ends[-1]) if len(ends) else last_end
            num_documents, max_id = num_documents + len(ends), max(max_id, int(ids.max(initial=0)))
    return {"dtype": dtype.str, "max_id": max_id, "num_tokens": total, "num_documents": num_documents}
