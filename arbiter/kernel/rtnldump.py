"""All interfaces with their addresses and routes, read from rtnetlink in three dumps.

Always the whole state: the kernel is silent about much of what follows from a change (IPv4 routes
of an interface that goes down vanish without RTM_DELROUTE, net/ipv4/fib_frontend.c), so a state
patched together from events goes wrong.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Container, Iterator
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from pyroute2 import AsyncIPRoute

from arbiter.kernel.linkkind import kind_of, read_hardware
from arbiter.links import Address, Interface, LinkKind, Route

RT_TABLE_MAIN = 254
RT_TABLE_LOCAL = 255
_IFF_UP, _IFF_LOOPBACK, _IFF_LOWER_UP = 0x1, 0x8, 0x10000
_RTN_UNICAST = 1
_RTNH_F_DEAD = 1
_RT_SCOPE_LINK = 253
_UNUSABLE = 0x08 | 0x20 | 0x40  # IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE
_NLM_F_DUMP_INTR = 0x10
_RTEXT_FILTER_SKIP_STATS = 8
_FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}

Kinds = dict[tuple[int, str, str], LinkKind]
"""What was found out of an interface: by its index, name and address."""
_Message = Any  # pyroute2 is untyped


class Snapshot(Struct, frozen=True):
    """The interfaces, loopback left out, by index."""

    interfaces: tuple[Interface, ...]
    consistent: bool
    """False: something changed in the middle of a dump (NLM_F_DUMP_INTR). Read again."""
    kinds: Kinds


async def read_interfaces(own_tables: Container[int], kinds: Kinds | None = None) -> Snapshot:
    """Read everything, in the calling thread's network namespace; 2 ms, and 1 ms an interface.

    `own_tables` are arbiter's, which only mirror others. `kinds` of an earlier snapshot spare
    sysfs. OSError or pyroute2's NetlinkError where the kernel refuses.
    """
    # No groups: this socket gets answers only, and cannot be overrun by events.
    async with AsyncIPRoute(groups=0) as ipr:
        reader = _Reader(own_tables, kinds or {})
        await _each(await ipr.link("dump", ext_mask=_RTEXT_FILTER_SKIP_STATS), reader.link)
        await _each(await ipr.addr("dump"), reader.address)
        for family in _FAMILIES:
            await _each(await ipr.route("dump", family=family), reader.route)
    return reader.snapshot()


async def _each(dump: AsyncIterator[_Message], take: Callable[[_Message], None]) -> None:
    """Decoding is slow: between two messages others on the loop, a packet's verdict, get a turn."""
    async for message in dump:
        take(message)
        await asyncio.sleep(0)


class _Reader:
    """What the dumps said so far, put together by interface index."""

    def __init__(self, own_tables: Container[int], kinds: Kinds) -> None:
        self._own_tables = own_tables
        self._old_kinds = kinds
        self._kinds: Kinds = {}
        self._links: dict[int, Interface] = {}
        self._addresses: dict[int, set[Address]] = defaultdict(set)
        self._main: dict[int, set[Route]] = defaultdict(set)
        self._elsewhere: dict[int, set[Route]] = defaultdict(set)
        self._closed: set[int] = set()
        """VRFs and what is in them: replies from there reach only sockets that are bound to the VRF
        (inet_sk_bound_dev_eq), so that for all others no route leads out by them."""
        self._consistent = True

    def link(self, message: _Message) -> None:
        self._check(message)
        flags = message["flags"]
        if flags & _IFF_LOOPBACK:
            return
        index, name = message["index"], os.fsdecode(message.get_attr("IFLA_IFNAME"))
        if "vrf" in (_info(message, "IFLA_INFO_KIND"), _info(message, "IFLA_INFO_SLAVE_KIND")):
            self._closed.add(index)
        key = (index, name, message.get_attr("IFLA_ADDRESS") or "")
        self._kinds[key] = self._old_kinds.get(key) or _kind(message, key)
        self._links[index] = Interface(
            index=index,
            name=name,
            kind=self._kinds[key],
            up=flags & _IFF_UP != 0 and flags & _IFF_LOWER_UP != 0,
            mtu=message.get_attr("IFLA_MTU"),
            driver=_info(message, "IFLA_INFO_KIND"),
            mac=(message.get_attr("IFLA_PERM_ADDRESS") or "").lower(),
        )

    def address(self, message: _Message) -> None:
        self._check(message)
        if (address := _address(message)) is not None:
            self._addresses[message["index"]].add(address)

    def route(self, message: _Message) -> None:
        self._check(message)
        table = message.get_attr("RTA_TABLE") or message["table"]
        if table == RT_TABLE_LOCAL or table in self._own_tables:
            return
        for index, route in _routes(message):
            if table == RT_TABLE_MAIN:
                self._main[index].add(route)
            elif route.prefixlen == 0:
                self._elsewhere[index].add(route)

    def _routes(self, index: int) -> set[Route]:
        if index in self._closed:
            return set()
        return _merged(self._main[index], self._elsewhere[index])

    def snapshot(self) -> Snapshot:
        return Snapshot(
            interfaces=tuple(
                replace(
                    self._links[index],
                    addresses=tuple(sorted(self._addresses[index], key=_address_order)),
                    routes=tuple(sorted(self._routes(index), key=_route_order)),
                )
                for index in sorted(self._links)
            ),
            consistent=self._consistent,
            kinds=self._kinds,
        )

    def _check(self, message: _Message) -> None:
        if message["header"]["flags"] & _NLM_F_DUMP_INTR:
            self._consistent = False


def _kind(link: _Message, key: tuple[int, str, str]) -> LinkKind:
    index, name, address = key
    return kind_of(
        name, _info(link, "IFLA_INFO_KIND"), link["ifi_type"], read_hardware(name, index, address)
    )


def _info(link: _Message, what: str) -> str:
    return link.get_nested("IFLA_LINKINFO", what) or ""


def _merged(main: set[Route], elsewhere: set[Route]) -> set[Route]:
    """Main's, and another table's default where main has none of that family."""
    has = {route.family for route in main if route.prefixlen == 0}
    return main | {route for route in elsewhere if route.family not in has}


def _address(message: _Message) -> Address | None:
    """The interface's own address; None for one that cannot be a source beyond the link."""
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    if flags & _UNUSABLE or message["scope"] >= _RT_SCOPE_LINK:
        return None
    # On a point-to-point link IFA_ADDRESS is the peer's (linux/if_addr.h).
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return Address(socket.inet_pton(message["family"], text), message["prefixlen"])


def _routes(message: _Message) -> Iterator[tuple[int, Route]]:
    """(interface index, route), one for each next hop; nothing for what is no plain unicast route.

    A source-specific IPv6 route (`from`) counts without its condition: on the link itself it is the
    way out, and masquerading gives the address.
    """
    if message["type"] != _RTN_UNICAST or message["tos"] or message["family"] not in _FAMILIES:
        return
    dst = _packed(message.get_attr("RTA_DST"))
    if len(dst) == 16 and (dst[0] == 0xFF or (dst[0] == 0xFE and dst[1] & 0xC0 == 0x80)):
        return  # fe80::/10 and ff00::/8 stay on their link whatever is decided
    hops = message.get_attr("RTA_MULTIPATH")
    for hop in hops or (message,):
        index = hop["oif"] if hops else message.get_attr("RTA_OIF")
        if index is None or hop["flags"] & _RTNH_F_DEAD:
            continue
        via = hop.get_attr("RTA_VIA")
        yield (
            index,
            Route(
                family=_FAMILIES[message["family"]],
                dst=dst if message["dst_len"] else b"",
                prefixlen=message["dst_len"],
                gateway=_packed(via["addr"] if via else hop.get_attr("RTA_GATEWAY")),
                metric=message.get_attr("RTA_PRIORITY") or 0,
                source=_packed(message.get_attr("RTA_PREFSRC")),
            ),
        )


def _packed(text: str | None) -> bytes:
    if not text:
        return b""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


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
