"""The internets' servers: HTTP, echo, DNS. One process, with its sockets in each link's namespace.

`python -m arbiter.lab.servers JSON` with the `ServerConfig` of each link; prints "ready" and closes
its standard output once every socket is bound. Each answer names the link, and each connection or
datagram is written to the log before it is answered: who got an answer is in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, cast

from arbiter.lab import dns, namespaces
from arbiter.lab.config import DNS_PORT, ECHO_PORT, HTTP_PORTS, NAMES, Seen, ServerConfig

CHUNK = 65536
HEAD_SECONDS = 10.0
"""How long a client may take to send its request."""
MAX_BYTES = 1 << 30
"""The largest N of /bytes/N."""
BACKLOG = 4096
"""Pending connections, the kernel's own default bound (net.core.somaxconn)."""

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


def at(address: str, port: int) -> str:
    """`1.2.3.4:80` or `[2001:db8::1]:80`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Servers:
    """The services of one link. `start` binds; the event loop does the rest.

    A socket, and what it accepts, stays in the network namespace that its maker was in.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._log = os.open(config.log, flags, 0o644)
        self._open: list[asyncio.Server | asyncio.DatagramTransport] = []

    async def start(self) -> None:
        """Binds everything. UDP is bound per address, so that answers leave from the one asked.

        The calling thread is in the link's namespace from then on. Raises LabError, OSError.
        """
        namespaces.enter(self.config.namespace)
        for port in HTTP_PORTS:
            await self._tcp(self.http, port)
        await self._tcp(self.echo, ECHO_PORT)
        await self._tcp(self.dns, DNS_PORT)
        loop = asyncio.get_running_loop()
        for address in self.config.addresses:
            for port, answer in ((ECHO_PORT, self.udp_echo), (DNS_PORT, self.udp_dns)):
                make = functools.partial(_Udp, (address, port), answer)
                transport, _ = await loop.create_datagram_endpoint(make, (address, port))
                self._open.append(transport)

    async def _tcp(self, handler: Callable[[Reader, Writer], Awaitable[None]], port: int) -> None:
        async def guarded(reader: Reader, writer: Writer) -> None:
            # A client that leaves, stalls or sends nonsense ends its own connection only.
            lost = (OSError, EOFError, ValueError, asyncio.LimitOverrunError, TimeoutError)
            with contextlib.suppress(*lost):
                await handler(reader, writer)
            writer.close()

        self._open.append(await asyncio.start_server(guarded, None, port, backlog=BACKLOG))

    def hello(self, peer: str, port: int) -> str:
        """What every service says: the link, and the client as seen from here."""
        return f"link={self.config.link} peer={at(peer, port)}\n"

    def saw(self, proto: str, peer: tuple[str, int], local: tuple[str, int], what: str = "") -> str:
        """Logs one connection and returns `hello` for its peer."""
        seen = Seen(self.config.link, proto, *peer[:2], *local[:2], what, time.time())
        os.write(self._log, json.dumps(dataclasses.asdict(seen)).encode() + b"\n")
        return self.hello(*peer[:2])

    def _accepted(self, writer: Writer, what: str = "") -> str:
        peer, local = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
        if peer is None:  # reset before it was accepted: there is nobody to name
            raise ConnectionResetError
        return self.saw("tcp", peer, local, what)

    # --- TCP ----------------------------------------------------------------------------------

    async def http(self, reader: Reader, writer: Writer) -> None:
        """One request a connection: `/bytes/N` sends N bytes, `/slow/N` N lines 0.1 s apart.

        Everything else is answered with `hello`; a request's body is read and counted.
        """
        hello = self._accepted(writer)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_SECONDS)
        try:
            kind, count, length, waits = _request(head)
        except ValueError as error:
            body = f"{hello}{error}\n"
            writer.write(_head(len(body), "400 Bad Request") + body.encode())
            return
        if waits:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        received = 0
        while received < length and (data := await reader.read(min(CHUNK, length - received))):
            received += len(data)
        if kind == "bytes":
            writer.write(_head(count))
            for sent in range(0, count, CHUNK):
                writer.write(b"x" * min(CHUNK, count - sent))
                await writer.drain()
        elif kind == "slow":
            writer.write(_head(None))
            for _ in range(count):
                writer.write(hello.encode())
                await writer.drain()
                await asyncio.sleep(0.1)
        else:
            body = hello + (f"received={received}\n" if length else "")
            writer.write(_head(len(body)) + body.encode())
        await writer.drain()

    async def echo(self, reader: Reader, writer: Writer) -> None:
        """`hello`, then every byte back, for as long as the client stays."""
        writer.write(self._accepted(writer).encode())
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()

    async def dns(self, reader: Reader, writer: Writer) -> None:
        """DNS over TCP: two bytes of length before each message (RFC 1035 4.2.2)."""
        while True:
            size = int.from_bytes(await asyncio.wait_for(reader.readexactly(2), HEAD_SECONDS))
            query = await asyncio.wait_for(reader.readexactly(size), HEAD_SECONDS)
            self._accepted(writer, _asked(query))
            if (answer := dns.reply(query, NAMES)) is None:
                return
            writer.write(len(answer).to_bytes(2) + answer)
            await writer.drain()

    # --- UDP ----------------------------------------------------------------------------------

    def udp_echo(self, data: bytes, peer: tuple[str, int], local: tuple[str, int]) -> bytes:
        """`hello`, then the datagram; cut where the two are more than a datagram holds."""
        return (self.saw("udp", peer, local).encode() + data)[:65000]

    def udp_dns(self, data: bytes, peer: tuple[str, int], local: tuple[str, int]) -> bytes | None:
        """One question, one answer."""
        self.saw("udp", peer, local, _asked(data))
        return dns.reply(data, NAMES)


class _Udp(asyncio.DatagramProtocol):
    """Answers each datagram. ICMP errors (error_received) concern a client that is gone."""

    def __init__(
        self,
        local: tuple[str, int],
        answer: Callable[[bytes, tuple[str, int], tuple[str, int]], bytes | None],
    ) -> None:
        self._local, self._answer = local, answer
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: in Python 3.11 the transport is not declared to be one.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._answer(data, addr, self._local)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)


def _asked(query: bytes) -> str:
    asked = dns.question(query)
    if asked is None:
        return "malformed"
    kinds = {dns.A: "A", dns.AAAA: "AAAA"}
    return f"{kinds.get(asked[1], str(asked[1]))} {asked[0]}"


def _request(head: bytes) -> tuple[str, int, int, bool]:
    """(first word of the path, its number, body length, waits for "100 Continue").

    Raises ValueError, fit to be shown, for what is not an HTTP/1 request (RFC 9112).
    """
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split()
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise ValueError("not an HTTP/1 request line")
    fields = {k.strip().lower(): v.strip() for k, _, v in (x.partition(":") for x in lines[1:])}
    waits = fields.get("expect", "").lower() == "100-continue"
    kind, _, count = words[1].strip("/").partition("/")
    usual = {"bytes": "", "slow": "20"}.get(kind)
    number = 0 if usual is None else _number(count or usual)
    return kind, number, _number(fields.get("content-length", "0")), waits


def _number(text: str) -> int:
    """ASCII digits, MAX_BYTES at most; raises ValueError (int() would take more than that)."""
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= MAX_BYTES):
        raise ValueError(f"not a number from 0 to {MAX_BYTES}")
    return int(text)


def _head(length: int | None, status: str = "200 OK") -> bytes:
    size = "" if length is None else f"Content-Length: {length}\r\n"
    fields = f"Content-Type: text/plain\r\nConnection: close\r\n{size}"
    return f"HTTP/1.1 {status}\r\n{fields}\r\n".encode()


async def serve(configs: Sequence[ServerConfig]) -> None:
    """Serves until the process ends."""
    every = [Servers(config) for config in configs]
    for servers in every:
        await servers.start()
    os.write(sys.stdout.fileno(), b"ready\n")
    # The builder waits for the end of this pipe; nothing may keep it open.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    await asyncio.Event().wait()


def main(argv: list[str]) -> None:
    """The entry of `python -m arbiter.lab.servers`; `argv` has the configurations as JSON."""
    os.chdir("/")  # keeps no folder of the builder's busy
    asyncio.run(serve([ServerConfig(**fields) for fields in json.loads(argv[0])]))


if __name__ == "__main__":
    main(sys.argv[1:])
