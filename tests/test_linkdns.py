"""DNS servers as a hostile network may name them, and the way to each."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from arbiter.linkdns import host_route, on_link, servers
from arbiter.links import Route

addresses = st.one_of(st.binary(max_size=20), st.ip_addresses().map(lambda address: address.packed))
routes = st.builds(
    lambda net, gateway, metric: Route(
        4, net.network_address.packed if net.prefixlen else b"", net.prefixlen, gateway, metric
    ),
    st.builds(
        lambda raw, size: ipaddress.IPv4Network((raw, size), strict=False),
        st.integers(0, 3).map(lambda n: bytes([10, 0, 0, n])),
        st.sampled_from([0, 1, 8, 24, 30, 31, 32]),
    ),
    st.sampled_from([b"", bytes([10, 0, 0, 1]), bytes([10, 9, 9, 9])]),
    st.integers(0, 3),
)
near = st.integers(0, 3).map(lambda n: bytes([10, 0, 0, n]))


@given(st.lists(addresses), st.sampled_from([4, 6]))
def test_servers_are_addresses_of_one_host_elsewhere_each_once_in_order(
    dns: list[bytes], family: int
) -> None:
    found = servers(dns, family)
    assert len(set(found)) == len(found)
    assert list(found) == sorted(found, key=dns.index)
    for server in found:
        address = ipaddress.ip_address(server)
        assert address.version == family
        assert not (address.is_loopback or address.is_multicast or address.is_link_local)
        assert not address.is_unspecified


@given(near, st.lists(routes, max_size=5))
def test_a_server_is_on_link_exactly_where_a_subnet_has_it(
    server: bytes, found: list[Route]
) -> None:
    subnets = [
        ipaddress.IPv4Network((r.dst, r.prefixlen))
        for r in found
        if not r.gateway and r.prefixlen > 1
    ]
    assert on_link(server, found, 1) == any(ipaddress.ip_address(server) in s for s in subnets)


@given(near, st.lists(routes, max_size=5))
def test_a_host_route_goes_where_the_kernel_would_send_the_packet(
    server: bytes, found: list[Route]
) -> None:
    host = host_route(server, found)
    whole = [ipaddress.IPv4Network((r.dst or bytes(4), r.prefixlen)) for r in found]
    having = [r for r, net in zip(found, whole, strict=True) if ipaddress.ip_address(server) in net]
    if host is None:
        assert any(r.prefixlen == 32 for r in having) or not any(r.gateway for r in found)
        return
    assert (host.dst, host.prefixlen) == (server, 32)
    candidates = having or [r for r in found if r.gateway]
    longest = max(r.prefixlen for r in candidates) if having else None
    best = min(r.metric for r in candidates if longest in (None, r.prefixlen))
    assert host.metric == best
    assert host.gateway in {r.gateway for r in candidates if longest in (None, r.prefixlen)}
