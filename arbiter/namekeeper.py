"""The daemon's names: DNS answers on their way to programs, /etc/hosts, and whose answers count."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from arbiter.dnswire import Answers
from arbiter.events import Event, HostsRead, NamesLearned
from arbiter.kernel.dnsqueue import DnsQueue
from arbiter.kernel.queue import QueueError
from arbiter.memory import now
from arbiter.namefiles import NameFiles

LOOK = 30.0
"""Seconds between looks at /etc/hosts and the resolvers, while DNS answers come."""
log = logging.getLogger("arbiter")


class NameKeeper:
    """`dns_servers` gives the packed addresses of all links' own DNS servers."""

    def __init__(
        self,
        number: int,
        dns_servers: Callable[[], frozenset[bytes]],
        dispatch: Callable[[Event], None],
    ) -> None:
        self._number, self._dns_servers, self._dispatch = number, dns_servers, dispatch
        self._files = NameFiles()
        self._queue: DnsQueue | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._problem = ""

    def start(self) -> None:
        """Listen; before the ruleset sends anything. Without a queue there are no names: rules by
        name do not match, and that is a problem, no error."""
        self._files.look_at_resolvers()
        self._files.look_at_hosts()
        self._dispatch(HostsRead(now(), self._files.hosts))
        try:
            self._queue = DnsQueue(self._number, self._believes, self._learn)
        except QueueError as error:
            self._problem = f"no names are learned, and rules by name do not match: {error}"
            log.error("%s", self._problem)
            return
        asyncio.get_running_loop().add_reader(self._queue.fileno(), self._queue.handle)

    def close(self) -> None:
        """Listen no more: answers go on by themselves."""
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
        if self._queue is not None:
            asyncio.get_running_loop().remove_reader(self._queue.fileno())
            self._queue.close()

    @property
    def learned(self) -> int:
        """Answers that taught a name."""
        return self._queue.learned if self._queue is not None else 0

    def problems(self) -> tuple[str, ...]:
        """What keeps names from being known, each with its next step."""
        mine = (self._problem,) if self._problem else ()
        return (*mine, *self._files.problems, *(self._queue.problems if self._queue else ()))

    def _believes(self, resolver: bytes) -> bool:
        return self._files.believes(resolver) or resolver in self._dns_servers()

    def _learn(self, answers: Answers) -> None:
        self._dispatch(NamesLearned(now(), answers))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        self._timer = None
        self._looking = asyncio.ensure_future(self._look_at_files())

    async def _look_at_files(self) -> None:
        if await asyncio.to_thread(self._files.look_at_hosts):
            self._dispatch(HostsRead(now(), self._files.hosts))
        self._files.look_at_resolvers()
