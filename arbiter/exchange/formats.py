"""Which format a file has, and the way to its reader."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence

from msgspec import Struct

from arbiter.exchange import own
from arbiter.exchange.items import MAX_FILE, Batch, joined, refused
from arbiter.exchange.jsontext import load_json
from arbiter.exchange.littlesnitch import is_plist, is_policy, load_plist, read_policy
from arbiter.exchange.opensnitch import read_opensnitch
from arbiter.exchange.snitchfile import is_snitch


class Format(enum.StrEnum):
    """What can be imported."""

    LINES = "lines"
    TOML = "toml"
    JSON = "json"
    OPENSNITCH = "opensnitch"
    LITTLESNITCH = "littlesnitch"


FORMATS = tuple(one.value for one in Format)


class Source(Struct, frozen=True):
    """A file that was read: `origin` is its path, for messages."""

    origin: str
    data: bytes


_JSON = re.compile(r"\{|\[\s*(?:[{\"\]]|\Z)")
"""How JSON of ours starts; a table of TOML starts with a letter after its brackets."""


def detect(source: Source) -> Format:
    """The format of a file: by its name where that ends in .toml or .json, else by its start.

    A JSON object is OpenSnitch's or Little Snitch's: `read` sees which.
    """
    if source.origin.endswith(".toml"):
        return Format.TOML
    if is_plist(source.data):
        return Format.LITTLESNITCH
    head = source.data[:65_536].decode("utf-8-sig", "replace").lstrip()
    if source.origin.endswith(".json") or _JSON.match(head):
        return Format.OPENSNITCH if head.startswith("{") else Format.JSON
    return Format.TOML if own.looks_like_toml(head) else Format.LINES


def read(sources: Sequence[Source], format: Format | None = None, app: str = "") -> Batch:
    """Everything that the files say; `format` None finds each one's by itself. Total.

    `app` is the program that an Internet Access Policy is about.
    """
    batches: list[Batch] = []
    snitch: list[tuple[str, object]] = []
    for source in sources:
        origin, kind = source.origin, format or detect(source)
        try:
            if kind in _READERS:
                batches.append(_READERS[kind](_text(source), origin))
                continue
            value = _value(source)
        except ValueError as error:  # no text, no JSON, no property list
            batches.append(refused(origin, str(error)))
            continue
        if kind is Format.LITTLESNITCH or (format is None and is_policy(value)):
            batches.append(read_policy(value, origin, app))
        elif format is None and not is_snitch(value):
            batches.append(refused(origin, f"{_UNKNOWN}; is it one of {', '.join(FORMATS)}?"))
        else:
            snitch.append((origin, value))
    if snitch:
        # All at once: their order goes over all files.
        batches.append(read_opensnitch(snitch))
    return joined(batches)


_UNKNOWN = "a JSON object that is no rule of OpenSnitch and no Internet Access Policy"


def _value(source: Source) -> object:
    return load_plist(source.data) if is_plist(source.data) else load_json(_text(source))


def _text(source: Source) -> str:
    if len(source.data) > MAX_FILE:
        raise ValueError(f"more than {MAX_FILE} bytes are no file of rules")
    try:
        return source.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: it is not UTF-8 text") from None


_READERS: dict[Format, Callable[[str, str], Batch]] = {
    Format.LINES: own.read_lines,
    Format.TOML: own.read_toml,
    Format.JSON: own.read_json,
}
