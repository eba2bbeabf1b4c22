"""Prose out of the files of packages: a reader for each format, from bytes to text."""

from __future__ import annotations

import ast
import json
import re
import sqlite3
import string
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from minimind_ref.data.html_text import prose

HAN = re.compile(r"[\u4e00-\u9fff]")


def text(content: bytes) -> str:
    """Read UTF-8, leaving out what is not, and terminal colours; a binary file holds no text."""
    if b"\0" in content:
        return ""
    return re.sub(r"\x1b\[[0-9;]*m", "", content.decode("utf-8", "ignore")).replace("\r\n", "\n")


def wrapped(content: bytes) -> str:
    """Read text whose paragraphs were broken into lines, and join the lines again."""
    lines = [""]
    for line in text(content).split("\n"):
        if lines[-1][-1:].strip() and len(lines[-1]) > 50 and line.strip()[:1].isalnum():
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return "\n".join(lines[1:])


def html(content: bytes) -> str:
    """Read the text of an HTML page."""
    return prose(text(content))


def man(content: bytes) -> str:
    """Read a manual page without its macros."""
    lines = [line for line in text(content).split("\n") if not line.startswith((".", "'"))]
    return re.sub(r"\\f.|\\&", "", "\n".join(lines)).replace("\\-", "-")


def tagged(content: bytes) -> str:
    """Read segmented, part-of-speech tagged news as plain text, with half-width letters and digits."""
    joined = re.sub(r"/[A-Za-z]+| +|\[|\]\w*", "", text(content))
    return joined.translate({ord(letter) + 0xFEE0: letter for letter in string.ascii_letters + string.digits})


def chinese_lines(content: bytes) -> str:
    """Keep the lines with at least nine Han characters, each once."""
    return "\n".join(dict.fromkeys(line for line in text(content).split("\n") if len(HAN.findall(line)) > 8))


def chinese_cells(content: bytes) -> str:
    """Keep a table's cells with at least five Han characters, each once."""
    cells = re.split(r"[\t\n]", text(content))
    return "\n".join(dict.fromkeys(cell for cell in cells if len(HAN.findall(cell)) > 4))


def chinese_strings(content: bytes) -> str:
    """Keep the strings of a JSON file with at least nine Han characters, each once."""
    return "\n".join(dict.fromkeys(s for s in _strings(_json(content)) if len(HAN.findall(s)) > 8))


def chinese_string_lines(content: bytes) -> str:
    """Keep the lines with at least nine Han characters of the strings of a JSON file, each once."""
    return chinese_lines("\n".join(_strings(_json(content))).encode())


def long_strings(content: bytes) -> str:
    """Keep the strings of a JSON file with at least 80 characters, each once."""
    return "\n".join(dict.fromkeys(s for s in _strings(_json(content)) if len(s) >= 80))


def speech(content: bytes) -> str:
    """Read the field "text" of a JSON file."""
    return json.loads(content)["text"]


def mail(content: bytes) -> str:
    """Read what a mail's author wrote: no headers, quotations, links, rules or markup."""
    body = speech(content).partition("\n\n")[2]
    if "<html" in body.lower() or "base64" in content.decode("utf-8", "ignore"):
        return ""
    skip = re.compile(r">|http|____|----|[\w-]+: ")
    return wrapped("\n".join(line for line in body.split("\n") if not skip.match(line)).encode())


def items(content: bytes) -> str:
    """Read the items of a YAML list of conversations."""
    return "\n".join(re.findall(r"""^\s*- (?:- )?['"]?(.*?)['"]?\s*$""", text(content), re.MULTILINE))


def database(content: bytes) -> str:
    """Keep the cells of a SQLite database with at least nine Han characters, each once."""
    with tempfile.NamedTemporaryFile(suffix=".db") as file:
        file.write(content)
        file.flush()
        with closing(sqlite3.connect(file.name)) as connection:
            tables = connection.execute("select name from sqlite_master where type = 'table' order by name").fetchall()
            rows = [row for (table,) in tables for row in connection.execute(f'select * from "{table}" order by rowid')]
    cells = [cell for row in rows for cell in row if isinstance(cell, str) and len(HAN.findall(cell)) > 8]
    return "\n".join(dict.fromkeys(cells))


def dictionary(content: bytes) -> str:
    """Read WordNet's definitions and examples without their cross-references."""
    return re.sub(r" +", " ", re.sub(r"\[syn:[^\]]*\]|\{[^}]*\}|\n\s+", " ", text(content)))


def docstrings(content: bytes) -> str:
    """Read the docstrings of a Python module."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(ast.parse(content)) if isinstance(node, kinds)]
    return "\n".join(doc for doc in found if doc)


def markdown(content: bytes) -> str:
    """Read Markdown without code blocks, addresses and tags."""
    body = re.sub(r"^ *(```|~~~).*?^ *\1 *$", "", text(content), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\]\([^)\s]*\)|<[^>\n]+>|https?://\S+", "", body)


def _json(content: bytes) -> Any:
    """Parse JSON, or a value on each line."""
    try:
        return json.loads(content)
    except json.JSONDecodeError:
        return [json.loads(line) for line in content.decode().splitlines() if line.strip()]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


READERS: dict[str, Callable[[bytes], str]] = {
    reader.__name__: reader
    for reader in (
        *(text, wrapped, html, man, tagged, chinese_lines, chinese_cells, chinese_strings, long_strings),
        *(chinese_string_lines, speech, mail, items, database, dictionary, docstrings, markdown),
    )
}
