"""Rules that ended long ago are deleted, each with all its changes. Called inside a transaction.

A rule in force stays with all its changes; so does one that a record names, one that replaced a
rule that stays, and that of the newest change. The chain of changes gets a checkpoint before each
change that stays behind a deleted one: its hash can be computed as before.
"""

from __future__ import annotations

import sqlite3
from itertools import pairwise

from arbiter.store.chain import RULE_CHANGES
from arbiter.store.checkpoints import RETENTION, checkpoint
from arbiter.store.pruned import Gone

_THAT_GO = (
    "FROM rules INDEXED BY rules_retired WHERE retired < :rules"
    " AND id <> (SELECT rule_id FROM rule_changes ORDER BY id DESC LIMIT 1)"
    " AND NOT EXISTS (SELECT 1 FROM decisions WHERE rule_id = rules.id AND layer = rules.layer)"
)
_REPLACED = "(SELECT 1 FROM rules AS old WHERE old.replaced_by = rules.id)"
_IDS = f"SELECT id {_THAT_GO} AND NOT EXISTS {_REPLACED} ORDER BY retired LIMIT :rows"
_USELESS = (
    "DELETE FROM checkpoints WHERE chain = 'rule_changes' AND why = ? AND last <"
    " (SELECT max(last) FROM checkpoints WHERE chain = 'rule_changes' AND why = ?)"
    " AND NOT EXISTS (SELECT 1 FROM rule_changes AS next WHERE next.id = checkpoints.last + 1)"
)


def count(db: sqlite3.Connection, before: float) -> int:
    """How many rules would go that ended before this epoch second: one more, where a rule stays
    for one that replaced it."""
    (found,) = db.execute(f"SELECT count(*) {_THAT_GO}", {"rules": before}).fetchone()
    return int(found)


def step(db: sqlite3.Connection, before: float, rows: int, now: float) -> list[Gone]:
    """Delete so many of them, the oldest first; nothing where none is left."""
    ids = [id for (id,) in db.execute(_IDS, {"rules": before, "rows": rows})]
    if not ids:
        return []
    changes = sorted(
        change
        for id in ids
        for (change,) in db.execute("SELECT id FROM rule_changes WHERE rule_id = ?", (id,))
    )
    for change, following in pairwise([*changes, 0]):
        if following != change + 1:  # another rule's is next, and stays: for now at least
            checkpoint(db, RULE_CHANGES, RETENTION, now, at=change)
    db.executemany("DELETE FROM rule_changes WHERE id = ?", ((change,) for change in changes))
    db.executemany("DELETE FROM rules WHERE id = ?", ((id,) for id in ids))
    useless = db.execute(_USELESS, (RETENTION, RETENTION)).rowcount
    return [
        Gone("rules", before, len(ids)),
        Gone("rule_changes", before, len(changes)),
        Gone("checkpoints", before, useless),
    ]
