"""Reading decision records: what a client asks for, and what it is told. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class RecordFilters(Struct, frozen=True, forbid_unknown_fields=True):
    """The filters of `arbiter audit`, in its words; None is no filter."""

    since: str | None = None
    """A span before now, a local day, a time: `2h`, `today`, `2026-11-19T08:00`."""
    until: str | None = None
    app: str | None = None
    user: str | None = None
    host: str | None = None
    port: str | None = None
    proto: str | None = None
    link: str | None = None
    decision: str | None = None
    rule: str | None = None
    by: str | None = None
    reason: str | None = None


NO_FILTERS = RecordFilters()


class ReadRecords(
    Struct, frozen=True, tag="read_records", tag_field="type", forbid_unknown_fields=True
):
    """Decision records of processes that the client may answer for. The daemon replies `records`,
    or `refused`."""

    request: int
    """Chosen by the client; the reply has it, too."""
    filters: RecordFilters = NO_FILTERS
    limit: int = 100
    before: int | None = None
    """Only those before the record with this id, in the order of time."""
    after: int | None = None
    """Only those that were written after it, the oldest first."""


class SumRecords(
    Struct, frozen=True, tag="sum_records", tag_field="type", forbid_unknown_fields=True
):
    """The same records, added up. The daemon replies `sums`, or `refused`."""

    request: int
    by: tuple[str, ...]
    """decision, reason, app, destination, rule, user, by_user, exe, link: a list for each."""
    filters: RecordFilters = NO_FILTERS
    limit: int = 10
    """Lines of each list: those with the most records."""


class Records(Struct, frozen=True, tag="records", tag_field="type"):
    """The reply to `read_records`: the newest first, but after `after`."""

    request: int
    records: tuple[dict[str, Any], ...]
    """With the keys of `arbiter audit --nl`."""
    more: bool
    """There are others: they did not fit, or were more than the limit."""
    last: int
    """The id of the record that was written last, of whomever it is: `after` which to look next."""


class Sums(Struct, frozen=True, tag="sums", tag_field="type"):
    """The reply to `sum_records`: the lists by their names."""

    request: int
    sums: dict[str, tuple[dict[str, Any], ...]]
    """With the keys of `arbiter audit summary --json`; those by link have their `cost`, too."""
