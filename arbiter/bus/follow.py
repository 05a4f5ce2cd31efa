"""Follows one service: read when it comes, when it says that something changed, and once quiet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dbus_fast import Message
from msgspec import Struct

from arbiter.bus.calls import CallError, Calls
from arbiter.bus.read import NOTHING, Part, with_former
from arbiter.bus.services import Service


class Pace(Struct, frozen=True):
    """How long things take, in seconds."""

    quiet: float = 0.05
    """Without a signal; then the service is read."""
    longest: float = 0.5
    """After the first signal; then it is read in any case."""
    grace: float = 2.0
    """That a service may be away, as in a restart, before what it knew is forgotten."""
    takeover: float = 5.0
    """That a service which has just started may take to find again what its predecessor knew:
    NetworkManager answers before it has taken up the connections that it finds."""
    retry: float = 1.0
    """After a failure to reach the bus; doubled each time."""
    retry_most: float = 60.0
    unanswered: float = 10.0
    """After a failure to read a service that is there; doubled each time."""
    unanswered_most: float = 600.0


class Follower:
    """What one service knows, kept up to date by `run`.

    `part` is the last that was read, and `problem` says why it is not the newest, "" where it is;
    `told` is called after both may have changed. A service that is not there is no problem.
    """

    def __init__(self, service: Service, told: Callable[[], None], pace: Pace) -> None:
        self.service = service
        self.part: Part = NOTHING
        self.problem = ""
        self.looked = asyncio.Event()
        """Set once it is known what the service knows, if it is there."""
        self.reads = 0
        """How often the service was read."""
        self._told = told
        self._pace = pace
        self._calls: Calls | None = None
        self._owner = ""
        self._read_from = ""
        self._delay = 0.0
        self._former = NOTHING
        """What its predecessor knew, until `_until`, a time of the loop."""
        self._until = 0.0
        self._dirty = asyncio.Event()

    def owned(self, calls: Calls | None, owner: str) -> None:
        """The service's name has an owner now, a unique name on this connection; "" for none."""
        if self.looked.is_set() and (calls, owner) == (self._calls, self._owner):
            return  # the bus is away still: no reason to run, or to begin the grace anew
        self._calls, self._owner = calls, owner
        self._delay = 0.0
        self._dirty.set()

    def signal(self, message: Message) -> None:
        """A signal came to us; only its owner's count."""
        if (
            self._owner
            and message.sender == self._owner
            and self.service.matters(message.interface, message.member, message.body)
        ):
            self._dirty.set()

    def look(self) -> None:
        """Read it once more: something else changed that it depends on."""
        if self._owner:
            self._dirty.set()

    async def run(self) -> None:
        """Follow the service for ever. While nothing happens, nothing runs."""
        while True:
            await self._dirty_within(self._pause())
            await self._settle()
            self._dirty.clear()
            calls, owner = self._calls, self._owner
            if calls is not None and owner:
                await self._read(calls, owner)
            elif self.part == NOTHING or not await self._dirty_within(self._pace.grace):
                self._former = NOTHING
                self._keep(NOTHING, "", "")

    def _pause(self) -> float | None:
        """Seconds until it is read without news of it; None for never."""
        if self.problem:
            return self._delay
        if self._former != NOTHING and self._owner:
            return max(0.0, self._until - asyncio.get_running_loop().time())
        return None

    async def _read(self, calls: Calls, owner: str) -> None:
        self.reads += 1
        try:
            part = await self.service.read(calls, owner)
        except ConnectionError:
            return  # the bus went away; `owned` says so
        except (CallError, OSError) as error:
            if self._owner != owner:
                return  # it left while it was asked; `owned` has said so
            self._delay = max(self._delay * 2, self._pace.unanswered)
            self._delay = min(self._delay, self._pace.unanswered_most)
            # Another's knowledge is not kept: that process is gone, and this one may differ.
            part = self.part if self._read_from == owner else NOTHING
            self._keep(part, owner if part != NOTHING else "", self._trouble(error))
        else:
            self._delay = 0.0
            time = asyncio.get_running_loop().time()
            if self._read_from not in ("", owner):
                self._former, self._until = self.part, time + self._pace.takeover
            elif time >= self._until:
                self._former = NOTHING
            self._keep(with_former(part, self._former), owner, "")

    def _keep(self, part: Part, owner: str, problem: str) -> None:
        self.part, self._read_from, self.problem = part, owner, problem
        self.looked.set()
        self._told()

    def _trouble(self, error: Exception) -> str:
        return (
            f"cannot read what {self.service.title} knows of links: {error}; what it said before "
            f"stays in force, next try in {self._delay:g} s; "
            f"see `busctl status {self.service.name}`"
        )

    async def _settle(self) -> None:
        """Until no signal came for `quiet` seconds, but `longest` at most."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._pace.longest
        while (rest := until - loop.time()) > 0:
            self._dirty.clear()
            if not await self._dirty_within(min(self._pace.quiet, rest)):
                return

    async def _dirty_within(self, seconds: float | None) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._dirty.wait()
        except TimeoutError:
            return False
        return True
