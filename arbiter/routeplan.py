"""What the routing tables and `ip rule`s must be, as one pure value; `kernel.routes` makes it so.

A packet decided for link n carries `decided | n`. For each family it then meets, in this order:

- base+0 `to SUBNET lookup 7000+n`: only where two links share a subnet, so that each answers there
  for itself; table main would give the subnet to whichever link has the better metric.
- base+5 `lookup main suppress_prefixlength`: the LAN and containers keep working for every flow.
- base+10 `lookup 7000+n`: the link's own routes. Empty while the link is down.
- base+20 `unreachable`: whatever carries a link number and got this far leaves by no link at all.

The last is one rule for each *bit* of the link number, not for each link: these five never change
while links come and go, and hold for a number that no link has (any more). They need no daemon.

Rules and routes carry a routing protocol number of ours (FRA_PROTOCOL, rtm_protocol), by which
they are found again without knowing what was applied.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from msgspec import Struct

from arbiter.links import Route
from arbiter.model import MARK_DECIDED, MARK_LINK, MARK_LINK_SHIFT, MARK_MASK

TABLE = 7000
"""Default base: link n has table 7000+n."""
PREFERENCE = 900
"""Default base: before Mullvad (5199), Tailscale (5210), l3mdev (1000) and wg-quick (32764)."""
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

_OWN, _LAN, _LINK, _LAST = 0, 5, 10, 20
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
        return frozenset(self.preference + n for n in (_OWN, _LAN, _LINK, _LAST))

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

    def routes(self) -> tuple[TableRoute, ...]:
        """All tables' routes, in the order to add them: on-link ones before gateways.

        One for each destination and metric: of several (ECMP, two advertising routers) the first.
        """
        found: dict[tuple[int, int, bytes, int, int], TableRoute] = {}
        for link in self.links:
            mirrored = [r for r in link.routes if link.up(r.family) and not _local(r)]
            near = [r for r in mirrored if not r.gateway]
            for route in (*near, *(r for r in mirrored if r.gateway)):
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


def conflicts(
    plan: RoutePlan, rules: Iterable[Rule], routes: Iterable[TableRoute]
) -> tuple[str, ...]:
    """Who else uses our preferences or tables, or takes packets before our rules; () if nobody.

    `rules` are all of both families, `routes` those of `plan.tables`. Each text says what, where,
    why and the next step. What an earlier run of arbiter left is no conflict.
    """
    return tuple(dict.fromkeys((*_rule_conflicts(plan, rules), *_route_conflicts(plan, routes))))


def _rule_conflicts(plan: RoutePlan, rules: Iterable[Rule]) -> Iterator[str]:
    for rule in rules:
        if rule.ours:
            continue
        where = f"`ip -{rule.family} rule` preference {rule.preference}"
        if rule.table in plan.tables:
            yield (
                f"{where} looks up table {rule.table}, which is to be arbiter's: its packets would "
                f"take a link's routes; set route_table in arbiter.toml to a number with "
                f"{MAX_LINK} free tables behind it"
            )
        if rule.preference in plan.preferences:
            yield (
                f"{where} is in use by another program, and arbiter's rules are to stand there: "
                f"which comes first would be chance; set route_pref in arbiter.toml to a number "
                f"with {_LAST} free preferences behind it"
            )
        elif _catches_all(rule) and rule.preference < plan.preference:
            yield (
                f"{where} takes every packet, also those decided for a link, to table {rule.table} "
                f"before arbiter's rules are read; set route_pref in arbiter.toml below "
                f"{rule.preference}, or move that rule"
            )


def _catches_all(rule: Rule) -> bool:
    """A rule without conditions, but for those that only look at LANs."""
    narrow = rule.narrow or rule.mask or rule.dst_len or rule.suppress >= 0
    return not narrow and rule.table != LOCAL


def _route_conflicts(plan: RoutePlan, routes: Iterable[TableRoute]) -> Iterator[str]:
    for found in routes:
        if found.table in plan.tables and found.protocol != PROTOCOL:
            yield (
                f"routing table {found.table} already has routes of another program (`ip "
                f"-{found.route.family} route show table {found.table}`): a connection could leave "
                f"by them; set route_table in arbiter.toml to a number with {MAX_LINK} free tables "
                "behind it"
            )


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
