"""By what records are added up, and their sums as plain values, cleaned: programs and names chose
some of them. The keys are the columns of table `decisions`, as those of records are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import structs

from arbiter.protocol import clean
from arbiter.recordwords import texts
from arbiter.store.sums import Group

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
"""Each way to add up, with its columns."""


def group_object(group: Group, columns: Sequence[str]) -> dict[str, Any]:
    """A sum: the columns that its records have in common, and its figures. Where an address is
    one of them, `names` has those that it had been looked up by."""
    values = (clean(value) if isinstance(value, str) else value for value in group.values)
    sums = structs.asdict(group)
    del sums["values"], sums["names"]
    names = {"names": texts(group.names)} if "daddr" in columns else {}
    return dict(zip(columns, values, strict=True)) | names | sums
