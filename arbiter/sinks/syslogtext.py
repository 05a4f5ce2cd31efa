"""Records as syslog messages (RFC 5424). Pure. What an item holds is cleaned already."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from arbiter.sinks.items import Item

AUTHPRIV = 10
"""The facility: who connects where is nobody else's business (RFC 5424, table 1)."""
SD_ID = "arbiter@32473"
"""RFC 5424 section 7.2.2 wants a private enterprise number; 32473 is the one that is nobody's."""
_NOT_NAME = re.compile(r"[^!-~]")
_ESCAPED = re.compile(r'(["\\\]])')
_LEAVE_OUT = ("argv", "parents", "names", "note", "exe")
"""What goes first where a message would be too long, the least needed first."""


def message(item: Item, severity: int, host: str, pid: int, limit: int) -> bytes:
    """One item as a message of at most `limit` bytes: all keys as structured data, then the words.

    Where that would be longer, keys are left out, and named in the key `left_out`; words are cut.
    """
    head = f"<{AUTHPRIV * 8 + severity}>1 {_stamp(item.time)} {_name(host, 255)} arbiter {pid} "
    start = f"{head}{item.kind} ".encode("ascii")
    values = {key: value for key, value in item.values.items() if value not in (None, "", [])}
    words = b" \xef\xbb\xbf" + item.text.encode("utf-8", "backslashreplace")
    left_out: list[str] = []
    data = _structured(values, left_out)
    for key in (*_LEAVE_OUT, *reversed(tuple(values))):
        if len(start) + len(data) + len(words) <= limit:
            break
        if key != "id" and values.pop(key, None) is not None:
            left_out.append(key)
            data = _structured(values, left_out)
    return _cut(start + data + words, limit)


def _structured(values: dict[str, Any], left_out: list[str]) -> bytes:
    told = values | ({"left_out": left_out} if left_out else {})
    parts = [f' {key}="{_escaped(value)}"' for key, value in told.items()]
    return f"[{SD_ID}{''.join(parts)}]".encode("utf-8", "backslashreplace")


def _escaped(value: Any) -> str:
    """A parameter's value: `"`, `\\` and `]` get a backslash (RFC 5424 section 6.3.3)."""
    if isinstance(value, bool):
        value = int(value)
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)
    return _ESCAPED.sub(r"\\\1", text)


def _cut(data: bytes, limit: int) -> bytes:
    """At most so many bytes, and whole characters."""
    return data[:limit].decode("utf-8", "ignore").encode() if len(data) > limit else data


def _stamp(epoch: float) -> str:
    """RFC 3339 in UTC, with microseconds; `-` for what is no day of the calendar."""
    try:
        at = datetime.fromtimestamp(epoch, UTC)
    except (ValueError, OverflowError, OSError):
        return "-"
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if at.year >= 1000 else "-"


def _name(text: str, limit: int) -> str:
    return _NOT_NAME.sub("?", text)[:limit] or "-"
