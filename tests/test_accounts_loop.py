"""The daemon's accounts in an event loop, with counters and a store that the test makes up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from playbook import owner, packet, process
from test_review_budgets import DAY, SIM, WALL, found

from arbiter import accounts as module
from arbiter.accounts import Accounts
from arbiter.events import Reason, Report
from arbiter.kernel import acct, conntrack
from arbiter.model import (
    ACCEPTED,
    ALLOW,
    DENIED,
    DROPPED,
    MARK_MASK,
    Flow,
    Link,
    Undecodable,
    Verdict,
)
from arbiter.store import StoreError
from arbiter.tariff import Budget, Period
from arbiter.usage import Account, Batch, Counted, OpenFlow, Used

LTE = Link("lte", 2, "wwan0", sim=SIM)
FLOW = packet(1).flow
CURL = Account("/usr/bin/curl", "alice", "lte", SIM)


def entry(size: int, flow: Flow = FLOW, id: int = 1) -> Counted:
    return Counted(flow, id, 0x22000000, size, 0, 1, 0)


def done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)
    return future


class Store:
    """What was kept before, and what is kept now."""

    def __init__(self) -> None:
        self.rows: Any = []
        self.flows: list[OpenFlow] = []
        self.kept: list[Used] = []
        self.since: list[str] = []

    def usage(self, since: str) -> Future[Any]:
        self.since.append(since)
        return done(self.rows)

    def open_flows(self) -> Future[Any]:
        return done(self.flows)

    def add_usage(self, batch: Batch) -> None:
        self.kept += batch.used


class Watch:
    """In place of conntrack's events: `late` come as it ends."""

    def __init__(self, ended: Callable[[Counted], None], lost: Any, mask: int) -> None:
        self.ended = ended
        self.late: list[Counted] = []
        self.closed = False

    def start(self) -> None: ...

    def drain(self) -> None:
        for one in self.late:
            self.ended(one)

    def close(self) -> None:
        self.closed = True


class Scene:
    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.changes, self.reads = Store(), 0, 0
        self.counters: list[Counted] | OSError = []
        self.restored = 0
        self.wall = WALL
        monkeypatch.setattr(module, "local_zone", lambda: UTC)
        monkeypatch.setattr(module, "ConntrackWatch", Watch)
        monkeypatch.setattr(module, "READ", 0.01)
        monkeypatch.setattr(module, "FLUSH", 0.01)
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(conntrack, "read", self.read)
        monkeypatch.setattr(acct, "enable", lambda _: ())
        monkeypatch.setattr(acct, "restore", self.restore)
        self.accounts = Accounts(self.store, tmp_path, MARK_MASK, self.changed)  # type: ignore[arg-type]

    def changed(self) -> None:
        self.changes += 1

    def restore(self, _: Path) -> tuple[str, ...]:
        self.restored += 1
        return ()

    def read(self, _: int) -> list[Counted]:
        self.reads += 1
        if isinstance(self.counters, OSError):
            raise self.counters
        return self.counters

    @property
    def watch(self) -> Watch:
        watch = self.accounts._watch
        assert isinstance(watch, Watch)
        return watch

    def open(self, verdict: Verdict = ACCEPTED, who: Any = None, what: Any = None) -> None:
        about = packet(1) if what is None else what
        report = Report(WALL, about, who or owner(), ALLOW, Reason.RULE, verdict=verdict)
        self.accounts.opened(report, LTE)

    async def until(self, what: Callable[[], object]) -> None:
        for _ in range(1000):
            if what():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("waited in vain")

    def run(self, play: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def all_of_it() -> None:
            self.accounts.follow((found(sim=SIM),))
            await self.accounts.start()
            await play()
            await self.accounts.close()

        asyncio.run(all_of_it())


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def total(rows: list[Used], account: Account = CURL) -> int:
    return sum(row.size for row in rows if row.account == account)


# --- whose ------------------------------------------------------------------------------------


def test_what_a_decided_connection_carries_is_its_apps_while_it_runs(scene: Scene) -> None:
    async def play() -> None:
        scene.open()
        scene.counters = [entry(100)]
        await scene.until(lambda: total(scene.store.kept) == 100)
        scene.counters = [entry(150)]
        await scene.until(lambda: total(scene.store.kept) == 150)
        assert scene.accounts.used("/usr/bin/curl") == {"lte": 150}

    scene.run(play)


@pytest.mark.parametrize("verdict", [DENIED, DROPPED])
def test_what_is_refused_is_nobodys(scene: Scene, verdict: Verdict) -> None:
    scene.open(verdict)
    scene.open(ACCEPTED, what=Undecodable(1, "cut short"))
    assert scene.accounts._ledger.idle


def test_apps_without_end_share_no_room_without_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ACCOUNTS", 4)
    for n in range(20):
        scene.open(who=owner(process(f"/bin/{n}")))
    assert len(scene.accounts._shared) <= 4
    scene.open(who=owner(process("/bin/19")))
    assert len(scene.accounts._shared) <= 4


# --- when -------------------------------------------------------------------------------------


def test_with_nothing_open_nothing_runs_until_something_is(scene: Scene) -> None:
    async def play() -> None:
        await scene.until(lambda: not scene.accounts._open.is_set())
        before = scene.reads
        await asyncio.sleep(0.1)
        assert scene.reads == before
        scene.open()
        await scene.until(lambda: scene.reads > before)

    scene.run(play)


def test_what_ended_is_stored_soon_without_a_read(scene: Scene) -> None:
    async def play() -> None:
        await scene.until(lambda: not scene.accounts._open.is_set())
        scene.accounts._ledger.opened(FLOW, CURL)
        for id in range(1, 4):
            scene.watch.ended(entry(100, id=id))
        timer = scene.accounts._flush
        scene.watch.ended(entry(100, id=4))
        assert timer is not None
        assert scene.accounts._flush is timer, "one store for all that end together"
        await scene.until(lambda: total(scene.store.kept) == 400)
        scene.watch.ended(entry(100, id=5))
        await scene.until(lambda: total(scene.store.kept) == 500)

    scene.run(play)


def test_the_end_counts_a_last_time_and_gives_all_back(scene: Scene) -> None:
    async def play() -> None:
        await scene.until(lambda: not scene.accounts._open.is_set())
        module.READ = module.FLUSH = 60.0
        scene.open()
        scene.counters = [entry(70)]
        scene.accounts._ledger.opened(packet(2, sport=2).flow, CURL)
        scene.watch.late = [entry(30, packet(2, sport=2).flow, 2)]

    scene.run(play)
    assert total(scene.store.kept) == 100
    assert scene.watch.closed
    assert scene.restored == 1
    for timer in (scene.accounts._flush, scene.accounts._period):
        assert timer is None or timer.cancelled()


def test_a_restart_goes_on_where_it_was(scene: Scene) -> None:
    scene.store.rows = [Used(CURL, DAY, out_bytes=400)]
    scene.store.flows = [OpenFlow(CURL, entry(400))]

    async def play() -> None:
        assert scene.store.since == ["2026-07-01"]
        scene.counters = [entry(450)]
        await scene.until(lambda: total(scene.store.kept) == 50)
        assert scene.accounts.left() == {"lte": 550}

    scene.run(play)


def test_without_a_store_nothing_is_counted_and_it_is_said(scene: Scene) -> None:
    scene.store.rows = StoreError("torn", Path("/x"), "why", "next")

    async def play() -> None:
        assert "bytes are not counted" in scene.accounts.problems[0]

    scene.run(play)
    assert scene.reads == 0
    assert scene.restored == 1


def test_a_failed_read_is_said_once_and_tried_again(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        scene.open()
        scene.counters = OSError(12, "no memory")
        await scene.until(lambda: scene.reads > 3)
        assert caplog.text.count("conntrack cannot be read") == 1
        scene.counters = [entry(100)]
        await scene.until(lambda: total(scene.store.kept) == 100)
        scene.counters = OSError(12, "no memory")
        await scene.until(lambda: caplog.text.count("conntrack cannot be read") == 2)

    scene.run(play)


def test_more_connections_than_there_is_room_for_are_said_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        scene.accounts._ledger._bound = 1
        scene.open()
        scene.counters = [entry(100), entry(50, id=99)]
        await scene.until(lambda: scene.reads > 3)
        assert caplog.text.count("counted only at their end") == 1

    scene.run(play)


def test_lost_events_are_a_reason_to_read(scene: Scene) -> None:
    async def play() -> None:
        await scene.until(lambda: not scene.accounts._open.is_set())
        before = scene.reads
        scene.accounts._lost("events were lost")
        await scene.until(lambda: scene.reads > before)

    scene.run(play)


# --- budgets ----------------------------------------------------------------------------------


def test_a_budget_that_a_read_or_an_end_uses_up_is_told(scene: Scene) -> None:
    async def play() -> None:
        scene.open()
        scene.counters = [entry(999)]
        await scene.until(lambda: total(scene.store.kept) == 999)
        assert scene.changes == 0
        assert scene.accounts._period is None, "no time to wait for while there is room"
        scene.counters = [entry(1000)]
        await scene.until(lambda: scene.changes == 1)
        assert scene.accounts._period is not None

    scene.run(play)


def test_a_budget_that_an_end_uses_up_is_told_too(scene: Scene) -> None:
    async def play() -> None:
        await scene.until(lambda: not scene.accounts._open.is_set())
        scene.accounts._ledger.opened(FLOW, CURL)
        scene.watch.ended(entry(5000))
        await scene.until(lambda: scene.changes == 1)

    scene.run(play)


def test_the_next_period_is_waited_for_and_told(scene: Scene) -> None:
    async def play() -> None:
        scene.accounts.follow((found(sim=SIM, budget=Budget(1, Period.DAY)),))
        scene.accounts._totals.add(Used(CURL, DAY, out_bytes=1))
        scene.accounts._check()
        timer = scene.accounts._period
        assert timer is not None
        left = timer.when() - asyncio.get_running_loop().time()
        assert left <= module.LONGEST, "the clock may be set meanwhile"
        scene.wall = WALL + 12 * 3600 - 5
        scene.accounts._new_period()
        timer = scene.accounts._period
        assert timer is not None
        assert 4 < timer.when() - asyncio.get_running_loop().time() < 7
        scene.wall = WALL + 12 * 3600 + 1
        scene.accounts._new_period()
        assert scene.changes == 2
        assert scene.accounts._period is None

    scene.run(play)


def test_links_that_come_with_a_budget_used_up_are_no_news_but_are_timed(scene: Scene) -> None:
    async def play() -> None:
        scene.accounts._totals.add(Used(CURL, DAY, out_bytes=5000))
        scene.accounts.follow((found(sim=SIM), found("wifi", 1, budget=None)))
        scene.accounts._check()
        assert scene.changes == 0
        assert scene.accounts._period is not None
        assert scene.accounts.left() == {"lte": 0}

    scene.run(play)


def test_what_came_before_a_last_read_that_failed_is_kept(scene: Scene) -> None:
    async def play() -> None:
        await scene.until(lambda: not scene.accounts._open.is_set())
        module.READ = module.FLUSH = 60.0
        scene.accounts._ledger.opened(FLOW, CURL)
        scene.watch.late = [entry(30)]
        scene.counters = OSError(12, "no memory")

    scene.run(play)
    assert total(scene.store.kept) == 30
