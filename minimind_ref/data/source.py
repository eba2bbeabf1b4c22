"""A data file that is read twice, once for its digest: it must not change in between."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from minimind_ref.data.jsonl import DataError, open_regular
from minimind_ref.progress import progress_bar

T = TypeVar("T")


class Source:
    """A file, its SHA-256, and a guarded way to read it."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._before = _identity(path)
        self.digest = _digest(path)

    def read(self, records: Callable[[Callable[[int], object]], Iterator[T]], *, progress: bool) -> Iterator[T]:
        """Yield `records(on_bytes)` under a progress bar; raises DataError if the file has changed by then."""
        size, desc = self._before[0], f"tokenise {self.path}"
        with progress_bar(total=size, unit="B", unit_scale=True, desc=desc, disable=not progress) as bar:
            yield from records(bar.update)
        if _identity(self.path) != self._before:
            raise DataError(f"{self.path}: changed while it was read")


def _digest(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _identity(path: str | Path) -> tuple[int, int, int]:
    """What changes when a file's content does: its size first."""
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ino
