"""Conversations on disk to token files that know which tokens are learnt, and to prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from minimind_ref.data.chat_encoding import encode_dialogues, in_batches, text_limit
from minimind_ref.data.chat_records import Dialogue, read_conversation, read_pair, read_question, shortened
from minimind_ref.data.chat_template import encode_segments
from minimind_ref.data.jsonl import DataError, nothing_usable, read_records
from minimind_ref.data.packing_checks import check_length
from minimind_ref.data.source import Source
from minimind_ref.data.token_file import TokenFile
from minimind_ref.data.token_store import Chunk, write_chunks
from minimind_ref.data.tokenizer import Tokenizer

VERSION = 1
"""Raised when the same record gives other tokens than before, so that cached token files are not reused."""
TOO_LONG = "longer than a prompt may be"


@dataclass(frozen=True)
class Prompt:
    """What a policy is to answer: its ids, up to where the answer begins; `reference` is the data's answer, if any."""

    ids: list[int]
    messages: list[dict[str, Any]]
    reference: str | None


def tokenise_conversations(
    path: str | Path,
    tokenizer: Tokenizer,
    *,
    cache_dir: str | Path,
    template: str = "minimind2",
    max_length: int,
    on_bad_line: str = "error",
    progress: bool = True,
) -> TokenFile:
    """The token file of {"conversations": [messages]} a line, cached as `tokenise_jsonl`'s: one document each.

    Supervised are all turns of the assistant (CHAT_TEMPLATE-8).  A document is cut on the right to max_length tokens
    (`.metadata["num_cut"]` counts those); one of which nothing supervised is left is left out, and counted in
    `.metadata["skipped"]`.  Raises DataError, with the line, for a record that is no conversation with an assistant.
    """
    settings = {"template": template, "max_length": max_length, "on_bad_line": on_bad_line}
    return _tokenise(path, tokenizer, read_conversation, settings, cache_dir, progress)


def tokenise_pairs(
    path: str | Path,
    tokenizer: Tokenizer,
    *,
    cache_dir: str | Path,
    template: str = "minimind2",
    max_length: int,
    on_bad_line: str = "error",
    progress: bool = True,
) -> TokenFile:
    """The token file of {"chosen": [messages], "rejected": [messages]} a line: documents 2i and 2i + 1 are pair i.

    Supervised is the last turn only: the two conversations must be the same up to it, and it must be the assistant's,
    else DataError.  Cut as `tokenise_conversations` does; a pair is left out if nothing is left of either answer.
    """
    settings = {"template": template, "max_length": max_length, "on_bad_line": on_bad_line}
    return _tokenise(path, tokenizer, read_pair, settings, cache_dir, progress)


def read_prompts(
    path: str | Path,
    tokenizer: Tokenizer,
    *,
    template: str = "minimind2",
    max_length: int,
    on_bad_line: str = "error",
    skipped: dict[str, int] | None = None,
) -> list[Prompt]:
    """The prompts of {"conversations": [messages]} a line: all before the assistant's turn, if that is the last.

    Its text is the reference, None where it is empty.  Prompts of more than max_length tokens are left out and counted
    in `skipped`, as bad lines are.  Raises DataError as `tokenise_conversations` does, and where none is left.
    """
    if max_length < 1:
        raise ValueError(f"max_length={max_length} must be at least 1")
    counts: Counter[str] = Counter()
    questions = read_records(path, partial(read_question, template=template), on_bad_line=on_bad_line, skipped=counts)
    limit = text_limit(tokenizer, max_length)
    prompts: list[Prompt] = []
    for batch in in_batches(questions, lambda question: [question.prompt]):
        chats = encode_segments(tokenizer, [shortened(question.prompt, limit) for question in batch])
        for chat, question in zip(chats, batch, strict=True):
            if len(chat.ids) > max_length:
                counts[TOO_LONG] += 1
            else:
                prompts.append(Prompt(chat.ids, question.messages, question.reference))
    if not prompts:
        raise DataError(f"{path}: {nothing_usable(counts)}")
    if skipped is not None:
        skipped.update({reason: skipped.get(reason, 0) + count for reason, count in counts.items()})
    return prompts


def _tokenise(
    path: str | Path,
    tokenizer: Tokenizer,
    read: Callable[[dict[str, Any], str], Dialogue],
    settings: dict[str, Any],
    cache_dir: str | Path,
    progress: bool,
) -> TokenFile:
    check_length(settings["max_length"])
    source = Source(path)
    skipped: Counter[str] = Counter()
    extra: dict[str, Any] = {"num_cut": 0}

    def records(on_bytes: Callable[[int], object]) -> Iterator[Dialogue]:
        def convert(record: dict[str, Any]) -> Dialogue:
            return read(record, settings["template"])

        return read_records(path, convert, on_bad_line=settings["on_bad_line"], skipped=skipped, on_bytes=on_bytes)

    def chunks() -> Iterator[Chunk]:
        dialogues, documents = source.read(records, progress=progress), 0
        for chunk in encode_dialogues(dialogues, tokenizer, settings["max_length"], skipped, extra):
            documents += len(chunk.ends)
            yield chunk
        if documents == 0:
            raise DataError(f"{path}: {nothing_usable(skipped)}")

    return write_chunks(
        chunks(),
        tokenizer,
        cache_dir=cache_dir,
        name=Path(path).stem,
        supervised=True,
        settings={"version": VERSION, "kind": read.__name__, "data": source.digest, **settings},
        skipped=skipped,
        extra=extra,
    )
