"""ChatML by structure: messages become turns, turns become segments, and every segment knows who wrote it.

Nothing is searched for in rendered text, so no text that a user writes can open or close anything.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from minimind_ref.oracle.checks import require_option, require_positive

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATES = ("minimind2", "minimind3")
ROLES = ("system", "user", "assistant", "tool")
_TOOLS_INTRODUCTION = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_INSTRUCTION = (
    "</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)

Message = Mapping[str, Any]


class Segment(NamedTuple):
    """A stretch of the rendered conversation: a control token or text, to be learnt or only to be read."""

    text: str
    control: bool
    supervised: bool


def render_text(
    messages: Sequence[Message],
    *,
    template: str = "minimind2",
    add_generation_prompt: bool = False,
    tools: Sequence[Any] | None = None,
    thinking: bool = False,
) -> str:
    """Render a conversation as MiniMind's own template does (CHAT_TEMPLATE-1)."""
    parts = segments(messages, template, tools)
    prompt = _prompt(template, thinking) if add_generation_prompt else []
    return "".join(segment.text for segment in [*parts, *prompt])


def supervised_spans(
    messages: Sequence[Message], *, template: str = "minimind2", tools: Sequence[Any] | None = None
) -> list[tuple[int, int]]:
    """Give the maximal spans (start, end) of the rendered text that the loss covers (CHAT_TEMPLATE-8)."""
    spans, at = [], 0
    for supervised, run in groupby(segments(messages, template, tools), key=lambda segment: segment.supervised):
        size = sum(len(segment.text) for segment in run)
        if supervised:
            spans.append((at, at + size))
        at += size
    return spans


def encode_chat(
    messages: Sequence[Message],
    encode: Callable[[str], list[int]],
    *,
    template: str = "minimind2",
    add_generation_prompt: bool = False,
    tools: Sequence[Any] | None = None,
    thinking: bool = False,
    start_id: int = 1,
    end_id: int = 2,
) -> tuple[list[int], list[bool]]:
    """Encode a conversation to ids and, for each, whether it is supervised; only START and END become control ids."""
    parts = segments(messages, template, tools) + (_prompt(template, thinking) if add_generation_prompt else [])
    ids: list[int] = []
    mask: list[bool] = []
    for (control, supervised), run in groupby(parts, key=lambda segment: segment[1:]):
        texts = [segment.text for segment in run]
        new = [start_id if text == START else end_id for text in texts] if control else encode("".join(texts))
        ids += new
        mask += [supervised] * len(new)
    return ids, mask


def segments(messages: Sequence[Message], template: str, tools: Sequence[Any] | None = None) -> list[Segment]:
    """List what the conversation renders to, in order, without empty text."""
    _check(messages, template)
    found: list[Segment] = []
    for speaker, body in _turns(messages, template, tools):
        found += [Segment(START, True, False), Segment(f"{speaker}\n", False, False)]
        found += [Segment(text, False, supervised) for text, supervised in body if text]
        found += [Segment(END, True, speaker == "assistant"), Segment("\n", False, False)]
    return found


Body = list[tuple[str, bool]]  # text, supervised


def _turns(messages: Sequence[Message], template: str, tools: Sequence[Any] | None) -> Iterator[tuple[str, Body]]:
    first_is_system = messages[0]["role"] == "system"
    system = _system(_content(messages[0]) if first_is_system else None, template, tools)
    if system is not None:
        yield "system", [(system, False)]
    rest = messages[1:] if first_is_system else messages
    for is_tool, run in groupby(rest, key=lambda message: message["role"] == "tool"):
        if is_tool:
            yield "user", [("\n".join(f"<tool_response>\n{_content(m)}\n</tool_response>" for m in run), False)]
            continue
        for message in run:
            yield (
                message["role"],
                _answer(message, template) if message["role"] == "assistant" else [(_content(message), False)],
            )


def _system(given: str | None, template: str, tools: Sequence[Any] | None) -> str | None:
    if tools:
        listed = [json.dumps(tool, ensure_ascii=False) for tool in tools]
        signatures = "\n".join([_TOOLS_INTRODUCTION, *listed, _TOOLS_INSTRUCTION])
        return signatures if given is None else f"{given}\n\n{signatures}"
    default = {"minimind2": "You are a helpful assistant", "minimind3": None}[template]
    return default if given is None else given


def _answer(message: Message, template: str) -> Body:
    content = _content(message)
    if template == "minimind2":
        return [(content + _calls(message, content), True)]
    reasoning = message.get("reasoning_content")
    if not isinstance(reasoning, str):
        thought, closed, _ = content.partition("</think>")
        reasoning = thought.rpartition("<think>")[2] if closed else ""
        content = content.rpartition("</think>")[2].lstrip("\n") if closed else content
    spoken = content.lstrip("\n") + _calls(message, content)
    return [("<think>\n", False), (reasoning.strip("\n"), True), ("\n</think>\n\n", False), (spoken, True)]


def _calls(message: Message, content: str) -> str:
    blocks = [] if not content else [""]
    for call in message.get("tool_calls") or []:
        function = call.get("function") or call
        arguments = function["arguments"]
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        blocks.append(f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {written}}}\n</tool_call>')
    return "\n".join(blocks) if message.get("tool_calls") else ""


def _prompt(template: str, thinking: bool) -> list[Segment]:
    opened = {"minimind2": "", "minimind3": "<think>\n" if thinking else "<think>\n\n</think>\n\n"}[template]
    return [Segment(START, True, False), Segment(f"assistant\n{opened}", False, False)]


def _content(message: Message) -> str:
    content = message.get("content")
    return "" if content is None else content


def _check(messages: Sequence[Message], template: str) -> None:
    require_option("template", template, TEMPLATES)
    require_positive("number of messages", len(messages))
    for i, message in enumerate(messages):
        if message.get("role") not in ROLES:
            raise ValueError(f"messages[{i}] has role {message.get('role')!r}, which is none of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str | None):
            raise ValueError(
                f"messages[{i}] has content of type {type(message['content']).__name__} but it must be text"
            )
