"""Questions about decision records, over a client that somebody else iterates.

reading = Reading(client.send)
reply = await reading.records(ReadRecords(0, filters))  # its number is given here
if not reading.event(event): ...                      # each event of the client, first
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from msgspec import structs

from arbiter.protocol import ClientMessage, ReadRecords, Records, Refused, SumRecords, Sums
from prompts.client import ClientError, Event, Lost

SECONDS = 30.0
"""How long a reply may take: others' questions come before."""
Question = ReadRecords | SumRecords
Reply = Records | Sums


class Reading:
    """One question at a time, as the daemon wants it; the others wait here."""

    def __init__(self, send: Callable[[ClientMessage], Awaitable[None]]) -> None:
        self._send = send
        self._turn = asyncio.Lock()
        self._number = 0
        self._reply: asyncio.Future[Reply] | None = None

    async def records(self, question: ReadRecords) -> Records:
        """Records. Raises ClientError as `ask` does."""
        reply = await self.ask(question)
        if not isinstance(reply, Records):
            raise ClientError("arbiter replied with something else than records")
        return reply

    async def sums(self, question: SumRecords) -> Sums:
        """Sums. Raises ClientError as `ask` does."""
        reply = await self.ask(question)
        if not isinstance(reply, Sums):
            raise ClientError("arbiter replied with something else than sums")
        return reply

    async def ask(self, question: Question) -> Reply:
        """The reply. Raises ClientError where the daemon refuses, is gone, or says nothing."""
        async with self._turn:
            self._number += 1
            reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            self._reply = reply
            try:
                async with asyncio.timeout(SECONDS):
                    await self._send(structs.replace(question, request=self._number))
                    return await reply
            except TimeoutError:
                text = f"arbiter did not find the records within {SECONDS:g} s: narrow it down"
                raise ClientError(text) from None
            finally:
                self._reply = None

    def event(self, event: Event) -> bool:
        """Whether an event was a reply to a question, and nobody else's business."""
        if isinstance(event, Lost):
            self._end(ClientError(event.text))
            return False
        if not isinstance(event, Records | Sums | Refused) or event.request is None:
            return False
        if event.request == self._number:  # a late reply to an earlier one is for nobody
            self._end(ClientError(event.text, event) if isinstance(event, Refused) else event)
        return True

    def _end(self, told: Reply | ClientError) -> None:
        if self._reply is None or self._reply.done():
            return
        if isinstance(told, ClientError):
            self._reply.set_exception(told)
        else:
            self._reply.set_result(told)
