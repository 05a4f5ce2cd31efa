"""What a review of budgets and accounts found: each must stay mended."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from msgspec import structs

from arbiter import accounts as module
from arbiter import budgets
from arbiter.accounts import Accounts, read_exceeded
from arbiter.ahead import Ahead
from arbiter.budgets import Exceeded, Totals, first_day, next_midnight, size_text, standing
from arbiter.daemon import Daemon
from arbiter.links import FoundLink, LinkKind
from arbiter.model import MARK_MASK, Flow, OverBudget
from arbiter.settings import Settings
from arbiter.startup import Paths
from arbiter.tariff import Budget, Period
from arbiter.usage import Account, Counted, Used, day_of

SIM, OTHER = "8949012345678901234", "8949012345678905678"
DAY = "2026-07-31"
WALL = datetime(2026, 7, 31, 12, tzinfo=UTC).timestamp()
MONTH = Budget(1000, Period.MONTH)


def used(size: int, link: str = "lte", sim: str = "", day: str = DAY, app: str = "curl") -> Used:
    return Used(Account(app, "alice", link, sim), day, out_bytes=size)


def found(name: str = "lte", number: int = 2, **more: Any) -> FoundLink:
    return FoundLink(
        name=name,
        number=number,
        interface=f"{name}0",
        index=number,
        kind=LinkKind.CELLULAR,
        up4=True,
        up6=True,
        mtu=1500,
        gateway4=b"",
        gateway6=b"",
        routes=(),
        **{"budget": MONTH, **more},
    )


class Store:
    """A writer that keeps nothing."""

    def add_usage(self, batch: object) -> None: ...


@pytest.fixture
def changes() -> list[None]:
    return []


@pytest.fixture
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: list[None]) -> Accounts:
    monkeypatch.setattr(module, "local_zone", lambda: UTC)
    monkeypatch.setattr(time, "time", lambda: WALL)
    made = Accounts(Store(), tmp_path, MARK_MASK, lambda: changes.append(None))  # type: ignore[arg-type]
    monkeypatch.setattr(made, "_arm", lambda: None)
    return made


def at(monkeypatch: pytest.MonkeyPatch, wall: float) -> None:
    monkeypatch.setattr(time, "time", lambda: wall)


# --- whose bytes count ------------------------------------------------------------------------


def test_bytes_from_before_the_sim_was_known_count_for_its_budget() -> None:
    totals = Totals()
    totals.load([used(100), used(10, sim=SIM), used(1, sim=OTHER), used(1000, "wifi")], DAY)
    assert totals.carried("lte", SIM, DAY) == 110
    assert totals.carried("lte", OTHER, DAY) == 101
    assert totals.carried("lte", "", DAY) == 111
    assert totals.carried("usb", SIM, DAY) == 10, "the SIM is in another link now"


def test_an_entry_that_nobody_opened_counts_for_the_sim_in_its_link(accounts: Accounts) -> None:
    accounts.follow((found(sim=SIM),))
    entry = Counted(Flow(6, bytes(4), 1, bytes(4), 2), 1, 0x22000000, 70, 30, 1, 1)
    (told,) = accounts._ledger.read([entry], WALL)
    assert (told.account.link, told.account.sim) == ("lte", SIM)


def test_what_an_app_used_costs_the_same_to_look_up_whatever_others_did() -> None:
    totals = Totals()
    totals.load([used(1, app=f"/bin/{n}") for n in range(2000)], DAY)
    totals.add(used(5, "wifi", app="/bin/7"))
    assert totals.of_app("/bin/7") == {"lte": 1, "wifi": 5}
    assert totals.of_app("/bin/none") == {}


def test_a_clock_that_was_wrong_for_a_while_resets_no_budget() -> None:
    totals = Totals()
    totals.load([used(100, sim=SIM)], DAY)
    totals.add(used(1, sim=SIM, day="2031-01-01"))
    totals.add(used(10, sim=SIM))
    assert totals.carried("lte", SIM, "2026-07-01") == 111
    assert totals.of_app("curl") == {"lte": 10}


def test_days_that_no_period_holds_any_more_are_forgotten() -> None:
    totals = Totals()
    totals.load([], DAY)
    day = datetime(2026, 7, 31, tzinfo=UTC)
    for n in range(400):
        totals.add(used(1, day=day_of((day + timedelta(n)).timestamp(), UTC)))
    assert len(totals._days) < 100
    last = day + timedelta(399)
    assert totals.carried("lte", "", day_of((last - timedelta(37)).timestamp(), UTC)) == 38


# --- when a budget was used up ----------------------------------------------------------------


def test_a_clock_that_was_set_back_makes_no_answer_too_old() -> None:
    first = standing(MONTH, OverBudget.ASK, 1000, WALL, UTC, None)
    assert first.exceeded == Exceeded("2026-07-01", WALL)
    back = standing(MONTH, OverBudget.ASK, 1000, WALL - 3600, UTC, first.exceeded)
    assert back.spent is not None
    assert back.spent.since == WALL - 3600
    on = standing(MONTH, OverBudget.ASK, 1000, WALL + 60, UTC, first.exceeded)
    assert on.exceeded == first.exceeded


def test_two_links_of_one_sim_do_not_renew_each_others_question(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two APNs of one SIM, with a budget each: one was over, the other not, at every look."""
    internet = found(sim=SIM, budget=Budget(5000, Period.MONTH))
    mms = found("mms", 3, sim=SIM, budget=Budget(1000, Period.MONTH))
    accounts._totals.load([used(2000, sim=SIM)], DAY)
    accounts.follow((internet, mms))
    first = accounts.spent(mms)
    assert first is not None
    at(monkeypatch, WALL + 60)
    for _ in range(3):
        assert accounts.spent(internet) is None
        assert accounts.spent(mms) == first
    assert accounts.left() == {"lte": 3000, "mms": 0}
    assert list(read_exceeded(tmp_path / "budgets.json").values()) == [Exceeded("2026-07-01", WALL)]


def test_a_budget_used_up_is_told_once_and_again_when_a_new_period_begins(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch, changes: list[None]
) -> None:
    accounts.follow((found(),))
    accounts._check()
    assert not changes
    accounts._totals.add(used(1000))
    accounts._check()
    accounts._check()
    assert len(changes) == 1
    at(monkeypatch, WALL + 86400)
    accounts._check()
    assert len(changes) == 2
    assert accounts.spent(found()) is None


def test_what_was_exceeded_is_kept_over_a_restart(
    accounts: Accounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts._totals.add(used(1000))
    before = accounts.spent(found())
    again = Accounts(Store(), tmp_path, MARK_MASK, lambda: None)  # type: ignore[arg-type]
    again._totals.add(used(1000))
    at(monkeypatch, WALL + 5)
    assert before is not None
    assert again.spent(found()) == before
    assert structs.asdict(before)["since"] == WALL


def test_a_mistake_that_ends_the_counting_is_not_silent(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: list[object] = []

    async def play() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: broken.append(context["exception"]))

        async def mistaken() -> None:
            raise ZeroDivisionError

        task = asyncio.create_task(mistaken())
        task.add_done_callback(module.not_silent)
        await asyncio.wait([task])
        ended = asyncio.create_task(asyncio.sleep(60))
        ended.add_done_callback(module.not_silent)
        ended.cancel()
        await asyncio.wait([ended])
        await asyncio.sleep(0)

    asyncio.run(play())
    assert [type(error) for error in broken] == [ZeroDivisionError]


def test_a_reload_that_comes_before_links_are_there_ends_nothing(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path / "socket", tmp_path)
    daemon = Daemon(
        Settings(), Settings, paths, frozenset(), Ahead(None, None, ThreadPoolExecutor(1))
    )
    daemon.reload()


# --- what mutants showed ----------------------------------------------------------------------


def test_what_is_loaded_reaches_back_to_the_first_day_of_any_period() -> None:
    assert first_day(WALL, UTC) == "2026-07-01"
    assert first_day(datetime(2026, 8, 1, tzinfo=UTC).timestamp(), UTC) == "2026-07-27"


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Havana", "Africa/Cairo"])
def test_midnight_is_the_next_one_whatever_the_clock_skips(zone: str) -> None:
    """Havana and Cairo skip midnight itself when summer begins."""
    info = ZoneInfo(zone)
    wall = datetime(2026, 1, 1, 12, tzinfo=info).timestamp()
    for _ in range(365 * 4):
        midnight = next_midnight(wall, info)
        assert 0 < midnight - wall <= 25 * 3600
        assert day_of(midnight, info) > day_of(wall, info)
        assert day_of(midnight - 1, info) == day_of(wall, info)
        wall += 6 * 3600


def test_loading_starts_anew_and_prompts_see_this_month_only() -> None:
    totals = Totals()
    totals.add(used(7))
    totals.load([used(1, day="2026-06-30"), used(2)], DAY)
    assert totals.carried("lte", "", "2026-06-01") == 3
    assert totals.of_app("curl") == {"lte": 2}
    totals.add(used(4, day="2026-08-01"))
    assert totals.of_app("curl") == {"lte": 4}


def test_apps_without_end_take_no_room_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "MAX_APPS", 3)
    totals = Totals()
    totals.load([], DAY)
    for app in "abcde":
        totals.add(used(1, app=app))
    totals.add(used(1, app="a"))
    totals.add(used(1, "wifi", app="a"))
    assert [totals.of_app(app) for app in "acd"] == [{"lte": 2}, {"lte": 1}, {}]
    assert totals.carried("lte", "", DAY) == 6
    totals.add(used(1, app="z", day="2026-08-01"))
    assert totals.of_app("z") == {"lte": 1}


def test_a_new_period_that_is_used_up_at_once_is_asked_about_anew() -> None:
    first = standing(MONTH, OverBudget.ASK, 1000, WALL, UTC, None)
    later = standing(MONTH, OverBudget.ASK, 1000, WALL + 86400, UTC, first.exceeded)
    assert later.exceeded == Exceeded("2026-08-01", WALL + 86400)


def test_sizes_read_as_on_a_bill() -> None:
    texts = [size_text(n) for n in (0, 999, 1000, 10_000, 1_500_000, 10**12)]
    assert texts == ["0 bytes", "999 bytes", "1.0 kB", "10 kB", "1.5 MB", "1.0 TB"]
