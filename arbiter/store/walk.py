"""A chain walked from its first row to its end: the first row that breaks it, and how. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import chain as joined
from itertools import pairwise
from typing import NamedTuple

from msgspec import Struct

from arbiter.store.chain import FORMATS, Chain, End, format_of, row_hash
from arbiter.store.checkpoints import RETENTION, Checkpoint, Point
from arbiter.store.rows import Value

STEP = 2000
"""Rows between two words about the progress."""
SLACK = 60.0
"""Seconds that a gap may be told early or late: records wait for company, and for the disk."""


class Broken(Struct, frozen=True):
    """What does not hold. `what` is one word: changed, missing, inserted, hash, cut, checkpoint,
    gone, untold, rule, deleted, sums, schema, damaged."""

    what: str
    text: str
    table: str = ""
    id: int | None = None
    time: float | None = None
    """Epoch seconds that the row gives."""


class Checked(Struct):
    """What a chain proves, and the first thing that breaks it."""

    table: str
    records: int = 0
    """Rows that hold together; up to the first broken one."""
    older: int = 0
    """Rows from before there was a chain: nothing is known of them."""
    first: int | None = None
    last: int | None = None
    hash: str = ""
    """Of the last one, in hexadecimal digits."""
    cleared: int | None = None
    """Rows up to this id were cleared away by retention."""
    lost: int = 0
    """Ids that no row has, as a gap tells: their records are missing, or got other ids."""
    broken: Broken | None = None


class Row(NamedTuple):
    """A row of a chain's table; `values` are those of its columns, the id among them."""

    id: int
    time: float
    values: tuple[Value, ...]
    hash: bytes | None


class _Hole(NamedTuple):
    """So many ids without a row before the row `before`, between these times."""

    before: int
    ids: int
    since: float
    until: float


class Walk:
    """One walk; `found` is what came of it."""

    def __init__(
        self, chain: Chain, end: End, points: list[Checkpoint], given: Iterable[Point] = ()
    ) -> None:
        """`points` are the checkpoints in the database, by row; `given` those kept elsewhere."""
        self._chain, self._end = chain, end
        self._anchors = {point.last: point for point in points if point.why == RETENTION}
        """Rows that retention cleared away: the next one follows their hash."""
        self._cleared = self._anchors[max(self._anchors)] if self._anchors else None
        self._points: dict[int, list[Point]] = {}
        for point in (*points, *given):
            self._points.setdefault(point.last, []).append(point)
        self._before: bytes | None = None
        self._newest: Row | None = None
        self._counted: int | None = 0
        self._holes: list[_Hole] = []
        self.found = Checked(chain.table)

    def through(
        self,
        rows: Iterable[Row],
        gaps: list[tuple[float, float]],
        tick: Callable[[int], None],
    ) -> Checked:
        """Walk through all rows, in the order of their ids. `gaps` are times of which records are
        known to be missing; `tick` is told of rows that were read."""
        found, read = self.found, 0
        for row, following in pairwise(joined(rows, (None,))):
            assert row is not None
            read += 1
            if read % STEP == 0:
                tick(STEP)
            found.broken = self._row(row, following)
            if found.broken is not None:
                return found
        tick(read % STEP)
        found.broken = self._over() or self._untold(gaps)
        return found

    # --- row by row -------------------------------------------------------------------------

    def _row(self, row: Row, following: Row | None) -> Broken | None:
        if row.id < 1:
            return self._broken("inserted", row, "was put in: arbiter gives no such id")
        if row.id < self._end.first:
            self.found.older += 1
            if row.hash is not None:
                return self._broken("hash", row, "has a hash, and is older than its chain")
            return None
        if row.id > self._end.last:
            return self._broken("inserted", row, "was put in after the end of the chain")
        if self._newest is None and not self._begin(row):
            return self._how(row, following)
        self._skip_to(row)
        if self._newest is not None and not self._is_after(row, self._before):
            return self._how(row, following)
        if self._newest is not None and row.id > self._newest.id + 1:
            missing = row.id - self._newest.id - 1
            self._holes.append(_Hole(row.id, missing, self._newest.time, row.time))
        assert row.hash is not None, "it is after another, or begins"
        self._before, self._newest = row.hash, row
        self._counted = None if self._counted is None else self._counted + 1
        found = self.found
        found.records += 1
        found.first = row.id if found.first is None else found.first
        found.last, found.hash = row.id, row.hash.hex()
        return self._at_point(row)

    def _skip_to(self, row: Row) -> None:
        """Of the rows that retention cleared away some stay: open connections, for one. Where the
        row before such a one is gone, so is the hash that it follows, but for a checkpoint of it;
        and the first row behind them follows the checkpoint."""
        cleared, newest = self._cleared, self._newest
        if cleared is None or newest is None or newest.id >= cleared.last:
            return
        if row.id > cleared.last:
            self._before, self._counted = cleared.hash, cleared.count
            self._newest = newest._replace(id=cleared.last)
            self.found.cleared = cleared.last
        elif row.id > newest.id + 1 and (anchor := self._anchors.get(row.id - 1)) is not None:
            self._before, self._counted = anchor.hash, anchor.count
            self._newest = newest._replace(id=anchor.last)
        elif row.id > newest.id + 1:
            self._newest, self._counted = None, None

    def _begin(self, row: Row) -> bool:
        """Whether a chain may begin with this row: the first there ever was, or the first that
        retention has left."""
        cleared, first = self._cleared, self._end.first
        behind = cleared is not None and row.id > cleared.last
        known = cleared if behind else self._anchors.get(row.id - 1)
        if known is not None:
            self._before, self._counted, first = known.hash, known.count, known.last + 1
            self.found.cleared = known.last
        if self._is_after(row, self._before):
            if row.id > first:
                self._holes.append(_Hole(row.id, row.id - first, -math.inf, row.time))
            return True
        if cleared is not None and first < row.id <= cleared.last and row.hash is not None:
            # Retention has not come to its end yet. The hash before is gone with its row.
            self._counted, self.found.cleared = None, row.id - 1
            return True
        return False

    def _is_after(self, row: Row, before: bytes | None) -> bool:
        format = format_of(row.hash)
        return format is not None and self._hash(row, before, format) == row.hash

    def _hash(self, row: Row, before: bytes | None, format: int) -> bytes | None:
        try:
            return row_hash(self._chain, before, row.values, format)
        except UnicodeEncodeError:
            return None  # bytes that are no text, which arbiter never writes

    def _how(self, row: Row, following: Row | None) -> Broken:
        """What is wrong with a row that does not follow, by whether the next one does."""
        if row.hash is None:
            return self._broken("inserted", row, "has no hash: it was put in, or lost its hash")
        if following is not None and self._is_after(following, self._before):
            return self._broken("inserted", row, "was put in: the next one follows without it")
        newest = self._end.first - 1 if self.found.cleared is None else self.found.cleared
        newest = newest if self._newest is None else self._newest.id
        if row.id > newest + 1:
            span = f"{newest + 1} to {row.id - 1}"
            why = f"does not follow: what was before it ({span}) is missing, or it was changed"
            return self._broken("missing", row, why)
        for format in FORMATS:
            true = self._hash(row, self._before, format)
            if true is not None and following is not None and self._is_after(following, true):
                return self._broken("hash", row, "is as it was, and has another hash")
        return self._broken("changed", row, "was changed: its hash is that of something else")

    def _at_point(self, row: Row) -> Broken | None:
        for point in self._points.pop(row.id, ()):
            if point.hash != row.hash:
                why = f"is not as {_called(point)} says: the chain was written anew"
                return self._broken("checkpoint", row, why)
            if isinstance(point, Checkpoint) and self._counted not in (None, point.count):
                why = f"is number {self._counted}, and {_called(point)} counted {point.count}"
                return self._broken("checkpoint", row, why)
        return None

    def _broken(self, what: str, row: Row, why: str) -> Broken:
        text = f"{self._chain.table}: row {row.id} {why}"
        time = row.time if math.isfinite(row.time) else None
        return Broken(what, text, self._chain.table, row.id, time)

    # --- at the end -------------------------------------------------------------------------

    def _over(self) -> Broken | None:
        """Whether the end that was reached is the end of the chain, and of every checkpoint."""
        table, end, cleared = self._chain.table, self._end, self._cleared
        last, hash = end.first - 1, None
        if self._newest is not None:
            last, hash = self._newest.id, self._newest.hash
        elif cleared is not None:
            last, hash = cleared.last, cleared.hash
            self.found.cleared = last
        if (last, hash) != (end.last, end.hash):
            why = f"the last row is {last}, and the chain went on to {end.last}: it was cut off"
            if last == end.last:
                why = f"table chains has another hash for the last row, {last}"
            return Broken("cut", f"{table}: {why}", table, last)
        for id, points in sorted(self._points.items()):
            for point in points:
                missing = self._without(id, point)
                if missing is not None:
                    what = "gone" if cleared is not None and id <= cleared.last else "checkpoint"
                    return Broken(what, f"{table}: {_called(point)} {missing}", table, id)
        counted = self._counted if self._newest is not None or cleared is None else cleared.count
        if counted not in (None, end.count):
            why = (
                f"table chains counted {end.count} rows up to row {last}, and there were {counted}"
            )
            return Broken("cut", f"{table}: {why}", table, last)
        return None

    def _without(self, id: int, point: Point) -> str | None:
        """What is wrong where the row of a checkpoint is not there; None for nothing."""
        cleared = self._cleared
        if cleared is None or id > cleared.last:
            return f"is about row {id}, which is not there"
        same = [one.hash for one in self._points[id] if isinstance(one, Checkpoint)]
        if isinstance(point, Checkpoint) or point.hash in same:
            return None
        return f"is about row {id}, which retention has cleared away, and none here says the same"

    def _untold(self, gaps: list[tuple[float, float]]) -> Broken | None:
        """The first ids that were given to records of which neither a row nor a gap tells."""
        for hole in self._holes:
            first, last = sorted((hole.since, hole.until))  # somebody may have set the clock back
            if not any(a <= last + SLACK and b >= first - SLACK for a, b in gaps):
                table, before = self._chain.table, hole.before
                why = f"{hole.ids} ids before row {before} have no row, and no gap says why"
                return Broken("untold", f"{table}: {why}", table, before, hole.until)
            self.found.lost += hole.ids
        return None


def _utc(epoch: float) -> str:
    try:
        return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"epoch second {epoch:g}"  # no day of the calendar


def _called(point: Point) -> str:
    if isinstance(point, Checkpoint):
        return f"the checkpoint of {_utc(point.time)} ({point.why})"
    return "the checkpoint that was given"
