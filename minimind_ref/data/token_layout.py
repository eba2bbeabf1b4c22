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
        promised = {
            "tokens.bin": metadata["num_tokens"] * np.dtype(metadata["dtype"]).itemsize,
            "offsets.bin": (metadata["num_documents"] + 1) * 8,
        }
        if metadata["supervised"]:
            promised["supervised.bin"] = metadata["num_tokens"]
        found = {suffix: Path(f"{stem}.{suffix}").stat().st_size for suffix in promised}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a token file ({error})".replace("\n", " ")) from None
    if metadata.get("format") != FORMAT:
        raise DataError(f"{path}: format {metadata.get('format')} where {FORMAT} is read")
    if found != promised:
        raise DataError(f"{path}: promises {promised} bytes, the files beside it have {found}")
    return metadata
