"""Which rules a new one takes the place of, and who may do that. Inside Store's transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

from arbiter.store import rows
from arbiter.store.errors import UnstorableError, UnsuitableError


def replaced(
    db: sqlite3.Connection, path: Path, row: Mapping[str, rows.Value], instead_of: int | None
) -> tuple[int, ...]:
    """The rules in force that `row` replaces: those of its conditions, and the one it edits.

    Raises UnsuitableError where that one is not in force.
    """
    same = tuple(
        id
        for (id,) in db.execute(
            "SELECT id FROM rules WHERE retired IS NULL AND layer = :layer"
            " AND conditions = :conditions"
            " AND (:pid IS NULL OR (pid = :pid AND start = :start)) ORDER BY id",
            row,
        ).fetchall()
    )
    if instead_of is None or instead_of in same:
        return same
    found = db.execute("SELECT 1 FROM rules WHERE id = ? AND retired IS NULL", (instead_of,))
    if found.fetchone() is None:
        why = f"rule {instead_of} is not in force any more"
        raise UnsuitableError("cannot change the rule", path, why, "see `arbiter rules list`")
    return (*same, instead_of)


def check_own(db: sqlite3.Connection, path: Path, ids: Iterable[int], uid: int | None) -> None:
    """Raises UnstorableError where one of these rules was made by another user than `uid`."""
    for id in ids:
        (owner,) = db.execute("SELECT by_uid FROM rules WHERE id = ?", (id,)).fetchone()
        if owner != uid:
            raise UnstorableError(
                "cannot remember the rule",
                path,
                f"rule {id} has the same conditions and is somebody else's",
                "ask an admin to change it",
            )
