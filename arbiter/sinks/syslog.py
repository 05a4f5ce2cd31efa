"""Records to a syslog daemon: a Unix socket, UDP (RFC 5426) or TCP (RFC 6587, octet counting)."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence

from arbiter.auditsettings import SyslogTo
from arbiter.sinks.items import Item
from arbiter.sinks.journald import priority
from arbiter.sinks.syslogtext import message

TIMEOUT = 5.0
"""Seconds for a connection, and for what is sent to be taken."""
LIMITS = {"udp": 2048, "tcp": 8192, "unix": 8192}
"""Bytes of a message: what every receiver over UDP should take (RFC 5426 section 3.2), and what
rsyslog takes by default."""


class Syslog:
    """A syslog daemon. The methods raise OSError.

    Its packets carry `mark`, arbiter's own mark of what is decided: to ask about the messages that
    tell of what was asked would never end. An administrator chose this connection in arbiter.toml.
    """

    def __init__(self, to: SyslogTo, mark: int) -> None:
        self._to, self._mark = to, mark
        self._sock: socket.socket | None = None
        self._host, self._pid = socket.gethostname(), os.getpid()
        self.most = 100 if to.scheme == "tcp" else 1
        self.where = f"syslog at {to.text}"
        self.step = "check that it listens there"

    def begin(self) -> None:
        """It may start after arbiter: the first item tells."""

    def render(self, item: Item) -> bytes:
        """A message, as it goes over this transport."""
        made = message(item, priority(item), self._host, self._pid, LIMITS[self._to.scheme])
        return b"%d %s" % (len(made), made) if self._to.scheme == "tcp" else made

    def send(self, messages: Sequence[bytes]) -> int:
        """Send them; gives how many. After an error over TCP all are to be sent again."""
        if self._sock is None:
            self._sock = self._connect()
        if self._to.scheme == "tcp":
            _still_there(self._sock)
            self._sock.sendall(b"".join(messages))
            return len(messages)
        self._sock.send(messages[0])
        return 1

    def _connect(self) -> socket.socket:
        if self._to.scheme == "unix":
            return self._try(socket.AF_UNIX, socket.SOCK_DGRAM, self._to.path)
        kind = socket.SOCK_STREAM if self._to.scheme == "tcp" else socket.SOCK_DGRAM
        found = socket.getaddrinfo(self._to.host, self._to.port, type=kind)
        problem: OSError | None = None
        for family, _, _, _, address in found:
            try:
                return self._try(family, kind, address)
            except OSError as error:
                problem = error
        raise problem or OSError(f"{self._to.host} has no address")

    def _try(self, family: int, kind: int, address: object) -> socket.socket:
        sock = socket.socket(family, kind)
        try:
            sock.settimeout(TIMEOUT)
            if family != socket.AF_UNIX and self._mark:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            sock.connect(address)  # type: ignore[arg-type]  # as getaddrinfo gave it
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                # What is not acknowledged for so long is not there any more (tcp(7)).
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(TIMEOUT * 1000))
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """Let the connection go."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def _still_there(sock: socket.socket) -> None:
    """Raises OSError where the receiver has hung up: the kernel would take one more batch, and
    lose it. What a receiver says is thrown away: it has nothing to say in this protocol."""
    ready = select.poll()
    ready.register(sock, select.POLLIN)
    if ready.poll(0) and not sock.recv(4096):
        raise ConnectionResetError("the receiver has closed the connection")
