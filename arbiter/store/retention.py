"""Old rows are deleted in steps, each a short transaction; what they add up to stays in the sums.

Whole days (UTC) go, the oldest ids first. Records of open connections stay, and until the sums of
their day go so does the last record of each outcome and destination that nobody decided: a review
reads it. `pruned` says what went, and a checkpoint of the hash chain stands before it.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from arbiter.events import UNDECIDED
from arbiter.store import checkpoints
from arbiter.store.chain import DECISIONS
from arbiter.store.errors import explained
from arbiter.store.sums import DAY, SAME_DESTINATION, SAME_OUTCOME
from arbiter.store.transaction import writing

STEP = 0.02
"""Seconds that one step is to take: so long a person's answer may have to wait for it."""
FREE = 20
"""One page in so many stays free for what comes: giving it back would be work for nothing."""
PAGES = 64
"""Pages that one step gives back to the file system."""
_UNDECIDED = ", ".join(f"'{reason.value}'" for reason in UNDECIDED)
_LAST_OF_ITS_KIND = (
    f"reason IN ({_UNDECIDED}) AND time >= (SELECT last FROM totals"  # noqa: S608  # names from our code
    " WHERE outcome = (SELECT outcomes.id FROM outcomes"
    f" WHERE {SAME_OUTCOME}) AND destination = (SELECT destinations.id FROM destinations"
    f" WHERE {SAME_DESTINATION}))"
)


class Keeping(Struct, frozen=True):
    """How long rows are kept; 0 is for ever, or as many as there are."""

    days: int = 90
    """Records of single connections."""
    megabytes: int = 0
    """Of the database: above it the oldest days of records go, too."""
    sums_days: int = 1095
    """Sums by day, and the daemon's runs and gaps. Sums for all time stay."""


class Plan(Struct, frozen=True):
    """What goes: rows before these epoch seconds, each the beginning of a day; 0 for none."""

    records: float = 0.0
    sums: float = 0.0
    why: str = "age"
    """`age`, `size` or `asked`."""


class Retention:
    """The deleting of one open database. Every method raises StoreError."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db, self._path = connection, path
        self._rows = 100
        self._seen = 0  # the id up to which this plan has been carried out
        self._until: int | None = None  # and the one up to which it goes
        self._note: dict[str, int] = {}  # rows of `pruned` that count up
        self.gone = 0
        """Rows that were deleted since `begin`."""

    def plan(self, keeping: Keeping, now: float) -> Plan:
        """What goes at this epoch second. By size it is one day: ask again when that is done."""
        today = _day(now)
        records = today - keeping.days * DAY if keeping.days else 0.0
        why = "age"
        if keeping.megabytes:
            with explained(self._path, "cannot see how large the database is"):
                if self.size() > keeping.megabytes * 1_000_000:
                    oldest = self._oldest()
                    if oldest is not None and oldest < today:
                        records, why = max(records, _day(oldest) + DAY), "size"
        return Plan(records, today - keeping.sums_days * DAY if keeping.sums_days else 0.0, why)

    def begin(self) -> None:
        """The next step is the first of a plan."""
        self._seen, self._until, self._note, self.gone = 0, None, {}, 0

    def count(self, plan: Plan) -> dict[str, int]:
        """How many rows of each table a plan would delete."""
        out = {}
        with explained(self._path, "cannot count what is old"):
            for table, where, values in self._goes(plan):
                sql = f"SELECT count(*) FROM {table} WHERE {where}"  # noqa: S608  # our names
                (out[table],) = self._db.execute(sql, values).fetchone()
        return out

    def step(self, plan: Plan, now: float) -> bool:
        """Delete some rows; False where nothing is left to do. Takes some STEP seconds."""
        started = time.monotonic()
        more = self._records(plan, now) or self._others(plan, now) or self._give_back()
        took = time.monotonic() - started
        # As many as fit the time, on this machine and with its load.
        self._rows = max(10, min(int(self._rows * min(2.0, STEP / max(took, 1e-4))), 2000))
        return more

    def vacuum(self) -> None:
        """Write the database anew, without free pages and as one that can give them back. Nobody
        else can write meanwhile."""
        with explained(self._path, "cannot make the database smaller"):
            self._db.execute("PRAGMA temp_store = FILE")  # all rows are in it for a while
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of effect by VACUUM only
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA temp_store = MEMORY")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def size(self) -> int:
        """Bytes of the database that are in use."""
        page, pages, free = (self._pragma(n) for n in ("page_size", "page_count", "freelist_count"))
        return page * (pages - free)

    # --- one step ---------------------------------------------------------------------------

    def _records(self, plan: Plan, now: float) -> bool:
        if not plan.records:
            return False
        if self._until is None:
            self._until = self._newest_before(plan.records)
        if self._seen >= self._until:
            return False
        with writing(self._db, self._path, "cannot delete old records", durable=False):
            where, values = _records_that_go(plan)
            values.update(seen=self._seen, until=self._until, rows=self._rows)
            (last,) = self._db.execute(
                "SELECT max(id) FROM (SELECT id FROM decisions WHERE id > :seen AND id <= :until"
                " ORDER BY id LIMIT :rows)",
                values,
            ).fetchone()
            if last is None:
                self._seen = self._until
                return False
            if not self._seen:
                # One for all steps: rows that are there yet are no break of the chain.
                checkpoints.checkpoint(
                    self._db, DECISIONS, checkpoints.RETENTION, now, at=self._until
                )
            gone = self._db.execute(
                f"DELETE FROM decisions WHERE id > :seen AND id <= :last AND {where}",  # noqa: S608
                {**values, "last": last},
            ).rowcount
            self._tell("decisions", plan.records, gone, plan.why, now)
        self._seen = last
        return True

    def _newest_before(self, before: float) -> int:
        """The id up to which records may go: never the last there is, or its id came again."""
        with explained(self._path, "cannot read the decisions"):
            (until,) = self._db.execute(
                "SELECT max(id) FROM decisions WHERE id < ifnull((SELECT id FROM decisions"
                " INDEXED BY decisions_time WHERE time >= ? ORDER BY time, id LIMIT 1),"
                " (SELECT max(id) FROM decisions))",
                (before,),
            ).fetchone()
        return int(until or 0)

    def _others(self, plan: Plan, now: float) -> bool:
        for table, where, values in self._goes(plan)[1:]:
            key = "day, outcome, destination" if table == "daily" else "id"
            sql = (
                f"DELETE FROM {table} WHERE ({key}) IN"  # noqa: S608  # our names
                f" (SELECT {key} FROM {table} WHERE {where} LIMIT :rows)"
            )
            with writing(self._db, self._path, "cannot delete old sums", durable=False):
                gone = self._db.execute(sql, {**values, "rows": self._rows}).rowcount
                self._tell(table, plan.sums, gone, plan.why, now)
            if gone:
                return True
        return False

    def _goes(self, plan: Plan) -> list[tuple[str, str, dict[str, Any]]]:
        """Of each table the rows that go."""
        sums = {"sums": plan.sums}
        where, values = _records_that_go(plan)
        return [
            ("decisions", where, values),
            ("daily", "day < :sums", sums),
            ("runs", "ended < :sums", sums),
            ("gaps", "time_to < :sums", sums),
        ]

    def _tell(self, table: str, before: float, gone: int, why: str, now: float) -> None:
        if not gone:
            return
        self.gone += gone
        if table in self._note:
            sql = "UPDATE pruned SET count = count + ? WHERE id = ?"
            self._db.execute(sql, (gone, self._note[table]))
            return
        cursor = self._db.execute(
            "INSERT INTO pruned (time, what, before, count, why) VALUES (?, ?, ?, ?, ?)",
            (now, table, before, gone, why),
        )
        self._note[table] = cursor.lastrowid or 0

    def _give_back(self) -> bool:
        """Give free pages back, where the database was made to: auto_vacuum = INCREMENTAL."""
        with explained(self._path, "cannot make the database smaller"):
            if self._pragma("auto_vacuum") != 2:  # sqlite.org/pragma.html#pragma_auto_vacuum
                return False
            spare = self._pragma("freelist_count") - self._pragma("page_count") // FREE
            if spare > 0:
                self._db.execute(f"PRAGMA incremental_vacuum({min(spare, PAGES)})").fetchall()
        return spare > PAGES

    def _oldest(self) -> float | None:
        sql = (
            "SELECT time FROM decisions INDEXED BY decisions_time WHERE state <> 'open'"
            " ORDER BY time LIMIT 1"
        )
        row = self._db.execute(sql).fetchone()
        return None if row is None else float(row[0])

    def _pragma(self, name: str) -> int:
        (value,) = self._db.execute(f"PRAGMA {name}").fetchone()
        return int(value)


def _records_that_go(plan: Plan) -> tuple[str, dict[str, Any]]:
    where = "time < :before AND state <> 'open'"
    if plan.why != "size":
        # For lack of room they go, too.
        where += f" AND NOT (time >= :sums AND {_LAST_OF_ITS_KIND})"
    return where, {"before": plan.records, "sums": plan.sums}


def _day(now: float) -> float:
    return now // DAY * DAY


def asked(before: float, plan: Plan) -> Plan:
    """The same, with records before this epoch second by somebody's wish: of whole days."""
    return structs.replace(plan, records=_day(before), why="asked")
