"""What a service tells who started it: sd_notify(3)'s datagrams, by hand, in a few lines."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """The socket of NOTIFY_SOCKET; without one, `tell` does nothing. Raises ValueError for an
    address that is none, and OSError where nobody listens there."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._socket: socket.socket | None = None
        self.watchdog = _watchdog(environment)
        address = environment.get("NOTIFY_SOCKET", "")
        if not address:
            return
        if not address.startswith(("/", "@")) or len(address) < 2:
            raise ValueError(f"NOTIFY_SOCKET={address!r} is no path and no abstract name (@...)")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(f"\0{address[1:]}" if address[0] == "@" else address)
        except OSError:
            self.close()
            raise

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        return self._socket is not None

    def tell(self, *lines: str) -> None:
        """Send one message, `NAME=VALUE` a line. Never waits; raises OSError (BlockingIOError
        where the other end does not read)."""
        if self._socket is not None:
            self._socket.send("\n".join(lines).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _watchdog(environment: Mapping[str, str]) -> float:
    """Seconds within which WATCHDOG=1 must come (sd_watchdog_enabled(3)); 0 for no watchdog."""
    micros, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not micros.isdecimal() or pid not in ("", str(os.getpid())):
        return 0.0
    return int(micros) / 1_000_000
