"""What the routing tables and `ip rule`s must be, as one pure value; `kernel.routes` makes it so.

A packet decided for link n carries `decided | n`. For each family it then meets, in this order:

- base+0 `to SUBNET lookup 7000+n`: only where two links share a subnet, so that each answers there
  for itself; table main would give the subnet to whichever link has the better metric.
- base+5 `lookup main suppress_prefixlength`: the LAN and containers keep working for every flow.
- base+10 `lookup 7000+n`: the link's own routes. Empty while the link is down.
- base+20 `unreachable`: whatever carries a link number and got this far leaves by no link at all.

A packet for no link (undecided, or decided for the default route) meets only, where one link alone
claims a DNS server that is on no LAN here, since an operator's server may answer on its link only:

- base+14 `to SERVER lookup main suppress_prefixlength`: what table main knows better goes first.
- base+15 `to SERVER lookup 7000+n`: the link's way to it; without one, as if the rule were not.

Not while another link is a VPN: who runs a network names its DNS servers, and could name any
address to have its traffic leave beside the VPN (as CVE-2024-3661 does by DHCP routes).

The `unreachable` is one rule for each *bit* of the link number, not for each link: these five never
change while links come and go, and hold for a number that no link has (any more). They need no
daemon.

Rules and routes carry a routing protocol number of ours (FRA_PROTOCOL, rtm_protocol), by which
they are found again without knowing what was applied.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections import Counter
from collections.abc import Iterator

from msgspec import Struct

from arbiter.linkdns import MAX_SERVERS, host_route, on_link, servers
from arbiter.links import Route
from arbiter.model import MARK_DECIDED, MARK_LINK, MARK_LINK_SHIFT, MARK_MASK, PREFERENCE, TABLE

PROTOCOL = 65
"""Ours; in none of iproute2's rt_protos, nor FRR's (186-199), OVN's (84) or Open/R's (99)."""
MAX_LINK = MARK_LINK >> MARK_LINK_SHIFT

TO_TABLE, UNREACHABLE = 1, 7
"""Rule actions, FR_ACT_* of linux/fib_rules.h."""
MAIN, LOCAL = 254, 255
SUPPRESS = {4: 1, 6: 4}
"""Routes of main this short or shorter are a way out, not a LAN: defaults, and the halves by which
OpenVPN overrides them (0/1 and 128/1; 2000::/4 and 3000::/4, its `redirect-gateway ipv6`)."""
METRIC6 = 1024
"""What the kernel makes of an IPv6 route without metric (IP6_RT_PRIO_USER, net/ip6_route.h)."""

_OWN, _LAN, _LINK, _DNS_LAN, _DNS, _LAST = 0, 5, 10, 14, 15, 20
SPAN = _LAST
"""How far behind the first rule the last one is."""
_WORD = 0xFFFFFFFF
_COMPACT = MARK_MASK >> MARK_LINK_SHIFT
_SIZES = {4: 4, 6: 16}
_NOT_MIRRORED = (ipaddress.ip_network("fe80::/10"), ipaddress.ip_network("ff00::/8"))


class Rule(Struct, frozen=True):
    """An `ip rule`, as far as arbiter makes or judges it (linux/fib_rules.h)."""

    family: int
    preference: int
    mark: int = 0
    mask: int = 0
    """0: the mark is not looked at."""
    action: int = TO_TABLE
    table: int = 0
    suppress: int = -1
    """suppress_prefixlength; -1 for none."""
    dst: bytes = b""
    dst_len: int = 0
    protocol: int = PROTOCOL
    narrow: bool = False
    """It also asks for something that is not kept here: a source, an interface, a user, a port."""
    inverted: bool = False
    """It holds for every packet that is not as it says (FIB_RULE_INVERT)."""
    inbound: bool = False
    """It is for what came in over an interface, never for what starts here."""

    @property
    def ours(self) -> bool:
        """Made by arbiter, in this run or an earlier one, with these settings or others."""
        return self.protocol == PROTOCOL and self.mask != 0


class TableRoute(Struct, frozen=True):
    """A unicast route of one routing table."""

    table: int
    index: int
    """The interface's; 0 if it has several or none."""
    route: Route
    onlink: bool = False
    """Take the gateway as being on that interface: no other route says so (RTNH_F_ONLINK)."""
    protocol: int = PROTOCOL

    @property
    def key(self) -> tuple[int, int, bytes, int, int]:
        """What the kernel replaces by: one route of it is in force."""
        route = self.route
        return route.family, self.table, route.dst, route.prefixlen, route.metric

    @property
    def what(self) -> tuple[int, Route]:
        """Where it leads; two of one key and one `what` are the same."""
        return self.index, self.route


class LinkRoutes(Struct, frozen=True):
    """One link, as routing must know it. Raises ValueError on what no kernel would show."""

    number: int
    interface: str
    index: int
    up4: bool
    """It can carry IPv4 now; else its table has no IPv4 routes."""
    up6: bool
    routes: tuple[Route, ...] = ()
    """Those of table main over this interface."""
    dns: tuple[bytes, ...] = ()
    """The DNS servers its network named, packed. Hostile: those that cannot be are passed over."""
    vpn: bool = False
    """It is a tunnel, so that others' networks may not draw traffic away from it."""

    def __post_init__(self) -> None:
        if not 1 <= self.number <= MAX_LINK:
            raise ValueError(
                f"link {self.interface}: number {self.number} is not in 1-{MAX_LINK}, "
                "the mark has room for no other"
            )
        if self.index < 1 and (self.up4 or self.up6):
            raise ValueError(f"link {self.interface} is up, and has no interface index")
        for route in self.routes:
            _check(self.interface, route)

    def up(self, family: int) -> bool:
        """Whether it can carry that family now."""
        return self.up4 if family == 4 else self.up6


class RoutePlan(Struct, frozen=True):
    """The desired state of rules and tables. Raises ValueError on values no kernel could take."""

    links: tuple[LinkRoutes, ...] = ()
    table: int = TABLE
    """Link n has table `table` + n. Setting `route_table`."""
    preference: int = PREFERENCE
    """Of the first rule; the last is 20 behind. Setting `route_pref`."""
    mask: int = MARK_MASK
    """Arbiter's mark bits, as in `kernel.firewall.Plan`."""

    def __post_init__(self) -> None:
        if self.mask not in (_COMPACT << n for n in range(26)):
            raise ValueError(f"mark mask {self.mask:#x} is not seven adjacent bits of a mark")
        if not 1 <= self.preference <= 32765 - _LAST:
            raise ValueError(
                f"route_pref {self.preference} is not in 1-{32765 - _LAST}: arbiter's rules must "
                f"stand between table local (0) and table main (32766); {PREFERENCE} is usual"
            )
        if not LOCAL <= self.table <= 0xFFFFFFFF - MAX_LINK:
            raise ValueError(
                f"route_table {self.table} is not in {LOCAL}-{0xFFFFFFFF - MAX_LINK}: arbiter "
                f"takes the {MAX_LINK} tables behind it; {TABLE} is usual"
            )
        for values in ([x.number for x in self.links], [x.interface for x in self.links]):
            if len(set(values)) < len(values):
                raise ValueError(f"two links have one number or interface: {values}")

    @property
    def mark_mask(self) -> int:
        """The bits a rule compares: decided, and the link number."""
        return _place(MARK_DECIDED | MARK_LINK, self.mask)

    def mark(self, number: int) -> int:
        """Those bits of a packet decided for link `number`."""
        return link_mark(number, self.mask)[0]

    def table_of(self, number: int) -> int:
        """The routing table of link `number`."""
        return self.table + number

    @property
    def tables(self) -> range:
        """Every table that is arbiter's, used or not."""
        return range(self.table + 1, self.table + 1 + MAX_LINK)

    @property
    def preferences(self) -> frozenset[int]:
        """Every rule preference that is arbiter's."""
        return frozenset(self.preference + n for n in (_OWN, _LAN, _LINK, _DNS_LAN, _DNS, _LAST))

    def last(self, rule: Rule) -> bool:
        """Whether it is a rule of the safety net: first in, last out."""
        return rule.action == UNREACHABLE

    def rules(self) -> tuple[Rule, ...]:
        """All rules of both families, the safety net first, then in the order to add them."""
        return tuple(self._rules())

    def _rules(self) -> Iterator[Rule]:
        decided = _place(MARK_DECIDED, self.mask)
        for family in (4, 6):
            for bit in range(MAX_LINK.bit_length()):
                bits = decided | _place(1 << (MARK_LINK_SHIFT + bit), self.mask)
                yield Rule(family, self.preference + _LAST, bits, bits, UNREACHABLE)
        shared = {family: _shared(self.links, family) for family in (4, 6)}
        for link in self.links:
            mark, mask, table = self.mark(link.number), self.mark_mask, self.table_of(link.number)
            for family in (4, 6):
                for dst, size in sorted(_subnets(link, family) & shared[family]):
                    yield Rule(
                        family, self.preference + _OWN, mark, mask,
                        table=table, dst=dst, dst_len=size,
                    )  # fmt: skip
                yield Rule(
                    family, self.preference + _LAN, mark, mask,
                    table=MAIN, suppress=SUPPRESS[family],
                )  # fmt: skip
                yield Rule(family, self.preference + _LINK, mark, mask, table=table)
        # Not decided for a link, and without any other bit: else it is somebody else's packet.
        free = _WORD & ~decided
        for family in (4, 6):
            for link, server in _sole_servers(self.links, family):
                size = 8 * len(server)
                yield Rule(
                    family, self.preference + _DNS_LAN, 0, free,
                    table=MAIN, suppress=SUPPRESS[family], dst=server, dst_len=size,
                )  # fmt: skip
                yield Rule(
                    family, self.preference + _DNS, 0, free,
                    table=self.table_of(link.number), dst=server, dst_len=size,
                )  # fmt: skip

    def routes(self) -> tuple[TableRoute, ...]:
        """All tables' routes, in the order to add them: on-link ones before gateways.

        Each link's, and one to each of its DNS servers that is on no subnet of it: so these are
        reached where there is no default. One for each destination and metric: of several (ECMP,
        two advertising routers) the first.
        """
        found: dict[tuple[int, int, bytes, int, int], TableRoute] = {}
        for link in self.links:
            mirrored = [r for r in link.routes if link.up(r.family) and not _local(r)]
            near = [r for r in mirrored if not r.gateway]
            hosts = _server_routes(link, mirrored)
            for route in sorted((*mirrored, *hosts), key=lambda r: bool(r.gateway)):
                made = TableRoute(
                    self.table_of(link.number), link.index, _normal(route), _far(route, near)
                )
                found.setdefault(made.key, made)
        return tuple(found.values())


def link_mark(number: int, mask: int = MARK_MASK) -> tuple[int, int]:
    """(mark, mask) by which packets and conntrack entries of link `number` are known."""
    if not 1 <= number <= MAX_LINK:
        raise ValueError(f"link number {number} is not in 1-{MAX_LINK}")
    mark = _place(MARK_DECIDED | number << MARK_LINK_SHIFT, mask)
    return mark, _place(MARK_DECIDED | MARK_LINK, mask)


def _place(mark: int, mask: int) -> int:
    """A mark at the default place, at the mask's."""
    return mark >> MARK_LINK_SHIFT << ((mask & -mask).bit_length() - 1)


def _check(interface: str, route: Route) -> None:
    size = _SIZES.get(route.family)
    # An IPv4 route may have an IPv6 gateway (RFC 5549, RTA_VIA), never the other way.
    gateways = {0, 16} if route.family == 6 else {0, 4, 16}
    if (
        size is None
        or not 0 <= route.prefixlen <= 8 * size
        or len(route.dst) not in ({0, size} if route.prefixlen == 0 else {size})
        or len(route.gateway) not in gateways
        or len(route.source) not in (0, size)
        or not 0 <= route.metric <= 0xFFFFFFFF
    ):
        raise ValueError(f"link {interface} has a route that cannot be: {route}")


def _normal(route: Route) -> Route:
    """As the kernel will show it."""
    metric = METRIC6 if route.family == 6 and route.metric == 0 else route.metric
    dst = route.dst if route.prefixlen else b""
    return Route(route.family, dst, route.prefixlen, route.gateway, metric, route.source)


def _network(route: Route) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network((route.dst or bytes(_SIZES[route.family]), route.prefixlen), False)


def _local(route: Route) -> bool:
    """Link-local or multicast: bound to its interface anyway, and never marked."""
    network = _network(route)
    return any(
        isinstance(network, ipaddress.IPv6Network) and network.subnet_of(block)
        for block in _NOT_MIRRORED
        if isinstance(block, ipaddress.IPv6Network)
    )


def _far(route: Route, near: list[Route]) -> bool:
    """Whether no on-link route reaches the gateway, and the kernel must be told to believe it."""
    if not route.gateway:
        return False
    gateway = ipaddress.ip_address(route.gateway)
    if gateway.is_link_local and gateway.version == 6:
        return False
    return not any(gateway in _network(r) for r in near if r.prefixlen)


def _sole_servers(links: tuple[LinkRoutes, ...], family: int) -> Iterator[tuple[LinkRoutes, bytes]]:
    """(link, DNS server) where it is the only one that is up and claims it, and it is on no LAN."""
    up = [link for link in links if link.up(family)]
    claims = {link.number: servers(link.dns, family) for link in up}
    claimed = Counter(itertools.chain(*claims.values()))
    routes = [r for link in up for r in link.routes if r.family == family]
    for link in up:
        if any(other.vpn for other in up if other is not link):
            continue
        for server in claims[link.number][:MAX_SERVERS]:
            if claimed[server] == 1 and not on_link(server, routes, SUPPRESS[family]):
                yield link, server


def _server_routes(link: LinkRoutes, mirrored: list[Route]) -> Iterator[Route]:
    for family in (4, 6):
        routes = [r for r in mirrored if r.family == family]
        for server in servers(link.dns, family)[:MAX_SERVERS]:
            if not on_link(server, routes, SUPPRESS[family]) and (
                route := host_route(server, routes)
            ):
                yield route


def _subnets(link: LinkRoutes, family: int) -> set[tuple[bytes, int]]:
    return {
        (r.dst, r.prefixlen)
        for r in link.routes
        if link.up(family)
        and r.family == family
        and not r.gateway
        and r.prefixlen > SUPPRESS[family]
        and not _local(r)
    }


def _shared(links: tuple[LinkRoutes, ...], family: int) -> set[tuple[bytes, int]]:
    """Subnets on which more than one link is."""
    found: set[tuple[bytes, int]] = set()
    twice: set[tuple[bytes, int]] = set()
    for link in links:
        mine = _subnets(link, family)
        twice |= found & mine
        found |= mine
    return twice
