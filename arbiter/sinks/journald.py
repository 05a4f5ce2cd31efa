"""Records to systemd's journal, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from arbiter.sinks.items import Item

SOCKET = Path("/run/systemd/journal/socket")
TIMEOUT = 5.0
"""Seconds that journald has to take one."""
INFO, NOTICE, WARNING = 6, 5, 4
"""Priorities (syslog(3)): let go, refused, something is missing."""
MESSAGE_IDS = {
    "decided": "8f1c8d0b6a5e4f4c9d7e2b1a60c35d11",
    "ended": "8f1c8d0b6a5e4f4c9d7e2b1a60c35d12",
    "lost": "8f1c8d0b6a5e4f4c9d7e2b1a60c35d13",
}
"""So that `journalctl MESSAGE_ID=...` finds each kind; they never change."""
_TOO_BIG = (errno.EMSGSIZE, errno.ENOBUFS)


def datagram(item: Item) -> bytes:
    """One item as fields: MESSAGE, and `ARBITER_` with each key; a list is one field an entry."""
    return b"".join(_fields(item))


def _fields(item: Item) -> Iterator[bytes]:
    yield _field("MESSAGE", item.text)
    yield _field("PRIORITY", priority(item))
    yield _field("SYSLOG_IDENTIFIER", "arbiter")
    yield _field("MESSAGE_ID", MESSAGE_IDS[item.kind])
    yield _field("ARBITER_KIND", item.kind)
    for key, value in item.values.items():
        for each in value if isinstance(value, list) else (value,):
            if each is not None:
                yield _field(f"ARBITER_{key.upper()}", each)


def _field(name: str, value: Any) -> bytes:
    text = int(value) if isinstance(value, bool) else value
    data = str(text).encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def priority(item: Item) -> int:
    """How much it matters, as syslog(3) counts."""
    if item.kind == "lost":
        return WARNING
    return NOTICE if item.refused else INFO


class Journald:
    """The journal's socket. The methods raise OSError."""

    most = 1

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path
        self._sock: socket.socket | None = None
        self.where = f"journald at {path}"
        self.step = "check: systemctl status systemd-journald"

    def begin(self) -> None:
        """It may start after arbiter: the first item tells."""

    def render(self, item: Item) -> bytes:
        """A datagram."""
        return datagram(item)

    def send(self, datagrams: Sequence[bytes]) -> int:
        """Send the first; gives 1."""
        if self._sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                sock.settimeout(TIMEOUT)
                sock.connect(str(self._path))
            except BaseException:
                sock.close()
                raise
            self._sock = sock
        try:
            self._sock.send(datagrams[0])
        except OSError as error:
            if error.errno not in _TOO_BIG:
                raise
            self._send_file(self._sock, datagrams[0])
        return 1

    def _send_file(self, sock: socket.socket, data: bytes) -> None:
        """What is too big for a datagram goes as a sealed file in memory, by its descriptor."""
        with os.fdopen(os.memfd_create("arbiter-record", os.MFD_ALLOW_SEALING), "wb") as file:
            file.write(data)
            file.flush()
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
            socket.send_fds(sock, [b""], [file.fileno()])

    def close(self) -> None:
        """Let the socket go."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
