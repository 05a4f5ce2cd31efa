"""Table `pruned`: what retention deleted, so that nobody takes it for what never was."""

from __future__ import annotations

import sqlite3

from msgspec import Struct

_OLD = (
    "SELECT what, why, max(id), max(before), CAST(total(count) AS INTEGER) FROM pruned"
    " WHERE time < ? GROUP BY what, why HAVING count(*) > 1"
)


class Gone(Struct, frozen=True):
    """So many rows of a table were deleted, of before an epoch second."""

    what: str
    before: float
    count: int


def pruned_before(db: sqlite3.Connection, what: str) -> float:
    """The epoch second before which rows of a table were deleted; 0 for never."""
    (before,) = db.execute("SELECT max(before) FROM pruned WHERE what = ?", (what,)).fetchone()
    return float(before or 0.0)


def pruned(db: sqlite3.Connection) -> list[Gone]:
    """What was ever deleted, by table."""
    sql = (
        "SELECT what, max(before), CAST(total(count) AS INTEGER) FROM pruned"
        " GROUP BY what ORDER BY min(id)"
    )
    return [Gone(*row) for row in db.execute(sql)]


class Notes:
    """What one plan deletes: a row of each table, that counts up from step to step."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}

    def tell(self, db: sqlite3.Connection, gone: Gone, why: str, now: float) -> None:
        """Write it down, in the transaction that deletes."""
        if not gone.count:
            return
        if gone.what in self._rows:
            sql = "UPDATE pruned SET count = count + ? WHERE id = ?"
            db.execute(sql, (gone.count, self._rows[gone.what]))
            return
        cursor = db.execute(
            "INSERT INTO pruned (time, what, before, count, why) VALUES (?, ?, ?, ?, ?)",
            (now, gone.what, gone.before, gone.count, why),
        )
        self._rows[gone.what] = cursor.lastrowid or 0


def fold(db: sqlite3.Connection, before: float) -> int:
    """Add the notes of before this epoch second up, to one for each table and reason, in a
    transaction; gives how many there are less."""
    less = 0
    for what, why, newest, up_to, count in db.execute(_OLD, (before,)).fetchall():
        db.execute("UPDATE pruned SET before = ?, count = ? WHERE id = ?", (up_to, count, newest))
        less += db.execute(
            "DELETE FROM pruned WHERE what = ? AND why = ? AND time < ? AND id <> ?",
            (what, why, before, newest),
        ).rowcount
    return less
