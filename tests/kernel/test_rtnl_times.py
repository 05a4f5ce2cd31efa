"""When the link watch tells: once things are quiet, of a loss at once, in a storm in few words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from rtnlscene import Scene, act, gateways, made_namespace, packed

from arbiter.kernel import rtnl
from arbiter.kernel.rtnldump import Kinds, Snapshot, read_interfaces
from arbiter.lab.namespaces import ip_batch
from arbiter.links import assemble


@pytest.fixture
def namespace() -> Iterator[str]:
    with made_namespace() as name:
        yield name


# --- in a storm -------------------------------------------------------------------------------


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
