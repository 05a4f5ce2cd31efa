"""The document as one HTML file: nothing is loaded, no script runs, and it prints well.

The policy in its head lets the style in by its hash, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html import escape

from arbiter.budgets import size_text
from arbiter.report.charts import bar, bars, legend
from arbiter.report.parts import Bars, Cell, Document, Section, Table
from arbiter.report.sections import text_of
from arbiter.report.style import STYLE

SHORT = 15
"""Rows up to which a table stays on one sheet of paper."""
_TIME = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}(:[0-9]{2})?")
"""As `when` writes one: it stays on one line."""


def as_html(document: Document) -> str:
    """The whole file."""
    return "\n".join(_page(document)) + "\n"


def policy() -> str:
    """The Content-Security-Policy."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _page(document: Document) -> Iterator[str]:
    title = escape(document.title)
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy()}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield '<meta name="referrer" content="no-referrer">'
    yield f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>"
    yield f"<header>\n<h1>{title}</h1>"
    yield from _texts(document.texts)
    tiles = (f"<div><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>" for n, v in document.tiles)
    yield f"<dl>{''.join(tiles)}</dl>"
    links = (f'<a href="#{one.id}">{escape(one.title)}</a>' for one in document.sections)
    yield f'<nav aria-label="Chapters">{" ".join(links)}</nav>\n</header>\n<main>'
    for section in document.sections:
        yield from _section(section)
    yield f"</main>\n<footer>{escape(document.foot)}</footer>\n</body>\n</html>"


def _texts(texts: tuple[str, ...]) -> Iterator[str]:
    for text in texts:
        yield f"<p>{escape(text)}</p>"


def _section(section: Section) -> Iterator[str]:
    yield f'<section id="{section.id}">\n<h2>{escape(section.title)}</h2>'
    yield from _texts(section.texts)
    if section.bars is not None:
        yield from _figure(section.bars, section.id)
    for table in section.tables:
        if table.folded:
            yield f"<details><summary>{escape(table.caption)}: figures</summary>"
        yield from _table(table)
        if table.folded:
            yield "</details>"
    yield "</section>"


def _figure(chart: Bars, id: str) -> Iterator[str]:
    text = size_text if chart.bytes else text_of
    yield f"<figure>{bars(chart, id, text)}{legend(chart)}</figure>"


def _table(table: Table) -> Iterator[str]:
    short = ' class="short"' if len(table.rows) <= SHORT else ""
    yield f"<table{short}>\n<caption>{escape(table.caption)}</caption>\n<thead><tr>"
    numbers = {n for row in table.rows for n, cell in enumerate(row) if isinstance(cell, int)}
    right = table.right | numbers
    for n, head in enumerate(table.head):
        yield f'<th scope="col"{_right(n, right)}>{escape(head)}</th>'
    yield "</tr></thead>\n<tbody>"
    most = max((_number(row, table.bar) for row in table.rows), default=0)
    for row in table.rows:
        cells = []
        for n, cell in enumerate(row):
            inside = escape(text_of(cell))
            if n == table.bar:
                inside += bar(_number(row, n), most)
            if n == 0:
                cells.append(f'<th scope="row"{_right(n, right)}>{inside}</th>')
            else:
                time = ' class="t"' if _TIME.fullmatch(text_of(cell)) else ""
                cells.append(f"<td{_right(n, right) or time}>{inside}</td>")
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody>\n</table>"
    if table.beyond:
        yield f"<p>and {text_of(table.beyond)} more</p>"


def _right(n: int, right: frozenset[int] | set[int]) -> str:
    return ' class="n"' if n in right else ""


def _number(row: tuple[Cell, ...], column: int | None) -> int:
    cell = row[column] if column is not None else 0
    return cell if isinstance(cell, int) else 0
