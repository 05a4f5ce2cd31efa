"""What is old is deleted in steps: sums stay, what is needed stays, and nobody waits."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from auditscene import BEGAN, record
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from arbiter.auditsettings import Audit
from arbiter.memory import Memory
from arbiter.rules import parse
from arbiter.settings import Settings
from arbiter.store import Store, Writer, tidying
from arbiter.store.database import WAL_KEPT
from arbiter.store.filters import Wanted
from arbiter.store.pruned import pruned_before
from arbiter.store.retention import Keeping, Plan, asked
from arbiter.store.rows import Kept
from arbiter.store.sums import DAY
from arbiter.usage import Account, Batch, Used

DAY0 = BEGAN - BEGAN % DAY
NOW = DAY0 + 100 * DAY + 5000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "a.db") as opened:
        yield opened


def at(day: float, decision: str = "allow", reason: str = "rule", **more: Any) -> Any:
    return record(DAY0 - BEGAN + day * DAY, decision, reason, **more)


def carry_out(store: Store, plan: Plan) -> int:
    store.retention.begin()
    steps = 1
    while store.retention.step(plan, NOW):
        steps += 1
        assert steps < 10_000
    assert store.evidence.verify().broken == []
    return steps


def days(store: Store) -> list[float]:
    return [(kept.record.time - DAY0) / DAY for kept in store.records.passing(Wanted())]


def rows(store: Store, sql: str) -> list[Any]:
    return store._db.execute(sql).fetchall()


def test_old_records_go_and_their_sums_stay(store: Store) -> None:
    store.record([at(1, rule_id=3, layer=2, out_bytes=70), at(9.5), at(10), at(99)])
    before = rows(store, "SELECT * FROM all_sums") + rows(store, "SELECT * FROM daily_sums")
    carry_out(store, store.retention.plan(Keeping(days=90), NOW))
    assert days(store) == [10, 99], "whole days, 90 of them before this one"
    assert rows(store, "SELECT * FROM all_sums") + rows(store, "SELECT * FROM daily_sums") == before
    assert store.uses([3], 0.0, NOW).last == {3: DAY0 + DAY}
    (group,) = store.records.grouped(Wanted(), {"app": ("app",)}, 9)["app"]
    assert (group.connections, group.sent, group.first) == (4, 70, DAY0 + DAY)
    assert rows(store, "SELECT time, what, before, count, why FROM pruned") == [
        (NOW, "decisions", DAY0 + 10 * DAY, 2, "age")
    ]


def test_a_span_that_begins_in_a_day_that_went_counts_that_day_whole(store: Store) -> None:
    store.record([at(1.1), at(1.6), at(2.5), at(99)])
    carry_out(store, Plan(DAY0 + 3 * DAY))
    assert pruned_before(store._db, "decisions") == DAY0 + 3 * DAY
    for since, until, count in ((1.5, None, 4), (2.2, 2.7, 1), (1.9, 2.1, 3), (None, 1.2, 2)):
        wanted = Wanted(
            None if since is None else DAY0 + since * DAY,
            None if until is None else DAY0 + until * DAY,
        )
        (group,) = store.records.grouped(wanted, {"user": ("user",)}, 9)["user"]
        assert group.connections == count, (since, until)


def test_what_is_open_or_waits_for_a_review_stays(store: Store) -> None:
    store.record([
        at(1, state="open"), at(2, reason="observe"), at(3, reason="observe"),
        at(4, reason="observe", daddr="198.51.100.9"), at(5, "deny", "deadline"), at(6), at(99),
    ])  # fmt: skip
    carry_out(store, store.retention.plan(Keeping(days=30), NOW))
    assert days(store) == [1, 3, 4, 5, 99], "the last of each kind, and what is open"
    carry_out(store, store.retention.plan(Keeping(days=30, sums_days=50), NOW))
    assert days(store) == [1, 99], "as long as the sums of their day are kept"
    assert rows(store, "SELECT day FROM daily_sums") == [("2027-02-25",)]


def test_a_plan_that_goes_less_far_than_one_that_was_cut_short_is_no_break(store: Store) -> None:
    """As where Ctrl-C ends `audit prune`, and the daemon then deletes what its settings say."""
    store.record([at(n / 10) for n in range(900)])
    store.retention.begin()
    store.retention.step(asked(DAY0 + 80 * DAY, NOW), NOW)
    assert 0 < len(days(store)) < 900
    carry_out(store, store.retention.plan(Keeping(days=60), NOW))
    store.evidence.checkpoint("day", NOW)
    assert days(store)[0] == 40
    carry_out(store, asked(DAY0 + 80 * DAY, NOW))
    assert days(store)[0] == 80


@settings(max_examples=examples(30), deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 100), st.sampled_from([1, 2, 99]), st.booleans()),
        min_size=2,
        max_size=6,
    )
)
def test_plans_that_are_cut_short_anywhere_leave_a_chain_that_holds(
    tmp_path_factory: pytest.TempPathFactory, plans: list[tuple[int, int, bool]]
) -> None:
    with Store.open(tmp_path_factory.mktemp("cut") / "a.db") as store:
        store.record([at(n / 6, state="open" if n % 70 == 0 else "closed") for n in range(600)])
        for day, steps, more in plans:
            store.retention.begin()
            plan = asked(DAY0 + day * DAY, NOW, ("records", "sums"))
            for _ in range(steps):
                if not store.retention.step(plan, NOW):
                    break
            if more:
                store.record([at(100)])
                store.evidence.checkpoint("day", NOW)
            assert store.evidence.verify().broken == []


def test_the_last_id_is_never_given_twice(store: Store) -> None:
    store.record([at(1), at(2), at(3)])
    carry_out(store, Plan(DAY0 + 50 * DAY))
    assert [kept.id for kept in store.records.passing(Wanted())] == [3]
    store.record([at(99)])
    assert store.lives.begin(NOW) == 5


def test_old_runs_gaps_and_sums_go_and_rules_stay(store: Store) -> None:
    store.lives.begin(DAY0)
    store.lives.end(DAY0 + 5)
    store.lives.begin(NOW)
    store.lives.gap(DAY0, DAY0 + 3, 1, "old")
    store.lives.gap(DAY0, NOW, 1, "to now")
    store.remember(parse("allow port=1 for=1m"), by="a", created=DAY0)
    store.sweep(NOW, "", "")
    store.add_usage(Batch((Used(Account("/a", "u", "", ""), "2001-01-01", 1, 1, 1, 1, 1),)))
    store.record([at(1), at(60), at(99)])
    carry_out(store, store.retention.plan(Keeping(0, 0, 50, 0, 0), NOW))
    assert days(store) == [1, 60, 99], "0 keeps records for ever"
    assert rows(store, "SELECT started FROM runs") == [(NOW,)]
    assert rows(store, "SELECT why FROM gaps") == [("to now",)]
    assert rows(store, "SELECT sum(connections) FROM daily") == [(2,)]
    assert rows(store, "SELECT sum(connections) FROM totals") == [(3,)]
    for table, count in (("rules", 1), ("rule_changes", 2), ("usage", 1)):
        assert rows(store, f"SELECT count(*) FROM {table}") == [(count,)]


def test_a_large_database_loses_its_oldest_days_and_gives_room_back(store: Store) -> None:
    for day in range(40):
        store.record([at(day + 50 + n / 200, "deny", "observe", dport=n) for n in range(120)])
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    large = store.path.stat().st_size
    limit = Keeping(days=90, megabytes=1)
    assert store.retention.size() > 2_000_000
    turns = 0
    while (plan := store.retention.plan(limit, NOW)).why == "size":
        carry_out(store, plan)
        turns += 1
    assert turns > 2
    assert store.retention.size() <= 1_000_000
    assert min(days(store)) > 51
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert store.path.stat().st_size < large * 0.85
    assert rows(store, "SELECT DISTINCT why FROM pruned") == [("size",)]


def test_what_cannot_go_by_size_ends_the_work(tmp_path: Path) -> None:
    with Store.open(tmp_path / "b.db") as store:
        store.record([at(1)])
    writer = Writer(tmp_path / "b.db")
    writer.close()
    tidy = tidying.Tidying(Keeping(megabytes=0, days=1))
    tidy._keeping = Keeping(days=0, megabytes=1)
    with Store.open(tmp_path / "b.db") as store:
        store._db.execute("CREATE TABLE large (a)")
        store._db.execute("INSERT INTO large VALUES (zeroblob(2000000))")
        for _ in range(3):
            tidy.step(store)
        assert tidy.due > time.monotonic() + 60, "it does not try without end"
        assert days(store) == [1]


@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["open", "closed", ""]),
             st.sampled_from(["rule", "observe"]), st.sampled_from([1, 2])), max_size=20),
    st.integers(0, 21),
)  # fmt: skip
def test_only_what_is_old_goes_and_no_sum_changes(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[int, str, str, int]], cut: int
) -> None:
    with Store.open(tmp_path_factory.mktemp("r") / "a.db") as store:
        store.record(
            [
                at(day, "allow", why, state=state, dport=port)
                for day, state, why, port in sorted(made)
            ]
        )
        sums = rows(store, "SELECT * FROM all_sums ORDER BY 1, 7, 9")
        old = {kept.id: kept for kept in store.records.passing(Wanted())}
        plan = asked(DAY0 + cut * DAY + 77, NOW)
        told = store.retention.count(plan)["decisions"]
        carry_out(store, plan)
        left = {kept.id: kept for kept in store.records.passing(Wanted())}
        assert rows(store, "SELECT * FROM all_sums ORDER BY 1, 7, 9") == sums
        gone = [old[id] for id in old.keys() - left.keys()]
        assert all(kept.record.time < DAY0 + cut * DAY for kept in gone)
        assert not [kept for kept in gone if kept.record.state == "open"]
        assert len(gone) <= told <= len(gone) + 1, "the last record stays, whatever its age"
        undecided = {(k.record.dport) for k in old.values() if k.record.reason == "observe"}
        assert undecided == {
            (k.record.dport) for k in left.values() if k.record.reason == "observe"
        }


def test_the_writer_tidies_while_a_person_need_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    now = time.time()
    with Store.open(path) as store:
        old = [
            Kept(n, record(now - 200 * DAY - BEGAN, "allow", "rule", dport=n % 50))
            for n in range(1, 20_001)
        ]
        store.record([*old, Kept(20_001, record(now - BEGAN))])
    monkeypatch.setattr(tidying, "FIRST", 0.0)
    writer = Writer(path, keeping=Keeping(days=90))
    waits = []
    try:
        with sqlite3.connect(path) as reader:
            for _ in range(200):
                started = time.monotonic()
                writer.last_change().result(timeout=10)
                waits.append(time.monotonic() - started)
                (left,) = reader.execute("SELECT count(*) FROM decisions").fetchone()
                if left == 1:
                    break
                time.sleep(0.1)
        assert left == 1
        assert sorted(waits)[len(waits) // 2] < 0.1
        writer.record(record(now - BEGAN))
        assert writer.problems() == ()
    finally:
        writer.close()
        reader.close()
    with Store.open(path) as store:
        assert rows(store, "SELECT count(*) FROM decisions") == [(2,)]
        assert rows(store, "SELECT sum(connections) FROM totals") == [(20_002,)]


def test_a_log_that_cannot_be_emptied_is_told_and_is_emptied_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    log = path.with_name("a.db-wal")
    monkeypatch.setattr("arbiter.store.database.WAL_TOLD", WAL_KEPT + 1_000_000)
    writer = Writer(path)
    reader = sqlite3.connect(path, isolation_level=None)
    try:
        _write(writer, 1)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM decisions").fetchone()
        _write(writer, 8000)
        size = log.stat().st_size
        assert size > WAL_KEPT + 1_000_000
        (told,) = writer.problems()
        assert f"the write-ahead log grows: {log} has {size >> 20} MB" in told
        reader.execute("COMMIT")
        _write(writer, 600)
        _write(writer, 600)
        assert log.stat().st_size <= WAL_KEPT + 1_000_000
        assert writer.problems() == ()
    finally:
        reader.close()
        writer.close()


def _write(writer: Writer, count: int) -> None:
    for n in range(count):
        writer.record(record(n, dport=n))
    end = time.monotonic() + 20
    while writer._records or writer._in_flight or (writer._due is not None):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_daemon_keeps_records_as_long_as_its_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(tidying, "FIRST", 0.0)

    async def left(settings: Settings) -> int:
        path = tmp_path / f"{settings.audit.keep_days}.db"
        with Store.open(path) as store:
            store.record(record(now - age * DAY - BEGAN, "deny", "rule") for age in (20, 10, 0))
        memory = Memory(path, lambda event: None, settings)
        await asyncio.sleep(0.5)
        await memory.close()
        with Store.open(path) as store:
            (count,) = store._db.execute("SELECT count(*) FROM decisions").fetchone()
            return int(count)

    for days, count in ((0, 3), (15, 2), (5, 1)):
        assert asyncio.run(left(Settings(audit=Audit(keep_days=days)))) == count
