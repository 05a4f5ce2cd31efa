"""What the figures of a report cost does not grow with what was recorded before their span."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from auditscene import BEGAN, record

from arbiter.store import Store
from arbiter.store.figures import figures

STEP = 1000
"""Instructions of SQLite's machine between two calls."""


def steps(path: Path, older: int) -> int:
    """How many STEPs a report of 50 new destinations takes after so many older records."""
    with Store.open(path) as store:
        store.record([record(i / older, daddr="192.0.2.1") for i in range(older)])
        store.record([record(100 + i, daddr=f"198.51.100.{i}") for i in range(50)])
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1

    with closing(sqlite3.connect(path)) as db:
        db.set_progress_handler(tick, STEP)
        found = figures(db, BEGAN + 50, BEGAN + 1000, 100, lambda *_: "")
    assert len(found.new) == 50
    return count


def test_new_destinations_are_found_without_reading_all_that_was_before(tmp_path: Path) -> None:
    assert steps(tmp_path / "many.db", 2000) < 2 * steps(tmp_path / "few.db", 20) + 20
