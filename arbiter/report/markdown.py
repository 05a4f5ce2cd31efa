"""The document as Markdown with tables (GitHub's, which most viewers know)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from arbiter.report.parts import Document, Section, Table
from arbiter.report.sections import text_of

_SPECIAL = re.compile(r"([\\`*_\[\]|~$])")
_LEADING = re.compile(r"[-+#=:]|[0-9]+[.)](?=\s|\Z)")
"""With what a list, a heading or a line below one begins."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LINK = re.compile(r"(www)\.|(:)(?=//)", re.IGNORECASE)


def as_markdown(document: Document) -> str:
    """The whole text. Whatever a program is called, it is shown and not obeyed."""
    return "\n".join(_lines(document)) + "\n"


def escaped(text: str) -> str:
    """A text that stands for itself: no markup, no link, one line."""
    plain = re.sub("[&<>]", lambda found: _ENTITIES[found[0]], " ".join(text.split("\n")))
    plain = _SPECIAL.sub(r"\\\1", plain)
    return _LINK.sub(lambda found: f"{found[1]}&#46;" if found[1] else "&#58;", plain)


def paragraph(text: str) -> str:
    """The same where a line begins: no list and no heading."""
    plain = escaped(text).lstrip()
    if found := _LEADING.match(plain):
        end = found.end()
        return f"{plain[: end - 1]}&#{ord(plain[end - 1])};{plain[end:]}"
    return plain


def _lines(document: Document) -> Iterator[str]:
    yield f"# {escaped(document.title)}"
    for text in document.texts:
        yield f"\n{paragraph(text)}"
    yield ""
    for name, figure in document.tiles:
        yield f"- {escaped(name)}: **{escaped(figure)}**"
    for section in document.sections:
        yield from _section(section)
    yield f"\n{paragraph(document.foot)}"


def _section(section: Section) -> Iterator[str]:
    yield f"\n## {escaped(section.title)}"
    for text in section.texts:
        yield f"\n{paragraph(text)}"
    for table in section.tables:
        yield f"\n### {escaped(table.caption)}\n"
        yield from _table(table)


def _table(table: Table) -> Iterator[str]:
    numbers = {n for row in table.rows for n, cell in enumerate(row) if isinstance(cell, int)}
    right = table.right | numbers
    yield f"| {' | '.join(map(escaped, table.head))} |"
    yield f"|{'|'.join('--:' if n in right else '---' for n in range(len(table.head)))}|"
    for row in table.rows:
        yield f"| {' | '.join(escaped(text_of(cell)) for cell in row)} |"
    if table.beyond:
        yield f"\nand {text_of(table.beyond)} more"
