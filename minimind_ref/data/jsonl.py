"""JSON Lines read as a stream: one object a line, UTF-8, every complaint with its file and line number."""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")
ON_BAD_LINE = ("error", "skip")
MAX_LINE_BYTES = 32 * 2**20
"""A longer line is refused, since a line is held in memory, several times over (a long novel has 4 MiB)."""
EMPTY = "empty text"
_BOM = b"\xef\xbb\xbf"
_OTHER = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "compressed", b"(\xb5/\xfd": "compressed"}


class DataError(ValueError):
    """Training data that cannot be used; the message is one line and starts with the file (and line)."""


class RecordError(ValueError):
    """What `convert` raises for an object that is not the record it should be; args[0] says what is wrong."""


def read_jsonl(
    path: str | Path,
    *,
    key: str = "text",
    on_bad_line: str = "error",
    skipped: Counter[str] | None = None,
    on_bytes: Callable[[int], object] | None = None,
) -> Iterator[str]:
    """Yield the string under `key` of every line of a JSON Lines file, never holding more than one line.

    Lines of whitespace only are passed over, a byte order mark at the file's start too.  An empty string is a sound
    record with nothing to learn: it is left out and counted in `skipped`, whatever `on_bad_line` says.
    Further arguments and errors: see `read_records`.
    """
    return read_records(
        path, lambda record: text_of(record, key), on_bad_line=on_bad_line, skipped=skipped, on_bytes=on_bytes
    )


def read_records(
    path: str | Path,
    convert: Callable[[dict[str, Any]], T | None],
    *,
    on_bad_line: str = "error",
    skipped: Counter[str] | None = None,
    on_bytes: Callable[[int], object] | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[T]:
    """Yield `convert(object)` for every line of a JSON Lines file; None means sound, but nothing in it to learn.

    on_bad_line="skip" counts bad lines by what is wrong with them in `skipped` instead of raising; `on_bytes` is told
    each line's size, for a progress bar.  Raises DataError for a file that cannot be read, for the first bad line,
    and at the end of a file without a single usable record.
    """
    if on_bad_line not in ON_BAD_LINE:
        raise ValueError(f"on_bad_line={on_bad_line!r} must be one of {', '.join(ON_BAD_LINE)}")
    skipped = Counter() if skipped is None else skipped
    usable = 0
    with open_regular(path) as file:
        for number, line in enumerate(_lines(file, max_line_bytes), start=1):
            if on_bytes is not None:
                on_bytes(len(line))
            if not line.strip():
                continue
            try:
                value = convert(_parse(line, max_line_bytes))
            except RecordError as error:
                if on_bad_line == "error":
                    raise DataError(f"{path}:{number}: {': '.join(map(str, error.args))}") from None
                skipped[error.args[0]] += 1
                continue
            if value is None:
                skipped[EMPTY] += 1
                continue
            usable += 1
            yield value
    if usable == 0:
        raise DataError(f"{path}: {nothing_usable(skipped)}")


def text_of(record: dict[str, Any], key: str = "text") -> str | None:
    """The non-empty string under `key`, None for an empty one; raises RecordError for anything else."""
    if key not in record:
        raise RecordError(f'no "{key}"')
    text = record[key]
    if not isinstance(text, str):
        raise RecordError(f'"{key}" is not a string', type(text).__name__)
    if not text:
        return None
    return check_encodable(text, key)


def check_encodable(text: str, key: str = "text") -> str:
    r"""`text` itself; raises RecordError for half a surrogate pair (JSON's "\ud83d" alone), which UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        unpaired = f"\\u{ord(text[error.start]):04x} at character {error.start}"
        raise RecordError(f'"{key}" has an unpaired surrogate', unpaired) from None
    return text


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular, non-empty file for reading in binary; raises DataError, naming it, if that cannot be done."""
    try:
        mode = Path(path).stat()
        if stat.S_ISDIR(mode.st_mode):
            raise DataError(f"{path}: is a directory, not a file")
        if not stat.S_ISREG(mode.st_mode):
            raise DataError(f"{path}: is not a regular file (it is read twice)")
        if mode.st_size == 0:
            raise DataError(f"{path}: is empty")
        return open(path, "rb")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _lines(file: BinaryIO, limit: int) -> Iterator[bytes]:
    """Lines, the first without its byte order mark; of an overlong one only limit + 1 bytes are kept."""
    at_start = True
    while line := file.readline(limit + 1):
        yield line.removeprefix(_BOM) if at_start else line
        at_start = False
        while _is_cut(line, limit):
            line = file.readline(limit + 1)


def _is_cut(line: bytes, limit: int) -> bool:
    return len(line) > limit and not line.endswith(b"\n")


def _parse(line: bytes, limit: int) -> dict[str, Any]:
    if _is_cut(line, limit):
        raise RecordError("line too long", f"more than {limit} bytes")
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        seems = next((kind for start, kind in _OTHER.items() if line.startswith(start)), None)
        what = f"{seems}, it seems" if seems else f"byte 0x{line[error.start]:02x} at {error.start}"
        raise RecordError("not UTF-8", what) from None
    except json.JSONDecodeError as error:
        if b"\0" in line[:2]:
            raise RecordError("not UTF-8", "UTF-16 or UTF-32, it seems") from None
        raise RecordError("not JSON", f"{error.msg} at character {error.pos}") from None
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, brackets nested 5000 deep
        raise RecordError("not JSON", str(error).split(";")[0]) from None
    if not isinstance(record, dict):
        raise RecordError("not a JSON object", type(record).__name__)
    return record


def nothing_usable(skipped: Mapping[str, int]) -> str:
    """Say that a file had no usable record, and what was wrong with those it had."""
    counts = ", ".join(f"{count} times {reason}" for reason, count in Counter(skipped).most_common())
    return f"no usable record ({counts or 'only blank lines'})"
