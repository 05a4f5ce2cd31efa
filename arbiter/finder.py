"""Finding owners for the daemon: at once where that is quick, else in a thread of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec import structs

from arbiter.events import Event, OwnerFound
from arbiter.kernel.owner import OwnerLookup
from arbiter.memory import now
from arbiter.model import Link, NoOwner, NoOwnerReason, Owner, Packet
from arbiter.older import gone

SLICE = 0.005
"""Seconds after which `owners` lets a queued packet's scan have its turn."""
MOMENT = 1.0
"""Seconds for which the ports of all sockets are known: with thousands it takes a while to ask."""
_UDP = 17
_CLOSED = NoOwner(NoOwnerReason.CLOSED, detail="no socket has its port")
_STREAMS = frozenset({6, 33})
"""TCP, DCCP: their sockets are found by the device that they are bound to, and by no other."""


class Finder:
    """Every `find` is answered by one `OwnerFound`. `spawn` runs what takes longer."""

    def __init__(
        self,
        owners: OwnerLookup,
        dispatch: Callable[[Event], None],
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self._owners, self._dispatch, self._spawn = owners, dispatch, spawn
        self._known: frozenset[int] | None = None
        self._until = 0.0
        self._scanner = ThreadPoolExecutor(1, thread_name_prefix="arbiter-scan")
        self._scanner.submit(int)  # its thread begins now: later there may be no memory for one

    def follow(self, links: Iterable[Link]) -> None:
        """These are the links: whose owners may be their programs."""
        self._owners.use_tuns({link.interface: link.index for link in links if link.tun})

    def find(self, packet: Packet) -> bool:
        """On the hot path. False where it goes on in the thread."""
        try:
            owner = self._owners.quick(packet)
        except OSError as error:
            owner = _not_found(error)
        if owner is None:
            self._spawn(self._scan(packet))
            return False
        self._dispatch(OwnerFound(now(), packet.id, owner))
        return True

    async def _scan(self, packet: Packet) -> None:
        owner: Owner | NoOwner
        loop = asyncio.get_running_loop()
        try:
            owner = await loop.run_in_executor(self._scanner, self._owners.scan, packet)
        except OSError as error:
            owner = _not_found(error)
        self._dispatch(OwnerFound(now(), packet.id, owner))

    async def owners(
        self, packets: Sequence[Packet], devices: Sequence[int]
    ) -> list[Owner | NoOwner]:
        """Of the first of these, in their order, as many as there is time for: one at least.

        No packet waits for them. `devices`: interfaces that a socket may be bound to, by index.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._scanner, self._some, packets, devices)

    def _some(self, packets: Sequence[Packet], devices: Sequence[int]) -> list[Owner | NoOwner]:
        ports = self._ports()
        until = time.monotonic() + SLICE
        found: list[Owner | NoOwner] = []
        for packet in packets:
            flow = packet.flow
            if ports is not None and flow.proto == _UDP and flow.sport not in ports:
                found.append(_CLOSED)  # to look for each port costs a walk of the kernel's table
            else:
                found.append(self._bound(packet, devices))
            if time.monotonic() >= until:
                break
        return found

    def _ports(self) -> frozenset[int] | None:
        """The local ports of UDP sockets, a moment ago. Who took one since has a new connection."""
        if time.monotonic() >= self._until:
            try:
                self._known = self._owners.ports(_UDP)
            except OSError:
                self._known = None  # then each is looked for, and the failure is each one's
            self._until = time.monotonic() + MOMENT
        return self._known

    def _bound(self, packet: Packet, devices: Sequence[int]) -> Owner | NoOwner:
        owner = self._now(packet)
        if packet.flow.proto in _STREAMS and gone(packet, owner):
            for device in devices:
                other = self._now(structs.replace(packet, outdev=device))
                if not gone(packet, other):
                    return other
        return owner

    def _now(self, packet: Packet) -> Owner | NoOwner:
        try:
            owner = self._owners.quick(packet)
            return self._owners.scan(packet) if owner is None else owner
        except OSError as error:
            return _not_found(error)

    def stop(self) -> None:
        """Begin no more scans; the one that runs is waited for."""
        self._scanner.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Give the descriptors back."""
        self._owners.close()


def _not_found(error: OSError) -> NoOwner:
    """What stops a look-up: no descriptors or memory left. Not an exit, and not a guess."""
    return NoOwner(NoOwnerReason.HIDDEN, detail=f"the look-up failed: {error.strerror}")
