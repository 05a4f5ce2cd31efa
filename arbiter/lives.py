"""The connections that run: a verdict begins one, conntrack's word is what it carries and its end.

One book for the records, which are completed by it, and for whoever follows. What the kernel says
of an end is an end; one that is only missing was ended by nobody knows when. Those that an earlier
run left open are taken up again. What is kept is by reference: words are made where they are
wanted. Pure.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct

from arbiter.events import Reason, Report
from arbiter.model import DROPPED, Flow, Owner, Packet
from arbiter.records import Progress, Running, State
from arbiter.usage import CLOCKS, STEP, UNSEEN, Counted, figures, older

MAX_LIVES = 65_536
"""Connections kept; the oldest are given up first: nobody knows their end."""
MAX_SHOWN = 8192
"""Of them the newest are kept with all that is known of them; the others only for their record."""
MAX_REFUSED = 256
"""The last that were refused; they have no counters and no end."""
ON_ITS_WAY = 5.0
"""Seconds for which what follows a connection's first packet may have been queued before the kernel
had the verdict; as GRACE in given.py."""


class Life(Struct, gc=False, eq=False):
    """One decided connection."""

    id: int
    """Its number, and that of its record."""
    began: float
    """Epoch seconds of its first packet."""
    report: Report | None = None
    """What was decided; None where that is too long ago."""
    link: str = ""
    """The link it leaves over; "" for none, or for a default route that is no link."""
    state: State | None = State.OPEN
    """None for one that was refused."""
    figures: tuple[int, int, int, int] | None = None
    """Bytes out and in, packets out and in, as `usage.on_wire` counts them; None before conntrack
    told any."""
    replied: float | None = None
    """Epoch seconds by which a packet had come back."""
    closed: float | None = None
    count: int = 1
    """Its packets that came before the kernel had the verdict; see `joined`."""
    unseen: int = 0
    """Looks at the counters in a row without it."""

    @property
    def uid(self) -> int | None:
        """Whose it is; None where that is nobody single."""
        owner = self.report.owner if self.report is not None else None
        return None if owner is None else owner.uid

    @property
    def sent(self) -> int:
        """Bytes of IP packets so far."""
        return self.figures[0] if self.figures is not None else 0

    @property
    def received(self) -> int:
        """The same, the other way."""
        return self.figures[1] if self.figures is not None else 0


class News(NamedTuple):
    """What a look at the counters found: connections that carried more since, and those that are
    gone."""

    moved: list[Life]
    gone: list[Life]


class Lives:
    """What a call gives is what records and followers should hear; it is given once."""

    def __init__(self) -> None:
        self._lives: OrderedDict[Flow, Life] = OrderedDict()
        self._shown: OrderedDict[int, Life] = OrderedDict()
        self._refused: deque[Life] = deque(maxlen=MAX_REFUSED)
        self._of_refused: OrderedDict[Flow, Life] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lives)

    def restore(self, running: Iterable[Running]) -> list[Life]:
        """Take up what an earlier run left open, the oldest first; gives what finds no room."""
        given_up = (self._begin(one.flow, Life(one.id, one.time)) for one in running)
        return [life for life in given_up if life is not None]

    def joined(self, report: Report, link: str) -> Life | None:
        """The connection that is decided already and that this packet is of, too: it came before
        the kernel had the verdict, and has the same. None for a new one. On the hot path."""
        packet = report.packet
        if not isinstance(packet, Packet):
            return None
        lives = self._lives if report.verdict.passes else self._of_refused
        life = lives.get(packet.flow)
        if life is None or life.report is None or life.link != link:
            return None
        return life if together(life.report, report) else None

    def decided(self, id: int, report: Report, link: str) -> tuple[Life, Life | None]:
        """A new connection, and an older one that it ends or pushes out. On the hot path."""
        life = Life(id, report.wall - report.waited, report, link)
        packet = report.packet
        if not report.verdict.passes or not isinstance(packet, Packet):
            life.state = None
            self._refused.append(life)
            if isinstance(packet, Packet):
                self._of_refused[packet.flow] = life
                if len(self._of_refused) > MAX_REFUSED:
                    self._of_refused.popitem(last=False)
            return life, None
        self._shown[id] = life
        if len(self._shown) > MAX_SHOWN:
            _, oldest = self._shown.popitem(last=False)
            oldest.report = None
        return life, self._begin(packet.flow, life)

    def reading(self, counted: Sequence[Counted], wall: float) -> Iterator[News]:
        """All counters there are at this epoch second, in steps of about a millisecond: with
        thousands of connections others want their turn. Go on to the end.

        A dump walks a table that changes, and a new entry may be younger than it: one that is not
        in it counts as gone after UNSEEN of them only.
        """
        seen: set[Flow] = set()
        for at in range(0, len(counted), STEP):
            moved: list[Life] = []
            for entry in counted[at : at + STEP]:
                life = self._lives.get(entry.flow)
                if life is None or older(entry, life.began):
                    continue
                seen.add(entry.flow)
                if _count(life, entry, wall):
                    moved.append(life)
            yield News(moved, [])
        absent: list[Flow] = []
        for flow, life in self._lives.items():
            life.unseen = 0 if flow in seen else life.unseen + 1
            if life.unseen >= UNSEEN:
                absent.append(flow)
        yield News([], [self._end(self._lives.pop(flow), State.UNKNOWN) for flow in absent])

    def ended(self, counted: Counted, wall: float) -> Life | None:
        """Conntrack has forgotten an entry, with these counters, at this epoch second: the
        connection that it was, if it is known."""
        life = self._lives.get(counted.flow)
        if life is None or older(counted, life.began):
            return None
        del self._lives[counted.flow]
        _count(life, counted, wall)
        life.closed = wall
        return self._end(life, State.CLOSED)

    def shown(self) -> list[Life]:
        """The newest that run, and the last that were refused, in the order in which they came."""
        return sorted([*self._refused, *self._shown.values()], key=lambda life: life.id)

    def _begin(self, flow: Flow, life: Life) -> Life | None:
        # The same ports again: the end of the one before was not told, and is not told later.
        before = self._lives.pop(flow, None)
        self._lives[flow] = life
        if before is None and len(self._lives) > MAX_LIVES:
            _, before = self._lives.popitem(last=False)
        return None if before is None else self._end(before, State.UNKNOWN)

    def _end(self, life: Life, state: State) -> Life:
        life.state = state
        self._shown.pop(life.id, None)
        return life


def progress(life: Life) -> Progress:
    """What a connection has come to, for its record."""
    out_bytes, in_bytes, out_packets, in_packets = life.figures or (None,) * 4
    return Progress(
        life.id,
        life.state,
        life.replied,
        life.closed,
        out_bytes,
        in_bytes,
        out_packets,
        in_packets,
        count=life.count if life.count > 1 else None,
    )


def together(first: Report, later: Report) -> bool:
    """Whether two packets are of one connection, by one decision: the later one came before the
    kernel had the verdict on the first, and got the same.

    What passes is one connection as soon as conntrack has it, whatever decided its later packets.
    What is refused is never there: each try is one of its own, but for those that wait together,
    and for those that found no room, one after the other, which nobody decided.
    """
    if not (
        isinstance(first.packet, Packet)
        and isinstance(later.packet, Packet)
        and first.packet.flow == later.packet.flow
        and first.verdict == later.verdict
        and first.decision == later.decision
        and _holder(later) in (None, _holder(first))  # None: its socket is closed by now
    ):
        return False
    came, since = later.wall - later.waited, first.wall - first.waited
    if first.verdict.passes:
        return since - CLOCKS <= came <= first.wall + ON_ITS_WAY
    crowded = first.verdict == DROPPED and first.reason is Reason.OVERFLOW
    end = first.wall + (ON_ITS_WAY if crowded else 0.0)
    return first.reason is later.reason and since - CLOCKS <= came <= end


def _holder(report: Report) -> tuple[int, int] | None:
    owner = report.owner
    return (owner.processes[0].pid, owner.processes[0].start) if isinstance(owner, Owner) else None


def follows(report: Report) -> bool:
    """Whether conntrack will have something to tell of it."""
    return report.verdict.passes and isinstance(report.packet, Packet)


def _count(life: Life, entry: Counted, wall: float) -> bool:
    """Take its counters over; whether they say something new."""
    now = figures(entry)
    if now == life.figures:
        return False
    life.figures = now
    if life.replied is None and entry.in_packets:
        life.replied = wall
    return True
