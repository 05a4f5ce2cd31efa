"""Netlink by hand: pack a request, read the kernel's answer, turn a refusal into an OSError.

Only what this room needs (linux/netlink.h, linux/netfilter/nfnetlink_queue.h): sock_diag,
rtnetlink, conntrack, the proc connector, settings of queues. Requests are answered by the kernel
inside sendmsg(2), so every read is non-blocking: an answer that is not there at once will not come.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from msgspec import Struct

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_DUMP = 0x300
NLMSG_HDRLEN = 16

NETLINK_SOCK_DIAG = 4
NETLINK_CONNECTOR = 11
NETLINK_NETFILTER = 12

NFQA_CFG_F_FAIL_OPEN = 1
NFQA_CFG_F_CONNTRACK = 2
NFQA_CFG_F_GSO = 4
NFQA_CFG_F_UID_GID = 8

_NFQNL_MSG_CONFIG = (3 << 8) | 2  # NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG
_NFQA_CFG_MASK = 4
_NFQA_CFG_FLAGS = 5
_NLA_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_INT = struct.Struct("=i")
_SO_ATTACH_FILTER = 26
_READ_SIZE = 65536
_MAX_READS = 64
_MAX_OTHERS = 65536
"""As long as a queue may be."""


class Message(Struct, frozen=True):
    """One netlink message: its header, and the payload behind it."""

    type: int
    flags: int
    seq: int
    payload: bytes
    port: int = 0
    """Of a notification: the socket whose request made the change; 0 is the kernel itself."""

    @property
    def error(self) -> int:
        """The errno of an NLMSG_ERROR, 0 for an acknowledgement; ValueError for a short one."""
        if len(self.payload) < _INT.size:
            raise ValueError(f"netlink error message of {len(self.payload)} bytes, 4 expected")
        return -int(_INT.unpack_from(self.payload)[0])


def pack_message(msg_type: int, flags: int, seq: int, payload: bytes) -> bytes:
    """A whole message with its header; NLM_F_REQUEST is added to `flags`."""
    length = NLMSG_HDRLEN + len(payload)
    return _HEADER.pack(length, msg_type, flags | NLM_F_REQUEST, seq, 0) + payload


def pack_attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram; ValueError where a length cannot be true."""
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < NLMSG_HDRLEN:
            raise ValueError(f"netlink header cut off: {end - offset} bytes of {NLMSG_HDRLEN}")
        length, kind, flags, seq, port = _HEADER.unpack_from(data, offset)
        if not NLMSG_HDRLEN <= length <= end - offset:
            raise ValueError(f"netlink message says {length} bytes, {end - offset} are there")
        yield Message(kind, flags, seq, data[offset + NLMSG_HDRLEN : offset + length], port)
        offset += (length + 3) & ~3


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each attribute, flag bits removed; ValueError for an untrue length."""
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < _ATTRIBUTE.size:
            raise ValueError(f"netlink attribute cut off: {end - offset} bytes of 4")
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= end - offset:
            raise ValueError(f"netlink attribute says {length} bytes, {end - offset} are there")
        yield kind & _NLA_TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def os_error(number: int, what: str) -> OSError:
    """An OSError (of the errno's subclass) that says what was refused."""
    return OSError(number, f"{what}: {os.strerror(number)}")


def ack_request(
    sock: socket.socket,
    msg_type: int,
    flags: int,
    payload: bytes,
    what: str,
    others: list[bytes] | None = None,
) -> None:
    """Send one request and read its acknowledgement; OSError, naming `what`, where refused.

    The socket may deliver other messages (a queue's packets). They go to `others`, for whoever
    reads the socket; without that they are left where they are, as a packet taken here would be
    held for ever, and EBUSY says that the request was carried out, or refused, unseen.
    """
    seq = struct.unpack("=I", os.urandom(4))[0] or 1
    sock.send(pack_message(msg_type, flags | NLM_F_ACK, seq, payload))
    for _ in range(_MAX_READS if others is None else _MAX_OTHERS):
        try:
            data = sock.recv(_READ_SIZE, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            raise os_error(errno.ETIMEDOUT, f"{what}: the kernel gave no answer") from None
        found = list(messages(data))
        if any(message.type != NLMSG_ERROR for message in found):
            if others is not None:
                others.append(sock.recv(_READ_SIZE, socket.MSG_DONTWAIT))
                continue
            raise os_error(errno.EBUSY, f"{what}: packets are waiting in front of the answer")
        sock.recv(_READ_SIZE, socket.MSG_DONTWAIT)
        for message in found:
            if message.seq == seq:
                if message.error:
                    raise os_error(message.error, what)
                return
    raise os_error(errno.EPROTO, f"{what}: only answers to other requests came")


def attach_filter(sock: socket.socket, program: Iterable[tuple[int, int, int, int]]) -> None:
    """Let the kernel drop what a classic BPF program of (code, jt, jf, k) gives 0 for.

    It sees a message from its nlmsghdr on (socket(7), SO_ATTACH_FILTER). Raises OSError.
    """
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code)
    fprog = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def queue_config_flags(fd: int, queue: int, flags: int, mask: int, packets: list[bytes]) -> None:
    """Set the NFQA_CFG_F_ flags of `mask` to those of `flags` on a queue bound by this `fd`.

    Only the netlink socket that bound the queue may do it (nfqnl_recv_config in
    net/netfilter/nfnetlink_queue.c). Messages with packets that came meanwhile go to `packets`:
    where rules are in force already, after a kill, they come as soon as it is bound.
    OSError where the kernel refuses: ENODEV for a queue that is not bound, EPERM for another
    socket's, EOPNOTSUPP for a flag it does not know.
    """
    payload = (
        struct.pack("!BBH", socket.AF_UNSPEC, 0, queue)  # struct nfgenmsg: res_id is the queue
        + pack_attribute(_NFQA_CFG_FLAGS, flags.to_bytes(4, "big"))
        + pack_attribute(_NFQA_CFG_MASK, mask.to_bytes(4, "big"))
    )
    what = f"setting flags {flags:#x} (mask {mask:#x}) of queue {queue}"
    # A duplicate: the socket object must not close the queue's own descriptor.
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER, fileno=os.dup(fd)
    ) as sock:
        ack_request(sock, _NFQNL_MSG_CONFIG, 0, payload, what, packets)
