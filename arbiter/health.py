"""How the daemon is: the kernel's loss counters as they grow, and the reply to `status`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from arbiter import protocol
from arbiter.frontdesk import FrontDesk
from arbiter.kernel import firewall
from arbiter.kernel.queue import Counters, Queue
from arbiter.model import Peer
from arbiter.pipeline import Pipeline
from arbiter.rulesetkeeper import RulesetKeeper
from arbiter.settings import WhenAbsent

COUNTERS_EVERY = 2.0
"""Seconds between looks at the kernel's loss counters, while packets come."""
NOT_IN_FORCE = (
    "arbiter's rules are not in the kernel, somebody removed them: every new connection passes "
    "undecided; if they are not back in a moment, restart arbiter"
)
log = logging.getLogger("arbiter")


class Health:
    """What is told of a running daemon. `problems` asks every room for its own, as an admin is
    told of them or (False) as everybody is."""

    def __init__(
        self,
        pipeline: Pipeline,
        queue: Queue,
        ruleset: RulesetKeeper,
        problems: Callable[[bool], Iterable[str]],
        records_lost: Callable[[], int],
    ) -> None:
        self._pipeline, self._queue, self._ruleset = pipeline, queue, ruleset
        self._problems = problems
        self._records_lost = records_lost
        self._looks = firewall.Looks()
        self._counting: asyncio.TimerHandle | None = None
        self._counted = Counters(0, 0, 0, 0)

    def packet_came(self) -> None:
        """Look at the counters soon; on the hot path."""
        if self._counting is None:
            loop = asyncio.get_running_loop()
            self._counting = loop.call_later(COUNTERS_EVERY, self._check)

    def close(self) -> None:
        """Look no more."""
        if self._counting is not None:
            self._counting.cancel()

    def _check(self) -> None:
        """Say what was lost on the way to us; runs on only while packets come."""
        counters, last = self._queue.counters(), self._counted
        self._counted = counters
        full = counters.dropped_full - last.dropped_full
        lost = counters.dropped_socket - last.dropped_socket
        if full or lost:
            passed = self._pipeline.settings.when_absent is WhenAbsent.PASS
            log.warning(
                "too many new connections at once: %d found the queue full and %d the receive "
                "buffer; they were %s",
                full,
                lost,
                "let through undecided" if passed else "dropped, their programs try again",
            )
        self._counting = None
        if counters.total != last.total:
            self.packet_came()

    async def tell(self, desk: FrontDesk, client: int, peer: Peer) -> None:
        """Send a client how it is."""
        status = await self.status(desk.started, len(desk.server.prompts), peer.admin)
        desk.server.send(client, status)

    async def status(self, since: float, prompts: int, admin: bool) -> protocol.Status:
        """All of it. Looks into the kernel, which takes a moment where anything changed since: are
        the rules what they should be? `since`: epoch seconds of the start."""
        try:
            there = await asyncio.to_thread(self._looks.installed)
            ruleset = there.problems if there else (NOT_IN_FORCE,)
        except firewall.FirewallError as error:
            ruleset = (f"the ruleset cannot be looked at: {error}",)
        self._queue.settle()
        pipeline, settings = self._pipeline, self._pipeline.settings
        kernel = self._queue.counters()
        counters = dict(pipeline.counters)
        counters.update(
            queued=kernel.total,
            dropped_full=kernel.dropped_full,
            dropped_socket=kernel.dropped_socket,
            overruns=self._queue.overruns,
            records_lost=self._records_lost(),
            repairs=self._ruleset.repairs,
        )
        return protocol.Status(
            mode=settings.mode.value,
            profile=pipeline.profiles.active,
            fallback=settings.fallback.value,
            backend=self._ruleset.backend.name,
            when_absent=settings.when_absent.value,
            queue=self._queue.number,
            uptime=time.time() - since,
            rules=len(pipeline.rules.index),
            asks=len(pipeline.asks),
            held=len(pipeline.held),
            prompts=prompts,
            counters=counters,
            problems=(*ruleset, *self._problems(admin), *self._queue.problems),
        )
