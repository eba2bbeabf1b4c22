"""The files of a token file: their names, and what the JSON among them says of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from minimind_ref.data.jsonl import DataError

FORMAT = 1
"""Version of the layout; another one is not read."""


def suffixes(supervised: bool) -> list[str]:
    """The ends of a token file's names, in the order in which they are put in place."""
    return ["tokens.bin", "offsets.bin", *["supervised.bin"] * supervised, "json"]


def read_metadata(stem: Path) -> dict[str, Any]:
    """Read STEM.json; raises DataError where it is none, or where the files beside it have other sizes than it says."""
    path = Path(f"{stem}.json")
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        promised = {"tokens": metadata["num_tokens"], "documents": metadata["num_documents"]}
        found = {
            "tokens": _size(stem, "tokens.bin") // np.dtype(metadata["dtype"]).itemsize,
            "documents": _size(stem, "offsets.bin") // 8 - 1,
        }
        if metadata.get("supervised", False):
            promised["flags"], found["flags"] = metadata["num_tokens"], _size(stem, "supervised.bin")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a token file ({error})".replace("\n", " ")) from None
    if metadata.get("format") != FORMAT:
        raise DataError(f"{path}: format {metadata.get('format')} where {FORMAT} is read")
    if found != promised:
        raise DataError(f"{path}: promises {promised}, the files beside it hold {found}")
    return metadata


def _size(stem: Path, suffix: str) -> int:
    return Path(f"{stem}.{suffix}").stat().st_size
