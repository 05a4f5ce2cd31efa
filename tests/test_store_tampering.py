"""What changes a row of a chain is noticed, wherever it is; a checkpoint tells a forged one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from auditscene import BEGAN, record
from chainscene import broken, change, fill, put, verified
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from arbiter.rules import parse
from arbiter.store import Kept, Store, chain
from arbiter.store.chain import CHAINS, DECISIONS
from arbiter.store.checkpoints import read_point
from arbiter.store.rows import RECORD_COLUMNS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return put(tmp_path / "a.db")


def other(value: Any) -> Any:
    """Another value of the same type: one bit, or one letter."""
    if value is None:
        return 0
    if isinstance(value, str):
        return chr(ord(value[0]) ^ 1) + value[1:] if value else "x"
    return value + 1


COVERED = [(one, column) for one in CHAINS for column in one.columns[1:] if column != "count"]


@settings(max_examples=examples(120), deadline=None)
@given(st.sampled_from(COVERED), st.integers(1, 12))
def test_a_change_of_any_covered_column_of_any_row_is_named(
    column: tuple[chain.Chain, str], id: int
) -> None:
    one, name = column
    with Store.open(_FILLED[0]) as store:
        store._db.execute("PRAGMA foreign_keys = OFF")
        store._db.execute("PRAGMA ignore_check_constraints = ON")
        ((value,),) = store._db.execute(f"SELECT {name} FROM {one.table} WHERE id = ?", (id,))
        sql = f"UPDATE {one.table} SET {name} = ? WHERE id = ?"
        store._db.execute(sql, (other(value), id))
        first = store.evidence.verify().broken[0]
        store._db.execute(sql, (value, id))
        assert (first.what, first.table, first.id) == ("changed", one.table, id)
        assert store.evidence.verify().broken == []


_FILLED: list[Path] = []


@pytest.fixture(autouse=True, scope="module")
def writable(tmp_path_factory: pytest.TempPathFactory) -> None:
    _FILLED.append(fill(tmp_path_factory.mktemp("writable") / "a.db"))
    with closing(sqlite3.connect(_FILLED[0])) as db:
        count = db.execute("SELECT count(*) FROM rule_changes").fetchone()[0]
    assert count >= 10
    with Store.open(_FILLED[0]) as store:
        for port in range(20, 32 - count):
            store.remember(parse(f"deny port={port}"), by="x", created=BEGAN)


@pytest.mark.parametrize("id", [1, 5, 11])
def test_a_row_that_was_taken_out_is_named_by_the_next(path: Path, id: int) -> None:
    change(path, "DELETE FROM decisions WHERE id = ?", id)
    assert broken(path) == ("missing", "decisions", id + 1)


@pytest.mark.parametrize("rest", [11, 6, 3, 0])
def test_a_cut_end_is_noticed(path: Path, rest: int) -> None:
    change(path, "DELETE FROM decisions WHERE id > ?", rest)
    assert broken(path) == ("cut", "decisions", rest)


def copied(path: Path, id: int, to: int, hash: str = "hash") -> None:
    columns = ", ".join(DECISIONS.columns[1:])
    change(
        path,
        f"INSERT INTO decisions (id, {columns}, hash) SELECT ?, {columns}, {hash} FROM decisions"
        " WHERE id = ?",
        to,
        id,
    )


def test_a_row_that_was_put_in_is_named(path: Path) -> None:
    with Store.open(path) as store:
        store.lives.gap(BEGAN, BEGAN + 900, 5, "a test")
        store.record([Kept(20, record(500))])
    assert verified(path).broken == []
    copied(path, 12, 15)
    assert broken(path) == ("inserted", "decisions", 15)
    change(path, "DELETE FROM decisions WHERE id = 15")
    copied(path, 12, 15, "NULL")
    assert broken(path) == ("inserted", "decisions", 15)
    change(path, "DELETE FROM decisions WHERE id = 15")
    copied(path, 12, 77)
    assert broken(path) == ("inserted", "decisions", 77)


@pytest.mark.parametrize("id", [0, -5])
def test_a_row_that_was_put_in_before_the_first_is_no_older_one(path: Path, id: int) -> None:
    columns = ", ".join(RECORD_COLUMNS)
    change(
        path,
        f"INSERT INTO decisions (id, {columns}) SELECT {id}, {columns} FROM decisions LIMIT 1",
    )
    assert broken(path) == ("inserted", "decisions", id)


@pytest.mark.parametrize("table", ["decisions", "rule_changes"])
@pytest.mark.parametrize("by", ["+ 1", "- 1", "* 0"])
def test_a_chain_that_counted_other_rows_is_broken(path: Path, table: str, by: str) -> None:
    change(path, f"UPDATE chains SET count = count {by} WHERE name = ?", table)
    what, where, _ = broken(path)
    assert (what, where) == ("cut", table)


def test_two_rows_that_were_swapped_are_noticed(path: Path) -> None:
    for old, new in ((4, 99), (9, 4), (99, 9)):
        change(path, "UPDATE decisions SET id = ? WHERE id = ?", new, old)
    assert broken(path) == ("changed", "decisions", 4)


def test_a_hash_that_was_changed_is_told_from_a_row_that_was(path: Path) -> None:
    for hash in (b"\x01" + bytes(16), b"\x02" + bytes(16), b"\x03" + bytes(16), b""):
        change(path, "UPDATE decisions SET hash = ? WHERE id = 5", hash)
        assert broken(path) == ("hash", "decisions", 5)


def test_bytes_that_are_no_text_are_a_changed_row(path: Path) -> None:
    change(path, "UPDATE decisions SET note = CAST(x'ff41' AS TEXT) WHERE id = 5")
    assert broken(path) == ("changed", "decisions", 5)


def written_anew(path: Path, since: int) -> None:
    """What somebody does who knows how the chain is made: all hashes from here on, and its end."""
    with Store.open(path) as store:
        columns = ", ".join(DECISIONS.columns)
        db = store._db
        found = db.execute(f"SELECT {columns}, hash FROM decisions ORDER BY id").fetchall()
        before = None
        for *values, hash in found:
            before = chain.row_hash(DECISIONS, before, values) if values[0] >= since else hash
            db.execute("UPDATE decisions SET hash = ? WHERE id = ?", (before, values[0]))
        db.execute("UPDATE chains SET hash = ? WHERE name = 'decisions'", (before,))


def test_a_chain_that_was_written_anew_is_told_by_a_checkpoint_here_or_elsewhere(
    path: Path,
) -> None:
    with Store.open(path) as store:
        [kept] = [one.text for one in store.evidence.checkpoints() if one.chain == "decisions"]
    assert verified(path, kept).broken == []
    change(path, "UPDATE decisions SET saddr = '10.9.9.9' WHERE id = 5")
    written_anew(path, 5)
    assert broken(path) == ("checkpoint", "decisions", 6)
    change(path, "DELETE FROM checkpoints")
    assert broken(path) == ("deleted", "checkpoints", None)
    change(path, "DELETE FROM sqlite_sequence WHERE name = 'checkpoints'")
    assert verified(path).broken == [], "the whole of it can be forged"
    assert broken(path, kept) == ("checkpoint", "decisions", 6)


def test_a_checkpoint_of_rows_that_were_cut_off_is_told(path: Path) -> None:
    with Store.open(path) as store:
        kept = store.evidence.checkpoint("stop", 9.0)[-1].text
    change(path, "DELETE FROM decisions WHERE id > 10")
    sql = (
        "UPDATE chains SET last = 10, count = 10, hash = (SELECT hash FROM decisions WHERE id = 10)"
    )
    change(path, sql + " WHERE name = 'decisions'")
    assert broken(path) == ("checkpoint", "decisions", 12)
    change(path, "DELETE FROM checkpoints")
    assert broken(path) == ("deleted", "checkpoints", None)
    change(path, "DELETE FROM sqlite_sequence WHERE name = 'checkpoints'")
    assert verified(path).broken == []
    assert broken(path, kept) == ("checkpoint", "decisions", 12)


def test_a_checkpoint_counts_its_rows(path: Path) -> None:
    change(path, "UPDATE checkpoints SET count = count + 1 WHERE chain = 'decisions'")
    assert broken(path) == ("checkpoint", "decisions", 6)
    (first, *_) = verified(path).broken
    assert "the checkpoint of 2026-11-18 11:06:44 UTC (start)" in first.text


def test_a_chain_without_its_end_is_broken(path: Path) -> None:
    change(path, "DELETE FROM checkpoints")
    change(path, "DELETE FROM chains WHERE name = 'decisions'")
    assert broken(path) == ("cut", "decisions", None)
    with Store.open(path) as store:  # arbiter goes on, and what was is not proven by that
        store.record([record(900)])
    assert broken(path) == ("hash", "decisions", 1)


def test_a_chain_that_is_said_to_begin_later_is_broken(path: Path) -> None:
    change(path, "UPDATE chains SET first = 9")
    assert broken(path) == ("hash", "decisions", 1)
    change(path, "UPDATE decisions SET hash = NULL WHERE id < 9")
    assert broken(path) == ("changed", "decisions", 9)


NONE = "0" * 32


@pytest.mark.parametrize(
    "text",
    ["", "decisions:1", f"rules:1:01{NONE}", "decisions:1:zz", f"decisions:x:01{NONE}",
     f"decisions:1:03{NONE}", f"decisions:1:01{NONE}\n"],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"it is not TABLE:ID:HASH|format 3"):
        read_point(text)
