"""What every TOML file of arbiter has in common: strict reading, and errors that lead to the place.

Pure. Whatever a file holds is shown only after `shown` or `shown_value`: it may be long, hold
control characters, or hold numbers that Python refuses to write.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from typing import Any

LONGEST_VALUE = 100
"""Lines of one value that `line_of` reads on for. It bounds the work on a hostile file."""


class FileError(Exception):
    """A file cannot be used, and no part of it is. `line` counts from 1; 0 is the whole file."""

    docs = ""
    """The page that describes the file, for whoever has to mend it."""

    def __init__(self, origin: str, line: int, key: str, text: str) -> None:
        place = f"{printable(origin)}:{line}" if line else printable(origin)
        super().__init__(f"{place}: {text}; see {self.docs}")
        self.origin = origin
        self.line = line
        self.key = key
        self.text = text


def parse(
    text: str, origin: str, error: type[FileError], limit: int, what: str = "settings"
) -> dict[str, Any]:
    """The tables of a TOML text. Raises `error` for other text, or more than `limit` characters."""
    if len(text) > limit:
        raise error(origin, 0, "", f"more than {limit} characters are no {what}")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as fault:
        # ValueError: not TOML, or a number of more digits than Python reads (int_max_str_digits).
        found = re.search(r"at line (\d+)", str(fault))
        line = int(found[1]) if found else 0
        raise error(origin, line, "", f"not TOML: {shown(str(fault))}") from fault


def line_of(text: str, *path: str) -> int:
    """The line, from 1, where a key of a valid TOML text is first set; 0 if it is not found.

    `path` leads from the top through tables to the key. The text is read statement by statement,
    as TOML, so that a string or a comment that looks like the key is not taken for it.
    """
    lines = text.split("\n")
    header, start = "", 0
    for end in range(1, len(lines) + 1):
        if end - start > LONGEST_VALUE:
            return 0
        statement = "\n".join(lines[start:end]) + "\n"
        try:
            data = tomllib.loads(header + statement)
        except tomllib.TOMLDecodeError:
            continue  # a value that goes on in the next line
        if _has(data, path):
            return start + 1
        if statement.lstrip().startswith("["):
            header = statement
        start = end
    return 0


def _has(data: object, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True


def nearest(word: str, words: Iterable[str]) -> str:
    """`did you mean 'x'?` with the most similar of `words`; "" if none is anything like it."""
    by_case = {good.casefold(): good for good in words}
    near = difflib.get_close_matches(word.casefold(), by_case, 1, 0.5)
    return f"did you mean {by_case[near[0]]!r}?" if near else ""


def unknown(key: str, keys: Iterable[str], what: str = "setting") -> str:
    """What is wrong with a key that is none of `keys`, with the nearest of them."""
    hint = nearest(key, keys) or f"no {what} is called anything like it"
    return f"unknown key {shown(key)!r}: {hint}"


def printable(text: str) -> str:
    """`text` with U+FFFD for every character that is not to be shown."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def shown(text: str) -> str:
    """At most 100 characters, printable."""
    text = printable(text)
    return text if len(text) <= 100 else text[:99] + "…"


def shown_value(value: object) -> str:
    """A value of a TOML file, at most 100 characters, printable."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return shown(repr(value))
    except ValueError:
        # Hexadecimal numbers may be longer than what Python writes in decimal (int_max_str_digits).
        return "(a number of thousands of digits)"
