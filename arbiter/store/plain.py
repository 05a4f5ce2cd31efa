"""Records and their sums as plain values, cleaned: programs and names chose some of them.

The keys are the columns of table `decisions`, so that SQL, JSON and CSV speak of the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import structs

from arbiter.protocol import clean
from arbiter.records import read_list
from arbiter.store.audit import Group
from arbiter.store.rows import RECORD_COLUMNS, Kept

KEYS = ("id", *RECORD_COLUMNS)
"""The keys of a record, in order."""
_LISTS = frozenset({"argv", "parents", "names", "sims", "networks"})
DESTINATION = ("daddr", "dport", "proto")
GROUPS = {
    "decision": ("decision",),
    "reason": ("reason",),
    "app": ("app",),
    "destination": DESTINATION,
    "rule": ("rule_id", "by_user"),
    "user": ("user",),
    "by_user": ("by_user",),
    "exe": ("exe",),
    "link": ("link",),
}
"""By what records are added up, with the columns of each."""


def as_object(kept: Kept) -> dict[str, Any]:
    """A record, with KEYS."""
    values: dict[str, Any] = {"id": kept.id}
    for column in RECORD_COLUMNS:
        value = getattr(kept.record, "by" if column == "by_user" else column)
        if column in _LISTS:
            values[column] = text_list(value)
        else:
            values[column] = clean(value) if isinstance(value, str) else value
    return values


def text_list(array: str) -> list[str] | None:
    """The texts of a JSON array; None where it is not as arbiter writes it."""
    try:
        return [clean(text) for text in read_list(array)]
    except (ValueError, RecursionError):
        return None


def group_object(group: Group, columns: Sequence[str]) -> dict[str, Any]:
    """A sum: the columns that its records have in common, and its figures. Where an address is
    one of them, `names` has those that it had been looked up by."""
    values = (clean(value) if isinstance(value, str) else value for value in group.values)
    sums = structs.asdict(group)
    del sums["values"], sums["names"]
    names = {"names": text_list(group.names)} if "daddr" in columns else {}
    return dict(zip(columns, values, strict=True)) | names | sums
