"""A conversation as it stands in a JSONL file, checked: what the chat template and the stages read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class ToolCall:
    """One call in an assistant's turn; `arguments` is the text to print: JSON, unless the data gave a string."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One turn. `reasoning` is None where the data gives no reasoning_content."""

    role: str
    content: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tools: tuple[Any, ...] = ()


def read_messages(conversation: Sequence[Any]) -> list[Message]:
    """Check a conversation; what is wrong with it is a ValueError that names the message's index and the value.

    A message without a role answers the one before it: user first, then assistant after user or tool. Content may be
    missing only where tool_calls stand in its place.
    """
    if isinstance(conversation, (str, Mapping)) or not isinstance(conversation, Sequence):
        raise ValueError(f"a conversation is a list of messages, not {conversation!r}")
    if not conversation:
        raise ValueError("the conversation has no message")
    messages: list[Message] = []
    for index, raw in enumerate(conversation):
        messages.append(_read_message(index, raw, messages[-1].role if messages else "system"))
    return messages


def to_json(value: Any) -> str:
    """Print as both chat templates do: JSON with its keys in the given order, and other scripts unescaped."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} cannot be written as JSON: {error}") from None


def _read_message(index: int, raw: Any, previous_role: str) -> Message:
    if not isinstance(raw, Mapping):
        raise ValueError(f"message {index} is {raw!r}, not an object with role and content")
    role = raw.get("role")
    if role is None:
        role = "assistant" if previous_role in ("user", "tool") else "user"
    if role not in ROLES:
        raise ValueError(f"message {index} has role {role!r}, not one of {', '.join(ROLES)}")
    calls = _from_json(index, "tool_calls", raw.get("tool_calls") or ())
    content = raw.get("content")
    if content is None and not (role == "assistant" and calls):
        raise ValueError(f"message {index} ({role}) has no content")
    if not isinstance(content, (str, type(None))):
        raise ValueError(f"message {index} ({role}) has content {content!r}, not a string")
    reasoning = raw.get("reasoning_content")
    if not isinstance(reasoning, (str, type(None))):
        raise ValueError(f"message {index} ({role}) has reasoning_content {reasoning!r}, not a string")
    tools = _from_json(index, "tools", raw.get("tools") or ()) if role == "system" else ()
    return Message(role, content or "", reasoning, tuple(_read_call(index, call) for call in calls), tuple(tools))


def _from_json(index: int, field: str, value: Any) -> Sequence[Any]:
    """Read a list that MiniMind's files may hold as a string of JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"message {index} has {field} {value!r}, which is not JSON") from None
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"message {index} has {field} {value!r}, not a list")
    return value


def _read_call(index: int, call: Any) -> ToolCall:
    """Read {"name", "arguments"}, bare or as OpenAI's {"function": {…}}."""
    body = (call.get("function") or call) if isinstance(call, Mapping) else None
    if not isinstance(body, Mapping) or not isinstance(body.get("name"), str) or "arguments" not in body:
        raise ValueError(f"message {index} has the tool call {call!r}, not an object with name and arguments")
    arguments = body["arguments"]
    return ToolCall(body["name"], arguments if isinstance(arguments, str) else to_json(arguments))
