"""Sums for all time forget where it went what was not seen for long. Called inside a transaction.

A pair of outcome and destination becomes one of the outcome and no destination: how often, how much
and when last stay true of programs, rules and people. Only pairs of which no record and no sum of a
day is left; and destinations of no pair are deleted.
"""

from __future__ import annotations

import sqlite3

from arbiter.store.pruned import Gone

NOWHERE = ("", 0, "", "[]")
"""The destination of what has none: of packets that could not be read, too."""
_MOST = 9223372036854775807
_BEFORE = (
    "min(:before, ifnull((SELECT min(time) FROM decisions), :before),"
    " ifnull((SELECT min(day) FROM daily), :before))"
)
_NOWHERE = (
    "SELECT id FROM destinations WHERE daddr = :daddr AND dport = :dport AND proto = :proto"
    " AND names = :names"
)
_THAT_GO = f"FROM totals WHERE last < {_BEFORE} AND destination IS NOT ({_NOWHERE})"  # ours
_FOLD = f"""
INSERT INTO totals (outcome, destination, connections, packets, first, last, sent, received, waited)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    connections = connections + excluded.connections,
    packets = min(packets, {_MOST} - excluded.packets) + excluded.packets,
    first = min(first, excluded.first), last = max(last, excluded.last),
    sent = min(sent, {_MOST} - excluded.sent) + excluded.sent,
    received = min(received, {_MOST} - excluded.received) + excluded.received,
    waited = waited + excluded.waited
"""
_ORPHAN = (
    "DELETE FROM destinations WHERE id = ?"
    " AND NOT EXISTS (SELECT 1 FROM totals WHERE destination = destinations.id)"
)


def count(db: sqlite3.Connection, before: float) -> int:
    """How many pairs would go that were seen last before this epoch second."""
    (found,) = db.execute(f"SELECT count(*) {_THAT_GO}", _values(before)).fetchone()
    return int(found)


def step(db: sqlite3.Connection, before: float, rows: int) -> list[Gone]:
    """Take their destination from so many of them; nothing where none is left.

    Foreign keys must be off: SQLite would look through all of `daily` for each destination.
    """
    sql = (
        "SELECT outcome, destination, connections, packets, first, last, sent, received, waited"
        f" {_THAT_GO} LIMIT :rows"
    )
    found = db.execute(sql, _values(before) | {"rows": rows}).fetchall()
    if not found:
        return []
    db.execute("INSERT OR IGNORE INTO destinations VALUES (NULL, ?, ?, ?, ?)", NOWHERE)
    (nowhere,) = db.execute(_NOWHERE, _values(before)).fetchone()
    pairs = [row[:2] for row in found]
    db.executemany("DELETE FROM totals WHERE outcome = ? AND destination = ?", pairs)
    db.executemany(_FOLD, ((outcome, nowhere, *sums) for outcome, _, *sums in found))
    orphans = sum(
        db.execute(_ORPHAN, (destination,)).rowcount for destination in {row[1] for row in found}
    )
    return [Gone("totals", before, len(found)), Gone("destinations", before, orphans)]


def _values(before: float) -> dict[str, object]:
    return dict(zip(("daddr", "dport", "proto", "names"), NOWHERE, strict=True)) | {
        "before": before
    }
