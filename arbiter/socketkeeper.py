"""The daemon's side of its socket's place: looked after as long as clients are let in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from arbiter.server import Server, ServerError

LOOK_EVERY = 5.0
"""Seconds between looks whether the socket is still there."""
log = logging.getLogger("arbiter")


class SocketKeeper:
    """Opens the socket, makes it anew if somebody removes it, and takes it away."""

    def __init__(self, server: Server, anew: Callable[[], None]) -> None:
        """`anew` is called when it was made anew: commands found no daemon meanwhile."""
        self._server, self._anew = server, anew
        self._looking: asyncio.Task[None] | None = None
        self.problems: tuple[str, ...] = ()
        """Why nobody can come any more."""

    async def start(self) -> None:
        """Let clients in. Raises ServerError."""
        await self._server.start()
        self._looking = asyncio.create_task(self._look_after(), name="the socket's place")
        self._looking.add_done_callback(_told)

    async def close(self) -> None:
        """Let nobody in any more, and end every connection."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
        try:
            await self._server.close()
        except OSError as error:
            log.error("the socket is not taken away: %s", error.strerror)

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            problems: tuple[str, ...] = ()
            try:
                if await self._server.look_after():
                    log.warning("the socket was removed by somebody; it is made anew")
                    self._anew()
            except ServerError as error:
                problems = (f"commands and new prompts do not reach this arbiter: {error}",)
            if problems and problems != self.problems:
                log.error("%s", problems[0])
            self.problems = problems


def _told(task: asyncio.Task[None]) -> None:
    """A mistake in a task is one for the event loop's handler."""
    if not task.cancelled():
        task.result()
