"""Records that are completed on disk, ids that are the daemon's, and gaps that are said."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playbook import START, owner, packet

from arbiter.events import Reason, Report
from arbiter.memory import Memory
from arbiter.model import ACCEPTED, ALLOW, Flow
from arbiter.records import Progress, Record, Running, State
from arbiter.settings import Settings
from arbiter.store import Kept, LockedError, Store, Writer
from arbiter.store.filters import Wanted
from arbiter.store.lives import KILLED, LifeRows
from arbiter.store.losses import Losses
from arbiter.store.writer import FLUSH_RECORDS, SKIPPED


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


def record(at: float = 5.0, **more: Any) -> Record:
    fields: dict[str, Any] = {
        "proto": "tcp", "saddr": "10.0.0.1", "sport": 4, "daddr": "192.0.2.1", "dport": 443,
        "state": "open",
    } | more  # fmt: skip
    return Record(at, "allow", "rule", **fields)


FULL = Progress(7, State.CLOSED, 6.0, 9.0, 100, 200, 3, 4)


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, address)


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(path)
    found = database.execute(sql).fetchall()
    database.close()
    return found


def test_a_record_has_the_id_that_the_daemon_gave_it(store: Store) -> None:
    store.record([Kept(7, record()), Kept(9, record())])
    assert [kept.id for kept in store.records.latest(Wanted(), 9)] == [7, 9]
    assert store.lives.begin(1.0) == 10


def test_a_record_is_completed_and_the_first_reply_stays(store: Store) -> None:
    store.record([Kept(7, record())])
    store.lives.complete([Progress(7, State.OPEN, 6.0, None, 10, 20, 1, 1)])
    store.lives.complete(
        [Progress(7, State.OPEN, 8.0, None, 90, 20, 2, 1), Progress(8, State.OPEN)]
    )
    store.lives.complete([Progress(7, State.CLOSED, None, 9.0, 100, 200, 3, 4)])
    kept = store.records.one(7)
    assert kept is not None
    done = kept.record
    assert (done.state, done.replied, done.closed) == ("closed", 6.0, 9.0)
    assert (done.out_bytes, done.in_bytes, done.out_packets, done.in_packets) == (100, 200, 3, 4)
    store.lives.complete([Progress(7, State.UNKNOWN)])
    assert store.records.one(7).record.out_bytes == 100, "what is not known takes nothing away"  # type: ignore[union-attr]


def test_numbers_that_no_column_holds_are_as_near_as_can_be(store: Store) -> None:
    store.record([Kept(7, record())])
    store.lives.complete([Progress(7, State.OPEN, float("nan"), None, 1 << 70, 0, 0, 0)])
    kept = store.records.one(7)
    assert kept is not None and kept.record.out_bytes == (1 << 63) - 1


def test_what_is_open_is_told_for_the_next_run(store: Store) -> None:
    store.record(
        [
            Kept(1, record(state="closed")),
            Kept(2, record(waited=2.0)),
            Kept(3, record(proto="47", saddr="2001:db8::1", daddr="2001:db8::2", sport=0, dport=0)),
            Kept(4, record(daddr="nowhere")),
            Kept(5, record(proto="what")),
        ]
    )
    four = Flow(6, bytes([10, 0, 0, 1]), 4, bytes([192, 0, 2, 1]), 443)
    six = Flow(47, packed("2001:db8::1"), 0, packed("2001:db8::2"), 0)
    assert store.lives.running() == [Running(2, 3.0, four), Running(3, 5.0, six)]
    plan = store._db.execute("EXPLAIN QUERY PLAN SELECT id FROM decisions WHERE state = 'open'")
    assert "decisions_open" in plan.fetchone()[3]


def test_a_run_that_did_not_end_is_a_gap(store: Store, path: Path) -> None:
    assert store.lives.begin(10.0) == 1
    store.lives.end(20.0)
    assert store.lives.begin(30.0) == 1
    store.record([record(44.0)])
    assert store.lives.begin(50.0) == 2
    assert rows(path, "SELECT started, ended FROM runs") == [(10, 20), (30, 44), (50, None)]
    assert rows(path, "SELECT time_from, time_to, count, why FROM gaps") == [(44, 50, None, KILLED)]


# --- through the writer ---------------------------------------------------------------------


def test_what_comes_of_a_record_is_written_after_it(path: Path) -> None:
    writer = Writer(path)
    assert writer.begin_run(1.0).result(5) == 1
    for id in range(1, 2001):
        writer.record(lambda id=id: Kept(id, record()))  # type: ignore[misc]
        writer.complete([Progress(id, State.OPEN, None, None, 1, 1, 1, 1)])
    writer.complete([Progress(id, State.CLOSED, 2.0, 3.0, id, 2, 1, 1) for id in range(1, 2001)])
    writer.close()
    sql = "SELECT count(*), sum(out_bytes) FROM decisions WHERE state = 'closed' AND closed = 3"
    assert rows(path, sql) == [(2000, 2001000)]
    assert writer.problems() == ()


def locked(path: Path) -> sqlite3.Connection:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


def test_what_found_no_room_is_written_down_as_a_gap(path: Path) -> None:
    writer = Writer(path, busy=0.02, retry=(0.05, 0.1), bound=10)
    other = locked(path)
    began = time.time()
    for id in range(1, 16):
        writer.record(Kept(id, record()))
        writer.complete([Progress(id, State.UNKNOWN)])
    ended = time.time()
    assert writer.lost == 5
    other.execute("ROLLBACK")
    other.close()
    wait(lambda: bool(rows(path, "SELECT * FROM gaps")))
    writer.close()
    ((since, until, count, why),) = rows(path, "SELECT time_from, time_to, count, why FROM gaps")
    assert began <= since <= until <= ended
    assert (count, "no room" in why) == (5, True)
    assert rows(path, "SELECT count(*) FROM decisions WHERE state = 'unknown'") == [(10,)]
    lost, incomplete = writer.problems()
    assert "5 found no room" in lost
    assert "what became of 5 connections" in incomplete


def wait(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_completion_waits_for_a_record_that_has_not_had_its_turn(path: Path) -> None:
    writer = Writer(path, busy=0.02, retry=(0.05, 0.1))
    other = locked(path)
    count = 2 * FLUSH_RECORDS + 10
    for id in range(1, count + 1):
        writer.record(Kept(id, record()))
    writer.complete([Progress(count, State.CLOSED, None, 9.0)])
    other.execute("ROLLBACK")
    other.close()
    wait(lambda: rows(path, "SELECT id FROM decisions WHERE state = 'closed'") == [(count,)])
    writer.close()


def test_what_ends_at_once_is_completed_after_its_record(path: Path) -> None:
    async def scene() -> None:
        memory = Memory(path, lambda event: None, Settings())
        await memory.begin()
        report = Report(START.wall, packet(1), owner(), ALLOW, Reason.RULE, verdict=ACCEPTED)
        assert memory.report(report, "lte") == 1
        memory.complete([Progress(1, State.CLOSED, None, 9.0, 60, 40, 1, 1)])
        await asyncio.wrap_future(memory.writer.last_change())  # and then all that waits is written
        await asyncio.sleep(0.1)
        await memory.close()

    asyncio.run(scene())
    sql = "SELECT id, state, link, out_bytes FROM decisions"
    assert rows(path, sql) == [(1, "closed", "lte", 60)]
    assert rows(path, "SELECT ended IS NULL FROM runs") == [(0,)]


def reported(id: int, reason: Reason = Reason.RULE) -> Report:
    return Report(START.wall + id, packet(1), owner(), ALLOW, reason, verdict=ACCEPTED)


def test_what_waits_for_the_disk_is_called_once_the_records_are_there(path: Path) -> None:
    found: list[list[tuple[Any, ...]]] = []

    async def scene() -> None:
        memory = Memory(path, lambda event: None, Settings())
        await memory.begin()
        for id in range(1, 5):
            memory.report(reported(id), "")
        written = asyncio.Event()
        memory.when_written(written.set)
        assert not written.is_set(), "it is never called at once: the caller goes on first"
        await asyncio.wait_for(written.wait(), 5)
        found.append(rows(path, "SELECT count(*) FROM decisions"))
        memory.when_written(written.clear)  # with nothing to wait for
        await memory.close()
        assert not written.is_set()

    asyncio.run(scene())
    assert found == [[(4,)]]


def test_where_the_database_takes_nothing_nobody_waits_for_it(path: Path) -> None:
    writer = Writer(path, busy=0.02, retry=(5.0, 5.0))
    assert writer.written().result(1) is True
    writer.record(Kept(1, record()))
    assert writer.written().result(5) is True
    other = locked(path)
    writer.record(Kept(2, record()))
    assert writer.written().result(5) is False
    assert writer.written().result(0) is False, "it has failed just now, and pauses"
    other.execute("ROLLBACK")
    other.close()
    writer.close()
    assert rows(path, "SELECT id FROM decisions") == [(1,), (2,)]
    assert writer.written().result(0) is True


def test_records_of_a_second_batch_are_waited_for_too(path: Path) -> None:
    writer = Writer(path)
    other = locked(path)
    for id in range(1, FLUSH_RECORDS + 6):
        writer.record(Kept(id, record()))
    found: list[list[tuple[Any, ...]]] = []
    written = writer.written()  # its callback runs in the writer's thread, before the next batch
    written.add_done_callback(lambda _: found.append(rows(path, "SELECT count(*) FROM decisions")))
    other.execute("ROLLBACK")
    other.close()
    assert written.result(10) is True
    writer.close()
    assert found == [[(FLUSH_RECORDS + 5,)]]


def test_ids_that_were_skipped_are_told_and_nothing_is_lost(path: Path) -> None:
    writer = Writer(path, busy=0.02, retry=(0.05, 0.1))
    now = time.time()
    writer.record(Kept(1, record(now)))
    assert writer.written().result(5) is True
    other = locked(path)
    writer.skipped()
    writer.record(Kept(4, record(now + 1)))
    other.execute("ROLLBACK")
    other.close()
    wait(lambda: bool(rows(path, "SELECT * FROM gaps")))
    writer.close()
    assert (writer.lost, writer.problems()) == (0, ())
    assert rows(path, "SELECT count, why FROM gaps") == [(0, SKIPPED)]
    with Store.open(path) as store:
        found = store.evidence.verify()
    assert (found.broken, found.chains[0].lost) == ([], 2)


def test_one_record_that_cannot_be_stored_keeps_nobody_waiting(path: Path) -> None:
    writer = Writer(path, busy=0.02, retry=(0.1, 0.1))
    for id in (1, 1, 2):
        writer.record(Kept(id, record()))
    assert writer.written().result(5) is True
    writer.close()
    assert writer.lost == 1


def test_a_run_writes_checkpoints_and_tells_them_to_the_journal(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arbiter.memory.CHECKPOINT_RECORDS", 5)
    caplog.set_level("INFO", "arbiter")

    async def scene() -> None:
        memory = Memory(path, lambda event: None, Settings())
        await memory.begin()
        for seconds, count in ((1e9, 7), (1e9, 1), (0.01, 1), (1e9, 1)):
            monkeypatch.setattr("arbiter.memory.CHECKPOINT_SECONDS", seconds)
            for id in range(count):
                memory.report(reported(id), "")
            await asyncio.sleep(0.02)
            written = asyncio.Event()
            memory.when_written(written.set)
            await written.wait()
        await memory.close()

    with Store.open(path) as store:
        store.record([record(1.0)])
    asyncio.run(scene())
    with Store.open(path) as store:
        made = store.evidence.checkpoints()
        assert store.evidence.verify(made).broken == []
    whys = [(1, "start"), (8, "records"), (10, "day"), (11, "stop")]
    assert [(one.last, one.why) for one in made] == whys
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("checkpoint ")]
    assert told == [f"checkpoint {one.text} ({one.why})" for one in made]


def test_a_record_whose_id_is_taken_is_lost_alone_and_said(path: Path) -> None:
    writer = Writer(path)
    for id in (1, 2, 2, 3):
        writer.record(Kept(id, record(float(id))))
    wait(lambda: bool(rows(path, "SELECT * FROM gaps")))
    writer.close()
    assert rows(path, "SELECT id FROM decisions") == [(1,), (2,), (3,)]
    assert rows(path, "SELECT count, why FROM gaps") == [(1, "no database would take them")]


def test_a_failing_completion_is_tried_again_and_writes_no_record_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, fails = LifeRows.complete, [True, True]

    def complete(self: LifeRows, progress: Any) -> None:
        if fails and fails.pop():
            raise LockedError("cannot complete", path, "busy", "try again")
        whole(self, progress)

    monkeypatch.setattr(LifeRows, "complete", complete)
    writer = Writer(path, retry=(0.05, 0.1))
    writer.record(Kept(7, record()))
    writer.complete([FULL])
    wait(lambda: rows(path, "SELECT state FROM decisions") == [("closed",)])
    writer.close()
    assert (writer.lost, writer.problems()) == (0, ())


KILL = """
import sys, time
from arbiter.records import Progress, Record, State
from arbiter.store import Kept, Writer
writer = Writer(sys.argv[1])
id = writer.begin_run(time.time()).result()
print(id, flush=True)
while True:
    writer.record(Kept(id, Record(time.time(), "allow", "rule", proto="tcp", saddr="10.0.0.1",
                                  daddr="192.0.2.1", state="open")))
    writer.complete([Progress(id, State.CLOSED, None, time.time(), 1, 1, 1, 1)])
    id += 1
    time.sleep(0.001)
"""


def test_after_a_kill_ids_go_on_and_the_gap_is_said(path: Path) -> None:
    for turn in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", KILL, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        first = int(process.stdout.readline())
        ((last,),) = rows(path, "SELECT ifnull(max(id), 0) FROM decisions")
        assert first == last + 1 or last >= first  # it may have written some already
        time.sleep(1.2 + 0.3 * turn)
        killed = time.time()
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        ((newest, found, low, high),) = rows(
            path, "SELECT max(time), count(*), min(id), max(id) FROM decisions"
        )
        assert killed - newest < 1.5, "at most the last second is missing"
        assert (low, high) == (1, found), "no id is left out, and none comes twice"
        assert len(rows(path, "SELECT * FROM gaps")) == turn
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=20))
def test_every_loss_is_in_one_gap(steps: list[tuple[bool, int]]) -> None:
    losses, told, now = Losses(), 0, 0.0
    for tell, count in steps:
        gap = losses.gap
        now += 1
        losses.add(count, now, "why")
        if tell and gap is not None:  # it was being written while more was lost
            told += gap.count
            losses.told(gap)
    left = losses.gap.count if losses.gap is not None else 0
    assert told + left == losses.count == sum(count for _, count in steps)
