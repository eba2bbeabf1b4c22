"""What a byte-level BPE tokenizer.json must hold, and how its text path is cut off from its added tokens."""

from __future__ import annotations

import json
from typing import Any

import tokenizers


def require_byte_level_bpe(settings: Any) -> None:
    """Refuse what is not a byte-level BPE tokenizer.json."""
    try:
        kind = settings["model"].get("type", "BPE")
        steps = settings["pre_tokenizer"] or {}
        steps = [step["type"] for step in steps.get("pretokenizers", [steps]) if "type" in step]
    except (TypeError, KeyError, AttributeError):
        raise ValueError("it is JSON but has no model and pre_tokenizer") from None
    if kind != "BPE" or "ByteLevel" not in steps:
        raise ValueError(f"only byte-level BPE is supported, this is {kind} after {steps}")
    vocab, merges = settings["model"].get("vocab"), settings["model"].get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list) or not all(map(_is_merge, merges)):
        raise ValueError("its model has no vocab and merges")
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index < 2**31:
            raise ValueError(f"the entry {token!r} has the id {index!r}")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if settings["model"].get(name):
            raise ValueError(f"{name}={settings['model'][name]!r} is not byte-level BPE's")
    added = settings.get("added_tokens") or []
    if not isinstance(added, list) or not all(map(_is_added_token, added)):
        raise ValueError("its added_tokens are no list of contents, ids and whether they are special")


def _is_merge(pair: Any) -> bool:
    return isinstance(pair, str) or (isinstance(pair, list) and all(isinstance(part, str) for part in pair))


def _is_added_token(token: Any) -> bool:
    kinds = {"content": str, "id": int, "special": bool}
    return isinstance(token, dict) and all(type(token.get(name)) is kind for name, kind in kinds.items())


def without_added_tokens(settings: dict[str, Any]) -> tokenizers.Tokenizer:
    """Build the tokenizer that text goes through: no added token, no merge that makes one, no dropout, no padding."""
    added = {token["content"] for token in settings.get("added_tokens") or []}
    model = settings["model"]
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    model = model | {
        "vocab": {token: index for token, index in model["vocab"].items() if token not in added},
        "merges": [pair for pair in pairs if added.isdisjoint([*pair, "".join(pair)])],
        "dropout": None,
        "unk_token": None,
    }
    plain = settings | {"model": model, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(plain))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(str(error)) from error


def _byte_letters() -> dict[str, int]:
    """Map GPT-2's printable stand-in for each byte to the byte: printable Latin-1 itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(hidden)}


BYTE_OF = _byte_letters()


def bytes_of_token(token: str) -> bytes:
    """Return the bytes that an entry of the vocabulary spells."""
    try:
        return bytes(BYTE_OF[letter] for letter in token)
    except KeyError:
        raise ValueError(f"the entry {token!r} is not made of byte letters") from None
