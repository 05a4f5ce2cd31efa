"""Watches the bus: the services on it, whoever owns their names, and the bus itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType

from dbus_fast import DBusFastError, Message

from arbiter.bus.calls import BUS, BUS_PATH, TIMEOUT, CallError, Calls, connected
from arbiter.bus.follow import Follower, Pace
from arbiter.bus.read import merge
from arbiter.bus.services import SERVICES
from arbiter.netfacts import NetFacts

SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
"""The D-Bus specification's "Well-known Message Bus Instances", without the old /var."""
ADDRESS_VARIABLE = "DBUS_SYSTEM_BUS_ADDRESS"
FIRST = 1.0
"""Seconds that `start` waits for the services' first answers."""
_ABSENT = (FileNotFoundError, ConnectionError)
"""No socket, or nobody behind it: a machine without D-Bus, or one whose bus restarts."""


class FactsWatch:
    """What NetworkManager, ModemManager and systemd-resolved know, by the kernel's interface names.

    `changed` gets all facts, at the start and after each change. `problem` gets a sentence when a
    service or the bus is there and cannot be read, and "" once all is well again; meanwhile what
    was read last stays. A service or a bus that is not there is no problem: it knows nothing. One
    event loop; nothing here is thread-safe.

    The bus is the one at `address`, else at DBUS_SYSTEM_BUS_ADDRESS, as for every program on
    libdbus, else the system bus. That variable is safe to believe: it is of the environment that
    root started the daemon with, and who sets that could as well start another program.
    """

    def __init__(
        self,
        changed: Callable[[Mapping[str, NetFacts]], None],
        problem: Callable[[str], None],
        *,
        address: str | None = None,
        pace: Pace = Pace(),  # noqa: B008 - frozen
        limit: float = TIMEOUT,
        first: float = FIRST,
    ) -> None:
        self._changed = changed
        self._problem = problem
        self._address = address or os.environ.get(ADDRESS_VARIABLE) or SYSTEM_BUS
        self._pace = pace
        self._limit = limit
        self._first = first
        self._followers = {
            service.name: Follower(service, self._tell, pace) for service in SERVICES
        }
        self._tasks: list[asyncio.Task[None]] = []
        self._calls: Calls | None = None
        self._moved: set[str] = set()
        self._bus_problem = ""
        self._said = ""
        self._started = False
        self.facts: Mapping[str, NetFacts] = MappingProxyType({})
        """The last facts told."""

    async def start(self) -> None:
        """Tell the first facts, within FIRST seconds whatever hangs, and watch from then on."""
        if self._tasks:
            raise RuntimeError("this watch is running: close it before starting it again")
        self._start_task(self._run(), "bus watch")
        for name, follower in self._followers.items():
            self._start_task(follower.run(), f"follow {name}")
        looked = [asyncio.ensure_future(f.looked.wait()) for f in self._followers.values()]
        try:
            await asyncio.wait(looked, timeout=self._first)
        finally:
            for waiting in looked:
                waiting.cancel()
        self._started = True
        self.facts = self._merged()
        self._changed(self.facts)

    async def close(self) -> None:
        """Stop; `changed` is not called any more. May be called twice."""
        tasks, self._tasks = self._tasks, []
        self._started = False
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def look(self) -> None:
        """Read the services again: for whoever sees that the kernel's interfaces have changed.

        systemd-resolved speaks of indexes, whose names change, and older ones do not signal that
        their servers did.
        """
        for follower in self._followers.values():
            follower.look()

    # --- the bus ------------------------------------------------------------------------------

    async def _run(self) -> None:
        delay = self._pace.retry
        while True:
            try:
                async with connected(self._address, self._signal, self._limit) as calls:
                    await self._subscribe(calls)
                    delay = self._pace.retry
                    self._bus_said("")
                    await calls.ended()
            except _ABSENT:
                self._bus_said("")
            except (OSError, DBusFastError, CallError) as error:
                self._bus_said(
                    f"cannot use the D-Bus at {self._address}: {type(error).__name__}: {error}; "
                    "what NetworkManager and ModemManager know of links is unknown meanwhile, next "
                    f"try in {delay:g} s; see `busctl list`"
                )
            finally:
                self._calls = None
                for follower in self._followers.values():
                    follower.owned(None, "")
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._pace.retry_most)

    async def _subscribe(self, calls: Calls) -> None:
        """First what changes, then what is: nothing falls between."""
        self._calls = calls
        self._moved.clear()
        owners = f"type='signal',sender='{BUS}',path='{BUS_PATH}',member='NameOwnerChanged',arg0="
        rules = [f"{owners}'{name}'" for name in self._followers]
        for follower in self._followers.values():
            rules += follower.service.rules()
        await asyncio.gather(*map(calls.add_match, rules))
        found = await asyncio.gather(*map(calls.owner, self._followers))
        for (name, follower), owner in zip(self._followers.items(), found, strict=True):
            if name not in self._moved:  # a signal that came since then is newer
                follower.owned(calls, owner)

    def _signal(self, message: Message) -> None:
        if message.sender == BUS:
            if message.member == "NameOwnerChanged" and message.signature == "sss":
                name, _, owner = message.body
                if name in self._followers:
                    self._moved.add(name)
                    self._followers[name].owned(self._calls, owner)
            return
        for follower in self._followers.values():
            follower.signal(message)

    # --- telling ------------------------------------------------------------------------------

    def _merged(self) -> Mapping[str, NetFacts]:
        return MappingProxyType(merge(follower.part for follower in self._followers.values()))

    def _tell(self) -> None:
        self._say()
        if self._started and (merged := self._merged()) != self.facts:
            self.facts = merged
            self._changed(merged)

    def _bus_said(self, text: str) -> None:
        self._bus_problem = text
        self._say()

    def _say(self) -> None:
        problems = [self._bus_problem, *(f.problem for f in self._followers.values())]
        text = "\n".join(filter(None, problems))
        if text != self._said:
            self._said = text
            self._problem(text)

    def _start_task(self, run: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(run, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task never ends by itself: what `changed` or a bug threw is said, not lost."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._problem(
            f"{task.get_name()}: stopped by a fault in arbiter: {type(error).__name__}: {error}; "
            "restart arbiter, and please report it"
        )
