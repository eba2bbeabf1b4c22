"""Text to ids and back: byte-level BPE that keeps control tokens out of the reach of text.

The algorithm is the `tokenizers` library's; what is ours is the policy. Every tokenizer.json declares *added tokens*
(`<|im_start|>`, MiniMind-3's `<think>`), which the library recognises in any text. Here `encode` never yields one of
their ids, whatever the text says; only code that writes a conversation's structure (chat_template.py) can place them.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from minimind_ref.data.byte_level import bytes_of_token, require_byte_level_bpe, without_added_tokens
from minimind_ref.files import write_atomically

SHIPPED = Path(__file__).with_name("tokenizer.json")
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True)
class Tokenizer:
    """Encode and decode with one tokenizer.json; construct with `Tokenizer.load`."""

    source: str  # the file's text
    plain: tokenizers.Tokenizer  # the same tokenizer without its added tokens: it cannot produce their ids
    control_ids: dict[str, int]  # every added token's text -> its id
    bytes_of: dict[int, bytes]  # an ordinary token's bytes, a marker's text, b"" for special tokens
    pad_id: int
    start_id: int
    end_id: int

    @classmethod
    def load(cls, path: str | Path | None = None) -> Tokenizer:
        """Read a tokenizer.json, or the one in a folder, or (None) the one that is shipped.

        A file that cannot serve is a ValueError of one line: missing, not JSON, not byte-level BPE, or without
        one of the three special tokens.
        """
        file = SHIPPED if path is None else Path(path)
        file = file / "tokenizer.json" if file.is_dir() else file
        try:
            return cls.from_text(file.read_bytes().decode())
        except OSError as error:
            raise ValueError(f"{file}: cannot read a tokenizer: {error.strerror}") from error
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors too
            raise ValueError(f"{file}: not a usable tokenizer.json: {error}") from error

    @classmethod
    def from_text(cls, source: str) -> Tokenizer:
        """Build from the text of a tokenizer.json."""
        settings = json.loads(source)
        require_byte_level_bpe(settings)
        added = settings.get("added_tokens") or []
        control_ids = {token["content"]: token["id"] for token in added}
        for name in (PAD, START, END):
            if name not in control_ids:
                raise ValueError(f"special token {name} is missing (it has {sorted(control_ids)})")
        bytes_of = {
            index: bytes_of_token(token)
            for token, index in settings["model"]["vocab"].items()
            if token not in control_ids
        }
        bytes_of |= {token["id"]: b"" if token["special"] else token["content"].encode() for token in added}
        pad, start, end = (control_ids[name] for name in (PAD, START, END))
        return cls(source, without_added_tokens(settings), control_ids, bytes_of, pad, start, end)

    @property
    def vocab_size(self) -> int:
        """Return the number of ids that an embedding needs: the largest id and one."""
        return max(self.bytes_of) + 1

    @property
    def stop_ids(self) -> list[int]:
        """Return the ids that end an answer: the end token, and the one that ends a text."""
        return [self.end_id, self.pad_id]

    def lacking(self, vocab_size: int) -> list[int]:
        """Return the ids of a larger embedding that stand for nothing here: a text ends with one that is chosen."""
        return sorted(set(range(vocab_size)) - self.bytes_of.keys())

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the file's text, in hexadecimal."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Encode text; the result holds ordinary tokens only, even where the text spells a control token."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode each text as `encode` does, in parallel."""
        for text in texts:
            _require_utf8(text)
        return [e.ids for e in self.plain.encode_batch_fast(list(texts))]

    def split_control(self, text: str) -> list[tuple[str, int | None]]:
        """Cut trusted text at its control tokens: pairs (text, id of the control token, or None for ordinary text)."""
        longest_first = sorted(self.control_ids, key=len, reverse=True)
        pieces = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
        return [(piece, self.control_ids.get(piece)) for piece in pieces if piece]

    def token_bytes(self, index: int) -> bytes:
        """Return the bytes that a token stands for: b"" for special tokens, so that sums count the text's bytes."""
        try:
            return self.bytes_of[index]
        except KeyError:
            raise ValueError(f"id {index} is not in the vocabulary of {self.vocab_size} tokens") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Decode to text: decode(encode(s)) == s where the file has no normaliser.

        Special tokens contribute nothing; bytes that are not UTF-8 become U+FFFD.
        """
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Decode token by token, yielding text as soon as its characters are complete; joined, it equals `decode`."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for index in ids:
            if text := decoder.decode(self.token_bytes(index)):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def save(self, path: str | Path) -> None:
        """Write the tokenizer.json as it was read, whole or not at all."""
        write_atomically(Path(path), lambda file: file.write(self.source.encode()))


def _require_utf8(text: str) -> None:
    """Refuse a lone surrogate, which no UTF-8 text holds."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        bad = ord(text[error.start])
        raise ValueError(
            f"text has a lone surrogate U+{bad:04X} at position {error.start}: it is not Unicode"
        ) from None


if __name__ == "__main__":
    from minimind_ref.data.tokenizer_training import main

    raise SystemExit(main())
