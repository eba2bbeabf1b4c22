"""From a JSON Lines file or the built-in corpus to a token file, made once and reused while its inputs are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from minimind_ref.data import corpus
from minimind_ref.data.jsonl import read_jsonl
from minimind_ref.data.source import Source
from minimind_ref.data.token_file import TokenFile
from minimind_ref.data.token_store import Encoder
from minimind_ref.data.token_writer import write_token_file
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
    source = Source(path)
    settings = {"data": source.digest, "key": key, "on_bad_line": on_bad_line}
    skipped: Counter[str] = Counter()
    texts = source.read(
        lambda on_bytes: read_jsonl(path, key=key, on_bad_line=on_bad_line, skipped=skipped, on_bytes=on_bytes),
        progress=progress,
    )
    return write_token_file(
        texts, tokenizer, cache_dir=cache_dir, name=Path(path).stem, wrap=wrap, settings=settings, skipped=skipped
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
