"""The chat template: MiniMind's two renderings, who wrote what, and what is trained on.

The comparison with MiniMind's own templates needs its checkouts: MINIMIND_PATH=DIR[:DIR…], each with a folder model/
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
MARKERS = ["<think>", "</think>", "<tool_response>", "</tool_response>", "<tool_call>", "</tool_call>", "<tools>"]
CONTROLS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>assistant\n"]
SPICE = st.sampled_from([*MARKERS, *CONTROLS, "\n", "\n\n", " ", "你好", "Hi.", '"', "é"])
spiced = st.lists(SPICE | plain, max_size=6).map("".join)
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
        {"role": "user", "content": "天空为什么是蓝色的?\n\nBriefly, please."},
        {"role": "assistant", "content": "因为瑞利散射。\n  Short waves scatter more."},
        {"role": "user", "content": "\n  thanks "},
        {"role": "assistant", "content": "You're welcome!"},
    ]
    theirs = tokenizers.Tokenizer.from_file(str(path)).encode(render_text(messages)).ids
    assert encode_chat(Tokenizer.load(path), messages).ids == theirs


# Who wrote what


def skeleton(messages):
    """The same conversation with every text that people wrote replaced by one letter."""
    calls = {"tool_calls": [{"name": "x", "arguments": "x"}]}
    return [
        {"role": m["role"], "content": "x"} | {"reasoning_content": "x"} | (calls if m.get("tool_calls") else {})
        for m in messages
    ]


@pytest.mark.parametrize("template", TEMPLATES)
@given(conversations, tool_lists, st.booleans())
def test_control_tokens_come_from_structure_alone(template, messages, tools, prompt):
    for message in messages:
        message["tool_calls"] = message.get("tool_calls", [])[:1]
    options = {"template": template, "add_generation_prompt": prompt}
    ids = encode_chat(SHIPPED, messages, tools=tools, **options).ids
    bare = encode_chat(SHIPPED, skeleton(messages), tools=tools and [{"x": 1}], **options).ids
    controls = set(SHIPPED.control_ids.values())
    assert [i for i in ids if i in controls] == [i for i in bare if i in controls]


@pytest.mark.parametrize("template", TEMPLATES)
@given(conversations)
def test_ids_spell_the_rendering(template, messages):
    ids, supervised = encode_chat(SHIPPED, messages, template=template)
    names = {index: name for name, index in SHIPPED.control_ids.items()}
    spelt = [names[i].encode() if i in names else SHIPPED.token_bytes(i) for i in ids]
    assert b"".join(spelt).decode() == render_text(messages, template=template)
    assert len(ids) == len(supervised)


# Supervision


@given(conversations)
def test_targets_are_each_answer_and_its_end_token(messages):
    messages = [{"role": m["role"], "content": m["content"]} for m in messages]
    ids, supervised = encode_chat(SHIPPED, messages)
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    expected = [i for answer in answers for i in [*SHIPPED.encode(answer), SHIPPED.end_id]]
    assert [i for i, target in zip(ids, supervised, strict=True) if target] == expected


@given(conversations, spiced)
def test_minimind_3_trains_on_the_thought_only_where_there_is_one(messages, thought):
    messages = [{"role": m["role"], "content": m["content"], "reasoning_content": thought} for m in messages]
    shown = thought.strip("\n")
    answers = [m["content"].lstrip("\n") for m in messages if m["role"] == "assistant"]
    written = [(f"{shown}\n</think>\n\n" if shown else "") + answer + "<|im_end|>" for answer in answers]
    assert supervised_text(render(messages, template="minimind3")) == "".join(written)


@pytest.mark.parametrize("template", TEMPLATES)
@given(conversations, tool_lists)
def test_a_prompt_is_a_prefix_and_the_answer_is_the_rest(template, messages, tools):
    """For every assistant turn: what precedes it with a generation prompt, then what is supervised, then a newline."""
    options = {"template": template, "tools": tools}
    for k, turn in enumerate(messages):
        if turn["role"] != "assistant" or k == 0:
            continue
        ids, supervised = encode_chat(SHIPPED, messages[: k + 1], **options)
        prompts = [
            encode_chat(SHIPPED, messages[:k], add_generation_prompt=True, thinking=thinking, **options).ids
            for thinking in ([None] if template == "minimind2" else [True, False])
        ]
        lengths = [len(prompt) for prompt in prompts if ids[: len(prompt)] == prompt]
        newline = SHIPPED.encode("\n")
        targets = len(ids) - max(lengths) - len(newline)
        assert supervised[max(lengths) :] == [True] * targets + [False] * len(newline)
        assert ids[-len(newline) :] == newline


# Roles, and messages that are no messages


def test_messages_without_a_role_alternate():
    bare = [{"content": "a"}, {"content": "b", "role": None}, {"content": "c"}]
    roles = [m | {"role": role} for m, role in zip(bare, ["user", "assistant", "user"], strict=True)]
    assert render(bare) == render(roles)
    system = {"role": "system", "content": "s"}
    assert render([system, *bare]) == render([system, *roles])


def test_minimind_s_files_may_hold_tools_and_calls_as_strings():
    tools, calls = [{"name": "f"}], [{"name": "f", "arguments": {"x": 1}}]
    as_text = [
        {"role": "system", "content": "s", "tools": json.dumps(tools)},
        {"role": "assistant", "content": None, "tool_calls": json.dumps(calls)},
    ]
    as_lists = [{"role": "system", "content": "s"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    assert render(as_text) == render(as_lists, tools=tools)


U = {"role": "user", "content": "u"}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the conversation has no message"),
        ("hello", "a conversation is a list of messages, not 'hello'"),
        ([U, "hello"], "message 1 is 'hello', not an object with role and content"),
        ([U, {"role": "bot", "content": "x"}], "message 1 has role 'bot', not one of system, user, assistant, tool"),
        ([U, {"role": ["user"], "content": "x"}], "message 1 has role ['user'], not one of"),
        ([U, {"role": "assistant"}], "message 1 (assistant) has no content"),
        ([{"role": "user", "content": None}], "message 0 (user) has no content"),
        ([U, {"content": 5}], "message 1 (assistant) has content 5, not a string"),
        (
            [U, {"content": "", "reasoning_content": 5}],
            "message 1 (assistant) has reasoning_content 5, not a string",
        ),
        ([U, {"content": "", "tool_calls": "["}], "message 1 has tool_calls '[', which is not JSON"),
        ([U, {"content": "", "tool_calls": 5}], "message 1 has tool_calls 5, not a list"),
        (
            [U, {"content": "", "tool_calls": [{"name": "f"}]}],
            "message 1 has the tool call {'name': 'f'}, not an object",
        ),
        (
            [U, {"content": "", "tool_calls": [5]}],
            "message 1 has the tool call 5, not an object with name and arguments",
        ),
        ([U, {"content": "", "tool_calls": [{"name": "f", "arguments": {1, 2}}]}], "cannot be written as JSON"),
    ],
)
def test_bad_messages_are_named(messages, message):
    with pytest.raises(ValueError) as error:
        render(messages)
    assert message in str(error.value)


def test_an_unknown_template_is_refused():
    with pytest.raises(ValueError, match="template is 'chatml', not one of minimind2, minimind3"):
        render([U], template="chatml")
