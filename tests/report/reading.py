"""A page as a program without a browser reads it: by Python's own HTML parser."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

# Elements that have no end.
VOID = ("meta", "path", "input", "br", "img", "link")


class Reading(HTMLParser):
    """`elements`: (name, attributes) of all; `text`: what is seen; `tables`: by caption, rows of cells; `figures`: the
    data for the script. Raises AssertionError where elements do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self.headings: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(html)
        self.close()
        assert self._open == [], self._open

    @property
    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found

    def column(self, caption: str, number: int = 1) -> dict[str, str]:
        """Of the table with this caption, a column by the words of the first one."""
        return {row[0]: row[number] for row in self.tables[caption][1:]}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag == "script":
            self.scripts.append("")
        elif tag in ("h1", "h2", "h3"):
            self.headings.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, (tag, self._open[-5:])
        self._open.pop()
        if tag == "table":
            cells = [[" ".join(cell.split()) for cell in row] for row in self._rows]
            self.tables[" ".join(self._caption.split())] = cells

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[-1] += data
        elif "style" not in self._open:
            self.text += data
        if {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data
        if "caption" in self._open:
            self._caption += data
        if {"h1", "h2", "h3"} & set(self._open):
            self.headings[-1] += data


def read(path: Path) -> Reading:
    """The page of a file."""
    return Reading(path.read_text(encoding="utf-8"))
