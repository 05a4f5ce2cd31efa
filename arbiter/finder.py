"""Finding owners for the daemon: at once where that is quick, else in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor

from arbiter.events import Event, OwnerFound
from arbiter.kernel.owner import OwnerLookup
from arbiter.memory import now
from arbiter.model import Link, NoOwner, NoOwnerReason, Owner, Packet


class Finder:
    """Every `find` is answered by one `OwnerFound`. `spawn` runs what takes longer."""

    def __init__(
        self,
        owners: OwnerLookup,
        dispatch: Callable[[Event], None],
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self._owners, self._dispatch, self._spawn = owners, dispatch, spawn
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

    def stop(self) -> None:
        """Begin no more scans; the one that runs is waited for."""
        self._scanner.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Give the descriptors back."""
        self._owners.close()


def _not_found(error: OSError) -> NoOwner:
    """What stops a look-up: no descriptors or memory left. Not an exit, and not a guess."""
    return NoOwner(NoOwnerReason.HIDDEN, detail=f"the look-up failed: {error.strerror}")
