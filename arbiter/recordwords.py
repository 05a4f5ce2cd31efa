"""A decision record as programs and people get it, wherever it is told. Pure.

Objects have the columns of table `decisions` as keys, so that SQL, JSON and the journal speak of
the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from arbiter.budgets import size_text
from arbiter.events import Reason
from arbiter.protocol import MAX_TEXT, clean
from arbiter.records import Record, spelt_list, utf8

_FIELDS = {("by_user" if name == "by" else name): name for name in Record.__struct_fields__}
KEYS = ("id", *_FIELDS)
"""The keys of an object, in order."""
_LISTS = frozenset({"argv", "parents", "names", "sims", "networks"})
THEN: dict[str, str] = {
    Reason.ANSWER: "a person answered",
    Reason.DEADLINE: "nobody answered in time",
    Reason.UNATTENDED: "no prompt was there to ask",
    Reason.ENFORCE: "no rule decided it, and the mode was enforce",
    Reason.OBSERVE: "no rule decided it, and the mode was observe",
    Reason.OVERFLOW: "too much waited already",
    Reason.UNDECODABLE: "its packet could not be read",
    Reason.OLDER: "it was older than arbiter, or left over",
    Reason.EXITED: "its program had exited",
    Reason.SNOOZE: "somebody had decided for all that was new for a while",
    Reason.STOPPING: "arbiter stopped",
    Reason.UNRECORDED: "its record could not be written first",
}
"""Why a connection was decided that no rule decided."""


def as_object(id: int, record: Record) -> dict[str, Any]:
    """A record as plain values, cleaned: what programs and names chose is fit to be shown."""
    values: dict[str, Any] = {"id": id}
    for key, field in _FIELDS.items():
        value = getattr(record, field)
        if key in _LISTS:
            values[key] = texts(value)
        else:
            values[key] = clean(value) if isinstance(value, str) else value
    return values


def said(text: str, limit: int = MAX_TEXT) -> str:
    """What a process chose, as it is: spelt as in records, and fit to be shown."""
    return clean(utf8(text[: limit + 1]), limit)


def texts(array: str) -> list[str] | None:
    """The texts of a JSON array, cleaned; None where it is not as arbiter writes it."""
    try:
        return [clean(text) for text in spelt_list(array)]
    except (ValueError, RecursionError):
        return None


def sentence(id: int, record: Record) -> str:
    """A record in a line for people: `7: /usr/bin/curl → 192.0.2.7 port 443 tcp: allow, rule 3`."""
    return clean(f"{id}: {app(record)} → {to(record)}: {decided(record)}, {why(record)}")


def app(record: Record) -> str:
    """Whose connection it was, or why that is nobody's."""
    return record.app or f"({record.no_owner or 'nobody'})"


def decided(record: Record) -> str:
    """The decision, and the link that it led over."""
    return record.decision + (f" over {record.link}" if record.link else "")


def became(record: Record) -> str:
    """What became of a connection: `closed, 1.2 MB sent, 3 kB received`."""
    out, back = record.out_bytes, record.in_bytes
    sums = "" if out is None else f", {size_text(out)} sent, {size_text(back or 0)} received"
    ends = "it is gone, and nobody saw when" if record.state == "unknown" else record.state
    return f"{ends}{sums}"


def to(record: Record) -> str:
    """Where a connection went: `deb.debian.org (192.0.2.7) port 443 tcp`."""
    if not record.proto:
        return "a packet that cannot be read"
    names = texts(record.names)
    place = f"{names[0]} ({record.daddr})" if names else record.daddr
    port = f" port {record.dport}" if record.dport else ""
    return f"{place}{port} {record.proto}"


def why(record: Record) -> str:
    """Who or what decided it, and how long that took where it took long."""
    return "; ".join(_reasons(record))


def _reasons(record: Record) -> Iterator[str]:
    by = record.by
    if record.reason == Reason.RULE and record.rule_id is not None and record.rule_id > 0:
        yield f"rule {record.rule_id}" + (f" by {by}" if by else "")
    elif record.reason == Reason.RULE:
        yield f"rule at {by.removeprefix('file:')}"
    elif record.reason == Reason.ANSWER and by:
        yield f"answered by {by}" + (f" ({record.frontend})" if record.frontend else "")
    else:
        yield THEN.get(record.reason, record.reason)
    if record.waited >= 1:
        yield f"it waited {record.waited:.0f} s"
    if record.count > 1:
        yield f"for {record.count} packets"
    if record.note:
        yield record.note
