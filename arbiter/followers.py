"""Those who follow: they hear of connections, of what these carry, and of links. In the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from arbiter import protocol, views
from arbiter.lives import Life, Lives
from arbiter.model import Peer
from arbiter.server import Server

SHOWN_AT_FIRST = 500
"""The newest connections that a new follower is told of: what an unread socket has room for."""
AT_ONCE = 500
"""Connections in one `traffic` message: it must fit into a line."""


class Followers:
    """Words are made only while somebody follows; `pace` is told whether somebody does."""

    def __init__(
        self,
        server: Server,
        lives: Lives,
        links: Callable[[], tuple[protocol.LinkState, ...]],
        pace: Callable[[bool], None],
    ) -> None:
        self._server, self._lives, self._links, self._pace = server, lives, links, pace
        self._told: tuple[protocol.LinkState, ...] = ()

    def follow(self, client: int, peer: Peer) -> None:
        """A client follows from now on: what is there, then what changes."""
        self._server.follow(client)
        self._pace(True)
        self._told = self._links()
        self._server.send(client, protocol.Links(self._told))
        mine = [life for life in self._lives.shown() if peer.may_answer(life.uid)]
        for life in mine[-SHOWN_AT_FIRST:]:
            self._server.send(client, views.connection_message(life))

    def decided(self, life: Life, before: Life | None) -> None:
        """A decision was made, which ended an older connection or none. On the hot path: one
        look-up without followers."""
        if self._server.followed:
            if before is not None:
                self._close((before,), life.began)
            self._server.tell(life.uid, lambda: views.connection_message(life))

    def moved(self, moved: Iterable[Life], gone: Iterable[Life], wall: float) -> None:
        """At this epoch second these have carried more, and those have ended."""
        if not self._server.followed:
            return
        by_uid: dict[int | None, list[Life]] = {}
        for life in moved:
            if life.report is not None:
                by_uid.setdefault(life.uid, []).append(life)
        for uid, mine in by_uid.items():
            for at in range(0, len(mine), AT_ONCE):
                self._move(uid, wall, mine[at : at + AT_ONCE])
        self._close(gone, wall)

    def looked(self) -> None:
        """All counters were read."""
        self._pace(self._server.followed)
        self.links()

    def ended(self, life: Life, wall: float) -> None:
        """A connection has ended, at this epoch second."""
        if self._server.followed:
            self._close((life,), wall)

    def links(self) -> None:
        """Links may have changed, or what was used of them."""
        if self._server.followed and (now := self._links()) != self._told:
            self._told = now
            self._server.tell(None, lambda: protocol.Links(now), everyone=True)

    def _move(self, uid: int | None, wall: float, some: list[Life]) -> None:
        moved = tuple(protocol.Moved(life.id, life.sent, life.received) for life in some)
        self._server.tell(uid, lambda: protocol.Traffic(wall, moved))

    def _close(self, gone: Iterable[Life], wall: float) -> None:
        for life in gone:
            if life.report is not None:  # else nobody was told of it, or has forgotten it
                self._server.tell(life.uid, partial(_closed, life, wall))


def _closed(life: Life, wall: float) -> protocol.Closed:
    return protocol.Closed(life.id, wall, life.sent, life.received)
