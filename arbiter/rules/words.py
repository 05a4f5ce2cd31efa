"""The words of a rule line: splitting, quoting, time spans, and errors that point at a word.

    line    = word *(blank word) [blank comment]
    word    = KEY | KEY "=" value
    value   = bare | DQUOTE *(char | escape) DQUOTE
    escape  = \\" | \\\\ | \\n | \\r | \\t | \\xHH (below 80) | \\u{H...}
            | \\udcHH (a byte, 80 to ff)

A bare value holds printable characters except blanks and `" # \\`. What is written is always
printable ASCII or printable Unicode (`str.isprintable`), whatever the value holds: control and
bidi characters, and lone surrogates (undecodable bytes of a path, PEP 383), are escaped; these as
records spell them (`records.utf8`).
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

from arbiter.rules.rule import MAX_SPAN

_SHOWN = 60
"""Characters of a word that an error repeats."""
_SUGGESTED = 300
"""Characters of the longest suggestion; a longer one helps nobody to see the difference."""


class RuleError(ValueError):
    """A line that is no rule: `text` says why, `position` (0-based column) where.

    `word` is the offending text (printable, shortened), `suggestion` what was probably meant,
    or "".
    """

    def __init__(self, text: str, position: int, word: str = "", suggestion: str = "") -> None:
        self.text = text
        self.position = position
        self.word = shown(word)
        self.suggestion = suggestion if len(suggestion) <= _SUGGESTED else ""
        super().__init__(text, position)

    def __str__(self) -> str:
        hint = f"; did you mean {self.suggestion}?" if self.suggestion else ""
        return f"column {self.position + 1}: {self.text}{hint}"

    def pretty(self, line: str) -> str:
        """Two lines to print: the rule line with nothing hostile in it, and a caret below."""
        safe = "".join(c if c.isprintable() else "\ufffd" for c in line)
        return f"{safe}\n{' ' * self.position}^ {self}".replace("\t", " ")


class Word(NamedTuple):
    """`key=value`, or a key alone with value None. Positions are columns of the line."""

    key: str
    value: str | None
    position: int
    value_position: int


def check_blank(word: Word, line: str, last: Word | None) -> None:
    """Raises RuleError for what follows a blank in a path (of `last`) that nobody quoted."""
    if word.value is not None or "/" not in word.key or last is None:
        return
    value = line[last.value_position : word.position + len(word.key)]
    if last.key in ("app", "parent") and value.startswith("/"):
        text = "a value with a blank in it goes in quotes, and the whole rule in those of the shell"
        raise RuleError(text, word.position, word.key, f"{last.key}={quote(value)}")


_BLANK = re.compile(r"[ \t]*")
_KEY = re.compile(r"[^ \t=\"#\\]*")
_BARE = re.compile(r"[^ \t\"#\\]*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:([\"\\nrt])|x([0-7][0-9a-fA-F])|u\{([0-9a-fA-F]{1,6})\}"
    r"|u(dc[89a-fA-F][0-9a-fA-F]))"
)
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
_WRITTEN = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


def split(line: str) -> list[Word]:
    """The words of a line, without blanks and comment. Raises RuleError."""
    for column, char in enumerate(line if not line.isprintable() else ""):
        if not char.isprintable() and char != "\t":
            text = f"character U+{ord(char):04X} cannot be read by people"
            raise RuleError(f"{text}: write it as an escape in quotes", column, char, escaped(char))
    words: list[Word] = []
    at = _skip(line, 0)
    while at < len(line) and line[at] != "#":
        word, end = _word(line, at)
        words.append(word)
        at = _skip(line, end)
        if at < len(line) and at == end:
            char = line[at]
            text = f"{char!r} cannot stand here: put the whole value in quotes"
            raise RuleError(text, at, char, quote(_meant(line, word.value_position, at)))
    return words


def plain_words(line: str) -> list[str] | None:
    """The same words, each in one piece, where they need no second look; None where they do.

    Nothing is quoted, no comment, no blanks but single ones: nearly every line that a machine
    wrote, and ten times as fast.
    """
    if not line.isprintable() or '"' in line or "#" in line or "\\" in line:
        return None
    words = line.split(" ")
    return words if all(words) else None


def _skip(line: str, at: int) -> int:
    match = _BLANK.match(line, at)
    return match.end() if match else at


def _meant(line: str, start: int, at: int) -> str:
    """The value from `start` that stumbles over `at`: what somebody quoted in part, or not."""
    quoted = _QUOTED.match(line, at)
    if quoted is not None and _skip(line, quoted.end()) in (len(line), quoted.end() + 1):
        with contextlib.suppress(RuleError):
            return line[start:at] + _unescape(quoted[1], at + 1)
    return re.split(r"[ \t]", line[start:], maxsplit=1)[0]


def _word(line: str, at: int) -> tuple[Word, int]:
    match = _KEY.match(line, at)
    end = match.end() if match else at
    key = line[at:end]
    if not line.startswith("=", end):
        if not key:
            text = 'a word starts with a letter; only values are quoted, as in app="/a b"'
            raise RuleError(text, at, line[at])
        return Word(key, None, at, at), end
    start = end + 1
    if line.startswith('"', start):
        quoted = _QUOTED.match(line, start)
        if quoted is None:
            rest = line[start:].replace("\t", "\\t")
            raise RuleError("the quote is not closed", start, rest, rest + '"')
        return Word(key, _unescape(quoted[1], start + 1), at, start), quoted.end()
    bare = _BARE.match(line, start)
    stop = bare.end() if bare else start
    return Word(key, line[start:stop], at, start), stop


def _unescape(text: str, position: int) -> str:
    out: list[str] = []
    at = 0
    while (slash := text.find("\\", at)) >= 0:
        out.append(text[at:slash])
        match = _ESCAPE.match(text, slash)
        code = int(match[2] or match[3] or match[4] or "0", 16) if match else 0
        if match is None or code > 0x10FFFF:
            what = 'an escape is \\" \\\\ \\n \\r \\t \\x00 to \\x7f, \\u{0} to \\u{10ffff},'
            what += " or \\udc80 to \\udcff"
            raise RuleError(what, position + slash, text[slash : slash + 4], "\\\\")
        out.append(_LETTERS[match[1]] if match[1] else chr(code))
        at = match.end()
    out.append(text[at:])
    return "".join(out)


def quote(value: str) -> str:
    """`value` as it stands in a line: bare if it can, else quoted and escaped."""
    if value and value.isprintable() and not any(c in ' "#\\' for c in value):
        return value
    return f'"{escaped(value)}"'


def escaped(value: str) -> str:
    """`value` with everything escaped that is not printable; without the quotes."""
    return "".join(_WRITTEN.get(c) or (c if c.isprintable() else _coded(c)) for c in value)


def _coded(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\u{code:x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{{{code:x}}}"


def shown(word: str) -> str:
    """A word as an error repeats it: printable, and not too long."""
    word = escaped(word[: _SHOWN + 1])
    return word if len(word) <= _SHOWN else word[: _SHOWN - 1] + "…"


def nearest(word: str, valid: Iterable[str], synonyms: dict[str, str] | None = None) -> str:
    """The valid word that `word` was probably meant to be, or ""."""
    word = word[:_SHOWN].lower()
    if synonyms and word in synonyms:
        return synonyms[word]
    return next(iter(difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)), "")


# --- time spans -----------------------------------------------------------------------------

_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_SPAN = re.compile(r"(?:([0-9]+)w)?(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?\Z")


def read_span(text: str) -> int | None:
    """Seconds of `90s`, `15m`, `1h30m`, `2w`; None if it is no span of 1 to MAX_SPAN seconds.

    Units stand once each, the longer first.
    """
    match = _SPAN.match(text) if len(text) <= _SHOWN else None
    if match is None:
        return None
    parts = zip(match.groups(), _UNITS.values(), strict=True)
    seconds = sum(int(count) * unit for count, unit in parts if count)
    return seconds if 0 < seconds <= MAX_SPAN else None


def too_long(text: str) -> bool:
    """Whether it is a span but for being longer than MAX_SPAN."""
    match = _SPAN.match(text) if len(text) <= _SHOWN else None
    return match is not None and any(map(int, filter(None, match.groups()))) and not read_span(text)


def write_span(seconds: int) -> str:
    """The span in one unit, the longest that is exact: 60 is `1m`, 90 `90s`, 5400 `90m`."""
    for name, unit in _UNITS.items():
        if seconds % unit == 0:
            return f"{seconds // unit}{name}"
    raise AssertionError("every number of seconds divides by 1")
