"""Numbers by counting: the i-th number of a named stream, the same under every Python and on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def digest(text: str) -> int:
    """The first 64 bits of SHA-256 as a number."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class Stream:
    """Draws from a stream: the i-th draw is digest("NAME/i") and depends on nothing else.

    Not `random.Random`: Python promises its `random()` from version to version, not what its other methods make of it.
    """

    def __init__(self, *name: str | int) -> None:
        self.name = "/".join(map(str, name))
        self.count = 0

    def below(self, stop: int) -> int:
        """A number in 0 … stop - 1: ⌊u·stop / 2⁶⁴⌋ for 64 bits u."""
        self.count += 1
        return digest(f"{self.name}/{self.count}") * stop >> 64

    def choose(self, items: Sequence[T]) -> T:
        """One of `items`."""
        return items[self.below(len(items))]

    def happens(self, share: float) -> bool:
        """True with probability `share`."""
        return self.below(2**53) < share * 2**53
