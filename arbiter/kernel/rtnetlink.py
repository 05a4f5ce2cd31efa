"""Rules and routes of this network namespace, by hand-packed rtnetlink(7).

By hand, as the messages are few and small: no library's event loop and untyped dictionaries stand
between, and which message was refused, and why, can be told.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from arbiter.kernel.netlink import attributes, os_error, pack_attribute
from arbiter.kernel.netlinkcalls import NetlinkCalls
from arbiter.kernel.rtnlmessages import (
    ALL_ADDRESSES,
    IFA_ADDRESS,
    IFA_LOCAL,
    IFADDR,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_PRIORITY,
    RTA_TABLE,
    RTA_VIA,
    RTM_GETADDR,
    RTM_GETROUTE,
    RTMSG,
    RTN_UNICAST,
    header,
    read_route,
    word,
)
from arbiter.links import Route
from arbiter.older import Here
from arbiter.routeplan import Rule, TableRoute

_NEWROUTE, _DELROUTE = 24, 25
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_EXCL_CREATE, _REPLACE_CREATE = 0x600, 0x500  # NLM_F_EXCL, NLM_F_REPLACE with NLM_F_CREATE
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12  # linux/netlink.h
_KEPT_PORTS = 256

_RTN_LOCAL = 2
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_ONLINK = 4  # RTNH_F_ONLINK
_RTA_SRC, _RTA_MARK = 2, 16
_FRA_DST, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_MARK, _FRA_SUPPRESS = 1, 3, 6, 10, 14
_LOOPBACK = b"lo\0"
_FRA_TABLE, _FRA_MASK, _FRA_PROTOCOL = 15, 16, 21
_FRA_NARROW = frozenset({2, 3, 11, 12, 13, 17, 19, 20, 22, 23, 24})
"""Source, interfaces, realm, tunnel id, suppress_ifgroup, l3mdev, uids, protocol, ports."""

_IFA_BROADCAST = 4
_U32 = struct.Struct("=I")
_AF = {4: socket.AF_INET, 6: socket.AF_INET6}
_FAMILY = {int(af): family for family, af in _AF.items()}
_Read = TypeVar("_Read")


class _Ports:
    """The netlink ports of this process's sockets, the last ones, closed or not.

    A notification carries the port of the socket whose request it tells of (NETLINK_CB(skb).portid,
    fib_nl_newrule and rtmsg_fib): so what arbiter did is told from what others did. It is read
    after the request was answered, mostly after the socket was closed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # routes are applied in threads
        self._ports: tuple[int, ...] = ()

    def add(self, port: int) -> None:
        with self._lock:
            kept = tuple(p for p in self._ports if p != port)
            self._ports = (*kept, port)[-_KEPT_PORTS:]

    def __contains__(self, port: object) -> bool:
        return port in self._ports


OWN_PORTS = _Ports()
"""`port in OWN_PORTS`: whether a change that was notified is this process's own doing."""


class Rtnetlink(NetlinkCalls):
    """Rules and routes: read, put in force, removed."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE)
        OWN_PORTS.add(self._sock.getsockname()[0])
        self._sock.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)

    # --- rules --------------------------------------------------------------------------------

    def rules(self, family: int) -> list[Rule]:
        """Every `ip rule` of a family (4 or 6)."""
        body = RTMSG.pack(_AF[family], 0, 0, 0, 0, 0, 0, 0, 0)
        return self._listed(_rule, _GETRULE, body, f"listing ip -{family} rule")

    def add_rule(self, rule: Rule) -> None:
        """EEXIST if it is there."""
        self.ask(_NEWRULE, _EXCL_CREATE, _pack_rule(rule), f"adding {describe_rule(rule)}")

    def delete_rule(self, rule: Rule) -> None:
        """ENOENT if it is not there."""
        self.ask(_DELRULE, 0, _pack_rule(rule), f"removing {describe_rule(rule)}")

    # --- routes -------------------------------------------------------------------------------

    def routes(self, family: int, table: int = 0, protocol: int = 0) -> list[TableRoute]:
        """Routes of all tables or one, any protocol or one: the kernel filters."""
        body = RTMSG.pack(_AF[family], 0, 0, 0, 0, protocol, 0, 0, 0)
        if table:
            body += pack_attribute(RTA_TABLE, _U32.pack(table))
        try:
            routes = self._listed(_table_route, RTM_GETROUTE, body, f"listing ip -{family} route")
        except FileNotFoundError:
            return []  # no such table: nobody ever made it
        return [r for r in routes if protocol in (0, r.protocol)]

    def replace_route(self, route: TableRoute) -> None:
        """Put in force for its key, in one step: no moment without it."""
        body = _pack_route(route)
        self.ask(_NEWROUTE, _REPLACE_CREATE, body, f"adding {describe_route(route)}")

    def delete_route(self, route: TableRoute) -> None:
        """ESRCH if it is not there."""
        self.ask(_DELROUTE, 0, _pack_route(route), f"removing {describe_route(route)}")

    def leaves(self, mark: int, destination: bytes, source: bytes = b"") -> int:
        """The interface index a packet with that mark would leave by; 0: by none.

        `destination` and `source` (b"" for any) are packed. What the kernel says is what a reroute
        will find (nf_reroute): ask it before a verdict, because a reroute that fails is a silent
        drop.
        """
        family = 4 if len(destination) == 4 else 6
        sizes = 8 * len(destination), 8 * len(source)
        body = RTMSG.pack(_AF[family], *sizes, 0, 0, 0, 0, 0, 0)
        body += pack_attribute(RTA_DST, destination) + pack_attribute(_RTA_MARK, _U32.pack(mark))
        if source:
            body += pack_attribute(_RTA_SRC, source)
        try:
            payload = self.get(RTM_GETROUTE, body, "looking up a route")
        except OSError as error:
            # ENETUNREACH: no route. The others are routes that say no (fib_props).
            no = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)
            if error.errno in no:
                return 0
            raise
        index = word(dict(_numbered(payload)), RTA_OIF)
        return index if payload[7] in (RTN_UNICAST, _RTN_LOCAL) else 0

    # --- addresses ------------------------------------------------------------------------------

    def here(self) -> Here:
        """All addresses of this network namespace, loopback's and deprecated ones, too."""
        own: set[bytes] = set()
        broadcast: set[bytes] = set()
        for found in self._listed(_address, RTM_GETADDR, ALL_ADDRESSES, "listing addresses"):
            if found is not None:
                own.add(found.address)
                broadcast |= {found.broadcast, found.last}
        return Here(own, broadcast - own)

    def _listed(
        self, read: Callable[[bytes], _Read], kind: int, body: bytes, what: str
    ) -> list[_Read]:
        try:
            return [read(message.payload) for message in self.dump(kind, body, what)]
        except ValueError as error:
            raise os_error(errno.EPROTO, f"{what}: {error}") from error


class _Address(NamedTuple):
    address: bytes
    broadcast: bytes
    """As it was set; else `address`."""
    last: bytes


def _address(payload: bytes) -> _Address | None:
    family, size, _, _, _ = header(IFADDR, payload, "address")
    parts = dict(attributes(payload[IFADDR.size :]))
    # On a point-to-point link IFA_ADDRESS is the peer's (linux/if_addr.h).
    peer = parts.get(IFA_ADDRESS, b"")
    address = parts.get(IFA_LOCAL, peer)
    if not address:
        return None
    return _Address(
        address, parts.get(_IFA_BROADCAST, address), _last(family, size, peer or address)
    )


def _last(family: int, size: int, address: bytes) -> bytes:
    """The last address of a network, which is its broadcast address whatever else is set
    (fib_add_ifaddr, net/ipv4/fib_frontend.c); of IPv6 the address itself."""
    if family != socket.AF_INET or size > 30 or len(address) != 4:
        return address
    return (int.from_bytes(address) | (1 << 32 - size) - 1).to_bytes(4)


def describe_rule(rule: Rule) -> str:
    """As `ip rule` writes it."""
    words = [f"ip -{rule.family} rule pref {rule.preference}"]
    if rule.dst_len:
        words.append(f"to {_text(rule.family, rule.dst)}/{rule.dst_len}")
    words.append(f"fwmark {rule.mark:#x}/{rule.mask:#x}")
    words.append(f"lookup {rule.table}" if rule.table else f"action {rule.action}")
    return " ".join(words)


def describe_route(found: TableRoute) -> str:
    """As `ip route` writes it."""
    route = found.route
    to = f"{_text(route.family, route.dst)}/{route.prefixlen}" if route.prefixlen else "default"
    via = f" via {_text(0, route.gateway)}" if route.gateway else ""
    where = f"dev #{found.index} table {found.table} metric {route.metric}"
    return f"ip -{route.family} route {to}{via} {where}"


def _text(family: int, packed: bytes) -> str:
    size = len(packed) or (4 if family == 4 else 16)
    return socket.inet_ntop(
        socket.AF_INET if size == 4 else socket.AF_INET6, packed.ljust(size, b"\0")
    )


def _pack_rule(rule: Rule) -> bytes:
    # Tables above 255 go into the attribute; the header's byte is then RT_TABLE_UNSPEC.
    body = RTMSG.pack(_AF[rule.family], rule.dst_len, 0, 0, 0, 0, 0, rule.action, 0)
    if rule.dst_len:
        body += pack_attribute(_FRA_DST, rule.dst)
    for kind, value in (
        (_FRA_PRIORITY, rule.preference),
        (_FRA_MARK, rule.mark),
        (_FRA_MASK, rule.mask),
        (_FRA_TABLE, rule.table),
    ):
        body += pack_attribute(kind, _U32.pack(value))
    if rule.suppress >= 0:
        body += pack_attribute(_FRA_SUPPRESS, _U32.pack(rule.suppress))
    return body + pack_attribute(_FRA_PROTOCOL, bytes([rule.protocol]))


def _rule(payload: bytes) -> Rule:
    family, dst_len, src_len, tos, table, _, _, action, flags = header(RTMSG, payload, "rule")
    if family not in _FAMILY:
        raise ValueError(f"rule of address family {family}")
    found = dict(_numbered(payload))
    suppress = word(found, _FRA_SUPPRESS, 0xFFFFFFFF)
    inverted = bool(flags & 0x2)  # FIB_RULE_INVERT
    return Rule(
        _FAMILY[family],
        word(found, _FRA_PRIORITY),
        word(found, _FRA_MARK),
        word(found, _FRA_MASK),
        action,
        word(found, _FRA_TABLE, table),
        -1 if suppress == 0xFFFFFFFF else suppress,
        found.get(_FRA_DST, b"") if dst_len else b"",
        dst_len,
        (found.get(_FRA_PROTOCOL) or b"\0")[0],
        bool(src_len or tos or inverted or found.keys() & _FRA_NARROW),
        inverted,
        found.get(_FRA_IIFNAME, _LOOPBACK) != _LOOPBACK and not inverted,
    )


def _pack_route(found: TableRoute) -> bytes:
    route = found.route
    near = route.family == 4 and not route.gateway
    body = RTMSG.pack(
        _AF[route.family], route.prefixlen, 0, 0, 0, found.protocol,
        _SCOPE_LINK if near else _SCOPE_UNIVERSE, RTN_UNICAST, _ONLINK if found.onlink else 0,
    )  # fmt: skip
    if route.prefixlen:
        body += pack_attribute(RTA_DST, route.dst)
    body += pack_attribute(RTA_TABLE, _U32.pack(found.table))
    body += pack_attribute(RTA_OIF, _U32.pack(found.index))
    if len(route.gateway) == len(route.dst or bytes(4 if route.family == 4 else 16)):
        body += pack_attribute(RTA_GATEWAY, route.gateway)
    elif route.gateway:
        family = struct.pack("=H", socket.AF_INET6)  # struct rtvia
        body += pack_attribute(RTA_VIA, family + route.gateway)
    if route.metric:
        body += pack_attribute(RTA_PRIORITY, _U32.pack(route.metric))
    if route.source:
        body += pack_attribute(RTA_PREFSRC, route.source)
    return body


def _table_route(payload: bytes) -> TableRoute:
    found = read_route(payload)
    index, gateway = 0, b""
    if len(found.hops) == 1:
        index, gateway = found.hops[0].index, found.hops[0].gateway
    return TableRoute(
        found.table,
        index,
        Route(found.family, found.dst, found.prefixlen, gateway, found.metric, found.source),
        bool(found.flags & _ONLINK),
        found.protocol,
    )


def _numbered(payload: bytes) -> Iterator[tuple[int, bytes]]:
    return attributes(payload[RTMSG.size :])
