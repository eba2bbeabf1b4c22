"""From a JSON Lines file or the built-in corpus to a token file, made once and reused while its inputs are the same."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from minimind_ref.data import corpus
from minimind_ref.data.jsonl import DataError, open_regular, read_jsonl
from minimind_ref.data.token_file import TokenFile
from minimind_ref.data.token_writer import Encoder, write_token_file
from minimind_ref.progress import progress_bar


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
    settings = {"data": _digest(path), "key": key, "on_bad_line": on_bad_line}
    skipped: Counter[str] = Counter()

    def texts() -> Iterator[str]:
        with progress_bar(
            total=before[0], unit="B", unit_scale=True, desc=f"tokenise {path}", disable=not progress
        ) as bar:
            yield from read_jsonl(path, key=key, on_bad_line=on_bad_line, skipped=skipped, on_bytes=bar.update)
        if _identity(path) != before:
            raise DataError(f"{path}: changed while it was read")

    return write_token_file(
        texts(), tokenizer, cache_dir=cache_dir, name=Path(path).stem, wrap=wrap, settings=settings, skipped=skipped
    )


def tokenise_corpus(
    tokenizer: Encoder, *, cache_dir: str | Path, wrap: bool = True, sources: bool = True, progress: bool = True
) -> TokenFile:
    """The token file of the built-in corpus (`corpus.documents`), cached likewise."""
    settings = {"data": corpus.fingerprint(), "sources": sources}

    def texts() -> Iterator[str]:
        documents = corpus.documents(sources=sources)
        yield from progress_bar(documents, unit=" documents", desc="tokenise the built-in corpus", disable=not progress)

    return write_token_file(texts(), tokenizer, cache_dir=cache_dir, name="corpus", wrap=wrap, settings=settings)


def _digest(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _identity(path: str | Path) -> tuple[int, int, int]:
    """What changes when a file's content does: its size first."""
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ino
