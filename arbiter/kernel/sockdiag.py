"""sock_diag: the kernel's own look-up of a flow's socket (linux/sock_diag.h, linux/inet_diag.h).

One long-lived NETLINK_SOCK_DIAG socket, hand-packed: about 2 us in the kernel. It sees the network
namespace it was opened in. The socket is connected to the kernel, so that no other process can
slip an answer in (netlink_getsockbyportid refuses strangers).
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from types import TracebackType
from typing import Any

from msgspec import Struct

from arbiter.kernel.netlink import (
    NETLINK_SOCK_DIAG,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attributes,
    messages,
    os_error,
)

TCP, UDP, DCCP, SCTP, UDPLITE = 6, 17, 33, 132, 136

ESTABLISHED, SYN_SENT, SYN_RECV, TIME_WAIT, CLOSE, LISTEN = 1, 2, 3, 6, 7, 10
"""States, include/net/tcp_states.h."""
OPEN_STATES = frozenset({1, 4, 5, 6, 8, 9, 11})
"""ESTABLISHED, FIN_WAIT1, FIN_WAIT2, TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING."""

_SOCK_DIAG_BY_FAMILY = 20
_INET_DIAG_SKV6ONLY = 11
_INET_DIAG_MSG_SIZE = 72
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF
# nlmsghdr, inet_diag_req_v2; ports in network order, so as bytes; 16s pads an IPv4 address.
_REQUEST = struct.Struct("=IHHIIBBBBI2s2s16s16sIII")
_ANSWER = struct.Struct("=IHHIIBBBB2s2s16s16s12x12xII")
_ERROR = struct.Struct("=IHHIIi")
_SWAPPED = frozenset({UDP, UDPLITE})
"""udp_dump_one takes source and destination "swapped for historical reasons" (udp_diag.c)."""


class SocketInfo(Struct, frozen=True):
    """A socket as the kernel describes it; `local` and `remote` are packed addresses."""

    inode: int
    """0: no process can hold it (orphan, TIME_WAIT, SYN_RECV, a kernel socket)."""
    uid: int
    state: int
    local: bytes
    lport: int
    remote: bytes
    rport: int
    """0: not connected."""
    v6only: bool = False


class SockDiag:
    """Exact look-ups and small dumps. Thread-safe: one request at a time."""

    def __init__(self) -> None:
        self._sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
        )
        self._sock.connect((0, 0))
        self._sock.setblocking(False)
        self._seq = 0
        self._lock = threading.Lock()
        self._buffer = bytearray(65536)

    def __enter__(self) -> SockDiag:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the netlink socket back."""
        self._sock.close()

    def lookup(
        self, proto: int, local: bytes, lport: int, remote: bytes, rport: int, ifindex: int = 0
    ) -> SocketInfo | None:
        """The socket the kernel would give this flow's packets to, or None.

        `ifindex` is the device the packet leaves or came by: a socket bound to a device is found
        by that one only. A TCP flow without a socket finds the listener of its local port
        (state LISTEN); a UDP flow finds sockets that are not connected, too. IPv4 flows of IPv6
        sockets are found. OSError if the kernel fails or gives no answer.
        """
        family = socket.AF_INET if len(local) == 4 else socket.AF_INET6
        if proto in _SWAPPED:
            local, lport, remote, rport = remote, rport, local, lport
        with self._lock:
            self._send(family, proto, NLM_F_REQUEST, local, lport, remote, rport, ifindex)
            for _ in range(8):  # past what an interrupted dump may have left
                size = self._receive(proto)
                answer = _ANSWER.unpack_from(self._buffer)
                if answer[3] != self._seq:
                    continue
                if answer[1] == NLMSG_ERROR:
                    number = -_ERROR.unpack_from(self._buffer)[5]
                    if number == errno.ENOENT:
                        return None
                    raise os_error(number or errno.EPROTO, f"sock_diag look-up, protocol {proto}")
                if answer[1] != _SOCK_DIAG_BY_FAMILY or not _ANSWER.size <= answer[0] <= size:
                    break
                return _info(answer)
        raise os_error(errno.EPROTO, f"sock_diag look-up, protocol {proto}: a malformed answer")

    def dump(
        self, proto: int, family: int, lport: int = 0, states: int = _ALL_STATES
    ) -> list[SocketInfo]:
        """Every socket of that address family, on that local port if given; OSError on failure."""
        found: list[SocketInfo] = []
        with self._lock:
            flags = NLM_F_REQUEST | NLM_F_DUMP
            self._send(family, proto, flags, b"", lport, b"", 0, 0, states)
            while True:
                data = bytes(self._buffer[: self._receive(proto)])
                try:
                    answers = list(messages(data))
                    for message in answers:
                        if message.seq != self._seq:
                            continue
                        # NLMSG_DONE carries the dump's own errno (netlink_dump_done).
                        if message.type in (NLMSG_DONE, NLMSG_ERROR):
                            if message.error or message.type == NLMSG_ERROR:
                                number = message.error or errno.EPROTO
                                raise os_error(number, f"sock_diag dump, protocol {proto}")
                            return found
                        found.append(_dumped(message.payload))
                except ValueError as error:
                    raise os_error(errno.EPROTO, f"sock_diag dump: {error}") from error

    def supports(self, proto: int) -> bool:
        """Whether this kernel can look that protocol up; a missing handler is ENOENT to a dump.

        (An exact look-up cannot tell: ENOENT also means that there is no such socket.)
        """
        try:
            self.dump(proto, socket.AF_INET, lport=1, states=0)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT):
                return False
            raise
        return True

    def _send(
        self,
        family: int,
        proto: int,
        flags: int,
        source: bytes,
        sport: int,
        destination: bytes,
        dport: int,
        ifindex: int,
        states: int = _ALL_STATES,
    ) -> None:
        self._seq = seq = (self._seq + 1) & 0xFFFFFFFF
        request = _REQUEST.pack(
            _REQUEST.size, _SOCK_DIAG_BY_FAMILY, flags, seq, 0,
            family, proto, 0, 0, states,
            sport.to_bytes(2, "big"), dport.to_bytes(2, "big"),
            source, destination, ifindex, _NO_COOKIE, _NO_COOKIE,
        )  # fmt: skip
        self._sock.send(request)

    def _receive(self, proto: int) -> int:
        """Bytes of one answer in the buffer, at least an error message's."""
        try:
            size = self._sock.recv_into(self._buffer)
        except BlockingIOError:
            raise os_error(
                errno.ETIMEDOUT, f"sock_diag, protocol {proto}: the kernel gave no answer"
            ) from None
        if size < _ERROR.size:
            raise os_error(errno.EPROTO, f"sock_diag, protocol {proto}: {size} bytes of answer")
        return size


def _info(answer: tuple[Any, ...]) -> SocketInfo:
    _, _, _, _, _, family, state, _, _, lport, rport, local, remote, uid, inode = answer
    if family == socket.AF_INET:
        local, remote = local[:4], remote[:4]
    return SocketInfo(
        inode, uid, state,
        local, int.from_bytes(lport, "big"), remote, int.from_bytes(rport, "big"),
    )  # fmt: skip


def _dumped(payload: bytes) -> SocketInfo:
    if len(payload) < _INET_DIAG_MSG_SIZE:
        raise ValueError(f"inet_diag_msg of {len(payload)} bytes, {_INET_DIAG_MSG_SIZE} expected")
    info = _info(_ANSWER.unpack_from(bytes(16) + payload))
    v6only = any(
        kind == _INET_DIAG_SKV6ONLY and value[:1] == b"\1"
        for kind, value in attributes(payload[_INET_DIAG_MSG_SIZE:])
    )
    return SocketInfo(
        info.inode, info.uid, info.state, info.local, info.lport, info.remote, info.rport, v6only
    )
