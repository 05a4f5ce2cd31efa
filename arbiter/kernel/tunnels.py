"""Whose outer packet is this: of the kernel's own tunnels, the one that sends it.

A tunnel's outer packets have no process. Which they are the kernel says exactly: rtnetlink of a
tunnel between two addresses (linux/if_tunnel.h), generic netlink of WireGuard (linux/wireguard.h).
Both are asked anew for each packet that nobody owns, off the event loop: a peer that gets another
endpoint is told by no event, and such packets are few. What WireGuard's answer says of keys is not
kept.

Not VXLAN, Geneve and FOU: they send from ports at which they have no socket, where a datagram of a
process that closed its own at once looks the same.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator

from msgspec import Struct

from arbiter.kernel.netlink import attributes, os_error, pack_attribute
from arbiter.kernel.netlinkcalls import NetlinkCalls
from arbiter.kernel.rtnlmessages import (
    ALL_LINKS,
    IFINFO,
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    RTM_GETLINK,
    header,
)
from arbiter.model import Flow

_NETLINK_GENERIC = 16
_IFLA_LINK_NETNSID = 37
_IFLA_INFO_DATA = 2

_GENERIC = struct.Struct("=BBH")  # struct genlmsghdr
_ID_CTRL, _CTRL_GETFAMILY, _CTRL_FAMILY_ID, _CTRL_FAMILY_NAME = 16, 3, 1, 2
_WG_GET_DEVICE, _WG_VERSION = 0, 1
_WG_IFINDEX, _WG_LISTEN_PORT, _WG_PEERS = 1, 6, 8
_WG_PEER_ENDPOINT = 4

UDP, IPIP, IPV6, GRE, ESP = 17, 4, 41, 47, 50
PROTOCOLS = frozenset({UDP, IPIP, IPV6, GRE, ESP})
"""Those of all outer packets that are known here."""
_WIREGUARD = "wireguard"
_IP = (frozenset({IPIP, IPV6}), 2, 3)  # IFLA_IPTUN_LOCAL, IFLA_IPTUN_REMOTE
_GRE = (frozenset({GRE}), 6, 7)  # IFLA_GRE_LOCAL, IFLA_GRE_REMOTE
_VTI = (frozenset({ESP}), 4, 5)  # IFLA_VTI_LOCAL, IFLA_VTI_REMOTE
_KINDS = {
    **dict.fromkeys(("ipip", "sit", "ip6tnl"), _IP),
    **dict.fromkeys(("gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan"), _GRE),
    **dict.fromkeys(("vti", "vti6"), _VTI),
}


class Tunnel(Struct, frozen=True):
    """An interface that sends packets of its own. The name may hold any byte but NUL and `/`."""

    index: int
    name: str


class Outer(Struct, frozen=True):
    """What a tunnel's outer packets look like. Addresses are packed; b"" and 0 stand for any."""

    tunnel: Tunnel
    protocols: frozenset[int]
    local: bytes
    remote: bytes
    lport: int = 0
    rport: int = 0

    def fits(self, flow: Flow) -> bool:
        """Whether a packet that no process sent is one of them."""
        return (
            flow.proto in self.protocols
            and flow.daddr == self.remote
            and self.local in (b"", flow.saddr)
            and self.lport in (0, flow.sport)
            and self.rport in (0, flow.dport)
        )


class Tunnels:
    """The tunnels of the network namespace it was made in. For one thread at a time."""

    def __init__(self) -> None:
        self._route = NetlinkCalls(socket.NETLINK_ROUTE)
        try:
            self._generic = NetlinkCalls(_NETLINK_GENERIC)
        except OSError:
            self._route.close()
            raise

    def close(self) -> None:
        """Give the sockets back."""
        self._route.close()
        self._generic.close()

    def sending(self, flow: Flow) -> tuple[Tunnel, ...]:
        """The tunnels that send such packets, mostly one or none.

        Ask it only of packets that no process sent: those of a process may look the same. OSError
        or ValueError where it cannot be read.
        """
        if flow.proto not in PROTOCOLS:
            return ()
        found = [outer.tunnel for outer in self._outers(flow.proto) if outer.fits(flow)]
        return tuple(dict.fromkeys(found))

    def _outers(self, proto: int) -> Iterator[Outer]:
        for message in self._route.dump(RTM_GETLINK, ALL_LINKS, "listing interfaces"):
            tunnel, kind, data = read_link(message.payload)
            if kind == _WIREGUARD and proto == UDP:
                yield from self._wireguard(tunnel)
            elif kind in _KINDS:
                yield from read_addresses(tunnel, kind, data)

    def _wireguard(self, tunnel: Tunnel) -> Iterator[Outer]:
        body = _GENERIC.pack(_WG_GET_DEVICE, _WG_VERSION, 0)
        body += pack_attribute(_WG_IFINDEX, tunnel.index.to_bytes(4, sys.byteorder))
        what = "reading a WireGuard interface"
        try:
            found = self._generic.dump(self._family(), body, what)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return  # it went meanwhile
            raise
        yield from read_wireguard(tunnel, [message.payload for message in found])

    def _family(self) -> int:
        """WireGuard's message type: another one each time its module is loaded."""
        body = _GENERIC.pack(_CTRL_GETFAMILY, 1, 0)
        body += pack_attribute(_CTRL_FAMILY_NAME, _WIREGUARD.encode() + b"\0")
        what = "looking for WireGuard's netlink family"
        payload = self._generic.get(_ID_CTRL, body, what)
        found = dict(attributes(payload[_GENERIC.size :])).get(_CTRL_FAMILY_ID)
        if found is None:
            raise os_error(errno.EPROTO, f"{what}: an answer without it")
        return int.from_bytes(found, sys.byteorder)


# --- what the kernel says, read. ValueError for what is cut off -------------------------------


def read_link(payload: bytes) -> tuple[Tunnel, str, bytes]:
    """An interface, its kind and that kind's own attributes, from an RTM_NEWLINK.

    "" for what is no tunnel, or one that sends its outer packets in another network namespace.
    """
    index = header(IFINFO, payload, "interface")[3]
    found = dict(attributes(payload[IFINFO.size :]))
    tunnel = Tunnel(index, os.fsdecode(found.get(IFLA_IFNAME, b"").rstrip(b"\0")))
    info = dict(attributes(found.get(IFLA_LINKINFO, b"")))
    if _IFLA_LINK_NETNSID in found:
        return tunnel, "", b""
    kind = info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode("ascii", "replace")
    return tunnel, kind, info.get(_IFLA_INFO_DATA, b"")


def read_addresses(tunnel: Tunnel, kind: str, data: bytes) -> Iterator[Outer]:
    """The outer packets of a tunnel between two addresses; none where the far end is not fixed."""
    protocols, local, remote = _KINDS[kind]
    found = dict(attributes(data))
    far, near = found.get(remote, b""), found.get(local, b"")
    if any(far):
        yield Outer(tunnel, protocols, near if any(near) else b"", far)


def read_wireguard(tunnel: Tunnel, payloads: Iterable[bytes]) -> Iterator[Outer]:
    """The outer packets to each peer with an endpoint, from the messages of a device's dump.

    Only the first of them has the port (wg_get_device_dump, drivers/net/wireguard/netlink.c).
    """
    port = 0
    for payload in payloads:
        found = dict(attributes(payload[_GENERIC.size :]))
        port = int.from_bytes(found.get(_WG_LISTEN_PORT, b""), sys.byteorder) or port
        for _, peer in attributes(found.get(_WG_PEERS, b"")):
            remote = read_endpoint(dict(attributes(peer)).get(_WG_PEER_ENDPOINT, b""))
            if port and remote is not None:
                yield Outer(tunnel, frozenset({UDP}), b"", remote[0], port, remote[1])


def read_endpoint(data: bytes) -> tuple[bytes, int] | None:
    """Address and port of a struct sockaddr_in or sockaddr_in6; None for what is neither."""
    family = int.from_bytes(data[:2], sys.byteorder)
    start, end = {int(socket.AF_INET): (4, 8), int(socket.AF_INET6): (8, 24)}.get(family, (0, 0))
    if not end or len(data) < end:
        return None
    return data[start:end], int.from_bytes(data[2:4], "big")
