"""The compiled rules: a look-up that costs the same for 10 rules and for 100,000.

Tuple space search (Srinivasan, Suri, Varghese, SIGCOMM 1999): rules with the same *shape*, the
same set of conditions that can be compared exactly, share one dict, keyed by the values of
those conditions. A look-up asks each shape that exists once, the most specific first, and stops
when no later one can win. Cost follows the number of shapes in use, not of rules. Port lists and
ranges, `time=` and expiry are checked entry by entry in the few that share all exact conditions.

The memo is emptied by every change; an answer is in it only if no entry was met on the way, the
winner included, that holds at some times only. Entries that were not met rank below the winner, and
the winner holds until something changes.

A new exact condition is one more slot (shapes.py): a line in `_exact`, a value in `_values` (or,
where one query has several, a line in `shapes.MANY`), and its part in `rank.specificity`.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Hashable, Iterable, Iterator
from datetime import UTC, tzinfo
from operator import itemgetter

from msgspec import structs

from arbiter.model import PORT_PROTOS
from arbiter.rules import explain
from arbiter.rules.rank import NO_CONTEXT, ONE_PORT, Specificity, rank, specificity
from arbiter.rules.rule import (
    MAPPED,
    Address,
    Domain,
    Entry,
    Match,
    Name,
    Network,
    Query,
    is_number,
)
from arbiter.rules.scopes import scope_of
from arbiter.rules.shapes import (
    ADDRESS,
    APP,
    DOMAIN,
    GROUP,
    HOOK,
    NAME,
    PARENT,
    PORT,
    PREFIXES,
    PROCESS,
    PROTO,
    SCOPE,
    UID,
    USER,
    Bucket,
    Shape,
    ShapeId,
    context_slots,
    keys,
)
from arbiter.rules.spoken import Spoken
from arbiter.rules.week import holds, minute_of_week

MEMO = 1024
"""Answers that are remembered. A query and its answer take about half a kilobyte."""
_SEVERAL = (None,) * (PREFIXES - PARENT)
"""In place of the slots that have several values."""


class _Family:
    """What differs between IPv4 and IPv6: prefixes, and the shapes that can match."""

    __slots__ = ("prefixes", "shapes", "shifts", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self.prefixes: dict[int, int] = {}
        """Prefix length to slot. Never forgotten: there are 160 at most."""
        self.shifts: list[int] = []
        self.shapes: list[Shape] = []
        """Sorted by floor."""

    def slot(self, prefixlen: int) -> int:
        if prefixlen not in self.prefixes:
            self.prefixes[prefixlen] = PREFIXES + len(self.shifts)
            self.shifts.append(self.width - prefixlen)
        return self.prefixes[prefixlen]


class Index:
    """Entries in force, by id and by shape. The same whatever the order of changes.

    `zone` is where people here read clocks: it says when a rule with `time=` holds. Only new
    connections are asked about, so that nothing needs to be woken when such a rule begins or ends.
    """

    def __init__(self, entries: Iterable[Entry] = (), zone: tzinfo = UTC) -> None:
        self.zone = zone
        """May be set at any time."""
        self.spoken = Spoken()
        self._entries: dict[int, Entry] = {}
        self._shapes: dict[ShapeId, Shape] = {}
        self._families = {4: _Family(32), 16: _Family(128)}
        self._expiries: list[tuple[float, int]] = []
        """(expires, id) of the spans, sorted."""
        self._memo: dict[Query, Entry | None] = {}
        """Answers that hold until something changes, whatever the time is."""
        self._of_processes = 0
        """How many entries end with a process. Without one, no answer depends on which asks."""
        self._passing = False
        """Whether the look-up of this moment has met an entry that holds at some times only."""
        self.lasting = False
        """Whether the last look-up's answer holds until something changes, whatever the time is."""
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __contains__(self, id: object) -> bool:
        return id in self._entries

    @property
    def of_processes(self) -> bool:
        """Whether an entry ends with a process: then answers depend on which one asks."""
        return self._of_processes > 0

    def get(self, id: int) -> Entry | None:
        """The entry with this id."""
        return self._entries.get(id)

    # --- changes ----------------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Put an entry in force, in place of one with the same id."""
        self.remove(entry.id)
        self._memo.clear()
        self._entries[entry.id] = entry
        self.spoken.add(entry.rule.host)
        self._of_processes += entry.process is not None
        if entry.expires is not None:
            bisect.insort(self._expiries, (entry.expires, entry.id))
        id, key = self._place(entry)
        shape = self._shapes.get(id) or self._new_shape(id)
        bucket = shape.table.get(key)
        if bucket is None:
            shape.table[key] = entry
        elif isinstance(bucket, Entry):
            shape.table[key] = sorted((bucket, entry), key=rank)
        else:
            bisect.insort(bucket, entry, key=rank)

    def remove(self, id: int) -> None:
        """Put an entry out of force; nothing if there is none.

        A rule can end twice: its time is over, and somebody removed it meanwhile.
        """
        entry = self._entries.pop(id, None)
        if entry is None:
            return
        self._memo.clear()
        self.spoken.remove(entry.rule.host)
        self._of_processes -= entry.process is not None
        if entry.expires is not None:
            del self._expiries[bisect.bisect_left(self._expiries, (entry.expires, id))]
        shape_id, key = self._place(entry)
        table = self._shapes[shape_id].table
        bucket = table[key]
        if isinstance(bucket, list) and len(bucket) > 1:
            del bucket[bisect.bisect_left(bucket, rank(entry), key=rank)]
            return
        del table[key]
        if not table:
            shape = self._shapes.pop(shape_id)
            for family in self._families.values():
                if shape in family.shapes:
                    family.shapes.remove(shape)

    def _new_shape(self, id: ShapeId) -> Shape:
        shape = self._shapes[id] = Shape(id)
        for length, family in self._families.items():
            if id.family in (0, length):
                bisect.insort(family.shapes, shape, key=lambda each: each.id)
        return shape

    def _place(self, entry: Entry) -> tuple[ShapeId, Hashable]:
        """The shape of an entry, and its key there."""
        exact = self._exact(entry)
        floor = specificity(entry)
        if floor[7] != NO_CONTEXT:
            exact |= context_slots(entry.rule)
        slots = tuple(exact)
        ranges = floor[3] > ONE_PORT and bool(entry.rule.ports)
        if ranges:
            floor = (*floor[:3], ONE_PORT + 1, *floor[4:])
        host = entry.rule.host
        family = len(host.packed) if isinstance(host, Network) else 0
        values = tuple(exact.values())
        return ShapeId(floor, family, slots, ranges), values[0] if len(values) == 1 else values

    def _exact(self, entry: Entry) -> dict[int, Hashable]:
        """Slot to value, for every condition that can be compared exactly."""
        rule, host = entry.rule, entry.rule.host
        exact: dict[int, Hashable] = {}
        if rule.app:
            exact[APP] = rule.app
        if rule.parent:
            exact[PARENT] = rule.parent
        if isinstance(host, Address):
            exact[ADDRESS] = host.packed
        elif isinstance(host, Network):
            family = self._families[len(host.packed)]
            shift = family.width - host.prefixlen
            exact[family.slot(host.prefixlen)] = int.from_bytes(host.packed) >> shift
        elif isinstance(host, Name):
            exact[NAME] = host.name
        elif isinstance(host, Domain):
            exact[DOMAIN] = host.name
        elif host is not None:
            exact[SCOPE] = host.value  # not the enum: its hash is slow, and not its text's
        if len(rule.ports) == 1 and rule.ports[0][0] == rule.ports[0][1]:
            exact[PORT] = rule.ports[0][0]
        if rule.proto is not None:
            exact[PROTO] = rule.proto
        if rule.user.startswith("@"):
            group = rule.user[1:]
            exact[GROUP] = int(group) if is_number(group) else group
        elif rule.user:
            by_uid = is_number(rule.user)
            exact[UID if by_uid else USER] = int(rule.user) if by_uid else rule.user
        if rule.hook is not None:
            exact[HOOK] = rule.hook.value
        if entry.process is not None:
            exact[PROCESS] = entry.process
        return exact

    # --- questions --------------------------------------------------------------------------

    def lookup(self, query: Query, now: float) -> Entry | None:
        """The entry that decides `query` at `now` (epoch seconds). The hot path.

        A program that opens one connection after another asks the same again and again: what
        does not depend on the time is answered from the memo.
        """
        memo = self._memo
        if query.processes and not self._of_processes:
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
        family, values = self._values(query)
        port = values[PORT]
        best: Entry | None = None
        floor: Specificity | None = None
        for shape in family.shapes:
            if floor is not None and shape.floor > floor:
                break
            table = shape.table
            for key in keys(shape, query, values) if shape.many else (shape.key(values),):
                bucket = table.get(key)
                if bucket is None:
                    continue
                found = self._first(bucket, port, shape.ranges, now)
                if found is not None and (best is None or rank(found) < rank(best)):
                    best = found
                    floor = specificity(found) if shape.ranges else shape.floor
        return best

    def explain(self, query: Query, now: float) -> Match | None:
        """The same winner, with every entry it beat and why; None if nothing matches."""
        family, values = self._values(query)
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
        return [self._entries[id] for _, id in self._expiries[:ended]]

    def next_expiry(self) -> float | None:
        """Epoch seconds when the next entry ends (or has ended, and is still here)."""
        return self._expiries[0][0] if self._expiries else None

    def _values(self, query: Query) -> tuple[_Family, list[Hashable]]:
        """The query's value for each slot; None where nothing may match."""
        daddr = query.daddr
        if len(daddr) == 16 and daddr.startswith(MAPPED):
            daddr = daddr[12:]
        family = self._families.get(len(daddr))
        if family is None:
            raise ValueError(f"an address has 4 or 16 bytes, not {len(daddr)}")
        values: list[Hashable] = [
            query.app,
            query.uid,
            query.user,
            daddr,
            scope_of(daddr)._value_,
            query.dport if query.proto in PORT_PROTOS else None,
            query.proto,
            query.hook._value_,
            query.roaming,
            query.metered,
            query.profile,
            *_SEVERAL,
        ]
        if family.shifts:
            number = int.from_bytes(daddr)
            values += [number >> shift for shift in family.shifts]
        return family, values

    def _first(self, bucket: Bucket, port: Hashable, ranges: bool, now: float) -> Entry | None:
        """The best entry of a bucket that holds at `now` and, with `ranges`, covers `port`."""
        minute = -1
        for entry in (bucket,) if isinstance(bucket, Entry) else bucket:
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
            bucket = shape.table.get(key)
            if bucket is None:
                continue
            for entry in (bucket,) if isinstance(bucket, Entry) else bucket:
                if self._first(entry, values[PORT], shape.ranges, now):
                    yield entry


def _covers(ports: tuple[tuple[int, int], ...], port: int) -> bool:
    return any(low <= port <= high for low, high in ports)
