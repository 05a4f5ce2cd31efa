"""The hash chain: what changes a row is noticed, wherever it is, and what is honest is not."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from auditscene import BEGAN, record, store_day
from hypothesis import given, settings
from hypothesis import strategies as st

from arbiter.records import Progress, Record, State
from arbiter.rules import parse
from arbiter.store import Author, Kept, Store, UnstorableError, Wanted, chain
from arbiter.store.chain import CHAINS, DECISIONS, RULE_CHANGES
from arbiter.store.checkpoints import RETENTION, checkpoint, read_point
from arbiter.store.rows import RECORD_COLUMNS
from arbiter.store.verify import Verified
from arbiter.store.walk import Broken

COMPLETED = ("state", "replied", "closed", "out_bytes", "in_bytes", "out_packets", "in_packets")


def fill(path: Path) -> Path:
    """Twelve records, and rules that were added, replaced, imported, removed and undone."""
    store_day(path)
    with Store.open(path) as store:
        for port in (1, 2, 3, 1):
            store.remember(parse(f"allow port={port}"), by="alice", by_uid=1000, created=BEGAN)
        store.remove(3, "bob", at=BEGAN + 1)
        wanted = [Wanted(parse("deny port=7")), Wanted(parse("deny port=8 app=/usr/bin/curl"))]
        store.import_rules(wanted, author=Author("root", 0, "cli"), created=BEGAN + 2)
        store.undo(None, BEGAN + 3, "", by="root")
        store.evidence.checkpoint("start", BEGAN + 4)
        store.record([record(400 + i, app=f"/usr/bin/{i}", exe="") for i in range(6)])
    return path


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("chain") / "a.db")


@pytest.fixture
def path(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(filled, tmp_path / "a.db"))


def change(path: Path, sql: str, *values: Any) -> None:
    """What somebody with another program does."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(sql, values)


def verified(path: Path, *points: str) -> Verified:
    with Store.open(path, readonly=True) as store:
        return store.evidence.verify([read_point(point) for point in points])


def broken(path: Path, *points: str) -> tuple[str, str, int | None]:
    """The one thing that is broken: word, table, id."""
    (first, *_) = verified(path, *points).broken
    return first.what, first.table, first.id


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


# --- what is chained ------------------------------------------------------------------------


def test_a_database_as_arbiter_left_it_is_intact(path: Path) -> None:
    found = verified(path)
    assert found.broken == []
    decisions, changes = found.chains
    assert (decisions.records, decisions.first, decisions.last, decisions.older) == (12, 1, 12, 0)
    assert changes.records == changes.last == len(rows(path, "SELECT * FROM rule_changes")) > 9


def test_every_column_is_covered_but_what_is_completed_later() -> None:
    """A new column of a record is covered by a new FORMAT, and old rows keep theirs."""
    assert DECISIONS.columns + COMPLETED == ("id", *RECORD_COLUMNS)
    with Store.open(fill_empty()) as store:
        for one in CHAINS:
            table = store._db.execute(f"PRAGMA table_info({one.table})").fetchall()
            kinds = {name: kind for _, name, kind, *_ in table if name in one.columns}
            assert {n for n, kind in kinds.items() if kind == "INTEGER"} == one.integers
            assert {n for n, kind in kinds.items() if kind == "REAL"} == one.reals
        changed = {row[1] for row in store._db.execute("PRAGMA table_info(rule_changes)")}
        assert changed == {*RULE_CHANGES.columns, "hash"}


_EMPTY: list[Path] = []


def fill_empty() -> Path:
    return _EMPTY[0]


@pytest.fixture(autouse=True, scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> None:
    _EMPTY.append(tmp_path_factory.mktemp("empty") / "a.db")


ANY = {
    "time": st.floats() | st.integers(0, 9),
    "waited": st.floats() | st.just(-0.0),
    "app": st.text(max_size=9) | st.sampled_from(["/a\udcff", "a\0b", ""]),
    "metered": st.none() | st.booleans(),
    "uid": st.none() | st.integers(),
    "length": st.integers() | st.booleans(),
    "note": st.text(max_size=300),
}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries(ANY), max_size=4))
def test_any_record_is_chained_as_the_database_will_give_it(fields: list[dict[str, Any]]) -> None:
    with Store.open(fill_empty()) as store:
        store.record([Record(decision="allow", reason="rule", **one) for one in fields])
        assert store.evidence.verify().broken == []


def test_what_becomes_of_a_connection_is_written_without_breaking_the_chain(path: Path) -> None:
    with Store.open(path) as store:
        store.lives.complete([Progress(4, State.CLOSED, 1.0, 2.0, 3, 4, 5, 6, 7)])
    assert verified(path).broken == []


def in_format_1(path: Path) -> None:
    """As an arbiter before format 2 wrote it: `count` was covered."""
    with Store.open(path) as store:
        for one in CHAINS:
            columns, before = ", ".join(one.columns), None
            for values in store._db.execute(f"SELECT {columns} FROM {one.table} ORDER BY id"):
                before = chain.row_hash(one, before, values, 1)
                sql = f"UPDATE {one.table} SET hash = ? WHERE id = ?"
                store._db.execute(sql, (before, values[0]))
            store._db.execute("UPDATE chains SET hash = ? WHERE name = ?", (before, one.table))
        store._db.execute("DELETE FROM checkpoints")


def test_rows_of_the_older_format_hold_and_newer_ones_follow_them(path: Path) -> None:
    in_format_1(path)
    with Store.open(path) as store:
        store.record([record(500)])
        store.remember(parse("allow port=99"), by="alice", by_uid=1000, created=BEGAN + 9)
        store.lives.complete([Progress(13, count=3)])
    assert {row[0][0] for row in rows(path, "SELECT hash FROM decisions")} == {1, 2}
    decisions, changes = verified(path).chains
    assert decisions.broken is changes.broken is None
    assert decisions.records == 13
    change(path, "UPDATE decisions SET count = 2 WHERE id = 5")
    assert broken(path) == ("changed", "decisions", 5)


def test_how_many_packets_a_record_stands_for_may_be_told_later(path: Path) -> None:
    with Store.open(path) as store:
        store.lives.complete([Progress(2, count=3)])
        assert store.evidence.verify().broken == []
    assert rows(path, "SELECT count, state, closed FROM decisions WHERE id = 2") == [(3, "", None)]


def test_an_id_that_is_not_after_the_others_is_refused(path: Path) -> None:
    with Store.open(path) as store:
        store.record([Kept(20, record(0))])
        with pytest.raises(UnstorableError, match="19 is not after 21"):
            store.record([Kept(21, record(0)), Kept(19, record(0))])
        assert store.lives.begin(1.0) == 21


def test_an_id_is_never_used_again_after_rows_were_cleared(path: Path) -> None:
    with Store.open(path) as store:
        store._db.execute("DELETE FROM decisions")
        assert store.lives.begin(1.0) == 13


def test_only_one_place_writes_to_each_chain() -> None:
    """The steps of migrations aside, which copy what was there before there was a chain."""
    found = {"decisions": set[str](), "rule_changes": set[str]()}
    for source in (Path(__file__).parent.parent / "arbiter").rglob("*.py"):
        for table, places in found.items():
            if f"INSERT INTO {table}" in source.read_text() and source.name != "steps.py":
                places.add(source.name)
    assert found == {"decisions": {"rows.py"}, "rule_changes": {"changes.py"}}


# --- an independent checker, written from docs/audit.md -------------------------------------


def packed(value: Any, column: str, chained: chain.Chain) -> bytes:
    """MessagePack by its specification, the shortest form of each value."""
    if value is None:
        return b"\xc0"
    if column in chained.reals:
        return b"\xcb" + struct.pack(">d", value)
    if column in chained.integers:
        if value >= 0:
            for top, mark, form in ((1 << 8, 0xCC, ">B"), (1 << 16, 0xCD, ">H"),
                                    (1 << 32, 0xCE, ">I"), (1 << 64, 0xCF, ">Q")):  # fmt: skip
                if value < 128:
                    return bytes([value])
                if value < top:
                    return bytes([mark]) + struct.pack(form, value)
        for low, mark, form in ((1 << 7, 0xD0, ">b"), (1 << 15, 0xD1, ">h"),
                                (1 << 31, 0xD2, ">i"), (1 << 63, 0xD3, ">q")):  # fmt: skip
            if value >= -32:
                return struct.pack(">b", value)
            if value >= -low:
                return bytes([mark]) + struct.pack(form, value)
    return text(value)


def text(value: str) -> bytes:
    data = value.encode()
    if len(data) < 32:
        return bytes([0xA0 | len(data)]) + data
    if len(data) < 1 << 8:
        return b"\xd9" + struct.pack(">B", len(data)) + data
    if len(data) < 1 << 16:
        return b"\xda" + struct.pack(">H", len(data)) + data
    return b"\xdb" + struct.pack(">I", len(data)) + data


def recomputed(path: Path, chained: chain.Chain) -> Iterator[tuple[int, bytes, bytes]]:
    """(id, the hash as it should be, the hash as it is)."""
    before = b""
    columns = ", ".join(chained.columns)
    for *values, stored in rows(path, f"SELECT {columns}, hash FROM {chained.table} ORDER BY id"):
        kept = [(v, c) for v, c in zip(values, chained.columns, strict=True) if c != "count"]
        count = len(kept) + 2
        head = bytes([0x90 | count]) if count < 16 else b"\xdc" + struct.pack(">H", count)
        body = b"\xc4" + bytes([len(before)]) + before if before else b"\xc0"
        body += text(chained.table)
        for value, column in kept:
            body += packed(value, column, chained)
        before = b"\x02" + hashlib.sha256(head + body).digest()[:16]
        yield values[0], before, stored


@pytest.mark.parametrize("chained", CHAINS, ids=lambda chained: chained.table)
def test_another_program_comes_to_the_same_hashes(path: Path, chained: chain.Chain) -> None:
    with Store.open(path) as store:
        odd: dict[str, Any] = {
            "uid": -5000,
            "pid": -(1 << 40),
            "length": 1 << 40,
            "rule_id": -3,
            "note": "é" * 200,
        }
        store.record([record(0, **odd), record(1, note="x" * 70_000, waited=0.1, metered=True)])
    found = list(recomputed(path, chained))
    assert len(found) > 8
    assert [(id, true) for id, true, _ in found] == [(id, stored) for id, _, stored in found]


def test_the_docs_list_what_is_covered_in_its_order() -> None:
    page = " ".join((Path(__file__).parent.parent / "docs" / "audit.md").read_text().split())
    for one in CHAINS:
        covered = [column for column in one.columns if column != "count"]
        assert ", ".join(covered) in page, one.table


# --- what is noticed ------------------------------------------------------------------------


def other(value: Any) -> Any:
    """Another value of the same type: one bit, or one letter."""
    if value is None:
        return 0
    if isinstance(value, str):
        return chr(ord(value[0]) ^ 1) + value[1:] if value else "x"
    return value + 1


COVERED = [(one, column) for one in CHAINS for column in one.columns[1:] if column != "count"]


@settings(max_examples=120, deadline=None)
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


# --- what is missing honestly ---------------------------------------------------------------


def test_a_record_that_was_lost_is_intact_with_a_gap_and_broken_without(path: Path) -> None:
    with Store.open(path) as store:
        store.record([Kept(15, record(500))])
        assert broken(path) == ("untold", "decisions", 15)
        store.lives.gap(BEGAN + 9000, BEGAN + 9100, 2, "another time")
        assert broken(path) == ("untold", "decisions", 15)
        store.lives.gap(BEGAN + 450, BEGAN + 460, 2, "a test")
    found = verified(path)
    assert (found.broken, found.chains[0].lost) == ([], 2)


def cleared(path: Path, upto: int, *, left: int = 0) -> None:
    """As retention does: a checkpoint, and then the rows, the first `left` of them not yet."""
    with Store.open(path) as store:
        store._db.execute("BEGIN IMMEDIATE")
        made = checkpoint(store._db, DECISIONS, RETENTION, BEGAN + 1000, upto)
        assert made is not None and made.count == upto
        store._db.execute("DELETE FROM decisions WHERE id <= ?", (upto - left,))
        store._db.execute("COMMIT")


@pytest.mark.parametrize(("upto", "left"), [(3, 0), (6, 0), (8, 0), (8, 2), (12, 0), (8, 8)])
def test_rows_that_retention_cleared_away_are_no_break(path: Path, upto: int, left: int) -> None:
    cleared(path, upto, left=left)
    found = verified(path)
    assert found.broken == []
    assert found.chains[0].cleared == ((upto - left) or None)
    with Store.open(path) as store:
        assert store.lives.begin(1.0) == 13
        store.record([record(2000)])
    assert verified(path).broken == []
    if upto < 12:
        change(path, "UPDATE decisions SET app = 'x' WHERE id = ?", upto + 1)
        assert broken(path)[:2] == ("changed", "decisions")


def test_retention_hides_nothing_behind_its_checkpoint(path: Path) -> None:
    cleared(path, 6)
    change(path, "DELETE FROM decisions WHERE id = 7")
    assert broken(path) == ("missing", "decisions", 8)


def test_a_given_checkpoint_of_cleared_rows_is_compared_with_the_one_here(path: Path) -> None:
    with Store.open(path) as store:
        [kept] = [one.text for one in store.evidence.checkpoints() if one.chain == "decisions"]
    cleared(path, 8)
    assert verified(path, kept).broken == []
    assert broken(path, kept[:-1] + ("0" if kept[-1] != "0" else "1"))[0] == "gone"
    change(path, "DELETE FROM checkpoints WHERE why = 'start'")
    assert broken(path, kept)[0] == "gone"


def test_rows_of_an_older_schema_are_told_and_not_proven(path: Path) -> None:
    """As the step to schema 8 leaves them."""
    change(path, "UPDATE decisions SET hash = NULL")
    change(path, "DELETE FROM checkpoints")
    change(path, "DELETE FROM sqlite_sequence WHERE name = 'checkpoints'")
    begun = "UPDATE chains SET first = 13, last = 12, hash = NULL, count = 0"
    change(path, f"{begun} WHERE name = 'decisions'")
    assert (verified(path).broken, verified(path).chains[0].older) == ([], 12)
    with Store.open(path) as store:
        store.record([record(900), record(901)])
    found = verified(path)
    assert (found.broken, found.chains[0].first, found.chains[0].last) == ([], 13, 14)
    change(path, "UPDATE decisions SET saddr = '10.9.9.9' WHERE id = 3")
    assert verified(path).broken == []


# --- beside the chains ----------------------------------------------------------------------


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


NONE = "0" * 32


@pytest.mark.parametrize(
    "text",
    ["", "decisions:1", f"rules:1:01{NONE}", "decisions:1:zz", f"decisions:x:01{NONE}",
     f"decisions:1:03{NONE}", f"decisions:1:01{NONE}\n"],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"it is not TABLE:ID:HASH|format 3"):
        read_point(text)
