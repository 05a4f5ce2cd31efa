"""A few columns of many records, for who reads a million of them. Raises sqlite3.Error."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from typing import Any

from arbiter.store import audit
from arbiter.store.filters import Wanted


def values(
    db: sqlite3.Connection, wanted: Wanted, columns: tuple[str, ...]
) -> Iterator[tuple[Any, ...]]:
    """Id, time and these columns of those that are wanted, the oldest first; read as taken."""
    if wanted.filters:  # few pass, and who finds them has all columns
        fields = ["by" if column == "by_user" else column for column in columns]
        for kept in audit.oldest(db, wanted):
            record = kept.record
            yield kept.id, record.time, *(getattr(record, field) for field in fields)
        return
    times = {
        "since": -math.inf if wanted.since is None else wanted.since,
        "until": math.inf if wanted.until is None else wanted.until,
    }
    yield from db.execute(
        f"SELECT id, time, {', '.join(columns)} FROM decisions INDEXED BY decisions_time"
        " WHERE time >= :since AND time < :until ORDER BY time, id",
        times,
    )
