"""Importing rules: one transaction, nothing twice, nothing by halves."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from arbiter.rules import parse
from arbiter.store import Author, Planned, Store, StoreError, Wanted

BOOT = "boot-1"
ROOT = Author("root", 0, "import")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "a.db") as opened:
        yield opened


def wanted(*lines: str) -> list[Wanted]:
    return [Wanted(parse(line)) for line in lines]


def put(store: Store, *lines: str, at: float = 100.0) -> list[Planned]:
    return store.import_rules(wanted(*lines), author=ROOT, created=at, boot=BOOT)


def in_force(store: Store, at: float = 200.0) -> list[str]:
    from arbiter.rules import format_rule

    return [format_rule(entry.rule) for entry in store.rules(at, BOOT, None)]


def test_rules_come_in_their_order_with_their_author(store: Store) -> None:
    done = put(store, "deny host=lan", "allow app=/a", "allow app=/a port=53 for=boot")
    assert [one.id for one in done] == [1, 2, 3]
    assert in_force(store) == ["deny host=lan", "allow app=/a", "allow app=/a port=53 for=boot"]
    assert {(c.by, c.by_uid, c.frontend) for c in store.changes()} == {("root", 0, "import")}


def test_importing_the_same_again_changes_nothing(store: Store) -> None:
    lines = ("deny host=lan", "allow app=/a for=1h", "allow app=/b for=boot")
    put(store, *lines)
    before, entries = store.last_change(), store.rules(200.0, BOOT, None)
    again = put(store, *lines, at=200.0)
    assert [one.same for one in again] == [1, 2, 3]
    assert store.last_change() == before
    assert store.rules(200.0, BOOT, None) == entries, "a span does not begin anew"


def test_a_rule_takes_the_place_of_those_with_its_conditions(store: Store) -> None:
    store.remember(parse("allow app=/a"), by="alice", by_uid=1000, created=50.0)
    process = parse("allow app=/a for=process")
    with_pid = store.remember(process, by="alice", created=50.0, process=(1, 1), boot=BOOT)
    (done,) = put(store, "deny app=/a")
    assert done.replaces == (1, with_pid.entry.id)
    assert in_force(store) == ["deny app=/a"]


def test_what_has_ended_is_no_rule_that_is_there(store: Store) -> None:
    put(store, "allow app=/a for=10s", at=100.0)
    (done,) = put(store, "allow app=/a for=10s", at=500.0)
    assert (done.same, done.replaces) == (0, (1,))
    assert store.rules(505.0, BOOT, None)[0].expires == 510.0


def test_a_span_that_has_begun_keeps_its_end(store: Store) -> None:
    one = Wanted(parse("allow app=/a for=1h"), expires=150.0)
    store.import_rules([one], author=ROOT, created=100.0)
    assert store.rules(149.0, BOOT, None)[0].expires == 150.0
    assert store.rules(150.0, BOOT, None) == []
    other = Wanted(one.rule, expires=160.0)
    (done,) = store.import_rules([other], author=ROOT, created=100.0)
    assert done.replaces == (1,)


def test_a_plan_says_the_same_and_writes_nothing(store: Store) -> None:
    put(store, "allow app=/a", "allow app=/b")
    lines = wanted("deny app=/a", "allow app=/b", "allow app=/c")
    before = store.last_change()
    planned = store.import_rules(lines, author=ROOT, created=100.0, only_plan=True)
    assert store.last_change() == before
    assert [(one.same, one.replaces) for one in planned] == [(0, (1,)), (2, ()), (0, ())]
    done = store.import_rules(lines, author=ROOT, created=100.0)
    assert [(one.same, one.replaces) for one in done] == [(0, (1,)), (2, ()), (0, ())]


@pytest.mark.parametrize("bad", ["allow app=/b for=session", "allow app=/b for=process"])
def test_one_rule_that_cannot_be_kept_keeps_all_out(store: Store, bad: str) -> None:
    with pytest.raises(ValueError, match="needs"):
        put(store, "allow app=/a", bad)
    assert in_force(store) == []


def test_two_answers_to_one_question_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="same conditions"):
        put(store, "allow app=/a", "deny app=/a")
    assert in_force(store) == []


def test_a_disk_that_fails_half_way_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as db:
        db.execute(
            "CREATE TRIGGER full BEFORE INSERT ON rules WHEN new.app = '/c'"
            " BEGIN SELECT raise(ABORT, 'no more'); END"
        )
    with pytest.raises(StoreError, match="no more"):
        put(store, "allow app=/a", "allow app=/b", "allow app=/c")
    assert in_force(store) == []
    assert store.changes() == []
