"""The store where something is wrong: locks, full disks, rights, damage, other programs' files."""

from __future__ import annotations

import grp
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from storescene import BOOT, RECORD, ROOT, SESSION, add, digest, lines, python

from arbiter.store import (
    ClosedError,
    CorruptError,
    DiskFullError,
    LockedError,
    NewerError,
    NotOursError,
    Store,
    StoreError,
    migrate,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes user or mounts: needs root")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "arbiter.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process has the write lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait()


def test_a_lock_held_too_long_is_an_error_that_says_so_and_passes(path: Path) -> None:
    with Store.open(path, busy=0.2) as store:
        add(store, "allow port=1")
        with held(path):
            began = time.monotonic()
            with pytest.raises(LockedError, match=r"another process is writing.*fuser"):
                add(store, "allow port=2")
            assert 0.15 < time.monotonic() - began < 3
            assert lines(store) == ["allow port=1"]
            Store.open(path, busy=0.2).close()
        add(store, "allow port=3")
        assert lines(store) == ["allow port=1", "allow port=3"]


def test_a_short_lock_is_waited_for(path: Path) -> None:
    with Store.open(path) as store:
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
        timer.start()
        add(store, "allow port=2")
        timer.join()
        other.close()
        assert lines(store) == ["allow port=2"]


FULL = """
import sys
from pathlib import Path
from arbiter.rules.line import parse
from arbiter.store import DiskFullError, Store
from arbiter.records import Record
import subprocess
mount = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", mount], check=True)
store = Store.open(mount / "arbiter.db")
kept = []
try:
    for number in range(1, 60000):
        line = f"allow app=/usr/bin/{'x' * 200} port={number}"
        store.remember(parse(line), by="a", created=1.0)
        kept.append(line)
except DiskFullError as error:
    print("rule:", error)
try:
    store.record([Record(time=1.0, decision="allow", reason="rule", note="y" * 3000)] * 100)
except DiskFullError as error:
    print("record:", error)
assert len(kept) > 500, len(kept)
found = {c.line for c in store.changes()}
assert found == set(kept), len(found ^ set(kept))
assert len(store.rules(2.0, "", "")) == len(kept)
store.close()
store = Store.open(mount / "arbiter.db", readonly=True)
assert len(store.rules(2.0, "", "")) == len(kept)
try:
    Store.open(mount / "new" / "arbiter.db")
except DiskFullError as error:
    print("new:", error)
subprocess.run(["mount", "-o", "remount,size=16m", mount], check=True)
store = Store.open(mount / "arbiter.db")
store.remember(parse("deny port=1"), by="a", created=1.0)
print("again:", len(store.rules(2.0, "", "")) - len(kept))
"""


@needs_root
def test_a_full_disk_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    run = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert run.stderr == ""
    out = run.stdout.splitlines()
    assert [line.split(":")[0] for line in out] == ["rule", "record", "new", "again"]
    assert "no space left" in out[0]
    assert "df -h" in out[0]
    assert out[-1] == "again: 1"


def test_a_database_at_its_own_limit_is_full_and_stays_whole(path: Path) -> None:
    with Store.open(path) as store:
        add(store, "allow port=1")
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DiskFullError):
            store.record([RECORD] * 10_000)
        assert store.decisions() == []
        store._db.execute("PRAGMA max_page_count = 1000000")
        store.record([RECORD] * 10)
        assert lines(store) == ["allow port=1"]


OPEN = """
import os, sys
from arbiter.store import Store, StoreError
if sys.argv[3:]:  # the interpreter itself may be where only root can read it
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    with Store.open(sys.argv[1], readonly=sys.argv[2] == "ro") as store:
        print(len(store.rules(0.0, "", "")), "rules")
except StoreError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that another user can reach, unlike pytest's."""
    import shutil
    import tempfile

    place = Path(tempfile.mkdtemp(prefix="arb-store-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@needs_root
def test_a_user_without_the_right_to_write_is_told_and_may_still_read(public: Path) -> None:
    path = public / "arbiter.db"
    with Store.open(path) as store:
        add(store, "allow port=1")
        path.chmod(0o644)
        for more in ("-wal", "-shm"):
            Path(f"{path}{more}").chmod(0o644)
        # While the daemon has it open, and after:
        assert python(OPEN, str(path), "ro", "nobody").stdout == "1 rules\n"
        said = python(OPEN, str(path), "rw", "nobody").stdout
        assert said.startswith("NoPermissionError cannot open the database: ")
        assert said.endswith("; run as root, with sudo\n"), said
    assert python(OPEN, str(path), "ro", "nobody").stdout == "1 rules\n"
    path.chmod(0o640)
    said = python(OPEN, str(path), "ro", "nobody").stdout
    assert said.startswith("NoPermissionError")
    assert "this user may not, only root may read it; run as root, with sudo" in said
    os.chown(path, 0, 60)
    said = python(OPEN, str(path), "ro", "nobody").stdout
    assert f"this user may not, root and group {grp.getgrgid(60).gr_name} may read it; " in said
    public.chmod(0o700)
    said = python(OPEN, str(path), "ro", "nobody").stdout
    assert said.startswith("NoPermissionError") and "only root may read it" in said
    os.chown(public, 0, 3_999_999)
    said = python(OPEN, str(path), "ro", "nobody").stdout
    assert "root and the group with gid 3999999 may read it" in said and said.count(str(path)) == 1


@needs_root
def test_a_copy_with_its_log_in_a_place_that_cannot_be_written_says_what_to_do(
    public: Path,
) -> None:
    """After a crash the newest records are in the log, and SQLite wants to make an index of it."""
    path, copy = public / "arbiter.db", public / "copy"
    copy.mkdir(mode=0o755)
    with Store.open(path) as store:
        add(store, "allow port=1")
        for end in ("", "-wal"):
            (copy / f"arbiter.db{end}").write_bytes(Path(f"{path}{end}").read_bytes())
    said = python(OPEN, str(copy / "arbiter.db"), "ro", "nobody").stdout
    assert said.startswith("NoPermissionError cannot open the database: ")
    assert f"arbiter.db-wal, which is read only where {copy} can be written" in said
    assert f"copy both: cp '{copy}/arbiter.db' '{copy}/arbiter.db-wal' DIRECTORY" in said


@needs_root
def test_a_file_system_mounted_read_only_can_be_read_and_the_error_says_so(path: Path) -> None:
    with Store.open(path) as store:
        add(store, "allow port=1")
    place = path.parent
    mount = f"mount --bind {place} {place} && mount -o remount,ro,bind {place} && exec "
    command = [sys.executable, "-c", OPEN, str(path)]
    for way, said in (("ro", "1 rules"), ("rw", "ReadOnlyError cannot open the database: ")):
        run = subprocess.run(
            ["unshare", "-m", "sh", "-c", mount + '"$@"', "sh", *command, way],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
        assert run.stderr == ""
        assert run.stdout.startswith(said)


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("content", [b"x", b"not a database at all" * 100, b"\0" * 4096])
def test_a_file_that_is_no_database_is_left_as_it_is(
    path: Path, content: bytes, readonly: bool
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CorruptError, match=r"damaged or not a database.*name another") as raised:
        Store.open(path, readonly=readonly)
    assert "recover" not in str(raised.value)
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_damaged_database_may_be_recovered_in_part(path: Path) -> None:
    Store.open(path).close()
    with path.open("r+b") as file:
        file.seek(16)
        file.write(b"\xff" * 84)
    with pytest.raises(CorruptError, match=r"damaged or not a database.*sqlite3 .* \.recover"):
        Store.open(path)


def test_damage_anywhere_is_a_store_error_or_does_no_harm_to_the_rules(path: Path) -> None:
    with Store.open(path) as store:
        for number in range(1, 200):
            add(store, f"allow port={number} app=/usr/bin/some-program-{number}")
        store.record([RECORD] * 50)
        good = lines(store)
    clean = path.read_bytes()
    seed = random.Random(4)
    refused = 0
    for offset in range(0, len(clean), 2048):
        dirty = bytearray(clean)
        place = offset + seed.randrange(0, 1900)
        dirty[place : place + 100] = seed.randbytes(100)
        path.write_bytes(dirty)
        try:
            with Store.open(path) as store:
                found = store.rules(200.0, BOOT, SESSION)
                # Bytes inside a text are no damage that SQLite could see.
                assert len(found) + len(store.unreadable) == len(good)
                store.decisions()
        except StoreError as error:
            assert "; " in str(error)
            refused += 1
            assert len(path.read_bytes()) == len(clean)
    assert refused > 5
    path.write_bytes(clean)
    with Store.open(path) as store:
        assert lines(store) == good


def test_damage_in_an_index_of_the_rules_is_found_at_once(path: Path) -> None:
    with Store.open(path) as store:
        for number in range(1, 30):
            add(store, f"allow port={number}")
        root = store._db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'rules_app'"
        ).fetchone()[0]
    with path.open("r+b") as file:
        # Half of the cells that the page's header (fileformat2, 1.6) says there are.
        file.seek((root - 1) * 4096 + 3)
        count = int.from_bytes(file.read(2))
        file.seek((root - 1) * 4096 + 3)
        file.write((count // 2).to_bytes(2))
    for readonly in (False, True):
        with pytest.raises(CorruptError, match=r"Fragmentation|rules_app"):
            Store.open(path, readonly=readonly)


def test_a_cut_file_is_corrupt_and_left_as_it_is(path: Path) -> None:
    with Store.open(path) as store:
        for number in range(1, 100):
            add(store, f"allow port={number}")
    path.write_bytes(path.read_bytes()[: 3 * 4096])
    before = digest(path)
    with pytest.raises(CorruptError):
        Store.open(path)
    assert digest(path) == before


def test_a_missing_table_is_corrupt(path: Path) -> None:
    Store.open(path).close()
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE decisions")
    other.close()
    with pytest.raises(CorruptError, match="no table decisions"):
        Store.open(path)


@pytest.mark.parametrize("readonly", [False, True])
def test_a_later_schema_is_refused_and_left_as_it_is(path: Path, readonly: bool) -> None:
    Store.open(path).close()
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {migrate.VERSION + 1}")
    other.close()
    before = digest(path)
    with pytest.raises(NewerError, match=f"a later arbiter made it .schema {migrate.VERSION + 1}"):
        Store.open(path, readonly=readonly)
    assert digest(path) == before


@pytest.mark.parametrize("application", [0, 42])
def test_the_database_of_another_program_is_refused_and_left_as_it_is(
    path: Path, application: int
) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE cookies (name)")
        other.execute(f"PRAGMA application_id = {application}")
    other.close()
    before = digest(path)
    with pytest.raises(NotOursError, match="another program"):
        Store.open(path)
    assert digest(path) == before
    assert not Path(f"{path}-wal").exists()


def test_a_closed_store_says_so(path: Path) -> None:
    store = Store.open(path)
    store.close()
    store.close()
    with pytest.raises(ClosedError):
        add(store, "allow port=1")
    with pytest.raises(ClosedError):
        store.last_change()
