"""Decision records, read: the newest, one, and what they tell of names and rules."""

from __future__ import annotations

import ipaddress
import sqlite3
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from arbiter.hostname import host_name
from arbiter.records import Record, read_list, utf8
from arbiter.store import audit, filters, narrow, rows, sums
from arbiter.store.errors import explained
from arbiter.store.filters import Wanted
from arbiter.store.pruned import pruned_before
from arbiter.store.rows import Ended, Kept, Missing
from arbiter.store.sums import Group

_SELECT = f"SELECT id, {', '.join(rows.RECORD_COLUMNS)} FROM decisions"

if TYPE_CHECKING:
    from arbiter.store.figures import Figures


class LookedUp(Struct, frozen=True):
    """At `time` (epoch seconds) these names, the newest first, were known for a packed address."""

    time: float
    address: bytes
    names: tuple[str, ...]


class Records:
    """The records of one open database. Every method raises StoreError."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db, self._path = connection, path

    def newest(self, since: float, until: float | None, app: str, limit: int) -> list[Record]:
        """The newest `limit` records of [since, until) in epoch seconds, newest first."""
        sql = (
            f"{_SELECT} WHERE time >= :since AND (:until IS NULL OR time < :until)"
            " AND (:app = '' OR app = :app) ORDER BY time DESC, id DESC LIMIT :limit"
        )
        values = {"since": since, "until": until, "app": utf8(app), "limit": limit}
        with explained(self._path, "cannot read the decisions"):
            return [rows.record(row[1:]) for row in self._db.execute(sql, values).fetchall()]

    def passing(self, wanted: Wanted) -> Iterator[Kept]:
        """All that are wanted, the oldest first; read as they are taken."""
        with explained(self._path, "cannot read the decisions"):
            yield from audit.oldest(self._db, wanted)

    def values(self, wanted: Wanted, columns: tuple[str, ...]) -> Generator[tuple[Any, ...]]:
        """Id, time and these columns of all that are wanted, the oldest first; read as taken."""
        with explained(self._path, "cannot read the decisions"):
            yield from narrow.values(self._db, wanted, columns)

    def latest(self, wanted: Wanted, limit: int) -> list[Kept]:
        """The newest `limit` that are wanted, the oldest of them first."""
        with explained(self._path, "cannot read the decisions"):
            return list(islice(audit.newest(self._db, wanted), limit))[::-1]

    def after(self, wanted: Wanted, id: int, limit: int = -1) -> list[Kept]:
        """Those that are wanted and were written after the record with this id, in that order: the
        first `limit`, or all."""
        with explained(self._path, "cannot read the decisions"):
            return audit.after(self._db, wanted, id, limit)

    def grouped(
        self, wanted: Wanted, by: Mapping[str, tuple[str, ...]], limit: int
    ) -> dict[str, list[Group]]:
        """Those that are wanted, added up in several ways, each by its columns: the `limit` with
        the most records."""
        with explained(self._path, "cannot read the decisions"):
            return sums.grouped(self._db, wanted, by, limit)

    def new(self, since: float, columns: tuple[str, ...], limit: int) -> list[Group]:
        """What was not there before this epoch second, added up by columns."""
        with explained(self._path, "cannot read the decisions"):
            return sums.new(self._db, since, columns, limit)

    def figures(
        self,
        since: float,
        until: float,
        top: int,
        why: Callable[[str, int | None, str], str],
        done: Callable[[], object] = lambda: None,
    ) -> Figures:
        """What those of [since, until) in epoch seconds add up to, for a report."""
        from arbiter.store.figures import figures  # the daemon makes no reports

        with explained(self._path, "cannot read the decisions"):
            return figures(self._db, since, until, top, why, done)

    def pruned_before(self, table: str = "decisions") -> float:
        """The epoch second before which rows of a table were deleted; 0 for never."""
        with explained(self._path, "cannot read what was pruned"):
            return pruned_before(self._db, table)

    def gaps(self, since: float, until: float | None) -> list[Missing]:
        """What is known to be missing of [since, until] in epoch seconds."""
        sql = (
            "SELECT time_from, time_to, count, why FROM gaps"
            " WHERE time_to >= ? AND (? IS NULL OR time_from <= ?) ORDER BY id"
        )
        with explained(self._path, "cannot read the gaps"):
            return [Missing(*row) for row in self._db.execute(sql, (since, until, until))]

    def one(self, id: int) -> Kept | None:
        """The record with this id; None if there is none."""
        return self._one(f"{_SELECT} WHERE id = ?", id)

    def last(self) -> Kept | None:
        """The record written last; None where there is none at all."""
        return self._one(f"{_SELECT} ORDER BY id DESC LIMIT 1")

    def with_names(self, daddr: str, since: float) -> Kept | None:
        """The newest record since then, in epoch seconds, that knows names of an address."""
        where = "WHERE time >= ? AND daddr = ? AND names <> '[]' ORDER BY time DESC, id DESC"
        return self._one(f"{_SELECT} {where} LIMIT 1", since, daddr)

    def of_flow(self, proto: str, saddr: str, sport: int, daddr: str, dport: int) -> Kept | None:
        """The newest record of a connection between these ends."""
        where = "WHERE daddr = ? AND dport = ? AND saddr = ? AND sport = ? AND proto = ?"
        sql = f"{_SELECT} {where} ORDER BY time DESC, id DESC LIMIT 1"
        return self._one(sql, daddr, dport, saddr, sport, proto)

    def looked_up(self, since: float, limit: int) -> list[LookedUp]:
        """The addresses that records since then, in epoch seconds, know names of: the `limit` that
        were gone to last, the last of them at the end. What nobody could have looked up, and what
        is no list of names, is left out: a database may come from anywhere."""
        sql = (
            "SELECT daddr, names, max(last) FROM daily JOIN destinations ON id = destination"
            " WHERE day > :since - 86400 AND last >= :since AND names <> '[]'"
            " GROUP BY daddr, names ORDER BY 3 DESC LIMIT :limit"
        )
        with explained(self._path, "cannot read the decisions"):
            found = self._db.execute(sql, {"since": since, "limit": limit}).fetchall()
        return [made for row in reversed(found) if (made := _looked_up(*row)) is not None]

    def end_of(self, rule: int) -> Ended | None:
        """How the rule with this id was retired; None if it is in force, or never was."""
        sql = (
            "SELECT retired, retired_reason, retired_by, replaced_by FROM rules"
            " WHERE id = ? AND retired IS NOT NULL"
        )
        with explained(self._path, f"cannot read rule {rule}"):
            row = self._db.execute(sql, (rule,)).fetchone()
        return None if row is None else Ended(row[0], row[1], row[2] or "", row[3])

    def apps(self) -> set[str]:
        """Every app that a record names, as the records write it."""
        with explained(self._path, "cannot read the decisions"):
            return {str(app) for app in filters.distinct(self._db, "app") if app}

    def _one(self, sql: str, *values: Any) -> Kept | None:
        with explained(self._path, "cannot read the decisions"):
            row = self._db.execute(sql, values).fetchone()
        return None if row is None else Kept(row[0], rows.record(row[1:]))


def _looked_up(daddr: str, names: str, time: float) -> LookedUp | None:
    try:
        address = ipaddress.ip_address(daddr).packed
        texts = read_list(names)
    except (ValueError, RecursionError):
        return None
    clean = tuple(text for text in texts if host_name(utf8(text).encode()) == text)
    return LookedUp(time, address, clean) if clean else None
