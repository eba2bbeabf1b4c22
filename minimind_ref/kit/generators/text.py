"""Cases of tokenizer, chat template and packing: equal or wrong, whatever the precision."""

import numpy as np

from minimind_ref.golden.generator import draw_integers
from minimind_ref.kit.adaptations import read_tokenizer
from minimind_ref.kit.generated import Drawn, Seeds, generator

PARTS = (
    *("the ", " cat", "'s ", "'re", "'LL", "12", "345678", "  ", "\n", "\t", "\x1d", "!", "<|im_end|>"),
    *("abab", "aab", " aaa", "Zz", "é", "e\u0301", "你好", "🙂"),
)
# "aa" comes late, so that the longest beginning of "aab" is not its first pair; "sĠ" lies across a split
MERGES = [pair.split() for pair in ("a b", "ab ab", "t h", "th e", "Ġ c", "Ġc a", "1 2", "h e", "Ã ©", "s Ġ", "a a")]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ROW = ("input_ids", "labels", "segment_ids", "position_ids")


def text(s: Seeds, parts: int = len(PARTS)) -> str:
    """Draw a text of parts that are hard to cut, all of them or some, each once."""
    return "".join(PARTS[i] for i in np.argsort(s.draw(len(PARTS)))[:parts])


def made() -> object:
    """A small vocabulary."""
    return read_tokenizer({"special_tokens": SPECIAL, "merges": MERGES})


@generator("bpe.split", "TOKENIZER-2")
def pieces(s: Seeds) -> Drawn:
    """Spaces, contractions, digits, marks and scripts in any order."""
    return Drawn({"text": text(s)}, {}, ("pieces",))


@generator("bpe.encode", "TOKENIZER-1", "TOKENIZER-2", "TOKENIZER-4", "TOKENIZER-7", "TOKENIZER-10")
def encoded(s: Seeds) -> Drawn:
    """Merges that overlap, control names in the text, bytes beyond ASCII; ids that are no ranks."""
    tokens = made()
    names = list(tokens.vocab)  # type: ignore[attr-defined]
    names[-len(MERGES) :] = reversed(names[-len(MERGES) :])
    vocab = {name: i for i, name in enumerate(names)}
    return Drawn({"text": text(s), "vocab": vocab, "merges": tokens.merges}, {}, ("ids",))  # type: ignore[attr-defined]


@generator("bpe.decode", "TOKENIZER-6", "TOKENIZER-8")
def decoded(s: Seeds) -> Drawn:
    """Ids in any order: half characters, special tokens (one within a character), bytes that no text has."""
    tokens = made()
    ids = draw_integers(s.take(), (40,), 0, len(tokens.vocab)).tolist()  # type: ignore[attr-defined]
    ids[3:6] = [tokens.vocab[name] for name in ("Ã", SPECIAL[0], "©")]  # type: ignore[attr-defined]
    special = list(tokens.control_ids)  # type: ignore[attr-defined]
    return Drawn({"ids": ids, "vocab": tokens.vocab}, {"special_tokens": special}, ("text",))  # type: ignore[attr-defined]


def talk(s: Seeds) -> list[dict[str, str]]:
    """Draw a conversation, of which the first question and the last answer imitate a marker."""
    rounds = int(draw_integers(s.take(), (), 1, 4))
    opening = [{"role": "system", "content": text(s, 3)}] if s.number % 2 else []
    spoken = [{"role": role, "content": text(s, 4)} for role in ["user", "assistant"] * rounds]
    for turn in (spoken[0], spoken[-1]):
        turn["content"] += SPECIAL[2]
    return opening + spoken


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


@generator("pack", "PACKING-3")
def numbered(s: Seeds) -> Drawn:
    """More pieces in a row than a byte can number, then one over the end of a row."""
    tokens = draw_integers(s.take(), (300,), 0, 9).tolist()
    return Drawn({"documents": [*([token] for token in tokens), tokens], "length": 290}, {}, ROW)


@generator("pad", "PACKING-7", "PACKING-9", "PACKING-10", "PACKING-11", "PACKING-14")
def padded(s: Seeds) -> Drawn:
    """A document a row, cut where it is too long."""
    options = {"pad_id": 3, "keep_end": True} if s.number % 2 else {"pad_id": 3}
    return Drawn({"documents": documents(s), "length": 5}, options, ROW)
