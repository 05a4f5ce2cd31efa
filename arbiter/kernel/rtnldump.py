"""All interfaces with their addresses and routes, read from rtnetlink in four dumps.

Always the whole state: the kernel is silent about much of what follows from a change (IPv4 routes
of an interface that goes down vanish without RTM_DELROUTE, net/ipv4/fib_frontend.c), so a state
patched together from events goes wrong.
"""

from __future__ import annotations

import asyncio
import errno
from collections import defaultdict
from collections.abc import Container, Iterator
from time import perf_counter

from msgspec import Struct
from msgspec.structs import replace

from arbiter.kernel.linkkind import kind_of, read_hardware
from arbiter.kernel.netlink import os_error
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.kernel.rtnlmessages import (
    ALL_ADDRESSES,
    ALL_LINKS,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    LinkMessage,
    RouteMessage,
    all_routes,
    is_unicast,
    read_address,
    read_link,
    read_route,
)
from arbiter.links import Address, Interface, LinkKind, Route

RT_TABLE_MAIN = 254
RT_TABLE_LOCAL = 255
HELD = 0.0002
"""Seconds after which others on the loop, a packet's verdict, get a turn."""
_IFF_UP, _IFF_LOOPBACK, _IFF_LOWER_UP = 0x1, 0x8, 0x10000
_RTNH_F_DEAD = 1
_RT_SCOPE_LINK = 253
_UNUSABLE = 0x08 | 0x20 | 0x40  # IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE

Kinds = dict[tuple[int, str, bytes], LinkKind]
"""What was found out of an interface: by its index, name and hardware address."""


class Snapshot(Struct, frozen=True):
    """The interfaces, loopback left out, by index."""

    interfaces: tuple[Interface, ...]
    consistent: bool
    """False: something changed in the middle of a dump (NLM_F_DUMP_INTR). Read again."""
    kinds: Kinds


async def read_interfaces(own_tables: Container[int], kinds: Kinds | None = None) -> Snapshot:
    """Read everything, in the calling thread's network namespace.

    0.3 ms and 0.06 ms an interface. `own_tables` are arbiter's, which only mirror others. `kinds`
    of an earlier snapshot spare sysfs, another 0.05 ms an interface. OSError where the kernel
    refuses, or says what cannot be.
    """
    reader = _Reader(own_tables, kinds or {})
    lists = (
        ("interfaces", RTM_GETLINK, ALL_LINKS, reader.link),
        ("addresses", RTM_GETADDR, ALL_ADDRESSES, reader.address),
        ("IPv4 routes", RTM_GETROUTE, all_routes(4), reader.route),
        ("IPv6 routes", RTM_GETROUTE, all_routes(6), reader.route),
    )
    consistent, turns = True, _Turns()
    # No groups: this socket gets answers only, and cannot be overrun by events.
    with Rtnetlink() as net:
        for what, kind, body, take in lists:
            try:
                for part in net.parts(kind, body, f"listing {what}"):
                    for message in part:
                        take(message.payload)
                        await turns.give()
                    await turns.give(now=True)  # the kernel needs up to as long for the next part
            except ValueError as error:
                raise os_error(errno.EPROTO, f"listing {what}: {error}") from error
            consistent = consistent and not net.interrupted
    found = []
    for interface in reader.interfaces():
        found.append(interface)
        await turns.give()
    return Snapshot(tuple(found), consistent, reader.kinds)


class _Turns:
    """Lets others on the loop have their turn."""

    def __init__(self) -> None:
        self._since = perf_counter()

    async def give(self, now: bool = False) -> None:
        """Now, or if the last one is long enough ago."""
        if now or perf_counter() - self._since >= HELD:
            await asyncio.sleep(0)
            self._since = perf_counter()


class _Reader:
    """What the dumps said so far, put together by interface index."""

    def __init__(self, own_tables: Container[int], kinds: Kinds) -> None:
        self._own_tables = own_tables
        self._old_kinds = kinds
        self.kinds: Kinds = {}
        self._links: dict[int, Interface] = {}
        self._addresses: dict[int, set[Address]] = defaultdict(set)
        self._main: dict[int, set[Route]] = defaultdict(set)
        self._elsewhere: dict[int, set[Route]] = defaultdict(set)
        self._closed: set[int] = set()
        """VRFs and what is in them: replies from there reach only sockets that are bound to the VRF
        (inet_sk_bound_dev_eq), so that for all others no route leads out by them."""

    def link(self, payload: bytes) -> None:
        """An RTM_NEWLINK; ValueError for what cannot be one."""
        link = read_link(payload)
        if link.flags & _IFF_LOOPBACK:
            return
        if "vrf" in (link.driver, link.master):
            self._closed.add(link.index)
        key = (link.index, link.name, link.address)
        self.kinds[key] = self._old_kinds.get(key) or _kind(link)
        self._links[link.index] = Interface(
            index=link.index,
            name=link.name,
            kind=self.kinds[key],
            up=link.flags & _IFF_UP != 0 and link.flags & _IFF_LOWER_UP != 0,
            mtu=link.mtu,
            driver=link.driver,
            mac=link.permanent.hex(":"),
        )

    def address(self, payload: bytes) -> None:
        """An RTM_NEWADDR; what cannot be a source beyond the link does not count."""
        found = read_address(payload)
        if found and not found.flags & _UNUSABLE and found.scope < _RT_SCOPE_LINK:
            self._addresses[found.index].add(Address(found.packed, found.prefixlen))

    def route(self, payload: bytes) -> None:
        """An RTM_NEWROUTE; what is no plain unicast route does not count."""
        if not is_unicast(payload):
            return
        found = read_route(payload)
        if found.table == RT_TABLE_LOCAL or found.table in self._own_tables:
            return
        for index, route in _routes(found):
            if found.table == RT_TABLE_MAIN:
                self._main[index].add(route)
            elif route.prefixlen == 0:
                self._elsewhere[index].add(route)

    def interfaces(self) -> Iterator[Interface]:
        """By index, whole, once everything was said."""
        for index in sorted(self._links):
            yield replace(
                self._links[index],
                addresses=tuple(sorted(self._addresses[index], key=_address_order)),
                routes=tuple(sorted(self._routes(index), key=_route_order)),
            )

    def _routes(self, index: int) -> set[Route]:
        if index in self._closed:
            return set()
        return _merged(self._main[index], self._elsewhere[index])


def _kind(link: LinkMessage) -> LinkKind:
    hardware = read_hardware(link.name, link.index, link.address.hex(":"))
    return kind_of(link.name, link.driver, link.arphrd, hardware)


def _merged(main: set[Route], elsewhere: set[Route]) -> set[Route]:
    """Main's, and another table's default where main has none of that family."""
    has = {route.family for route in main if route.prefixlen == 0}
    return main | {route for route in elsewhere if route.family not in has}


def _routes(found: RouteMessage) -> Iterator[tuple[int, Route]]:
    """(interface index, route), one for each next hop that lives.

    A source-specific IPv6 route (`from`) counts without its condition: on the link itself it is the
    way out, and masquerading gives the address.
    """
    dst = found.dst
    if len(dst) == 16 and (dst[0] == 0xFF or (dst[0] == 0xFE and dst[1] & 0xC0 == 0x80)):
        return  # fe80::/10 and ff00::/8 stay on their link whatever is decided
    for hop in found.hops:
        if not hop.flags & _RTNH_F_DEAD:
            route = Route(
                found.family, dst, found.prefixlen, hop.gateway, found.metric, found.source
            )
            yield hop.index, route


def _address_order(address: Address) -> tuple[int, bytes, int]:
    return len(address.packed), address.packed, address.prefixlen


def _route_order(route: Route) -> tuple[int, int, bytes, int, bytes, bytes]:
    return (
        route.family,
        route.prefixlen,
        route.dst,
        route.metric,
        route.gateway,
        route.source,
    )
