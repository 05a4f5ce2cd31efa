"""The hardware addresses of gateways, from the kernel's neighbour tables (ARP, NDP).

A network that gives no other name is known by its gateway's hardware address. It is no proof:
whoever is on that network, or sets up one of his own, can claim any address (neither ARP nor NDP is
authenticated), and a rule that asks for it trusts a name, not a key.

Asked one by one (RTM_GETNEIGH with NDA_DST, Linux 5.0), not as a dump: a hostile network can fill
the table, and only a handful of entries are wanted.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from arbiter.kernel.netlink import attributes, pack_attribute
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.links import Interface, default_routes

RTM_NEWNEIGH, RTM_DELNEIGH, _GETNEIGH = 28, 29, 30
MAX_GATEWAYS = 8
"""Of an interface: anybody on a LAN can add IPv6 default routes by router advertisements."""
_CREATE = 0x400  # NLM_F_CREATE
_NDMSG = struct.Struct("=BBHiHBB")  # struct ndmsg
_NDA_DST, _NDA_LLADDR = 1, 2
_NTF_USE = 0x01
_USABLE = 0x02 | 0x04 | 0x08 | 0x10 | 0x80
"""NUD_REACHABLE, STALE, DELAY, PROBE, PERMANENT: not INCOMPLETE (0x01), FAILED (0x20), nor NOARP
(0x40: a tunnel's, where there is no address)."""
_MAC_SIZE = 6
_GONE = (errno.ENODEV, errno.ENETDOWN, errno.EINVAL)
"""The interface went, or its IPv4 or IPv6 did (arp_constructor, ndisc_constructor): that is an
event by itself."""

Key = tuple[int, bytes]
"""A neighbour: interface index, packed address."""


class Gateways:
    """What is known of the gateways of default routes. State of one link watch; one thread."""

    def __init__(self) -> None:
        self.known: dict[Key, str] = {}
        """Each gateway's hardware address, "" while it is not resolved."""
        self.problem = ""
        """What the kernel refused at the last look; "" for nothing."""
        self._asked: set[Key] = set()

    def look(self, interfaces: Iterable[Interface]) -> tuple[Interface, ...]:
        """The interfaces with their `gateways`; asks the kernel to resolve what is not.

        That is asked once, not at every look, until the gateway was resolved or is none any more:
        so the network is known before the first connection, and a silent gateway is not pestered.
        Never raises OSError: see `problem`. About 10 us a gateway.
        """
        found = tuple(interfaces)
        wanted = {interface.index: tuple(_gateways(interface)) for interface in found}
        keys = [(index, gateway) for index, them in wanted.items() for gateway in them]
        self.known, self.problem = {}, ""
        if keys:
            try:
                self._read(keys)
            except OSError as error:
                self.problem = f"gateways are not known by their hardware addresses: {error}"
        self._asked &= {key for key in keys if not self.known.get(key)}
        return tuple(
            replace(
                interface,
                gateways=tuple(
                    (gateway, mac)
                    for gateway in wanted[interface.index]
                    if (mac := self.known.get((interface.index, gateway), ""))
                ),
            )
            for interface in found
        )

    def changed(self, key: Key, address: str) -> bool:
        """Whether it is news that a neighbour has this hardware address ("": none)."""
        return self.known.get(key, address) != address

    def _read(self, keys: list[Key]) -> None:
        with Rtnetlink() as net:
            for key in keys:
                self.known[key] = hardware_address(net, key)
                if not self.known[key] and key not in self._asked:
                    resolve(net, key)
                    self._asked.add(key)


def hardware_address(net: Rtnetlink, key: Key) -> str:
    """A neighbour's, lower case; "" if it has none that can be used. Raises OSError."""
    index, address = key
    body = _NDMSG.pack(_family(address), 0, 0, index, 0, 0, 0) + pack_attribute(_NDA_DST, address)
    try:
        payload = net.get(_GETNEIGH, body, f"looking for neighbour {describe(key)}")
    except OSError as error:
        if error.errno in (errno.ENOENT, *_GONE):
            return ""
        raise
    found = parse(payload)
    return found[1] if found and found[0] == key else ""


def resolve(net: Rtnetlink, key: Key) -> None:
    """Have the kernel find a neighbour out, as if a packet were to be sent there. Raises OSError.

    NTF_USE (uapi/linux/neighbour.h) starts ARP or NDP and changes nothing else (neigh_add in
    net/core/neighbour.c); the answer is an event.
    """
    index, address = key
    body = _NDMSG.pack(_family(address), 0, 0, index, 0, _NTF_USE, 0)
    body += pack_attribute(_NDA_DST, address)
    try:
        net.ask(RTM_NEWNEIGH, _CREATE, body, f"resolving neighbour {describe(key)}")
    except OSError as error:
        if error.errno not in _GONE:
            raise


def parse(payload: bytes) -> tuple[Key, str] | None:
    """(neighbour, hardware address) of a neighbour message; "" where it has none that can be used.

    None for what is no neighbour of IPv4 or IPv6 (a bridge's table). ValueError for torn bytes.
    """
    if len(payload) < _NDMSG.size:
        raise ValueError(f"neighbour message of {len(payload)} bytes, {_NDMSG.size} expected")
    _, _, _, index, state, _, _ = _NDMSG.unpack_from(payload)
    found = dict(attributes(payload[_NDMSG.size :]))
    address, mac = found.get(_NDA_DST, b""), found.get(_NDA_LLADDR, b"")
    if len(address) not in (4, 16):
        return None
    usable = state & _USABLE and len(mac) == _MAC_SIZE
    return (index, address), mac.hex(":") if usable else ""


def describe(key: Key) -> str:
    """As `ip neigh` would be asked for it."""
    index, address = key
    return f"{socket.inet_ntop(_family(address), address)} dev #{index}"


def _gateways(interface: Interface) -> Iterator[bytes]:
    """Each once, in the order of the routes, IPv4 first; none while the interface is down."""
    if interface.up:
        routes = (*default_routes(interface, 4), *default_routes(interface, 6))
        yield from list(dict.fromkeys(r.gateway for r in routes if r.gateway))[:MAX_GATEWAYS]


def _family(address: bytes) -> socket.AddressFamily:
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6
