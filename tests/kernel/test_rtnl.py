"""The link watch on the real kernel: every change of what a link has is told, and no other."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import pytest
from rtnlscene import Scene, act, gateways, made_namespace, packed

from arbiter.lab.namespaces import inside
from arbiter.links import LinkKind, Route, assemble


@pytest.fixture
def namespace() -> Iterator[str]:
    with made_namespace() as name:
        yield name


def test_the_first_state_has_addresses_routes_and_kinds_and_no_loopback(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        assert [i.name for i in scene.told[0] if not i.name.startswith("far")] == ["wlan0", "wwan0"]
        wlan0, wwan0 = scene.there("wlan0"), scene.there("wwan0")
        assert (wlan0.kind, wwan0.kind) == (LinkKind.WIFI, LinkKind.CELLULAR)
        assert (wlan0.up, wlan0.mtu, wlan0.mac) == (True, 1500, "")
        assert [(a.packed, a.prefixlen) for a in wlan0.addresses] == [(packed("10.0.1.2"), 24)]
        subnet = Route(4, packed("10.0.1.0"), 24, source=packed("10.0.1.2"))
        assert wlan0.routes == (subnet,)

    act(namespace, play)


def test_a_default_route_that_comes_and_goes_is_told(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        begin = time.monotonic()
        scene.ip("route add default via 10.0.1.1 dev wlan0 metric 7")
        await scene.until(lambda: gateways(scene.there("wlan0")) == [packed("10.0.1.1")])
        assert time.monotonic() - begin < 1
        assert [link.name for link in assemble(scene.told[-1])] == ["wifi"]
        scene.ip("route del default via 10.0.1.1 dev wlan0 metric 7")
        await scene.until(lambda: not gateways(scene.there("wlan0")))
        assert len(scene.told) == 3

    act(namespace, play)


def test_routes_that_vanish_without_an_event_are_gone(namespace: str) -> None:
    """Taking an interface down removes its IPv4 routes, and the kernel does not say so."""

    async def play(scene: Scene) -> None:
        scene.ip("route add default via 10.0.1.1 dev wlan0")
        await scene.until(lambda: gateways(scene.there("wlan0")))
        scene.ip("link set wlan0 down")
        await scene.until(lambda: not scene.there("wlan0").up)
        await scene.quiet()
        assert scene.there("wlan0").routes == ()
        assert scene.there("wlan0").addresses

    act(namespace, play)


def test_a_lost_carrier_is_a_link_that_is_down_and_keeps_its_routes(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        scene.ip("route add default via 10.0.1.1 dev wlan0")
        await scene.until(lambda: gateways(scene.there("wlan0")))
        scene.ip("link set far1 down")
        await scene.until(lambda: not scene.there("wlan0").up)
        assert gateways(scene.there("wlan0"))
        assert scene.there("wwan0").up
        assert not assemble(scene.told[-1])[0].up4
        scene.ip("link set far1 up")
        await scene.until(lambda: scene.there("wlan0").up)

    act(namespace, play)


def test_addresses_mtu_name_and_end_of_an_interface_are_told(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        index = scene.there("wlan0").index
        scene.ip("addr add 192.0.2.9/25 dev wlan0", "addr del 10.0.1.2/24 dev wlan0")
        await scene.until(
            lambda: [a.packed for a in scene.there("wlan0").addresses] == [packed("192.0.2.9")]
        )
        scene.ip("link set wlan0 mtu 1280")
        await scene.until(lambda: scene.there("wlan0").mtu == 1280)
        scene.ip("link set wlan0 down", "link set wlan0 name usb7", "link set usb7 up")
        await scene.until(lambda: scene.now("usb7") is not None)
        assert scene.now("wlan0") is None
        assert (scene.there("usb7").index, scene.there("usb7").kind) == (index, LinkKind.USB)
        scene.ip("link del usb7")
        await scene.until(lambda: scene.now("usb7") is None)
        assert scene.now("far1") is None

    act(namespace, play)


def test_ipv6_counts_once_its_address_can_be_used_and_link_local_never(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        scene.ip(
            "addr add fe80::2/64 dev wlan0 nodad",
            "addr add 2001:db8:1::2/64 dev wlan0 nodad",
            "addr add 2001:db8:1::3/64 dev wlan0 nodad preferred_lft 0",
            "route add default via fe80::1 dev wlan0",
            "route add default via 10.0.2.1 dev wwan0",
        )
        await scene.until(lambda: gateways(scene.there("wlan0"), 6) == [packed("fe80::1")])
        found = {link.interface: link for link in assemble(scene.told[-1])}
        assert (found["wlan0"].up4, found["wlan0"].up6) == (False, True)
        assert (found["wwan0"].up4, found["wwan0"].up6) == (True, False)
        wlan0 = scene.there("wlan0")
        assert [a.packed for a in wlan0.addresses if len(a.packed) == 16] == [
            packed("2001:db8:1::2")
        ]
        assert all(route.dst[:1] != b"\xfe" for route in wlan0.routes)
        # Duplicate address detection takes a second; the end of it is an event (RFC 4862 5.4).
        scene.ip("addr add 2001:db8:2::2/64 dev wwan0")
        await scene.quiet()
        assert len(scene.there("wwan0").addresses) == 1
        await scene.until(lambda: len(scene.there("wwan0").addresses) == 2)

    act(namespace, play)


def test_an_ipv6_route_alone_is_a_change(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        scene.ip("addr add 2001:db8:1::2/64 dev wlan0 nodad")
        await asyncio.sleep(1.2)  # linkwatch and the far ends' address detection have ended
        looks = scene.watch.looks
        await scene.quiet()
        assert scene.watch.looks == looks, "something still happens in the namespace"
        scene.ip("route add 2001:db8:7::/48 via 2001:db8:1::1")
        await scene.until(lambda: any(r.prefixlen == 48 for r in scene.there("wlan0").routes))

    act(namespace, play)


def test_two_links_on_one_subnet_are_told_apart(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        scene.ip(
            "addr add 10.0.1.3/24 dev wwan0",
            "route add default via 10.0.1.1 dev wlan0 metric 5",
            "route add default via 10.0.1.1 dev wwan0 metric 6",
        )
        await scene.until(lambda: gateways(scene.there("wwan0")))
        first, second = assemble(scene.told[-1])
        assert (first.interface, second.interface) == ("wlan0", "wwan0")
        assert first.gateway4 == second.gateway4 == packed("10.0.1.1")
        sources = [
            {r.source for r in link.routes if r.dst == packed("10.0.1.0")}
            for link in (first, second)
        ]
        assert sources == [{packed("10.0.1.2")}, {packed("10.0.1.3")}]

    act(namespace, play)


def test_a_point_to_point_link_is_a_vpn_with_an_on_link_default(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        scene.ip(
            "tuntap add tun0 mode tun",
            "addr add 10.9.0.2 peer 10.9.0.1 dev tun0",
            "addr add 2001:db8:9::2 peer 2001:db8:9::1 dev tun0 nodad",
            "link set tun0 up",
            "route add default dev tun0",
        )
        await scene.until(lambda: scene.now("tun0") and gateways(scene.there("tun0")))
        tun0 = scene.there("tun0")
        assert tun0.kind == LinkKind.VPN
        assert not tun0.up, "no program has opened it: no carrier"
        assert [a.packed for a in tun0.addresses] == [packed("10.9.0.2"), packed("2001:db8:9::2")]
        (link,) = assemble(scene.told[-1])
        assert (link.name, link.gateway4, gateways(tun0)) == ("vpn", b"", [b""])

    act(namespace, play)


def test_every_next_hop_is_a_route_of_its_interface(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        scene.ip(
            "route add default nexthop via 10.0.1.1 dev wlan0 nexthop via 10.0.2.1 dev wwan0",
            "addr add 2001:db8:1::2/64 dev wlan0 nodad",
            "route add 2001:db8:5::/48 nexthop via 2001:db8:1::4 nexthop via 2001:db8:1::5",
        )
        await scene.until(lambda: gateways(scene.there("wwan0")))
        assert gateways(scene.there("wlan0")) == [packed("10.0.1.1")]
        assert gateways(scene.there("wwan0")) == [packed("10.0.2.1")]
        hops = [r.gateway for r in scene.there("wlan0").routes if r.prefixlen == 48]
        assert hops == [packed("2001:db8:1::4"), packed("2001:db8:1::5")]
        scene.ip("link set wwan0 down")  # its hop is dead and stays in the route
        await scene.until(lambda: not gateways(scene.there("wwan0")))
        assert gateways(scene.there("wlan0")) == [packed("10.0.1.1")]

    act(namespace, play)


def test_a_default_of_another_table_counts_where_main_has_none_and_our_tables_never(
    namespace: str,
) -> None:
    async def play(scene: Scene) -> None:
        scene.ip(
            "route add default via 10.0.1.1 dev wlan0 table 7001",
            "route add default via 10.0.2.1 dev wwan0 table 51820",
            "route add 10.77.0.0/16 via 10.0.2.1 dev wwan0 table 51820",
        )
        await scene.until(lambda: gateways(scene.there("wwan0")))
        assert not gateways(scene.there("wlan0"))
        assert all(route.dst != packed("10.77.0.0") for route in scene.there("wwan0").routes)
        scene.ip("route add default via 10.0.2.9 dev wwan0")
        await scene.until(lambda: gateways(scene.there("wwan0")) == [packed("10.0.2.9")])

    act(namespace, play)


def test_what_changes_nothing_for_links_is_not_told(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        scene.ip(
            "route add default via 10.0.1.1 dev wlan0 table 7001",
            "link set wlan0 txqueuelen 77",
            "route add blackhole 10.66.0.0/16",
        )
        await scene.until(lambda: scene.watch.looks > 1)
        await scene.quiet()
        assert len(scene.told) == 1

    act(namespace, play)


def test_a_gateway_over_ipv6_for_ipv4_and_a_name_of_any_bytes_are_read(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        scene.ip("route add 10.55.0.0/16 via inet6 fe80::77 dev wlan0")
        name = os.fsdecode(b"w\xff\xfe\x1b1")
        scene.ip("link set wwan0 down")
        os_rename(namespace, "wwan0", name)
        await scene.until(lambda: scene.now(name) is not None)
        hops = [r.gateway for r in scene.there("wlan0").routes if r.dst == packed("10.55.0.0")]
        assert hops == [packed("fe80::77")]
        os_rename(namespace, name, "wwan0")
        await scene.until(lambda: scene.now("wwan0") is not None)

    act(namespace, play)


def os_rename(namespace: str, old: str, new: str) -> None:
    """`ip_batch` writes UTF-8: the bytes go by argv."""

    def rename() -> int:
        return os.spawnvp(
            os.P_WAIT, "ip", [b"ip", b"link", b"set", os.fsencode(old), b"name", os.fsencode(new)]
        )

    assert inside(namespace, rename) == 0
