"""The daemon's accounts without a kernel: what an unknown connection counts for, and how a budget
goes over from one period to the next."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from arbiter import accounts
from arbiter.accounts import Accounts, unknown_accounts
from arbiter.kernel import acct
from arbiter.links import FoundLink, LinkKind
from arbiter.model import Flow, OverBudget
from arbiter.tariff import Budget, Period
from arbiter.usage import Account, Batch, Counted, Used

SIM = "8949012345678901234"
DAY = 86_400.0
NOON = 1_780_056_000.0  # 2026-05-29 12:00 UTC, a Friday


def found(name: str, number: int, metric: int = 100, **more: Any) -> FoundLink:
    facts: dict[str, Any] = {"up4": True, "up6": True, **more}
    return FoundLink(
        name=name,
        number=number,
        interface=f"{name}0",
        index=number,
        kind=LinkKind.CELLULAR,
        mtu=1500,
        gateway4=b"",
        gateway6=b"",
        routes=(),
        metric=metric,
        **facts,
    )


class Disk:
    """A writer that keeps what it is given."""

    def __init__(self, *rows: Used) -> None:
        self.rows = rows
        self.batches: list[Batch] = []

    def add_usage(self, batch: Batch) -> None:
        self.batches.append(batch)

    def usage(self, since: str) -> Future[list[Used]]:
        done: Future[list[Used]] = Future()
        done.set_result([row for row in self.rows if row.day >= since])
        return done


def counted(size: int, number: int = 0, sport: int = 40_000) -> Counted:
    flow = Flow(6, bytes(4), sport, b"\xc6\x33\x64\x0a", 443)
    return Counted(flow, 7, 0x20000000 | number << 24, size, 0, size // 1000, 0)


def made(monkeypatch: pytest.MonkeyPatch, state: Path, disk: Disk, wall: list[float]) -> Accounts:
    monkeypatch.setattr(accounts, "local_zone", lambda: UTC)
    monkeypatch.setattr(time, "time", lambda: wall[0])
    return Accounts(disk, state, 0x7F000000, lambda: None)  # type: ignore[arg-type]


def test_unknown_connections_count_for_the_link_of_their_mark_and_its_sim() -> None:
    links = (found("wifi", 1, metric=600), found("lte", 2, metric=100, sim=SIM))
    assert unknown_accounts(links) == {
        0: Account(link="lte", sim=SIM),
        1: Account(link="wifi"),
        2: Account(link="lte", sim=SIM),
    }


@pytest.mark.parametrize("more", [{"up4": False, "up6": False}, {"reach4": (), "reach6": ()}])
def test_a_link_that_leads_nowhere_is_not_taken_for_the_default_one(more: dict[str, Any]) -> None:
    links = (found("wifi", 1, metric=600), found("lte", 2, metric=100, **more))
    assert unknown_accounts(links)[0] == Account(link="wifi")
    assert 0 not in unknown_accounts(links[1:])


def test_a_budget_ends_with_its_period_and_begins_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def scene() -> None:
        wall = [NOON]
        book = made(monkeypatch, tmp_path, Disk(), wall)
        lte = found("lte", 2, sim=SIM, budget=Budget(1_000_000, Period.DAY))
        book.follow((lte,))
        assert (book.spent(lte), book.left()) == (None, {"lte": 1_000_000})
        book._ended(counted(1_200_000, 2))
        spent = book.spent(lte)
        assert spent is not None
        assert (spent.since, spent.then) == (NOON, OverBudget.ASK)
        assert book.left() == {"lte": 0}
        wall[0] += 3600
        again = book.spent(lte)
        assert again is not None
        assert again.since == NOON, "what was decided since must not be asked again"

        later = made(
            monkeypatch, tmp_path, Disk(Used(Account(sim=SIM), "2026-05-29", 2_000_000)), wall
        )
        later._totals.load(later._writer.usage("2026-05-01").result(), "2026-05-29")
        restarted = later.spent(lte)
        assert restarted is not None
        assert restarted.since == NOON, "nor after a restart"

        wall[0] += DAY
        assert (book.spent(lte), book.left()) == (None, {"lte": 1_000_000})
        book._ended(counted(1_300_000, 2, sport=40_001))
        renewed = book.spent(lte)
        assert renewed is not None
        assert renewed.since == wall[0]
        await book.close()

    monkeypatch.setattr(acct, "restore", lambda _: ())
    asyncio.run(scene())


def test_a_budget_file_that_cannot_be_written_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def scene() -> None:
        book = made(monkeypatch, tmp_path, Disk(), [NOON])
        lte = found("lte", 2, sim=SIM, budget=Budget(1_000_000, Period.DAY))
        book.follow((lte,))
        (tmp_path / "budgets.new").mkdir()  # as good as a full disk: no new file can be made
        book._ended(counted(1_200_000, 2))
        assert book.spent(lte) is not None
        (problem,) = book.problems
        assert problem.startswith(f"{tmp_path / 'budgets.json'} cannot be written: ")
        assert "must be confirmed again" in problem
        (tmp_path / "budgets.new").rmdir()
        book._flushed()
        assert book.problems == ()
        assert str(NOON) in (tmp_path / "budgets.json").read_text()
        await book.close()

    monkeypatch.setattr(acct, "restore", lambda _: ())
    asyncio.run(scene())
