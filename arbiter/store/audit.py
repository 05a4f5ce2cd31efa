"""The records that filters let through, in the order of time, without reading those between.

Each filter has an index of (column, time). The rarest leads: its values are read side by side, each
in the order of time, and the other filters look at what comes. A filter by a pattern is first made
one by values: those that there are, found by jumps through its index. Nothing reads the whole table
but filters that let common values through which never meet: all of the rarest is read then.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from msgspec import Struct

from arbiter.records import utf8
from arbiter.store import rows
from arbiter.store.rows import Kept

Value = str | int
INDEXES = {
    "app": "decisions_app",
    "user": "decisions_user",
    "daddr": "decisions_daddr",
    "names": "decisions_names",
    "dport": "decisions_dport",
    "proto": "decisions_proto",
    "link": "decisions_link",
    "decision": "decisions_decision",
    "reason": "decisions_reason",
    "by_user": "decisions_by",
    "rule_id": "decisions_rule",
}
"""The columns that a filter may be about, each with its index."""
MERGED = 200
"""Values that are read side by side, at most."""
COUNTED = 50_000
"""Rows up to which it is counted how many a filter lets through."""
_COLUMNS = f"id, {', '.join(rows.RECORD_COLUMNS)}"
_IN = "IN (SELECT value FROM json_each({}))"


class Filter(Struct, frozen=True):
    """What a column may hold: one of `values`, or where that is None what passes `test`."""

    column: str
    values: tuple[Value, ...] | None = None
    test: Callable[[Any], bool] | None = None


class Wanted(Struct, frozen=True):
    """Records of [since, until) in epoch seconds that pass all filters."""

    since: float | None = None
    until: float | None = None
    filters: tuple[Filter, ...] = ()
    uid: int | None = None
    """Of processes of this user only; None: of all."""
    before: tuple[float, int] | None = None
    """Only what stands before the record of this time and id, in the order of time."""


def newest(db: sqlite3.Connection, wanted: Wanted) -> Iterator[Kept]:
    """The newest first; read only as far as they are taken. Raises sqlite3.Error."""
    return _records(db, wanted, newest_first=True)


def oldest(db: sqlite3.Connection, wanted: Wanted) -> Iterator[Kept]:
    """The same, the oldest first."""
    return _records(db, wanted, newest_first=False)


def after(db: sqlite3.Connection, wanted: Wanted, id: int, limit: int = -1) -> list[Kept]:
    """Those that were written after the record with this id, in the order of their ids: the first
    `limit`, or all. Whoever asks again and again has few to look at: filters are held against each,
    and not against all the values that there are."""
    where, values = _conditions(wanted, [])
    sql = f"SELECT {_COLUMNS} FROM decisions WHERE id > :after{where} ORDER BY id"  # noqa: S608  # ours
    tests = [(one.column, _test(one)) for one in wanted.filters]
    found = map(_kept, db.execute(sql, {**values, "after": id}))
    passing = (kept for kept in found if _passes(kept, tests))
    return list(islice(passing, limit if limit >= 0 else None))


def _test(one: Filter) -> Callable[[Any], bool]:
    if one.values is None:
        return one.test or (lambda _: False)
    stored = frozenset(utf8(v) if isinstance(v, str) else v for v in one.values)
    return stored.__contains__


def _passes(kept: Kept, tests: list[tuple[str, Callable[[Any], bool]]]) -> bool:
    for column, test in tests:
        value = getattr(kept.record, "by" if column == "by_user" else column)
        if value is None or not test(value):
            return False
    return True


def distinct(db: sqlite3.Connection, column: str) -> Iterator[Value]:
    """The values that a column of INDEXES holds: a jump through the index for each."""
    first = (
        f"SELECT {column} FROM decisions INDEXED BY {INDEXES[column]}"  # noqa: S608  # same
        f" WHERE {column} {{}} ORDER BY {column} LIMIT 1"
    )
    sql = (
        f"WITH RECURSIVE found (value) AS (SELECT * FROM ({first.format('IS NOT NULL')})"  # noqa: S608  # same
        f" UNION ALL SELECT ({first.format('> found.value')}) FROM found"
        " WHERE found.value IS NOT NULL)"
        " SELECT value FROM found WHERE value IS NOT NULL"
    )
    return (row[0] for row in db.execute(sql))


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


_SUMS = (
    "count(*), count(*) FILTER (WHERE decision = 'deny'), CAST(total(out_bytes) AS INTEGER),"
    " CAST(total(in_bytes) AS INTEGER), min(time), max(time)"
)


def grouped(
    db: sqlite3.Connection, wanted: Wanted, by: Mapping[str, tuple[str, ...]], limit: int
) -> dict[str, list[Group]]:
    """Records added up in several ways, each by its columns: those with the most records.

    Reads every record that the rarest filter lets through, once, into a narrow temporary table.
    """
    source, values = _source(db, wanted)
    needed = {"decision", "time", "out_bytes", "in_bytes", *(c for cs in by.values() for c in cs)}
    needed |= {"names"} if "daddr" in needed else set()
    db.execute(
        f"CREATE TEMP TABLE chosen AS SELECT {', '.join(sorted(needed))} FROM {source}",  # noqa: S608  # ours
        values,
    )
    try:
        return {
            name: _groups(db, "temp.chosen", columns, limit, {}) for name, columns in by.items()
        }
    finally:
        db.execute("DROP TABLE temp.chosen")


def new(db: sqlite3.Connection, since: float, columns: tuple[str, ...], limit: int) -> list[Group]:
    """The same by some columns, of what was not there before this epoch second."""
    source, values = _source(db, Wanted(since))
    same = " AND ".join(f"old.{column} = decisions.{column}" for column in columns)
    before = f"SELECT 1 FROM decisions AS old WHERE {same} AND old.time < :since"  # noqa: S608  # same
    return _groups(db, f"{source} AND NOT EXISTS ({before})", columns, limit, values)


def _source(db: sqlite3.Connection, wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """What stands behind FROM for those that are wanted, and its values."""
    resolved = _resolved(db, wanted)
    where, values = _conditions(wanted, resolved)
    leading = _rarest(db, wanted, resolved)
    if leading is None:
        return f"decisions WHERE true{where}", values
    column, those = leading
    values["leading"] = json.dumps(those)
    source = f"decisions INDEXED BY {INDEXES[column]}"
    return f"{source} WHERE {column} {_IN.format(':leading')}{where}", values


def _groups(
    db: sqlite3.Connection, source: str, columns: tuple[str, ...], limit: int, values: Any
) -> list[Group]:
    keys = ", ".join(columns)
    # The least array is one with a name, if there is any: '["' comes before '[]'.
    names = "min(names)" if "daddr" in columns else "'[]'"
    sql = (
        f"SELECT {_SUMS}, {names}, {keys} FROM {source} GROUP BY {keys}"  # noqa: S608  # same
        f" ORDER BY 1 DESC, {keys} LIMIT {limit}"
    )
    return [Group(tuple(row[7:]), *row[:7]) for row in db.execute(sql, values)]


# --- the way to them ------------------------------------------------------------------------


def _records(db: sqlite3.Connection, wanted: Wanted, *, newest_first: bool) -> Iterator[Kept]:
    resolved = _resolved(db, wanted)
    if any(not values for _, values in resolved):
        return iter(())
    order = "DESC" if newest_first else "ASC"
    ordered = f"ORDER BY time {order}, id {order}"
    where, values = _conditions(wanted, resolved)
    leading = _rarest(db, wanted, resolved)
    if leading is None:
        sql = f"SELECT {_COLUMNS} FROM decisions INDEXED BY decisions_time"  # noqa: S608  # same
        return map(_kept, db.execute(f"{sql} WHERE true{where} {ordered}", values))
    column, those = leading
    sql = f"SELECT {_COLUMNS} FROM decisions INDEXED BY {INDEXES[column]}"  # noqa: S608  # same
    if len(those) > MERGED:
        sql = f"{sql} WHERE {column} {_IN.format(':leading')}{where} {ordered}"
        return map(_kept, db.execute(sql, {**values, "leading": json.dumps(those)}))
    sql = f"{sql} WHERE {column} = :leading{where} {ordered}"
    found = [map(_kept, db.execute(sql, {**values, "leading": value})) for value in those]
    return heapq.merge(*found, key=_place, reverse=newest_first)


def _resolved(db: sqlite3.Connection, wanted: Wanted) -> list[tuple[str, tuple[Value, ...]]]:
    """Each filter by the values it lets through, as they are stored."""
    out = []
    for one in wanted.filters:
        those: Iterable[Value] = one.values if one.values is not None else ()
        if one.test is not None:
            those = filter(one.test, distinct(db, one.column))
        stored = dict.fromkeys(utf8(v) if isinstance(v, str) else v for v in those)
        out.append((one.column, tuple(stored)))
    return out


def _conditions(
    wanted: Wanted, resolved: list[tuple[str, tuple[Value, ...]]]
) -> tuple[str, dict[str, Any]]:
    """All filters as SQL behind a first condition, and its values. The + keeps SQLite from leading
    with another index than the one that was chosen."""
    text, values = _times(wanted)
    if wanted.uid is not None:
        text += " AND +uid = :uid"
        values["uid"] = wanted.uid
    for number, (column, those) in enumerate(resolved):
        text += f" AND +{column} {_IN.format(f':f{number}')}"
        values[f"f{number}"] = json.dumps(those)
    return text, values


def _times(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    text, values = "", dict[str, Any]()
    for name, sign, at in (("since", ">=", wanted.since), ("until", "<", wanted.until)):
        if at is not None:
            text += f" AND time {sign} :{name}"
            values[name] = at
    if wanted.before is not None:
        # The first half alone is what an index of (column, time) can begin at.
        text += " AND time <= :place AND (time < :place OR id < :number)"
        values["place"], values["number"] = wanted.before
    return text, values


def _rarest(
    db: sqlite3.Connection, wanted: Wanted, resolved: list[tuple[str, tuple[Value, ...]]]
) -> tuple[str, tuple[Value, ...]] | None:
    """The filter that lets the fewest rows through; None where the times do, or where it has too
    many values, of too many rows, to be read in order: then rows that pass are not far."""
    times, values = _times(wanted)
    fewest, leading = COUNTED, None
    if times:
        sql = f"SELECT 1 FROM decisions INDEXED BY decisions_time WHERE true{times}"  # noqa: S608  # same
        fewest = _count(db, sql, values)
    for column, those in resolved:
        sql = (
            f"SELECT 1 FROM decisions INDEXED BY {INDEXES[column]}"  # noqa: S608  # same
            f" WHERE {column} {_IN.format(':those')}{times}"
        )
        count = _count(db, sql, {**values, "those": json.dumps(those)})
        if count < fewest or (leading is None and count == fewest and len(those) <= MERGED):
            fewest, leading = count, (column, those)
    return leading


def _count(db: sqlite3.Connection, sql: str, values: dict[str, Any]) -> int:
    limited = f"SELECT count(*) FROM ({sql} LIMIT {COUNTED})"  # noqa: S608  # same
    (count,) = db.execute(limited, values).fetchone()
    return int(count)


def _kept(row: tuple[Any, ...]) -> Kept:
    return Kept(row[0], rows.record(row[1:]))


def _place(kept: Kept) -> tuple[float, int]:
    return kept.record.time, kept.id
