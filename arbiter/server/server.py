"""The Unix socket: who speaks (SO_PEERCRED), what they may, and lines in and out.

The daemon owns the socket, in root's directory; frontends come to it. A client can answer and
ask for status; nothing it sends configures anything. One that stops reading, floods or sends
nonsense is cut off and delays nobody else.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import socket
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from arbiter import protocol
from arbiter.model import Peer
from arbiter.protocol import RefusedReason, Role
from arbiter.server.place import Place

ADMIN_GROUP = "arbiter"
HELLO_TIMEOUT = 10.0
"""Seconds a client may take to say hello."""
LINGER = 2.0
"""Seconds a client has, once its connection ends, to read what was sent to it."""
MAX_UNSENT = 1 << 20
"""Bytes kept for a client that does not read, beside the asks it was greeted with; past that
it is cut off."""
MAX_CLIENTS = 256
"""In all; root and `admins` are let in past it, or eight users could lock them out."""
MAX_CLIENTS_PER_USER = 32
BURST, RATE = 200, 100.0
"""Messages a client may send at once, and per second after that."""


class Handler(Protocol):
    """What the server tells the daemon, always in the event loop."""

    def arrived(self, client: int, peer: Peer) -> Iterable[protocol.DaemonMessage]:
        """A prompt or command has said hello; what it gets after the welcome."""

    def message(self, client: int, peer: Peer, message: protocol.ClientMessage) -> None:
        """A client that has said hello sent this."""

    def prompts_changed(self, peers: tuple[Peer, ...]) -> None:
        """Who is connected with a prompt, now."""

    def welcome(self, peer: Peer, asks: int) -> protocol.Welcome:
        """The answer to hello."""


class _Client:
    def __init__(self, writer: asyncio.StreamWriter, peer: Peer, role: Role) -> None:
        self.writer = writer
        self.peer = peer
        self.role = role
        self.away = False
        """It shows nothing now."""
        self.max_unsent = MAX_UNSENT
        self.tokens = float(BURST)
        self.refilled = 0.0


class Server:
    """Listens on `path` (mode 0666 in a directory only root writes: rights are per message)."""

    def __init__(
        self,
        path: Path,
        handler: Handler,
        *,
        admins: frozenset[int],
        hello_timeout: float = HELLO_TIMEOUT,
    ) -> None:
        self._place = Place(path)
        self._handler = handler
        self._hello_timeout = hello_timeout
        self._admins = admins
        self._clients: dict[int, _Client] = {}
        self._following: set[int] = set()
        self._per_user: dict[int, int] = {}
        self._next = 1
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the socket, in place of one that a dead daemon left. Raises ServerError."""
        sock = self._place.open()
        self._server = await asyncio.start_unix_server(
            self._connected, sock=sock, limit=protocol.MAX_MESSAGE
        )

    async def look_after(self) -> bool:
        """Make the socket anew if it was removed: nobody could come any more, and a command that
        changes rules would take it that no daemon runs. Who is connected stays.

        True if it was made anew. Raises ServerError where that fails, or something else is there.
        """
        if self._server is None or self._place.ours:
            return False
        before = self._server
        await self.start()
        before.close()
        return True

    async def close(self) -> None:
        """Close every connection and remove the socket. Raises OSError."""
        if self._server is None:
            return
        self._server.close()
        for client in tuple(self._clients.values()):
            client.writer.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._place.clear()

    # --- out --------------------------------------------------------------------------------

    def send(self, client_id: int, message: protocol.DaemonMessage) -> None:
        """To one client; nothing happens if it has gone."""
        client = self._clients.get(client_id)
        if client is not None:
            _write_bytes(client.writer, protocol.encode(message), client.max_unsent)

    def broadcast(
        self,
        uid: int | None,
        make: Callable[[Peer], protocol.DaemonMessage],
        *,
        commands: bool = False,
        everyone: bool = False,
    ) -> None:
        """To every prompt and watch (and command, if wanted) that may answer for `uid` (or to
        `everyone`), worded for its rights."""
        cache: dict[tuple[int, bool], bytes] = {}
        for client in tuple(self._clients.values()):
            peer = client.peer
            wanted = commands or client.role is not Role.COMMAND
            if wanted and (everyone or peer.may_answer(uid)):
                rights = (peer.uid, peer.admin)
                if rights not in cache:
                    cache[rights] = protocol.encode(make(peer))
                _write_bytes(client.writer, cache[rights], client.max_unsent)

    def follow(self, client_id: int) -> None:
        """This client wants what `tell` tells."""
        if client_id in self._clients:
            self._following.add(client_id)

    @property
    def followed(self) -> bool:
        """Whether anybody follows."""
        return bool(self._following)

    def tell(
        self,
        uid: int | None,
        make: Callable[[], protocol.DaemonMessage],
        *,
        everyone: bool = False,
    ) -> None:
        """To every follower that may answer for `uid` (or to `everyone`)."""
        line = b""
        for id in tuple(self._following):
            client = self._clients[id]
            if everyone or client.peer.may_answer(uid):
                line = line or protocol.encode(make())
                _write_bytes(client.writer, line, client.max_unsent)

    @property
    def prompts(self) -> tuple[Peer, ...]:
        """Every connected prompt with somebody there."""
        clients = self._clients.values()
        return tuple(c.peer for c in clients if c.role is Role.PROMPT and not c.away)

    # --- in ---------------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        pid, uid, gid = _credentials(writer)
        self._per_user[uid] = self._per_user.get(uid, 0) + 1
        try:
            await self._serve(reader, writer, pid, uid, gid)
            await _finish(writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # it went, or we stop: either way it is closed below
        finally:
            # Until here it counts: a connection that lingers holds memory and a descriptor.
            self._tasks.discard(task)
            self._per_user[uid] -= 1
            if not self._per_user[uid]:
                del self._per_user[uid]
            writer.close()

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pid: int,
        uid: int,
        gid: int,
    ) -> None:
        full = len(self._tasks) > MAX_CLIENTS and uid != 0 and uid not in self._admins
        if full or self._per_user[uid] > MAX_CLIENTS_PER_USER:
            text = f"too many connections: {MAX_CLIENTS_PER_USER} per user, {MAX_CLIENTS} in all"
            _write(writer, protocol.Refused(RefusedReason.BUSY, text))
            return
        # Name services may be slow or remote: never in the event loop.
        peer = await asyncio.to_thread(_peer, uid, gid, self._admins)
        decoder = protocol.client_decoder()
        try:
            async with asyncio.timeout(self._hello_timeout):
                messages = await _some(reader, decoder)
        except TimeoutError:
            text = f"no hello within {self._hello_timeout:g} s; the connection ends here"
            _write(writer, protocol.Refused(RefusedReason.ORDER, text))
            return
        if not messages:
            return
        hello, *rest = messages
        problem = _check_hello(hello)
        if problem is not None or not isinstance(hello, protocol.Hello):
            assert problem is not None
            _write(writer, problem)
            return
        name = protocol.clean(hello.name, 64)
        peer = Peer(peer.uid, peer.user, peer.admin, name, pid)
        id, self._next = self._next, self._next + 1
        client = self._clients[id] = _Client(writer, peer, hello.role)
        try:
            asks = [protocol.encode(ask) for ask in self._handler.arrived(id, peer)]
            greeting = protocol.encode(self._handler.welcome(peer, len(asks))) + b"".join(asks)
            # However many asks wait, a client that reads must be able to arrive.
            client.max_unsent = MAX_UNSENT + len(greeting)
            writer.write(greeting)
            if client.role is Role.PROMPT:
                self._handler.prompts_changed(self.prompts)
            while self._take(id, client, rest):
                rest = await _some(reader, decoder)
                if not rest:
                    return
        finally:
            del self._clients[id]
            self._following.discard(id)
            if client.role is Role.PROMPT:
                self._handler.prompts_changed(self.prompts)

    def _take(
        self,
        id: int,
        client: _Client,
        messages: list[protocol.ClientMessage | protocol.ProtocolError],
    ) -> bool:
        """Handle what a client sent; False ends its connection."""
        now = asyncio.get_running_loop().time()
        client.tokens = min(BURST, client.tokens + (now - client.refilled) * RATE)
        client.refilled = now
        for message in messages:
            client.tokens -= 1
            if client.tokens < 0:
                text = f"more than {RATE:.0f} messages a second; the connection ends here"
                _write(client.writer, protocol.Refused(RefusedReason.BUSY, text))
                return False
            if isinstance(message, protocol.ProtocolError):
                _write(client.writer, protocol.Refused(message.reason, message.text))
                if message.fatal:
                    return False
            elif isinstance(message, protocol.Hello):
                text = "hello was said already"
                _write(client.writer, protocol.Refused(RefusedReason.ORDER, text))
            elif isinstance(message, protocol.Answer) and client.role is Role.WATCH:
                text = "a watch answers nothing: say hello as a prompt or a command"
                refused = protocol.Refused(RefusedReason.RIGHT, text, message.ask)
                _write(client.writer, refused)
            elif isinstance(message, protocol.Away):
                client.away = message.away
                self._handler.prompts_changed(self.prompts)
            elif isinstance(message, protocol.Changed) and not client.peer.admin:
                # It makes the daemon read every rule anew: not for anybody to demand.
                text = "only root and members of group arbiter change the rules"
                _write(client.writer, protocol.Refused(RefusedReason.RIGHT, text))
            else:
                self._handler.message(id, client.peer, message)
        return True


async def _some(
    reader: asyncio.StreamReader, decoder: protocol.LineDecoder[protocol.ClientMessage]
) -> list[protocol.ClientMessage | protocol.ProtocolError]:
    """At least one message or error; empty at the end of the stream.

    Of a flood no more is decoded than ends the connection: bad lines cost the event loop time.
    """
    while True:
        data = await reader.read(protocol.MAX_MESSAGE)
        if not data:
            return []
        lines = data.split(b"\n", 2 * BURST)
        if len(lines) > 2 * BURST:
            text = f"more than {2 * BURST} lines at once; the connection ends here"
            return [protocol.ProtocolError(RefusedReason.BUSY, text, fatal=True)]
        messages = decoder.feed(data)
        if messages:
            return messages


def _check_hello(
    message: protocol.ClientMessage | protocol.ProtocolError,
) -> protocol.Refused | None:
    if isinstance(message, protocol.ProtocolError):
        return protocol.Refused(message.reason, message.text)
    if not isinstance(message, protocol.Hello):
        return protocol.Refused(RefusedReason.ORDER, "the first message must be hello")
    if message.version != protocol.VERSION:
        text = (
            f"this daemon speaks version {protocol.VERSION} of the protocol and the client "
            f"{message.version}: use the arbiter command of the same release"
        )
        return protocol.Refused(RefusedReason.VERSION, text)
    return None


def _write(writer: asyncio.StreamWriter, message: protocol.DaemonMessage) -> None:
    _write_bytes(writer, protocol.encode(message))


def _write_bytes(writer: asyncio.StreamWriter, data: bytes, limit: int = MAX_UNSENT) -> None:
    if writer.transport.get_write_buffer_size() > limit:
        writer.transport.abort()
    elif not writer.transport.is_closing():
        writer.write(data)


async def _finish(writer: asyncio.StreamWriter) -> None:
    """Close; what is unsent goes out, or is thrown away when the client does not read it.

    Without this a client could collect connections that nobody counts any more.
    """
    writer.close()
    try:
        async with asyncio.timeout(LINGER):
            await writer.wait_closed()
    except TimeoutError:
        writer.transport.abort()


def _credentials(writer: asyncio.StreamWriter) -> tuple[int, int, int]:
    """pid, uid and gid of the process that connected (unix(7), SO_PEERCRED)."""
    sock: socket.socket = writer.get_extra_info("socket")
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", packed)
    return pid, uid, gid


def _peer(uid: int, gid: int, admins: frozenset[int]) -> Peer:
    """Who the uid is, and whether it decides for all: root, the admin group, or `admins`."""
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        return Peer(uid, str(uid), uid == 0 or uid in admins)
    admin = uid == 0 or uid in admins
    if not admin:
        try:
            group = grp.getgrnam(ADMIN_GROUP).gr_gid
        except KeyError:
            return Peer(uid, user, False)
        admin = group in os.getgrouplist(user, gid)
    return Peer(uid, user, admin)
