"""The writer's thread: durable rules, batched records, and a database that fails."""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arbiter.records import Record
from arbiter.rules.line import parse
from arbiter.store import ClosedError, LockedError, NotOursError, Store, Writer
from arbiter.store.inforce import Page

ROOT = Path(__file__).parents[1]


def record(number: int) -> Record:
    return Record(time=float(number), decision="allow", reason="rule", dport=number)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "arbiter.db"


@pytest.fixture
def writer(path: Path) -> Iterator[Writer]:
    made = Writer(path, busy=0.05, retry=(0.05, 0.2))
    yield made
    made.close()


def stored(path: Path) -> list[int]:
    with Store.open(path, readonly=True) as store:
        return [found.dport for found in reversed(store.decisions(limit=100_000))]


def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)


class Lock:
    """The write lock, held by another connection."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._db.execute("ROLLBACK")
        self._db.close()


def test_a_rule_is_in_the_file_when_its_future_is_done(writer: Writer, path: Path) -> None:
    made = writer.remember(parse("allow port=1"), by="alice", created=1.0).result(5)
    with Store.open(path, readonly=True) as store:
        assert store.rules(2.0, "", "") == [made.entry]
    again = writer.remember(parse("deny port=1"), by="alice", created=2.0).result(5)
    assert again.replaced == (made.entry.id,)
    assert writer.retire([again.entry.id], "exited", 3.0).result(5) == (again.entry.id,)
    session = writer.remember(parse("deny port=2 for=session"), by="a", created=3.0, session="r")
    assert writer.sweep(4.0, "", "r2").result(5) == (session.result(5).entry.id,)


def test_records_are_written_soon_and_in_order(writer: Writer, path: Path) -> None:
    for number in range(1, 21):
        writer.record(record(number))
    until(lambda: len(stored(path)) == 20)
    assert stored(path) == list(range(1, 21))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time alone flushes nothing in this test."""
    monkeypatch.setattr("arbiter.store.writer.FLUSH_SECONDS", 60.0)


@pytest.mark.usefixtures("patient")
def test_records_wait_for_company_but_many_are_written_at_once(writer: Writer, path: Path) -> None:
    for number in range(1, 500):
        writer.record(record(number))
    time.sleep(0.3)
    assert stored(path) == []
    writer.record(record(500))
    until(lambda: len(stored(path)) == 500)


@pytest.mark.usefixtures("patient")
def test_a_rule_takes_the_records_along(writer: Writer, path: Path) -> None:
    writer.record(record(1))
    writer.remember(parse("allow port=1"), by="alice", created=1.0).result(5)
    until(lambda: stored(path) == [1])


def test_rules_are_read_after_every_change_asked_for_before(writer: Writer) -> None:
    made = writer.remember(parse("allow port=1"), by="alice", created=1.0)
    assert writer.rules(2.0, "", "", 0, 9).result(5) == Page((made.result(0).entry,), {}, None)


def test_closing_does_everything_that_was_asked_for(path: Path) -> None:
    writer = Writer(path)
    futures = [
        writer.remember(parse(f"allow port={port}"), by="a", created=1.0) for port in range(1, 40)
    ]
    for number in range(1, 3001):
        writer.record(record(number))
    writer.close()
    writer.close()
    assert [future.result(0).entry.rule.ports[0][0] for future in futures] == list(range(1, 40))
    assert stored(path) == list(range(1, 3001))
    assert (writer.lost, writer.problems()) == (0, ())


def test_after_closing_rules_fail_aloud_and_records_are_counted(path: Path) -> None:
    writer = Writer(path)
    writer.close()
    with pytest.raises(ClosedError):
        writer.remember(parse("allow port=1"), by="a", created=1.0).result(1)
    writer.record(record(1))
    assert writer.lost == 1
    assert "1 found no room" in writer.problems()[0]


def test_a_database_that_cannot_be_opened_fails_at_once(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE x (y)")
    other.close()
    with pytest.raises(NotOursError):
        Writer(path)
    assert not [thread for thread in threading.enumerate() if thread.name == "arbiter-store"]


def test_a_rule_that_cannot_be_stored_fails_alone(writer: Writer, path: Path) -> None:
    with pytest.raises(ValueError, match="session"):
        writer.remember(parse("allow port=1 for=session"), by="a", created=1.0).result(5)
    with Lock(path), pytest.raises(LockedError):
        writer.remember(parse("allow port=1"), by="a", created=1.0).result(5)
    writer.remember(parse("allow port=1"), by="a", created=1.0).result(5)
    with Store.open(path, readonly=True) as store:
        assert len(store.rules(2.0, "", "")) == 1


def test_a_cancelled_rule_is_not_stored(writer: Writer, path: Path) -> None:
    with Lock(path):
        first = writer.remember(parse("allow port=1"), by="a", created=1.0)
        second = writer.remember(parse("allow port=2"), by="a", created=1.0)
        assert second.cancel()
        with pytest.raises(LockedError):
            first.result(5)
    writer.remember(parse("allow port=3"), by="a", created=1.0).result(5)
    with Store.open(path, readonly=True) as store:
        assert [entry.rule.ports for entry in store.rules(2.0, "", "")] == [((3, 3),)]


def test_a_failing_database_is_tried_again_until_the_records_are_in(
    writer: Writer, path: Path
) -> None:
    with Lock(path):
        for number in range(1, 1201):
            writer.record(record(number))
        until(lambda: bool(writer.problems()))
        assert "1200 decision records wait" in writer.problems()[0]
        assert "fuser" in writer.problems()[0]
        time.sleep(0.3)
        assert stored(path) == []
    until(lambda: len(stored(path)) == 1200)
    until(lambda: writer.problems() == ())
    assert stored(path) == list(range(1, 1201))
    assert writer.lost == 0


def test_while_the_database_fails_memory_is_bounded_and_losses_are_counted(path: Path) -> None:
    writer = Writer(path, busy=0.01, bound=700, retry=(0.05, 0.1))
    with Lock(path):
        for number in range(1, 600):
            writer.record(record(number))
        until(lambda: bool(writer.problems()))
        for number in range(600, 1001):
            writer.record(record(number))
        assert writer.lost == 300
        assert "300 found no room" in writer.problems()[1]
    writer.close()
    assert stored(path) == list(range(1, 701))


def test_closing_with_a_failing_database_ends_and_counts(path: Path) -> None:
    writer = Writer(path, busy=0.01)
    with Lock(path):
        for number in range(1, 601):
            writer.record(record(number))
        began = time.monotonic()
        writer.close()
        assert time.monotonic() - began < 2
    assert writer.lost == 600
    assert stored(path) == []


def test_a_record_that_no_database_takes_does_not_hold_up_the_others(
    writer: Writer, path: Path
) -> None:
    writer.record(record(1))
    writer.record(Record(time=None, decision="x", reason="y"))  # type: ignore[arg-type]  # a bug's
    writer.record(record(2))
    until(lambda: stored(path) == [1, 2])
    until(lambda: writer.lost == 1)


def test_a_record_may_be_made_in_the_writers_thread(writer: Writer, path: Path) -> None:
    names: list[str] = []

    def make() -> Record:
        names.append(threading.current_thread().name)
        return record(7)

    writer.record(make)
    until(lambda: stored(path) == [7])
    assert names == ["arbiter-store"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_thread_breaks_down_nobody_waits_for_it(path: Path) -> None:
    writer = Writer(path)

    def broken() -> Record:
        raise RuntimeError("a bug")

    writer.record(broken)
    until(lambda: bool(writer.problems()))
    assert "broke down" in writer.problems()[0]
    with pytest.raises(ClosedError):
        writer.remember(parse("allow port=1"), by="a", created=1.0).result(1)
    writer.close()


def test_an_idle_writer_sleeps(writer: Writer) -> None:
    writer.record(record(1))
    time.sleep(0.8)
    (thread,) = (t for t in threading.enumerate() if t.name == "arbiter-store")
    status = Path(f"/proc/self/task/{thread.native_id}/status")

    def switches() -> int:
        found = [line for line in status.read_text().splitlines() if "_ctxt_switches" in line]
        return sum(int(line.split()[1]) for line in found)

    before = switches()
    time.sleep(1.0)
    assert switches() == before


def test_recording_never_waits_for_the_database(path: Path) -> None:
    writer = Writer(path, busy=3.0)
    with Lock(path):
        began = time.monotonic()
        for number in range(2000):
            writer.record(record(number))
        time.sleep(0.1)  # now the thread waits for the lock, with a batch
        for number in range(2000, 4000):
            writer.record(record(number))
        assert time.monotonic() - began < 1.5
    writer.close()
    assert stored(path) == list(range(4000))


def test_threads_may_share_a_writer(writer: Writer, path: Path) -> None:
    def work(start: int) -> None:
        for number in range(start, start + 200):
            writer.record(record(number))
            if number % 50 == 0:
                writer.remember(parse(f"allow port={number + 1}"), by="a", created=1.0).result(5)

    threads = [threading.Thread(target=work, args=(n * 200,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert sorted(stored(path)) == list(range(1000))
    with Store.open(path, readonly=True) as store:
        assert len(store.rules(2.0, "", "")) == 20


VICTIM = """
import sys
from arbiter.records import Record
from arbiter.rules.line import parse
from arbiter.store import Writer
writer = Writer(sys.argv[1])
run = int(sys.argv[2])
print("open", flush=True)
number = 0
while True:
    number += 1
    for _ in range(40):
        writer.record(Record(time=1.0, decision="allow", reason="rule", dport=run, sport=number))
    # Half of the rules replace the one before.
    decision = "allow" if number % 2 else "deny"
    line = f"{decision} app=/run/{run} port={(number + 1) // 2}"
    made = writer.remember(parse(line), by="a", created=1.0).result()
    print(made.entry.id, line, flush=True)
"""


def test_a_writer_killed_20_times_loses_no_committed_rule_and_doubles_none(path: Path) -> None:
    seed = random.Random(11)
    promised: dict[str, str] = {}
    for run in range(20):
        with subprocess.Popen(
            [sys.executable, "-c", VICTIM, str(path), str(run)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == "open\n"
            time.sleep(seed.uniform(0.0, 0.25))
            os.kill(victim.pid, signal.SIGKILL)
            for said in victim.stdout:
                if said.endswith("\n"):  # the last may be cut
                    _, line = said.split(maxsplit=1)
                    decision, conditions = line.strip().split(maxsplit=1)
                    promised[conditions] = decision
    assert len(promised) > 20
    with Store.open(path) as store:
        assert store._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        found = store._db.execute(
            "SELECT conditions, decision FROM rules WHERE retired IS NULL"
        ).fetchall()
        assert len(found) == len(dict(found))
        # Each run may have committed one rule more than it could say: a new one, or the next
        # decision on the last.
        missing = set(promised) - set(dict(found))
        assert not missing
        newer = [key for key, decision in found if promised.get(key, decision) != decision]
        extra = set(dict(found)) - set(promised)
        assert len(newer) + len(extra) <= 20
        added = store._db.execute(
            "SELECT count(*) FROM rule_changes WHERE change = 'added'"
        ).fetchone()[0]
        assert added == store._db.execute("SELECT count(*) FROM rules").fetchone()[0]
        assert store._db.execute("SELECT count(*) FROM decisions").fetchone()[0] > 0


def test_memory_of_waiting_records_is_small(writer: Writer) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Lock(writer.path):
        for number in range(20_000):
            writer.record(record(number))
        assert writer.lost >= 10_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
