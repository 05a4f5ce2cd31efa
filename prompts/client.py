"""The client end of the daemon's socket, for every frontend. docs/protocol.md has an example.

    async with await Client.connect(path, "mine", Role.PROMPT) as client:
        async for event in client:
            if isinstance(event, Ask):
                await client.answer(event.id, Choice.DENY)

A prompt's client comes back by itself when the daemon restarts; a command's does not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from types import TracebackType
from typing import Self

from msgspec import Struct

from arbiter.protocol import (
    VERSION,
    Answer,
    Choice,
    ClientMessage,
    DaemonMessage,
    Hello,
    ProtocolError,
    Query,
    Refused,
    RefusedReason,
    Role,
    Status,
    Welcome,
    clean,
    daemon_decoder,
    encode,
)

HANDSHAKE_SECONDS = 5.0
"""How long the daemon may take to accept a connection and to reply to hello."""
FIRST_RETRY_SECONDS = 0.2
LAST_RETRY_SECONDS = 5.0
_CHUNK = 65536


class ClientError(Exception):
    """The daemon cannot be reached, or will not talk: `text` says what, where and the next step.

    `refused` is the daemon's own message where there was one; `final`: trying again is no use.
    """

    def __init__(self, text: str, refused: Refused | None = None, final: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.refused = refused
        self.final = final


class Lost(Struct, frozen=True):
    """The connection is gone; the client tries again by itself. A Welcome follows when it is back.

    Whatever was open is void: after the Welcome the daemon sends every open ask again.
    """

    text: str


class Unread(Struct, frozen=True):
    """A line from the daemon that is not a message of this version. Nothing else is lost by it."""

    text: str


Event = DaemonMessage | Lost | Unread
"""What iterating over a client gives."""


class Client:
    """One connection to the daemon. Make it with `Client.connect`; iterate in one task only."""

    def __init__(self, path: str, name: str, role: Role) -> None:
        self.path, self.name, self.role = path, name, role
        self.welcome: Welcome | None = None
        """The daemon's last welcome: who we are to it, and its mode."""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._decoder = daemon_decoder()
        self._inbox: deque[Event] = deque()
        self._closed = False
        self._lost = False
        """A `Lost` was told: the next step is to connect again."""

    @classmethod
    async def connect(
        cls, path: str, name: str, role: Role = Role.PROMPT, *, wait: bool = False
    ) -> Self:
        """Connect and say hello; the Welcome is the first event. Raises ClientError.

        With `wait` a daemon that is not there yet is waited for: the first event is a `Lost` then.
        """
        client = cls(path, name, role)
        try:
            await client._open()
        except ClientError as error:
            if error.final or not wait:
                raise
            client._lost = True
            client._inbox.append(Lost(error.text))
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up. Iteration ends."""
        self._closed = True
        await self._drop()

    # --- sending ----------------------------------------------------------------------------

    async def send(self, message: ClientMessage) -> None:
        """Send one message. Raises ClientError when there is no connection now."""
        if self._writer is None:
            raise ClientError(f"not connected to arbiter at {self.path}: nothing was sent")
        try:
            self._writer.write(encode(message))
            await self._writer.drain()
        except OSError as error:
            raise ClientError(
                f"arbiter at {self.path} did not take the message: {error}"
            ) from error

    async def answer(
        self,
        ask: int,
        decision: Choice,
        *,
        scope: str = "connection",
        lifetime: str = "once",
        via: tuple[str, ...] = (),
        shown: str = "",
    ) -> None:
        """Answer an ask with one of its scopes. `decided` or `refused` tells what came of it."""
        await self.send(Answer(ask, decision, scope, lifetime, via, shown))

    async def query(self) -> Status:
        """The daemon's status. What arrives before it is kept for iteration.

        Not while another task iterates: send a `Query` then, and take the Status there.
        Raises ClientError if the connection ends first.
        """
        await self.send(Query())
        kept: list[Event] = []
        try:
            while True:
                event = self._inbox.popleft() if self._inbox else None
                if isinstance(event, Status):
                    return event
                if event is not None:
                    kept.append(event)
                elif not await self._read():
                    await self._drop()
                    raise ClientError(self._gone("before it told its status"))
        finally:
            self._inbox.extendleft(reversed(kept))

    # --- receiving --------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        """Every message, the Welcome first; ends when `close` is called.

        A lost connection gives one `Lost`, and is tried again until it works (role prompt), or
        raises ClientError (role command). Raises ClientError too if the daemon, once back,
        refuses this client for good: another protocol version, no right.
        """
        return self

    async def __anext__(self) -> Event:
        while not self._closed:
            if self._inbox:
                return self._inbox.popleft()
            if self._lost:
                await self._reopen()
            elif not await self._read():
                await self._drop()
                if self._closed:
                    break
                text = self._gone("")
                if self.role is Role.COMMAND:
                    raise ClientError(text)
                self._lost = True
                return Lost(text)
        raise StopAsyncIteration

    def _gone(self, when: str) -> str:
        return f"arbiter at {self.path} ended the connection {when}".rstrip()

    async def _read(self) -> bool:
        """Bytes into the inbox. False at the end of the connection."""
        if self._reader is None:
            return False
        try:
            data = await self._reader.read(_CHUNK)
        except OSError:
            return False  # reset instead of closed: the same end
        for item in self._decoder.feed(data):
            if not isinstance(item, ProtocolError):
                if isinstance(item, Welcome):
                    self.welcome = item
                self._inbox.append(item)
            elif item.fatal:
                self._inbox.append(Unread(item.text))
                await self._drop()
                return True
            else:
                self._inbox.append(Unread(item.text))
        return bool(data)

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                self._decoder = daemon_decoder()
                self._reader, self._writer = await asyncio.open_unix_connection(self.path)
                await self.send(Hello(VERSION, self.role, self.name))
                while not self._inbox and await self._read():
                    pass
        except TimeoutError as error:
            await self._drop()
            seconds = f"{HANDSHAKE_SECONDS:g} s"
            text = f"arbiter at {self.path} did not reply within {seconds}; see `arbiter status`"
            raise ClientError(text) from error
        except (OSError, ClientError) as error:
            await self._drop()
            raise ClientError(_unreachable(self.path, error)) from error
        first = self._inbox[0] if self._inbox else None
        if isinstance(first, Welcome) and first.version == VERSION:
            return
        self._inbox.clear()
        await self._drop()
        if isinstance(first, Welcome):
            text = f"arbiter speaks protocol version {first.version}, {self.name} {VERSION}"
            text = f"{text}: install both from the same release, then restart this one"
            raise ClientError(text, final=True)
        if isinstance(first, Refused):
            final = first.reason is not RefusedReason.BUSY
            raise ClientError(f"arbiter refused {self.name}: {clean(first.text)}", first, final)
        if first is None:
            raise ClientError(self._gone("without a reply; its log says why"))
        text = f"what listens at {self.path} does not speak arbiter's protocol"
        raise ClientError(f"{text}: check the socket path (--socket)")

    async def _reopen(self) -> None:
        delay = FIRST_RETRY_SECONDS
        while not self._closed:
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_RETRY_SECONDS)
            try:
                await self._open()
                self._lost = False
                return
            except ClientError as error:
                if error.final:
                    raise

    async def _drop(self) -> None:
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):  # it may be gone already: closed is closed
                await writer.wait_closed()


def _unreachable(path: str, error: OSError | ClientError) -> str:
    what = f"cannot reach arbiter at {path}"
    if isinstance(error, FileNotFoundError):
        return f"{what}: there is no such socket. Is arbiter running? Start it with `arbiter run`"
    if isinstance(error, ConnectionRefusedError):
        return f"{what}: nobody listens there. Is arbiter running? Start it with `arbiter run`"
    if isinstance(error, PermissionError):
        return f"{what}: permission denied. Check who may open the socket: `ls -l {path}`"
    return f"{what}: {error}. Is arbiter running? Start it with `arbiter run`"
