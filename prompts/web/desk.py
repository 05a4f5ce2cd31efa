"""Between the routes and the daemon: pages that listen, the client, the clock, commands."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from typing import TypeVar

import msgspec

from arbiter.protocol import ClientMessage, ReadRecords, RecordFilters, SumRecords
from prompts.client import Client, ClientError
from prompts.commands import Commands, Done
from prompts.reading import Reading
from prompts.render import tidy
from prompts.web import recordviews, requests
from prompts.web.board import Reader
from prompts.web.console import Console
from prompts.web.gate import Gate
from prompts.web.requests import RequestError
from prompts.web.views import View

PAUSE_SECONDS = 0.1
"""Between two looks at what a page has not seen: a flood of asks is one line, not hundreds."""
ALIVE_SECONDS = 15.0
"""After so long without news a page is sent an empty line: one that is gone shows then."""
COMMANDS_AT_ONCE = 2
PAGE = 100
"""Records of one page."""
LAST, MAX_LINES = 20, 30
"""Records, and lines of sums, on an app's page."""

T = TypeVar("T")


class Desk:
    """One for all pages. `jobs` are to run as long as it is used."""

    def __init__(self, client: Client, gate: Gate) -> None:
        self.client, self.gate = client, gate
        self._commands = Commands(client.path)
        self._commands_at_once = asyncio.Semaphore(COMMANDS_AT_ONCE)
        self.console = Console()
        self._reading = Reading(client.send)
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._outbox: asyncio.Queue[ClientMessage] = asyncio.Queue()

    # --- for the routes ---------------------------------------------------------------------

    def pages(self) -> int:
        """How many are open."""
        return self.console.pages

    async def news(self) -> AsyncIterator[bytes]:
        """Lines for one page: everything, then what changes; until it or the console ends."""
        reader = Reader()
        self._send(self.console.opened())
        try:
            while not self._ended.is_set():
                self.console.refresh(time.time())
                changed = self._changed
                if line := reader.news(self.console.board):
                    yield line
                with contextlib.suppress(TimeoutError):  # nothing new: the page must still be there
                    async with asyncio.timeout(ALIVE_SECONDS):
                        await changed.wait()
                        await asyncio.sleep(PAUSE_SECONDS)
                        continue
                yield b"\n"
        finally:
            self._send(self.console.closed())

    async def carry_out(self, request: msgspec.Struct) -> object:
        """A page's request. Raises RequestError with the reason why not."""
        console, now = self.console, time.time()
        match request:
            case requests.Preview():
                return console.preview(request)
            case requests.Filter():
                return console.connections(request, now)
            case requests.AllApps():
                return console.apps()
            case requests.AppOf():
                return console.app(request.id)
            case requests.Audit() | requests.AppRecords():
                return await self._read(request)
            case requests.Disturb():
                self._send(console.disturb(request.away))
            case requests.Snoozing():
                await self._tell(console.snooze(request, now))
            case requests.Undoing():
                await self._tell(console.undo(request.rule_id))
            case requests.Answered():
                answer = console.answer(request)
                try:
                    await self._tell(answer)
                except RequestError:
                    console.unsent(answer)
                    raise
        self._wake()
        return {}

    async def _read(self, request: requests.Audit | requests.AppRecords) -> View:
        """Records, from the daemon. Raises RequestError with what it says."""
        try:
            if isinstance(request, requests.Audit):
                return await self._while_there(self._audit(request))
            return await self._while_there(self._app_records(request))
        except ClientError as error:
            raise RequestError(tidy(error.text)) from error

    async def _audit(self, request: requests.Audit) -> View:
        """A page of records. The daemon sends what fits into a message: ask for the rest, too."""
        before, after = request.before, request.after
        found: list[View] = []
        newest: int | None = None
        while True:
            question = ReadRecords(0, request.filters, PAGE - len(found), before, after)
            reply = await self._reading.records(question)
            rows = recordviews.record_views(reply)
            found += rows
            more = reply.more and bool(rows)
            newest = reply.last if newest is None else newest
            last = rows[-1]["id"] if rows else newest
            if not more or len(found) >= PAGE:
                # Where to look for new ones; not past those that are still to come.
                seen = last if more and after is not None else newest
                return {"rows": found, "more": more, "seen": seen}
            before, after = (last, None) if after is None else (None, last)

    async def _app_records(self, request: requests.AppRecords) -> View:
        filters = RecordFilters(app=request.id, since=request.since)
        by = recordviews.APP_SUMS
        sums = await self._reading.sums(SumRecords(0, by, filters, MAX_LINES))
        last = await self._reading.records(ReadRecords(0, filters, LAST))
        return recordviews.app_view(sums, last)

    async def run(self, *argv: str) -> Done:
        """`arbiter …`, unless the console ends before it does: that raises RequestError."""
        async with self._commands_at_once:
            return await self._while_there(self._commands.run(*argv))

    async def _while_there(self, work: Coroutine[None, None, T]) -> T:
        """What `work` gives. Raises RequestError where the console ends before: nobody reads what
        the daemon replies then, and a page would keep the console from ending."""
        task = asyncio.create_task(work)
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:  # the page may be gone, too
            ended.cancel()
            done = task.done() or not task.cancel()
        if done:
            return task.result()
        await asyncio.wait({task})
        raise RequestError("the console ends")

    # --- to and from the daemon -------------------------------------------------------------

    async def _tell(self, message: ClientMessage) -> None:
        """Send what a person wants. Raises RequestError if it cannot be sent."""
        try:
            await self.client.send(message)
        except ClientError as error:
            raise RequestError(error.text) from error

    def _send(self, messages: list[ClientMessage]) -> None:
        """Have sent what we say by ourselves. A page that is gone cannot wait for it."""
        for message in messages:
            self._outbox.put_nowait(message)
        self._wake()

    async def send(self) -> None:
        """What is to be sent. Without a connection it is said again after the next welcome."""
        while True:
            message = await self._outbox.get()
            with contextlib.suppress(ClientError):
                await self.client.send(message)

    def _wake(self) -> None:
        """Whoever waits for news looks."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def receive(self) -> None:
        """Until the client gives up, which raises ClientError."""
        async for event in self.client:
            if not self._reading.event(event):
                self._send(self.console.event(event, time.time()))

    async def clock(self) -> None:
        """Countdowns and charts go on by the second."""
        while True:
            await asyncio.sleep(1.0 - time.time() % 1.0)
            self._send(self.console.tick(time.time()))

    def jobs(self) -> tuple[Coroutine[None, None, None], ...]:
        """What runs as long as the console does; none of it ends by itself."""
        return self.receive(), self.send(), self.clock()

    def end(self) -> None:
        """Pages are told nothing more."""
        self._ended.set()
        self._wake()
