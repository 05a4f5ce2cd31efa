"""The rules in force, read from the database: all of them, or one page after the other."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from msgspec import Struct

from arbiter.rules.rule import Entry, LifetimeKind
from arbiter.store import rows

SELECT_ENTRY = f"SELECT {rows.ENTRY_COLUMNS} FROM rules"
_IN_FORCE = f"{SELECT_ENTRY} WHERE retired IS NULL"
ALL = -1
"""As many as there are."""


class Page(Struct, frozen=True):
    """Some of the rules in force, oldest first."""

    entries: tuple[Entry, ...]
    unreadable: dict[int, str]
    """What is wrong with rules that cannot be read, by id."""
    last: int | None
    """The next page begins after this id; None: this is the last page."""


def page(
    db: sqlite3.Connection,
    path: Path,
    now: float,
    boot: str,
    session: str | None,
    after: int = 0,
    most: int = ALL,
) -> Page:
    """At most so many rules with ids above `after`. See Store.rules for the rest.

    Raises sqlite3.Error.
    """
    entries: list[Entry] = []
    bad: dict[int, str] = {}
    read, last = 0, after
    # Row by row: all rows of 100,000 rules at once would be 40 MB on top of the entries.
    for row in db.execute(f"{_IN_FORCE} AND id > ? ORDER BY id LIMIT ?", (after, most)):
        read, last = read + 1, row[0]
        if rows.ended(row, now, boot, session):
            continue
        try:
            entries.append(rows.entry(row))
        except ValueError as error:  # RuleError, or the values contradict the line
            bad[row[0]] = (
                f"cannot read rule {row[0]}: {path}: {row[1]!r}: {error};"
                f" make it anew, then: arbiter rules remove {row[0]}"
            )
    return Page(tuple(entries), bad, last if read == most else None)


def ended(db: sqlite3.Connection, now: float, boot: str, session: str) -> list[tuple[int, str]]:
    """(id, reason) of each rule that is in the rules and not in force any more."""
    found = db.execute(f"{_IN_FORCE} AND lifetime <> ?", (LifetimeKind.FOREVER.value,))
    return [(row[0], why) for row in found if (why := rows.ended(row, now, boot, session))]
