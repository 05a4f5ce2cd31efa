"""The link watch tells of what others do to arbiter's rules and tables, and not of what it does."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator

import pytest
from rtnlscene import Overrun, Scene, act, made_namespace, settled

from arbiter.kernel import routes
from arbiter.lab.namespaces import inside, ip_batch
from arbiter.links import assemble
from arbiter.routeplan import LinkRoutes, RoutePlan

DEFAULTS = ("route add default via 10.0.1.1 dev wlan0", "route add default via 10.0.2.1 metric 9")


@pytest.fixture
def namespace() -> Iterator[str]:
    with made_namespace() as name:
        yield name


def plan_of(scene: Scene, **values: int) -> RoutePlan:
    links = [
        LinkRoutes(link.number, link.interface, link.index, link.up4, link.up6, link.routes)
        for link in assemble(scene.told[-1])
    ]
    return RoutePlan(tuple(links), **values)


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
