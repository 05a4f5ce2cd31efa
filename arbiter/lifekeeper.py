"""Joins each verdict with what conntrack tells of its connection, once; records and followers hear
of it. In the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from arbiter.events import Report
from arbiter.followers import Followers
from arbiter.lives import Life, Lives, progress
from arbiter.memory import Memory
from arbiter.usage import Counted


class LifeKeeper:
    """Follows the connections of `lives`."""

    def __init__(
        self,
        lives: Lives,
        memory: Memory,
        followers: Followers,
        listen: Callable[[], None],
        settle: Callable[[], None],
    ) -> None:
        """`listen` has every end told that the kernel knows of by now; `settle` every decision."""
        self._lives, self._memory, self._followers = lives, memory, followers
        self._listen, self._settle = listen, settle
        self._settling = False

    async def begin(self) -> None:
        """A run begins: what the last one left open is followed again. Raises StoreError."""
        given_up = self._lives.restore(await self._memory.begin())
        self._memory.complete([progress(life) for life in given_up])

    @property
    def waits(self) -> bool:
        """Whether connections run whose end is still to come."""
        return len(self._lives) > 0

    def decided(self, report: Report, link: str) -> None:
        """A decision was made, for a connection that leaves over this link, if any. On the hot
        path: five look-ups without followers."""
        first = self.joined(report, link)
        if first is not None and not self._memory.recorded(report.packet.id):
            first.count += 1
            self._memory.joined(progress(first))
            return
        id = self._memory.report(report, link)
        life, before = self._lives.decided(id, report, link)
        if before is not None:
            self._memory.complete([progress(before)])
        self._followers.decided(life, before)

    def joined(self, report: Report, link: str) -> Life | None:
        """The connection that this packet is of, if that was decided already."""
        life = self._lives.joined(report, link)
        if life is None or not report.verdict.passes:
            return life
        self._listen()  # if that one has ended meanwhile, this is another on the same ports
        return self._lives.joined(report, link)

    def reading(self, counted: Sequence[Counted]) -> Iterator[None]:
        """All counters there are, in steps; see Lives.reading."""
        wall = time.time()
        for moved, gone in self._lives.reading(counted, wall):
            self._memory.complete([progress(life) for life in (*moved, *gone)])
            self._followers.moved(moved, gone, wall)
            yield
        self._followers.looked()

    def ended(self, counted: Counted) -> None:
        """Conntrack has forgotten a connection. What was decided before that comes before it."""
        if not self._settling:  # what is decided may have us listen for ends, and so on
            self._settling = True
            try:
                self._settle()
            finally:
                self._settling = False
        wall = time.time()
        life = self._lives.ended(counted, wall)
        if life is not None:
            self._memory.complete([progress(life)])
            self._followers.ended(life, wall)
