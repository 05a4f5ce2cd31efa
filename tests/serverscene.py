"""A real server on a real Unix socket, its event loop in a thread, and clients that block.

`uid` pretends who connects.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from arbiter import protocol
from arbiter.model import Peer
from arbiter.protocol import RefusedReason, Role
from arbiter.server import Server, server

MESSAGES = Path(__file__).parent.parent / "fixtures" / "messages"
STATUS = msgspec.json.decode((MESSAGES / "status.json").read_bytes(), type=protocol.Status)
ALICE, BOB = 4_000_001, 4_000_002
"""uids that no machine has: not root, in no group."""
QUERY = protocol.encode(protocol.Query())
HELLO_TIMEOUT = 0.4


def eventually(look: Callable[[], object]) -> None:
    """Returns once `look` is true."""
    end = time.monotonic() + 5
    while not look():
        assert time.monotonic() < end, "waited 5 s in vain"
        time.sleep(0.005)


def note(id: int, text: str = "") -> protocol.Withdraw:
    return protocol.Withdraw(id, protocol.WithdrawReason.RULE, text)


class Daemon:
    """A handler that answers queries, and remembers the rest. Its server runs in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.uid = 0
        self.backlog: list[protocol.DaemonMessage] = []
        self.seen: list[tuple[int, protocol.ClientMessage]] = []
        self.prompts: list[tuple[Peer, ...]] = []
        self.errors: list[dict[str, Any]] = []
        self.server = Server(path, self, admins=frozenset({ALICE + 9}), hello_timeout=HELLO_TIMEOUT)
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, work: Callable[[], Any]) -> Any:
        """Call it in the event loop; wait for what it gives."""

        async def call() -> Any:
            result = work()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(10)

    def tell(self, message: protocol.DaemonMessage, uid: int | None = None) -> None:
        self.run(lambda: self.server.broadcast(uid, lambda _: message))

    def stop(self) -> None:
        self.run(self.server.close)
        self.run(self.loop.shutdown_default_executor)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    # --- Handler ----------------------------------------------------------------------------

    def arrived(self, client: int, peer: Peer) -> Iterable[protocol.DaemonMessage]:
        return self.backlog

    def message(self, client: int, peer: Peer, message: protocol.ClientMessage) -> None:
        self.seen.append((peer.uid, message))
        if isinstance(message, protocol.Query):
            self.server.send(client, STATUS)
        elif isinstance(message, protocol.Follow):
            self.server.follow(client)

    def prompts_changed(self, peers: tuple[Peer, ...]) -> None:
        self.prompts.append(peers)

    def welcome(self, peer: Peer, asks: int) -> protocol.Welcome:
        return protocol.Welcome(1, "0", peer.user, peer.admin, "ask", "deny", asks)

    # --- clients ----------------------------------------------------------------------------

    def connect(self, uid: int = 0) -> Client:
        self.uid = uid
        client = Client(self.path)
        # The uid is asked for when the connection is accepted: not before that may it change.
        eventually(lambda: not uid or self.uid != uid)
        return client

    def client(self, uid: int = 0, role: Role = Role.COMMAND) -> Client:
        """One that has said hello."""
        client = self.connect(uid)
        client.say(protocol.Hello(protocol.VERSION, role, "test"))
        client.welcome = client.receive(protocol.Welcome)
        return client


class Client:
    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(str(path))
        self.welcome: protocol.Welcome | None = None
        self._decoder = protocol.daemon_decoder()
        self._messages: list[protocol.DaemonMessage] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def say(self, *messages: protocol.ClientMessage) -> None:
        self.sock.sendall(b"".join(map(protocol.encode, messages)))

    def next(self) -> protocol.DaemonMessage | None:
        """The next message; None where the daemon has ended the connection."""
        while not self._messages:
            try:
                data = self.sock.recv(1 << 18)
            except ConnectionResetError:
                return None
            if not data:
                return None
            for message in self._decoder.feed(data):
                assert not isinstance(message, protocol.ProtocolError), message.text
                self._messages.append(message)
        return self._messages.pop(0)

    def receive(self, kind: type[Any]) -> Any:
        message = self.next()
        assert isinstance(message, kind), message
        return message

    def refused(self, reason: RefusedReason) -> str:
        message = self.receive(protocol.Refused)
        assert message.reason is reason, message
        assert message.text
        return str(message.text)

    def ended(self) -> bool:
        return self.next() is None

    def works(self) -> bool:
        self.sock.sendall(QUERY)
        return self.next() == STATUS


@contextmanager
def serving(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A server that runs; whoever connects next is of `uid`."""
    running = Daemon(path)

    def credentials(writer: asyncio.StreamWriter) -> tuple[int, int, int]:
        uid, running.uid = running.uid, 0
        return os.getpid(), uid, uid

    monkeypatch.setattr(server, "_credentials", credentials)
    running.run(running.server.start)
    try:
        yield running
    finally:
        running.stop()
    assert running.errors == [], "something went past the room's own error handling"
