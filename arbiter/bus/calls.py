"""A connection to a message bus that only asks: calls with a time limit, signals, nothing else.

No name is owned and no object exported; a method call to us is dropped unanswered. Calls go to
unique names (":1.7"), never to a service's well-known one: so the bus starts no service for us, and
the answer can only be from who owned the name when we looked.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import socket
from collections.abc import AsyncIterator, Callable

from dbus_fast import DBusFastError, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.unpack import unpack_variants

from arbiter.bus.sieve import Sieve

BUS = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
TIMEOUT = 5.0
"""Seconds that a call may take. Services answer these from memory, in milliseconds."""
READS = 2
"""Reads (dbus-fast: 8 KiB each) in one turn of the event loop; the rest waits for the next."""


class _BoundedSocket(socket.socket):
    """A bus's socket, on which messages that are too large never arrive, and others in turns.

    dbus-fast reads on while it has the beginning of a message: under a flood that is for ever.
    """

    sieve: Sieve | None = None
    """None as long as the other side speaks text, up to our BEGIN (SASL)."""
    _reads = 0

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:  # type: ignore[override]
        sent = super().send(data, flags)
        if self.sieve is None and bytes(data[:5]) == b"BEGIN":
            self.sieve = Sieve()
        return sent

    def recv(self, size: int, flags: int = 0) -> bytes:
        if self.sieve is None:
            return super().recv(size, flags)
        if self._reads >= READS:
            raise BlockingIOError(errno.EAGAIN, "the others' turn")
        data = super().recv(size, flags)
        if not self._reads:
            asyncio.get_running_loop().call_soon(self._turn)
        self._reads += 1
        kept = self.sieve.feed(data)
        if data and not kept:  # b"" would be the end
            raise BlockingIOError(errno.EAGAIN, "nothing that matters yet")
        return kept

    def _turn(self) -> None:
        self._reads = 0


class _Bus(MessageBus):
    """dbus-fast's, on a `_BoundedSocket`. It has no public way for that: a test holds this one."""

    @staticmethod
    def _create_socket_for_transport(
        transport: str, options: dict[str, str]
    ) -> tuple[socket.socket, io.BufferedRWPair, bytes | str | tuple[str, int]]:
        made, stream, address = MessageBus._create_socket_for_transport(transport, options)
        stream.close()
        bounded = _BoundedSocket(fileno=made.detach())
        return bounded, bounded.makefile("rwb"), address


class CallError(Exception):
    """A call was answered with an error, or not as it should be."""


class Calls:
    """Calls over one connection. OSError (its TimeoutError too) says that no answer came."""

    def __init__(self, bus: MessageBus, limit: float) -> None:
        self._bus = bus
        self._limit = limit
        self._end = asyncio.create_task(_until_end(bus), name="end of the bus")

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *body: object,
    ) -> object:
        """The first value of the answer, variants unpacked; None where it has none."""
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        try:
            async with asyncio.timeout(self._limit):
                reply = await self._bus.call(message)
        except TimeoutError:
            raise TimeoutError(f"no answer to {member} within {self._limit:g} s") from None
        except (EOFError, DBusFastError) as error:
            raise ConnectionError(f"the bus went away: {error}") from error
        if reply is None:
            raise ConnectionError("the bus went away")
        if reply.sender != destination:
            # The bus passes only answers that are expected, where its policy is the usual one.
            raise CallError(f"{reply.sender} answered {member} in the place of {destination}")
        if reply.message_type is not MessageType.METHOD_RETURN:
            raise CallError(f"{member}: {reply.error_name}")
        return unpack_variants(reply.body[0]) if reply.body else None

    async def properties(self, destination: str, path: str, interface: str) -> object:
        """All properties of an interface of an object; None where it has gone meanwhile."""
        try:
            return await self.call(destination, path, PROPERTIES, "GetAll", "s", interface)
        except CallError:
            return None

    async def add_match(self, rule: str) -> None:
        """Have the bus send us the signals that fit a match rule."""
        await self.call(BUS, BUS_PATH, BUS, "AddMatch", "s", rule)

    async def owner(self, name: str) -> str:
        """The unique name of who owns a name now; "" for nobody. It starts nothing."""
        try:
            found = await self.call(BUS, BUS_PATH, BUS, "GetNameOwner", "s", name)
        except CallError:
            return ""
        return found if isinstance(found, str) else ""

    @property
    def unique_name(self) -> str:
        """Ours on the bus."""
        return self._bus.unique_name or ""

    @property
    def dropped(self) -> int:
        """How many messages were too large to be read."""
        sock = self._bus._sock
        sieve = sock.sieve if isinstance(sock, _BoundedSocket) else None
        return sieve.dropped if sieve is not None else 0

    async def ended(self) -> None:
        """Until the connection is lost or closed."""
        await asyncio.wait([self._end])  # which does not cancel it where we are cancelled


async def _until_end(bus: MessageBus) -> None:
    # How it was lost makes no difference: an end of file, a reset, a malformed message.
    with contextlib.suppress(EOFError, OSError, DBusFastError):
        await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


@contextlib.asynccontextmanager
async def connected(
    address: str, signal: Callable[[Message], None], limit: float = TIMEOUT
) -> AsyncIterator[Calls]:
    """A connection to the bus at a D-Bus address, closed at the end of the block.

    `signal` gets every signal, from whomever: compare its sender. `limit` is of seconds, for the
    connection and then for each call. Raises OSError where the bus is not there or does not
    answer, DBusFastError where it refuses us or the address is none.
    """

    def handle(message: Message) -> bool:
        if message.message_type is MessageType.SIGNAL:
            signal(message)
        return message.message_type is MessageType.METHOD_CALL  # "handled": no answer goes out

    bus = _Bus(bus_address=address)
    bus.add_message_handler(handle)
    async with asyncio.timeout(limit):
        await bus.connect()
    calls = Calls(bus, limit)
    try:
        yield calls
    finally:
        bus.disconnect()
        await calls.ended()
