"""Looks at connections that began while nobody decided, once the ruleset is in force: see `older`.

In the loop; the kernel is asked in threads, a few at a time, so that no packet waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence

from arbiter.accounts import not_silent
from arbiter.events import Cut, Event, OlderFound, Report
from arbiter.finder import Finder
from arbiter.kernel import undecided
from arbiter.memory import now
from arbiter.older import Fate, Older, fate

FIRST = 5.0
"""Seconds that the start waits for the first look: with very many connections it goes on later."""
LATER = 5.0
"""Seconds between looks at what was denied: whether it is over, or no longer denied."""
MOST = 256
"""Connections whose owners are asked for at a time."""
UNDECIDED = "what began while nobody decided may go on, whatever a rule says of it"
NEXT = "restart arbiter, or the programs that are not to go on"
log = logging.getLogger("arbiter")


class OlderKeeper:
    """`decided` gets the report of each connection that is refused from now on."""

    def __init__(
        self,
        mask: int,
        finder: Finder,
        dispatch: Callable[[Event], None],
        decided: Callable[[Report], None],
    ) -> None:
        self._mask, self._finder = mask, finder
        self._dispatch, self._decided = dispatch, decided
        self._wanted = asyncio.Event()
        self._looked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._said: Report | None = None
        """The report of `Cut`, while the pipeline is asked."""
        self._denied = False
        """Whether there are entries that are marked as denied."""
        self._again = False
        """Whether the last look failed."""
        self._problem = ""

    def look(self) -> None:
        """The ruleset is in force again: look at what began without it."""
        self._wanted.set()

    async def start(self) -> None:
        """Look, and on from now whenever it is wanted. What takes longer than FIRST goes on."""
        self._wanted.set()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(not_silent)
        try:
            await asyncio.wait_for(self._looked.wait(), FIRST)
        except TimeoutError:
            log.warning("connections from before the start are still being looked at")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def cut(self, effect: Cut) -> None:
        """The pipeline says that the one it was asked about is denied."""
        self._said = effect.report

    def problems(self) -> tuple[str, ...]:
        """What is wrong now, with its next step."""
        return (self._problem,) if self._problem else ()

    async def _run(self) -> None:
        while True:
            whole = await self._due()
            began = time.monotonic()
            self._again = False
            try:
                found = await asyncio.to_thread(undecided.read, self._mask, only_denied=not whole)
                problem = await self._settle(found, began)
            except OSError as error:
                problem, self._again = str(error), True
            self._says(problem)
            self._looked.set()

    async def _due(self) -> bool:
        """Until the next look is; whether it is at all there are, or at what is denied only."""
        try:
            async with asyncio.timeout(LATER if self._denied or self._again else None):
                await self._wanted.wait()
        except TimeoutError:
            return self._again
        self._wanted.clear()
        return True

    async def _settle(self, found: Sequence[Older], began: float) -> str:
        """Gives what hindered it."""
        hindered, looked, count = "", 0, {Fate.DENIED: 0, Fate.FORGOTTEN: 0}
        self._denied = any(one.denied for one in found)
        devices = [index for index, _ in socket.if_nameindex()]
        while looked < len(found):
            some = found[looked : looked + MOST]
            fates = await self._judge(some, devices)
            looked += len(fates)
            reports = {older: report for older, _, report in fates}
            wanted = [(older, what) for older, what, _ in fates if what is not Fate.STAYS]
            if not wanted:
                continue
            done, problem = await asyncio.to_thread(undecided.settle, wanted, self._mask)
            hindered = problem or hindered
            for older in done:
                report = reports[older]
                assert report is not None
                self._decided(report)
                self._denied |= not older.untracked
            count[Fate.DENIED] += len(done)
            count[Fate.FORGOTTEN] += sum(what is Fate.FORGOTTEN for _, what in wanted)
        if any(count.values()):
            log.info(
                "looked at %d connections that began undecided in %.2f s: %d are refused from now "
                "on, %d are forgotten",
                len(found),
                time.monotonic() - began,
                *count.values(),
            )
        return hindered

    async def _judge(
        self, some: Sequence[Older], devices: Sequence[int]
    ) -> list[tuple[Older, Fate, Report | None]]:
        """Of the first of these, as far as their owners were found in time."""
        owners = await self._finder.owners([one.packet for one in some], devices)
        fates: list[tuple[Older, Fate, Report | None]] = []
        for older, owner in zip(some, owners, strict=False):
            self._said = None
            self._dispatch(OlderFound(now(), older.packet, owner, older.denied))
            what = fate(older, owner, self._said is not None)
            fates.append((older, what, self._said))
            await asyncio.sleep(0)  # a packet first
        return fates

    def _says(self, why: str) -> None:
        problem = f"{UNDECIDED}: {why}; {NEXT}" if why else ""
        if problem and problem != self._problem:
            log.error("%s", problem)
        self._problem = problem
