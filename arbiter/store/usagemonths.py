"""Old days of `usage` are added up into their month, and old months are deleted.

Called inside a transaction. Days are local dates, and a month's row has its first day. The running
month and the one before stay by day whatever is asked: budgets count in them.
"""

from __future__ import annotations

import sqlite3
from datetime import date, datetime
from typing import Any

from arbiter.store.pruned import Gone
from arbiter.store.usage import ADD, COLUMNS

_SOME = f"SELECT {COLUMNS} FROM usage WHERE"
_DELETE = "DELETE FROM usage WHERE (day, app, user, link, sim) = (?, ?, ?, ?, ?)"
_KEY = 5
_DAYS = "day < ? AND day NOT LIKE '%-01'"


def months_back(now: float, months: int) -> str:
    """The first day of the month so many before that of this epoch second; of 1970 at least."""
    day = datetime.fromtimestamp(now).date()
    number = day.year * 12 + day.month - 1 - months
    return date(max(number // 12, 1970), number % 12 + 1, 1).isoformat()


def month_of(at: float, now: float) -> str:
    """The first day of the month of epoch second `at`; of the one before that of `now` at most."""
    return min(months_back(at, 0), months_back(now, 1))


def days(db: sqlite3.Connection, before: str) -> int:
    """How many rows of days before this first of a month are to be added up."""
    return _count(db, _DAYS, before)


def months(db: sqlite3.Connection, before: str) -> int:
    """How many rows there are of before this first of a month."""
    return _count(db, "day < ?", before)


def add_up(db: sqlite3.Connection, before: str, rows: int) -> list[Gone]:
    """Add so many of the rows that `days` counts up into those of their months."""
    found = db.execute(f"{_SOME} {_DAYS} LIMIT ?", (before, rows)).fetchall()
    db.executemany(ADD, ((day[:8] + "01", *others) for day, *others in found))
    return _delete(db, "usage_days", before, found)


def delete(db: sqlite3.Connection, before: str, rows: int) -> list[Gone]:
    """Delete so many of the rows that `months` counts."""
    found = db.execute(f"{_SOME} day < ? LIMIT ?", (before, rows)).fetchall()
    return _delete(db, "usage", before, found)


def _delete(db: sqlite3.Connection, what: str, before: str, found: list[Any]) -> list[Gone]:
    if not found:
        return []
    db.executemany(_DELETE, (row[:_KEY] for row in found))
    return [Gone(what, datetime.fromisoformat(before).timestamp(), len(found))]


def _count(db: sqlite3.Connection, where: str, before: str) -> int:
    (found,) = db.execute(f"SELECT count(*) FROM usage WHERE {where}", (before,)).fetchone()
    return int(found)
