"""What `verify` finds beside the chains: rules, tables, sums, indexes, the file itself."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from auditscene import BEGAN, record
from chainscene import broken, change, put, rows, verified

from arbiter.store import Author, Store
from arbiter.store.walk import Broken


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return put(tmp_path / "a.db")


@pytest.mark.parametrize(
    ("sql", "id"),
    [
        ("UPDATE rules SET line = 'allow port=1-65535' WHERE id = 2", 2),
        ("UPDATE rules SET retired = 5, retired_reason = 'removed' WHERE id = 2", 2),
        ("UPDATE rules SET retired = NULL, retired_reason = NULL WHERE id = 3", 3),
        (
            "INSERT INTO rules (id, line, layer, conditions, decision, app, scope_user, lifetime,"
            " created, by_user) VALUES (77, 'allow', 2, 'x', 'allow', '', '', 'forever', 1, 'eve')",
            77,
        ),
    ],
)  # fmt: skip
def test_rules_that_no_change_made_are_named(path: Path, sql: str, id: int) -> None:
    change(path, sql)
    assert broken(path) == ("rule", "rules", id)


@pytest.mark.parametrize(
    ("sql", "table"),
    [
        ("CREATE TRIGGER t AFTER INSERT ON decisions BEGIN DELETE FROM decisions WHERE id = 3;"
         " END", "decisions"),
        ("ALTER TABLE rule_changes ADD COLUMN more TEXT", "rule_changes"),
        ("ALTER TABLE checkpoints RENAME COLUMN why TO reason", "checkpoints"),
        ("DROP TRIGGER decisions_added", "decisions_added"),
        ("DROP TRIGGER daily_grown", "daily_grown"),
        ("DROP VIEW denied", "denied"),
    ],
)  # fmt: skip
def test_tables_that_are_not_as_arbiter_makes_them_are_named(
    path: Path, sql: str, table: str
) -> None:
    change(path, "CREATE INDEX mine ON decisions (note)")
    change(path, "CREATE VIEW my_view AS SELECT * FROM decisions")
    assert verified(path).broken == [], "what an administrator adds for readers does no harm"
    change(path, sql)
    assert broken(path) == ("schema", table, None)
    assert verified(path).chains == ()


def test_a_view_that_tells_something_else_is_named(path: Path) -> None:
    change(path, "DROP VIEW denied")
    change(path, "CREATE VIEW denied AS SELECT app FROM decisions WHERE false")
    assert broken(path) == ("schema", "denied", None)


HIDDEN = "(SELECT id FROM outcomes WHERE app = '/usr/bin/3')"


@pytest.mark.parametrize(
    "sql",
    [
        f"DELETE FROM totals WHERE outcome = {HIDDEN}",
        f"UPDATE totals SET first = first + 0.5 WHERE outcome = {HIDDEN}",
        f"UPDATE totals SET last = last - 0.5 WHERE outcome = {HIDDEN}",
        f"UPDATE totals SET connections = 0 WHERE outcome = {HIDDEN}",
        f"DELETE FROM daily WHERE outcome = {HIDDEN}",
        f"UPDATE daily SET day = day - 86400 WHERE outcome = {HIDDEN}",
        f"UPDATE daily SET connections = 0 WHERE outcome = {HIDDEN}",
        "UPDATE outcomes SET app = '/usr/bin/other' WHERE app = '/usr/bin/3'",
        "UPDATE destinations SET daddr = '1.2.3.4'",
    ],
)
def test_a_record_that_the_sums_hide_is_named(path: Path, sql: str) -> None:
    """Filters go by the sums: what they leave out no command would show."""
    ((id,),) = rows(path, "SELECT id FROM decisions WHERE app = '/usr/bin/3'")
    change(path, sql)
    found = broken(path)
    assert found[:2] == ("sums", "decisions")
    assert found[2] == id or "destinations" in sql


def test_sums_of_days_that_retention_cleared_away_are_not_missed(path: Path) -> None:
    (day,) = {row[0] for row in rows(path, "SELECT day FROM daily")}
    change(path, "DELETE FROM daily")
    change(
        path,
        "INSERT INTO pruned (time, what, before, count, why) VALUES (?, 'daily', ?, 1, 'age')",
        BEGAN,
        day + 86400,
    )
    assert verified(path).broken == []
    change(path, "UPDATE totals SET connections = 0")
    assert broken(path)[0] == "sums"


def test_a_table_with_values_of_other_types_is_no_traceback(path: Path) -> None:
    change(path, "ALTER TABLE decisions RENAME TO old")
    change(path, "CREATE TABLE decisions AS SELECT *, 'x' AS more FROM old")
    change(path, "UPDATE decisions SET id = 'one', hash = 'two', time = 9e999")
    assert broken(path) == ("schema", "decisions", None)


@pytest.mark.parametrize("table", ["checkpoints", "runs", "gaps", "profile_switches"])
def test_rows_without_a_chain_that_are_gone_are_counted(path: Path, table: str) -> None:
    with Store.open(path) as store:
        for turn in range(3):
            store.lives.begin(BEGAN + turn)
            store.lives.gap(BEGAN, BEGAN, 0, "a test")
            store.record([record(600 + turn)])
            store.evidence.checkpoint("day", BEGAN)
            store.profiles.add(f"p{turn}", (), BEGAN, Author("a"))
            store.profiles.use(f"p{turn}", BEGAN, Author("a"))
    assert verified(path).broken == []
    change(path, f"DELETE FROM {table} WHERE id IN (1, 3)")
    (found,) = verified(path).broken
    assert (found.what, found.table) == ("deleted", table)
    assert found.text == f"{table}: 2 rows are gone that retention has not deleted"
    told = "INSERT INTO pruned (time, what, before, count, why) VALUES (1, ?, 1, 3, '')"
    change(path, told, table)
    (found,) = verified(path).broken
    assert "1 rows more are there, or were deleted, than ever were given an id" in found.text
    change(path, "UPDATE pruned SET count = 2")
    assert verified(path).broken == []
    change(path, "UPDATE sqlite_sequence SET seq = 'x'")
    assert {one.what for one in verified(path).broken} == {"deleted"}


def test_a_time_without_end_is_none(path: Path) -> None:
    change(path, "UPDATE decisions SET time = 9e999 WHERE id = 4")
    (found,) = verified(path).broken
    assert (found.what, found.id, found.time) == ("changed", 4, None)


@pytest.mark.parametrize("index", ["decisions_daddr", "decisions_time", "rules_app"])
def test_a_row_that_an_index_leaves_out_is_damage(path: Path, index: str) -> None:
    """Commands go by indexes: they would not show it."""
    change(path, "CREATE TABLE spare (a TEXT)")
    change(path, f"CREATE INDEX other ON spare ({'a, a' if 'decisions' in index else 'a'})")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute(
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master"
            " WHERE name = 'other') WHERE name = ?",
            (index,),
        )
        db.execute("DELETE FROM sqlite_master WHERE name = 'other'")
    (found,) = verified(path).broken
    assert found.what == "damaged" and index in found.text


@pytest.mark.parametrize("index", ["rules_once", "decisions_time"])
def test_an_index_that_is_gone_or_another_is_named(path: Path, index: str) -> None:
    change(path, f"DROP INDEX {index}")
    assert broken(path) == ("schema", index, None)
    change(path, f"CREATE INDEX {index} ON rules (id)")
    assert broken(path) == ("schema", index, None)


def test_damage_of_the_file_and_dangling_references_are_told(path: Path) -> None:
    change(path, "UPDATE rules SET replaced_by = 999 WHERE id = 1")
    assert verified(path).broken[0].what == "damaged"
    change(path, "UPDATE rules SET replaced_by = NULL WHERE id = 1")
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'decisions_app'"
        ).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size + size - 40)
        file.write(b"\xff" * 40)
    (damage,) = verified(path).broken
    assert isinstance(damage, Broken)
    assert damage.what == "damaged"
