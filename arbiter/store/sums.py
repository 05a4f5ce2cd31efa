"""Records added up, from the sums that triggers keep: for all time, or of a span of time.

All time is in `totals`. Of a span the whole days (UTC) are in `daily`; what is left at its ends is
added up from the records, or where those were pruned (schema.sql) taken as whole days.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from arbiter.store.filters import OUTCOME, Resolved, Wanted, conditions, inside, resolved
from arbiter.store.pruned import pruned_before

DAY = 86400
_MEASURES = "connections, first, last, sent, received"
_ADDED = (
    "sum(connections) AS connections, min(first) AS first, max(last) AS last,"
    " CAST(total(sent) AS INTEGER) AS sent, CAST(total(received) AS INTEGER) AS received"
)
_CHOSEN = """
CREATE TEMP TABLE chosen (
    outcome INTEGER NOT NULL, destination INTEGER NOT NULL, connections INTEGER NOT NULL,
    first REAL NOT NULL, last REAL NOT NULL, sent INTEGER NOT NULL, received INTEGER NOT NULL,
    PRIMARY KEY (outcome, destination)
) STRICT, WITHOUT ROWID
"""
_MOST = 9223372036854775807
"""SQLite's largest number; a sum that would be more stays there."""
_MORE = (
    "ON CONFLICT DO UPDATE SET connections = connections + excluded.connections,"
    " first = min(first, excluded.first), last = max(last, excluded.last),"
    f" sent = min(sent, {_MOST} - excluded.sent) + excluded.sent,"
    f" received = min(received, {_MOST} - excluded.received) + excluded.received"
)
_ONE = (  # a record as a row of sums
    "outcomes.id AS outcome, destinations.id AS destination, 1 AS connections, time AS first,"
    " time AS last, ifnull(max(out_bytes, 0), 0) AS sent, ifnull(max(in_bytes, 0), 0) AS received"
)
SAME_OUTCOME = " AND ".join(
    f"outcomes.{name} {'IS' if name in ('uid', 'rule_id', 'layer') else '='} decisions.{name}"
    for name in OUTCOME
)
SAME_DESTINATION = " AND ".join(
    f"destinations.{name} = decisions.{name}" for name in ("daddr", "dport", "proto", "names")
)


class Group(Struct, frozen=True):
    """Records with the same values of some columns. Times are epoch seconds."""

    values: tuple[Any, ...]
    connections: int
    denied: int
    sent: int
    """Bytes, where they were counted."""
    received: int
    first: float
    last: float
    names: str = "[]"
    """Names of an address that is one of `values`, as a record has them."""


def grouped(
    db: sqlite3.Connection, wanted: Wanted, by: Mapping[str, tuple[str, ...]], limit: int
) -> dict[str, list[Group]]:
    """Records added up in several ways, each by its columns: those with the most records.

    Reads the sums of all pairs of outcome and destination that the filters let through, of each day
    in the span, and the records at its ends: two days of them at most.
    """
    filters = resolved(db, wanted)
    chosen = "temp.chosen"
    try:
        if wanted.since is None and wanted.until is None and not filters:
            chosen = "totals"
        else:
            db.execute(_CHOSEN)
            for source, values in _sources(db, wanted, filters):
                db.execute(f"INSERT INTO temp.chosen {source}", values)  # ours
        db.execute(
            f"CREATE TEMP TABLE few AS SELECT outcome, {_ADDED} FROM {chosen} GROUP BY outcome"
        )
        return {
            name: _groups(db, "temp.few" if _outcome_only(columns) else chosen, columns, limit)
            for name, columns in by.items()
        }
    finally:
        for table in ("few", "chosen"):
            db.execute(f"DROP TABLE IF EXISTS temp.{table}")


def new(db: sqlite3.Connection, since: float, columns: tuple[str, ...], limit: int) -> list[Group]:
    """The same by some columns, of what was not there before this epoch second."""
    same = " AND ".join(
        f"{_table(column)}.{column} IS before_{_table(column)}.{column}" for column in columns
    )
    older = (
        "SELECT 1 FROM totals AS old CROSS JOIN outcomes AS before_outcomes"
        f" ON before_outcomes.id = old.outcome WHERE {same} AND old.first < :since"
    )
    if not _outcome_only(columns):  # by the address first: fewest are alike
        older = (
            "SELECT 1 FROM destinations AS before_destinations CROSS JOIN totals AS old"
            " ON old.destination = before_destinations.id CROSS JOIN outcomes AS before_outcomes"
            f" ON before_outcomes.id = old.outcome WHERE {same} AND old.first < :since"
        )
    return _groups(db, "totals", columns, limit, f"first >= :since AND NOT EXISTS ({older})", since)


def _sources(
    db: sqlite3.Connection, wanted: Wanted, filters: Resolved
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What adds up to what is wanted, as SQL that gives rows of sums, and its values: the whole
    days, with each pair of outcome and destination once, and the records at the ends."""
    pairs, values = inside(filters)
    if wanted.since is None and wanted.until is None:
        yield f"SELECT outcome, destination, {_MEASURES} FROM totals WHERE true{pairs}", values
        return
    kept = pruned_before(db, "decisions")
    since = wanted.since if wanted.since is not None else -math.inf
    until = wanted.until if wanted.until is not None else math.inf
    from_day = _whole(since, up=since >= kept)
    to_day = _whole(until, up=until < kept)
    if from_day < to_day:
        # Of each pair that was there only the days in the span are read, in the order of `chosen`.
        yield (
            f"SELECT daily.outcome, daily.destination, {_ADDED} FROM (SELECT outcome AS o,"
            " destination AS d FROM totals WHERE last >= :from_day AND first < :to_day"
            f"{pairs}) CROSS JOIN daily ON daily.outcome = o AND daily.destination = d"
            " WHERE day >= :from_day AND day < :to_day GROUP BY o, d",
            values | {"from_day": from_day, "to_day": to_day},
        )
        ends = [(since, from_day), (to_day, until)]
    else:
        ends = [(since, until)]
    where, values = conditions(Wanted(), filters)
    for begin, end in ends:
        if begin < end:
            yield (
                f"SELECT {_ONE} FROM decisions INDEXED BY decisions_time"
                f" CROSS JOIN outcomes ON {SAME_OUTCOME} CROSS JOIN destinations"
                f" ON {SAME_DESTINATION} WHERE time >= :begin AND time < :end{where} {_MORE}",
                values | {"begin": begin, "end": end},
            )


def _whole(time: float, *, up: bool) -> float:
    """The beginning of the day that this moment is in, or else of the next."""
    if math.isinf(time):
        return time
    return (math.ceil if up else math.floor)(time / DAY) * float(DAY)


def _outcome_only(columns: tuple[str, ...]) -> bool:
    return all(column in OUTCOME for column in columns)


def _table(column: str) -> str:
    return "outcomes" if column in OUTCOME else "destinations"


def _groups(
    db: sqlite3.Connection,
    source: str,
    columns: tuple[str, ...],
    limit: int,
    where: str = "true",
    since: float | None = None,
) -> list[Group]:
    """First by outcome or destination alone, where no column needs both: there are fewer rows."""
    names = ", ".join(columns)
    denied = "sum(connections) FILTER (WHERE outcome IN (SELECT id FROM denies)) AS denied"
    keys = "outcome"
    if not _outcome_only(columns):
        keys = "destination"
        if any(column in OUTCOME for column in columns):
            keys = "outcome, destination"
    tables = dict.fromkeys(f"{key}s" for key in keys.split(", "))
    joins = "".join(f" CROSS JOIN {table} ON {table}.id = {table[:-1]}" for table in tables)
    few = f"SELECT {keys}, {_ADDED}, {denied} FROM {source} GROUP BY {keys}"
    if since is not None:  # its condition is about rows with names
        few = (
            f"SELECT {keys}, {_ADDED}, {denied} FROM {source} CROSS JOIN outcomes"
            " ON outcomes.id = outcome CROSS JOIN destinations ON destinations.id = destination"
            f" WHERE {where} GROUP BY {keys}"
        )
    # The least array is one with a name, if there is any: '["' comes before '[]'.
    known = "min(names)" if "daddr" in columns else "'[]'"
    sql = (
        "WITH denies AS MATERIALIZED (SELECT id FROM outcomes WHERE decision = 'deny'),"
        f" few AS MATERIALIZED ({few})"
        " SELECT sum(connections), ifnull(sum(denied), 0), CAST(total(sent) AS INTEGER),"
        f" CAST(total(received) AS INTEGER), min(few.first), max(few.last), {known}, {names}"
        f" FROM few{joins} GROUP BY {names} ORDER BY 1 DESC, {names} LIMIT {limit}"
    )
    return [Group(tuple(row[7:]), *row[:7]) for row in db.execute(sql, {"since": since})]
