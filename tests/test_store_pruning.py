"""Ended rules, what was used, switches of profiles and checkpoints go by age, and nothing that
counts becomes wrong: the evidence holds, rules in force are whole, months have their sums."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from auditscene import BEGAN, record
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from arbiter.rules import parse
from arbiter.store import Author, Store, StoreError, Writer, tidying
from arbiter.store.pruned import Gone, pruned
from arbiter.store.retention import Keeping, Plan, asked
from arbiter.store.sums import DAY
from arbiter.usage import Account, Batch, Used

DAY0 = BEGAN - BEGAN % DAY
NOW = DAY0 + 1000 * DAY + 5000
KEEP_RULES = Keeping(days=0, sums_days=0, rules_days=100, usage_months=0)
CUT = 900
"""The day before which rules that ended go by it."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "a.db") as opened:
        yield opened


def carry_out(store: Store, plan: Plan) -> None:
    """Step by step, and the evidence holds after each."""
    store.retention.begin()
    store.retention._rows = 1
    more, steps = True, 0
    while more:
        more = store.retention.step(plan, NOW)
        store.retention._rows = 1 + steps % 3
        assert store.evidence.verify().broken == []
        steps += 1
        assert steps < 1000


def rows(store: Store, sql: str) -> list[Any]:
    return store._db.execute(sql).fetchall()


def add(store: Store, line: str, day: float) -> int:
    made = store.remember(parse(line), by="a", created=DAY0 + day * DAY, boot="b")
    return made.entry.id


def end(store: Store, id: int, day: float) -> None:
    assert store.remove(id, "a", at=DAY0 + day * DAY)


def ids(store: Store) -> list[int]:
    return [id for (id,) in rows(store, "SELECT id FROM rules ORDER BY id")]


# --- rules ------------------------------------------------------------------------------------


def test_rules_that_ended_long_ago_go_with_their_changes_and_all_others_stay(store: Store) -> None:
    old, force, late, named = (add(store, f"allow port={n}", n) for n in range(1, 5))
    end(store, old, 10)
    end(store, late, CUT)
    end(store, named, 11)
    store.record([record(0, "allow", "rule", rule_id=named, layer=2)])
    plan = store.retention.plan(KEEP_RULES, NOW)
    assert store.retention.count(plan)["rules"] == 1
    carry_out(store, plan)
    assert ids(store) == [force, late, named]
    assert rows(store, "SELECT rule_id, change FROM rule_changes") == [
        (force, "added"), (late, "added"), (named, "added"), (late, "retired"), (named, "retired"),
    ]  # fmt: skip
    assert [(g.what, g.count) for g in pruned(store._db)][:2] == [("rules", 1), ("rule_changes", 2)]
    assert store.get(old) is None
    assert [entry.id for entry in store.rules(NOW, "b", None)] == [force]


def test_a_rule_that_is_kept_keeps_the_one_that_replaced_it(store: Store) -> None:
    first = add(store, "allow port=1", 1)
    second = add(store, "deny port=1", 2)
    end(store, second, 3)
    add(store, "allow port=9", 4)
    store.record([record(0, "allow", "rule", rule_id=first, layer=2)])
    plan = store.retention.plan(KEEP_RULES, NOW)
    carry_out(store, plan)
    assert first in ids(store) and second in ids(store)
    store._db.execute("DELETE FROM decisions")
    store._db.execute("UPDATE chains SET last = 0, hash = NULL, count = 0 WHERE name = 'decisions'")
    carry_out(store, plan)
    assert len(ids(store)) == 1


def test_the_newest_change_is_never_lost(store: Store) -> None:
    """The daemon sees by its id that something has changed."""
    end(store, add(store, "allow port=1", 1), 2)
    newest = store.last_change()
    carry_out(store, store.retention.plan(KEEP_RULES, NOW))
    assert store.last_change() == newest
    assert add(store, "allow port=2", 3) == 2
    carry_out(store, store.retention.plan(KEEP_RULES, NOW))
    assert ids(store) == [2]
    assert store.last_change() == newest + 1


def test_what_stays_of_the_changes_is_proven_and_what_is_taken_out_is_missed(store: Store) -> None:
    for n in range(1, 13):
        id = add(store, f"allow port={n}", n)
        if n % 3:
            end(store, id, n + 0.5)
    add(store, "allow port=99", 50)
    carry_out(store, store.retention.plan(KEEP_RULES, NOW))
    left = [id for (id,) in rows(store, "SELECT id FROM rule_changes")]
    assert len(left) == 5
    for id in left:
        for sql, what in (
            ("UPDATE rule_changes SET by_user = 'eve' WHERE id = ?", {"changed", "cut"}),
            ("DELETE FROM rule_changes WHERE id = ?", {"rule", "missing", "cut"}),
        ):
            copy = store.path.with_name("copy.db")
            with closing(sqlite3.connect(copy)) as other:
                store._db.backup(other)
                other.execute(sql, (id,))
                other.commit()
            with Store.open(copy, readonly=True) as changed:
                found = changed.evidence.verify().broken
            assert found and {one.what for one in found} & what, (sql, id, found)
            copy.unlink()


def test_no_checkpoint_stays_that_no_change_follows(store: Store) -> None:
    """Rules that were made one after the other and ended so: what goes lies between what stays."""
    made = [add(store, f"allow port={n}", n) for n in range(1, 21)]
    for place, id in enumerate(made):
        if id != made[9]:
            end(store, id, 30 + place)
    add(store, "allow port=99", 60)
    carry_out(store, store.retention.plan(KEEP_RULES, NOW))
    assert ids(store) == [made[9], made[-1] + 1]
    left = [id for (id,) in rows(store, "SELECT id FROM rule_changes")]
    points = [one.last for one in store.evidence.checkpoints()]
    assert points == [id - 1 for id in left]
    end(store, made[9], 61)
    add(store, "allow port=98", 62)
    carry_out(store, Plan(sums=NOW + DAY))
    assert [one.last for one in store.evidence.checkpoints()] == points, "they are needed"
    carry_out(store, store.retention.plan(KEEP_RULES, NOW))
    assert len(store.evidence.checkpoints()) == 2


def test_an_undo_never_takes_half_a_step_back(store: Store) -> None:
    gone = add(store, "allow port=1", 1)
    stays = add(store, "deny port=1", 2)
    add(store, "allow port=2", CUT + 1)
    whole = store.history()
    carry_out(store, store.retention.plan(KEEP_RULES, NOW))
    assert ids(store)[0] == stays != gone
    with pytest.raises(StoreError, match=r"are deleted by now \(audit.keep_rules_days\)"):
        store.undo(store.history()[0].id, NOW, "b", by="a")
    assert [step.whole for step in store.history()] == [False, True]
    store.undo(None, NOW, "b", by="a")
    assert [entry.id for entry in store.rules(NOW, "b", None)] == [stays]
    with pytest.raises(StoreError, match="there is nothing to undo"):
        store.undo(None, NOW, "b", by="a")
    assert len(whole) == 3


@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "end", "undo", "name", "prune"]),
            st.integers(1, 4),
            st.booleans(),
        ),
        max_size=25,
    )
)
def test_whatever_is_pruned_when_the_evidence_holds_and_rules_in_force_are_whole(
    tmp_path_factory: pytest.TempPathFactory, doing: list[tuple[str, int, bool]]
) -> None:
    with Store.open(tmp_path_factory.mktemp("p") / "a.db") as store:
        day = 0.0
        for what, port, allow in doing:
            day += 1
            force = store.rules(DAY0 + day * DAY, "b", None)
            if what == "add":
                add(store, f"{'allow' if allow else 'deny'} port={port}", day)
            elif what == "end" and force:
                end(store, force[port % len(force)].id, day)
            elif what == "undo":
                try:
                    store.undo(None, DAY0 + day * DAY, "b", by="a")
                except StoreError:
                    assert not any(s.by_hand and s.whole for s in store.history()) or force == (
                        store.rules(DAY0 + day * DAY, "b", None)
                    )
            elif what == "name" and force:
                store.record([record(day, "allow", "rule", rule_id=force[0].id, layer=2)])
            elif what == "prune":
                named = {id for (id,) in rows(store, "SELECT rule_id FROM decisions")}
                there = set(ids(store))
                carry_out(store, Plan(rules=DAY0 + (day - port) * DAY))
                after = set(ids(store))
                assert {e.id for e in force} | (named & there) <= after
                ended = rows(
                    store, f"SELECT id FROM rules WHERE retired < {DAY0 + (day - port) * DAY}"
                )
                newest = rows(store, "SELECT rule_id FROM rule_changes ORDER BY id DESC LIMIT 1")
                free = {id for (id,) in ended} - named - {id for (id,) in newest}
                replaced = {id for (id,) in rows(store, "SELECT replaced_by FROM rules")}
                assert free <= replaced, "what nothing needs goes"
                assert store.rules(DAY0 + day * DAY, "b", None) == force
        assert store.evidence.verify().broken == []


# --- what was used ----------------------------------------------------------------------------


def used(day: str, size: int, app: str = "/a") -> Used:
    return Used(Account(app, "u", "lte", ""), day, size, 2 * size, 1, 2, 3)


def months(store: Store) -> list[Any]:
    return rows(store, "SELECT month, sent, received, connections FROM usage_by_month ORDER BY 1")


def local(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_old_days_are_added_up_into_their_months(store: Store) -> None:
    for day in ("2026-01-01", "2026-01-02", "2026-01-31", "2026-02-03", "2026-06-30", "2026-07-01"):
        store.add_usage(Batch((used(day, 10), used(day, 5, "/b"))))
    before = months(store), rows(store, "SELECT app, sent, received FROM top_apps")
    now = local("2026-07-20T12:00")
    carry_out(store, store.retention.plan(Keeping(0, 0, 1, 0, 0), now))
    assert (months(store), rows(store, "SELECT app, sent, received FROM top_apps")) == before
    assert rows(store, "SELECT day, app, out_bytes FROM usage") == [
        ("2026-01-01", "/a", 30), ("2026-01-01", "/b", 15),
        ("2026-02-01", "/a", 10), ("2026-02-01", "/b", 5),
        ("2026-06-30", "/a", 10), ("2026-06-30", "/b", 5),
        ("2026-07-01", "/a", 10), ("2026-07-01", "/b", 5),
    ]  # fmt: skip
    assert pruned(store._db) == [Gone("usage_days", local("2026-06-01"), 6)]


def test_old_months_are_deleted_and_never_this_one_nor_the_one_before(store: Store) -> None:
    for month in range(1, 8):
        store.add_usage(Batch((used(f"2026-0{month}-09", 10),)))
    now = local("2026-07-20T12:00")
    carry_out(store, store.retention.plan(Keeping(0, 0, 0, 0, 3), now))
    assert [row[0] for row in months(store)] == ["2026-04", "2026-05", "2026-06", "2026-07"]
    carry_out(store, asked(now, now, ("usage",)))
    assert [row[0] for row in months(store)] == ["2026-06", "2026-07"]
    assert pruned(store._db) == [Gone("usage", local("2026-06-01"), 5)]


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.tuples(st.dates(date(2025, 1, 1), date(2026, 7, 20)), st.integers(0, 1 << 62),
             st.sampled_from(["/a", "/b", "\udcff"])), max_size=20),
    st.integers(1, 600), st.integers(0, 20),
)  # fmt: skip
def test_every_month_that_is_left_has_the_sums_it_had(
    tmp_path_factory: pytest.TempPathFactory,
    made: list[tuple[date, int, str]],
    days: int,
    keep: int,
) -> None:
    now = local("2026-07-20T12:00")
    with Store.open(tmp_path_factory.mktemp("u") / "a.db") as store:
        for day, size, app in made:
            store.add_usage(Batch((used(day.isoformat(), size, app),)))
        sql = (
            "SELECT substr(day, 1, 7) AS month, app, min(total(out_bytes), 9.2e18),"
            " total(connections) FROM usage GROUP BY month, app"
        )
        before = rows(store, sql)
        late = rows(store, "SELECT * FROM usage WHERE day >= '2026-06-01'")
        carry_out(store, store.retention.plan(Keeping(0, 0, days, 0, keep), now))
        first = (
            "2024-01" if not keep else f"{(2026 * 12 + 6 - keep) // 12}-{(6 - keep) % 12 + 1:02}"
        )
        # The sums of SQLite are floats, in whatever order it finds the rows.
        left = [row for row in before if row[0] >= first]
        assert [row[:2] for row in rows(store, sql)] == [row[:2] for row in left]
        assert [row[2:] for row in rows(store, sql)] == [pytest.approx(row[2:]) for row in left]
        assert rows(store, "SELECT * FROM usage WHERE day >= '2026-06-01'") == late
        cut = (datetime(2026, 7, 20) - timedelta(days=days + 1)).date().replace(day=1).isoformat()
        assert not rows(
            store,
            f"SELECT day FROM usage WHERE day < min('{cut}', '2026-06') AND day NOT LIKE '%-01'",
        )


# --- destinations -----------------------------------------------------------------------------


def sums(store: Store, columns: str) -> list[Any]:
    return rows(
        store,
        f"SELECT {columns}, sum(connections), sum(packets), min(first), max(last), sum(sent),"
        f" sum(received), sum(waited) FROM all_sums GROUP BY {columns}",
    )


def test_sums_for_all_time_forget_where_it_went_and_not_what_it_was(store: Store) -> None:
    for day, port, sent in ((1, 1, 5), (2, 2, 6), (3, 2, 7), (500, 3, 8), (990, 1, 9)):
        at = DAY0 - BEGAN + day * DAY
        store.record([record(at, "allow", "rule", rule_id=4, layer=2, dport=port, out_bytes=sent)])
    store.record([record(DAY0 - BEGAN + 991 * DAY)])
    before = sums(store, "app, rule_id")
    keep = Keeping(days=0, sums_days=0, rules_days=0, usage_months=0, destinations_days=100)
    carry_out(store, store.retention.plan(keep, NOW))
    assert sums(store, "dport")[1][:2] == (2, 2), "its records are there"
    plan = Plan(records=DAY0 + 900 * DAY, sums=DAY0 + 2 * DAY, destinations=DAY0 + 900 * DAY)
    carry_out(store, plan)
    assert [row[0] for row in sums(store, "dport")] == [1, 2, 3, 443], "the sums of its day are"
    plan = Plan(sums=DAY0 + 900 * DAY, destinations=DAY0 + 900 * DAY)
    assert store.retention.count(plan)["totals"] == 0
    carry_out(store, plan)
    assert [row[:2] for row in sums(store, "daddr, dport")] == [
        ("", 0), ("203.0.113.1", 1), ("203.0.113.1", 443),
    ]  # fmt: skip
    assert sums(store, "dport")[0][1:] == (3, 3, DAY0 + 2 * DAY, DAY0 + 500 * DAY, 21, 0, 0.0)
    assert sums(store, "app, rule_id") == before
    assert rows(store, "SELECT dport FROM destinations ORDER BY 1") == [(0,), (1,), (443,)]
    assert store.uses([4], 0.0, NOW).last == {4: DAY0 + 990 * DAY}
    told = {gone.what: gone.count for gone in pruned(store._db)}
    assert (told["totals"], told["destinations"]) == (2, 2)
    assert rows(store, "PRAGMA foreign_keys") == [(1,)]


def test_a_destination_stays_as_long_as_anything_goes_there(store: Store) -> None:
    for day, user in ((1, "alice"), (50, "bob"), (51, "carol")):
        store.record([record(DAY0 - BEGAN + day * DAY, user=user)])
    cut = DAY0 + 40 * DAY
    carry_out(store, Plan(records=cut, sums=cut, destinations=cut))
    assert [row[:2] for row in sums(store, "user, daddr")] == [
        ("alice", ""), ("bob", "203.0.113.1"), ("carol", "203.0.113.1"),
    ]  # fmt: skip


def test_while_its_records_are_there_no_destination_is_forgotten(store: Store) -> None:
    store.record([record(DAY0 - BEGAN + day * DAY, dport=day) for day in range(1, 5)])
    carry_out(store, Plan(sums=NOW, destinations=NOW))
    assert rows(store, "SELECT count(*) FROM daily") == [(0,)]
    assert [row[0] for row in sums(store, "dport")] == [1, 2, 3, 4]


@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["rule", "observe", "undecodable"]),
             st.integers(1, 3), st.sampled_from(["open", "closed"])), max_size=20),
    st.tuples(st.integers(0, 32), st.integers(0, 32), st.integers(0, 32)),
)  # fmt: skip
def test_no_sum_of_an_outcome_changes_whatever_goes(
    tmp_path_factory: pytest.TempPathFactory,
    made: list[tuple[int, str, int, str]],
    cuts: tuple[int, int, int],
) -> None:
    with Store.open(tmp_path_factory.mktemp("d") / "a.db") as store:
        for day, why, port, state in sorted(made):
            at = DAY0 - BEGAN + day * DAY
            where = {"daddr": "", "dport": 0, "proto": ""} if why == "undecodable" else {}
            store.record([record(at, "deny", why, state=state, **({"dport": port} | where))])
        before = sums(store, "reason")
        one, two, three = (DAY0 + cut * DAY for cut in cuts)
        carry_out(store, Plan(records=one, sums=two, destinations=three))
        assert sums(store, "reason") == before
        late = {(row[0], row[1]) for row in rows(store, "SELECT reason, dport FROM decisions")}
        assert late <= {
            (row[0], row[1]) for row in rows(store, "SELECT reason, dport FROM all_sums")
        }
        orphans = "SELECT id FROM destinations WHERE id NOT IN (SELECT destination FROM totals)"
        assert rows(store, orphans) == []


# --- switches, checkpoints, and the notes themselves ------------------------------------------


def test_old_switches_of_profiles_go_and_none_seems_to_be_undone_no_more(store: Store) -> None:
    author = Author("a")
    for name in ("home", "work"):
        store.profiles.add(name, (), DAY0, author)
    for day in range(4):
        store.profiles.use("home" if day % 2 else "work", DAY0 + day * DAY, author)
    undone = store.profiles.undo(DAY0 + 20 * DAY, author)
    assert undone.undoes == 4
    plan = Plan(sums=DAY0 + 10 * DAY)
    assert store.retention.count(plan)["profile_switches"] == 3
    carry_out(store, plan)
    assert [(s.id, s.undone) for s in store.profiles.history()] == [(4, True), (5, False)]
    carry_out(store, Plan(sums=DAY0 + 30 * DAY))
    assert [s.id for s in store.profiles.history()] == [4, 5], "the active one is in the last"
    assert store.profiles.book().standing.active == "work"
    store.profiles.use("home", DAY0 + 40 * DAY, author)
    carry_out(store, Plan(sums=DAY0 + 50 * DAY))
    assert [s.id for s in store.profiles.history()] == [6]
    with pytest.raises(StoreError, match=r"there is no profile|nothing to undo") as error:
        store.profiles.remove("work", NOW, author)
        store.profiles.undo(NOW, author)
    assert error.value.what == "cannot go back to another profile"


def test_checkpoints_go_with_what_they_are_about(store: Store) -> None:
    for day in range(20):
        store.record([record(DAY0 - BEGAN + day * DAY)])
        store.evidence.checkpoint("day", DAY0 + day * DAY)
    carry_out(store, Plan(records=DAY0 + 10 * DAY, sums=DAY0 + 5 * DAY))
    left = store.evidence.checkpoints()
    assert [one.last for one in left if one.why == "day"] == list(range(6, 21))
    assert [one.last for one in left if one.why == "retention"] == [10]
    carry_out(store, Plan(records=DAY0 + 15 * DAY, sums=NOW + DAY))
    left = store.evidence.checkpoints()
    assert [one.last for one in left if one.why == "retention"] == [15]
    assert [one.last for one in left if one.why == "day"] == [15, 16, 17, 18, 19, 20]
    outside = left[-1]
    assert store.evidence.verify([outside]).broken == []


def test_notes_of_what_was_deleted_are_added_up_when_they_are_old(store: Store) -> None:
    for day in range(8):
        store.lives.gap(DAY0 + day * DAY, DAY0 + day * DAY, 1, "a test")

    def delete(before: float, now: float) -> None:
        store.retention.begin()
        while store.retention.step(Plan(sums=DAY0 + before * DAY), DAY0 + now * DAY):
            pass

    for day in range(1, 5):
        delete(day, 100 + day)
    assert rows(store, "SELECT count, before FROM pruned") == [
        (1, DAY0 + day * DAY) for day in range(1, 5)
    ]
    delete(200, 300)
    assert rows(store, "SELECT what, count, before FROM pruned ORDER BY id") == [
        ("gaps", 4, DAY0 + 4 * DAY), ("gaps", 4, DAY0 + 200 * DAY),
    ]  # fmt: skip
    assert store.evidence.verify().broken == []


# --- while others write -----------------------------------------------------------------------


def test_many_rules_go_in_short_steps_and_a_person_need_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    with Store.open(path) as store:
        for n in range(2000):
            store._db.execute("PRAGMA synchronous = OFF")
            id = add(store, f"allow port={n % 60000 + 1} user={n}", 0)
            end(store, id, 1)
        add(store, "allow port=1", 2)
    monkeypatch.setattr(tidying, "FIRST", 0.0)
    writer = Writer(path, keeping=Keeping(days=0, sums_days=0, rules_days=1, usage_months=0))
    waits, left = [], 0
    try:
        with closing(sqlite3.connect(path)) as reader:
            for _ in range(400):
                started = time.monotonic()
                writer.last_change().result(timeout=10)
                waits.append(time.monotonic() - started)
                (left,) = reader.execute("SELECT count(*) FROM rules").fetchone()
                if left == 1:
                    break
                time.sleep(0.05)
        assert left == 1
        assert sorted(waits)[len(waits) // 2] < 0.1
    finally:
        writer.close()
    with Store.open(path) as store:
        assert store.evidence.verify().broken == []
        assert rows(store, "SELECT count(*) FROM rule_changes") == [(1,)]
        assert len(store.evidence.checkpoints()) < 10, "no checkpoint that nothing follows is left"


def test_another_wish_is_gone_by_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    now = time.time()
    with Store.open(path) as store:
        store.record(record(now - age * DAY - BEGAN, "deny", "rule") for age in (20, 10, 0))
    writer = Writer(path, keeping=Keeping(days=0))
    try:
        writer.keep(Keeping(days=15))
        until = time.monotonic() + 20
        with closing(sqlite3.connect(path)) as reader:
            count = 3
            while count != 2 and time.monotonic() < until:
                time.sleep(0.02)
                (count,) = reader.execute("SELECT count(*) FROM decisions").fetchone()
        assert count == 2
    finally:
        writer.close()


def test_what_is_half_done_ends_where_somebody_wants_it_kept(store: Store) -> None:
    now = time.time()
    store.record(record(now - 200 * DAY - BEGAN, "deny", "rule", dport=n) for n in range(1000))
    store.record([record(now - BEGAN)])
    tidy = tidying.Tidying(Keeping(days=90))
    tidy.step(store)
    left = rows(store, "SELECT count(*) FROM decisions")
    assert 1 < left[0][0] < 1001
    tidy.keep(Keeping(days=90))
    assert tidy.due > time.monotonic() - 1
    tidy.keep(Keeping(days=300))
    assert tidy.due <= time.monotonic()
    for _ in range(5):
        tidy.step(store)
    assert rows(store, "SELECT count(*) FROM decisions") == left
    tidy.keep(Keeping(days=100))
    for _ in range(200):
        tidy.step(store)
    assert rows(store, "SELECT count(*) FROM decisions") == [(1,)]
