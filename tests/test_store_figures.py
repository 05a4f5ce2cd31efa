"""The figures of a report: what they cost, and what they are where records were deleted."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from auditscene import BEGAN, record
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from arbiter.records import Record, json_list
from arbiter.store import Store
from arbiter.store.figures import Figures, figures
from arbiter.store.filters import Wanted
from arbiter.store.retention import Plan
from arbiter.store.sums import DAY

STEP = 1000
"""Instructions of SQLite's machine between two calls."""


def steps(path: Path, older: int) -> int:
    """How many STEPs a report of 50 new destinations takes after so many older records."""
    with Store.open(path) as store:
        store.record([record(i / older, daddr="192.0.2.1") for i in range(older)])
        store.record([record(100 + i, daddr=f"198.51.100.{i}") for i in range(50)])
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1

    with closing(sqlite3.connect(path)) as db:
        db.set_progress_handler(tick, STEP)
        found = figures(db, BEGAN + 50, BEGAN + 1000, 100, lambda *_: "")
    assert len(found.new) == 50
    return count


def test_new_destinations_are_found_without_reading_all_that_was_before(tmp_path: Path) -> None:
    assert steps(tmp_path / "many.db", 2000) < 2 * steps(tmp_path / "few.db", 20) + 20


# --- where only sums are left ---------------------------------------------------------------

DAY0 = BEGAN - BEGAN % DAY
MOMENTS = st.integers(0, 40).map(lambda n: n * DAY / 8)
RECORDS = st.builds(
    lambda at, decision, more: record(DAY0 - BEGAN + at, decision, **more),
    MOMENTS,
    st.sampled_from(["allow", "deny", "route via=lte"]),
    st.fixed_dictionaries(
        {
            "reason": st.sampled_from(["rule", "answer", "deadline", "observe"]),
            "app": st.sampled_from(["/a", "/b", ""]),
            "exe": st.sampled_from(["/a", "/b"]),
            "daddr": st.sampled_from(["192.0.2.1", "2001:db8::1"]),
            "names": st.sampled_from([json_list(["a.example"]), "[]"]),
            "by": st.sampled_from(["alice", "bob"]),
            "waited": st.sampled_from([0.0, 2.5]),
            "out_bytes": st.none() | st.integers(0, 99),
            "state": st.sampled_from(["open", "closed"]),
        }
    ),
)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local days are those of UTC, as those of the sums always are."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def told(store: Store, since: float, until: float) -> Figures:
    return store.records.figures(since, until, 1000, lambda *words: str(words))


def delete(store: Store, before: float) -> None:
    store.retention.begin()
    while store.retention.step(Plan(before), DAY0 + 99 * DAY):
        pass


_NUMBER = iter(range(10**6))


@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(RECORDS, max_size=25), st.integers(1, 6), MOMENTS, MOMENTS)
def test_what_was_deleted_is_reported_as_the_sums_have_it(
    tmp_path: Path, records: list[Record], days: int, one: float, other: float
) -> None:
    since, until = DAY0 + min(one, other), DAY0 + max(one, other) + 1
    kept = DAY0 + days * DAY
    with Store.open(tmp_path / f"{next(_NUMBER)}.db") as store:
        store.record(records)
        begin = since - since % DAY if since < kept else since
        end = until if until >= kept else until - until % DAY + (DAY if until % DAY else 0)
        whole = told(store, begin, end)
        delete(store, kept)
        left = told(store, since, until)
        (sums,) = store.records.grouped(Wanted(since, until), {"d": ("decision",)}, 99).values()
        deleted = store.records.pruned_before() == kept
    assert left.summed == (kept if deleted and since < kept else None)
    if left.summed is None:
        return
    assert structs.replace(left, summed=None) == structs.replace(whole, summed=None)
    assert left.totals.connections == sum(group.connections for group in sums)
    assert left.totals.denied == sum(group.denied for group in sums)


def test_a_program_is_not_new_whose_records_were_deleted(tmp_path: Path) -> None:
    def at(day: float, **more: Any) -> Record:
        return record(DAY0 - BEGAN + day * DAY, **more)

    with Store.open(tmp_path / "a.db") as store:
        store.record([at(1, app="/a"), at(5, app="/a", daddr="192.0.2.9"), at(6, app="/b")])
        delete(store, DAY0 + 3 * DAY)
        found = told(store, DAY0 + 4 * DAY, DAY0 + 9 * DAY)
    assert found.recorded == DAY0 + DAY
    assert [(one.app, one.new_app) for one in found.new] == [("/b", True), ("/a", False)]
