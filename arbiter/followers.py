"""Those who follow: they hear of connections, of what these carry, and of links. In the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

from arbiter import protocol, views
from arbiter.events import Report
from arbiter.livebook import Live, LiveBook
from arbiter.model import Peer
from arbiter.server import Server
from arbiter.usage import Counted

SHOWN_AT_FIRST = 500
"""The newest connections that a new follower is told of: what an unread socket has room for."""
AT_ONCE = 500
"""Connections in one `traffic` message: it must fit into a line."""


class Followers:
    """Words are made only while somebody follows; `pace` is told whether somebody does."""

    def __init__(
        self,
        server: Server,
        links: Callable[[], tuple[protocol.LinkState, ...]],
        pace: Callable[[bool], None],
    ) -> None:
        self._server, self._links, self._pace = server, links, pace
        self._book = LiveBook()
        self._told: tuple[protocol.LinkState, ...] = ()

    def follow(self, client: int, peer: Peer) -> None:
        """A client follows from now on: what is there, then what changes."""
        self._server.follow(client)
        self._pace(True)
        self._told = self._links()
        self._server.send(client, protocol.Links(self._told))
        mine = [live for live in self._book.all() if peer.may_answer(live.uid)]
        for live in mine[-SHOWN_AT_FIRST:]:
            self._server.send(client, views.connection_message(live))

    def decided(self, id: int, report: Report, link: str) -> None:
        """A decision was made, whose record has this id. On the hot path: two look-ups without
        followers."""
        live, before = self._book.decided(id, report, link)
        if self._server.followed:
            if before is not None:
                self._close((before,), report.wall)
            self._server.tell(live.uid, lambda: views.connection_message(live))

    def read(self, counted: Iterable[Counted]) -> None:
        """All counters there are."""
        moved, gone = self._book.read(counted)
        self._pace(self._server.followed)
        if not self._server.followed:
            return
        wall = time.time()
        by_uid: dict[int | None, list[Live]] = {}
        for live in moved:
            by_uid.setdefault(live.uid, []).append(live)
        for uid, mine in by_uid.items():
            for at in range(0, len(mine), AT_ONCE):
                self._move(uid, wall, mine[at : at + AT_ONCE])
        self._close(gone, wall)
        self.links()

    def ended(self, counted: Counted) -> None:
        """Conntrack has forgotten a connection."""
        live = self._book.ended(counted)
        if live is not None and self._server.followed:
            self._close((live,), time.time())

    def links(self) -> None:
        """Links may have changed, or what was used of them."""
        if self._server.followed and (now := self._links()) != self._told:
            self._told = now
            self._server.tell(None, lambda: protocol.Links(now), everyone=True)

    def _move(self, uid: int | None, wall: float, some: list[Live]) -> None:
        moved = tuple(protocol.Moved(live.id, live.sent, live.received) for live in some)
        self._server.tell(uid, lambda: protocol.Traffic(wall, moved))

    def _close(self, gone: Iterable[Live], wall: float) -> None:
        for live in gone:
            self._server.tell(live.uid, partial(_closed, live, wall))


def _closed(live: Live, wall: float) -> protocol.Closed:
    return protocol.Closed(live.id, wall, live.sent, live.received)
