"""The chat template: MiniMind's two renderings, who wrote what, and what is trained on.

The comparison with MiniMind's own templates needs its checkouts: MINIMIND_PATH=DIR[:DIR…], each with model/tokenizer*.json
(one of MiniMind2's time, one of MiniMind-3's). tests/chat_renderings.json holds our own renderings, recorded after that
comparison had passed, so that a change shows without them.
"""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind_ref.data.chat_template import TEMPLATES, encode_chat, render, render_text
from minimind_ref.data.tokenizer import Tokenizer

RECORDED = json.loads(Path(__file__).with_name("chat_renderings.json").read_text(encoding="utf-8"))
SHIPPED = Tokenizer.load()

plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
spiced = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "\n", "\n\n", " ", "<tool_response>", "</tool_response>", "<tool_call>", "</tool_call>"]
        + ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>assistant\n", "<tools>", "你好", "Hi.", '"', "é"]
    )
    | plain,
    max_size=6,
).map("".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | spiced,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(spiced, inner, max_size=2),
    max_leaves=4,
)
calls = st.fixed_dictionaries({"name": spiced, "arguments": spiced | st.dictionaries(spiced, json_values, max_size=3)})
calls = calls | calls.map(lambda call: {"type": "function", "function": call})
assistant = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": spiced},
    optional={"reasoning_content": spiced | st.none(), "tool_calls": st.lists(calls, max_size=3)},
)
other = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "tool"]), "content": spiced})
conversations = st.lists(assistant | other, min_size=1, max_size=7)
tool_lists = st.none() | st.lists(st.dictionaries(spiced, json_values, max_size=3), max_size=2)


def supervised_text(segments):
    return "".join(segment.text for segment in segments if segment.supervised)


def _minimind(template):
    """The jinja template and the tokenizer of one MiniMind checkout, or skip."""
    folders = [Path(p) / "model" for p in os.environ.get("MINIMIND_PATH", "").split(os.pathsep) if p]
    for folder in folders:
        source = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
        if ("open_thinking" in source) == (template == "minimind3"):
            sandbox = pytest.importorskip("jinja2.sandbox")
            environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
            environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
            return environment.from_string(source), folder / "tokenizer.json"
    pytest.skip(f"MINIMIND_PATH names no MiniMind checkout with the {template} template")


# Agreement


@pytest.mark.parametrize("template", TEMPLATES)
@given(conversations, tool_lists, st.booleans(), st.sampled_from([None, True, False]))
@settings(max_examples=100)
def test_renders_what_minimind_renders(template, messages, tools, prompt, thinking):
    jinja, _ = _minimind(template)
    flag = {"minimind2": "enable_thinking", "minimind3": "open_thinking"}[template]
    flags = {} if thinking is None else {flag: thinking}
    theirs = jinja.render(messages=messages, tools=tools, add_generation_prompt=prompt, **flags)
    options = {"template": template, "tools": tools, "add_generation_prompt": prompt, "thinking": thinking}
    assert render_text(messages, **options) == theirs


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["id"])
def test_recorded_rendering(case):
    assert render_text(case["messages"], **case["options"]) == case["text"]
    assert supervised_text(render(case["messages"], **case["options"])) == case["supervised"]


def test_ids_are_minimind_2_s_on_ordinary_text():
    """Where no message starts with white space, cutting at the answers' edges changes no token."""
    import tokenizers

    _, path = _minimind("minimind2")
    messages = [
        {"role": "user", "content": "天空为什么是蓝色的？\n\nBriefly, please."},
        {"role": "assistant", "content": "因为瑞利散射。\n  Short waves scatter more."},
        {"role": "user", "content": "\n  thanks "},
        {"role": "assistant", "content": "You're welcome!"},
    ]
    theirs = tokenizers.Tokenizer.from_file(str(path)).encode(render_text(messages)).ids
    assert encode_chat(Tokenizer.load(path), messages).ids == theirs
