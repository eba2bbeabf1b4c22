"""A tokenizer for tests whose ids can be read: byte b is id b + 3, and 0, 1, 2 are padding, start and end."""

from dataclasses import dataclass


@dataclass
class ByteTokenizer:
    """`offset` moves all ids, for tests of large vocabularies; `calls` counts batches."""

    offset: int = 3
    fingerprint: str = "bytes"
    calls: int = 0
    start_id = 1
    end_id = 2

    @property
    def vocab_size(self) -> int:
        return self.offset + 256

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        self.calls += 1
        return [[byte + self.offset for byte in text.encode()] for text in texts]
