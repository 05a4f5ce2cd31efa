"""What becomes of the connections that passed, for their records: conntrack's word on each. Pure.

A record is written when its connection is decided, and completed as conntrack tells of it. What the
kernel says of an end is an end; one that is only missing was ended by nobody knows when. Those that
an earlier run left open are taken up again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from msgspec import Struct

from arbiter.events import Report
from arbiter.model import Flow, Packet
from arbiter.records import Progress, Running, State
from arbiter.usage import UNSEEN, Counted, figures, older

MAX_LIVES = 65_536
"""Connections followed; the oldest are given up first: nobody knows their end."""
_Figures = tuple[int, int, int, int]


class _Life(Struct, gc=False):
    id: int
    began: float
    """Epoch seconds of its first packet."""
    figures: _Figures | None = None
    """Bytes out and in, packets out and in, on the wire; None before conntrack told any."""
    replied: float | None = None
    unseen: int = 0


class Lives:
    """Each call gives what there is to write, if anything; what was given is not given again."""

    def __init__(self) -> None:
        self._lives: OrderedDict[Flow, _Life] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lives)

    def restore(self, running: Iterable[Running]) -> list[Progress]:
        """Take up what an earlier run left open, the oldest first."""
        given_up = (self._begin(one.flow, one.id, one.time) for one in running)
        return [progress for progress in given_up if progress is not None]

    def decided(self, id: int, report: Report) -> Progress | None:
        """A new connection; gives what is known of one that it pushes out. On the hot path."""
        if not follows(report):
            return None
        assert isinstance(report.packet, Packet), "it follows"
        return self._begin(report.packet.flow, id, report.wall - report.waited)

    def read(self, counted: Iterable[Counted], wall: float) -> list[Progress]:
        """All counters there are at this epoch second. A dump may miss an entry: one is gone after
        UNSEEN of them without it."""
        out: list[Progress] = []
        seen: set[Flow] = set()
        for entry in counted:
            life = self._lives.get(entry.flow)
            if life is None or older(entry, life.began):
                continue
            seen.add(entry.flow)
            if _count(life, entry, wall):
                out.append(_progress(life, State.OPEN))
        gone: list[Flow] = []
        for flow, life in self._lives.items():
            life.unseen = 0 if flow in seen else life.unseen + 1
            if life.unseen >= UNSEEN:
                gone.append(flow)
        out += (_progress(self._lives.pop(flow), State.UNKNOWN) for flow in gone)
        return out

    def ended(self, counted: Counted, wall: float) -> Progress | None:
        """Conntrack has forgotten an entry, with these counters, at this epoch second."""
        life = self._lives.get(counted.flow)
        if life is None or older(counted, life.began):
            return None
        del self._lives[counted.flow]
        _count(life, counted, wall)
        return _progress(life, State.CLOSED, wall)

    def _begin(self, flow: Flow, id: int, began: float) -> Progress | None:
        # The same ports again: the end of the one before was not told, and is not told later.
        before = self._lives.pop(flow, None)
        self._lives[flow] = _Life(id, began)
        if before is None and len(self._lives) > MAX_LIVES:
            _, before = self._lives.popitem(last=False)
        return None if before is None else _progress(before, State.UNKNOWN)


def follows(report: Report) -> bool:
    """Whether conntrack will have something to tell of it."""
    return report.verdict.passes and isinstance(report.packet, Packet)


def _count(life: _Life, entry: Counted, wall: float) -> bool:
    """Take its counters over; whether they say something new."""
    now = figures(entry)
    if now == life.figures:
        return False
    life.figures = now
    if life.replied is None and entry.in_packets:
        life.replied = wall
    return True


def _progress(life: _Life, state: State, closed: float | None = None) -> Progress:
    return Progress(life.id, state, life.replied, closed, *(life.figures or (None,) * 4))
