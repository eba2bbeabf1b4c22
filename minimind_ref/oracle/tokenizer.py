"""Byte-level BPE from first principles: scan, encode, decode and train, by the standard library alone.

Source: Sennrich et al. 2016, arXiv:1508.07909, algorithm 1; Radford et al. 2019 (GPT-2) for bytes and the pattern.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

Vocab = dict[str, int]
Merges = list[tuple[str, str]]

_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")  # lower case only
# Unicode's White_Space: str.isspace also counts U+001C to U+001F
_SPACES = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | set(map(chr, range(0x2000, 0x200B)))


def load(path: str | Path) -> tuple[Vocab, Merges]:
    """Read vocabulary and merges, in rank order, from a tokenizer.json of either layout (pairs or "a b" strings)."""
    model = json.loads(Path(path).read_text(encoding="utf-8"))["model"]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return model["vocab"], [(left, right) for left, right in pairs]


def byte_alphabet() -> list[str]:
    """Name each byte by one visible character: its own where it prints, else the next from U+0100 on (TOKENIZER-3)."""
    names, spare = [], 0x100
    for byte in range(256):
        visible = 0x21 <= byte <= 0x7E or (byte >= 0xA1 and byte != 0xAD)
        names.append(chr(byte if visible else spare))
        spare += not visible
    return names


def kind(character: str) -> str:
    r"""Sort a character into the pattern's four classes: L is \p{L}, N is \p{N}, S is \s, O is everything else."""
    if character in _SPACES:
        return "S"
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "O"


def pieces(text: str) -> Iterator[str]:
    """Split text where GPT-2's pattern does, as a scanner with one character of look-ahead (TOKENIZER-2)."""
    start = 0
    while start < len(text):
        end = _piece_end(text, start)
        yield text[start:end]
        start = end


def _piece_end(text: str, start: int) -> int:
    for contraction in _CONTRACTIONS:
        if text.startswith(contraction, start):
            return start + len(contraction)
    first = start
    if text[start] == " " and start + 1 < len(text) and kind(text[start + 1]) != "S":
        first = start + 1  # one plain space belongs to the word behind it
    end = first + 1
    while end < len(text) and kind(text[end]) == kind(text[first]):
        end += 1
    if kind(text[first]) == "S" and end < len(text) and end - start > 1:
        return end - 1  # \s+(?!\S): the last space of a run stays with what follows
    return end


def encode(text: str, vocab: Vocab, merges: Merges) -> list[int]:
    """Encode text: in each piece's bytes join, again and again, the leftmost pair of the lowest rank (TOKENIZER-4)."""
    names, rank = byte_alphabet(), {pair: number for number, pair in enumerate(merges)}
    _refuse_surrogates(text)
    ids = []
    for piece in pieces(text):
        symbols = [names[byte] for byte in piece.encode("utf-8")]
        while found := [(rank[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in rank]:
            _, at = min(found)
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        ids += [vocab[symbol] for symbol in symbols]
    return ids


def decode(ids: Sequence[int], vocab: Vocab, *, special_tokens: Collection[str] = ()) -> str:
    """Decode ids: the bytes of all tokens in a row, as UTF-8; what is not UTF-8 becomes U+FFFD (TOKENIZER-6)."""
    byte_of = {name: byte for byte, name in enumerate(byte_alphabet())}
    token_of = {i: "" if token in special_tokens else token for token, i in vocab.items()}
    for i in ids:
        if i not in token_of:
            raise ValueError(f"ids holds {i} but the vocabulary has {len(vocab)} entries")
    return bytes(byte_of[name] for i in ids for name in token_of[i]).decode("utf-8", errors="replace")


def train(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str]) -> tuple[Vocab, Merges]:
    """Learn merges: count all pairs anew, join the most frequent one everywhere, repeat (TOKENIZER-9).

    Ids: special tokens, then the 256 bytes' names in code point order, then merges. Ties go to the smaller pair of ids.
    """
    names = byte_alphabet()
    vocab: Vocab = {}
    for token in [*special_tokens, *sorted(names)]:
        vocab.setdefault(token, len(vocab))
    counts = Counter(piece for text in texts for piece in pieces(text))
    words = [([names[byte] for byte in piece.encode("utf-8")], count) for piece, count in counts.items()]
    merges: Merges = []
    while len(vocab) < vocab_size:
        frequency = Counter()
        for symbols, count in words:
            for pair in pairwise(symbols):
                frequency[pair] += count
        if not frequency:
            break
        best = min(frequency, key=lambda pair: (-frequency[pair], vocab[pair[0]], vocab[pair[1]]))
        merges.append(best)
        vocab.setdefault("".join(best), len(vocab))
        words = [(_join(symbols, best), count) for symbols, count in words]
    return vocab, merges


def _join(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    at = 0
    while at < len(symbols):
        width = 2 if tuple(symbols[at : at + 2]) == pair else 1
        joined.append("".join(symbols[at : at + width]))
        at += width
    return joined


def _refuse_surrogates(text: str) -> None:
    for at, character in enumerate(text):
        if "\ud800" <= character <= "\udfff":
            raise ValueError(
                f"text holds the lone surrogate U+{ord(character):04X} at index {at}, which has no UTF-8 form"
            )
