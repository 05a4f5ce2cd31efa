"""When a link is lost: end the sockets of its connections, forget those connections, no others.

A connection of a lost link would hang until its time-out, and its conntrack entry would send the
next packets of the same flow to a link that is not there. Which connections: those whose conntrack
mark names the link. The socket's own address would be the wrong sign, because it was chosen before
the decision and is mostly another link's (NETFILTER.md 4).

First the sockets, then the entries: a socket without its entry would go on as a NEW connection.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from arbiter.kernel.conntrack import (
    CT_DELETE,
    CTA_MARK,
    CTA_TUPLE_ORIG,
    READ_SIZE,
    by_mark,
    dump,
    flow_of,
    open_netfilter,
)
from arbiter.kernel.netlink import (
    NETLINK_SOCK_DIAG,
    NLMSG_ERROR,
    ack_request,
    attributes,
    messages,
    os_error,
    pack_message,
)
from arbiter.kernel.sockdiag import LISTEN, TCP, TIME_WAIT, UDP, UDPLITE
from arbiter.model import MARK_MASK, Flow
from arbiter.routeplan import link_mark

_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21  # linux/sock_diag.h
_ID = struct.Struct("=2s2s16s16sI8s")  # struct inet_diag_sockid
_REQUEST = struct.Struct("=BBBBI")  # inet_diag_req_v2 before its id
_SYN_SENT = 2  # net/tcp_states.h
_ANY_COOKIE = b"\xff" * 8
_ALL_STATES = 0xFFFFFFFF
_SWAPPED = frozenset({UDP, UDPLITE})
"""Their look-up takes source and destination swapped; their destruction does not (udp_diag.c)."""


class Tracked(Struct, frozen=True):
    """A connection of conntrack's, before any NAT: as the socket that began it sees it."""

    proto: int
    source: bytes
    sport: int
    destination: bytes
    dport: int


UNSUPPORTED = (
    "this kernel cannot close sockets of others (it lacks CONFIG_INET_DIAG_DESTROY): programs wait"
    " until their connections time out"
)


class Destroyed(Struct, frozen=True):
    """What became of a link's sockets."""

    sockets: int = 0
    errors: tuple[str, ...] = ()
    """What hindered it, for a person."""


def connections(number: int, mark_mask: int = MARK_MASK) -> tuple[Tracked, ...]:
    """The TCP and UDP connections decided for link `number`. Raises OSError.

    The kernel filters by mark and mask, so the cost is that of walking its table once.
    """
    mark, mask = link_mark(number, mark_mask)
    with open_netfilter() as sock:
        found = (_tracked(payload, mark, mask) for payload in dump(sock, by_mark(mark, mask)))
        return tuple(dict.fromkeys(flow for flow in found if flow is not None))


def destroy_sockets(
    number: int,
    mark_mask: int = MARK_MASK,
    indexes: Collection[int] = (),
    flows: Iterable[Flow] = (),
    connecting: Iterable[Flow] = (),
) -> Destroyed:
    """End the sockets of link `number`'s connections: their programs get ECONNABORTED at once.

    `connecting`: flows that went over it by the default route. Of these only TCP in its handshake
    is ended: the kernel would repeat that over another link, from an address to which no answer
    comes, until the program gives up.

    `flows`: those known to have been routed over it. The kernel forgets masqueraded connections by
    itself when their interface goes down (masq_device_event, nf_nat_masquerade.c), and then
    conntrack names none; where only the carrier is lost it names all.

    `indexes`: interfaces to which sockets may be bound (SO_BINDTODEVICE hides them otherwise); give
    the link's. A listening socket, and a UDP socket that is not connected (it may serve others), is
    never ended. The cookie of the look-up makes sure that it is that socket, not one that took its
    port since. Raises OSError if conntrack cannot be read.
    """
    ends = dict.fromkeys((*connections(number, mark_mask), *map(_flow, flows)), False)
    return _destroy_all(dict.fromkeys(map(_flow, connecting), True) | ends, indexes)


def end_sockets(flows: Iterable[Flow], indexes: Collection[int] = ()) -> Destroyed:
    """End the sockets that are connected so, and no others; see `destroy_sockets`."""
    return _destroy_all(dict.fromkeys(map(_flow, flows), False), indexes)


def _flow(flow: Flow) -> Tracked:
    return Tracked(flow.proto, flow.saddr, flow.sport, flow.daddr, flow.dport)


def _destroy_all(flows: Mapping[Tracked, bool], indexes: Collection[int]) -> Destroyed:
    """With True only what is in its handshake."""
    count = 0
    errors: list[str] = []
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
    ) as sock:
        sock.connect((0, 0))
        for flow, only_handshake in flows.items():
            for index in (0, *indexes):
                try:
                    count += _destroy(sock, flow, index, only_handshake)
                except OSError as error:
                    if error.errno == errno.EOPNOTSUPP:
                        return Destroyed(count, (*errors, UNSUPPORTED))
                    errors.append(error.strerror or str(error))
    return Destroyed(count, tuple(errors))


def forget_connections(number: int, mark_mask: int = MARK_MASK) -> None:
    """Delete the conntrack entries decided for link `number`, of every protocol, and no others.

    One request: the kernel compares mark and mask (ctnetlink_flush_conntrack). Raises OSError.
    """
    with open_netfilter() as sock:
        what = f"forgetting the connections of link {number}"
        ack_request(sock, CT_DELETE, 0, by_mark(*link_mark(number, mark_mask)), what)


def _tracked(payload: bytes, mark: int, mask: int) -> Tracked | None:
    """None for another protocol, or a mark that an old kernel did not filter."""
    found = dict(attributes(payload[4:]))
    if int.from_bytes(found.get(CTA_MARK, b"")) & mask != mark or CTA_TUPLE_ORIG not in found:
        return None
    flow = flow_of(found[CTA_TUPLE_ORIG])
    if flow is None or flow.proto not in (TCP, UDP, UDPLITE):
        return None
    return _flow(flow)


def _destroy(sock: socket.socket, flow: Tracked, index: int, only_handshake: bool) -> int:
    """How many sockets it ended: 1, or 0 if there is none that is this flow's alone (and, with
    `only_handshake`, is TCP that waits for its first answer)."""
    if only_handshake and flow.proto != TCP:
        return 0
    ended = 0
    # Inbound connections have us as the destination.
    for near, nport, far, fport in (
        (flow.source, flow.sport, flow.destination, flow.dport),
        (flow.destination, flow.dport, flow.source, flow.sport),
    ):
        cookie = _find(sock, flow.proto, near, nport, far, fport, index, only_handshake)
        if cookie is None:
            continue
        body = _request(flow.proto, near, nport, far, fport, index, cookie)
        try:
            ack_request(sock, _SOCK_DESTROY, 0, body, f"ending a socket of protocol {flow.proto}")
            ended += 1
        except FileNotFoundError:
            continue  # it ended by itself in between
    return ended


def _find(
    sock: socket.socket,
    proto: int,
    near: bytes,
    nport: int,
    far: bytes,
    fport: int,
    index: int,
    only_handshake: bool,
) -> bytes | None:
    """The cookie of the socket that is connected so, if there is one."""
    swapped = (far, fport, near, nport) if proto in _SWAPPED else (near, nport, far, fport)
    body = _request(proto, *swapped, index, _ANY_COOKIE)
    sock.send(pack_message(_SOCK_DIAG_BY_FAMILY, 0, 1, body))
    (message,) = messages(sock.recv(READ_SIZE, socket.MSG_DONTWAIT))
    if message.type == NLMSG_ERROR:
        if message.error == errno.ENOENT:
            return None
        raise os_error(message.error, f"looking for a socket of protocol {proto}")
    state = message.payload[1]
    _, remote, _, _, _, cookie = _ID.unpack_from(message.payload, 4)
    connected = int.from_bytes(remote, "big") == fport
    if only_handshake and state != _SYN_SENT:
        return None
    return bytes(cookie) if connected and state not in (LISTEN, TIME_WAIT) else None


def _request(
    proto: int, near: bytes, nport: int, far: bytes, fport: int, index: int, cookie: bytes
) -> bytes:
    family = socket.AF_INET if len(near) == 4 else socket.AF_INET6
    ends = (nport.to_bytes(2, "big"), fport.to_bytes(2, "big"), near, far)
    return _REQUEST.pack(family, proto, 0, 0, _ALL_STATES) + _ID.pack(*ends, index, cookie)
