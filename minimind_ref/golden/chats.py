"""How the faces of the chat template run a case: `oracle_OP`, `torch_OP`, `definition_OP` where they differ."""

import json
from itertools import groupby
from types import SimpleNamespace
from typing import Any

from minimind_ref.golden.texts import Node, product, read


def as_json(messages: list[Node], tools: Any) -> tuple[list[Node], list[str]]:
    """Write tools and arguments as JSON texts, as the definition has them."""

    def call(given: Node) -> Node:
        body = given.get("function") or given
        arguments = body["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return {"name": body["name"], "arguments": text}

    said = [m | ({"tool_calls": [call(c) for c in m["tool_calls"]]} if m.get("tool_calls") else {}) for m in messages]
    return said, [json.dumps(tool, ensure_ascii=False) for tool in tools or []]


def definition_render_text(spec: Any, messages: list[Node], tools: Any = None, **options: Any) -> str:
    """Render by the definition."""
    messages, tools = as_json(messages, tools)
    return spec.render_text(messages, tools=tools, **options)


def oracle_supervised_spans(messages: list[Node], **options: Any) -> list[list[int]]:
    """Give the spans that are learnt, by the oracle."""
    from minimind_ref.oracle.chat_template import supervised_spans

    return [list(span) for span in supervised_spans(messages, **options)]


def torch_supervised_spans(messages: list[Node], **options: Any) -> list[list[int]]:
    """Give the spans that are learnt, from the product's segments."""
    from minimind_ref.data.chat_template import render

    spans, at = [], 0
    for supervised, run in groupby(render(messages, **options), key=lambda segment: segment.supervised):
        size = sum(len(segment.text) for segment in run)
        spans += [[at, at + size]] if supervised else []
        at += size
    return spans


def definition_supervised_spans(
    spec: Any, messages: list[Node], tools: Any = None, template: str = "minimind2"
) -> list[list[int]]:
    """Give the spans that are learnt, by the definition."""
    messages, tools = as_json(messages, tools)
    return [list(span) for span in spec.supervised_spans(messages, tools=tools, template=template)]


def oracle_encode_chat(messages: list[Node], tokenizer: Node, **options: Any) -> tuple[list[int], list[bool]]:
    """Encode a conversation by the oracles of both components."""
    from minimind_ref.oracle.chat_template import encode_chat
    from minimind_ref.oracle.tokenizer import encode

    made = read(tokenizer)
    control_ids = {name: made.vocab[name] for name in made.special}
    own = SimpleNamespace(control_ids=control_ids, encode=lambda text: encode(text, made.vocab, made.merges))
    return encode_chat(own, messages, **options)


def torch_encode_chat(messages: list[Node], tokenizer: Node, **options: Any) -> tuple[list[int], list[bool]]:
    """Encode a conversation by the product."""
    from minimind_ref.data.chat_template import encode_chat

    found = encode_chat(product(tokenizer), messages, **options)
    return found.ids, found.supervised
