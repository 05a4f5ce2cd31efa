"""The sums that triggers keep: what a plain look at all records finds, after pruning, too."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from auditscene import BEGAN, record
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from arbiter.records import Progress, Record, State, json_list
from arbiter.store import Store, migrate, rows
from arbiter.store.filters import Filter, Wanted
from arbiter.store.rows import Kept
from arbiter.store.sums import DAY, Group

DATABASES = Path(__file__).parents[1] / "fixtures" / "databases"
DAY0 = BEGAN - BEGAN % DAY
"""A day begins, in UTC."""
POOL: dict[str, tuple[Any, ...]] = {
    "app": ("", "/a", "/b"),
    "exe": ("", "/a", "/a-new"),
    "user": ("alice", "bob"),
    "uid": (None, 1000, 1001),
    "reason": ("rule", "answer", "observe"),
    "daddr": ("203.0.113.1", "2001:db8::7"),
    "dport": (0, 443),
    "rule_id": (None, 1, -1),
    "layer": (None, 1, 2),
    "by": ("", "alice"),
    "frontend": ("", "tui"),
    "link": ("", "lte"),
    "names": ("[]", json_list(["a.example"])),
    "count": (1, 3),
    "waited": (0.0, 2.5),
    "out_bytes": (None, 0, 700),
    "in_bytes": (None, 9),
}
RECORDS = st.lists(
    st.builds(
        lambda at, deny, fields: record(
            DAY0 - BEGAN + at, "deny" if deny else "allow", fields.pop("reason"), **fields
        ),
        st.integers(0, 8).map(lambda n: n * DAY / 2 - 1),
        st.booleans(),
        st.fixed_dictionaries({name: st.sampled_from(POOL[name]) for name in POOL}),
    ),
    max_size=25,
)
PROGRESS = st.lists(
    st.builds(
        Progress,
        st.integers(1, 25),
        st.sampled_from(list(State)),
        out_bytes=st.none() | st.integers(0, 10**6),
        in_bytes=st.none() | st.integers(0, 10**6),
    ),
    max_size=12,
)
PAIR = (
    "app, exe, user, uid, decision, reason, rule_id, layer, by_user, frontend, link,"
    " daddr, dport, proto, names"
)
BYTES = "total(ifnull(max(out_bytes, 0), 0)), total(ifnull(max(in_bytes, 0), 0))"
SUMS = f"count(*), total(count), min(time), max(time), {BYTES}, round(total(waited), 6)"
KEPT = "connections, packets, first, last, sent, received, round(waited, 6)"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sums") / "a.db"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "a.db") as opened:
        yield opened


def fill(store: Store, records: list[Record], progress: list[Progress]) -> None:
    for table in ("decisions", "daily", "totals", "pruned", "outcomes", "destinations"):
        store._db.execute(f"DELETE FROM {table}")
    store._db.execute("UPDATE chains SET first = 1, last = 0, hash = NULL, count = 0")
    store.record([Kept(id, one) for id, one in enumerate(records, 1)])
    store.lives.complete(progress)


@settings(max_examples=examples(60), deadline=None)
@given(RECORDS, PROGRESS)
def test_sums_are_what_the_records_add_up_to(
    path: Path, records: list[Record], progress: list[Progress]
) -> None:
    with Store.open(path) as store:
        fill(store, records, progress)
        ask = store._db.execute
        assert set(ask(f"SELECT {PAIR}, {KEPT} FROM all_sums")) == set(
            ask(f"SELECT {PAIR}, {SUMS} FROM decisions GROUP BY {PAIR}")
        )
        day = "date(time, 'unixepoch')"
        assert set(ask(f"SELECT day, {PAIR}, {KEPT} FROM daily_sums")) == set(
            ask(f"SELECT {day}, {PAIR}, {SUMS} FROM decisions GROUP BY {day}, {PAIR}")
        )
        for table in ("all_sums", "daily_sums"):
            (added,) = ask(f"SELECT total(connections) FROM {table}").fetchone()
            assert added == len(records), "each record in one row"
        for table in ("outcomes", "destinations"):
            columns = [row[1] for row in ask(f"PRAGMA table_info({table})")][1:]
            same = ask(f"SELECT 1 FROM {table} GROUP BY {', '.join(columns)} HAVING count(*) > 1")
            assert same.fetchall() == [], "each once"


def plain(
    records: list[Record], progress: list[Progress], wanted: Wanted, columns: tuple[str, ...]
) -> dict[tuple[Any, ...], Group]:
    """By a look at each record."""
    sent = {id: [one.out_bytes, one.in_bytes] for id, one in enumerate(records, 1)}
    for step in progress:
        for place, value in enumerate((step.out_bytes, step.in_bytes)):
            if value is not None and step.id in sent:
                sent[step.id][place] = value
    found: dict[tuple[Any, ...], Group] = {}
    for id, one in enumerate(records, 1):
        if wanted.since is not None and one.time < wanted.since:
            continue
        if wanted.until is not None and one.time >= wanted.until:
            continue
        if wanted.uid is not None and one.uid != wanted.uid:
            continue
        if any(getattr(one, f.column) not in (f.values or ()) for f in wanted.filters):
            continue
        values = tuple(getattr(one, "by" if c == "by_user" else c) for c in columns)
        old = found.get(values, Group(values, 0, 0, 0, 0, one.time, one.time, one.names))
        found[values] = Group(
            values,
            old.connections + 1,
            old.denied + (one.decision == "deny"),
            old.sent + (sent[id][0] or 0),
            old.received + (sent[id][1] or 0),
            min(old.first, one.time),
            max(old.last, one.time),
            min(old.names, one.names) if "daddr" in columns else "[]",
        )
    return found


BY = {
    "decision": ("decision",),
    "rule": ("rule_id", "by_user"),
    "destination": ("daddr", "dport", "proto"),
    "both": ("app", "daddr", "dport", "proto"),
}
MOMENTS = st.none() | st.integers(-1, 9).map(lambda n: DAY0 + n * DAY / 2 - 1)
FILTERS = st.lists(
    st.one_of(
        *(
            st.builds(
                lambda name, values: Filter(name, tuple(values)),
                st.just(name),
                st.sets(st.sampled_from(POOL[name])),
            )
            for name in ("app", "user", "reason", "daddr", "dport", "names")
        )
    ),
    max_size=2,
)


@settings(max_examples=examples(60), deadline=None)
@given(RECORDS, PROGRESS, MOMENTS, MOMENTS, FILTERS, st.none() | st.sampled_from([1000, 1001]))
def test_groups_of_any_span_are_what_a_look_at_each_record_finds(
    path: Path, records: list[Record], progress: list[Progress], since: float | None,
    until: float | None, filters: list[Filter], uid: int | None,
) -> None:  # fmt: skip
    wanted = Wanted(since, until, tuple(filters), uid)
    with Store.open(path) as store:
        fill(store, records, progress)
        found = store.records.grouped(wanted, BY, 100)
        for name, columns in BY.items():
            groups = {group.values: group for group in found[name]}
            assert groups == plain(records, progress, wanted, columns), name
            counts = [group.connections for group in found[name]]
            assert counts == sorted(counts, reverse=True)
        if since is not None:
            everything = plain(records, progress, Wanted(), BY["both"])
            new = {g.values: g for g in store.records.new(since, BY["both"], 100)}
            assert new == {k: g for k, g in everything.items() if g.first >= since}


def test_what_was_counted_twice_or_taken_back_is_counted_once(store: Store) -> None:
    store.record([record(0, out_bytes=5, in_bytes=7), record(1)])
    for sent in (100, 100, 60):
        store.lives.complete([Progress(1, State.OPEN, out_bytes=sent)])
    found = store._db.execute("SELECT sum(sent), sum(received) FROM all_sums").fetchall()
    assert found == [(60, 7)]


def test_a_sum_stays_at_the_largest_number_there_is(store: Store) -> None:
    most = (1 << 63) - 1
    store.record([record(0, out_bytes=most, count=most), record(1, out_bytes=most, count=most)])
    store.lives.complete([Progress(2, State.OPEN, out_bytes=most, in_bytes=most)])
    store.record([record(1e300, in_bytes=most), record(-1e300, in_bytes=-5)])
    for table in ("daily", "totals"):
        (sent, packets) = store._db.execute(
            f"SELECT max(sent), max(packets) FROM {table}"
        ).fetchone()
        assert (sent, packets) == (most, most)


def test_a_command_that_reads_sums_reads_no_records(store: Store) -> None:
    store.record([record(0), record(60, "deny")])
    said: list[str] = []
    store._db.set_trace_callback(said.append)
    store.records.grouped(Wanted(), BY, 10)
    store.records.new(BEGAN, ("app",), 10)
    store.records.apps()
    store.uses([3], 0.0, BEGAN)
    store._db.set_trace_callback(None)
    plans = [row[3] for sql in said for row in _plan(store._db, sql)]
    assert plans
    assert not [plan for plan in plans if "decisions" in plan]


def _plan(db: sqlite3.Connection, sql: str) -> list[Any]:
    if not sql.startswith(("SELECT", "WITH")) or "temp." in sql:
        return []
    return db.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()


@pytest.mark.parametrize(
    "view",
    [
        "top_apps",
        "top_destinations",
        "denied",
        "new_destinations",
        "changed_executables",
        "answers",
    ],
)
def test_the_views_read_no_records(store: Store, view: str) -> None:
    plans = [row[3] for row in store._db.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {view}")]
    assert plans
    assert not [plan for plan in plans if "decisions" in plan]


def test_an_older_database_gets_its_sums_from_the_records_it_has(tmp_path: Path) -> None:
    """As what triggers would have added up; and they go on from there."""
    path = tmp_path / "old.db"
    old = sqlite3.connect(path)
    old.executescript((DATABASES / "schema-6.sql").read_text())
    old.execute(f"PRAGMA application_id = {migrate.APPLICATION_ID}")
    old.execute("PRAGMA user_version = 6")
    records = [
        record(0, rule_id=3, layer=2, out_bytes=7),
        record(1, rule_id=3, layer=2, in_bytes=9),
        record(DAY, names=json_list(["a.example"]), count=3, waited=2.5),
        record(2, "deny", "deadline", exe="", app=""),
    ]
    columns = rows.RECORD_COLUMNS
    old.executemany(
        f"INSERT INTO decisions ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
        [rows.record_row(one)[1 : 1 + len(columns)] for one in records],
    )
    old.commit()
    old.close()
    with Store.open(path) as upgraded, Store.open(tmp_path / "new.db") as new:
        new.record(records)
        for turn in range(2):
            for view in ("all_sums", "daily_sums"):
                shown = [set(one._db.execute(f"SELECT * FROM {view}")) for one in (upgraded, new)]
                assert shown[0] == shown[1]
                assert len(shown[0]) == 3 + 2 * turn
            for one in (upgraded, new):
                one.lives.complete([Progress(1, State.CLOSED, out_bytes=100, count=2 + turn)])
                one.record([record(5), record(6, app="/another")])


def test_sums_of_seconds_that_nobody_ever_waited_stay_numbers(store: Store) -> None:
    store.record([record(at, waited=1.7e308) for at in range(4)])
    (waited,) = store._db.execute("SELECT waited FROM all_sums").fetchone()
    assert 1e200 < waited < float("inf")


@pytest.mark.parametrize("column", PAIR.replace(" ", "").split(","))
def test_what_differs_in_one_column_is_added_up_apart(store: Store, column: str) -> None:
    same: dict[str, Any] = dict.fromkeys(("app", "exe", "user", "frontend", "link", "daddr"), "x")
    same |= {"by_user": "x", "names": "[]", "proto": "tcp", "dport": 1, "rule_id": 1}
    same |= {"layer": 1, "uid": 1}
    same |= {"decision": "allow", "reason": "rule"}
    other = same | {column: 2 if isinstance(same[column], int) else "other"}
    nobody = same | {column: None} if column in ("uid", "rule_id", "layer") else other
    made = []
    for values in (same, other, nobody):
        fields = {"by" if name == "by_user" else name: v for name, v in values.items()}
        made.append(record(0, fields.pop("decision"), fields.pop("reason"), **fields))
    store.record(made)
    for id, sent in ((1, 10), (2, 200), (3, 3000)):
        store.lives.complete([Progress(id, State.OPEN, out_bytes=sent)])
    found = store._db.execute(f"SELECT {column}, sent FROM all_sums ORDER BY sent").fetchall()
    if nobody is other:
        assert found == [(same[column], 10), (other[column], 3200)]
    else:
        assert found == [(same[column], 10), (other[column], 200), (None, 3000)]


@pytest.mark.parametrize(
    ("since", "until", "count"),
    [(0.2, 0.6, 1), (0.1, 0.9, 3), (0.6, 1.4, 2), (0.5, 2.1, 4), (0.0, 1.0, 3), (1.5, 0.5, 0)],
)
def test_a_span_counts_each_record_once(
    store: Store, since: float, until: float, count: int
) -> None:
    store.record(record(DAY0 - BEGAN + day * DAY) for day in (0.1, 0.5, 0.8, 1.2, 2.0, 2.7))
    wanted = Wanted(DAY0 + since * DAY, DAY0 + until * DAY)
    found = store.records.grouped(wanted, {"user": ("user",)}, 9)["user"]
    assert sum(group.connections for group in found) == count


@pytest.mark.parametrize(
    ("since", "until", "count"),
    [(1.5, None, 1), (2.0, None, 1), (2.0, 3.0, 1), (0.5, 2.0, 0), (1.5, 2.5, 1), (2.5, None, 0)],
)
def test_what_came_as_a_day_began_is_of_that_day(
    store: Store, since: float, until: float | None, count: int
) -> None:
    store.record([record(DAY0 - BEGAN + 2 * DAY)])
    wanted = Wanted(DAY0 + since * DAY, None if until is None else DAY0 + until * DAY)
    found = store.records.grouped(wanted, {"user": ("user",)}, 9)["user"]
    assert sum(group.connections for group in found) == count
