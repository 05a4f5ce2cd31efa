"""The store and the databases of other versions, and what its errors say."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_utils import Database
from storescene import OLD, add, digest, mode

from arbiter.rules.line import parse
from arbiter.store import (
    CorruptError,
    DiskFullError,
    LockedError,
    MissingError,
    NoPermissionError,
    ReadOnlyError,
    Store,
    StoreError,
    migrate,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "arbiter.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


def to_version_1(database: Database) -> None:
    old = list(database["rules"].rows)
    database.execute("DROP TABLE rules")
    for statement in migrate.statements(migrate.schema()):
        database.execute(statement)
    for row in old:
        database.execute(
            "INSERT INTO rules (id, line, layer, conditions, decision, app, scope_user, lifetime,"
            " created, by_user) VALUES (?, ?, 2, ?, '', '', '', 'forever', ?, 'old')",
            [row["id"], row["line"], row["line"].split()[1], row["made"]],
        )


@pytest.fixture
def old(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(migrate, "VERSION", 1)  # these tests are about how, not about what
    path.parent.mkdir()
    made = sqlite3.connect(path)
    made.executescript(OLD)
    made.close()
    return path


def shape(path: Path) -> list[tuple[str, ...]]:
    database = sqlite3.connect(path)
    found = database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
    database.close()
    return [(kind, name, migrate.bare(sql or "")) for kind, name, sql in found]


def test_version_0_is_upgraded_after_a_backup(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shape(old)
    monkeypatch.setattr(migrate, "STEPS", {0: to_version_1})
    with Store.open(old) as store:
        assert [(e.id, e.created) for e in store.rules(9.0, "", "")] == [(4, 7.5), (9, 8.5)]
        assert add(store, "allow port=3") == 10
        assert store._db.execute("PRAGMA foreign_keys").fetchone()[0] == 1
    Store.open(tmp_path / "new.db").close()
    assert shape(old) == shape(tmp_path / "new.db")
    backup = old.with_name("arbiter.db.v0.backup")
    assert shape(backup) == before
    assert mode(backup) == 0o640
    assert sorted(file.name for file in old.parent.iterdir()) == ["arbiter.db", backup.name]


def test_an_older_version_is_not_upgraded_by_reading_it(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "STEPS", {0: to_version_1})
    before = digest(old)
    with pytest.raises(StoreError, match=r"older than 1; start the daemon once"):
        Store.open(old, readonly=True)
    assert digest(old) == before


def test_a_backup_never_overwrites_another(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "STEPS", {0: to_version_1})
    other = old.with_name("arbiter.db.v0.backup")
    other.write_text("precious")
    Store.open(old).close()
    assert other.read_text() == "precious"
    assert shape(old.with_name("arbiter.db.v0.backup2"))[0][1] == "rules"


def breaks(database: Database) -> None:
    to_version_1(database)
    database.execute("INSERT INTO no_such_table VALUES (1)")


def dangles(database: Database) -> None:
    to_version_1(database)
    database.execute("UPDATE rules SET replaced_by = 777")


def commits(database: Database) -> None:
    to_version_1(database)
    database.execute("COMMIT")


@pytest.mark.parametrize("step", [breaks, dangles, "CREATE TABLE t (a); BOOM;"])
def test_a_step_that_fails_leaves_the_old_version_whole(
    old: Path, monkeypatch: pytest.MonkeyPatch, step: object
) -> None:
    before = shape(old)
    monkeypatch.setattr(migrate, "STEPS", {0: step})
    with pytest.raises(StoreError):
        Store.open(old)
    assert shape(old) == before
    monkeypatch.setattr(migrate, "STEPS", {0: to_version_1})
    Store.open(old).close()


def test_a_step_that_commits_is_found_out(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "STEPS", {0: commits})
    with pytest.raises(RuntimeError, match="ended its transaction"):
        Store.open(old)


def test_a_version_without_a_way_up_is_refused(old: Path) -> None:
    before = digest(old)
    with pytest.raises(StoreError, match="no step from 0"):
        Store.open(old)
    assert digest(old) == before
    assert not old.with_name("arbiter.db.v0.backup").exists()
    connection = sqlite3.connect(old)
    assert connection.execute("SELECT count(*) FROM rules").fetchone()[0] == 2
    connection.close()


def test_a_script_is_split_at_whole_statements_only() -> None:
    trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN\n SELECT 1;\nEND;\n"
    script = f"CREATE TABLE a (b); -- x;\n{trigger}-- end\n"
    assert len(list(migrate.statements(script))) == 2
    with pytest.raises(ValueError, match="unfinished"):
        list(migrate.statements("CREATE TABLE a (b"))


def test_every_error_says_what_where_why_and_the_next_step(path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        Store.open(path, readonly=True)
    error = caught.value
    assert all((error.what, error.why, error.step))
    assert error.where == path
    assert str(error) == f"{error.what}: {path}: {error.why}; {error.step}"
    kinds = {LockedError, DiskFullError, ReadOnlyError, CorruptError, NoPermissionError}
    assert all(issubclass(kind, StoreError) for kind in kinds)


def test_nobody_undoes_somebody_elses_rule_by_an_answer(tmp_path: Path) -> None:
    rule = parse("deny app=/usr/bin/curl user=alice")
    with Store.open(tmp_path / "a.db") as store:
        by_root = store.remember(rule, by="root", by_uid=0, created=1.0)
        allow = parse("allow app=/usr/bin/curl user=alice")
        with pytest.raises(StoreError, match=f"rule {by_root.entry.id} has the same conditions"):
            store.remember(allow, by="alice", by_uid=1000, created=2.0, replace_others=False)
        assert [entry.rule for entry in store.rules(3.0, "", None)] == [rule]
        own = store.remember(allow, by="root", by_uid=0, created=4.0, replace_others=False)
        assert own.replaced == (by_root.entry.id,)
