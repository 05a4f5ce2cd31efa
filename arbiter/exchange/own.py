"""Arbiter's own three formats: lines, TOML, JSON. Reading is total: what is wrong is a remark."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from arbiter.exchange.items import MAX_RULES, Batch, Item, Remark, cannot, clipped, refused
from arbiter.exchange.jsontext import JsonError, load_json
from arbiter.exchange.words import EXPIRES, LINE, WordsError, read_item, to_words
from arbiter.rules import Entry, RuleError, format_rule, parse
from arbiter.rules.words import quote
from arbiter.tomlfile import FileError, unknown
from arbiter.tomlfile import parse as parse_toml

MAX_LINE = 65_536
"""Characters of one line."""
FORMAT = 1
"""Of the TOML form; another number is of a later version."""

# --- reading --------------------------------------------------------------------------------


def read_lines(text: str, origin: str) -> Batch:
    """One rule a line; empty lines and lines that start with `#` are nothing."""
    items: list[Item] = []
    remarks: list[Remark] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip(" \t") or line.lstrip(" \t").startswith("#"):
            continue
        place = f"{origin}:{number}"
        if len(items) + len(remarks) == MAX_RULES:
            remarks.append(cannot(place, f"more than {MAX_RULES} rules: split the file"))
            break
        if len(line) > MAX_LINE:
            remarks.append(cannot(place, f"a line has at most {MAX_LINE} characters"))
            continue
        try:
            items.append(Item(parse(line), place))
        except RuleError as error:
            remarks.append(cannot(place, clipped(str(error))))
    return Batch(tuple(items), tuple(remarks))


class TomlRulesError(FileError):
    """A TOML file of rules is not TOML."""

    docs = "docs/import.md"


def read_toml(text: str, origin: str) -> Batch:
    """`[[rule]]` tables with the keys of a line, and `rules = [LINE, …]`."""
    try:
        data = parse_toml(text, origin, TomlRulesError, len(text), "rules")
    except TomlRulesError as error:
        return refused(f"{origin}:{error.line}" if error.line else origin, error.text)
    for key in data:
        if key not in ("format", "rule", "rules"):
            text = unknown(key, ("format", "rule", "rules"), "key of a file of rules")
            return refused(origin, text)
    version = data.get("format", FORMAT)
    if version != FORMAT or isinstance(version, bool):
        return refused(f"{origin}: format", f"this version of arbiter reads format = {FORMAT}")
    for key in ("rule", "rules"):
        if not isinstance(data.get(key, []), list):
            return refused(f"{origin}: {key}", f"write [[{key}]], or {key} = [...]")
    lines, tables = data.get("rules", []), data.get("rule", [])
    return _tables([*lines, *tables], origin)


def read_json(text: str, origin: str) -> Batch:
    """An array of objects, as `rules list --json` and `rules export` write it, or of lines."""
    try:
        return read_array(load_json(text), origin)
    except JsonError as error:
        return refused(origin, str(error))


def read_array(data: object, origin: str) -> Batch:
    """The same, of values that were read."""
    if not isinstance(data, list):
        return refused(origin, "rules in JSON are an array of objects")
    return _tables(data, origin)


def _tables(values: Sequence[object], origin: str) -> Batch:
    items: list[Item] = []
    remarks: list[Remark] = []
    if len(values) > MAX_RULES:
        return refused(origin, f"more than {MAX_RULES} rules: split the file")
    for number, value in enumerate(values, 1):
        place = f"{origin}: rule {number}"
        table: Mapping[str, Any] = {LINE: value} if isinstance(value, str) else {}
        if isinstance(value, dict):
            table = value
        elif not table:
            remarks.append(cannot(place, "a rule is a table of words, or one line"))
            continue
        try:
            items.append(read_item(table, place))
        except WordsError as error:
            remarks.append(cannot(f"{place}, {clipped(error.key)}", clipped(str(error))))
    return Batch(tuple(items), tuple(remarks))


# --- writing --------------------------------------------------------------------------------

_HEADER = "# Rules of arbiter; `arbiter rules import` reads them back."
_BOUND, _ONLY = "Those bound to ", " only."


def about(places: Iterable[tuple[str, str]]) -> str:
    """What the header of a file says of the places, key and value, that its rules are bound to;
    "" where they are of all places."""
    words = " and ".join(f"{key}={quote(value)}" for key, value in places)
    return f"{_BOUND}{words}{_ONLY}" if words else ""


def other_place(text: str, place: tuple[str, str]) -> str:
    """What the header of a file says, where that is not `place` alone; "" where it is, or where
    there is no such header."""
    for line in text.split("\n"):
        line = line.rstrip("\r")
        if not line.startswith("#"):
            break
        said = line.removeprefix("# ")
        if said.startswith(_BOUND) and said != clipped(about([place])):
            return clipped(said.removeprefix(_BOUND).removesuffix(_ONLY))
    return ""


def write_lines(entries: Iterable[Entry], about: str) -> str:
    """One line a rule below a header. For rules that do not expire: a line cannot say when."""
    return "\n".join([_HEADER, *_comment(about), *(format_rule(e.rule) for e in entries), ""])


def write_toml(entries: Iterable[Entry], about: str) -> str:
    """A `[[rule]]` table for each rule."""
    parts = ["\n".join([_HEADER, *_comment(about), f"format = {FORMAT}", ""])]
    for entry in entries:
        pairs = [f"{key} = {value}" for key, value in _toml_words(entry)]
        parts.append("\n".join(["[[rule]]", *pairs, ""]))
    return "\n".join(parts)


def write_json(entries: Iterable[Entry], about: str) -> str:
    """An array of objects. JSON has no comments: `about` is not in it."""
    objects = [
        {
            LINE: format_rule(entry.rule),
            "by": entry.by,
            "frontend": entry.frontend,
            "created": entry.created,
            EXPIRES: entry.expires,
        }
        for entry in entries
    ]
    return json.dumps(objects, indent=2) + "\n"


WRITERS: dict[str, Callable[[Iterable[Entry], str], str]] = {
    "lines": write_lines,
    "toml": write_toml,
    "json": write_json,
}


def _comment(about: str) -> list[str]:
    return [f"# {clipped(about)}"] if about else []


def _toml_words(entry: Entry) -> Iterable[tuple[str, str]]:
    words = to_words(entry.rule)
    if any(_unwritable(value) for value in words.values()):
        words = {LINE: format_rule(entry.rule)}  # where such characters are escaped
    for key, value in words.items():
        yield key, _toml_value(key, value)
    if entry.expires is not None:
        yield EXPIRES, _toml_time(entry.expires)


def _unwritable(text: str) -> bool:
    """TOML holds Unicode scalar values only: no surrogates, which stand for undecodable bytes."""
    return any(0xD800 <= ord(char) <= 0xDFFF for char in text)


def _toml_value(key: str, value: str) -> str:
    if key == "port" and value.isdigit():
        return value
    if key in ("roaming", "metered"):
        return "true" if value == "yes" else "false"
    return toml_string(value)


def toml_string(text: str) -> str:
    """A basic string of TOML 1.0; text must hold no surrogates."""
    out = []
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif char.isprintable():
            out.append(char)
        else:
            out.append(f"\\U{ord(char):08X}")
    return f'"{"".join(out)}"'


def _toml_time(epoch: float) -> str:
    """As exactly as a float of these days is: whole microseconds; a number where no year fits."""
    try:
        moment = datetime.fromtimestamp(epoch, UTC)
    except (ValueError, OverflowError, OSError):
        return repr(epoch)
    return moment.isoformat() if moment.timestamp() == epoch else repr(epoch)


def looks_like_toml(text: str) -> bool:
    """Whether a text without a name is TOML rather than lines: by its first statement."""
    for line in text.split("\n"):
        line = line.strip()
        if line and not line.startswith("#"):
            return line.startswith("[") or bool(line.partition(" ")[2].lstrip().startswith("="))
    return False
