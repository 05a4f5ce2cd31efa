"""A link's DNS servers, as its routing must know them. Pure.

An operator's servers may answer on their own link only (NETFILTER.md 14), and the list comes from
whoever runs that network, by DHCP or router advertisement: it can name any address, any number of
times. Values only: `routeplan` makes rules and routes of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from arbiter.links import Route

MAX_SERVERS = 4
"""Of a link and family; a resolver uses three (MAXNS, resolv.h). Each costs two rules."""
_SIZES = {4: 4, 6: 16}


def servers(dns: Iterable[bytes], family: int) -> tuple[bytes, ...]:
    """Those of a family (4 or 6) that can be a server beyond this machine, each once, in order.

    Not a loopback, unspecified, link-local or multicast address, nor one that no host can have
    (0.0.0.0/8, 240.0.0.0/4, an IPv4 address mapped into IPv6), and no bytes that are none.
    """
    size = _SIZES[family]
    return tuple(dict.fromkeys(s for s in dns if len(s) == size and _is_unicast(s)))


def on_link(server: bytes, routes: Iterable[Route], shortest: int) -> bool:
    """Whether a subnet among `routes` has it; one with a prefix of `shortest` or less is none."""
    return any(
        not route.gateway and route.prefixlen > shortest and _covers(route, server)
        for route in routes
    )


def host_route(server: bytes, routes: Sequence[Route]) -> Route | None:
    """A route to this server alone, as `routes` of one link and family reach it.

    By the most specific route that has it, else by the gateway that the kernel would prefer; None
    if there is no way, or a route to it alone is there.
    """
    size = 8 * len(server)
    if any(route.prefixlen == size and route.dst == server for route in routes):
        return None
    covering = [route for route in routes if _covers(route, server)]
    way = min(
        covering or [route for route in routes if route.gateway],
        key=lambda route: (-route.prefixlen if covering else 0, route.metric),
        default=None,
    )
    if way is None:
        return None
    return Route(way.family, server, size, way.gateway, way.metric, way.source)


def _is_unicast(server: bytes) -> bool:
    address = ipaddress.ip_address(server)
    if isinstance(address, ipaddress.IPv6Address):
        # Not is_reserved, which is true of NAT64's 64:ff9b::/96 (RFC 6052).
        nobodys = address.ipv4_mapped is not None or address.is_unspecified
    else:
        nobodys = address.is_reserved or server[0] == 0
    return not (nobodys or address.is_loopback or address.is_link_local or address.is_multicast)


def _covers(route: Route, server: bytes) -> bool:
    if not route.prefixlen:
        return True
    keep = 8 * len(server) - route.prefixlen
    return int.from_bytes(route.dst, "big") >> keep == int.from_bytes(server, "big") >> keep
