"""The connections that run now, and the last that were refused: for whoever follows. Pure.

A verdict makes one, conntrack's counters tell what it carries, and its entry's end is the end of
it. What is kept is by reference: words are made only for those who follow.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

from msgspec import Struct

from arbiter.events import Report
from arbiter.model import Flow, Packet
from arbiter.usage import UNSEEN, Counted, figures, older

MAX_LIVE = 8192
"""Connections kept; the oldest are forgotten first, and go on unseen."""
MAX_REFUSED = 256
"""The last that were refused; they have no counters and no end."""


class Live(Struct, gc=False):
    """One decided connection. Bytes are those of IP packets, as `usage.on_wire` counts them."""

    id: int
    """Its number, and that of its record."""
    report: Report
    link: str
    """The link it leaves over; "" for none, or for a default route that is no link."""
    sent: int = 0
    received: int = 0
    unseen: int = 0
    """Looks at the counters in a row without it."""

    @property
    def uid(self) -> int | None:
        """Whose it is; None where that is nobody single."""
        owner = self.report.owner
        return None if owner is None else owner.uid


class LiveBook:
    """What `decided`, `read` and `ended` give is what those who follow should hear."""

    def __init__(self) -> None:
        self._live: OrderedDict[Flow, Live] = OrderedDict()
        self._refused: deque[Live] = deque(maxlen=MAX_REFUSED)

    def __len__(self) -> int:
        return len(self._live)

    def decided(self, id: int, report: Report, link: str) -> tuple[Live, Live | None]:
        """A new connection, and an older one of the same flow that it ends. On the hot path."""
        live = Live(id, report, link)
        packet = report.packet
        if not report.verdict.passes or not isinstance(packet, Packet):
            self._refused.append(live)
            return live, None
        before = self._live.pop(packet.flow, None)
        self._live[packet.flow] = live
        if len(self._live) > MAX_LIVE:
            self._live.popitem(last=False)
        return live, before

    def read(self, counted: Iterable[Counted]) -> tuple[list[Live], list[Live]]:
        """All counters there are: which connections carried more since, and which are gone.

        A dump walks a table that changes, and a new entry may be younger than it: one that is
        not in it counts as gone after UNSEEN looks only.
        """
        moved: list[Live] = []
        seen: set[Flow] = set()
        for entry in counted:
            live = self._live.get(entry.flow)
            if live is not None:
                seen.add(entry.flow)
                if _count(live, entry):
                    moved.append(live)
        gone: list[Flow] = []
        for flow, live in self._live.items():
            live.unseen = 0 if flow in seen else live.unseen + 1
            if live.unseen >= UNSEEN:
                gone.append(flow)
        return moved, [self._live.pop(flow) for flow in gone]

    def ended(self, counted: Counted) -> Live | None:
        """An entry is gone, with these counters: the connection that it was, if it is known."""
        live = self._live.get(counted.flow)
        if live is None or older(counted, live.report.wall - live.report.waited):
            return None
        del self._live[counted.flow]
        _count(live, counted)
        return live

    def all(self) -> list[Live]:
        """Those that run and the last that were refused, in the order in which they came."""
        return sorted([*self._refused, *self._live.values()], key=lambda live: live.id)


def _count(live: Live, entry: Counted) -> bool:
    """Take its counters over; whether they have grown. Others' flow may have been the same."""
    sent, received, _, _ = figures(entry)
    grown = (sent, received) != (live.sent, live.received)
    live.sent, live.received = sent, received
    return grown
