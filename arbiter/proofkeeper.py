"""With `audit.sync`, records come before verdicts: between the pipeline and the queue. In the loop.

Without it everything passes as it comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from arbiter.auditsettings import WhenUnwritten
from arbiter.events import Effect, Event, Report, Trouble
from arbiter.memory import Memory, now
from arbiter.model import Packet
from arbiter.pipeline import Pipeline
from arbiter.proofs import Given, Proofs
from arbiter.store import StoreError

log = logging.getLogger("arbiter")


class ProofKeeper:
    """What is held comes back by `carry_out`, as it was or refused."""

    def __init__(
        self,
        pipeline: Pipeline,
        memory: Memory,
        carry_out: Callable[[list[Effect]], None],
        dispatch: Callable[[Event], None],
    ) -> None:
        audit = pipeline.settings.audit
        self._on = audit.sync
        self._refuses = audit.when_unwritten is WhenUnwritten.DENY
        self._pipeline, self._memory = pipeline, memory
        self._carry_out, self._dispatch = carry_out, dispatch
        self._joined: Callable[[Report, str], object] = lambda report, link: None
        self._proofs = Proofs(audit.when_unwritten)
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._problem = ""

    def know(self, joined: Callable[[Report, str], object]) -> None:
        """`joined` gives the connection that a packet is of, if that was decided already: then it
        has its record."""
        self._joined = joined

    def hold(self, effects: list[Effect]) -> list[Effect]:
        """What of these is to be done now. On the hot path."""
        if not self._on:
            return effects
        seconds = self._pipeline.settings.writing
        rest = self._proofs.hold(effects, now(), seconds, self._known)
        if len(rest) != len(effects):
            self._idle.clear()
            self._write()
        return rest

    async def settle(self) -> None:
        """Until nothing waits for the disk."""
        await self._idle.wait()

    def problems(self) -> tuple[str, ...]:
        """What is wrong now, with its next step."""
        return (self._problem,) if self._problem else ()

    def _write(self) -> None:
        """Have the next batch written, if none is on its way."""
        batch = self._proofs.batch()
        if batch:
            for proof in batch:
                proof.id = self._memory.reserve()
            reports = [(proof.id, proof.report, self._link(proof.report)) for proof in batch]
            loop = asyncio.get_running_loop()
            self._memory.write_first(reports).add_done_callback(
                lambda done: loop.call_soon_threadsafe(self._written, done)
            )
        self._arm()

    def _known(self, report: Report) -> bool:
        return self._joined(report, self._link(report)) is not None

    def _link(self, report: Report) -> str:
        packet = report.packet
        ways = self._pipeline.ways
        link = ways.used(packet, report.link) if isinstance(packet, Packet) else None
        return link.name if link is not None and report.verdict.passes else ""

    def _written(self, done: Future[int]) -> None:
        error = done.exception()
        if error is None:
            given = self._proofs.written()
            self._works()
        elif isinstance(error, StoreError):
            self._memory.skipped()
            given = self._proofs.failed(str(error))
            self._fails(str(error))
        else:
            raise error
        self._give(given)
        self._write()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._proofs.next_due()
        if due is None:
            self._idle.set()
        else:
            pause = max(0.0, due - now().mono)
            self._timer = asyncio.get_running_loop().call_later(pause, self._overdue)

    def _overdue(self) -> None:
        given = self._proofs.overdue(now().mono)
        if given:
            self._fails("the disk takes too long; what slows it down: iostat -x, or another writer")
        self._give(given)
        self._arm()

    def _give(self, given: Iterable[Given]) -> None:
        for one in given:
            if one.id and not one.joined:
                self._memory.known(one.report.packet.id, one.id)
            self._carry_out([one.verdict, one.report, *one.then])

    def _fails(self, why: str) -> None:
        what = "new connections are refused" if self._refuses else "verdicts come before records"
        problem = f"{what}: audit.sync is on, and {why}"
        if not self._problem:
            log.error("%s", problem)
            self._dispatch(Trouble(now(), problem))
        self._problem = problem

    def _works(self) -> None:
        if self._problem:
            self._problem = ""
            log.warning("records are on disk before verdicts again")
            self._dispatch(Trouble(now(), "records can be written again: connections go on"))
