"""Decision records, grouped into what the rules would be asked again: the source of a review."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from arbiter.events import UNDECIDED
from arbiter.judge import SEVERAL_USERS
from arbiter.questions import of_record
from arbiter.records import Record
from arbiter.rules.rule import Query
from arbiter.rules.seen import Sighting

_FIELDS = (
    *("app", "uid", "user", "parents", "hook", "proto", "daddr", "dport", "names", "sims"),
    *("networks", "metered", "roaming", "profile"),
)
_SAME = f"{', '.join(_FIELDS)}, instr(note, :several) > 0"
"""All that a rule may be held against: what agrees in it is decided alike."""
_SUMS = "count(*), count(*) FILTER (WHERE decision = 'deny'), min(time), max(time)"
_REASONS = ", ".join(f"'{reason.value}'" for reason in UNDECIDED)
_SELECT = f"SELECT {_SUMS}, {_SAME} FROM decisions"
_WHERE = f"WHERE reason IN ({_REASONS})"


class Unreadable(Struct, frozen=True):
    """So many connections have records that are not as arbiter writes them."""

    count: int


def sightings(
    db: sqlite3.Connection, since: float, app: str | None
) -> Iterator[Sighting | Unreadable]:
    """Groups of records from epoch second `since` on, of one app or of all. Raises sqlite3.Error.

    Indices serve `since` and `app`. Without them the table is read from end to end, as most of it
    is wanted: by the index that SQLite would choose it takes half as long again.
    """
    where, values = _WHERE, {"since": since, "app": app, "several": SEVERAL_USERS}
    if since > 0:
        where += " AND time >= :since"
    if app is not None:
        where += " AND app = :app"
    indexed = "" if where != _WHERE else "NOT INDEXED "
    for row in db.execute(f"{_SELECT} {indexed}{where} GROUP BY {_SAME}", values):
        count, refused, first, last, *same, several = row
        try:
            query = _query(dict(zip(_FIELDS, same, strict=True)), bool(several))
        except (ValueError, RecursionError):
            yield Unreadable(count)
        else:
            yield Sighting(query, count, refused, first, last)


def _query(fields: dict[str, Any], several: bool) -> Query:
    """What the rules were asked. Raises ValueError, or for lists that are too deep RecursionError:
    a database may come from anywhere."""
    for name in ("metered", "roaming"):
        fields[name] = None if fields[name] is None else bool(fields[name])
    record = Record(
        0.0,
        "",
        "",
        saddr="::" if ":" in fields["daddr"] else "0.0.0.0",  # noqa: S104  # of the same family
        note=SEVERAL_USERS if several else "",
        **fields,
    )
    (query,) = of_record(record).queries
    return query
