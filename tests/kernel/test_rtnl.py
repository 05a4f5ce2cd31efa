"""The link watch on the real kernel: every change is told, once things are quiet, and only then."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
from msgspec.structs import astuple
from running import PATIENCE

from arbiter.kernel import neighbours, routes, rtnl, rtnldump
from arbiter.kernel.netlink import Message
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.kernel.rtnl import LinkWatch
from arbiter.kernel.rtnldump import Kinds, Snapshot, read_interfaces
from arbiter.kernel.rtnlmessages import ALL_LINKS, RTM_GETLINK
from arbiter.lab import Lab
from arbiter.lab.namespaces import inside, ip_batch
from arbiter.links import Interface, LinkKind, Route, assemble
from arbiter.routeplan import LinkRoutes, RoutePlan

OWN_TABLES = range(7000, 7032)


class Scene:
    """A running watch, and what it told. `ip` blocks the loop, as a busy daemon would."""

    def __init__(
        self,
        namespace: str,
        receive_buffer: int | None = None,
        quiet: float = rtnl.QUIET,
        own_tables: range = OWN_TABLES,
    ) -> None:
        self.namespace = namespace
        self.told: list[tuple[Interface, ...]] = []
        self.problems: list[str] = []
        self.touched = 0
        self.answer: Callable[[], object] = lambda: None
        self.watch = LinkWatch(
            self.told.append,
            self.problems.append,
            own_tables=own_tables,
            rules_changed=self._touched,
            quiet=quiet,
            longest=max(quiet, rtnl.LONGEST),
            receive_buffer=receive_buffer,
        )

    def _touched(self) -> None:
        self.touched += 1
        self.answer()

    def ip(self, *lines: str) -> None:
        ip_batch(lines, self.namespace)

    def ip_of(self, line: str) -> None:
        """With options, which a batch cannot have: `-6 rule del ...`."""
        done = subprocess.run(
            ["ip", "-n", self.namespace, *line.split()], capture_output=True, text=True
        )
        assert done.returncode == 0, f"ip {line}: {done.stderr}"

    def now(self, name: str) -> Interface | None:
        return next((found for found in self.told[-1] if found.name == name), None)

    def there(self, name: str) -> Interface:
        found = self.now(name)
        assert found is not None, f"{name} is not among {[i.name for i in self.told[-1]]}"
        return found

    async def until(self, predicate: Callable[[], object], seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        while not predicate():
            assert time.monotonic() < deadline, f"last told: {self.told[-1]}; {self.problems}"
            await asyncio.sleep(0.005)

    async def quiet(self) -> None:
        """Long enough for every event so far to be told."""
        await asyncio.sleep(0.3)


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace with wlan0 and wwan0, up and with IPv4, and their far ends."""
    name = f"rtnl{os.getpid()}"
    ip_batch([f"netns add {name}"])
    try:
        lines = ["link set lo up"]
        for number, link in enumerate(("wlan0", "wwan0"), 1):
            lines += [
                f"link add {link} type veth peer name far{number}",
                f"link set {link} addrgenmode none",
                f"link set far{number} addrgenmode none",
                f"link set {link} up",
                f"link set far{number} up",
                f"addr add 10.0.{number}.2/24 dev {link}",
            ]
        ip_batch(lines, name)
        yield name
    finally:
        ip_batch([f"netns del {name}"])


def act(
    namespace: str,
    play: Callable[[Scene], Awaitable[None]],
    receive_buffer: int | None = None,
    quiet: float = rtnl.QUIET,
    own_tables: range = OWN_TABLES,
) -> Scene:
    async def run() -> Scene:
        scene = Scene(namespace, receive_buffer, quiet, own_tables)
        await scene.watch.start()
        try:
            await play(scene)
        finally:
            await scene.watch.close()
        return scene

    return inside(namespace, lambda: asyncio.run(run()))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def packed(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def gateways(interface: Interface, family: int = 4) -> list[bytes]:
    return [
        route.gateway
        for route in interface.routes
        if route.family == family and route.prefixlen == 0
    ]


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


def test_a_storm_of_a_thousand_events_is_told_in_few_words_and_ends_right(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        flaps = ["link set wlan0 down", "link set wlan0 up"] * 250
        flaps += [
            f"addr {verb} 10.0.9.{n}/32 dev wwan0" for n in range(1, 251) for verb in ("add", "del")
        ]
        end = ["link set wlan0 mtu 1400", "route add default via 10.0.1.1 dev wlan0"]
        begin = time.monotonic()
        await asyncio.to_thread(ip_batch, [*flaps, *end], namespace)
        took = time.monotonic() - begin
        await scene.until(
            lambda: scene.there("wlan0").mtu == 1400 and gateways(scene.there("wlan0"))
        )
        await scene.quiet()
        assert scene.watch.looks <= 5 + took / rtnl.LONGEST * 2
        assert scene.there("wlan0").up
        assert [a.packed for a in scene.there("wwan0").addresses] == [packed("10.0.2.2")]
        settled = len(scene.told)
        await scene.quiet()
        assert len(scene.told) == settled

    act(namespace, play)


def test_the_longest_wait_bounds_the_silence_in_a_storm(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        stop = asyncio.Event()

        async def flap() -> None:
            while not stop.is_set():
                await asyncio.to_thread(ip_batch, ["link set wwan0 txqueuelen 5"], namespace)
                await asyncio.to_thread(ip_batch, ["link set wwan0 txqueuelen 6"], namespace)

        storm = asyncio.create_task(flap())
        scene.ip("link set wlan0 mtu 1333")
        await scene.until(lambda: scene.there("wlan0").mtu == 1333, seconds=rtnl.LONGEST + 1)
        stop.set()
        await storm

    act(namespace, play)


# --- a loss is told at once -------------------------------------------------------------------

NEVER = 600.0
"""Seconds of quiet that no test waits for: what is told, was told without them."""


@pytest.mark.parametrize(
    "loss",
    [
        "link set wlan0 down",
        "link set far1 down",
        "link del wlan0",
        "addr del 10.0.1.2/24 dev wlan0",
        "route del default dev wlan0",
    ],
)
def test_a_loss_is_told_without_waiting_for_quiet(namespace: str, loss: str) -> None:
    ip_batch(["route add default via 10.0.1.1 dev wlan0"], namespace)

    async def play(scene: Scene) -> None:
        assert gateways(scene.there("wlan0"))
        scene.ip("link set wlan0 mtu 1400")
        await scene.quiet()
        assert len(scene.told) == 1, "no loss, and told without quiet"
        scene.ip(loss)
        await scene.until(lambda: len(scene.told) == 2)
        assert not any(link.up4 for link in assemble(scene.told[-1]))

    act(namespace, play, quiet=NEVER)


def test_a_second_loss_soon_after_waits_no_longer_than_between_losses(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        scene.ip("link set wlan0 down")
        await scene.until(lambda: not scene.there("wlan0").up)
        scene.ip("link set wwan0 down")
        await scene.until(lambda: not scene.there("wwan0").up)
        assert scene.watch.looks == 3

    act(namespace, play, quiet=NEVER)


def test_what_follows_a_loss_without_a_word_is_seen(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at once may be in the middle: another follows it, once things are quiet."""

    async def play(scene: Scene) -> None:
        monkeypatch.setattr(rtnl, "read_interfaces", early)
        scene.ip("link set wlan0 down")
        await scene.until(lambda: scene.now("wlan0") is None)
        await scene.until(lambda: scene.now("wlan0") is not None)
        looks = scene.watch.looks
        await scene.quiet()
        assert scene.watch.looks == looks

    async def early(own_tables: range, kinds: Kinds | None = None) -> Snapshot:
        monkeypatch.setattr(rtnl, "read_interfaces", read_interfaces)
        return Snapshot((), True, {})

    act(namespace, play)


# --- gateways ---------------------------------------------------------------------------------

MAC = "02:00:00:00:0a:01"


def known(scene: Scene, name: str = "wlan0") -> list[str]:
    return [mac for _, mac in scene.there(name).gateways]


def knows(scene: Scene, name: str, macs: list[str]) -> bool:
    return known(scene, name) == macs


async def settled(scene: Scene) -> int:
    """The number of looks, once nothing happens in the namespace any more."""
    while True:
        looks = scene.watch.looks
        await scene.quiet()
        if scene.watch.looks == looks:
            return looks


def test_a_gateways_hardware_address_is_told_and_its_ageing_is_not(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        neighbour = "neigh replace 10.0.1.1 dev wlan0 lladdr"
        scene.ip("route add default via 10.0.1.1 dev wlan0")
        await scene.until(lambda: gateways(scene.there("wlan0")))
        assert known(scene) == []
        scene.ip(f"{neighbour} {MAC.upper()} nud reachable")
        await scene.until(lambda: known(scene) == [MAC])
        assert scene.there("wlan0").gateways == ((packed("10.0.1.1"), MAC),)
        looks = await settled(scene)
        for state in ("stale", "delay", "reachable", "probe", "stale", "permanent"):
            scene.ip(f"{neighbour} {MAC} nud {state}")
        await scene.quiet()
        assert scene.watch.looks == looks
        scene.ip(f"{neighbour} {MAC[:-1]}2 nud reachable")
        await scene.until(lambda: known(scene) == [MAC[:-1] + "2"])
        scene.ip(f"{neighbour} {MAC} nud failed")
        await scene.until(lambda: known(scene) == [])

    act(namespace, play)


def test_neighbours_that_are_no_gateways_cause_no_look(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        scene.ip(
            "route add default via 10.0.1.1 dev wlan0",
            "route add 10.70.0.0/16 via 10.0.1.9 dev wlan0",
            f"neigh add 10.0.1.1 dev wlan0 lladdr {MAC} nud permanent",
        )
        await scene.until(lambda: known(scene) == [MAC])
        looks = await settled(scene)
        lines = [
            f"neigh {verb} {address} dev {dev} lladdr {MAC[:-1]}7 nud reachable"
            for address in ("10.0.1.9", "10.0.1.77", "2001:db8:1::77")
            for dev in ("wlan0", "wwan0")
            for verb in ("replace", "del")
        ]
        scene.ip(*lines, f"neigh add 10.0.1.1 dev wwan0 lladdr {MAC[:-1]}8 nud reachable")
        await scene.quiet()
        assert scene.watch.looks == looks
        assert known(scene, "wwan0") == []

    act(namespace, play)


def test_gateways_of_both_families_are_known_and_none_of_a_link_that_is_down(
    namespace: str,
) -> None:
    async def play(scene: Scene) -> None:
        scene.ip(
            "addr add fe80::2/64 dev wlan0 nodad",
            f"neigh add 10.0.1.1 dev wlan0 lladdr {MAC} nud permanent",
            f"neigh add fe80::1 dev wlan0 lladdr {MAC[:-1]}6 nud permanent",
            f"neigh add fe80::3 dev wlan0 lladdr {MAC[:-1]}7 nud permanent",
            "route add 0.0.0.0/1 via 10.0.1.1 dev wlan0",
            "route add 128.0.0.0/1 via 10.0.1.1 dev wlan0",
            "route add default via fe80::3 dev wlan0 metric 9",
            "route add default via fe80::1 dev wlan0 metric 5",
        )
        macs = [MAC, MAC[:-1] + "6", MAC[:-1] + "7"]
        await scene.until(lambda: known(scene) == macs)
        scene.ip("link set far1 down")
        await scene.until(lambda: not scene.there("wlan0").up)
        assert known(scene) == []
        scene.ip("link set far1 up")
        await scene.until(lambda: known(scene) == macs)

    act(namespace, play)


def test_a_gateway_is_resolved_before_anything_is_sent_there(clean_lab: Lab) -> None:
    lab = clean_lab
    macs = {
        name: json.loads(lab.run(["ip", "-j", "link", "show"], ns=name).stdout)[-1]["address"]
        for name in ("wifi", "lte")
    }
    for dev in ("wlan0", "wwan0"):
        assert lab.run(["ip", "neigh", "flush", "dev", dev]).returncode == 0

    async def play(scene: Scene) -> None:
        for dev, name in (("wlan0", "wifi"), ("wwan0", "lte")):
            await scene.until(partial(knows, scene, dev, [macs[name]] * 2))

    act(lab.host, play)


def test_a_silent_gateway_is_asked_for_once_until_it_was_there(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[neighbours.Key] = []

    def resolve(net: Rtnetlink, key: neighbours.Key) -> None:
        asked.append(key)
        neighbours_resolve(net, key)

    neighbours_resolve = neighbours.resolve
    monkeypatch.setattr(neighbours, "resolve", resolve)

    async def play(scene: Scene) -> None:
        scene.ip("route add default via 10.0.1.1 dev wlan0")
        await scene.until(lambda: asked)
        for mtu in (1400, 1410, 1420):
            scene.ip(f"link set wlan0 mtu {mtu}")
            await settled(scene)
        assert scene.there("wlan0").mtu == 1420
        key = (scene.there("wlan0").index, packed("10.0.1.1"))
        assert asked == [key]
        scene.ip(f"neigh replace 10.0.1.1 dev wlan0 lladdr {MAC} nud reachable")
        await scene.until(lambda: known(scene) == [MAC])
        scene.ip("neigh del 10.0.1.1 dev wlan0")
        await scene.until(lambda: known(scene) == [])
        await scene.quiet()
        assert asked == [key, key]

    act(namespace, play)


def test_a_refusal_to_look_at_neighbours_is_said_and_links_are_told(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    async def play(scene: Scene) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(neighbours, "hardware_address", refuse)
            scene.ip("route add default via 10.0.1.1 dev wlan0")
            await scene.until(lambda: gateways(scene.there("wlan0")))
            assert "hardware addresses: " in scene.problems[-1]
        scene.ip(f"neigh replace 10.0.1.1 dev wlan0 lladdr {MAC} nud reachable")
        scene.ip("link set wlan0 mtu 1400")
        await scene.until(lambda: known(scene) == [MAC])
        assert scene.problems[-1] == ""

    act(namespace, play)


def test_a_neighbour_of_an_interface_that_is_gone_is_none(namespace: str) -> None:
    def look() -> None:
        with Rtnetlink() as net:
            for address in ("10.0.1.1", "2001:db8::1"):
                assert neighbours.hardware_address(net, (9999, packed(address))) == ""
                neighbours.resolve(net, (9999, packed(address)))

    inside(namespace, look)


# --- our rules and tables ---------------------------------------------------------------------


def plan_of(scene: Scene, **values: int) -> RoutePlan:
    links = [
        LinkRoutes(link.number, link.interface, link.index, link.up4, link.up6, link.routes)
        for link in assemble(scene.told[-1])
    ]
    return RoutePlan(tuple(links), **values)


DEFAULTS = ("route add default via 10.0.1.1 dev wlan0", "route add default via 10.0.2.1 metric 9")


def test_what_arbiter_itself_puts_in_force_and_takes_away_is_not_told(namespace: str) -> None:
    ip_batch(DEFAULTS, namespace)

    async def play(scene: Scene) -> None:
        looks = await settled(scene)
        plan = plan_of(scene)
        assert await asyncio.to_thread(lambda: inside(namespace, lambda: routes.apply(plan)))
        assert routes.apply(RoutePlan()).removed
        assert routes.apply(plan)
        assert not routes.apply(plan)
        assert routes.remove() == ()
        await scene.quiet()
        assert (scene.watch.looks, scene.touched) == (looks, 0)

    act(namespace, play)


@pytest.mark.parametrize(
    "line",
    [
        "rule del pref 920",
        "-6 rule del pref 905",
        "route del default table 7001",
        "-6 route flush table 7002",
        "route replace default dev wwan0 table 7001",
    ],
)
@pytest.mark.parametrize(("table", "preference"), [(7000, 900), (9000, 300)])
def test_what_another_removes_of_ours_is_told_and_comes_back_and_then_it_is_quiet(
    namespace: str, line: str, table: int, preference: int
) -> None:
    v6 = ("addr add 2001:db8:2::2/64 dev wwan0 nodad", "route add default via 2001:db8:2::1")
    ip_batch([*DEFAULTS, *v6], namespace)
    for old in ("920", "905"):
        line = line.replace(old, str(int(old) - 900 + preference))
    line = line.replace("table 700", f"table {table // 10}")

    async def play(scene: Scene) -> None:
        plan = plan_of(scene, table=table, preference=preference)
        routes.apply(plan)
        scene.answer = lambda: routes.apply(plan)
        looks = await settled(scene)
        assert scene.touched == 0
        scene.ip_of(line)
        await scene.until(lambda: scene.touched)
        assert not routes.apply(plan), "it was told before it was done"
        await scene.quiet()
        assert scene.touched <= 2
        assert scene.watch.looks == looks

    act(namespace, play, own_tables=RoutePlan(table=table).tables)


def test_a_flush_of_all_rules_is_answered_in_few_words(namespace: str) -> None:
    ip_batch(DEFAULTS, namespace)

    async def play(scene: Scene) -> None:
        plan = plan_of(scene)
        routes.apply(plan)
        scene.answer = lambda: routes.apply(plan)
        scene.ip_of("-4 rule flush")
        scene.ip_of("-6 rule flush")
        await scene.until(lambda: scene.touched and not routes.apply(plan))
        await scene.quiet()
        assert scene.touched <= 3

    act(namespace, play)


def test_routes_of_ours_that_went_with_a_link_that_is_back_already_are_told(
    namespace: str,
) -> None:
    ip_batch(DEFAULTS, namespace)

    async def play(scene: Scene) -> None:
        plan = plan_of(scene)
        routes.apply(plan)
        scene.ip("link set wlan0 down", "link set wlan0 up", DEFAULTS[0])
        await scene.until(lambda: scene.touched or len(scene.told) > 1)
        if len(scene.told) == 1:
            assert routes.apply(plan).added, "nothing was lost: the test tests nothing"

    act(namespace, play)


def test_a_new_socket_after_a_broken_one_counts_as_touched(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(scene: Scene) -> None:
        def fail(*_: object) -> tuple[bytes, object]:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

        with Overrun(socket.AF_UNIX) as overrun:
            monkeypatch.setattr(overrun, "recvfrom", fail)
            scene.watch._readable(overrun)
        await scene.until(lambda: scene.touched)

    act(namespace, play)


# --- overruns and faults ----------------------------------------------------------------------


def test_an_overrun_is_survived_by_looking_again(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        # The loop stands still meanwhile: the socket's 2 kB are full at once.
        scene.ip(
            *(["link set wlan0 down", "link set wlan0 up"] * 100),
            "link set wwan0 mtu 1300",
            "link set wlan0 mtu 1400",
        )
        await scene.until(lambda: scene.there("wlan0").mtu == 1400)
        assert scene.watch.overruns > 0
        assert scene.there("wwan0").mtu == 1300
        # And the watch goes on.
        scene.ip("link set wlan0 mtu 1410")
        await scene.until(lambda: scene.there("wlan0").mtu == 1410)
        assert scene.problems == []

    act(namespace, play, receive_buffer=1)


def test_the_last_lost_event_of_an_overrun_is_not_missed(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        scene.ip(*(["link set wlan0 down", "link set wlan0 up"] * 100), "link del wwan0")
        await scene.until(lambda: scene.now("wwan0") is None)

    act(namespace, play, receive_buffer=1)


class Overrun(socket.socket):
    """A netlink socket that has lost events, and kept none."""

    reads = 0

    def recvfrom(self, *_: object) -> tuple[bytes, object]:
        self.reads += 1
        if self.reads == 1:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        raise BlockingIOError


def test_an_overrun_alone_is_a_reason_to_look(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtnl, "GROUPS", 0)

    async def play(scene: Scene) -> None:
        scene.ip("link set wlan0 mtu 1400")
        await scene.quiet()
        assert len(scene.told) == 1
        with Overrun(socket.AF_UNIX) as overrun:
            scene.watch._readable(overrun)
        await scene.until(lambda: scene.there("wlan0").mtu == 1400)
        assert scene.watch.overruns == 1
        assert scene.touched == 1, "what was lost may have been about rules"

    act(namespace, play)


def test_a_broken_socket_is_replaced(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(scene: Scene) -> None:
        broken = scene.watch._socket
        assert broken is not None

        def fail(*_: object) -> tuple[bytes, object]:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

        with Overrun(socket.AF_UNIX) as overrun:
            monkeypatch.setattr(overrun, "recvfrom", fail)
            scene.watch._readable(overrun)
        assert broken.fileno() == -1
        scene.ip("link set wlan0 mtu 1400")
        await scene.until(lambda: scene.there("wlan0").mtu == 1400)
        scene.ip("link set wlan0 mtu 1300")
        await scene.until(lambda: scene.there("wlan0").mtu == 1300)

    act(namespace, play)


def test_a_failing_kernel_is_told_and_tried_again(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(own_tables: range, kinds: Kinds | None = None) -> Snapshot:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(rtnl, "RETRY", 0.05)

    async def play(scene: Scene) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(rtnl, "read_interfaces", fail)
            scene.ip("link set wlan0 mtu 1400")
            await scene.until(lambda: scene.problems)
            await asyncio.sleep(0.3)
            assert len(scene.told) == 1
        await scene.until(lambda: scene.there("wlan0").mtu == 1400)
        told, fine = scene.problems
        assert "Cannot allocate memory" in told
        assert "ip monitor" in told
        assert fine == ""

    act(namespace, play)


def test_a_kernel_that_talks_nonsense_is_told_and_tried_again(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nonsense(*_: object) -> Iterator[list[Message]]:
        yield [Message(16, 2, 1, b"nonsense")]

    monkeypatch.setattr(rtnl, "RETRY", 0.05)

    async def play(scene: Scene) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(Rtnetlink, "parts", nonsense)
            scene.ip("link set wlan0 mtu 1400")
            await scene.until(lambda: scene.problems)
            assert "interface message of 8 bytes, 16 expected" in scene.problems[-1]
            assert "ip monitor" in scene.problems[-1]
        await scene.until(lambda: scene.there("wlan0").mtu == 1400)
        assert scene.problems[-1] == ""

    act(namespace, play)


def many(namespace: str, pairs: int) -> None:
    """So many more interfaces, by pairs; the list of them takes more than one read."""
    names = [(f"a{number}", f"b{number}") for number in range(pairs)]
    ip_batch([f"link add {a} type veth peer name {b}" for a, b in names], namespace)


def test_a_list_that_changes_while_it_is_read_is_known_for_it(namespace: str) -> None:
    many(namespace, 50)

    def look() -> tuple[bool, bool, int]:
        with Rtnetlink() as net:
            parts = net.parts(RTM_GETLINK, ALL_LINKS, "listing interfaces")
            seen = len(list(next(parts)))
            ip_batch(["link add new0 type veth peer name new1"], namespace)
            for part in parts:
                seen += len(list(part))
            torn = net.interrupted
            whole = net.dump(RTM_GETLINK, ALL_LINKS, "listing interfaces")
            assert seen in (105, 107)
            return torn, net.interrupted, len(whole)

    assert inside(namespace, look) == (True, False, 107)


def test_a_snapshot_of_two_moments_says_so(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    many(namespace, 50)
    monkeypatch.setattr(rtnldump, "HELD", 0)

    async def change(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        ip_batch(["link add new0 type veth peer name new1"], namespace)

    async def run() -> tuple[bool, bool]:
        task = asyncio.create_task(change(30))
        torn = await read_interfaces(OWN_TABLES)
        assert task.done(), "it did not let others have their turn"
        return torn.consistent, (await read_interfaces(OWN_TABLES)).consistent

    assert inside(namespace, lambda: asyncio.run(run())) == (False, True)


def test_many_interfaces_do_not_hold_the_loop(namespace: str) -> None:
    """In processor time: what others on the machine do does not count."""
    many(namespace, 100)

    async def run() -> tuple[int, float]:
        _, consistent, kinds = astuple(await read_interfaces(OWN_TABLES))
        longest = 0.0
        turns = 0

        async def others() -> None:
            nonlocal longest, turns
            while True:
                before = time.thread_time()
                await asyncio.sleep(0)
                longest = max(longest, time.thread_time() - before)
                turns += 1

        task = asyncio.create_task(others())
        found = await read_interfaces(OWN_TABLES, kinds)
        task.cancel()
        assert consistent and len(found.interfaces) == 204
        return turns, longest

    turns, longest = inside(namespace, lambda: asyncio.run(run()))
    assert turns > 20
    assert longest < 0.005 * PATIENCE, f"the loop stood still for {longest * 1000:.1f} ms"


def test_others_have_their_turn_before_each_part_of_a_list(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel makes it inside the system call, in up to half a millisecond."""
    many(namespace, 50)
    monkeypatch.setattr(rtnldump, "HELD", 60)

    async def run() -> int:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        task = asyncio.create_task(others())
        await read_interfaces(OWN_TABLES)
        task.cancel()
        return turns

    # 105 interfaces of 1 kB, in parts of 32 kB; and three more lists, of two parts at least.
    assert inside(namespace, lambda: asyncio.run(run())) >= 105 // 32 + 3 * 2


def test_a_snapshot_that_changed_while_it_was_read_is_read_again(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def torn(own_tables: range, kinds: Kinds | None = None) -> Snapshot:
        found = await read_interfaces(own_tables, kinds)
        monkeypatch.setattr(rtnl, "read_interfaces", read_interfaces)
        return Snapshot(found.interfaces[:1], False, found.kinds)

    monkeypatch.setattr(rtnl, "read_interfaces", torn)
    monkeypatch.setattr(rtnl, "GROUPS", 0)  # no event can make it look

    async def play(scene: Scene) -> None:
        assert len(scene.told[0]) == 1
        await scene.until(lambda: scene.now("wwan0") is not None)

    act(namespace, play)


def test_a_fault_in_the_receiver_is_said_and_does_not_pass_into_the_loop(namespace: str) -> None:
    async def run() -> list[str]:
        problems: list[str] = []
        loop_errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: loop_errors.append(what))
        calls = 0

        def changed(_: tuple[Interface, ...]) -> None:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise LookupError("a bug")

        watch = LinkWatch(changed, problems.append, own_tables=OWN_TABLES)
        await watch.start()
        ip_batch(["link set wlan0 mtu 1400"], namespace)
        for _ in range(400):
            if problems:
                break
            await asyncio.sleep(0.01)
        await watch.close()
        assert loop_errors == []
        return problems

    (said,) = inside(namespace, lambda: asyncio.run(run()))
    assert "LookupError: a bug" in said


def test_after_close_nothing_is_told_and_nothing_is_left_open(namespace: str) -> None:
    async def run() -> None:
        scene = Scene(namespace)
        fds = open_files()
        for _ in range(3):
            await scene.watch.start()
            with pytest.raises(RuntimeError, match="close it before"):
                await scene.watch.start()
            scene.ip("link set wlan0 txqueuelen 5")
            await asyncio.sleep(0.08)
            await scene.watch.close()
            await scene.watch.close()
        told = len(scene.told)
        scene.ip("link set wlan0 mtu 1400")
        await scene.quiet()
        assert len(scene.told) == told
        assert open_files() == fds

    inside(namespace, lambda: asyncio.run(run()))
