"""Lists of many interfaces are read whole, of one moment, and without holding the loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from msgspec.structs import astuple
from rtnlscene import OWN_TABLES, Scene, act, made_namespace
from running import PATIENCE

from arbiter.kernel import rtnl, rtnldump
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.kernel.rtnldump import Kinds, Snapshot, read_interfaces
from arbiter.kernel.rtnlmessages import ALL_LINKS, RTM_GETLINK
from arbiter.lab.namespaces import inside, ip_batch


@pytest.fixture
def namespace() -> Iterator[str]:
    with made_namespace() as name:
        yield name


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
