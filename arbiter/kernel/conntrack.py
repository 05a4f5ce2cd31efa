"""Conntrack's counters of decided flows: read all at once, or told as each flow ends.

Only entries with arbiter's decided bit are seen, and the kernel picks them, so that what others
do (a router's or containers' flows) costs nothing here. Counters are there if `acct.enable` came
before the flow began; they hold IP bytes, headers included (nf_ct_acct_update,
net/netfilter/nf_conntrack_core.c).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Iterator

from arbiter.kernel.firewall.plan import Plan
from arbiter.kernel.netlink import (
    NETLINK_NETFILTER,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    attach_filter,
    attributes,
    messages,
    os_error,
    pack_attribute,
    pack_message,
)
from arbiter.model import MARK_DECIDED, MARK_LINK_SHIFT, MARK_MASK, PORT_PROTOS, Flow
from arbiter.usage import Counted

CT_GET, CT_DELETE = (1 << 8) | 1, (1 << 8) | 2
"""Message types: NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_* (linux/netfilter/nfnetlink_conntrack.h)."""
CTA_TUPLE_ORIG, CTA_MARK = 1, 8
READ_SIZE = 1 << 18
RECEIVE_BUFFER = 4 << 20
"""Bytes; the kernel doubles it, and uses them only while many flows end at once."""

_CTA_COUNTERS_ORIG, _CTA_COUNTERS_REPLY, _CTA_ID, _CTA_TIMESTAMP, _CTA_MARK_MASK = 9, 10, 12, 20, 21
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP4, _IP6 = (1, 2), (3, 4)  # source and destination: CTA_IP_V4_*, CTA_IP_V6_*
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_PACKETS, _BYTES = 1, 2  # CTA_COUNTERS_*
_TIMESTAMP_START = 1
_ICMP_ECHO = {1: (4, 5, (0, 8)), 58: (7, 8, (128, 129))}
"""Protocol → CTA_PROTO_ICMP(V6)_ID, _TYPE, and the types whose id a Flow carries."""
_NF_NETLINK_CONNTRACK_DESTROY = 0x4  # linux/netfilter/nfnetlink_compat.h
_SO_RCVBUFFORCE = 33
_MAX_DRAIN = 1024
"""Batches: more than the receive buffer holds."""
_BATCH = 32
"""Events read at a time, before others on the loop have their turn: about a millisecond."""


def counted(payload: bytes, mask: int = MARK_MASK) -> Counted | None:
    """A conntrack entry from a message's payload. Total.

    None where it was not decided, where nothing counts it, or where it makes no sense.
    """
    try:
        return _counted(payload, mask)
    except (ValueError, KeyError):  # a length that cannot be true; an attribute that is not there
        return None


def flow_of(orig: bytes) -> Flow | None:
    """The flow of a CTA_TUPLE_ORIG, as `packets` decodes its first packet. Total."""
    try:
        return _flow(orig)
    except (ValueError, KeyError):
        return None


def _counted(payload: bytes, mask: int) -> Counted | None:
    found = dict(attributes(payload[4:]))
    shift = (mask & -mask).bit_length() - 1
    mark = (int.from_bytes(found.get(CTA_MARK, b"")) & mask) >> shift << MARK_LINK_SHIFT
    if not mark & MARK_DECIDED or _CTA_COUNTERS_ORIG not in found:
        return None
    out_packets, out_bytes = _counters(found[_CTA_COUNTERS_ORIG])
    in_packets, in_bytes = _counters(found[_CTA_COUNTERS_REPLY])
    times = dict(attributes(found.get(_CTA_TIMESTAMP, b"")))
    return Counted(
        flow=_flow(found[CTA_TUPLE_ORIG]),
        id=_number(found[_CTA_ID], 4),
        mark=mark,
        out_bytes=out_bytes,
        in_bytes=in_bytes,
        out_packets=out_packets,
        in_packets=in_packets,
        started=_number(times[_TIMESTAMP_START], 8) if times else 0,
    )


def _number(data: bytes, size: int) -> int:
    if len(data) != size:
        raise ValueError(f"a number of {len(data)} bytes, {size} expected")
    return int.from_bytes(data)


def _counters(data: bytes) -> tuple[int, int]:
    found = dict(attributes(data))
    return _number(found[_PACKETS], 8), _number(found[_BYTES], 8)


def _flow(data: bytes) -> Flow:
    parts = dict(attributes(data))
    address = dict(attributes(parts[_TUPLE_IP]))
    proto = dict(attributes(parts[_TUPLE_PROTO]))
    number = _number(proto[_PROTO_NUM], 1)
    v4 = _IP4[0] in address
    source, destination = _IP4 if v4 else _IP6
    saddr, daddr = address[source], address[destination]
    if len(saddr) != len(daddr) or len(saddr) != (4 if v4 else 16):
        raise ValueError(f"addresses of {len(saddr)} and {len(daddr)} bytes")
    sport = dport = 0
    if number in PORT_PROTOS:
        sport = _number(proto[_PROTO_SRC_PORT], 2)
        dport = _number(proto[_PROTO_DST_PORT], 2)
    elif number in _ICMP_ECHO and (number == 1) == v4:
        id_kind, type_kind, echo = _ICMP_ECHO[number]
        if _number(proto[type_kind], 1) in echo:
            sport = _number(proto[id_kind], 2)
    return Flow(number, saddr, sport, daddr, dport)


def read(mask: int = MARK_MASK) -> tuple[Counted, ...]:
    """All decided entries with their counters, of both families and every protocol, as they are.

    Raises OSError. Takes about 16 ms for each 1,000 entries, and one walk of conntrack's table: run
    it in a thread.
    """
    decided = Plan(mask=mask).decided
    with open_netfilter() as sock:
        found = (counted(payload, mask) for payload in dump(sock, by_mark(decided, decided)))
        return tuple(entry for entry in found if entry is not None)


class ConntrackWatch:
    """Tells of each decided flow that ends, with its last counters.

    `ended` gets them, in the order of the kernel. `problem` gets a text with its next step whenever
    events were lost: then what was missed shows in the next `read`, as entries that are gone. One
    event loop; nothing here is thread-safe.
    """

    def __init__(
        self,
        ended: Callable[[Counted], None],
        problem: Callable[[str], None],
        mask: int = MARK_MASK,
        *,
        receive_buffer: int = RECEIVE_BUFFER,
    ) -> None:
        self._ended = ended
        self._problem = problem
        self._mask = mask
        self._receive_buffer = receive_buffer
        self._socket: socket.socket | None = None
        self.overruns = 0
        """How often the kernel said that events were lost."""

    def start(self) -> None:
        """Listen in the network namespace of this thread. OSError where netlink is refused.

        Loads nf_conntrack_netlink where it is a module (nfnetlink_bind, nfnetlink.c).
        """
        if self._socket is not None:
            raise RuntimeError("this watch is running: close it before starting it again")
        sock = listen(self._mask, self._receive_buffer)
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable, sock)

    def close(self) -> None:
        """Listen no more; `ended` is not called any more. May be called twice."""
        sock, self._socket = self._socket, None
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()

    def drain(self) -> None:
        """Tell all that has happened by now: for the end, when nothing may be left unsaid."""
        for _ in range(_MAX_DRAIN):  # or who keeps ending flows could keep us
            if self._socket is None or not self._readable(self._socket):
                return

    def _readable(self, sock: socket.socket) -> bool:
        """One batch; whether more may wait."""
        for _ in range(_BATCH):
            try:
                data, sender = sock.recvfrom(READ_SIZE)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    self._lost()
                    continue
                self.close()
                self._problem(
                    f"the ends of connections cannot be heard any more: {error.strerror}; bytes "
                    "since the last read of a connection that ends are not counted; restart arbiter"
                )
                return False
            if sender[0] != 0:
                continue  # only the kernel's own words: others may send to this socket
            for payload in _deleted(data):
                if (entry := counted(payload, self._mask)) is not None:
                    self._ended(entry)
            if self._socket is not sock:
                return False  # `ended` closed us
        return True

    def _lost(self) -> None:
        self.overruns += 1
        self._problem(
            f"more connections ended at once than could be told, {self.overruns} times: what they "
            "carried since the last read is not counted; nothing is to do unless it goes on, then "
            "look for a program that opens very many connections: arbiter audit"
        )


def listen(mask: int, receive_buffer: int) -> socket.socket:
    """A socket that gets the ends of decided flows, non-blocking. Raises OSError."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    sock = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
    try:
        attach_filter(sock, _only_decided(Plan(mask=mask).decided))
        # FORCE: beyond net.core.rmem_max. Not NETLINK_BROADCAST_ERROR, by which the kernel would
        # keep ended entries until they are heard: if we hang, conntrack's table would fill up.
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
        sock.bind((0, _NF_NETLINK_CONNTRACK_DESTROY))
    except OSError:
        sock.close()
        raise
    return sock


def _only_decided(decided: int) -> list[tuple[int, int, int, int]]:
    """Classic BPF: does the message have a mark with this bit? Loads are in network order."""
    ld_word, ld_indirect, ldx_imm, tax, ld_imm = 0x20, 0x40, 0x01, 0x07, 0x00
    jeq, jset, ret = 0x15, 0x45, 0x06
    find_attribute = 0xFFFFF000 + 12  # SKF_AD_OFF + SKF_AD_NLATTR, linux/filter.h
    return [
        (ld_imm, 0, 0, 16 + 4),  # behind struct nlmsghdr and struct nfgenmsg
        (ldx_imm, 0, 0, CTA_MARK),
        (ld_word, 0, 0, find_attribute),  # A: offset of the attribute, 0 if it is not there
        (jeq, 3, 0, 0),
        (tax, 0, 0, 0),
        (ld_indirect, 0, 0, 4),  # behind struct nlattr
        (jset, 1, 0, decided),
        (ret, 0, 0, 0),
        (ret, 0, 0, 0xFFFFFFFF),
    ]


def _deleted(data: bytes) -> Iterator[bytes]:
    """The payloads of a datagram's DESTROY events; what is cut off is nothing."""
    try:
        for message in messages(data):
            if message.type == CT_DELETE:
                yield message.payload
    except ValueError:
        return


# --- requests -------------------------------------------------------------------------------


def open_netfilter() -> socket.socket:
    """A netlink socket to netfilter in the network namespace of this thread. Raises OSError."""
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
    )
    sock.connect((0, 0))  # the kernel
    return sock


def by_mark(mark: int, mask: int) -> bytes:
    """The body of a request for the entries of both families with that mark in `mask`'s bits."""
    return (
        struct.pack("!BBH", socket.AF_UNSPEC, 0, 0)  # struct nfgenmsg: both families
        + pack_attribute(CTA_MARK, mark.to_bytes(4, "big"))
        + pack_attribute(_CTA_MARK_MASK, mask.to_bytes(4, "big"))
    )


def dump(sock: socket.socket, body: bytes) -> Iterator[bytes]:
    """The payloads of all entries that a request asks for. Raises OSError.

    An old kernel does not filter: look at the marks.
    """
    what = "listing conntrack"
    sock.send(pack_message(CT_GET, NLM_F_DUMP, 1, body))
    while True:
        try:
            data = sock.recv(READ_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise os_error(errno.ETIMEDOUT, f"{what}: the kernel gave no answer") from None
        for message in messages(data):
            if message.type in (NLMSG_DONE, NLMSG_ERROR):
                if message.error:
                    raise os_error(message.error, what)
                return
            yield message.payload
