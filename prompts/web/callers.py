"""Whose a connection on loopback is, and how many each user may have.

Every local user can connect to the port, and a connection that says nothing costs a place. So each
user has a few: who takes all of theirs keeps nobody else out.
"""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections import Counter
from pathlib import Path
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

PER_USER = 24
"""Connections of one user: a browser has six to a host."""
IN_ALL = 256
_TABLES = {4: Path("/proc/net/tcp"), 6: Path("/proc/net/tcp6")}


def uid_of(ours: tuple[str, int], theirs: tuple[str, int]) -> int | None:
    """Whose socket is at `theirs` (address, port), connected to `ours`; None if it is gone, or
    nobody can tell (proc(5), /proc/net/tcp)."""
    ends = [_hex(*theirs), _hex(*ours)]
    try:
        lines = _TABLES[ipaddress.ip_address(ours[0]).version].read_text().splitlines()
    except OSError:
        return None
    for line in lines[1:]:
        fields = line.split()
        if fields[1:3] == ends:
            return int(fields[7])
    return None


def _hex(address: str, port: int) -> str:
    """As the kernel prints it: words of 32 bits as this machine reads them."""
    packed = ipaddress.ip_address(address).packed
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    text = "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
    return f"{text}:{port:04X}"


class Caller(H11Protocol):
    """A connection; one too many of its user is ended at once, unread."""

    open: ClassVar[Counter[int | None]] = Counter()
    """How many each user has."""
    _uid: int | None = None
    _counted = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It is there."""
        super().connection_made(transport)
        ours, theirs = (transport.get_extra_info(name) for name in ("sockname", "peername"))
        if not ours or not theirs:
            transport.abort()  # it went before we looked
            return
        self._uid = uid_of(ours[:2], theirs[:2])
        if self.open[self._uid] >= PER_USER:
            transport.abort()
            return
        self.open[self._uid] += 1
        self._counted = True

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        if self._counted:
            self._counted = False
            self.open[self._uid] -= 1
            if not self.open[self._uid]:
                del self.open[self._uid]
