"""rtnetlink's messages about interfaces, addresses and routes, decoded. Pure.

struct ifinfomsg, ifaddrmsg, rtmsg and rtnexthop, and the attributes behind them (rtnetlink(7),
linux/if_link.h, if_addr.h, rtnetlink.h). Each decoder gives a value or ValueError, whatever the
bytes are. An attribute that nothing here speaks of is passed over, as those of newer kernels are.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from arbiter.kernel.netlink import attributes, pack_attribute

RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE = 18, 22, 26
RTN_UNICAST = 1
IFINFO = struct.Struct("=BBHiII")  # struct ifinfomsg: family, ARPHRD_, index, IFF_, change
IFADDR = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, length, IFA_F_, scope, index
RTMSG = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, lengths, tos, table, protocol, scope, RTN_, RTNH_F_ with RTM_F_.
fib_rule_hdr has the same shape."""
_HOP = struct.Struct("=HBBi")  # struct rtnexthop
_U32 = struct.Struct("=I")

IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND = 3, 18, 1
_IFLA_ADDRESS, _IFLA_MTU, _IFLA_EXT_MASK, _IFLA_PERM_ADDRESS = 1, 4, 29, 54
_IFLA_INFO_SLAVE_KIND = 4
IFA_ADDRESS, IFA_LOCAL = 1, 2
_IFA_FLAGS = 8
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE, RTA_VIA = 1, 4, 5, 6, 7, 15, 18
_RTA_MULTIPATH = 9
_VIA_FAMILY = 2
"""Bytes of a struct rtvia before the address."""
_SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS
_RTM_F_CLONED = 0x200
_SIZES = {int(socket.AF_INET): 4, int(socket.AF_INET6): 16}

ALL_LINKS = IFINFO.pack(0, 0, 0, 0, 0, 0) + pack_attribute(_IFLA_EXT_MASK, _U32.pack(_SKIP_STATS))
"""The body of RTM_GETLINK for every interface, without the counters, which are half of it."""
ALL_ADDRESSES = IFADDR.pack(0, 0, 0, 0, 0)
"""The body of RTM_GETADDR for every address of every family."""


class LinkMessage(Struct, frozen=True):
    """An interface."""

    index: int
    arphrd: int
    """ARPHRD_, linux/if_arp.h."""
    flags: int
    """IFF_, linux/if.h."""
    name: str
    """Any bytes but NUL and `/`, as os.fsdecode gives them."""
    mtu: int
    """Bytes."""
    address: bytes
    """Its hardware address now, of any length; b"" for none."""
    permanent: bytes
    """The one that it was made with; b"" for none, and for one that the driver invented."""
    driver: str
    """IFLA_INFO_KIND: tun, wireguard, bridge, ...; "" for hardware."""
    master: str
    """IFLA_INFO_SLAVE_KIND: the kind of the bridge, bond or VRF that it is in; "" for none."""


class AddressMessage(Struct, frozen=True):
    """An address of IPv4 or IPv6."""

    index: int
    """Of its interface."""
    packed: bytes
    """The interface's own, not its peer's."""
    prefixlen: int
    flags: int
    """IFA_F_, linux/if_addr.h."""
    scope: int
    """RT_SCOPE_."""


class Hop(Struct, frozen=True):
    """One of the ways that a route leads."""

    index: int
    """The interface's."""
    flags: int
    """RTNH_F_."""
    gateway: bytes
    """Packed; b"" is on-link. An IPv4 route may have an IPv6 gateway (RFC 5549)."""


class RouteMessage(Struct, frozen=True):
    """A route of IPv4 or IPv6, of any type."""

    family: int
    """4 or 6."""
    dst: bytes
    """Packed; b"" with `prefixlen` 0."""
    prefixlen: int
    table: int
    protocol: int
    """RTPROT_."""
    flags: int
    """RTNH_F_ of its only hop, and RTM_F_."""
    metric: int
    source: bytes
    """The source address that it prefers; b"" for none."""
    hops: tuple[Hop, ...]
    """None for what leads nowhere, such as a blackhole, and for a nexthop object that the kernel
    does not spell out (net.ipv4.nexthop_compat_mode=0)."""


def all_routes(family: int) -> bytes:
    """The body of RTM_GETROUTE for every route of a family (4 or 6)."""
    return RTMSG.pack(socket.AF_INET if family == 4 else socket.AF_INET6, *[0] * 8)


def header(form: struct.Struct, data: bytes, what: str) -> tuple[Any, ...]:
    """The struct that a message begins with; ValueError for one that is cut off."""
    if len(data) < form.size:
        raise ValueError(f"{what} message of {len(data)} bytes, {form.size} expected")
    return form.unpack_from(data)


def read_link(payload: bytes) -> LinkMessage:
    """From RTM_NEWLINK."""
    _, _, arphrd, index, flags, _ = header(IFINFO, payload, "interface")
    found = dict(attributes(payload[IFINFO.size :]))
    info = dict(attributes(found.get(IFLA_LINKINFO, b"")))
    name, mtu = _text(found, IFLA_IFNAME), word(found, _IFLA_MTU, -1)
    if not name or mtu < 0:
        raise ValueError(f"interface message of #{index} without its name or MTU")
    return LinkMessage(
        index,
        arphrd,
        flags,
        name,
        mtu,
        found.get(_IFLA_ADDRESS, b""),
        found.get(_IFLA_PERM_ADDRESS, b""),
        _text(info, IFLA_INFO_KIND),
        _text(info, _IFLA_INFO_SLAVE_KIND),
    )


def read_address(payload: bytes) -> AddressMessage | None:
    """From RTM_NEWADDR; None for what is of another family."""
    family, prefixlen, flags, scope, index = header(IFADDR, payload, "address")
    size = _SIZES.get(family)
    if size is None:
        return None
    found = dict(attributes(payload[IFADDR.size :]))
    # On a point-to-point link IFA_ADDRESS is the peer's (linux/if_addr.h).
    packed = _ip(found, IFA_LOCAL, size) or _ip(found, IFA_ADDRESS, size)
    if not packed or prefixlen > 8 * size:
        raise ValueError(f"address message of #{index} without an address, or length {prefixlen}")
    # The header has room for the first eight flags only.
    return AddressMessage(index, packed, prefixlen, word(found, _IFA_FLAGS, flags), scope)


def is_unicast(payload: bytes) -> bool:
    """Whether an RTM_NEWROUTE is a plain unicast route of IPv4 or IPv6, by its header alone: for
    every traffic class, and no entry of a cache."""
    family, _, _, tos, _, _, _, kind, flags = header(RTMSG, payload, "route")
    return family in _SIZES and kind == RTN_UNICAST and not tos and not flags & _RTM_F_CLONED


def read_route(payload: bytes) -> RouteMessage:
    """From RTM_NEWROUTE of IPv4 or IPv6."""
    family, length, _, _, table, protocol, _, _, flags = header(RTMSG, payload, "route")
    size = _SIZES.get(family, 0)
    if not size:
        raise ValueError(f"route message of address family {family}")
    found = dict(attributes(payload[RTMSG.size :]))
    dst = _ip(found, RTA_DST, size) if length else b""
    if bool(length) != bool(dst) or length > 8 * size:
        raise ValueError(f"route message with destination {dst.hex() or 'none'}/{length}")
    hops = tuple(_hops(found.get(_RTA_MULTIPATH, b""), size))
    if not hops and RTA_OIF in found:
        hops = (Hop(word(found, RTA_OIF), flags & 0xFF, _gateway(found, size)),)
    return RouteMessage(
        {4: 4, 16: 6}[size],
        dst,
        length,
        word(found, RTA_TABLE, table),
        protocol,
        flags,
        word(found, RTA_PRIORITY),
        _ip(found, RTA_PREFSRC, size),
        hops,
    )


def _hops(data: bytes, size: int) -> Iterator[Hop]:
    """Of RTA_MULTIPATH: structs rtnexthop, each with its own attributes."""
    offset, end = 0, len(data)
    while offset < end:
        length, flags, _, index = header(_HOP, data[offset:], "next hop")
        if not _HOP.size <= length <= end - offset:
            raise ValueError(f"next hop says {length} bytes, {end - offset} are there")
        found = dict(attributes(data[offset + _HOP.size : offset + length]))
        yield Hop(index, flags, _gateway(found, size))
        offset += (length + 3) & ~3


def _gateway(found: dict[int, bytes], size: int) -> bytes:
    via = found.get(RTA_VIA)
    if via is None:
        return _ip(found, RTA_GATEWAY, size)
    packed = via[_VIA_FAMILY:]
    if len(packed) not in _SIZES.values():
        raise ValueError(f"gateway of another family, of {len(packed)} bytes")
    return packed


def word(found: dict[int, bytes], kind: int, default: int = 0) -> int:
    """A number of 32 bits; ValueError for another size."""
    value = found.get(kind)
    if value is None:
        return default
    if len(value) != _U32.size:
        raise ValueError(f"attribute {kind} of {len(value)} bytes, 4 expected")
    return int(_U32.unpack(value)[0])


def _ip(found: dict[int, bytes], kind: int, size: int) -> bytes:
    value = found.get(kind, b"")
    if len(value) not in (0, size):
        raise ValueError(f"attribute {kind} of {len(value)} bytes, {size} expected")
    return value


def _text(found: dict[int, bytes], kind: int) -> str:
    return os.fsdecode(found.get(kind, b"").partition(b"\0")[0])
