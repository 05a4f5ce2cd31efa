"""Connected sockets that conntrack does not know as begun here: those of a time without conntrack.

Such a connection was open before anybody's ruleset wanted conntrack. If this host sends first it is
queued like a new one. If the other side does, conntrack makes an entry in the wrong direction, from
the middle of the connection, and all that follows is the answer to something that came in.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Container, Iterable, Iterator
from pathlib import Path

from arbiter.kernel import linkloss
from arbiter.kernel.conntrack import CT_GET, CTA_TUPLE_ORIG, flow_of
from arbiter.kernel.ctlabel import pack_tuple
from arbiter.kernel.netlink import NETLINK_NETFILTER, attributes, os_error
from arbiter.kernel.netlinkcalls import NetlinkCalls
from arbiter.kernel.sockdiag import LISTEN, TCP, UDP, SockDiag, SocketInfo
from arbiter.model import Flow, Packet
from arbiter.older import NO_ID, Here, Older, began_here

_HELD_STATES = frozenset({1, 4, 5, 8})
"""ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT: open, and a process may have it."""
_ACK = 0x10
_MAPPED = bytes(10) + b"\xff\xff"
_CTA_PROTOINFO, _PROTOINFO_TCP, _FLAGS = 4, 1, (4, 5)
"""CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, _REPLY."""
_LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LAST_OF_SERVERS = 1023  # RFC 6335: system ports
_LIBERAL = 0x08
"""IP_CT_TCP_FLAG_BE_LIBERAL: both sides have it of a connection whose beginning conntrack did not
see (tcp_new, net/netfilter/nf_conntrack_proto_tcp.c)."""


def read(here: Here, known: Collection[Flow]) -> list[Older]:
    """All there are, but for flows that are `known`. OSError where the kernel refuses.

    What came in is told by a socket that waits for others on the same port, or by the ports.
    """
    found: list[Older] = []
    low, high = map(int, _LOCAL_PORTS.read_text().split())
    with SockDiag() as diag, NetlinkCalls(NETLINK_NETFILTER) as calls:
        for proto in (TCP, UDP):
            if not diag.supports(proto):
                continue
            families = socket.AF_INET, socket.AF_INET6
            sockets = [info for family in families for info in diag.dump(proto, family)]
            found += [
                Older(packet, 0, b"", untracked=True)
                for packet in connected(proto, sockets, here, range(low, high + 1))
                if packet.flow not in known and _is_new(calls, packet.flow)
            ]
    return found


def connected(
    proto: int, sockets: Iterable[SocketInfo], here: Here, ports: Container[int]
) -> Iterator[Packet]:
    """The next packets of sockets that are connected to another host. Pure.

    Not those on a port on which this host is a server, or may have been: one that is none of
    `ports`, which the kernel gives to who wants just any, while the other side has a client's. An
    ssh session is not to be ended because its server was stopped meanwhile.
    """
    listed = list(sockets)
    served = {
        one.lport for one in listed if (one.state == LISTEN if proto == TCP else not one.rport)
    }
    for one in listed:
        if one.lport in served or not one.rport or not one.inode:
            continue
        if one.lport not in ports and one.rport > _LAST_OF_SERVERS:
            continue
        if proto == TCP and one.state not in _HELD_STATES:
            continue
        flow = Flow(proto, _plain(one.local), one.lport, _plain(one.remote), one.rport)
        packet = Packet(NO_ID, flow, tcp_flags=_ACK if proto == TCP else 0)
        if began_here(packet, here):
            yield packet


def end(older: Older) -> bool:
    """End the socket; whether it was there. OSError where the kernel cannot."""
    indexes = [index for index, _ in socket.if_nameindex()]
    done = linkloss.end_sockets((older.packet.flow,), indexes)
    if done.errors:
        raise os_error(errno.EOPNOTSUPP, done.errors[0])
    return done.sockets > 0


def _plain(address: bytes) -> bytes:
    return address[12:] if address.startswith(_MAPPED) and len(address) == 16 else address


def _is_new(calls: NetlinkCalls, flow: Flow) -> bool:
    """Whether conntrack has no entry of this flow, or one that the other side began later."""
    family = socket.AF_INET if flow.family == 4 else socket.AF_INET6
    body = struct.pack("!BBH", family, 0, 0) + pack_tuple(flow)
    try:
        payload = calls.get(CT_GET, body, "looking for a connection")
    except FileNotFoundError:
        return True
    return wrong_way(payload, flow)


def wrong_way(payload: bytes, flow: Flow) -> bool:
    """Whether an entry, found by `flow`, is one that the other side began in the middle of it. Of
    datagrams any that it began: a socket that is connected, and serves nobody, has sent first."""
    found = dict(attributes(payload[4:]))
    if flow_of(found[CTA_TUPLE_ORIG]) == flow:
        return False
    if flow.proto != TCP:
        return True
    info = dict(attributes(found.get(_CTA_PROTOINFO, b"")))
    tcp = dict(attributes(info.get(_PROTOINFO_TCP, b"")))
    return all(tcp.get(kind, b"\0")[0] & _LIBERAL for kind in _FLAGS)
