"""The store's rules: what is remembered comes back as it was, and ends when it has to."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlite_utils import Database
from storescene import BOOT, RECORD, SESSION, add, lines

from arbiter.records import Record, utf8
from arbiter.rules.line import parse
from arbiter.rules.rule import Layer
from arbiter.store import Store, UnstorableError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "arbiter.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


def my_start(pid: int | str = "self") -> int:
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


# --- rules ----------------------------------------------------------------------------------


def test_a_remembered_rule_comes_back_as_it_was_with_its_provenance(path: Path) -> None:
    rule = parse("route via=lte,any app=/usr/bin/curl host=192.0.2.0/24 port=443 for=15m")
    with Store.open(path) as store:
        made = store.remember(rule, by="alice", by_uid=1000, frontend="tui", created=100.5)
        assert made.replaced == ()
        assert made.entry.expires == 100.5 + 900
    with Store.open(path, readonly=True) as store:
        assert store.rules(101.0, "", "") == [made.entry]
        assert store.get(made.entry.id) == made.entry
    entry = made.entry
    assert (entry.rule, entry.layer, entry.by) == (rule, Layer.REMEMBERED, "alice")
    assert (entry.created, entry.frontend) == (100.5, "tui")


def test_readers_in_sql_find_decision_app_and_user_in_columns(store: Store, path: Path) -> None:
    add(store, "route via=lte app=/usr/bin/curl user=bob for=boot", boot=BOOT)
    row = next(iter(Database(sqlite3.connect(path)).query("SELECT * FROM rules")))
    assert row["decision"] == "route via=lte"
    assert (row["app"], row["scope_user"], row["lifetime"]) == ("/usr/bin/curl", "bob", "boot")
    assert row["conditions"] == "app=/usr/bin/curl user=bob"


def test_the_same_conditions_again_replace_the_rule(store: Store) -> None:
    first = add(store, "allow app=/usr/bin/curl port=443")
    made = store.remember(
        parse("deny app=/usr/bin/curl port=443 for=1h"), by="bob", created=150.0, frontend="cli"
    )
    assert made.replaced == (first,)
    assert lines(store) == ["deny app=/usr/bin/curl port=443 for=1h"]
    assert [(c.rule_id, c.change, c.reason, c.by) for c in store.changes()] == [
        (first, "added", "remembered", "alice"),
        (first, "retired", "replaced", "bob"),
        (made.entry.id, "added", "remembered", "bob"),
    ]


def test_other_conditions_users_or_layers_replace_nothing(store: Store) -> None:
    add(store, "allow app=/usr/bin/curl")
    add(store, "deny app=/usr/bin/curl port=443")
    add(store, "deny app=/usr/bin/curl user=bob")
    add(store, "deny app=/usr/bin/curl", layer=Layer.ADMIN)
    assert len(lines(store)) == 4


def test_rules_for_one_process_each_stand_side_by_side_until_a_wider_one(store: Store) -> None:
    mine = (os.getpid(), my_start())
    parent = (os.getppid(), my_start(os.getppid()))
    first = add(store, "allow app=/bin/x for=process", process=mine, boot=BOOT)
    second = add(store, "deny app=/bin/x for=process", process=parent, boot=BOOT)
    assert len(lines(store)) == 2
    third = add(store, "deny app=/bin/x for=process", process=mine, boot=BOOT)
    assert [entry.id for entry in store.rules(200.0, BOOT, SESSION)] == [second, third]
    made = store.remember(parse("deny app=/bin/x"), by="alice", created=3.0)
    assert made.replaced == (second, third)
    assert first not in made.replaced


def test_only_rules_in_force_are_given(store: Store) -> None:
    add(store, "allow port=1")
    add(store, "allow port=2 for=1m", at=100.0)
    add(store, "allow port=3 for=boot", boot=BOOT)
    add(store, "allow port=4 for=session", session=SESSION)
    mine = (os.getpid(), my_start())
    add(store, "allow port=5 for=process", process=mine, boot=BOOT)
    add(store, "allow port=6 for=process", process=(mine[0], mine[1] + 1), boot=BOOT)
    add(store, "allow port=7 for=process", process=(2**22 + 1, 1), boot=BOOT)

    def ports(now: float, boot: str, session: str) -> list[int]:
        return [entry.rule.ports[0][0] for entry in store.rules(now, boot, session)]

    assert ports(159.9, BOOT, SESSION) == [1, 2, 3, 4, 5]
    assert ports(160.0, BOOT, SESSION) == [1, 3, 4, 5]
    assert ports(160.0, "boot-2", SESSION) == [1, 4]
    assert ports(160.0, BOOT, "run-2") == [1, 3, 5]
    assert ports(160.0, "", "") == [1]


def test_a_zombie_is_a_process_that_is_gone(store: Store) -> None:
    child = subprocess.Popen(["/bin/sleep", "60"])
    process = (child.pid, my_start(child.pid))
    add(store, "allow port=5 for=process", process=process, boot=BOOT)
    assert len(lines(store)) == 1
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert lines(store) == []
    child.wait()


def test_sweep_retires_what_has_ended_and_says_why(store: Store) -> None:
    keep = add(store, "allow port=1")
    gone = [
        add(store, "allow port=2 for=1m"),
        add(store, "allow port=3 for=boot", boot="boot-0"),
        add(store, "allow port=4 for=session", session="run-0"),
        add(store, "allow port=5 for=process", process=(2**22 + 1, 1), boot=BOOT),
    ]
    assert store.sweep(500.0, BOOT, SESSION) == tuple(gone)
    reasons = [c.reason for c in store.changes() if c.change == "retired"]
    assert reasons == ["expired", "boot", "session", "exited"]
    assert store.sweep(500.0, BOOT, SESSION) == ()
    assert [entry.id for entry in store.rules(0.0, "boot-0", "run-0")] == [keep]


def test_a_retired_rule_is_kept_with_who_when_and_why(store: Store, path: Path) -> None:
    id = add(store, "allow app=/usr/bin/curl")
    assert store.remove(id, "bob", at=300.0, by_uid=7, frontend="cli")
    assert not store.remove(id, "eve", at=400.0)
    assert not store.remove(999, "eve", at=400.0)
    assert lines(store) == []
    row = next(iter(Database(sqlite3.connect(path)).query("SELECT * FROM rules")))
    assert (row["retired"], row["retired_by"], row["retired_reason"]) == (300.0, "bob", "removed")
    last = store.changes()[-1]
    assert (last.time, last.by, last.by_uid, last.frontend) == (300.0, "bob", 7, "cli")
    assert (last.rule_id, last.change, last.line) == (id, "retired", "allow app=/usr/bin/curl")
    assert len(store.changes()) == 2


def test_retire_tells_which_were_in_force(store: Store) -> None:
    first, second = add(store, "allow port=1"), add(store, "allow port=2")
    assert store.retire([second, 77, second, first], "exited", 5.0) == (second, first)


def test_rules_are_synced_to_the_disk_and_records_are_not_waited_for(store: Store) -> None:
    said: list[str] = []
    store._db.set_trace_callback(said.append)
    add(store, "allow port=1")
    store.record([RECORD])
    store._db.set_trace_callback(None)
    found = [line for line in said if line.startswith(("PRAGMA sync", "COMMIT"))]
    assert found == ["PRAGMA synchronous = FULL", "COMMIT", "PRAGMA synchronous = NORMAL", "COMMIT"]


def test_the_database_itself_refuses_a_duplicate_and_a_dangling_reference(store: Store) -> None:
    id = add(store, "allow port=1")
    columns = "line, layer, conditions, decision, app, scope_user, lifetime, created, by_user"
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        store._db.execute(f"INSERT INTO rules ({columns}) SELECT {columns} FROM rules")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        store._db.execute("UPDATE rules SET replaced_by = 77 WHERE id = ?", (id,))


def test_ids_are_never_used_twice_even_after_a_deletion_by_hand(path: Path) -> None:
    with Store.open(path) as store:
        first = add(store, "allow port=1")
        store._db.execute("DELETE FROM rule_changes")
        store._db.execute("DELETE FROM rules")
    with Store.open(path) as store:
        assert add(store, "allow port=1") > first


@pytest.mark.parametrize(
    ("line", "more"),
    [
        ("allow port=1 for=once", {}),
        ("allow port=1 for=process", {"boot": BOOT}),
        ("allow port=1 for=process", {"process": (1, 1)}),
        ("allow port=1 for=session", {"boot": BOOT}),
        ("allow port=1 for=boot", {"session": SESSION}),
        ("allow port=1", {"expires": 5.0}),
        ("allow port=1", {"process": (1, 1), "boot": BOOT}),
        ("allow port=1 for=1m", {"expires": float("nan")}),
    ],
)
def test_a_rule_without_what_its_lifetime_needs_is_refused(
    store: Store, line: str, more: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"rule|remembered"):
        add(store, line, **more)
    assert store.changes() == []


def test_one_unreadable_line_leaves_the_other_rules_in_force(store: Store, path: Path) -> None:
    good, bad = add(store, "allow port=1"), add(store, "deny port=2")
    with sqlite3.connect(path) as other:
        other.execute("UPDATE rules SET line = 'deny prot=2\n' WHERE id = ?", (bad,))
    other.close()
    assert [entry.id for entry in store.rules(0.0, BOOT, SESSION)] == [good]
    assert len(store.unreadable) == 1
    assert f"arbiter rules remove {bad}" in store.unreadable[0]
    assert store.unread == (bad,)
    assert store.unreadable[0].isprintable()
    store.remove(bad, "root", at=1.0)
    store.rules(0.0, BOOT, SESSION)
    assert not store.unreadable


TEXT = st.text(max_size=30) | st.sampled_from(["\udcff/x", "/a b", '/a"b', "/a\\b", "/\u202ex"])


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(app=TEXT.filter(bool), by=TEXT)
def test_any_app_and_any_name_is_stored_losslessly_or_refused(
    store: Store, app: str, by: str
) -> None:
    rule = parse("deny port=1").replace(app=app)
    made = store.remember(rule, by=by, created=1.0)
    back = store.get(made.entry.id)
    assert back is not None
    assert back.rule == rule
    assert back.by == utf8(by)


OPERATION = st.tuples(
    st.sampled_from(["allow", "deny"]),
    st.integers(1, 3),
    st.sampled_from(["", " for=1m", " for=session"]),
    st.booleans(),
)


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(OPERATION, max_size=12))
def test_the_rules_are_the_last_word_on_each_question(
    store: Store, operations: list[tuple[str, int, str, bool]]
) -> None:
    """Against a dict: per conditions the last answer counts, a removed one not at all."""
    store.retire([e.id for e in store.rules(0.0, BOOT, SESSION)], "test", 0.0)
    expected: dict[str, tuple[int, str]] = {}
    for decision, port, lifetime, remove in operations:
        line = f"{decision} port={port}{lifetime}"
        id = add(store, line, session=SESSION)
        expected[f"port={port}"] = (id, line)
        if remove:
            store.remove(id, "bob", at=1.0)
            del expected[f"port={port}"]
    assert sorted(lines(store, now=0.0)) == sorted(line for _, line in expected.values())


# --- records --------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was(store: Store) -> None:
    small = Record(time=1.0, decision="allow", reason="observe")
    assert store.record([RECORD, small]) == 2
    assert store.decisions() == [RECORD, small]


def test_decisions_are_found_by_time_and_app(store: Store) -> None:
    store.record(
        Record(time=float(t), decision="allow", reason="rule", app="ab"[t % 2]) for t in range(10)
    )
    assert [r.time for r in store.decisions(since=3.0, until=6.0)] == [5.0, 4.0, 3.0]
    assert [r.time for r in store.decisions(app="a", limit=2)] == [8.0, 6.0]


@given(
    st.builds(
        Record,
        time=st.floats(),
        decision=TEXT,
        reason=TEXT,
        app=TEXT,
        exe=TEXT,
        uid=st.none() | st.integers(),
        length=st.integers(),
        waited=st.floats(),
    )
)
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_record_can_be_stored_and_read(store: Store, record: Record) -> None:
    assert store.record([record]) == 1
    found = store.decisions(since=float("-inf"), limit=1_000_000)
    assert (utf8(record.app), utf8(record.exe)) in {(r.app, r.exe) for r in found}


def test_a_batch_is_written_whole_or_not_at_all(store: Store) -> None:
    bad = Record(time=None, decision="x", reason="y")  # type: ignore[arg-type]  # a bug's record
    with pytest.raises(UnstorableError):
        store.record([RECORD, bad])
    assert store.decisions() == []
    assert store.record([RECORD]) == 1
