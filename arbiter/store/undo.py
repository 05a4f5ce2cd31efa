"""Taking a step of changes back. Called inside Store's transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from arbiter.store import changes, rows
from arbiter.store.errors import UnsuitableError
from arbiter.store.history import Step, Undone, undo_reason
from arbiter.store.rows import Author

_LATER = "undo the later steps first: see `arbiter rules history`"


def take_back(
    db: sqlite3.Connection,
    path: Path,
    step: Step,
    brought: Mapping[int, int],
    now: float,
    boot: str,
    author: Author,
) -> Undone:
    """What the step added is retired, what it retired comes back. Raises UnsuitableError.

    `brought`: see `history.again`; a rule that was undone and brought again is still that rule.
    """
    what, reason = f"cannot undo step {step.id}", undo_reason(step.id)
    removed = tuple(_now(c.rule_id, brought) for c in step.changes if c.change == "added")
    for id in removed:
        if not changes.retire(db, path, id, reason, now, author):
            raise UnsuitableError(what, path, f"rule {id} is not in force any more", _LATER)
    restored: list[int] = []
    ended: list[int] = []
    for change in step.changes:
        if change.change == "retired":
            taken = _in_the_way(db, change.rule_id)
            if taken:
                why = f"rule {taken} has the conditions of rule {change.rule_id} now"
                raise UnsuitableError(what, path, why, _LATER)
            again = undo_reason(step.id, change.rule_id)
            id = _restore(db, path, change.rule_id, again, now, boot, author)
            (restored if id else ended).append(id or change.rule_id)
    return Undone(step, removed, tuple(restored), tuple(ended))


def _now(id: int, brought: Mapping[int, int]) -> int:
    while id in brought:
        id = brought[id]
    return id


def _in_the_way(db: sqlite3.Connection, id: int) -> int:
    """The rule in force that says what the rule `id` would; 0 for none."""
    found = db.execute(
        "SELECT a.id FROM rules a JOIN rules b USING (layer, conditions)"
        " WHERE b.id = ? AND a.retired IS NULL AND a.pid IS b.pid AND a.start IS b.start",
        (id,),
    ).fetchone()
    return int(found[0]) if found else 0


def _restore(
    db: sqlite3.Connection, path: Path, id: int, reason: str, now: float, boot: str, author: Author
) -> int:
    """Put a retired rule in force again, as a new one; 0 where its time is over."""
    select = f"SELECT {rows.ENTRY_COLUMNS} FROM rules WHERE id = ?"
    row = db.execute(select, (id,)).fetchone()
    if rows.ended(row, now, boot, ""):
        return 0
    columns = ", ".join(rows.RULE_COLUMNS)
    copy = f"INSERT INTO rules ({columns}) SELECT {columns} FROM rules WHERE id = ?"
    new = db.execute(copy, (id,)).lastrowid or 0
    changes.log(db, path, now, new, "added", reason, author, row[1])
    return new
