"""What records may be asked for: filters over columns, and as SQL the values that they let through.

The values that a pattern fits are found in the tables of outcomes and destinations, which have each
once, however many records there are.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from msgspec import Struct

from arbiter.records import spelt

Value = str | int
Resolved = tuple[tuple[str, tuple[Value, ...]], ...]
"""Filters by the values that they let through, as they are stored."""
OUTCOME = (
    "app",
    "exe",
    "user",
    "uid",
    "decision",
    "reason",
    "rule_id",
    "layer",
    "by_user",
    "frontend",
    "link",
)
"""The columns that records and table `outcomes` share."""
DESTINATION = ("daddr", "dport", "proto", "names")
"""The same of `destinations`."""
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


def distinct(db: sqlite3.Connection, column: str) -> Iterator[Value]:
    """The values that a column of OUTCOME or DESTINATION ever held, in order."""
    sql = (
        f"SELECT DISTINCT {column} FROM {_table(column)}"
        f" WHERE {column} IS NOT NULL ORDER BY {column}"
    )
    return (row[0] for row in db.execute(sql))


def resolved(db: sqlite3.Connection, wanted: Wanted) -> Resolved:
    """Each filter by the values it lets through. Raises sqlite3.Error."""
    out = []
    for one in wanted.filters:
        those: Iterable[Value] = one.values if one.values is not None else ()
        if one.test is not None:
            those = filter(one.test, distinct(db, one.column))
        stored = dict.fromkeys(spelt(v) if isinstance(v, str) else v for v in those)
        out.append((one.column, tuple(stored)))
    if wanted.uid is not None:
        out.append(("uid", (wanted.uid,)))
    return tuple(out)


def conditions(wanted: Wanted, filters: Resolved) -> tuple[str, dict[str, Any]]:
    """Times and filters as SQL behind a first condition on `decisions`, and its values. The + keeps
    SQLite from leading with another index than the one that was chosen."""
    text, values = "", dict[str, Any]()
    for name, sign, at in (("since", ">=", wanted.since), ("until", "<", wanted.until)):
        if at is not None:
            text += f" AND time {sign} :{name}"
            values[name] = at
    if wanted.before is not None:
        # The first half alone is what an index of (column, time) can begin at.
        text += " AND time <= :place AND (time < :place OR id < :number)"
        values["place"], values["number"] = wanted.before
    for number, (column, those) in enumerate(filters):
        text += f" AND +decisions.{column} {among(f'f{number}')}"
        values[f"f{number}"] = json.dumps(those)
    return text, values


def inside(filters: Resolved) -> tuple[str, dict[str, Any]]:
    """Filters as SQL behind a first condition on a table with `outcome` and `destination`."""
    text, values = "", dict[str, Any]()
    parts: dict[str, list[str]] = {}
    for number, (column, those) in enumerate(filters):
        parts.setdefault(_table(column), []).append(f"{column} {among(f'i{number}')}")
        values[f"i{number}"] = json.dumps(those)
    for table, tests in parts.items():
        text += f" AND {table[:-1]} IN (SELECT id FROM {table} WHERE {' AND '.join(tests)})"
    return text, values


def among(name: str) -> str:
    """SQL for: one of the values of the JSON array with this name."""
    return _IN.format(f":{name}")


def _table(column: str) -> str:
    if column in OUTCOME:
        return "outcomes"
    if column in DESTINATION:
        return "destinations"
    raise ValueError(f"no filter is about {column}")
