"""What filters of the audit find, and that an index serves each of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from auditscene import BEGAN, DAY, record, store_day
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from arbiter.records import json_list
from arbiter.store import Store, audit, rows
from arbiter.store.audit import INDEXES
from arbiter.store.filters import Filter, Wanted, distinct


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(store_day(tmp_path / "a.db")) as opened:
        yield opened


def ids(store: Store, wanted: Wanted) -> list[int]:
    found = [kept.id for kept in store.records.passing(wanted)]
    assert [kept.id for kept in store.records.latest(wanted, 100)] == found
    assert [kept.id for kept in store.records.after(wanted, 0)] == sorted(found)
    return found


def test_without_a_filter_all_are_found_in_the_order_of_time(store: Store) -> None:
    store.record([record(-5.0), record(60.0)])  # told late; and at the same moment as another
    assert ids(store, Wanted()) == [7, 1, 2, 8, 3, 4, 5, 6]
    assert [kept.record for kept in store.records.passing(Wanted())][1] == DAY[0]


def test_times_are_from_the_first_to_before_the_last(store: Store) -> None:
    assert ids(store, Wanted(since=BEGAN + 60, until=BEGAN + 180)) == [2, 3]
    assert ids(store, Wanted(until=BEGAN)) == []


def test_all_filters_must_let_a_record_through(store: Store) -> None:
    deny = Filter("decision", ("deny",))
    assert ids(store, Wanted(filters=(deny,))) == [2, 4, 5, 6]
    assert ids(store, Wanted(filters=(deny, Filter("app", ("",))))) == [5, 6]
    high = Filter("dport", test=lambda port: port > 200)
    assert ids(store, Wanted(filters=(deny, high))) == [2]
    assert ids(store, Wanted(since=BEGAN + 61, filters=(deny, high))) == []
    nothing = Filter("app", test=lambda app: False)
    assert ids(store, Wanted(filters=(deny, nothing))) == []


def test_what_has_no_value_passes_no_filter_about_it(store: Store) -> None:
    assert ids(store, Wanted(filters=(Filter("rule_id", test=lambda number: number > 0),))) == [2]


def test_the_newest_so_many_are_the_newest(store: Store) -> None:
    deny = Wanted(filters=(Filter("decision", ("deny",)),))
    assert [kept.id for kept in store.records.latest(deny, 2)] == [5, 6]


def test_values_that_are_read_side_by_side_come_in_the_order_of_time(store: Store) -> None:
    two = Wanted(filters=(Filter("decision", ("allow", "deny")),))
    store.record([record(500), record(600, "deny"), record(700)])
    assert [kept.id for kept in store.records.latest(two, 3)] == [7, 8, 9]
    assert ids(store, two) == [1, 2, 4, 5, 6, 7, 8, 9]


def test_what_comes_after_is_in_the_order_in_which_it_was_written(store: Store) -> None:
    store.record([record(-5.0), record(-9.0, "deny")])
    assert [kept.id for kept in store.records.after(Wanted(), 5)] == [6, 7, 8]
    deny = Wanted(filters=(Filter("decision", ("deny",)),))
    assert [kept.id for kept in store.records.after(deny, 5)] == [6, 8]


def test_bytes_that_are_no_text_are_found_as_they_are_stored(store: Store) -> None:
    odd = "/tmp/\udcff\\"
    store.record([record(400, app=odd)])
    assert ids(store, Wanted(filters=(Filter("app", (odd,)),))) == [7]


def test_each_value_of_a_column_is_told_once(store: Store) -> None:
    assert list(distinct(store._db, "decision")) == ["allow", "deny", "route via=lte"]
    assert list(distinct(store._db, "rule_id")) == [-4, 3]
    store._db.execute("DELETE FROM decisions")
    assert list(distinct(store._db, "dport"))[:3] == [0, 123, 443], "also what was pruned"


# --- any filters, any records ---------------------------------------------------------------

POOL: dict[str, tuple[Any, ...]] = {
    "app": ("", "/a", "/b", "/c"),
    "user": ("alice", "bob"),
    "decision": ("allow", "deny"),
    "dport": (0, 53, 80, 443),
    "rule_id": (None, 1, 2, -1),
    "names": ("[]", json_list(["a.example"]), json_list(["b.example", "a.example"])),
}
RECORDS = st.lists(
    st.builds(
        lambda at, fields: record(at, **fields),
        st.integers(0, 5),
        st.fixed_dictionaries({name: st.sampled_from(POOL[name]) for name in POOL}),
    ),
    max_size=30,
)
FILTERS = st.lists(
    st.one_of(
        *(
            st.tuples(st.just(name), st.sets(st.sampled_from([v for v in values if v is not None])))
            for name, values in POOL.items()
        )
    ),
    max_size=3,
)  # fmt: skip


@settings(max_examples=examples(150), deadline=None)
@given(
    RECORDS, FILTERS, st.none() | st.integers(0, 5), st.none() | st.integers(0, 5),
    st.booleans(), st.sampled_from([1, 3, 50_000]), st.sampled_from([1, 200]),
)  # fmt: skip
def test_filters_find_what_a_plain_look_at_each_record_finds(
    records: list[Any], filters: list[tuple[str, set[Any]]], since: int | None, until: int | None,
    by_test: bool, counted: int, merged: int,
) -> None:  # fmt: skip
    def made(name: str, values: set[Any]) -> Filter:
        if by_test:
            test: Callable[[Any], bool] = values.__contains__
            return Filter(name, test=test)
        return Filter(name, tuple(values))

    wanted = Wanted(
        None if since is None else BEGAN + since,
        None if until is None else BEGAN + until,
        tuple(made(name, values) for name, values in filters),
    )
    plain = [
        id
        for id, one in enumerate(records, 1)
        if (since is None or one.time >= BEGAN + since)
        and (until is None or one.time < BEGAN + until)
        and all(getattr(one, name) in values for name, values in filters)
    ]
    with pytest.MonkeyPatch.context() as patch, Store.open(memory()) as store:
        patch.setattr(audit, "COUNTED", counted)
        patch.setattr(audit, "MERGED", merged)
        store._db.execute("DELETE FROM decisions")
        store._db.execute("BEGIN")
        unchained = ((*rows.record_row(record), None) for record in records)
        store._db.executemany(rows.INSERT_RECORD, unchained)
        in_time = sorted(plain, key=lambda id: (records[id - 1].time, id))
        assert ids(store, wanted) == in_time
        store._db.execute("ROLLBACK")


_MADE: list[Path] = []


def memory() -> Path:
    return _MADE[0]


@pytest.fixture(autouse=True, scope="module")
def one_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    _MADE.append(tmp_path_factory.mktemp("audit") / "any.db")
    yield
    _MADE.clear()


# --- the plans of SQLite --------------------------------------------------------------------


def plans(store: Store, wanted: Wanted) -> list[str]:
    """How SQLite goes about each statement that a look for records makes. The first value of an
    index is no scan of it: that statement has LIMIT 1."""
    said: list[str] = []
    store._db.set_trace_callback(said.append)
    list(store.records.passing(wanted))
    store.records.latest(wanted, 10)
    store.records.after(wanted, 3)
    store._db.set_trace_callback(None)
    assert said
    return [
        row[3]
        for sql in dict.fromkeys(said)
        for row in store._db.execute(f"EXPLAIN QUERY PLAN {sql}")
        if not ("LIMIT 1" in sql and row[3].startswith("SCAN decisions USING COVERING INDEX"))
    ]


@pytest.mark.parametrize("column", [*INDEXES, "names"])
@pytest.mark.parametrize("by_test", [False, True], ids=["values", "pattern"])
def test_an_index_serves_every_filter(store: Store, column: str, by_test: bool) -> None:
    value = getattr(DAY[1], "by" if column == "by_user" else column)
    values = None if by_test else (value,)
    wanted = Wanted(filters=(Filter(column, values, (lambda v: v == value) if by_test else None),))
    found = plans(store, wanted)
    read = [plan for plan in found if "decisions" in plan]
    assert read
    assert all("SEARCH" in plan and ("INDEX" in plan or "PRIMARY KEY" in plan) for plan in read)
    assert not [plan for plan in found if "TEMP B-TREE FOR ORDER BY" in plan]


def test_an_index_serves_times_and_gives_the_order(store: Store) -> None:
    found = plans(store, Wanted(since=BEGAN, until=BEGAN + 100))
    assert all("SEARCH" in plan for plan in found if "decisions" in plan)
    found += plans(store, Wanted())
    assert not [plan for plan in found if "TEMP B-TREE" in plan]


def test_reading_is_not_in_the_way_of_writing(store: Store, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "a.db", timeout=0, isolation_level=None)
    reading = store.records.passing(Wanted())
    next(reading)
    other.execute("DELETE FROM decisions WHERE id = 6")
    assert [kept.id for kept in reading] == [2, 3, 4, 5, 6], "as it was when the look began"
    other.close()
