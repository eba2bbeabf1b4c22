"""Records of conversation files, checked and rendered: MiniMind's three formats beside plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from minimind_ref.data.chat_template import render
from minimind_ref.data.chatml import Segment, spoken_answer
from minimind_ref.data.jsonl import RecordError, check_encodable
from minimind_ref.data.messages import Message, read_messages
from minimind_ref.data.token_writer import SAFE_CUT

LONGEST_DETAIL = 200
"""Characters of a message about a record: it may quote the record, which may be long."""


class Dialogue(NamedTuple):
    """A record's documents, rendered: each is the prompt, of which nothing is learnt, and then one of the answers."""

    prompt: list[Segment]
    answers: list[list[Segment]]


class Question(NamedTuple):
    """A prompt, rendered up to where the answer begins, its messages, and the answer that the data gives, if any."""

    prompt: list[Segment]
    messages: list[dict[str, Any]]
    reference: str | None


def read_conversation(record: dict[str, Any], template: str) -> Dialogue:
    """Read {"conversations": [messages]}: one document, in which every turn of the assistant is learnt."""
    turns = _turns(record, "conversations")
    if all(turn.role != "assistant" for turn in turns):
        raise RecordError("no assistant turn")
    return Dialogue([], [_render(record, "conversations", template)])


def read_pair(record: dict[str, Any], template: str) -> Dialogue:
    """Read {"chosen": [messages], "rejected": [messages]}: one prompt, and its two answers, the better one first."""
    chosen, rejected = (_turns(record, key) for key in ("chosen", "rejected"))
    for key, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1].role != "assistant":
            raise RecordError(f'"{key}" does not end with the assistant', f"its last message is the {turns[-1].role}'s")
        if len(turns) == 1:
            raise RecordError(f'"{key}" has nothing before the answer')
    if chosen[:-1] != rejected[:-1]:
        same = [a == b for a, b in zip(chosen[:-1], rejected[:-1], strict=False)]
        raise RecordError("the prompts of chosen and rejected differ", f"at message {[*same, False].index(False)}")
    prompt = _render(record, "chosen", template, stop=-1)
    return Dialogue(prompt, [_render(record, key, template)[len(prompt) :] for key in ("chosen", "rejected")])


def read_question(record: dict[str, Any], template: str) -> Question:
    """Read {"conversations": [messages]}: the prompt is what comes before the assistant's turn, if that is the last."""
    turns = _turns(record, "conversations")
    stop, reference = len(turns), None
    if turns[-1].role == "assistant":
        stop, reference = stop - 1, spoken_answer(turns[-1], template)
    if stop == 0:
        raise RecordError("nothing before the answer")
    messages = [
        {**raw, "role": turn.role} for raw, turn in zip(record["conversations"][:stop], turns[:stop], strict=True)
    ]
    prompt = _render(record, "conversations", template, stop=stop, add_generation_prompt=True)
    return Question(prompt, messages, reference and check_encodable(reference, "conversations"))


def shortened(segments: Sequence[Segment], size: int) -> list[Segment]:
    """The segments up to a place behind `size` characters where a cut changes no token before it; all if there is none.

    What is far beyond the window need not be encoded: that takes about 150 bytes of memory for each of text.
    """
    kept: list[Segment] = []
    for segment in segments:
        if cut := SAFE_CUT.search(segment.text, max(size, 0)):
            return [*kept, segment._replace(text=segment.text[: cut.start()])]
        kept.append(segment)
        size -= len(segment.text)
    return kept


def _turns(record: dict[str, Any], key: str) -> list[Message]:
    if key not in record:
        raise RecordError(f'no "{key}"')
    try:
        return read_messages(record[key])
    except ValueError as error:
        detail = str(error)
        detail = detail if len(detail) <= LONGEST_DETAIL else detail[:LONGEST_DETAIL] + " …"
        raise RecordError(f'"{key}" is not a conversation', detail) from None


def _render(record: dict[str, Any], key: str, template: str, stop: int | None = None, **options: Any) -> list[Segment]:
    """Render a conversation that `_turns` has read, up to message `stop`."""
    segments = render(record[key][:stop], template=template, **options)
    for segment in segments:
        check_encodable(segment.text, key)
    return segments
