"""Text to token file, once: in parallel, resumable by fingerprint, nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from tqdm import tqdm

from minimind_ref.data import corpus
from minimind_ref.data.jsonl import DataError, open_regular, read_jsonl
from minimind_ref.data.token_file import FORMAT, TokenFile

BATCH_BYTES = 2**20


@runtime_checkable
class Encoder(Protocol):
    """What is needed of a tokenizer."""

    vocab_size: int
    start_id: int
    end_id: int
    fingerprint: str

    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...


def tokenise_jsonl(
    path: str | Path,
    tokenizer: Encoder,
    *,
    cache_dir: str | Path,
    wrap: bool = True,
    key: str = "text",
    on_bad_line: str = "error",
    progress: bool = True,
) -> TokenFile:
    """The token file of a JSON Lines file: the cached one where data, tokenizer and settings are the same, else new.

    wrap: each text stands between the start and the end token (MiniMind-3); False adds nothing (MiniMind2).
    What was skipped is in `.metadata["skipped"]`, counted by reason.  Raises DataError as `read_jsonl` does.
    """
    before = _identity(path)
    settings = _settings(tokenizer, data=_digest(path), key=key, wrap=wrap, on_bad_line=on_bad_line)
    skipped: Counter[str] = Counter()
    bar = tqdm(total=before[0], unit="B", unit_scale=True, desc=f"tokenise {Path(path).name}", disable=not progress)

    def texts() -> Iterator[str]:
        yield from read_jsonl(path, key=key, on_bad_line=on_bad_line, skipped=skipped, on_bytes=bar.update)
        if _identity(path) != before:
            raise DataError(f"{path}: changed while it was read")

    with bar:
        return tokenise(
            texts(), tokenizer, cache_dir=cache_dir, name=Path(path).stem, settings=settings, skipped=skipped
        )


def tokenise_corpus(
    tokenizer: Encoder, *, cache_dir: str | Path, wrap: bool = True, progress: bool = True
) -> TokenFile:
    """The token file of the built-in corpus, cached likewise."""
    settings = _settings(tokenizer, data=corpus.fingerprint(), wrap=wrap)
    with tqdm(corpus.documents(), unit=" documents", desc="tokenise corpus", disable=not progress) as texts:
        return tokenise(texts, tokenizer, cache_dir=cache_dir, name="corpus", settings=settings)


def tokenise(
    texts: Iterable[str],
    tokenizer: Encoder,
    *,
    cache_dir: str | Path,
    name: str,
    settings: dict[str, Any],
    skipped: Counter[str] | None = None,
) -> TokenFile:
    """The token file CACHE_DIR/NAME-FINGERPRINT: opened if it is there, else written from `texts`.

    Written under a temporary name, synced and renamed, the JSON last: an interruption leaves nothing that could be
    taken for the file, and processes that race write the same bytes.
    """
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    cache = Path(cache_dir)
    stem = cache / f"{name}-{fingerprint[:12]}"
    try:
        found = TokenFile(stem)
        if found.metadata["fingerprint"] == fingerprint:
            return found
    except DataError:
        pass
    try:
        cache.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{stem.name}-", dir=cache))
    except OSError as error:
        raise DataError(f"{cache}: cannot be written ({error.strerror})") from None
    try:
        metadata = _write(texts, tokenizer, work, wrap=settings["wrap"])
        metadata.update(settings=settings, fingerprint=fingerprint, skipped=dict(skipped or {}))
        (work / "json").write_text(json.dumps(metadata, indent=1), encoding="utf-8")
        for suffix in ("tokens.bin", "offsets.bin", "json"):
            with open(work / suffix, "rb") as file:
                os.fsync(file.fileno())
            os.replace(work / suffix, f"{stem}.{suffix}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return TokenFile(stem)


def _write(texts: Iterable[str], tokenizer: Encoder, work: Path, *, wrap: bool) -> dict[str, Any]:
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
    ends, max_id, num_documents = 0, 0, 0
    with open(work / "tokens.bin", "wb") as tokens, open(work / "offsets.bin", "wb") as offsets:
        offsets.write(np.zeros(1, dtype=np.int64).tobytes())
        for batch in _batches(texts):
            lists = tokenizer.encode_batch(batch)
            if wrap:
                lists = [[tokenizer.start_id, *ids, tokenizer.end_id] for ids in lists]
            lists = [ids for ids in lists if ids]
            lengths = np.array([len(ids) for ids in lists], dtype=np.int64)
            flat = np.array([i for ids in lists for i in ids], dtype=np.int64)
            tokens.write(flat.astype(dtype).tobytes())
            offsets.write((ends + np.cumsum(lengths)).tobytes())
            ends, num_documents = ends + int(lengths.sum()), num_documents + len(lists)
            max_id = max(max_id, int(flat.max(initial=0)))
    return {
        "format": FORMAT,
        "dtype": dtype.str,
        "wrap": wrap,
        "max_id": max_id,
        "num_tokens": ends,
        "num_documents": num_documents,
    }


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text.encode())
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _settings(tokenizer: Encoder, **settings: Any) -> dict[str, Any]:
    return {"format": FORMAT, "tokenizer": tokenizer.fingerprint, **settings}


def _digest(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _identity(path: str | Path) -> Sequence[int]:
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ino
