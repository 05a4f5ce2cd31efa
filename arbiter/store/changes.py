"""How a rule ends, and how every change of one is logged. Called inside Store's transactions."""

from __future__ import annotations

import sqlite3

from arbiter.records import utf8
from arbiter.store.rows import Author

_INSERT_CHANGE = (
    "INSERT INTO rule_changes (time, rule_id, change, reason, by_user, by_uid, frontend, line)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


def retire(db: sqlite3.Connection, id: int, reason: str, at: float, author: Author) -> bool:
    """Take a rule out of force at epoch second `at`; False if it was not in force."""
    line = db.execute(
        "UPDATE rules SET retired = ?, retired_by = ?, retired_reason = ?"
        " WHERE id = ? AND retired IS NULL RETURNING line",
        (at, utf8(author.by), utf8(reason), id),
    ).fetchall()
    if line:
        log(db, at, id, "retired", reason, author, line[0][0])
    return bool(line)


def log(
    db: sqlite3.Connection,
    at: float,
    id: int,
    change: str,
    reason: str,
    author: Author,
    line: str,
) -> None:
    """Write down that a rule was `added` or `retired`."""
    values = (at, id, change, utf8(reason), utf8(author.by), author.by_uid, utf8(author.frontend))
    db.execute(_INSERT_CHANGE, (*values, line))
