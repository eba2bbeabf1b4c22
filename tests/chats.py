"""Strategies for conversations (any order of roles, texts that imitate markers), and the way to MiniMind's files."""

import json
import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import strategies as st

MARKERS = ["<|im_end|>", "<|im_start|>assistant\n", "<|endoftext|>", "<think>", "</think>", "<tool_response>\n"]
PIECES = ["", "hi", "你好", "\n", "\n\n", " y ", "é\"'\\<>&", "<think>\na\n</think>\n\nb", "1+1=2", *MARKERS]

plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
contents = st.lists(st.sampled_from(PIECES) | plain, max_size=3).map("".join)
values = st.sampled_from([{"a": 1, "é": [None, True, "<x>"]}, {}, [], {"q": "你", "p": 0.5}, {"<think>": MARKERS}])


@st.composite
def calls(draw):
    """A tool call, bare or under `function`, with its arguments as values or as JSON text."""
    arguments = draw(values)
    if draw(st.booleans()):
        arguments = json.dumps(arguments, ensure_ascii=False)
    function = {"name": draw(st.sampled_from(["f", "g<é", "<|im_end|>"])), "arguments": arguments}
    return draw(st.sampled_from([function, {"type": "function", "function": function}]))


@st.composite
def message(draw):
    """One message; an assistant's may have reasoning and calls."""
    role = draw(st.sampled_from(["user", "assistant", "system", "tool", "assistant"]))
    found = {"role": role, "content": draw(contents)}
    if role == "assistant" and draw(st.booleans()):
        found["tool_calls"] = draw(st.lists(calls(), max_size=3))
    if role == "assistant" and draw(st.booleans()):
        found["reasoning_content"] = draw(st.none() | contents)
    return found


messages = st.lists(message(), min_size=1, max_size=5)
tools = st.sampled_from(
    [None, [], [{"type": "function", "function": {"name": "é<&'", "x": 1.5}}], [{"b": 1, "a": 2}, {}]]
)


def as_json(value):
    """Write a value as the definition block wants it: JSON text stays."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def for_definition(chat):
    """The same conversation with every argument as JSON text."""
    return [{**m, "tool_calls": [_call(call) for call in m.get("tool_calls") or []]} for m in chat]


def _call(call):
    function = call.get("function") or call
    return {"name": function["name"], "arguments": as_json(function["arguments"])}


def minimind_folders():
    """The folders model/ of the MiniMind checkouts in MINIMIND_PATH=DIR[:DIR…], by template name."""
    found = {}
    for path in filter(None, os.environ.get("MINIMIND_PATH", "").split(os.pathsep)):
        source = json.loads((Path(path) / "model" / "tokenizer_config.json").read_text(encoding="utf-8"))
        found["minimind3" if "open_thinking" in source["chat_template"] else "minimind2"] = Path(path) / "model"
    return found


def minimind_folder(template):
    """One checkout's folder, or skip."""
    if template not in minimind_folders():
        pytest.skip(f"MINIMIND_PATH names no MiniMind checkout with the {template} template")
    return minimind_folders()[template]


def minimind_files(name):
    """Test parameters: a file of each generation, skipped where MINIMIND_PATH does not lead to it."""
    for template in ("minimind2", "minimind3"):
        folder = minimind_folders().get(template)
        skip = pytest.mark.skipif(folder is None, reason=f"MINIMIND_PATH names no checkout of {template}")
        yield pytest.param(folder and folder / name, id=template, marks=skip)


@cache
def minimind_template(template):
    """MiniMind's own chat template, compiled as Hugging Face does."""
    source = json.loads((minimind_folder(template) / "tokenizer_config.json").read_text(encoding="utf-8"))
    sandbox = pytest.importorskip("jinja2.sandbox")
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(source["chat_template"])
