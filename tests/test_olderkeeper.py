"""The keeper of what began while nobody decided: what it does when, without a kernel."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest
from msgspec.structs import replace
from playbook import NO_SOCKET, SERVER, Playbook, older, owner, process

from arbiter import olderkeeper as module
from arbiter.events import Cut, Event, Report
from arbiter.kernel import undecided
from arbiter.model import MARK_MASK, NoOwner, Owner, Packet
from arbiter.older import Fate, Older
from arbiter.olderkeeper import OlderKeeper


class Owners:
    """In place of the finder: two at a time."""

    def __init__(self) -> None:
        self.known: dict[int, Owner] = {}
        """By source port."""

    async def owners(self, some: Sequence[Packet], devices: object) -> list[Owner | NoOwner]:
        return [self.known.get(one.flow.sport, NO_SOCKET) for one in some[:2]]


class Scene:
    """A keeper over entries that are a list. nc is denied."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries: list[Older] = []
        self.play = Playbook("deny app=/usr/bin/nc")
        self.finder = Owners()
        self.reads: list[bool] = []
        self.settled: list[tuple[int, Fate]] = []
        self.records: list[Report] = []
        self.gone: set[int] = set()
        self.fails = self.hinders = ""
        self.fails_later = False
        monkeypatch.setattr(undecided, "read", self.read)
        monkeypatch.setattr(undecided, "settle", self.settle)
        monkeypatch.setattr(module, "LATER", 0.05)
        self.keeper = OlderKeeper(
            MARK_MASK,
            self.finder,  # type: ignore[arg-type]
            self.dispatch,
            self.records.append,
        )

    def there_is(self, sport: int, who: str = "", proto: int = 17, **more: bool) -> None:
        one = older(proto, SERVER, **more)
        flow = replace(one.packet.flow, sport=sport)
        packet, original = replace(one.packet, flow=flow), sport.to_bytes(2)
        self.entries.append(replace(one, packet=packet, original=original))
        if who:
            self.finder.known[sport] = owner(process(f"/usr/bin/{who}"))

    def read(self, mask: int, *, only_denied: bool) -> list[Older]:
        self.reads.append(only_denied)
        if self.fails and not self.fails_later:
            raise OSError(5, self.fails)
        return [one for one in self.entries if one.denied or not only_denied]

    def settle(self, fates: Sequence[tuple[Older, Fate]], mask: int) -> tuple[list[Older], str]:
        if self.fails:
            raise OSError(24, self.fails)
        cut = []
        for one, what in fates:
            sport = one.packet.flow.sport
            self.settled.append((sport, what))
            self.entries.remove(one)
            if what is Fate.DENIED and sport not in self.gone:
                self.entries.append(replace(one, denied=True))
                cut.append(one)
        return cut, self.hinders

    def dispatch(self, event: Event) -> None:
        for effect in self.play.pipeline.handle(event):
            assert isinstance(effect, Cut)
            self.keeper.cut(effect)

    def run(self, then: Callable[[], Awaitable[None]] | None = None) -> None:
        async def whole() -> None:
            await self.keeper.start()
            if then is not None:
                await then()
            await self.keeper.stop()

        asyncio.run(whole())


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_the_start_waits_until_each_is_looked_at(scene: Scene) -> None:
    for sport in range(1, 8):
        scene.there_is(sport, {1: "nc", 4: "nc", 5: "curl"}.get(sport, ""))
    scene.run()
    assert scene.settled == [
        *((1, Fate.DENIED), (2, Fate.FORGOTTEN), (3, Fate.FORGOTTEN), (4, Fate.DENIED)),
        *((6, Fate.FORGOTTEN), (7, Fate.FORGOTTEN)),
    ]
    packets = [report.packet for report in scene.records]
    assert [one.flow.sport for one in packets if isinstance(one, Packet)] == [1, 4]
    assert scene.reads == [False]


def test_what_ended_before_it_could_be_refused_has_no_record(scene: Scene) -> None:
    scene.there_is(1, "nc")
    scene.there_is(2, "nc")
    scene.gone.add(1)
    scene.run()
    (report,) = scene.records
    assert isinstance(report.packet, Packet)
    assert report.packet.flow.sport == 2


def test_with_nothing_refused_nothing_runs_until_it_is_wanted(scene: Scene) -> None:
    scene.there_is(1, "curl")

    async def then() -> None:
        await asyncio.sleep(0.2)
        assert scene.reads == [False]
        scene.keeper.look()
        await asyncio.sleep(0.1)
        assert scene.reads == [False, False]

    scene.run(then)


def test_what_is_refused_is_looked_at_until_it_is_over_or_denied_no_more(scene: Scene) -> None:
    scene.there_is(1, "nc")
    scene.there_is(2, "nc", proto=6)

    async def then() -> None:
        await asyncio.sleep(0.2)
        assert len(scene.reads) > 2 and set(scene.reads[1:]) == {True}
        assert len(scene.settled) == len(scene.records) == 2, "once each"
        scene.finder.known[1] = owner(process("/usr/bin/curl"))
        del scene.finder.known[2]
        await asyncio.sleep(0.2)
        assert sorted(scene.settled[2:]) == [(1, Fate.FORGOTTEN), (2, Fate.FORGOTTEN)]
        reads = len(scene.reads)
        await asyncio.sleep(0.2)
        assert len(scene.reads) <= reads + 1

    scene.run(then)


@pytest.mark.parametrize("later", [False, True])
def test_where_conntrack_cannot_be_spoken_to_it_is_said_and_tried_again(
    scene: Scene, later: bool
) -> None:
    scene.there_is(1, "nc")
    scene.fails_later = later
    scene.fails = "no such thing"

    async def then() -> None:
        (problem,) = scene.keeper.problems()
        assert "no such thing" in problem and "restart arbiter" in problem
        scene.fails = ""
        await asyncio.sleep(0.2)
        assert scene.keeper.problems() == ()
        assert len(scene.records) == 1

    scene.run(then)


def test_what_cannot_be_carried_out_is_said_and_the_rest_is(scene: Scene) -> None:
    scene.there_is(1, "nc")
    scene.hinders = "this kernel cannot close sockets of others"

    async def then() -> None:
        (problem,) = scene.keeper.problems()
        assert scene.hinders in problem
        assert len(scene.records) == 1

    scene.run(then)


def test_a_look_that_takes_long_does_not_hold_the_start(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST", 0.05)
    scene.there_is(1, "nc")
    go_on = threading.Event()
    read = scene.read

    def slow(mask: int, *, only_denied: bool) -> list[Older]:
        assert go_on.wait(10)
        return read(mask, only_denied=only_denied)

    monkeypatch.setattr(undecided, "read", slow)

    async def then() -> None:
        assert scene.records == []
        go_on.set()
        await asyncio.sleep(0.2)
        assert len(scene.records) == 1

    scene.run(then)


def test_a_stop_in_the_middle_ends_it(scene: Scene) -> None:
    for sport in range(1, 100):
        scene.there_is(sport)
    asked, many = scene.finder.owners, asyncio.Event()

    async def owners(some: Sequence[Packet], devices: object) -> list[Owner | NoOwner]:
        if len(scene.settled) > 10:
            many.set()
            await asyncio.sleep(60)
        return await asked(some, devices)

    scene.finder.owners = owners  # type: ignore[method-assign]

    async def whole() -> None:
        starting = asyncio.create_task(scene.keeper.start())
        await many.wait()
        await asyncio.wait_for(scene.keeper.stop(), 5)
        starting.cancel()

    asyncio.run(whole())
    assert len(scene.settled) < 20
