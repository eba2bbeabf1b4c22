"""Cases of tokenizer, chat template and packing: equal or wrong, whatever the precision."""

from minimind_ref.golden.generator import draw_integers
from minimind_ref.kit.adaptations import read_tokenizer
from minimind_ref.kit.generated import Drawn, Seeds, generator

PARTS = [
    "the ",
    " cat",
    "'s ",
    "12",
    "34 ",
    "  ",
    "\n",
    "你好",
    "é",
    "🙂",
    "<|im_end|>",
    "abab",
    "Zz",
    "!",
    "\t",
    "'re",
]
MERGES = [
    ["a", "b"],
    ["ab", "ab"],
    ["t", "h"],
    ["th", "e"],
    ["Ġ", "c"],
    ["Ġc", "a"],
    ["1", "2"],
    ["h", "e"],
    ["Ã", "©"],
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ROW = ("input_ids", "labels", "segment_ids", "position_ids")


def text(s: Seeds, parts: int = 12) -> str:
    """Draw a text of parts that are hard to cut."""
    return "".join(PARTS[i] for i in draw_integers(s.take(), (parts,), 0, len(PARTS)))


def made() -> object:
    """A small vocabulary."""
    return read_tokenizer({"special_tokens": SPECIAL, "merges": MERGES})


@generator("bpe.split", "TOKENIZER-2")
def pieces(s: Seeds) -> Drawn:
    """Spaces, contractions, digits, marks and scripts in any order."""
    return Drawn({"text": text(s)}, {}, ("pieces",))


@generator("bpe.encode", "TOKENIZER-1", "TOKENIZER-2", "TOKENIZER-4", "TOKENIZER-7", "TOKENIZER-10")
def encoded(s: Seeds) -> Drawn:
    """Merges that overlap, control names in the text, bytes beyond ASCII."""
    tokens = made()
    return Drawn({"text": text(s), "vocab": tokens.vocab, "merges": tokens.merges}, {}, ("ids",))  # type: ignore[attr-defined]


@generator("bpe.decode", "TOKENIZER-6", "TOKENIZER-8")
def decoded(s: Seeds) -> Drawn:
    """Ids in any order: half characters, special tokens, bytes that no text has."""
    tokens = made()
    ids = draw_integers(s.take(), (40,), 0, len(tokens.vocab)).tolist()  # type: ignore[attr-defined]
    special = list(tokens.control_ids)  # type: ignore[attr-defined]
    return Drawn({"ids": ids, "vocab": tokens.vocab}, {"special_tokens": special}, ("text",))  # type: ignore[attr-defined]


def talk(s: Seeds) -> list[dict[str, str]]:
    """Draw a conversation; a text may imitate a marker."""
    turns = 2 * int(draw_integers(s.take(), (), 1, 4))
    roles = ["user", "assistant"] * turns
    opening = [{"role": "system", "content": text(s, 3)}] if s.number % 2 else []
    return opening + [{"role": role, "content": text(s, 4)} for role in roles[:turns]]


@generator("chat_template.render", "CHAT_TEMPLATE-1", "CHAT_TEMPLATE-2", "CHAT_TEMPLATE-7")
def conversations(s: Seeds) -> Drawn:
    """Conversations with and without a system message."""
    return Drawn({"messages": talk(s)}, {"add_generation_prompt": s.number % 3 == 0}, ("text",))


@generator("supervised_spans", "CHAT_TEMPLATE-8", "CHAT_TEMPLATE-13")
def learnt(s: Seeds) -> Drawn:
    """What the loss covers in several turns."""
    return Drawn({"messages": talk(s)}, {}, ("spans",))


@generator("sft_mask", "CHAT_TEMPLATE-8", "CHAT_TEMPLATE-9", "CHAT_TEMPLATE-10", "CHAT_TEMPLATE-11")
def learnt_ids(s: Seeds) -> Drawn:
    """Ids and mask of several turns, of which some imitate markers."""
    return Drawn({"messages": talk(s), "tokenizer": made()}, {}, ("ids", "supervised"))


def documents(s: Seeds) -> list[list[int]]:
    """Draw documents of unlike lengths; some tokens have the padding's id."""
    sizes = draw_integers(s.take(), (5,), 1, 12).tolist()
    return [draw_integers(s.take(), (n,), 0, 9).tolist() for n in sizes]


@generator("pack", "PACKING-1", "PACKING-2", "PACKING-3", "PACKING-4", "PACKING-5", "PACKING-6", "PACKING-7")
def packed(s: Seeds) -> Drawn:
    """Documents that cross the ends of rows."""
    return Drawn({"documents": documents(s), "length": 7}, {"pad_id": 3}, ROW)


@generator("pad", "PACKING-7", "PACKING-9", "PACKING-10", "PACKING-11", "PACKING-14")
def padded(s: Seeds) -> Drawn:
    """A document a row, cut where it is too long."""
    options = {"pad_id": 3, "keep_end": True} if s.number % 2 else {"pad_id": 3}
    return Drawn({"documents": documents(s), "length": 5}, options, ROW)
