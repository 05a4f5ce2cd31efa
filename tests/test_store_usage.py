"""What was used on disk: counted once, through crashes, upgrades and failing databases."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arbiter.model import Flow
from arbiter.records import Record
from arbiter.store import LockedError, Store, StoreError, UnstorableError, Writer, migrate
from arbiter.store.usage import MAX_INTEGER
from arbiter.usage import Account, Batch, Counted, OpenFlow, Used

ROOT = Path(__file__).parents[1]
CURL = Account("/usr/bin/curl", "alice", "lte", "8943")
OTHER = Account("/usr/bin/curl", "alice", "usb", "8943")
WGET = Account("/usr/bin/wget", "bob", "wifi")
JULY, AUGUST = "2026-07-31", "2026-08-01"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "arbiter.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


@pytest.fixture
def writer(path: Path) -> Iterator[Writer]:
    made = Writer(path, busy=0.05, retry=(0.05, 0.2))
    yield made
    made.close()


def counted(sport: int = 4000, size: int = 0) -> Counted:
    flow = Flow(6, bytes([10, 0, 0, 2]), sport, bytes([198, 51, 100, 10]), 443)
    return Counted(flow, 7, 0x22000000, size, 0, size // 100, 0)


def stored(path: Path) -> list[Used]:
    with Store.open(path, readonly=True) as store:
        return store.usage()


def eventually(path: Path, wanted: list[Used]) -> None:
    end = time.monotonic() + 10
    while stored(path) != wanted:
        assert time.monotonic() < end, stored(path)
        time.sleep(0.02)


# --- rows -----------------------------------------------------------------------------------


def test_what_was_used_is_added_up_by_day_app_user_link_and_sim(store: Store) -> None:
    store.add_usage(Batch((Used(CURL, JULY, 1, 2, 3, 4, 5), Used(WGET, JULY, 1))))
    store.add_usage(Batch((Used(CURL, JULY, 10, 20, 30, 40, 50), Used(CURL, AUGUST, 7))))
    assert store.usage() == [
        Used(CURL, JULY, 11, 22, 33, 44, 55),
        Used(WGET, JULY, 1),
        Used(CURL, AUGUST, 7),
    ]
    assert store.usage(AUGUST) == [Used(CURL, AUGUST, 7)]
    assert [used.day for used in store.usage(JULY, AUGUST)] == [JULY, JULY]
    assert store.usage("2026-09-01") == []


def test_the_largest_figures_are_kept_and_do_not_overflow(store: Store) -> None:
    for size in (1 << 64, 1, MAX_INTEGER):
        store.add_usage(Batch((Used(CURL, JULY, size, 5),)))
    assert store.usage() == [Used(CURL, JULY, MAX_INTEGER, 15)]


texts = st.text(st.characters(codec=None, exclude_characters="\0"), max_size=20)
accounts = st.builds(Account, texts, texts, texts, texts)
numbers = st.integers(0, MAX_INTEGER)
flows = st.one_of(
    *(
        st.builds(
            Flow,
            st.integers(0, 255),
            st.binary(min_size=n, max_size=n),
            st.integers(0, 65535),
            st.binary(min_size=n, max_size=n),
            st.integers(0, 65535),
        )
        for n in (4, 16)
    )
)
entries = st.builds(
    Counted,
    flows,
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 32) - 1),
    *[numbers] * 4,
    started=numbers,
)


@given(accounts, entries)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_baseline_comes_back_as_it_was(store: Store, account: Account, entry: Counted) -> None:
    def shown(text: str) -> str:
        return text.encode("utf-8", "backslashreplace").decode()

    store.add_usage(Batch(open=(OpenFlow(account, entry),)))
    kept = Account(*map(shown, (account.app, account.user, account.link, account.sim)))
    assert store.open_flows() == [OpenFlow(kept, entry)]
    store.add_usage(Batch(closed=(entry.key,)))
    assert store.open_flows() == []


def test_a_baseline_takes_the_place_of_the_one_before(store: Store) -> None:
    store.add_usage(Batch(open=(OpenFlow(CURL, counted(1, 100)), OpenFlow(CURL, counted(2, 100)))))
    store.add_usage(Batch(open=(OpenFlow(CURL, counted(1, 300)),), closed=(counted(2).key,)))
    assert store.open_flows() == [OpenFlow(CURL, counted(1, 300))]


def test_figures_and_baselines_are_written_together_or_not_at_all(store: Store) -> None:
    bad = OpenFlow(CURL, Counted(Flow(6, b"123", 1, b"123", 2), 1, 0, 0, 0, 0, 0))
    with pytest.raises(StoreError):
        store.add_usage(Batch((Used(CURL, JULY, 1),), (OpenFlow(CURL, counted(1)), bad)))
    assert (store.usage(), store.open_flows()) == ([], [])


# --- the writer -----------------------------------------------------------------------------


def locked(path: Path) -> sqlite3.Connection:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


def test_the_writer_stores_soon_and_closing_stores_the_rest(path: Path) -> None:
    writer = Writer(path)
    writer.add_usage(Batch((Used(CURL, JULY, 1),), (OpenFlow(CURL, counted(1, 1)),)))
    eventually(path, [Used(CURL, JULY, 1)])
    assert writer.open_flows().result(5) == [OpenFlow(CURL, counted(1, 1))]
    writer.add_usage(Batch((Used(CURL, JULY, 2),), closed=(counted(1).key,)))
    writer.close()
    assert stored(path) == [Used(CURL, JULY, 3)]
    assert writer.problems() == ()


def test_while_the_database_fails_nothing_is_lost_and_nothing_waits(
    writer: Writer, path: Path
) -> None:
    other = locked(path)
    began = time.monotonic()
    for turn in range(1, 2001):
        baseline = OpenFlow(CURL, counted(turn % 50, turn))
        writer.add_usage(Batch((Used(CURL, JULY, 1),), (baseline,)))
    assert time.monotonic() - began < 3
    while not writer.problems():
        time.sleep(0.01)
    for _ in range(300):  # while the thread waits for the lock, too
        writer.add_usage(Batch((Used(CURL, JULY, 1),)))
        time.sleep(0.001)
    with writer._wake:
        merged = writer._usage.take()
        writer._usage.add(merged)
    assert len(merged.used) <= 1
    assert len(merged.open) <= 50
    other.execute("ROLLBACK")
    other.close()
    eventually(path, [Used(CURL, JULY, 2300)])
    with Store.open(path, readonly=True) as store:
        assert len(store.open_flows()) == 50
        assert {kept.counted.out_bytes for kept in store.open_flows()} == set(range(1951, 2001))
    end = time.monotonic() + 10
    while writer.problems():  # said to be over once it is on disk
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_comes_while_the_last_is_written_is_written_too(path: Path) -> None:
    writer = Writer(path, busy=10.0)
    other = locked(path)
    writer.add_usage(Batch((Used(CURL, JULY, 1),)))
    end = time.monotonic() + 10
    while not taken(writer):
        assert time.monotonic() < end
        time.sleep(0.01)
    writer.add_usage(Batch((Used(CURL, JULY, 2),)))
    other.execute("ROLLBACK")
    other.close()
    eventually(path, [Used(CURL, JULY, 3)])
    writer.close()


def taken(writer: Writer) -> bool:
    """Whether the thread has the batch, and waits for the lock."""
    with writer._wake:
        return not writer._usage


def test_records_that_fail_do_not_write_the_usage_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [LockedError("cannot", path, "locked", "wait")] * 3
    record = Store.record

    def failing(store: Store, records: Iterable[Record]) -> int:
        if failures:
            raise failures.pop()
        return record(store, records)

    monkeypatch.setattr(Store, "record", failing)
    writer = Writer(path, retry=(0.01, 0.02))
    writer.add_usage(Batch((Used(CURL, JULY, 1),)))
    writer.record(Record(time=1.0, decision="allow", reason="rule"))
    end = time.monotonic() + 10
    while failures:
        assert time.monotonic() < end
        time.sleep(0.01)
    writer.close()
    assert stored(path) == [Used(CURL, JULY, 1)]


def test_closing_with_a_failing_database_says_how_much_is_not_counted(path: Path) -> None:
    writer = Writer(path, busy=0.01)
    other = locked(path)
    writer.add_usage(Batch((Used(CURL, JULY, 100, 23),)))
    writer.close()
    writer.add_usage(Batch((Used(CURL, JULY, 1000),)))
    (said,) = [text for text in writer.problems() if "bytes" in text]
    assert said.startswith("1123 bytes that were used are not counted")
    other.close()


def test_what_no_database_takes_does_not_hold_up_the_records(writer: Writer, path: Path) -> None:
    writer.add_usage(Batch((Used(CURL, "no day", 5),)))
    writer.record(Record(time=1.0, decision="allow", reason="rule"))
    end = time.monotonic() + 10
    while True:
        with Store.open(path, readonly=True) as store:
            if store.decisions():
                break
        assert time.monotonic() < end
        time.sleep(0.02)
    assert "5 bytes" in writer.problems()[0]
    writer.add_usage(Batch((Used(CURL, JULY, 6),)))
    eventually(path, [Used(CURL, JULY, 6)])


def test_a_day_that_is_none_is_refused(store: Store) -> None:
    with pytest.raises(UnstorableError):
        store.add_usage(Batch((Used(CURL, "yesterday", 1),)))


VICTIM = """
import sys, time
from arbiter.model import Flow
from arbiter.store import Writer
from arbiter.usage import Account, Counted, Ledger
path, base, last = sys.argv[1], int(sys.argv[2]), len(sys.argv) > 3
def entry(sport):
    size = time.monotonic_ns() // 1000 - base  # a counter that outlives us, as the kernel's do
    flow = Flow(6, bytes([10, 0, 0, 2]), sport, bytes([198, 51, 100, 10]), 443)
    return Counted(flow, 7, 0x22000000, size, size // 2, size // 100, size // 200)
writer = Writer(path)
book = Ledger(lambda number: Account(), 0)
book.restore(writer.open_flows().result())
print("open", flush=True)
while True:
    now = [entry(sport) for sport in range(3)]
    book.read(now, 1e9)
    writer.add_usage(book.take())
    if last:
        break
    time.sleep(0.001)
writer.close()
print(sum(one.out_bytes for one in now), sum(one.in_bytes for one in now))
"""


def test_an_arbiter_killed_10_times_counts_every_byte_once(path: Path) -> None:
    seed = random.Random(5)
    base = time.monotonic_ns() // 1000
    argv = [sys.executable, "-c", VICTIM, str(path), str(base)]
    for _ in range(10):
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == "open\n"
            time.sleep(seed.uniform(0.0, 1.2))
            os.kill(victim.pid, signal.SIGKILL)
    done = subprocess.run([*argv, "last"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    out_bytes, in_bytes = map(int, done.stdout.splitlines()[1].split())
    (used,) = stored(path)
    # on_wire rounds nothing here: packets of 100 bytes.
    assert (used.out_bytes, used.in_bytes, used.connections) == (out_bytes, in_bytes, 3)


# --- the upgrade from version 1 -------------------------------------------------------------

RULE = (
    "INSERT INTO rules (line, layer, conditions, decision, app, scope_user, lifetime, created,"
    " by_user) VALUES ('allow port=1', 2, 'port=1', 'allow', '', '', 'forever', 7.5, 'alice')"
)


RECORD = (
    "INSERT INTO decisions (id, time, hook, proto, saddr, sport, daddr, dport, outdev, length, uid,"
    " user, app, app_kind, pid, start, exe, argv, parents, no_owner, decision, reason, rule_id,"
    " layer, by_user, frontend, waited, count, note) VALUES (5, 8.5, 'out', 'tcp', '192.0.2.1',"
    " 40000, '192.0.2.7', 443, 3, 60, 1000, 'alice', '/usr/bin/curl', 'path', 42, 4242,"
    " '/usr/bin/curl', '[\"curl\"]', '[]', '', 'allow', 'rule', 1, 2, 'alice', 'cli', 0.5, 1,"
    " 'a note')"
)


def made(path: Path, version: int) -> Path:
    """A database as an earlier arbiter made it, with a rule and a record in it."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA auto_vacuum = INCREMENTAL")
    database.execute("PRAGMA journal_mode = WAL")
    database.executescript((ROOT / "fixtures" / "databases" / f"schema-{version}.sql").read_text())
    database.execute(f"PRAGMA application_id = {migrate.APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {version}")
    database.execute(RULE)
    database.execute(RECORD)
    database.commit()
    database.close()
    return path


@pytest.fixture
def version1(path: Path) -> Path:
    """A database as the first version of arbiter made it."""
    return made(path, 1)


def shape(path: Path) -> list[tuple[str, ...]]:
    database = sqlite3.connect(path)
    found = database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
    database.close()
    return [(kind, name, migrate.bare(sql or "")) for kind, name, sql in found]


def version(path: Path) -> int:
    database = sqlite3.connect(path)
    found: int = database.execute("PRAGMA user_version").fetchone()[0]
    database.close()
    return found


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_records_of_an_earlier_version_are_kept_and_say_less(path: Path, version: int) -> None:
    with Store.open(made(path, version)) as store:
        (record,) = store.decisions()
    Store.open(path.with_name("new.db")).close()
    assert shape(path) == shape(path.with_name("new.db"))
    assert (record.time, record.daddr, record.argv, record.note) == (
        8.5,
        "192.0.2.7",
        '["curl"]',
        "a note",
    )
    assert (record.rule_id, record.count, record.waited) == (1, 1, 0.5)
    assert (record.link, record.names, record.networks, record.metered) == ("", "[]", "[]", None)


def test_a_version_1_database_is_upgraded_after_a_backup_and_keeps_its_rules(
    version1: Path, tmp_path: Path
) -> None:
    before = shape(version1)
    with Store.open(version1) as store:
        assert [entry.created for entry in store.rules(9.0, "", "")] == [7.5]
        store.add_usage(Batch((Used(CURL, JULY, 1),)))
        assert store.usage() == [Used(CURL, JULY, 1)]
    Store.open(tmp_path / "new.db").close()
    assert shape(version1) == shape(tmp_path / "new.db")
    assert version(version1) == version(tmp_path / "new.db") == migrate.VERSION
    backup = tmp_path / "arbiter.db.v1.backup"
    assert (shape(backup), version(backup)) == (before, 1)
    with sqlite3.connect(backup) as kept:
        assert kept.execute("SELECT line FROM rules").fetchall() == [("allow port=1",)]
    kept.close()


def test_a_version_1_database_is_not_upgraded_by_reading_it(version1: Path) -> None:
    with pytest.raises(StoreError, match="start the daemon once"):
        Store.open(version1, readonly=True)
    assert version(version1) == 1
