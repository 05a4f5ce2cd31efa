"""Bytes per app, link and SIM: decided flows joined with conntrack's counters. Pure.

Conntrack counts (`kernel.conntrack` tells what), a verdict says whose the flow is, and the ledger
turns both into what was used since the last look. What it told is never told again, whatever gets
lost: an entry is known by its flow and conntrack's id of it, and only a baseline that was stored
together with what it led to is taken up again after a restart.

Figures are IP bytes, headers included, as operators bill them; see `on_wire`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta, timezone, tzinfo

from msgspec import Struct, structs

from arbiter.model import Flow

MAX_FLOWS = 65_536
"""Flows of each kind that the ledger keeps. Of the opened ones the oldest go first: their bytes are
counted, for no app. Entries that find no room among the live ones are counted when they end."""
MAX_USED = 65_536
"""Different accounts that may wait to be stored; what is used beyond them is for no app."""
MISSES = 2
"""Reads in a row without a live entry before it counts as gone. One is not enough: a dump walks a
table that changes (nf_conntrack_hash_resize), and an entry that was forgotten while it is there
would be counted twice."""
UNSEEN = 3
"""Reads in a row without an entry of an opened flow before its account is forgotten."""
STEP = 128
"""Entries of a dump that are looked at in one step of `Ledger.reading`."""
MTU = 1500
"""Bytes; see `on_wire`. The same for all links: with one that changes, a baseline would too."""

CLOCKS = 1.0
"""Seconds by which the kernel's clock and a report's may differ."""

_HEADERS = {6: 20, 17: 8}


class Account(Struct, frozen=True, gc=False):
    """Whom bytes are counted for. Texts that a process chose may hold anything."""

    app: str = ""
    """The app's id; "" where nobody knows it any more."""
    user: str = ""
    link: str = ""
    """The link's name; "" for a default route that is no link."""
    sim: str = ""
    """ICCID of the SIM in it, "" for none."""


class Counted(Struct, frozen=True, gc=False):
    """A conntrack entry, as counted so far. `out` is the direction of the flow."""

    flow: Flow
    id: int
    """Conntrack's (CTA_ID): a hash of the entry's place in memory and its flow."""
    mark: int
    """Arbiter's bits, at the default place (`model.MARK_MASK`)."""
    out_bytes: int
    in_bytes: int
    out_packets: int
    in_packets: int
    started: int = 0
    """Nanoseconds since the epoch; 0 unless net.netfilter.nf_conntrack_timestamp is on."""

    @property
    def key(self) -> Key:
        """What it is known by. The flow alone is not enough: two tunnels may share a GRE flow."""
        return self.flow, self.id


Key = tuple[Flow, int]


class Used(Struct, frozen=True, gc=False):
    """What an account used on one day: bytes and packets on the wire, and new connections."""

    account: Account
    day: str
    """The local date, 2026-07-31."""
    out_bytes: int = 0
    in_bytes: int = 0
    out_packets: int = 0
    in_packets: int = 0
    connections: int = 0

    @property
    def size(self) -> int:
        """Bytes both ways."""
        return self.out_bytes + self.in_bytes


class OpenFlow(Struct, frozen=True, gc=False):
    """A live flow's baseline: what of it is in what was used."""

    account: Account
    counted: Counted


class Batch(Struct, frozen=True):
    """What to store in one transaction."""

    used: tuple[Used, ...] = ()
    open: tuple[OpenFlow, ...] = ()
    """Baselines, new or changed."""
    closed: tuple[Key, ...] = ()
    """Baselines of flows that are gone."""


def day_of(wall: float, zone: tzinfo | int) -> str:
    """The local date of an epoch time, as `Used.day`. `zone` as in `tariff.period_start`."""
    if isinstance(zone, int):
        zone = timezone(timedelta(seconds=zone))
    return datetime.fromtimestamp(wall, zone).date().isoformat()


def on_wire(flow: Flow, size: int, packets: int) -> tuple[int, int]:
    """(bytes, packets) that a link carries for what conntrack counted in one direction.

    Conntrack sees a large send before it is cut (GSO), and a large receive after it was joined
    (GRO): one packet with one header, where the wire has up to 44. For a bulk transfer that is 3 %
    of IPv4's and nearly 5 % of IPv6's bytes. Where packets are longer than a link carries on
    average, the missing ones are added, with the headers that each has at least.
    """
    wire = max(packets, -(-size // MTU))
    header = (20 if flow.family == 4 else 40) + _HEADERS.get(flow.proto, 0)
    return size + (wire - packets) * header, wire


def older(entry: Counted, began: float) -> bool:
    """Whether an entry began before epoch second `began` of a connection's first packet: then it is
    of an earlier one on the same ports, and told late."""
    return 0 < entry.started / 1e9 < began - CLOCKS


def delta(account: Account, day: str, now: Counted, last: Counted | None) -> Used:
    """What was used between two readings of an entry; `last` None for one that is new.

    Never negative. Counters of one direction are read one after the other while they grow, so
    that a packet may be counted before its bytes are: then a header is late by one reading.
    """
    new, old = figures(now), figures(last) if last else (0, 0, 0, 0)
    out_bytes, in_bytes, out_packets, in_packets = (
        max(0, n - o) for n, o in zip(new, old, strict=True)
    )
    new_ones = 0 if last else 1
    return Used(account, day, out_bytes, in_bytes, out_packets, in_packets, new_ones)


def figures(entry: Counted) -> tuple[int, int, int, int]:
    """Bytes out and in, packets out and in, on the wire, as in Used."""
    out_bytes, out_packets = on_wire(entry.flow, entry.out_bytes, entry.out_packets)
    in_bytes, in_packets = on_wire(entry.flow, entry.in_bytes, entry.in_packets)
    return out_bytes, in_bytes, out_packets, in_packets


def plus(first: Used, more: Used) -> Used:
    """Both together, for the account and day of the first."""
    return Used(
        first.account,
        first.day,
        first.out_bytes + more.out_bytes,
        first.in_bytes + more.in_bytes,
        first.out_packets + more.out_packets,
        first.in_packets + more.in_packets,
        first.connections + more.connections,
    )


class Pending:
    """What waits to be stored, merged: as large as what it is about, however long it waits."""

    def __init__(self) -> None:
        self._used: dict[tuple[Account, str], Used] = {}
        self._open: dict[Key, OpenFlow] = {}
        self._closed: dict[Key, None] = {}

    def __bool__(self) -> bool:
        return bool(self._used or self._open or self._closed)

    def use(self, used: Used) -> None:
        """Add what was used; beyond MAX_USED accounts, for no app of the same link."""
        key = (used.account, used.day)
        if key not in self._used and len(self._used) >= MAX_USED:
            account = Account(link=used.account.link, sim=used.account.sim)
            used, key = structs.replace(used, account=account), (account, used.day)
        known = self._used.get(key)
        self._used[key] = plus(known, used) if known else used

    def keep(self, flow: OpenFlow) -> None:
        """A flow's new baseline."""
        key = flow.counted.key
        self._closed.pop(key, None)
        self._open[key] = flow

    def forget(self, key: Key) -> None:
        """A flow is gone, and its baseline with it."""
        self._open.pop(key, None)
        self._closed[key] = None

    def add(self, batch: Batch) -> None:
        """Everything of a batch that is later than what is here."""
        for used in batch.used:
            self.use(used)
        for flow in batch.open:
            self.keep(flow)
        for key in batch.closed:
            self.forget(key)

    def take(self) -> Batch:
        """All of it; then nothing waits here."""
        batch = Batch(tuple(self._used.values()), tuple(self._open.values()), tuple(self._closed))
        self._used, self._open, self._closed = {}, {}, {}
        return batch


class _Opened(Struct):
    account: Account
    unseen: int = 0


class _Live(Struct):
    account: Account
    last: Counted
    misses: int = 0


class Ledger:
    """Joins verdicts with counters. `read` and `ended` give what was used since the last look.

    `unknown` gives the account of an entry that nobody here opened, by the number of the link in
    its mark (0: the default route). `zone` is the local time zone (see `tariff.period_start`) and
    may be set anew; what is used counts for the day on which it was read.
    """

    def __init__(
        self,
        unknown: Callable[[int], Account],
        zone: tzinfo | int,
        *,
        bound: int = MAX_FLOWS,
    ) -> None:
        self.zone = zone
        self.crowded = 0
        """Entries that found no room at the last read: they are counted when they end."""
        self._unknown = unknown
        self._bound = bound
        self._opened: OrderedDict[Flow, _Opened] = OrderedDict()
        self._live: dict[Key, _Live] = {}
        self._ended: OrderedDict[Key, None] = OrderedDict()
        self._pending = Pending()

    def __len__(self) -> int:
        return len(self._live)

    @property
    def idle(self) -> bool:
        """No flow is open: there is nothing to read."""
        return not self._live and not self._opened

    def restore(self, flows: Iterable[OpenFlow]) -> None:
        """Take up the baselines that an earlier run stored, before the first read."""
        for flow in flows:
            self._live[flow.counted.key] = _Live(flow.account, flow.counted)

    def opened(self, flow: Flow, account: Account) -> None:
        """A verdict lets this flow begin. Share the Account among flows: it is kept."""
        self._opened.pop(flow, None)  # the newest is the last to go
        self._opened[flow] = _Opened(account)
        if len(self._opened) > self._bound:
            self._opened.popitem(last=False)

    def read(self, counted: Iterable[Counted], wall: float) -> tuple[Used, ...]:
        """All entries that there are: a dump, whole, taken after the last `read` was told.

        It may be older than the `ended` told meanwhile: what has ended stays so. `wall`: epoch
        seconds.
        """
        told = Pending()
        for some in self.reading(counted, wall):
            for used in some:
                told.use(used)
        return told.take().used

    def reading(self, counted: Iterable[Counted], wall: float) -> Iterator[tuple[Used, ...]]:
        """`read` in steps of about a millisecond: with thousands of flows others want their turn.

        Anything else may be told between two steps, but no other read; go on to the end.
        """
        day = day_of(wall, self.zone)
        present: set[Key] = set()
        joined: list[tuple[Flow, _Opened]] = []
        self.crowded = 0
        told = Pending()
        for number, entry in enumerate(counted, 1):
            if used := self._look(entry, day, present, joined):
                told.use(used)
            if number % STEP == 0:
                yield told.take().used
        self._ended.clear()
        for flow, opened in joined:
            if self._opened.get(flow) is opened:  # else opened anew meanwhile
                del self._opened[flow]
        self._forget_absent(present)
        yield told.take().used

    def ended(self, counted: Counted, wall: float) -> tuple[Used, ...]:
        """An entry is gone, with these counters (a DESTROY event). `wall`: epoch seconds."""
        key = counted.key
        live = self._live.pop(key, None)
        if live is not None:
            self._pending.forget(key)
        # A dump that is on its way may still have it.
        self._ended[key] = None
        if len(self._ended) > self._bound:
            self._ended.popitem(last=False)
        # Its account stays in _opened for a while: with one flow after the other on the same
        # ports, the next one's verdict may have been told before the end of this one.
        if live is not None and live.last == counted:
            return ()
        return (self._count(counted, live, day_of(wall, self.zone)),)

    def take(self) -> Batch:
        """What is to be stored since the last time, in one transaction."""
        return self._pending.take()

    def _look(
        self, entry: Counted, day: str, present: set[Key], joined: list[tuple[Flow, _Opened]]
    ) -> Used | None:
        """One entry of a dump. `joined` gets what is not needed any more: the live entry has its
        account then."""
        key = entry.key
        if key in self._ended:
            return None
        present.add(key)
        live = self._live.get(key)
        if live is None and len(self._live) >= self._bound:
            self.crowded += 1
            return None
        if live is not None and live.last == entry:
            return None
        used = self._count(entry, live, day)
        if live is None or not _same(live.last, entry):
            if (opened := self._opened.get(entry.flow)) is not None:
                joined.append((entry.flow, opened))
            live = self._live[key] = _Live(used.account, entry)
        live.last = entry
        self._pending.keep(OpenFlow(live.account, entry))
        return used

    def _count(self, entry: Counted, live: _Live | None, day: str) -> Used:
        """What is new in an entry."""
        if live is not None and _same(live.last, entry):
            used = delta(live.account, day, entry, live.last)
        else:
            opened = self._opened.get(entry.flow)
            if opened is not None:
                account = opened.account
            else:
                account = live.account if live else self._unknown(entry.mark >> 24 & 0x1F)
            used = delta(account, day, entry, None)
        self._pending.use(used)
        return used

    def _forget_absent(self, present: set[Key]) -> None:
        gone: list[Key] = []
        for key, live in self._live.items():
            live.misses = 0 if key in present else live.misses + 1
            if live.misses >= MISSES:
                gone.append(key)
        for key in gone:
            del self._live[key]
            self._pending.forget(key)
        waiting = {flow for flow, _ in present} if self._opened else set()
        old: list[Flow] = []
        for flow, opened in self._opened.items():
            opened.unseen = 0 if flow in waiting else opened.unseen + 1
            if opened.unseen >= UNSEEN:
                old.append(flow)
        for flow in old:
            del self._opened[flow]


def _same(last: Counted, now: Counted) -> bool:
    """Whether both are readings of one entry: counters only grow, and it began once.

    The id may come again: conntrack takes the same memory for the next entry of the same flow.
    """
    return (
        last.started == now.started
        and last.out_packets <= now.out_packets
        and last.in_packets <= now.in_packets
        and last.out_bytes <= now.out_bytes
        and last.in_bytes <= now.in_bytes
    )
