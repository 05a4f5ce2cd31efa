"""Which format a file has, and the way to its reader."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence

from msgspec import Struct

from arbiter.exchange import own
from arbiter.exchange.items import MAX_FILE, Batch, joined, refused
from arbiter.exchange.jsontext import load_json
from arbiter.exchange.opensnitch import read_opensnitch


class Format(enum.StrEnum):
    """What can be imported."""

    LINES = "lines"
    TOML = "toml"
    JSON = "json"
    OPENSNITCH = "opensnitch"


FORMATS = tuple(one.value for one in Format)


class Source(Struct, frozen=True):
    """A file that was read: `origin` is its path, for messages."""

    origin: str
    data: bytes


_JSON = re.compile(r"\{|\[\s*(?:[{\"\]]|\Z)")
"""How JSON of ours starts; a table of TOML starts with a letter after its brackets."""


def detect(source: Source) -> Format:
    """The format of a file: by its name where that ends in .toml or .json, else by its start.

    What a JSON object is about is seen when it is read; OpenSnitch's are one of them.
    """
    if source.origin.endswith(".toml"):
        return Format.TOML
    head = source.data[:65_536].decode("utf-8-sig", "replace").lstrip()
    if source.origin.endswith(".json") or _JSON.match(head):
        return Format.OPENSNITCH if head.startswith("{") else Format.JSON
    return Format.TOML if own.looks_like_toml(head) else Format.LINES


def read(sources: Sequence[Source], format: Format | None = None) -> Batch:
    """Everything that the files say; `format` None finds each one's by itself. Total."""
    batches: list[Batch] = []
    snitch: list[tuple[str, object]] = []
    for source in sources:
        origin, kind = source.origin, format or detect(source)
        try:
            text = _text(source)
            if kind is Format.OPENSNITCH:
                snitch.append((origin, load_json(text)))
            else:
                batches.append(_READERS[kind](text, origin))
        except ValueError as error:  # no text, or no JSON
            batches.append(refused(origin, str(error)))
    if snitch:
        # All at once: their order goes over all files.
        batches.append(read_opensnitch(snitch))
    return joined(batches)


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
