"""From a conversation to text and ids: MiniMind's two ChatML templates, built from structure, never by parsing text.

What the template writes is kept apart from what people wrote. Control tokens come from the template's own segments
only, and the supervision mask from the messages' structure: a user who types `<|im_start|>assistant` gets plain text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from minimind_ref.data.chatml import Segment, opening, render_turn, thought_prompt
from minimind_ref.data.messages import read_messages
from minimind_ref.data.tokenizer import START, Tokenizer

TEMPLATES = ("minimind2", "minimind3")


class EncodedChat(NamedTuple):
    """Ids, and for each whether it is a training target: the assistant's text and its end token."""

    ids: list[int]
    supervised: list[bool]


def render(
    messages: Sequence[Any],
    *,
    template: str = "minimind2",
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    thinking: bool | None = None,
) -> list[Segment]:
    """Render a conversation as either MiniMind's tokenizer does, in segments.

    `thinking` shapes the generation prompt: True leaves it to the model to think first, False tells it not to; None is
    False in minimind3, and in minimind2 adds nothing (as True does there). `tools` default to the system message's own.
    Bad messages, or a template of another name, are a ValueError.
    """
    if template not in TEMPLATES:
        raise ValueError(f"template is {template!r}, not one of {', '.join(TEMPLATES)}")
    turns = read_messages(messages)
    given = [turn.tools for turn in turns if turn.tools]
    offered = list(given[-1] if tools is None and given else tools or ())
    segments = [*opening(turns[0], offered, template)]
    for index in range(len(turns)):
        segments += render_turn(turns, index, template)
    if add_generation_prompt:
        segments.append(Segment(f"{START}assistant\n" + thought_prompt(template, thinking)))
    return [segment for segment in segments if segment.text]


def render_text(messages: Sequence[Any], **options: Any) -> str:
    """Render to one string, to look at or compare; encode with `encode_chat`, which knows who wrote what."""
    return "".join(segment.text for segment in render(messages, **options))


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Any], **options: Any) -> EncodedChat:
    """Encode a conversation (options as `render`'s) and mark the targets."""
    return encode_segments(tokenizer, [render(messages, **options)])[0]


def encode_segments(tokenizer: Tokenizer, chats: Sequence[Sequence[Segment]]) -> list[EncodedChat]:
    """Encode what `render` gave for several conversations, all their texts in one batch.

    Neighbouring ordinary text is encoded together as long as it is supervised alike, so the ids of a prompt are a
    prefix of the ids of the prompt with its answer, and an answer's ids are those of the answer alone.
    """
    marks: dict[str, list[tuple[str, int | None]]] = {}  # the template has few texts of its own
    chats_runs = [_runs(tokenizer, chat, marks) for chat in chats]
    texts = list(dict.fromkeys(text for runs in chats_runs for text, control, _ in runs if control is None))
    ids_of = dict(zip(texts, tokenizer.encode_batch(texts), strict=True))
    encoded = []
    for runs in chats_runs:
        ids: list[int] = []
        targets: list[bool] = []
        for text, control, supervised in runs:
            ids += ids_of[text] if control is None else [control]
            targets += [supervised] * (len(ids) - len(targets))
        encoded.append(EncodedChat(ids, targets))
    return encoded


def _runs(
    tokenizer: Tokenizer, chat: Sequence[Segment], marks: dict[str, list[tuple[str, int | None]]]
) -> list[tuple[str, int | None, bool]]:
    """Cut at control tokens and join the ordinary text between; each with its control id (or None) and its mark."""
    runs: list[tuple[str, int | None, bool]] = []
    for text, trusted, supervised in chat:
        if trusted and text not in marks:
            marks[text] = tokenizer.split_control(text)
        for part, control in marks[text] if trusted else [(text, None)]:
            if control is None and runs and runs[-1][1:] == (None, supervised):
                runs[-1] = (runs[-1][0] + part, None, supervised)
            else:
                runs.append((part, control, supervised))
    return runs
