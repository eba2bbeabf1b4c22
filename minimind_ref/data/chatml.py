"""MiniMind's two templates, turn by turn, as segments that remember who wrote them and who is to write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from minimind_ref.data.messages import Message, to_json
from minimind_ref.data.tokenizer import END, START

DEFAULT_SYSTEM = "You are a helpful assistant"
NO_THOUGHT = "<think>\n\n</think>\n\n"
TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)


class Segment(NamedTuple):
    """A piece of a rendered conversation. `trusted`: the template wrote it; `supervised`: the assistant has to."""

    text: str
    trusted: bool = True
    supervised: bool = False


def opening(first: Message, tools: list[Any], template: str) -> Iterator[Segment]:
    """Render the system turn: the first message's if it is one, with the tools if there are any."""
    system = first.content if first.role == "system" else None
    if tools:
        yield Segment(f"{START}system\n")
        if system is not None:
            yield Segment(system + "\n\n", trusted=False)
        yield Segment(TOOLS_BEFORE)
        yield Segment("".join("\n" + to_json(tool) for tool in tools), trusted=False)
        yield Segment(f"{TOOLS_AFTER}{END}\n")
    elif system is not None or template == "minimind2":
        yield Segment(f"{START}system\n")
        yield Segment(DEFAULT_SYSTEM if system is None else system, trusted=False)
        yield Segment(f"{END}\n")


def render_turn(turns: list[Message], index: int, template: str) -> Iterator[Segment]:
    """Render one message; consecutive tool messages share one user turn."""
    turn = turns[index]
    if turn.role == "assistant":
        yield from _assistant_turn(turn, template)
    elif turn.role == "tool":
        if index == 0 or turns[index - 1].role != "tool":
            yield Segment(f"{START}user")
        yield Segment("\n<tool_response>\n")
        yield Segment(turn.content, trusted=False)
        yield Segment("\n</tool_response>")
        if index + 1 == len(turns) or turns[index + 1].role != "tool":
            yield Segment(f"{END}\n")
    elif turn.role == "user" or index > 0:  # a first system message is already written
        yield Segment(f"{START}{turn.role}\n")
        yield Segment(turn.content, trusted=False)
        yield Segment(f"{END}\n")


def _assistant_turn(turn: Message, template: str) -> Iterator[Segment]:
    """Render an assistant's turn; supervised are its own words (thought, answer, calls) and its end token.

    minimind3 puts a thought before every answer, between markers that are not supervised (CHAT_TEMPLATE-13).
    """
    content = turn.content
    yield Segment(f"{START}assistant\n")
    if template == "minimind3":
        thought, content = _split_thought(turn)
        yield Segment("<think>\n")
        yield Segment(thought, trusted=False, supervised=True)
        yield Segment("\n</think>\n\n")
    yield Segment(content.lstrip("\n") if template == "minimind3" else content, trusted=False, supervised=True)
    for number, call in enumerate(turn.tool_calls):
        yield Segment(("\n" if content or number else "") + '<tool_call>\n{"name": "', supervised=True)
        yield Segment(call.name, trusted=False, supervised=True)
        yield Segment('", "arguments": ', supervised=True)
        yield Segment(call.arguments, trusted=False, supervised=True)
        yield Segment("}\n</tool_call>", supervised=True)
    yield Segment(END, supervised=True)
    yield Segment("\n")


def _split_thought(turn: Message) -> tuple[str, str]:
    """Take the thought from reasoning_content, or else from a <think> block that opens the content."""
    if turn.reasoning is not None:
        return turn.reasoning.strip("\n"), turn.content
    if "</think>" not in turn.content:
        return "", turn.content
    before, *_, after = turn.content.split("</think>")
    return before.rstrip("\n").split("<think>")[-1].strip("\n"), after.lstrip("\n")


def spoken_answer(turn: Message, template: str) -> str | None:
    """Return what an assistant's turn says after its thought, None for nothing."""
    if template == "minimind3":
        return _split_thought(turn)[1].lstrip("\n") or None
    return turn.content or None


def thought_prompt(template: str, thinking: bool | None) -> str:
    """Return what follows the assistant's header in a generation prompt."""
    if template == "minimind3":
        return "<think>\n" if thinking else NO_THOUGHT
    return NO_THOUGHT if thinking is False else ""
