"""Prose out of the files of packages: a reader for each format, from bytes to text."""

from __future__ import annotations

import ast
import json
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

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
    return "\n".join(lines)


class _Prose(HTMLParser):
    """Collect the text of an HTML page, a line per block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        self.hidden += tag in ("script", "style", "head")
        if tag in ("p", "li", "div", "br", "tr", "h1", "h2", "h3", "h4", "dt", "dd", "pre"):
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = max(0, self.hidden - (tag in ("script", "style", "head")))

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(re.sub(r"\s+", " ", data))


def html(content: bytes) -> str:
    """Read the text of an HTML page."""
    page = _Prose()
    page.feed(text(content))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" *\n *", "\n", "".join(page.parts)))


def man(content: bytes) -> str:
    """Read a manual page without its macros."""
    lines = [line for line in text(content).split("\n") if not line.startswith((".", "'"))]
    return re.sub(r"\\f.|\\&", "", "\n".join(lines)).replace("\\-", "-")


def tagged(content: bytes) -> str:
    """Read segmented, part-of-speech tagged news as plain text, with half-width letters and digits."""
    joined = re.sub(r"/[A-Za-z]+| +|\[|\]\w*", "", text(content))
    wide = [chr(code + 0xFEE0) for code in range(128) if chr(code).isalnum()]
    return joined.translate({ord(letter): ord(letter) - 0xFEE0 for letter in wide})


def chinese_lines(content: bytes) -> str:
    """Keep the lines with at least nine Han characters, each once."""
    return "\n".join(dict.fromkeys(line for line in text(content).split("\n") if len(HAN.findall(line)) > 8))


def chinese_cells(content: bytes) -> str:
    """Keep a table's cells with at least five Han characters, each once."""
    cells = re.split(r"[\t\n]", text(content))
    return "\n".join(dict.fromkeys(cell for cell in cells if len(HAN.findall(cell)) > 4))


def chinese_strings(content: bytes) -> str:
    """Keep the strings of a JSON file with at least nine Han characters, each once."""
    return "\n".join(dict.fromkeys(s for s in _strings(json.loads(content)) if len(HAN.findall(s)) > 8))


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


def statutes(content: bytes) -> str:
    """Read the articles of a SQLite database of laws."""
    with tempfile.NamedTemporaryFile(suffix=".db") as file:
        file.write(content)
        file.flush()
        rows = sqlite3.connect(file.name).execute("select article_text from articles order by id").fetchall()
    return "\n".join(row[0] for row in rows)


def dictionary(content: bytes) -> str:
    """Read WordNet's definitions and examples without their cross-references."""
    return re.sub(r" +", " ", re.sub(r"\[syn:[^\]]*\]|\{[^}]*\}|\n\s+", " ", text(content)))


def docstrings(content: bytes) -> str:
    """Read the docstrings of a Python module."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(ast.parse(content)) if isinstance(node, kinds)]
    return "\n".join(doc for doc in found if doc)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


READERS: dict[str, Callable[[bytes], str]] = {
    reader.__name__: reader
    for reader in (
        *(text, wrapped, html, man, tagged, chinese_lines, chinese_cells, chinese_strings),
        *(speech, mail, items, statutes, dictionary, docstrings),
    )
}
