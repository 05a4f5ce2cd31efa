"""The compiled rules: a look-up that costs the same for 10 rules and for 100,000.

Tuple space search (Srinivasan, Suri, Varghese, SIGCOMM 1999): rules with the same *shape*, the
same set of conditions that can be compared exactly, are found by a key, the values of those
conditions. A look-up asks each shape that exists once, the most specific first, and stops
when no later one can win. Cost follows the number of shapes in use, not of rules. Port lists and
ranges, `time=` and expiry are checked entry by entry in the few that share all exact conditions.

An entry that is alone with its key is packed (packed.py), under the hash of its shape and key, and
is made anew when it is asked for. What shares a key stays as it is, sorted, in the shape's dict.

The memo is emptied by every change; an answer is in it only if no entry was met on the way, the
winner included, that holds at some times only. Entries that were not met rank below the winner, and
the winner holds until something changes.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Hashable, Iterable, Iterator
from datetime import UTC, tzinfo
from operator import itemgetter

from msgspec import structs

from arbiter.rules import explain
from arbiter.rules.depends import Depends
from arbiter.rules.packed import Packed
from arbiter.rules.rank import Specificity, rank, specificity
from arbiter.rules.rule import Entry, Match, Query
from arbiter.rules.shapes import PORT, Bucket, Shape, ShapeId, keys
from arbiter.rules.slots import Slots
from arbiter.rules.spoken import Spoken
from arbiter.rules.week import holds, minute_of_week

MEMO = 1024
"""Answers that are remembered. A query and its answer take about half a kilobyte."""


class Index:
    """Entries in force, by id and by shape. The same whatever the order of changes.

    `zone` is where people here read clocks: it says when a rule with `time=` holds. Only new
    connections are asked about, so that nothing needs to be woken when such a rule begins or ends.
    """

    def __init__(self, entries: Iterable[Entry] = (), zone: tzinfo = UTC) -> None:
        self.zone = zone
        """May be set at any time."""
        self.spoken = Spoken()
        self._packed = Packed()
        self._shared: dict[int, Entry] = {}
        """Those that are not packed."""
        self._made: dict[int, tuple[Entry, ShapeId, Hashable]] = {}
        """By hash: packed ones that were asked for, and where they stand. MEMO at most."""
        self._numbers = itertools.count()
        self._shapes: dict[ShapeId, Shape] = {}
        self._slots = Slots()
        self._expiries: list[tuple[float, int]] = []
        """(expires, id) of the spans, sorted."""
        self._memo: dict[Query, Entry | None] = {}
        """Answers that hold until something changes, whatever the time is."""
        self.depends = Depends()
        self._passing = False
        """Whether the look-up of this moment has met an entry that holds at some times only."""
        self.lasting = False
        """Whether the last look-up's answer holds until something changes, whatever the time is."""
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._packed) + len(self._shared)

    def __iter__(self) -> Iterator[Entry]:
        """In any order."""
        return filter(None, map(self.get, self.ids()))

    def __contains__(self, id: int) -> bool:
        return id in self._shared or self._packed.has(id)

    def ids(self) -> Iterator[int]:
        """Of all entries, in any order."""
        return itertools.chain(self._shared, self._packed.ids())

    def holds(self, entry: Entry) -> bool:
        """Whether just this is in force."""
        return self.get(entry.id) == entry

    def get(self, id: int) -> Entry | None:
        """The entry with this id."""
        return self._shared.get(id) or self._packed.get(id)

    # --- changes ----------------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Put an entry in force, in place of one with the same id."""
        self.remove(entry.id)
        self._forget()
        self.spoken.add(entry.rule.host)
        self.depends.add(entry)
        if entry.expires is not None:
            bisect.insort(self._expiries, (entry.expires, entry.id))
        id, key = self._slots.place(entry)
        shape = self._shapes.get(id) or self._new_shape(id)
        shape.count += 1
        hash = shape.hash(key)
        bucket = shape.table.get(key)
        if bucket is None:
            alone = self._packed.under(hash)
            if alone is None:
                self._packed.add(entry, hash)
                return
            bucket = shape.table[key] = []
            if self._slots.place(alone) == (id, key):  # or the hash is the same by chance
                self._packed.remove(alone.id)
                self._shared[alone.id] = alone
                bucket.append(alone)
        bisect.insort(bucket, entry, key=rank)
        self._shared[entry.id] = entry

    def remove(self, id: int) -> None:
        """Put an entry out of force; nothing if there is none.

        A rule can end twice: its time is over, and somebody removed it meanwhile.
        """
        entry = self.get(id)
        if entry is None:
            return
        self._forget()
        self.spoken.remove(entry.rule.host)
        self.depends.remove(entry)
        if entry.expires is not None:
            del self._expiries[bisect.bisect_left(self._expiries, (entry.expires, id))]
        shape_id, key = self._slots.place(entry)
        shape = self._shapes[shape_id]
        if self._shared.pop(id, None) is None:
            self._packed.remove(id)
        else:
            bucket = shape.table[key]
            del bucket[bisect.bisect_left(bucket, rank(entry), key=rank)]
            if not bucket:
                del shape.table[key]
        shape.count -= 1
        if not shape.count:
            del self._shapes[shape_id]
            for family in self._slots.families.values():
                if shape in family.shapes:
                    family.shapes.remove(shape)

    def _forget(self) -> None:
        """What was found may not be what is found now."""
        self._memo.clear()
        self._made.clear()

    def _new_shape(self, id: ShapeId) -> Shape:
        shape = self._shapes[id] = Shape(id, next(self._numbers))
        for length, family in self._slots.families.items():
            if id.family in (0, length):
                bisect.insort(family.shapes, shape, key=lambda each: each.id)
        return shape

    # --- questions --------------------------------------------------------------------------

    def lookup(self, query: Query, now: float) -> Entry | None:
        """The entry that decides `query` at `now` (epoch seconds). The hot path.

        A program that opens one connection after another asks the same again and again: what
        does not depend on the time is answered from the memo.
        """
        memo = self._memo
        if query.processes and not self.depends.on_process:
            query = structs.replace(query, processes=())  # a new process of a known program, too
        self.lasting = True
        try:
            return memo[query]
        except KeyError:
            pass
        self._passing = False
        entry = self._search(query, now)
        self.lasting = not self._passing
        if self.lasting:
            if len(memo) >= MEMO:
                memo.clear()  # simpler than to find the oldest, and as good: it fills in no time
            memo[query] = entry
        return entry

    def _search(self, query: Query, now: float) -> Entry | None:
        family, values = self._slots.values(query)
        port = values[PORT]
        best: Entry | None = None
        floor: Specificity | None = None
        for shape in family.shapes:
            if floor is not None and shape.floor > floor:
                break
            for key in keys(shape, query, values) if shape.many else (shape.key(values),):
                bucket = self._bucket(shape, key)
                if bucket is None:
                    continue
                found = self._first(bucket, port, shape.ranges, now)
                if found is not None and (best is None or rank(found) < rank(best)):
                    best = found
                    floor = specificity(found) if shape.ranges else shape.floor
        return best

    def explain(self, query: Query, now: float) -> Match | None:
        """The same winner, with every entry it beat and why; None if nothing matches."""
        family, values = self._slots.values(query)
        found = sorted(
            itertools.chain.from_iterable(
                self._matching(shape, query, values, now) for shape in family.shapes
            ),
            key=rank,
        )
        if not found:
            return None
        winner, *beaten = found
        return Match(winner, tuple(beaten), explain.why(winner, beaten[0] if beaten else None))

    def expired(self, now: float) -> list[Entry]:
        """The entries whose time is over at `now` (epoch seconds), the earliest first."""
        ended = bisect.bisect_right(self._expiries, now, key=itemgetter(0))
        return list(filter(None, (self.get(id) for _, id in self._expiries[:ended])))

    def next_expiry(self) -> float | None:
        """Epoch seconds when the next entry ends (or has ended, and is still here)."""
        return self._expiries[0][0] if self._expiries else None

    def _bucket(self, shape: Shape, key: Hashable) -> Bucket | None:
        """The entries of a shape with that key."""
        if shape.table and (bucket := shape.table.get(key)) is not None:
            return bucket
        hash = shape.hash(key)
        made = self._made.get(hash)
        if made is None:
            entry = self._packed.under(hash)
            if entry is None:
                return None
            if len(self._made) >= MEMO:
                self._made.clear()
            made = self._made[hash] = (entry, *self._slots.place(entry))
        entry, id, its = made
        # Others choose the values of a query, and could look for one with the hash of a rule.
        return (entry,) if id == shape.id and its == key else None

    def _first(self, bucket: Bucket, port: Hashable, ranges: bool, now: float) -> Entry | None:
        """The best entry of a bucket that holds at `now` and, with `ranges`, covers `port`."""
        minute = -1
        for entry in bucket:
            rule = entry.rule
            if ranges and not (isinstance(port, int) and _covers(rule.ports, port)):
                continue
            if entry.expires is not None:
                self._passing = True
                if entry.expires <= now:
                    continue
            if rule.times:
                self._passing = True
                minute = minute if minute >= 0 else minute_of_week(now, self.zone)
                if not holds(rule.times, minute):
                    continue
            return entry
        return None

    def _matching(
        self, shape: Shape, query: Query, values: list[Hashable], now: float
    ) -> Iterator[Entry]:
        """Every entry of a shape that matches."""
        for key in keys(shape, query, values) if shape.many else (shape.key(values),):
            for entry in self._bucket(shape, key) or ():
                if self._first((entry,), values[PORT], shape.ranges, now):
                    yield entry


def _covers(ports: tuple[tuple[int, int], ...], port: int) -> bool:
    return any(low <= port <= high for low, high in ports)
