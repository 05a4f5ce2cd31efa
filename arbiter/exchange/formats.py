"""Which format a file has, and the way to its reader."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence

from msgspec import Struct

from arbiter.exchange import own
from arbiter.exchange.items import MAX_FILE, Batch, joined, refused


class Format(enum.StrEnum):
    """What can be imported."""

    LINES = "lines"
    TOML = "toml"
    JSON = "json"


FORMATS = tuple(one.value for one in Format)


class Source(Struct, frozen=True):
    """A file that was read: `origin` is its path, for messages."""

    origin: str
    data: bytes


_JSON = re.compile(r"\{|\[\s*(?:[{\"\]]|\Z)")
"""How JSON of ours starts; a table of TOML starts with a letter after its brackets."""


def detect(source: Source) -> Format:
    """The format of a file: by its name where that ends in .toml or .json, else by its start."""
    if source.origin.endswith(".toml"):
        return Format.TOML
    head = source.data[:65_536].decode("utf-8-sig", "replace").lstrip()
    if source.origin.endswith(".json") or _JSON.match(head):
        return Format.JSON
    return Format.TOML if own.looks_like_toml(head) else Format.LINES


def read(sources: Sequence[Source], format: Format | None = None) -> Batch:
    """Everything that the files say; `format` None finds each one's by itself. Total."""
    return joined([_read(source, format or detect(source)) for source in sources])


def _read(source: Source, format: Format) -> Batch:
    if len(source.data) > MAX_FILE:
        return refused(source.origin, f"more than {MAX_FILE} bytes are no file of rules")
    try:
        text = source.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.data.count(b"\n", 0, error.start) + 1
        return refused(f"{source.origin}:{line}", "it is not UTF-8 text")
    readers = {
        Format.LINES: own.read_lines,
        Format.TOML: own.read_toml,
        Format.JSON: own.read_json,
    }
    return readers[format](text, source.origin)
