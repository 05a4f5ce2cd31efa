"""How a rule ends, and how every change of one is logged. Called inside Store's transactions.

Nothing else writes to `rule_changes`: here each change joins the chain.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from arbiter.records import utf8
from arbiter.store.chain import RULE_CHANGES, extend
from arbiter.store.rows import Author

_INSERT_CHANGE = (
    f"INSERT INTO rule_changes ({', '.join(RULE_CHANGES.columns)}, hash)"
    f" VALUES ({', '.join('?' * len(RULE_CHANGES.columns))}, ?)"
)


def retire(
    db: sqlite3.Connection, path: Path, id: int, reason: str, at: float, author: Author
) -> bool:
    """Take a rule out of force at epoch second `at`; False if it was not in force."""
    line = db.execute(
        "UPDATE rules SET retired = ?, retired_by = ?, retired_reason = ?"
        " WHERE id = ? AND retired IS NULL RETURNING line",
        (at, utf8(author.by), utf8(reason), id),
    ).fetchall()
    if line:
        log(db, path, at, id, "retired", reason, author, line[0][0])
    return bool(line)


def log(
    db: sqlite3.Connection,
    path: Path,
    at: float,
    id: int,
    change: str,
    reason: str,
    author: Author,
    line: str,
) -> None:
    """Write down that a rule was `added` or `retired`."""
    frontend = utf8(author.frontend)
    values = (at, id, change, utf8(reason), utf8(author.by), author.by_uid, frontend, line)
    [(made, hash)] = extend(db, path, RULE_CHANGES, [(None, *values)])
    db.execute(_INSERT_CHANGE, (made, *values, hash))
