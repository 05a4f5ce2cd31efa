"""The daemon's names: DNS answers on their way to programs, /etc/hosts, and whose answers count."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from arbiter.dnswire import Answers
from arbiter.events import Event, HostsRead, NamesLearned
from arbiter.kernel.dnsqueue import DnsQueue
from arbiter.kernel.filewatch import FileWatch
from arbiter.kernel.queue import QueueError
from arbiter.memory import now
from arbiter.model import Now
from arbiter.namefiles import WATCHED, NameFiles
from arbiter.names import GRACE, MAX_ADDRESSES
from arbiter.store import StoreError
from arbiter.store.records import LookedUp

LOOK = 30.0
"""Seconds between looks at /etc/hosts and the resolvers, while DNS answers come: for changes that
the kernel does not tell of."""
QUIET, LONGEST = 0.02, 0.5
"""As of FileWatch: editors and resolvers write these files in one go."""
RECALLED = 2 * MAX_ADDRESSES
"""Addresses with their names, as the records knew them, that are taken up at the start: more than
are kept, as names that rules speak of stay and others go."""
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
        self._watch = FileWatch(WATCHED, self.reload, self._blind, quiet=QUIET, longest=LONGEST)
        self._queue: DnsQueue | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._again = False
        self._problem = self._forgotten = self._unseen = ""

    async def start(self, looked_up: Callable[[float, int], Awaitable[Sequence[LookedUp]]]) -> None:
        """Take up what the records still know, and listen: before the ruleset sends anything, and
        once all rules are in force. Without a queue there are no names: rules by name do not match,
        and that is a problem, no error. `looked_up` is as Memory.looked_up."""
        try:
            self._watch.start()  # before they are read: a change in between is seen
        except OSError as error:
            self._blind(f"changes of /etc/hosts count up to {LOOK:.0f} s late: {error}")
        self._files.look_at_resolvers()
        self._files.look_at_hosts()
        self._dispatch(HostsRead(now(), self._files.hosts))
        await self._recall(looked_up)
        try:
            self._queue = DnsQueue(self._number, self._believes, self._learn)
        except QueueError as error:
            self._problem = f"no names are learned, and rules by name do not match: {error}"
            log.error("%s", self._problem)
            return
        self._queue.begin(asyncio.get_running_loop())

    async def _recall(
        self, looked_up: Callable[[float, int], Awaitable[Sequence[LookedUp]]]
    ) -> None:
        """Names of the records of the last GRACE: a decided connection keeps a name so long. To
        the pipeline they are answers of that time, with a TTL of nothing."""
        moment = now()
        try:
            found = await looked_up(moment.wall - GRACE, RECALLED)
        except StoreError as error:
            self._forgotten = f"names from before the start are not known: {error}"
            log.error("%s", self._forgotten)
            return
        for one in found:
            ago = max(0.0, moment.wall - one.time)  # a clock that went back: as if it were now
            then = Now(moment.mono - ago, moment.wall - ago)
            for name in reversed(one.names):
                self._dispatch(NamesLearned(then, Answers(name, (one.address,))))
        if found:
            log.info("names: those of %d addresses taken up from the records", len(found))

    def close(self) -> None:
        """Listen no more: answers go on by themselves."""
        self._watch.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
        if self._queue is not None:
            asyncio.get_running_loop().remove_reader(self._queue.fileno())
            self._queue.close()

    def reload(self) -> None:
        """Look at the files."""
        self._again = True
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look_at_files())

    @property
    def learned(self) -> int:
        """Answers that taught a name."""
        return self._queue.learned if self._queue is not None else 0

    def problems(self) -> tuple[str, ...]:
        """What keeps names from being known, each with its next step."""
        mine = [problem for problem in (self._problem, self._forgotten, self._unseen) if problem]
        return (*mine, *self._files.problems, *(self._queue.problems if self._queue else ()))

    def _believes(self, resolver: bytes) -> bool:
        return self._files.believes(resolver) or resolver in self._dns_servers()

    def _learn(self, answers: Answers) -> None:
        self._dispatch(NamesLearned(now(), answers))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        self._timer = None
        self.reload()

    def _blind(self, problem: str) -> None:
        self._unseen = problem
        if problem:
            log.error("%s", problem)

    async def _look_at_files(self) -> None:
        while self._again:
            self._again = False
            if await asyncio.to_thread(self._files.look_at_hosts):
                self._dispatch(HostsRead(now(), self._files.hosts))
            self._files.look_at_resolvers()
