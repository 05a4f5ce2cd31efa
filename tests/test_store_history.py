"""Every change of the rules is a step, and every step somebody made can be taken back."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arbiter.rules import format_rule, parse
from arbiter.store import Author, Store, StoreError
from arbiter.store.history import undone_step

BOOT = "boot-1"
CURL = "allow app=/usr/bin/curl port=443"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "a.db") as opened:
        yield opened


class Clock:
    now = 1000.0


def add(store: Store, line: str, by: str = "root", **more: object) -> int:
    Clock.now += 1
    done = store.remember(parse(line), by=by, created=Clock.now, boot=BOOT, **more)  # type: ignore[arg-type]
    return done.entry.id


def undo(store: Store, step: int | None = None, by: str = "root") -> list[str]:
    Clock.now += 1
    store.undo(step, Clock.now, BOOT, by=by, frontend="cli")
    return lines(store)


def lines(store: Store) -> list[str]:
    return sorted(format_rule(entry.rule) for entry in store.rules(Clock.now, BOOT, None))


def test_an_added_rule_is_taken_back_and_brought_again(store: Store) -> None:
    add(store, CURL)
    assert undo(store) == []
    (made, back) = store.history()
    assert (made.undone, back.undoes, back.by_hand) == (True, made.id, True)
    assert undo(store, back.id) == [CURL]
    assert [step.undone for step in store.history()] == [False, True, False]


def test_what_a_rule_replaced_comes_back_as_old_as_it_was(store: Store) -> None:
    add(store, CURL, by="alice", by_uid=1000, frontend="terminal")
    created = Clock.now
    add(store, CURL.replace("allow", "deny"))
    assert undo(store) == [CURL]
    (entry,) = store.rules(Clock.now, BOOT, None)
    assert (entry.by, entry.frontend, entry.created) == ("alice", "terminal", created)
    (one, two, three) = store.history()
    assert [change.change for change in two.changes] == ["retired", "added"]
    assert [change.reason for change in three.changes] == [
        f"undo of step {two.id}",
        f"undo of step {two.id}: rule 1",
    ]
    assert (one.by, one.by_uid, one.frontend) == ("alice", 1000, "terminal")


def test_an_edit_is_one_step_whatever_its_conditions(store: Store) -> None:
    old = add(store, CURL)
    add(store, "allow port=1")
    new = add(store, "deny app=/usr/bin/curl host=lan", instead_of=old)
    assert lines(store) == ["allow port=1", "deny app=/usr/bin/curl host=lan"]
    assert [(c.rule_id, c.change) for c in store.history()[-1].changes] == [
        (old, "retired"),
        (new, "added"),
    ]
    assert undo(store) == sorted([CURL, "allow port=1"])


def test_an_edit_may_take_the_place_of_another_rule_too(store: Store) -> None:
    old, other = add(store, CURL), add(store, "allow port=1")
    Clock.now += 1
    made = store.remember(
        parse("deny port=1"), by="root", created=Clock.now, boot=BOOT, instead_of=old
    )
    assert made.replaced == (other, old)
    assert undo(store) == sorted([CURL, "allow port=1"])


def test_a_rule_that_is_gone_cannot_be_edited(store: Store) -> None:
    old = add(store, CURL)
    undo(store)
    steps = len(store.history())
    with pytest.raises(StoreError, match=f"rule {old} is not in force any more"):
        add(store, "deny port=1", instead_of=old)
    assert lines(store) == []
    assert len(store.history()) == steps


def test_undo_again_goes_one_step_further_back(store: Store) -> None:
    for port in (1, 2, 3):
        add(store, f"allow port={port}")
    assert undo(store) == ["allow port=1", "allow port=2"]
    assert undo(store) == ["allow port=1"]
    assert undo(store) == []
    with pytest.raises(StoreError, match="there is nothing to undo"):
        undo(store)


def test_a_removal_of_several_rules_is_one_step(store: Store) -> None:
    ids = [add(store, f"deny port={port}") for port in (1, 2)]
    Clock.now += 1
    store.retire(ids, "removed", Clock.now, by="root")
    assert lines(store) == []
    assert undo(store) == ["deny port=1", "deny port=2"]


def test_an_earlier_step_is_undone_only_if_nothing_stands_in_its_way(store: Store) -> None:
    add(store, CURL)
    add(store, CURL.replace("allow", "deny"))
    (first, second) = store.history()
    with pytest.raises(StoreError, match="rule 1 is not in force any more"):
        undo(store, first.id)
    Clock.now += 1
    store.remove(2, "root", at=Clock.now)
    add(store, CURL)
    before = lines(store)
    with pytest.raises(StoreError, match="not in force any more; undo the later steps first"):
        undo(store, second.id)
    removal = store.history()[2]
    with pytest.raises(StoreError, match="rule 3 has the conditions of rule 2 now"):
        undo(store, removal.id)
    assert lines(store) == before, "nothing of it was done"


def test_rules_whose_time_is_over_do_not_come_back(store: Store) -> None:
    add(store, "allow port=1 for=1m")
    add(store, "allow port=2 for=boot")
    Clock.now += 1
    store.retire((1, 2), "removed", Clock.now, by="root")
    Clock.now += 60
    done = store.undo(None, Clock.now, "boot-2", by="root")
    assert (done.restored, done.ended) == ((), (1, 2))
    assert lines(store) == []


def test_what_ended_by_itself_is_no_step_to_undo(store: Store) -> None:
    add(store, "allow port=1 for=1m")
    Clock.now += 60
    store.sweep(Clock.now, BOOT, "")
    assert store.history()[-1].by_hand is False
    with pytest.raises(StoreError, match="nobody did it"):
        undo(store, store.history()[-1].id)
    with pytest.raises(StoreError, match="rule 1 is not in force any more"):
        undo(store, 1)


def test_a_rule_that_ended_by_itself_does_not_stand_in_the_way_of_undo(store: Store) -> None:
    add(store, CURL)
    wget = add(store, "allow app=/usr/bin/wget")
    Clock.now += 1
    store.retire([wget], "its program has exited", Clock.now)
    assert undo(store) == [], "the last that can be"
    with pytest.raises(StoreError, match="nothing to undo"):
        undo(store)


@pytest.mark.parametrize("step", [2, 99])
def test_a_step_that_is_not_there_is_an_error(store: Store, step: int) -> None:
    add(store, CURL)
    with pytest.raises(StoreError, match=f"cannot undo step {step}: .*no such step"):
        undo(store, step)


def test_an_undone_step_is_not_undone_twice(store: Store) -> None:
    add(store, CURL)
    undo(store)
    with pytest.raises(StoreError, match="it was undone already"):
        undo(store, store.history()[0].id)


@pytest.mark.parametrize(
    "reason", ["undo of step", "undo of step x", "removed", "undo of step -1", "undo of step 1: x"]
)
def test_only_a_whole_number_names_an_undone_step(reason: str) -> None:
    assert undone_step(reason) is None


ACTS = st.lists(
    st.tuples(st.sampled_from(["allow", "deny", "remove", "undo"]), st.integers(1, 3)), max_size=12
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTS)
def test_undoing_everything_leads_back_through_every_state(
    tmp_path: Path, acts: list[tuple[str, int]]
) -> None:
    with Store.open(Path(tempfile.mkdtemp(dir=tmp_path)) / "a.db") as store:
        states = [lines(store)]
        for act, port in acts:
            before = lines(store)
            if act == "undo":
                if len(states) > 1:
                    states.pop()
                    assert undo(store) == states[-1]
                continue
            Clock.now += 1
            if act == "remove":
                entries = store.rules(Clock.now, BOOT, None)
                ids = [e.id for e in entries if e.rule.ports == ((port, port),)]
                store.retire(ids, "removed", Clock.now, by="root")
            else:
                add(store, f"{act} port={port}")
            if act != "remove" or lines(store) != before:
                states.append(lines(store))
        while len(states) > 1:
            states.pop()
            assert undo(store) == states[-1]


ALICE, BOB = Author("alice", 1000, "tui"), Author("bob", 1001, "tui")


def take_back(store: Store, rule: int, who: Author, others: bool = False) -> tuple[str, ...]:
    Clock.now += 1
    return store.undo_rule(rule, Clock.now, BOOT, who, others=others)


def test_who_answered_takes_the_answer_back_and_what_it_replaced_returns(store: Store) -> None:
    add(store, CURL, by="alice", by_uid=1000, frontend="tui")
    denied = add(store, CURL.replace("allow", "deny"), by="alice", by_uid=1000, frontend="tui")
    add(store, "allow port=1")
    assert take_back(store, denied, ALICE) == (CURL,)
    assert lines(store) == [CURL, "allow port=1"]
    assert store.history()[-1].by == "alice"


def test_nobody_takes_anothers_answer_back_but_an_admin(store: Store) -> None:
    rule = add(store, CURL, by="alice", by_uid=1000, frontend="tui")
    with pytest.raises(StoreError, match="alice made it"):
        take_back(store, rule, BOB)
    assert lines(store) == [CURL]
    assert take_back(store, rule, Author("root", 0, "tui"), others=True) == ()
    assert lines(store) == []


@pytest.mark.parametrize("rule", [0, 2, 99, -1])
def test_a_rule_that_nobody_made_or_that_is_gone_cannot_be_taken_back(
    store: Store, rule: int
) -> None:
    add(store, CURL, by="alice", by_uid=1000)
    gone = add(store, "deny port=9", by="alice", by_uid=1000)
    take_back(store, gone, ALICE)
    with pytest.raises(StoreError, match=r"no such rule|undone already"):
        take_back(store, rule, ALICE)
    assert lines(store) == [CURL]
