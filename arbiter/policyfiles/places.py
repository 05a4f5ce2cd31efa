"""Where things stand in a valid TOML text: the line of every key, table and list item.

`tomlfile.line_of` finds one key of a plain table; policy files are lists of tables, and the
interesting line may be that of the fourth `[[connection]]`, or of an item of a long list. One pass
over the text, linear, done only when there is something to say.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

Path = tuple[str | int, ...]
"""From the top: keys of tables, and indexes of list items from 0."""

MOST_DOTS = 100
"""Dots outside of quotes in a line; the format has one, in [table.key], at most."""
DEEPEST = 12
"""Parts of a path that are told apart: every prefix of a path is kept, and a dotted key may have
tens of thousands of parts. No table of ours is deeper than four."""
_TOKEN = re.compile(
    r'''
    (?P<text> """ (?:\\.|[^\\])*? "{3,5} | \'\'\' .*? '{3,5} | "(?:\\.|[^"\\\n])*" | '[^'\n]*' )
    | (?P<comment> \#[^\n]* )
    | (?P<end> \n )
    | (?P<mark> [\[\]{}=,.] )
    | (?P<bare> [^\s\[\]{}=,.\#"']+ )
    ''',
    re.DOTALL | re.VERBOSE,
)
"""TOML 1.0's tokens as far as they matter here. Blanks match nothing, and are skipped."""


class _Open:
    """A list or a table in braces that is not closed yet; or the statement itself, `kind` ""."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self.path = path
        self.index = 0
        self.key: list[str] = []
        self.value: Path | None = None
        """Where the value belongs that is being read; None while a key or an item is awaited."""


class _Reader:
    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        """Of each list of tables, how many there are so far."""
        self._base: Path = ()
        self._stack = [_Open("", ())]
        self._header = 0
        """Brackets that the header being read began with; 0 in any other statement."""

    def token(self, kind: str, word: str, line: int) -> None:
        top = self._stack[-1]
        if kind == "end":
            if len(self._stack) == 1:
                self._end(line)
            return
        if top.kind == "[" and word != "]" and top.value is None:
            top.value = (*top.path, top.index)[:DEEPEST]
            self.lines[top.value] = line
        if top.value is not None or top.kind == "[":
            self._in_value(top, kind, word)
        elif kind == "mark":
            self._in_key(top, word, line)
        else:
            top.key.append(word if kind == "bare" else next(iter(tomllib.loads(f"{word}=0"))))

    def _in_value(self, top: _Open, kind: str, word: str) -> None:
        if kind != "mark":
            return
        if word in "[{" and top.value is not None:
            self._stack.append(_Open(word, top.value))
        elif word in "]}":
            self._stack.pop()
        elif word == "," and top.kind:
            top.index += 1
            top.key, top.value = [], None

    def _in_key(self, top: _Open, word: str, line: int) -> None:
        if word == "=":
            base = top.path if top.kind else self._base
            top.value = (*base, *top.key)[:DEEPEST]
            for length in range(len(base) + 1, len(top.value) + 1):
                self.lines.setdefault(top.value[:length], line)
        elif word == "}":
            self._stack.pop()
        elif word == "[" and not top.key:
            self._header += 1

    def _end(self, line: int) -> None:
        top = self._stack[0]
        if self._header:
            path: Path = ()
            for place, part in enumerate(top.key[:DEEPEST]):
                path = (*path, part)
                if self._header == 2 and place == len(top.key) - 1:
                    self._counts[path] = self._counts.get(path, 0) + 1
                self.lines.setdefault(path, line)
                if path in self._counts:
                    path = (*path, self._counts[path] - 1)
            self.lines.setdefault(path, line)
            self._base = path
        self._header = 0
        self._stack = [_Open("", ())]


def too_deep(text: str) -> int:
    """The first line with more than MOST_DOTS dots outside of quotes; 0 if there is none.

    A parser's work on a dotted key grows with the square of its parts (tomllib: 15 s for 40 kB),
    and no policy file needs one. What is no valid TOML is told apart as far as it is valid.
    """
    # Most files have no such line at all, quotes or not.
    if not any(line.count(".") > MOST_DOTS for line in text.split("\n")):
        return 0
    line, dots = 1, 0
    for token in _TOKEN.finditer(text):
        dots += token[0] == "."
        if dots > MOST_DOTS:
            return line
        if token.lastgroup == "end":
            dots = 0
        line += token[0].count("\n")
    return 0


def lines_of(text: str) -> Mapping[Path, int]:
    """The line, from 1, of everything that has a path in a valid TOML text."""
    reader, line = _Reader(), 1
    for token in _TOKEN.finditer(text.replace("\r\n", "\n") + "\n"):
        kind, word = token.lastgroup or "", token[0]
        if kind != "comment":
            reader.token(kind, word, line)
        line += word.count("\n")
    return reader.lines


def line_at(lines: Mapping[Path, int], path: Path) -> int:
    """The line of `path`, or of the nearest thing around it; 0 if there is none."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 0)
