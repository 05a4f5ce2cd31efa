"""The link watch tells of each gateway's hardware address, and asks for those it does not know."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from functools import partial

import pytest
from rtnlscene import Scene, act, gateways, made_namespace, packed, settled

from arbiter.kernel import neighbours
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.lab import Lab
from arbiter.lab.namespaces import inside

MAC = "02:00:00:00:0a:01"


@pytest.fixture
def namespace() -> Iterator[str]:
    with made_namespace() as name:
        yield name


def known(scene: Scene, name: str = "wlan0") -> list[str]:
    return [mac for _, mac in scene.there(name).gateways]


def knows(scene: Scene, name: str, macs: list[str]) -> bool:
    return known(scene, name) == macs


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
