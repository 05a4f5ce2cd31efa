"""When rules were in force and decided, from their history and the records. For Store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from arbiter.rules.stale import Uses

_SINCE = "SELECT rule_id, min(time) FROM rule_changes WHERE change = 'added' GROUP BY rule_id"
"""Not rules.created: a rule that undoing brought back is as old as it was, and new in force."""
_LAST = "SELECT max(last) FROM outcomes JOIN totals ON outcome = id WHERE rule_id = ? AND layer = 2"
"""By the index outcomes_rule: how many records there are, or were, does not count."""
_RECORDED = "SELECT min(first) FROM daily WHERE day = (SELECT min(day) FROM daily)"
_EXPIRED = (
    "SELECT id, line, expires FROM rules WHERE expires <= :now AND (retired IS NULL"
    " OR (retired_reason = 'expired' AND retired >= :since)) ORDER BY id"
)


def uses(db: sqlite3.Connection, ids: Iterable[int], since: float, now: float) -> Uses:
    """Of the remembered rules with these ids; and those that expired in [since, now]."""
    (recorded,) = db.execute(_RECORDED).fetchone()
    last = ((id, db.execute(_LAST, (id,)).fetchone()) for id in ids)
    return Uses(
        recorded,
        dict(db.execute(_SINCE)),
        {id: row[0] for id, row in last if row[0] is not None},
        tuple(db.execute(_EXPIRED, {"now": now, "since": since})),
    )
