"""Profiles on disk: a network belongs to one, every switch is kept, and a person's word wins."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from rule_strategies import networks as any_network

from arbiter.profiles import Profile, Standing
from arbiter.store import Author, CorruptError, Store, StoreError, UnsuitableError, Writer, migrate

ALICE, BOB = Author("alice", 1000, "cli"), Author("bob", 1001, "cli")
ARBITER = Author("arbiter")
HOME, OFFICE, SIM = "ssid:My Home", "gateway:02:00:5e:10:00:0a", "sim:89430123456789012345"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "arbiter.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


@pytest.fixture
def two(store: Store) -> Store:
    store.profiles.add("home", [HOME], 1.0, ALICE)
    store.profiles.add("travel", [SIM], 2.0, ALICE)
    return store


def standing(store: Store) -> Standing:
    return store.profiles.book().standing


def test_a_new_database_has_none(store: Store) -> None:
    book = store.profiles.book()
    assert (book.profiles, book.standing, book.last, book.unreadable) == ((), Standing(), None, ())
    assert store.profiles.history() == []
    assert store.profiles.names() == frozenset()


def test_profiles_and_their_networks_are_kept(two: Store, path: Path) -> None:
    two.profiles.bind("home", [OFFICE, HOME])
    with Store.open(path, readonly=True) as other:
        assert other.profiles.book().profiles == (
            Profile("home", (OFFICE, HOME)),
            Profile("travel", (SIM,)),
        )
        assert other.profiles.names() == {"home", "travel"}


def test_a_network_belongs_to_one_profile_and_nothing_is_done_by_halves(two: Store) -> None:
    before = two.profiles.book()
    with pytest.raises(UnsuitableError, match='"ssid:My Home" is bound to profile home'):
        two.profiles.bind("travel", [OFFICE, HOME])
    with pytest.raises(UnsuitableError, match="is bound to profile home"):
        two.profiles.add("office", [OFFICE, HOME], 3.0, ALICE)
    with pytest.raises(UnsuitableError, match="there already"):
        two.profiles.add("home", [], 3.0, ALICE)
    with pytest.raises(UnsuitableError, match="no such profile"):
        two.profiles.bind("office", [OFFICE])
    with pytest.raises(UnsuitableError, match="bound to no profile"):
        two.profiles.unbind([HOME, OFFICE])
    assert two.profiles.book() == before
    assert two.profiles.unbind([HOME, SIM]) == {HOME: "home", SIM: "travel"}
    two.profiles.bind("travel", [HOME])
    assert two.profiles.book().bound() == {HOME: "travel"}


def test_who_uses_which_is_kept_and_the_same_again_is_nothing(two: Store) -> None:
    switch = two.profiles.use("home", 5.0, ALICE)
    assert switch is not None
    assert (switch.before, switch.after, switch.why, switch.by) == ("", "home", "chosen", "alice")
    assert (switch.time, switch.by_uid, switch.frontend) == (5.0, 1000, "cli")
    assert two.profiles.use("home", 6.0, BOB) is None
    assert standing(two) == Standing("home", None)
    with pytest.raises(UnsuitableError, match="no such profile"):
        two.profiles.use("office", 7.0, ALICE)
    two.profiles.use("", 8.0, BOB)
    assert standing(two) == Standing("", None)
    assert [(s.before, s.after) for s in two.profiles.history()] == [("", "home"), ("home", "")]


def test_a_switch_by_itself_is_kept_with_its_place(two: Store) -> None:
    assert two.profiles.keep("", Standing("home", "home"), "on ssid:x", 5.0, ARBITER)
    assert standing(two) == Standing("home", "home")
    assert two.profiles.keep("home", Standing("home", "travel"), "", 6.0, ARBITER)
    assert standing(two) == Standing("home", "travel")
    (switch,) = two.profiles.history()
    assert (switch.before, switch.after, switch.why, switch.by) == (
        *("", "home", "on ssid:x", "arbiter"),
    )
    assert two.profiles.book().last == switch


def test_a_persons_word_that_came_meanwhile_wins(two: Store) -> None:
    two.profiles.use("travel", 5.0, ALICE)
    assert not two.profiles.keep("", Standing("home", "home"), "on ssid:x", 6.0, ARBITER)
    assert not two.profiles.keep("home", Standing("home", "home"), "", 6.0, ARBITER)
    assert standing(two) == Standing("travel", None)
    two.profiles.remove("home", 7.0, ALICE)
    assert not two.profiles.keep("travel", Standing("home", "home"), "on ssid:x", 8.0, ARBITER)
    assert len(two.profiles.history()) == 1


def test_undo_goes_back_further_each_time(two: Store) -> None:
    two.profiles.keep("", Standing("home", "home"), "on ssid:x", 5.0, ARBITER)
    two.profiles.use("travel", 6.0, ALICE)
    assert two.profiles.book().back
    first = two.profiles.undo(7.0, BOB)
    assert two.profiles.book().back
    assert (first.before, first.after, first.undoes) == ("travel", "home", 2)
    assert standing(two) == Standing("home", None)
    second = two.profiles.undo(8.0, BOB)
    assert (second.before, second.after, second.undoes) == ("home", "", 1)
    assert not two.profiles.book().back
    with pytest.raises(UnsuitableError, match="nothing to undo"):
        two.profiles.undo(9.0, BOB)
    assert [s.undone for s in two.profiles.history()] == [True, True, False, False]


def test_undo_does_not_bring_a_profile_that_is_gone(two: Store) -> None:
    two.profiles.use("home", 5.0, ALICE)
    two.profiles.use("travel", 6.0, ALICE)
    assert not two.profiles.remove("home", 7.0, ALICE)
    assert not two.profiles.book().back
    with pytest.raises(UnsuitableError, match="no profile home any more"):
        two.profiles.undo(8.0, ALICE)
    assert standing(two).active == "travel"


def test_removing_the_active_one_leaves_none_and_forgets_the_place(two: Store) -> None:
    two.profiles.keep("", Standing("home", "home"), "on ssid:x", 5.0, ARBITER)
    assert two.profiles.remove("home", 6.0, ALICE)
    assert standing(two) == Standing("", "")
    last = two.profiles.book().last
    assert last is not None
    assert (last.before, last.after, last.why, last.by) == ("home", "", "it was removed", "alice")
    assert two.profiles.book().bound() == {SIM: "travel"}
    with pytest.raises(UnsuitableError, match="no such profile"):
        two.profiles.remove("home", 7.0, ALICE)


def test_removing_another_forgets_the_place_too(two: Store) -> None:
    two.profiles.keep("", Standing("home", "home"), "on ssid:x", 5.0, ARBITER)
    two.profiles.use("travel", 6.0, ALICE)
    two.profiles.keep("travel", Standing("travel", "home"), "", 7.0, ARBITER)
    assert not two.profiles.remove("home", 8.0, ALICE)
    assert standing(two) == Standing("travel", "")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(any_network)
def test_every_network_survives(store: Store, network: str) -> None:
    store.profiles.add("p", [network], 1.0, ALICE)
    assert store.profiles.book().bound() == {network: "p"}
    assert store.profiles.unbind([network]) == {network: "p"}
    store.profiles.remove("p", 2.0, ALICE)


def test_what_somebody_else_wrote_badly_is_named_and_takes_nothing_down(
    two: Store, path: Path
) -> None:
    with sqlite3.connect(path) as other:
        other.execute("INSERT INTO profile_networks VALUES ('ssid:', 'home')")
        other.execute("INSERT INTO profiles VALUES ('b\x1bad', 0, 'x', NULL)")
        other.execute("INSERT INTO profile_networks VALUES ('ssid:ok', 'b\x1bad')")
    other.close()
    book = two.profiles.book()
    assert book.bound() == {HOME: "home", SIM: "travel"}
    name, network = book.unreadable
    assert r"'b\x1bad'" in name
    assert "'ssid:' of 'home'" in network
    assert all("arbiter profiles add" in text for text in book.unreadable)
    with sqlite3.connect(path) as other:
        other.execute(
            "INSERT INTO profile_switches (time, profile_from, profile_to, why, by_user, place)"
            " VALUES (1, '', 'b\x1bad', 'x', 'x', 'b\x1bad')"
        )
    other.close()
    assert standing(two) == Standing()
    assert two.profiles.keep("", Standing("home", "home"), "on ssid:x", 2.0, ARBITER)


def test_the_writer_reads_what_was_asked_to_be_kept_before(path: Path) -> None:
    with Store.open(path) as store:
        store.profiles.add("home", [HOME], 1.0, ALICE)
    writer = Writer(path)
    kept = writer.keep_profile("", Standing("home", "home"), "on ssid:x", 2.0)
    book = writer.profiles()
    again = writer.keep_profile("", Standing("home", "home"), "on ssid:x", 3.0)
    assert kept.result(5)
    assert book.result(5).standing == Standing("home", "home")
    assert not again.result(5)
    writer.close()


def test_a_database_without_the_tables_of_profiles_is_damaged(path: Path) -> None:
    Store.open(path).close()
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE profile_networks")
    other.close()
    with pytest.raises(CorruptError, match="no table profile_networks"):
        Store.open(path)


def shape(path: Path) -> list[tuple[str, ...]]:
    database = sqlite3.connect(path)
    found = database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
    database.close()
    return [(kind, name, migrate.bare(sql or "")) for kind, name, sql in found]


def test_version_3_gets_the_tables_after_a_backup(path: Path) -> None:
    root = Path(__file__).parent.parent
    made = sqlite3.connect(path)
    made.execute("PRAGMA auto_vacuum = INCREMENTAL")
    made.executescript((root / "fixtures" / "databases" / "schema-3.sql").read_text())
    made.execute(f"PRAGMA application_id = {migrate.APPLICATION_ID}")
    made.execute("PRAGMA user_version = 3")
    made.commit()
    made.close()
    with pytest.raises(StoreError, match="start the daemon once"):
        Store.open(path, readonly=True)
    with Store.open(path) as store:
        store.profiles.add("home", [HOME], 1.0, ALICE)
        assert store.profiles.names() == {"home"}
    Store.open(path.with_name("new.db")).close()
    assert shape(path) == shape(path.with_name("new.db"))
    assert path.with_name("arbiter.db.v3.backup").exists()
