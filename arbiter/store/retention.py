"""Old rows are deleted in steps, each a short transaction; what they add up to stays in the sums.

Of records whole days (UTC) go, the oldest ids first. Those of open connections stay, and until the
sums of their day go so does the last record of each outcome and destination that nobody decided: a
review reads it. `pruned` says what went, and a checkpoint of the hash chain stands before it.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Container
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from arbiter.events import UNDECIDED
from arbiter.store import checkpoints, endedrules, forgotten, usagemonths
from arbiter.store.chain import DECISIONS
from arbiter.store.errors import explained
from arbiter.store.pruned import Gone, Notes, fold
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
    f"reason IN ({_UNDECIDED}) AND time >= (SELECT last FROM totals"
    " WHERE outcome = (SELECT outcomes.id FROM outcomes"
    f" WHERE {SAME_OUTCOME}) AND destination = (SELECT destinations.id FROM destinations"
    f" WHERE {SAME_DESTINATION}))"
)
_EDGE = (  # the first switch that stays: the active profile is in the last
    "(SELECT min(ifnull((SELECT min(id) FROM profile_switches WHERE time >= :sums), max(id)),"
    " max(id)) FROM profile_switches)"
)
_SWITCHES = (  # from the first on, so that none seems to be undone no more
    f"id < {_EDGE} AND id < ifnull((SELECT min(undoes) FROM profile_switches"
    f" WHERE id >= {_EDGE}), {_EDGE})"
)
_CHECKPOINTS = (  # about rows that are cleared away, but for what a row that is there follows
    f"time < :sums AND last < (SELECT max(newest.last) FROM checkpoints AS newest"
    f" WHERE newest.chain = checkpoints.chain AND newest.why = '{checkpoints.RETENTION}')"
    f" AND (why <> '{checkpoints.RETENTION}' OR NOT EXISTS (SELECT 1 FROM decisions"
    " WHERE chain = 'decisions' AND decisions.id = last + 1) AND NOT EXISTS (SELECT 1"
    " FROM rule_changes WHERE chain = 'rule_changes' AND rule_changes.id = last + 1))"
)
_SUMS = (
    ("daily", "day, outcome, destination", "day < :sums"),
    ("runs", "id", "ended < :sums"),
    ("gaps", "id", "time_to < :sums"),
    ("profile_switches", "id", _SWITCHES),
    ("checkpoints", "id", _CHECKPOINTS),
)
"""Tables of which rows of before `Plan.sums` go, their keys, and which rows."""


class Keeping(Struct, frozen=True):
    """How long rows are kept; 0 is for ever, or as many as there are."""

    days: int = 90
    """Records of single connections."""
    megabytes: int = 0
    """Of the database: above it the oldest days of records go, too."""
    sums_days: int = 1095
    """Sums by day, what was used by day, the daemon's runs and gaps, switches of profiles, and
    checkpoints of what is cleared away. Sums for all time stay."""
    rules_days: int = 1095
    """Rules that have ended, from their end on, with their changes."""
    usage_months: int = 120
    """What was used, by month: so many months before the running one."""
    destinations_days: int = 3650
    """Where it went what was not seen for so long, in the sums for all time."""


class Plan(Struct, frozen=True):
    """What goes: rows before these epoch seconds, each the beginning of a day; 0 for none."""

    records: float = 0.0
    sums: float = 0.0
    rules: float = 0.0
    """Rules that ended before."""
    usage_days: str = ""
    """Days of `usage` before this first of a month are added up into months; "" for none."""
    usage: str = ""
    """And months before this one are deleted."""
    destinations: float = 0.0
    """Sums for all time forget the destination of what was seen last before."""
    why: str = "age"
    """Of the records: `age` or `size`; of all: `asked`."""


class Retention:
    """The deleting of one open database. Every method raises StoreError."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db, self._path = connection, path
        self._rows = 100
        self._seen = 0  # the id up to which this plan has been carried out
        self._until: int | None = None  # and the one up to which it goes
        self._notes = Notes()
        self.gone = Counter[str]()
        """Rows that were deleted since `begin`, as `count` names them."""

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
        days, rules = keeping.sums_days, keeping.rules_days
        sums = today - days * DAY if days else 0.0
        return Plan(
            records,
            sums,
            today - rules * DAY if rules else 0.0,
            usagemonths.month_of(sums, now) if days else "",
            usagemonths.months_back(now, keeping.usage_months) if keeping.usage_months else "",
            today - keeping.destinations_days * DAY if keeping.destinations_days else 0.0,
            why,
        )

    def begin(self) -> None:
        """The next step is the first of a plan."""
        self._seen, self._until, self._notes, self.gone = 0, None, Notes(), Counter()

    def count(self, plan: Plan) -> dict[str, int]:
        """How many rows of each table a plan would delete; `usage_days`, `totals`: would add up."""
        out = {}
        with explained(self._path, "cannot count what is old"):
            for table, where, values in [("decisions", *_records_that_go(plan)), *_sums(plan)]:
                sql = f"SELECT count(*) FROM {table} WHERE {where}"
                (out[table],) = self._db.execute(sql, values).fetchone()
            out["rules"] = endedrules.count(self._db, plan.rules)
            out["usage_days"] = usagemonths.days(self._db, plan.usage_days)
            out["totals"] = forgotten.count(self._db, plan.destinations)
            out["usage"] = usagemonths.months(self._db, plan.usage)
        return out

    def step(self, plan: Plan, now: float) -> bool:
        """Delete some rows; False where nothing is left to do. Takes some STEP seconds."""
        started = time.monotonic()
        parts = (self._records, self._others, self._destinations)
        more = any(part(plan, now) for part in parts) or self._give_back()
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
            if not self._seen and self._until > checkpoints.cleared(self._db, DECISIONS):
                # One for all steps: rows that are there yet are no break of the chain. Nor are
                # those behind: a wider plan, which did not come to its end, wrote one for them.
                checkpoints.checkpoint(
                    self._db, DECISIONS, checkpoints.RETENTION, now, at=self._until
                )
            gone = self._db.execute(
                f"DELETE FROM decisions WHERE id > :seen AND id <= :last AND {where}",
                {**values, "last": last},
            ).rowcount
            self._tell([Gone("decisions", plan.records, gone)], plan.why, now)
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
        """A step of the first table that has something to go."""
        rows = self._rows
        parts: list[tuple[str, Callable[[], list[Gone]]]] = [
            ("ended rules", partial(endedrules.step, self._db, plan.rules, rows, now)),
            *(("sums", partial(self._sums_go, plan, table, key)) for table, key, _ in _SUMS),
            ("days of usage", partial(usagemonths.add_up, self._db, plan.usage_days, rows)),
            ("months of usage", partial(usagemonths.delete, self._db, plan.usage, rows)),
        ]
        for what, part in parts:
            with writing(self._db, self._path, f"cannot delete old {what}", durable=False):
                gone = part()
                self._tell(gone, "asked" if plan.why == "asked" else "age", now)
            if any(one.count for one in gone):
                return True
        if plan.sums:
            with writing(self._db, self._path, "cannot add up what was deleted", durable=False):
                fold(self._db, plan.sums)
        return False

    def _destinations(self, plan: Plan, now: float) -> bool:
        if not plan.destinations:
            return False
        what = "cannot forget old destinations"
        with explained(self._path, what):
            self._db.execute("PRAGMA foreign_keys = OFF")  # see forgotten.step
        try:
            with writing(self._db, self._path, what, durable=False):
                gone = forgotten.step(self._db, plan.destinations, self._rows)
                self._tell(gone, "asked" if plan.why == "asked" else "age", now)
        finally:
            with explained(self._path, what):
                self._db.execute("PRAGMA foreign_keys = ON")
        return bool(gone)

    def _sums_go(self, plan: Plan, table: str, key: str) -> list[Gone]:
        [(_, where, values)] = [one for one in _sums(plan) if one[0] == table]
        # All at once of switches, which refer to each other: there are some thousand at most.
        values["rows"] = -1 if table == "profile_switches" else self._rows
        sql = (
            f"DELETE FROM {table} WHERE ({key}) IN"
            f" (SELECT {key} FROM {table} WHERE {where} LIMIT :rows)"
        )
        return [Gone(table, plan.sums, self._db.execute(sql, values).rowcount)]

    def _tell(self, gone: list[Gone], why: str, now: float) -> None:
        for one in gone:
            self.gone[one.what] += one.count
            self._notes.tell(self._db, one, why, now)

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


def _sums(plan: Plan) -> list[tuple[str, str, dict[str, Any]]]:
    return [(table, where, {"sums": plan.sums}) for table, _, where in _SUMS]


def _day(now: float) -> float:
    return now // DAY * DAY


def asked(before: float, now: float, what: Container[str] = ("records",)) -> Plan:
    """What is older than an epoch second goes by somebody's wish, of these: `records`, `sums`,
    `rules`, `usage`, `destinations`. By whole days; of usage by months, but the last two."""
    day = _day(before)
    return Plan(
        records=day if "records" in what else 0.0,
        sums=day if "sums" in what else 0.0,
        rules=day if "rules" in what else 0.0,
        usage=usagemonths.month_of(before, now) if "usage" in what else "",
        destinations=day if "destinations" in what else 0.0,
        why="asked",
    )
