"""Checkpoints: where the hash chains had come to, kept beside them and told to the journal."""

from __future__ import annotations

import re
import sqlite3

from msgspec import Struct

from arbiter.store.chain import FORMAT, Chain, end_of, format_of

START, STOP, DAY, RECORDS, RETENTION = "start", "stop", "day", "records", "retention"
_TEXT = re.compile(r"(decisions|rule_changes):([0-9]{1,18}):([0-9a-f]{34})", re.ASCII)
_COLUMNS = "chain, last, hash, time, count, why"


class Point(Struct, frozen=True):
    """The row with id `last` of a table had this hash."""

    chain: str
    last: int
    hash: bytes

    @property
    def text(self) -> str:
        """As `arbiter audit verify --checkpoint` takes it."""
        return f"{self.chain}:{self.last}:{self.hash.hex()}"


class Checkpoint(Point, frozen=True):
    """A row of table `checkpoints`; `count` rows were chained by then."""

    time: float
    count: int
    why: str


def read_point(text: str) -> Point:
    """The point that `Point.text` wrote. Raises ValueError."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError("it is not TABLE:ID:HASH, as the journal has it")
    point = Point(found[1], int(found[2]), bytes.fromhex(found[3]))
    if format_of(point.hash) is None:
        known = f"this arbiter knows none above {FORMAT}"
        raise ValueError(f"its hash has format {point.hash[0]}, and {known}")
    return point


def checkpoint(
    db: sqlite3.Connection, chain: Chain, why: str, now: float, at: int | None = None
) -> Checkpoint | None:
    """Write down, inside a transaction, where a chain has come to: its end, or the row `at`, which
    must be there. None where that row has no hash, or the newest checkpoint says the same.

    Before rows are cleared away, the last of them needs one of why `retention`, and they go in
    the order of their ids, from the first on.
    """
    end = end_of(db, chain)
    if end is None:
        return None
    last, hash, count = end.last, end.hash, end.count
    if at is not None:
        sql = f"SELECT hash FROM {chain.table} WHERE id = ?"
        last, hash = at, db.execute(sql, (at,)).fetchone()[0]
    if hash is None:
        return None  # before anything is counted: there may be millions that are older
    if at is not None:
        count = _count(db, chain, at)
    before = _newest(db, chain)
    if why != RETENTION and before is not None and before[0] == last:
        return None
    made = Checkpoint(chain.table, last, hash, now, count, why)
    db.execute(
        f"INSERT INTO checkpoints ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
        (made.chain, made.last, made.hash, made.time, made.count, made.why),
    )
    return made


def cleared(db: sqlite3.Connection, chain: Chain) -> int:
    """The id up to which rows may be gone already, as checkpoints say; 0 for none."""
    sql = "SELECT ifnull(max(last), 0) FROM checkpoints WHERE chain = ? AND why = ?"
    return int(db.execute(sql, (chain.table, RETENTION)).fetchone()[0])


def _newest(db: sqlite3.Connection, chain: Chain) -> tuple[int, int] | None:
    sql = "SELECT last, count FROM checkpoints WHERE chain = ? ORDER BY id DESC LIMIT 1"
    found: tuple[int, int] | None = db.execute(sql, (chain.table,)).fetchone()
    return found


def _count(db: sqlite3.Connection, chain: Chain, at: int) -> int:
    """Rows that were chained up to `at`: from the checkpoint before it, they are counted."""
    known = db.execute(
        "SELECT last, count FROM checkpoints WHERE chain = ? AND last <= ?"
        " ORDER BY last DESC, id DESC LIMIT 1",
        (chain.table, at),
    ).fetchone()
    since, count = known or (0, 0)
    sql = f"SELECT count(*) FROM {chain.table} WHERE id > ? AND id <= ? AND hash IS NOT NULL"
    return int(count) + int(db.execute(sql, (since, at)).fetchone()[0])


def checkpoints(db: sqlite3.Connection, chain: Chain) -> list[Checkpoint]:
    """All of a chain, in the order of the rows that they are about."""
    sql = f"SELECT {_COLUMNS} FROM checkpoints WHERE chain = ? ORDER BY last, id"
    return [Checkpoint(*row) for row in db.execute(sql, (chain.table,))]
