"""A daemon for tests of frontends: the real codec on a real Unix socket, the decisions scripted.

It keeps open asks, answers `hello`, `answer`, `query`, `follow`, `snooze`, `undo`
and `changed` as docs/protocol.md says, and can end its connections. It touches no kernel. By hand:
`python tests/scripted_daemon.py SOCKET [ASKS]`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from arbiter.archive import Archive
from arbiter.model import Peer
from arbiter.protocol import (
    VERSION,
    Answer,
    Ask,
    Changed,
    Choice,
    ClientMessage,
    DaemonMessage,
    Decided,
    Follow,
    Hello,
    InForce,
    ProtocolError,
    Query,
    ReadRecords,
    Refused,
    RefusedReason,
    Scope,
    Snooze,
    Snoozed,
    SnoozeView,
    Status,
    SumRecords,
    Undo,
    Undone,
    Welcome,
    client_decoder,
    encode,
)
from arbiter.tariff import Price

MESSAGES = Path(__file__).parent.parent / "fixtures" / "messages"


def example_ask(id: int = 7, **changes: Any) -> Ask:
    """The ask of fixtures/messages/ask.json, with changes."""
    ask = msgspec.json.decode((MESSAGES / "ask.json").read_bytes(), type=Ask)
    return msgspec.structs.replace(ask, id=id, **changes)


def ask_to(id: int, **changes: Any) -> Ask:
    """An ask of curl to 192.0.2.ID."""
    ask = example_ask(id)
    address = f"192.0.2.{id}"
    to = msgspec.structs.replace(ask.destination, address=address)
    scopes = tuple(Scope(s.id, s.conditions.replace("192.0.2.7", address)) for s in ask.scopes)
    return msgspec.structs.replace(ask, destination=to, scopes=scopes, **changes)


def example_status() -> Status:
    return msgspec.json.decode((MESSAGES / "status.json").read_bytes(), type=Status)


class ScriptedDaemon:
    """Serves at `path`. `received` is what clients sent, in order; `asks` the open asks."""

    def __init__(self, path: str | Path, *asks: Ask, version: int = VERSION) -> None:
        self.path = str(path)
        Path(path).unlink(missing_ok=True)
        self.asks = {ask.id: ask for ask in asks}
        self.received: list[ClientMessage | ProtocolError] = []
        self.refuse: Refused | None = None
        self.version = version
        self.mode, self.fallback = "ask", "deny"
        self.status = example_status()
        self.clock = time.time
        self.followed: list[DaemonMessage] = []
        """What a client that follows is told at once."""
        self.database: Path | None = None
        """Where its records are, which alice may read; None: it has none."""
        self.prices: dict[str, Price] = {}
        self._archive: Archive | None = None
        self._rules = 11
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        """As if the daemon had died: every connection ends, and the socket refuses."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in self._writers:
            writer.close()
        self._writers.clear()
        archive, self._archive = self._archive, None
        if archive is not None:
            await archive.close()
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.stop()

    def tell(self, message: DaemonMessage) -> None:
        """Send to every client; an ask is kept open, a decision or withdrawal closes it."""
        if isinstance(message, Ask):
            self.asks[message.id] = message
        for writer in self._writers:
            writer.write(encode(message))

    def raw(self, data: bytes) -> None:
        for writer in self._writers:
            writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = client_decoder()
        while data := await reader.read(65536):
            for message in decoder.feed(data):
                self.received.append(message)
                self._reply(message, writer)
        writer.close()
        if writer in self._writers:
            self._writers.remove(writer)

    def _reply(self, message: ClientMessage | ProtocolError, writer: asyncio.StreamWriter) -> None:
        if isinstance(message, ProtocolError):
            writer.write(encode(Refused(message.reason, message.text)))
        elif isinstance(message, Hello) and self.refuse:
            writer.write(encode(self.refuse))
            writer.close()
        elif isinstance(message, Hello):
            welcome = Welcome(
                self.version, "0.1.0", "alice", False, self.mode, self.fallback, len(self.asks)
            )
            writer.writelines([encode(welcome), *map(encode, self.asks.values())])
            self._writers.append(writer)
        elif isinstance(message, Query):
            writer.write(encode(self.status))
        elif isinstance(message, Answer):
            self._answer(message, writer)
        elif isinstance(message, ReadRecords | SumRecords):
            self._read(message, writer)
        elif isinstance(message, Follow):
            writer.writelines(map(encode, self.followed))
        elif isinstance(message, Snooze):
            until = self.clock() + message.seconds
            uid, user = (None, "") if message.everyone else (1000, "alice")
            on = (SnoozeView(uid, user, message.decision, until, "alice"),)
            self.tell(Snoozed(on if message.seconds else ()))
        elif isinstance(message, Undo):
            writer.write(encode(Undone(message.rule_id)))
        elif isinstance(message, Changed):
            writer.write(encode(InForce(self._rules)))

    def _read(self, message: ReadRecords | SumRecords, writer: asyncio.StreamWriter) -> None:
        """By the room that does it for the real daemon."""
        if self._archive is None:
            database = self.database or Path(self.path).with_name("no.db")
            self._archive = Archive(database, self._sent, lambda: self.prices)
        self._archive.ask(id(writer), Peer(1000, "alice", False), message)

    def _sent(self, client: int, message: DaemonMessage) -> None:
        for writer in self._writers:
            if id(writer) == client:
                writer.write(encode(message))

    def _answer(self, answer: Answer, writer: asyncio.StreamWriter) -> None:
        ask = self.asks.pop(answer.ask, None)
        if ask is None:
            text = f"ask {answer.ask} is not open: see `arbiter pending`"
            writer.write(encode(Refused(RefusedReason.GONE, text, answer.ask)))
            return
        scope = next(scope for scope in ask.scopes if scope.id == answer.scope)
        decision = str(answer.decision)
        if answer.decision is Choice.ROUTE:
            decision += f" via={','.join(answer.via)}"
        span = "" if answer.lifetime == "forever" else f" for={answer.lifetime}"
        rule = "" if answer.lifetime == "once" else f"{decision} {scope.conditions}{span}"
        self._rules += bool(rule)
        number = self._rules if rule else None
        told = Decided(ask.id, decision, "alice", "terminal", ask.waiting, rule, number)
        for other in self._writers:
            other.write(encode(told))


def answering(path: Path, *replies: bytes) -> threading.Thread:
    """Somebody who listens on `path` for one client and says this, each part to one message."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener, listener.accept()[0] as sock:
            for reply in replies:
                sock.recv(65536)
                sock.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


async def _main(path: str, count: int) -> None:
    async with ScriptedDaemon(path) as daemon:
        for id in range(1, count + 1):
            now = time.time()
            daemon.tell(ask_to(id, created=now, deadline=now + 40 + id))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]) if sys.argv[2:] else 1))
