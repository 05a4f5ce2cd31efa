"""The records that filters let through, in the order of time, without reading those between.

The sums tell which pairs of outcome and destination pass all filters, when the first and the last
of them were, and what else they have in common: that may be rarer than any filter is. Most columns
have an index of (column, time). The rarest leads: its values are read side by side, each in the
order of time, and all filters look at what comes.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from arbiter.records import spelt
from arbiter.store import rows
from arbiter.store.filters import (
    DESTINATION,
    OUTCOME,
    Filter,
    Resolved,
    Value,
    Wanted,
    among,
    conditions,
    inside,
    resolved,
)
from arbiter.store.rows import Kept

INDEXES = {
    "app": "decisions_app",
    "user": "decisions_user",
    "daddr": "decisions_daddr",
    "dport": "decisions_dport",
    "proto": "decisions_proto",
    "link": "decisions_link",
    "decision": "decisions_decision",
    "reason": "decisions_reason",
    "by_user": "decisions_by",
    "rule_id": "decisions_rule",
}
"""The columns that have an index, to lead. Names have none: their addresses lead."""
MERGED = 200
"""Values that are read side by side, at most."""
COUNTED = 50_000
"""Rows up to which it is counted how many a filter lets through."""
COMMON = 4
"""Where one in so many records passes, one that does is not far: the times lead."""
_COLUMNS = f"id, {', '.join(rows.RECORD_COLUMNS)}"


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
    where, values = conditions(wanted, () if wanted.uid is None else (("uid", (wanted.uid,)),))
    sql = f"SELECT {_COLUMNS} FROM decisions WHERE id > :after{where} ORDER BY id"
    tests = [(one.column, _test(one)) for one in wanted.filters]
    found = map(_kept, db.execute(sql, {**values, "after": id}))
    passing = (kept for kept in found if _passes(kept, tests))
    return list(islice(passing, limit if limit >= 0 else None))


def _test(one: Filter) -> Callable[[Any], bool]:
    if one.values is None:
        return one.test or (lambda _: False)
    stored = frozenset(spelt(v) if isinstance(v, str) else v for v in one.values)
    return stored.__contains__


def _passes(kept: Kept, tests: list[tuple[str, Callable[[Any], bool]]]) -> bool:
    for column, test in tests:
        value = getattr(kept.record, "by" if column == "by_user" else column)
        if value is None or not test(value):
            return False
    return True


# --- the way to them ------------------------------------------------------------------------


def _records(db: sqlite3.Connection, wanted: Wanted, *, newest_first: bool) -> Iterator[Kept]:
    filters = resolved(db, wanted)
    order = "DESC" if newest_first else "ASC"
    ordered = f"ORDER BY time {order}, id {order}"
    where, values = conditions(wanted, filters)
    leading = None
    if filters:
        pairs = _Pairs(db, filters)
        if pairs.last is None:
            return iter(())
        where += " AND time >= :first AND time <= :last"
        values.update(first=pairs.first, last=pairs.last)
        many = any(len(those) > MERGED for _, those in filters)
        if not (many and pairs.count * COMMON > _all(db)):
            leading = _rarest(db, wanted, pairs)
    if leading is None:
        sql = f"SELECT {_COLUMNS} FROM decisions INDEXED BY decisions_time"
        return map(_kept, db.execute(f"{sql} WHERE true{where} {ordered}", values))
    column, those = leading
    sql = f"SELECT {_COLUMNS} FROM decisions INDEXED BY {INDEXES[column]}"
    if len(those) > MERGED:
        sql = f"{sql} WHERE {column} {among('leading')}{where} {ordered}"
        return map(_kept, db.execute(sql, {**values, "leading": json.dumps(those)}))
    sql = f"{sql} WHERE {column} = :leading{where} {ordered}"
    found = [map(_kept, db.execute(sql, {**values, "leading": value})) for value in those]
    return heapq.merge(*found, key=_place, reverse=newest_first)


class _Pairs:
    """The pairs of outcome and destination that pass the filters, by what the sums say of them."""

    def __init__(self, db: sqlite3.Connection, filters: Resolved) -> None:
        self._db = db
        where, values = inside(filters)
        select = f"FROM totals WHERE true{where}"
        self.first: float | None
        self.last: float | None
        self.count: int
        self.first, self.last, self.count = db.execute(
            f"SELECT min(first), max(last), ifnull(sum(connections), 0) {select}", values
        ).fetchone()
        self._of = {
            "outcomes": (f"SELECT DISTINCT outcome {select}", values),
            "destinations": (f"SELECT DISTINCT destination {select}", values),
        }

    def columns(self) -> Iterator[tuple[str, tuple[Value, ...]]]:
        """What may lead: each column with an index that no record wanted has NULL in, and the
        values that those have there."""
        for table, names in (("outcomes", OUTCOME), ("destinations", DESTINATION)):
            ids, values = self._of[table]
            able = [name for name in names if name in INDEXES]
            sql = f"SELECT DISTINCT {', '.join(able)} FROM {table} WHERE id IN ({ids})"
            found = list(zip(*self._db.execute(sql, values), strict=True))
            for name, those in zip(able, found, strict=True):
                if None not in those:
                    yield name, tuple(dict.fromkeys(those))


def _rarest(
    db: sqlite3.Connection, wanted: Wanted, pairs: _Pairs
) -> tuple[str, tuple[Value, ...]] | None:
    """What lets the fewest rows through; None where the times do, or where it has too many values,
    of too many rows, to be read in order: then rows that pass are not far."""
    times, values = conditions(wanted, ())
    fewest, leading = COUNTED, None
    if times:
        sql = f"SELECT 1 FROM decisions INDEXED BY decisions_time WHERE true{times}"
        fewest = _count(db, sql, values)
    for column, those in pairs.columns():
        sql = (
            f"SELECT 1 FROM decisions INDEXED BY {INDEXES[column]}"
            f" WHERE {column} {among('those')}{times}"
        )
        count = _count(db, sql, {**values, "those": json.dumps(those)})
        if count < fewest or (leading is None and count == fewest and len(those) <= MERGED):
            fewest, leading = count, (column, those)
    return leading


def _all(db: sqlite3.Connection) -> int:
    """How many records there are, about."""
    first, last = db.execute(
        "SELECT (SELECT min(id) FROM decisions), (SELECT max(id) FROM decisions)"
    ).fetchone()
    return (last or 0) - (first or 0) + 1


def _count(db: sqlite3.Connection, sql: str, values: dict[str, Any]) -> int:
    limited = f"SELECT count(*) FROM ({sql} LIMIT {COUNTED})"
    (count,) = db.execute(limited, values).fetchone()
    return int(count)


def _kept(row: tuple[Any, ...]) -> Kept:
    return Kept(row[0], rows.record(row[1:]))


def _place(kept: Kept) -> tuple[float, int]:
    return kept.record.time, kept.id
