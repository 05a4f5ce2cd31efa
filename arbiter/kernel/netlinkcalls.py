"""A netlink socket for requests: one question, one answer, or a dump that is whole.

Requests are answered inside sendmsg(2), so that every read is non-blocking; see `netlink`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from arbiter.kernel.netlink import (
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    ack_request,
    messages,
    os_error,
    pack_message,
)

_DUMP_INTR = 0x10  # NLM_F_DUMP_INTR
_DUMP_TRIES = 10
_READ_SIZE = 1 << 18


class NetlinkCalls:
    """One socket; use it in one thread, and a `with`. Methods raise OSError as the kernel does."""

    def __init__(self, protocol: int) -> None:
        self._sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        self._sock.connect((0, 0))  # from the kernel only
        self._seq = 0
        self._ended = True
        self.interrupted = False
        """Whether the last list is none of one moment: it changed while it was read."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self._sock.close()

    def ask(self, kind: int, flags: int, body: bytes, what: str) -> None:
        """One request that is only acknowledged; OSError, naming `what`, where it is refused."""
        ack_request(self._sock, kind, flags, body, what)

    def get(self, kind: int, body: bytes, what: str) -> bytes:
        """The payload of the one answer; OSError, naming `what`, where it is refused."""
        self._seq += 1
        self._sock.send(pack_message(kind, 0, self._seq, body))
        for message in self._read(what):
            if message.type == NLMSG_ERROR:
                raise os_error(message.error, what)
            return message.payload
        raise os_error(errno.EPROTO, f"{what}: an answer to nothing")

    def dump(self, kind: int, body: bytes, what: str) -> list[Message]:
        """The whole list, of one moment; OSError, naming `what`, where it is refused."""
        for _ in range(_DUMP_TRIES):
            found = [message for part in self.parts(kind, body, what) for message in part]
            if not self.interrupted:
                return found
        raise os_error(errno.EAGAIN, f"{what}: it changes faster than it can be read")

    def parts(self, kind: int, body: bytes, what: str) -> Iterator[Iterator[Message]]:
        """A list in parts, some kilobytes each: the kernel makes the next one when it is read.

        Take each part to its end, and all of them before the next request; then see `interrupted`.
        OSError, naming `what`, where it is refused; ValueError for what is no netlink message.
        """
        self._seq += 1
        self._ended = self.interrupted = False
        self._sock.send(pack_message(kind, NLM_F_DUMP, self._seq, body))
        while not self._ended:
            yield self._part(self._read(what), what)

    def _part(self, found: Iterable[Message], what: str) -> Iterator[Message]:
        for message in found:
            if message.flags & _DUMP_INTR:
                self.interrupted = True
            if message.type in (NLMSG_DONE, NLMSG_ERROR):
                if message.error:
                    raise os_error(message.error, what)
                self._ended = True
                return
            yield message

    def _read(self, what: str) -> Iterator[Message]:
        try:
            data = self._sock.recv(_READ_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise os_error(errno.ETIMEDOUT, f"{what}: the kernel gave no answer") from None
        return (m for m in messages(data) if m.seq == self._seq)
