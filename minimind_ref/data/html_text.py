"""The prose of an HTML page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any


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


def prose(page: str) -> str:
    """Return a page's text: a line per block, white space as a browser shows it, nothing of scripts and styles."""
    parser = _Prose()
    parser.feed(page)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" *\n *", "\n", "".join(parser.parts)))
