"""The rules of the database, read again when somebody has changed them. In the loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine

from arbiter import protocol
from arbiter.kernel.malloc import give_back
from arbiter.memory import Memory
from arbiter.model import Peer
from arbiter.rules import Index


class RuleKeeper:
    """Keeps an index true to the store: one reading at a time, and one more if asked meanwhile."""

    def __init__(
        self,
        memory: Memory,
        index: Index,
        spawn: Callable[[Coroutine[None, None, None]], None],
        send: Callable[[int, protocol.DaemonMessage], None],
    ) -> None:
        self._memory, self._index = memory, index
        self._spawn, self._send = spawn, send
        self._reading = self._stale = False
        self._clients: list[int] = []
        """Who waits to hear that the rules which they changed are in force."""

    async def start(self) -> None:
        """Read them for the first time. Raises StoreError."""
        await self._memory.load(self._index, first=True)
        give_back()

    def changed(self, client: int) -> None:
        """A client has changed them: it is told when they are in force."""
        self._clients.append(client)
        self.reload()

    def undo(self, client: int, peer: Peer, rule: int) -> None:
        """A client takes an answer back: it is told when that is in force, or why it is not."""
        self._spawn(self._undo(client, peer, rule))

    async def _undo(self, client: int, peer: Peer, rule: int) -> None:
        told = await self._memory.undo(rule, peer)
        await self._memory.load(self._index)
        self._send(client, told)

    def reload(self) -> None:
        """Read them anew."""
        self._stale = True
        if not self._reading:
            self._reading = True
            self._spawn(self._read())

    async def _read(self) -> None:
        try:
            while self._stale:
                self._stale = False
                # Those who come while it is read may have changed what was read already.
                clients, self._clients = self._clients, []
                problem = await self._memory.load(self._index)
                told = protocol.InForce(len(self._index), problem)
                for client in clients:
                    self._send(client, told)
        finally:
            self._reading = False
