"""Rendered records to chunks of a token file, many in one batch and never more of a text than the window can hold."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from minimind_ref.data.chat_records import Dialogue, shortened
from minimind_ref.data.chat_template import encode_segments
from minimind_ref.data.chatml import Segment
from minimind_ref.data.token_store import Chunk
from minimind_ref.data.token_writer import BATCH_BYTES
from minimind_ref.data.tokenizer import Tokenizer

CUT = "cut before an answer"

T = TypeVar("T")


def encode_dialogues(
    dialogues: Iterable[Dialogue], tokenizer: Tokenizer, max_length: int, skipped: Counter[str], extra: dict[str, int]
) -> Iterator[Chunk]:
    """Encode and cut to max_length tokens on the right; a record is left out if nothing is left of one of its answers.

    `skipped` counts those, and extra["num_cut"] the documents that were cut.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # unset, the library warns at every later fork
    limit = text_limit(tokenizer, max_length)
    for batch in in_batches(dialogues, lambda dialogue: [dialogue.prompt, *dialogue.answers]):
        chats = iter(
            encode_segments(tokenizer, [shortened(part, limit) for d in batch for part in (d.prompt, *d.answers)])
        )
        ids: list[int] = []
        ends: list[int] = []
        supervised: list[bool] = []
        for dialogue in batch:
            prompt = next(chats)
            answers = list(islice(chats, len(dialogue.answers)))
            room = max_length - len(prompt.ids)
            if not all(any(answer.supervised[: max(room, 0)]) for answer in answers):
                skipped[CUT] += 1
                continue
            for answer in answers:
                ids += prompt.ids + answer.ids[:room]
                supervised += [False] * len(prompt.ids) + answer.supervised[:room]
                ends.append(len(ids))
                extra["num_cut"] += len(answer.ids) > room
        yield Chunk(ids, ends, supervised)


def text_limit(tokenizer: Tokenizer, max_length: int) -> int:
    """Characters that are more than max_length tokens, whatever they say."""
    return (max_length + 1) * max(map(len, (*tokenizer.bytes_of.values(), *tokenizer.control_ids)))


def in_batches(items: Iterable[T], parts: Callable[[T], list[list[Segment]]]) -> Iterator[list[T]]:
    """Lists of items with about BATCH_BYTES of text each."""
    batch, size = [], 0
    for item in items:
        batch.append(item)
        size += sum(len(segment.text.encode()) for part in parts(item) for segment in part)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
