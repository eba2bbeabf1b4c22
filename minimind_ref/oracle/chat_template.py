"""ChatML by structure: messages become turns, turns become segments, and every segment knows who wrote it.

Nothing is searched for in what people wrote, so no text of theirs can open or close anything.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from minimind_ref.oracle.checks import require_option, require_positive

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATES = ("minimind2", "minimind3")
ROLES = ("system", "user", "assistant", "tool")
NO_THOUGHT = "<think>\n\n</think>\n\n"
_TOOLS = (  # before and behind the signatures
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n",
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call>"
    '</tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
)
Chat = Sequence[Mapping[str, Any]]


class Segment(NamedTuple):
    """A stretch of a rendered conversation; the template's own (`trusted`) may hold control tokens."""

    text: str
    trusted: bool = False
    supervised: bool = False


def render_text(messages: Chat, **options: Any) -> str:
    """Render a conversation, with the options of `render`, as MiniMind's own template does (CHAT_TEMPLATE-1)."""
    return "".join(segment.text for segment in render(messages, **options))


def supervised_spans(messages: Chat, **options: Any) -> list[tuple[int, int]]:
    """Give the maximal spans (start, end) of the rendered text that the loss covers (CHAT_TEMPLATE-8)."""
    spans, at = [], 0
    for supervised, run in groupby(render(messages, **options), key=lambda segment: segment.supervised):
        size = sum(len(segment.text) for segment in run)
        spans += [(at, at + size)] * supervised
        at += size
    return spans


def encode_chat(tokenizer: Any, messages: Chat, **options: Any) -> tuple[list[int], list[bool]]:
    """Encode to ids and whether each is supervised; `tokenizer.encode` knows no `control_ids` (CHAT_TEMPLATE-9)."""
    pieces: list[tuple[str, bool, bool]] = []  # text, is a control token, is supervised
    for text, trusted, supervised in render(messages, **options):
        names = tokenizer.control_ids if trusted else ()
        pieces += [(piece, piece in names, supervised) for piece in _cut(text, names)]
    ids: list[int] = []
    mask: list[bool] = []
    for (control, supervised), run in groupby(pieces, key=lambda piece: piece[1:]):
        texts = [text for text, _, _ in run]
        ids += [tokenizer.control_ids[text] for text in texts] if control else tokenizer.encode("".join(texts))
        mask += [supervised] * (len(ids) - len(mask))
    return ids, mask


def _cut(text: str, names: Iterable[str]) -> list[str]:
    for name in names:
        before, found, after = text.partition(name)
        if found:
            return [*_cut(before, names), name, *_cut(after, names)]
    return [text]


def render(
    messages: Chat,
    *,
    template: str = "minimind2",
    add_generation_prompt: bool = False,
    tools: Sequence[Any] | None = None,
    thinking: bool | None = None,
) -> list[Segment]:
    """List what the conversation renders to, in order."""
    _check(messages, template)
    found: list[Segment] = []
    for speaker, body in _turns(messages, template, tools or []):
        found += [Segment(f"{START}{speaker}\n", True), *body]
        found += [Segment(END, True, speaker == "assistant"), Segment("\n", True)]
    if add_generation_prompt:
        thoughtful = {"minimind2": "", "minimind3": "<think>\n" if thinking else NO_THOUGHT}[template]
        found.append(Segment(f"{START}assistant\n{NO_THOUGHT if thinking is False else thoughtful}", True))
    return [segment for segment in found if segment.text]


def _turns(messages: Chat, template: str, tools: Sequence[Any]) -> Iterator[tuple[str, list[Segment]]]:
    has_system = messages[0]["role"] == "system"
    if opening := _opening(messages[0]["content"] if has_system else None, template, tools):
        yield "system", opening
    for is_tool, run in groupby(messages[has_system:], key=lambda message: message["role"] == "tool"):
        if is_tool:
            apart = Segment("\n</tool_response>\n<tool_response>\n", True)
            between = [part for message in run for part in (apart, Segment(message["content"]))][1:]
            yield "user", [Segment("<tool_response>\n", True), *between, Segment("\n</tool_response>", True)]
            continue
        for message in run:
            is_answer = message["role"] == "assistant"
            yield message["role"], _answer(message, template) if is_answer else [Segment(message["content"])]


def _opening(given: str | None, template: str, tools: Sequence[Any]) -> list[Segment]:
    if tools:
        listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        said = [] if given is None else [Segment(f"{given}\n\n")]
        return [*said, Segment(_TOOLS[0], True), Segment(listed), Segment(_TOOLS[1], True)]
    default = [Segment("You are a helpful assistant", True)] if template == "minimind2" else []
    return default if given is None else [Segment(given)]


def _answer(message: Mapping[str, Any], template: str) -> list[Segment]:
    content = message.get("content") or ""
    if template == "minimind2":
        return [Segment(content, False, True), *_calls(message, content)]
    reasoning = message.get("reasoning_content")
    if reasoning is None:
        thought, closed, _ = content.partition("</think>")
        reasoning = thought.rpartition("<think>")[2] if closed else ""
        content = content.rpartition("</think>")[2].lstrip("\n") if closed else content
    opened, closed = Segment("<think>\n", True), Segment("\n</think>\n\n", True)
    thought = Segment(reasoning.strip("\n"), False, True)
    return [opened, thought, closed, Segment(content.lstrip("\n"), False, True), *_calls(message, content)]


def _calls(message: Mapping[str, Any], content: str) -> Iterator[Segment]:
    separator = "\n" if content else ""
    for call in message.get("tool_calls") or []:
        function = call.get("function") or call
        arguments = function["arguments"]
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        parts = f'{separator}<tool_call>\n{{"name": "', function["name"], '", "arguments": ', written, "}\n</tool_call>"
        yield from (Segment(part, number % 2 == 0, True) for number, part in enumerate(parts))
        separator = "\n"


def _check(messages: Chat, template: str) -> None:
    require_option("template", template, TEMPLATES)
    require_positive("number of messages", len(messages))
    for i, message in enumerate(messages):
        if message.get("role") not in ROLES:
            raise ValueError(f"messages[{i}] has role {message.get('role')!r}, which is none of {', '.join(ROLES)}")
        may_lack = message["role"] == "assistant" and message.get("tool_calls")
        if not isinstance(message.get("content"), str | None if may_lack else str):
            raise ValueError(f"messages[{i}] has content {message.get('content')!r} but it must be text")
