"""What became of connections, in their records; the daemon's runs, and what is missing."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from msgspec import structs

from arbiter.model import PROTO_NUMBERS, Flow
from arbiter.records import Progress, Running
from arbiter.store.chain import DECISIONS, next_id
from arbiter.store.errors import explained
from arbiter.store.rows import storable
from arbiter.store.transaction import writing
from arbiter.store.usage import MAX_INTEGER

KILLED = "arbiter was killed, or the machine went down: its last second or so was not written"
_COMPLETE = (
    "UPDATE decisions SET state = ifnull(:state, state), closed = ifnull(:closed, closed),"
    " replied = ifnull(replied, :replied), count = ifnull(:count, count),"
    " out_bytes = ifnull(:out_bytes, out_bytes), in_bytes = ifnull(:in_bytes, in_bytes),"
    " out_packets = ifnull(:out_packets, out_packets), in_packets = ifnull(:in_packets, in_packets)"
    " WHERE id = :id"
)


class LifeRows:
    """The lives in one open database. Every method raises StoreError."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db, self._path = connection, path

    def complete(self, progress: Iterable[Progress]) -> None:
        """Write what connections have come to, all or none. One without a record is nothing."""
        rows = [
            {name: storable(value) for name, value in structs.asdict(one).items()}
            for one in progress
        ]
        with writing(self._db, self._path, "cannot complete decision records", durable=False):
            self._db.executemany(_COMPLETE, rows)

    def running(self) -> list[Running]:
        """Those whose records say that they are open, the oldest first."""
        sql = (
            "SELECT id, time - waited, proto, saddr, sport, daddr, dport FROM decisions"
            " INDEXED BY decisions_open WHERE state = 'open' ORDER BY id"
        )
        with explained(self._path, "cannot read the open connections"):
            found = self._db.execute(sql).fetchall()
        return [
            Running(id, time, flow)
            for id, time, *parts in found
            if (flow := _flow(*parts)) is not None
        ]

    def next(self) -> int:
        """The id for the next record."""
        with explained(self._path, "cannot read decision records"):
            return next_id(self._db, DECISIONS)

    def begin(self, now: float, first: int = MAX_INTEGER) -> int:
        """A run of the daemon began, at this epoch second: the id for the next record. Where the
        last run did not end, that is a gap. `first`: its own records have ids from this one on."""
        with writing(self._db, self._path, "cannot begin a run", durable=False):
            row = self._db.execute("SELECT started, ended FROM runs ORDER BY id DESC").fetchone()
            sql = "SELECT max(time) FROM decisions WHERE id < ?"
            (newest,) = self._db.execute(sql, (first,)).fetchone()
            if row is not None and row[1] is None:
                since = max(row[0], newest or 0.0)
                self._db.execute(_GAP, (since, max(since, now), None, KILLED))
                self._db.execute("UPDATE runs SET ended = ? WHERE ended IS NULL", (since,))
            self._db.execute("INSERT INTO runs (started) VALUES (?)", (now,))
            return next_id(self._db, DECISIONS)

    def end(self, now: float) -> None:
        """The run has ended in order, at this epoch second."""
        with writing(self._db, self._path, "cannot end a run", durable=False):
            self._db.execute("UPDATE runs SET ended = ? WHERE ended IS NULL", (now,))

    def gap(self, since: float, until: float, count: int | None, why: str) -> None:
        """Records of [since, until] in epoch seconds are missing, so many if it is known."""
        with writing(self._db, self._path, "cannot write what is missing", durable=False):
            self._db.execute(_GAP, (since, until, count, why))


_GAP = "INSERT INTO gaps (time_from, time_to, count, why) VALUES (?, ?, ?, ?)"


def _flow(proto: str, saddr: str, sport: int, daddr: str, dport: int) -> Flow | None:
    """The flow of a record; None where it is not as arbiter writes it."""
    family = socket.AF_INET6 if ":" in daddr else socket.AF_INET
    try:
        number = PROTO_NUMBERS[proto] if proto in PROTO_NUMBERS else int(proto)
        packed = socket.inet_pton(family, saddr), socket.inet_pton(family, daddr)
    except (OSError, ValueError):
        return None
    return Flow(number, packed[0], sport, packed[1], dport)
