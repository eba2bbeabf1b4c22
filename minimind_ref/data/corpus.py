"""The built-in corpus: real text that every installation has, the running Python's standard library.

Its documents are the docstrings, the language reference that `pydoc` carries, and the sources, cut after each
top-level class or function, without their docstrings: no text comes twice.  Nothing is imported, only parsed.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from minimind_ref.data.jsonl import DataError

VERSION = 1
"""Raised when `documents` changes, so that cached token files are not reused."""
EXCLUDED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "encodings"}
"""Not the library, its tests, and tables of code points."""
EXCLUDED_PREFIXES = ("_sysconfigdata", "config-")
"""Written when this Python was built: paths of somebody's machine."""
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)


def documents(*, sources: bool = True) -> Iterator[str]:
    """Yield the documents, each text once, in the same order on every run of one Python.

    sources=False leaves the prose only.  A file that does not parse is passed over.
    """
    seen: set[str] = set()
    for path in files():
        for text in _texts(path, sources):
            if text and text not in seen:
                seen.add(text)
                yield text


def files() -> list[Path]:
    """The standard library's sources, sorted by path; raises DataError where an installation has none."""
    root = _root()
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in EXCLUDED_FOLDERS and _is_wanted(name)]
        found += [Path(folder, name) for name in names if name.endswith(".py") and _is_wanted(name)]
    if not found:
        raise DataError(f"{root}: this Python has no sources of its standard library; give --data_path")
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def fingerprint() -> str:
    """A digest of everything that `documents` depends on."""
    digest = hashlib.sha256(f"{VERSION} {sys.version_info[:2]}".encode())
    for path in files():
        content = path.read_bytes()
        digest.update(f"{path.relative_to(_root()).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _is_wanted(name: str) -> bool:
    return not name.startswith(EXCLUDED_PREFIXES)


def _texts(path: Path, sources: bool) -> Iterator[str]:
    try:
        with tokenize.open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            source = file.read()
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    if path.parent.name == "pydoc_data":
        yield from (node.value.strip() for node in ast.walk(tree) if _is_long_text(node))  # type: ignore[attr-defined]
        return
    docstrings = {node: text for node in _definitions(tree) if (text := _docstring(node))}
    yield from map(inspect.cleandoc, docstrings.values())
    if sources:
        yield from _pieces(source.splitlines(), tree, docstrings)


def _definitions(node: ast.AST) -> Iterator[ast.AST]:
    """What can have a docstring, in the order of the source; expressions, most of the tree, are not looked into."""
    if isinstance(node, _DOCUMENTED):
        yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _STATEMENTS):
            yield from _definitions(child)


def _docstring(node: ast.AST) -> str:
    text = ast.get_docstring(node, clean=False) or ""  # type: ignore[arg-type]
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return ""
    return text


def _is_long_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 200


def _pieces(lines: list[str], tree: ast.Module, documented: Iterable[ast.AST]) -> Iterator[str]:
    """The source, a piece ending with each top-level class or function, without the lines of its docstrings."""
    kept: list[str | None] = list(lines)
    for node in documented:
        body: list[ast.stmt] = node.body  # type: ignore[attr-defined]
        first, last = body[0].lineno - 1, body[0].end_lineno
        if lines[first][: body[0].col_offset].strip() == "":  # else it shares its line: `def f(): "..."`
            kept[first:last] = [None] * len(kept[first:last])
            if len(body) == 1 and not isinstance(node, ast.Module):
                kept[first] = " " * body[0].col_offset + "..."
    ends = [node.end_lineno for node in tree.body if isinstance(node, _DOCUMENTED) and node.end_lineno]
    for begin, end in zip([0, *ends], [*ends, len(lines)], strict=True):
        yield "\n".join(line for line in kept[begin:end] if line is not None).strip("\n")
