"""The built-in corpus: the docstrings and sources of the running Python's standard library."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

VERSION = 1
"""Raised when `documents` changes, so that cached token files are not reused."""
EXCLUDED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "ensurepip", "turtledemo"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def documents() -> Iterator[str]:
    """Yield the corpus' documents, in the same order on every run of one Python."""
    seen: set[str] = set()
    for path in files():
        for text in _docstrings(path):
            if text not in seen:
                seen.add(text)
                yield text


def files() -> list[Path]:
    """The standard library's .py files, sorted by path; tests and installed packages are left out."""
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in root.rglob("*.py") if not EXCLUDED & set(path.relative_to(root).parts))


def fingerprint() -> str:
    """A digest of everything that `documents` depends on."""
    root = Path(sysconfig.get_path("stdlib"))
    digest = hashlib.sha256(f"{VERSION} {sys.version_info[:2]}".encode())
    for path in files():
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node, clean=False)):
            yield inspect.cleandoc(text)
