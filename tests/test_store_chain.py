"""The hash chain: what it covers, and that what is missing honestly breaks nothing."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from auditscene import BEGAN, record
from chainscene import broken, change, put, rows, verified
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from arbiter.records import Progress, Record, State
from arbiter.rules import parse
from arbiter.store import Kept, Store, UnstorableError, chain
from arbiter.store.chain import CHAINS, DECISIONS, RULE_CHANGES
from arbiter.store.checkpoints import RETENTION, checkpoint
from arbiter.store.rows import RECORD_COLUMNS

COMPLETED = ("state", "replied", "closed", "out_bytes", "in_bytes", "out_packets", "in_packets")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return put(tmp_path / "a.db")


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


@settings(max_examples=examples(60), deadline=None)
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
