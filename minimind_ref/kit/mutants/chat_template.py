"""Wrong renderings of conversations, and wrong masks of what is learnt."""

import json
import re
from types import SimpleNamespace

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.chat_template import END, START, encode_chat, render, render_text, supervised_spans


def turns(text):
    """Give where the words of each assistant turn of a rendered text start and end."""
    found = re.finditer(f"{re.escape(START)}assistant\n(.*?){re.escape(END)}", text, re.DOTALL)
    return [match.span(1) for match in found]


@mutant("chat_template.render", "CHAT_TEMPLATE-M01", owner="CHAT_TEMPLATE-6",
        summary="the generation prompt is never added", source="MiniMind PR #86 (TOK-7)")  # fmt: skip
def prompt_ignored(messages, *, add_generation_prompt=False, **options):
    return render_text(messages, **options)


@mutant("chat_template.encode", "CHAT_TEMPLATE-M02", owner="CHAT_TEMPLATE-9",
        summary="a second begin token is put in front", source="OpenRLHF #393, open-r1 PR #462 (TOK-1)")  # fmt: skip
def two_begin_tokens(tokenizer, messages, **options):
    ids, mask = encode_chat(tokenizer, messages, **options)
    return [tokenizer.control_ids[START], *ids], [False, *mask]


@mutant("chat_template.encode", "CHAT_TEMPLATE-M03", owner="CHAT_TEMPLATE-9",
        summary="control names in a user's text become control ids", source="MiniMind d65ef2c (TOK-8)")  # fmt: skip
def user_text_is_trusted(tokenizer, messages, **options):
    text = render_text(messages, **options)
    _, mask = encode_chat(tokenizer, messages, **options)
    ids = []
    for part in re.split("(" + "|".join(map(re.escape, tokenizer.control_ids)) + ")", text):
        ids += [tokenizer.control_ids[part]] if part in tokenizer.control_ids else tokenizer.encode(part)
    return ids, (mask + [False] * len(ids))[: len(ids)]


@mutant("chat_template.sft_mask", "CHAT_TEMPLATE-M04", owner="CHAT_TEMPLATE-8", summary="the end token is not learnt",
        source="trl #1623, PR #3091, torchtune #2792 (TOK-3, TOK-4)")  # fmt: skip
def end_not_learnt(messages, **options):
    return [(start, end - len(END)) for start, end in supervised_spans(messages, **options) if end - len(END) > start]


@mutant("chat_template.sft_mask", "CHAT_TEMPLATE-M05", owner="CHAT_TEMPLATE-13",
        summary="the newline behind the end token is learnt", source="MiniMind #636 (SFT-3)")  # fmt: skip
def newline_learnt(messages, **options):
    text = render_text(messages, **options)
    spans = supervised_spans(messages, **options)
    return [(start, end + text.startswith(f"{END}\n", end - len(END))) for start, end in spans]


@mutant("chat_template.sft_mask", "CHAT_TEMPLATE-M06", owner="CHAT_TEMPLATE-8",
        summary="supervision starts and ends one late",
        source="MiniMind #388, #416, mended in aa539a8 (SFT-1)")  # fmt: skip
def one_late(messages, **options):
    return [(start + 1, end + 1) for start, end in supervised_spans(messages, **options)]


@mutant("chat_template.sft_mask", "CHAT_TEMPLATE-M07", owner="CHAT_TEMPLATE-8", summary="the role line is learnt too",
        source="a whole turn taken for the answer")  # fmt: skip
def role_learnt(messages, **options):
    text, header = render_text(messages, **options), f"{START}assistant\n"
    spans = supervised_spans(messages, **options)
    return [(start - len(header) if text[:start].endswith(header) else start, end) for start, end in spans]


@mutant("chat_template.sft_mask", "CHAT_TEMPLATE-M08", owner="CHAT_TEMPLATE-9", source="MiniMind d65ef2c (TOK-8)",
        summary="spans are searched for in the text, a user's imitation included")  # fmt: skip
def spans_searched_for(messages, **options):
    return [(first, last + len(END)) for first, last in turns(render_text(messages, **options))]


@mutant("chat_template.sft_mask", "CHAT_TEMPLATE-M09", owner="CHAT_TEMPLATE-13", summary="the think markers are learnt",
        source="MiniMind d65ef2c, b5d10d9 (SFT-4)")  # fmt: skip
def think_markers_learnt(messages, **options):
    starts = [start for start, _ in supervised_spans(messages, **options)]
    found = turns(render_text(messages, **options))
    return [(first, last + len(END)) for first, last in found if any(first <= start <= last for start in starts)]


@mutant("chat_template.sft_mask", "CHAT_TEMPLATE-M10", owner="CHAT_TEMPLATE-8",
        summary="only the last answer is learnt", source="a search from the end (SFT-2)")  # fmt: skip
def last_answer_only(messages, **options):
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=0)
    before = len(render_text(messages[:last], **options)) if last else 0
    return [span for span in supervised_spans(messages, **options) if span[0] >= before]


@mutant("chat_template.render", "CHAT_TEMPLATE-M11", owner="CHAT_TEMPLATE-4",
        summary="each tool's message is a turn of its own", source="a loop over the messages")  # fmt: skip
def tool_turns_apart(messages, **options):
    between = "\n</tool_response>\n<tool_response>\n"
    apart = f"\n</tool_response>{END}\n{START}user\n<tool_response>\n"
    return render_text(messages, **options).replace(between, apart)


@mutant("chat_template.render", "CHAT_TEMPLATE-M12", owner="CHAT_TEMPLATE-2",
        summary="minimind2's default system turn is missing",
        source="MiniMind-3's opening under the old name")  # fmt: skip
def no_default_system(messages, *, template="minimind2", **options):
    text = render_text(messages, template=template, **options)
    return text.removeprefix(f"{START}system\nYou are a helpful assistant{END}\n")


@mutant("chat_template.render", "CHAT_TEMPLATE-M13", owner="CHAT_TEMPLATE-4", summary="JSON escapes what is not ASCII",
        source="json.dumps without ensure_ascii=False")  # fmt: skip
def escaped_json(messages, **options):
    def call(given):
        body = given.get("function") or given
        arguments = body["arguments"]
        return {**body, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}

    said = [{**m, "tool_calls": [call(c) for c in m["tool_calls"]]} if m.get("tool_calls") else m for m in messages]
    return render_text(said, **options)


@mutant("chat_template.render", "CHAT_TEMPLATE-M14", owner="CHAT_TEMPLATE-5",
        summary="an answer without thoughts has no think block",
        source="Qwen3's template in MiniMind-3's place")  # fmt: skip
def empty_block_left_out(messages, **options):
    header, block = f"{START}assistant\n", "<think>\n\n</think>\n\n"
    text = render_text(messages, **options)
    said = text.removesuffix(header + block)
    return said.replace(header + block, header) + text[len(said) :]


@mutant("chat_template.encode", "CHAT_TEMPLATE-M15", owner="CHAT_TEMPLATE-11",
        summary="text is encoded across the edges of spans",
        source="trl PR #5145: retokenised as one (SFT-5)")  # fmt: skip
def encoded_across_edges(tokenizer, messages, **options):
    whole = SimpleNamespace(control_ids=tokenizer.control_ids, encode=tokenizer.encode)
    pieces, ids, mask = [], [], []
    for text, trusted, supervised in render(messages, **options):
        names = "|".join(map(re.escape, whole.control_ids)) if trusted else "(?!)"
        pieces += [(p, trusted and p in whole.control_ids, supervised) for p in re.split(f"({names})", text) if p]
    while pieces:
        run = [pieces.pop(0)]
        while pieces and not run[0][1] and not pieces[0][1]:
            run.append(pieces.pop(0))
        found = [whole.control_ids[run[0][0]]] if run[0][1] else whole.encode("".join(p for p, _, _ in run))
        ids, mask = ids + found, mask + [run[-1][2]] * len(found)
    return ids, mask


@mutant("chat_template.sft_mask", "CHAT_TEMPLATE-M16", owner="CHAT_TEMPLATE-8", summary="spans count UTF-16 units",
        source="a string's length in JavaScript")  # fmt: skip
def utf_16_units(messages, **options):
    text = render_text(messages, **options)
    return [
        tuple(len(text[:edge].encode("utf-16-le")) // 2 for edge in s) for s in supervised_spans(messages, **options)
    ]
