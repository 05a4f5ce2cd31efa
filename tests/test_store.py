"""The store on real files: who may read them, and which are its own."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from storescene import BOOT, OLD, RECORD, ROOT, SESSION, add, lines, mode, python

from arbiter import store as store_package
from arbiter.store import CorruptError, MissingError, Store, StoreError, UnsuitableError, migrate


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "arbiter.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


@contextmanager
def umask(value: int) -> Iterator[None]:
    old = os.umask(value)
    try:
        yield
    finally:
        os.umask(old)


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_directory_and_files_have_their_modes_whatever_the_umask(path: Path, mask: int) -> None:
    with umask(mask), Store.open(path) as store:
        add(store, "allow app=/usr/bin/curl")
        found = {file.name: mode(file) for file in path.parent.iterdir()}
        assert found == dict.fromkeys(("arbiter.db", "arbiter.db-wal", "arbiter.db-shm"), 0o640)
        assert mode(path.parent) == 0o750


def test_a_database_that_others_can_read_is_closed_to_them(path: Path) -> None:
    Store.open(path).close()
    path.chmod(0o666)
    Store.open(path).close()
    assert mode(path) == 0o640


def test_a_file_that_is_not_ours_keeps_its_mode(tmp_path: Path) -> None:
    """Who makes root name another file as the database must not have it closed to its readers."""
    passwd = tmp_path / "passwd"
    passwd.write_text("root:x:0:0::/root:/bin/sh\n")
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as made:
        made.execute("CREATE TABLE theirs (a)")
        made.execute("PRAGMA application_id = 7")
    for file in (passwd, other):
        file.chmod(0o644)
        link = tmp_path / f"link-to-{file.name}"
        link.symlink_to(file)
        with pytest.raises(StoreError):
            Store.open(link)
        assert mode(file) == 0o644


def test_a_database_that_others_can_read_is_closed_to_them_with_its_log(path: Path) -> None:
    with Store.open(path):
        for file in path.parent.iterdir():
            file.chmod(0o666)
        with Store.open(path):
            assert {mode(file) for file in path.parent.iterdir()} == {0o640}


def test_a_view_in_a_tables_place_is_no_database(path: Path) -> None:
    """It could take for ever, or be another at each look."""
    Store.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as hostile:
        hostile.execute("ALTER TABLE daily RENAME TO theirs")
        hostile.execute("CREATE VIEW daily AS SELECT * FROM theirs")
    for readonly in (True, False):
        with pytest.raises(CorruptError, match="no table daily"):
            Store.open(path, readonly=readonly)


def test_nothing_in_a_hostile_schema_runs_what_is_not_harmless(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while it is looked at, nor while it is brought to a newer form."""
    Store.open(path).close()
    seen: list[int] = []
    look = migrate.identify

    def identify(connection: sqlite3.Connection, path: Path) -> int | None:
        seen.append(connection.execute("PRAGMA trusted_schema").fetchone()[0])
        return look(connection, path)

    monkeypatch.setattr(migrate, "identify", identify)
    for readonly in (True, False):
        Store.open(path, readonly=readonly).close()
    assert seen and set(seen) == {0}


def test_an_existing_directory_keeps_its_mode(path: Path) -> None:
    path.parent.mkdir(mode=0o711)
    path.parent.chmod(0o711)
    Store.open(path).close()
    assert mode(path.parent) == 0o711


def test_the_header_names_arbiter_and_the_version(store: Store, path: Path) -> None:
    other = sqlite3.connect(path)
    assert other.execute("PRAGMA application_id").fetchone()[0] == 0x41726274
    assert other.execute("PRAGMA user_version").fetchone()[0] == migrate.VERSION
    assert other.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    other.close()


def test_the_schema_that_is_shipped_is_the_one_at_the_top() -> None:
    shipped = Path(store_package.__file__).with_name("schema.sql")
    assert shipped.read_bytes() == (ROOT / "schema.sql").read_bytes()


def test_processes_that_make_the_same_database_at_once_all_get_it(path: Path) -> None:
    code = "import sys; from arbiter.store import Store; Store.open(sys.argv[1]).close()"
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    assert [(run.communicate()[1], run.returncode) for run in runs] == [(b"", 0)] * 4


@pytest.mark.parametrize("name", [":memory:", ""])
def test_a_database_in_memory_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsuitableError):
        Store.open(name)
    assert not Path(":memory:").exists()


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UnsuitableError):
            Store.open(place)


def test_a_path_with_the_signs_of_a_uri_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=memory#%41 \u00e9.db"
    with Store.open(path) as store:
        add(store, "allow app=/usr/bin/curl")
    with Store.open(path, readonly=True) as store:
        assert lines(store) == ["allow app=/usr/bin/curl"]


def test_one_directory_is_made_for_a_database_and_no_mistyped_path(tmp_path: Path) -> None:
    Store.open(tmp_path / "state" / "arbiter.db").close()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o750
    missing = tmp_path / "stat" / "e" / "arbiter.db"
    with pytest.raises(MissingError, match=f"there is no directory {tmp_path}/stat; make it"):
        Store.open(missing)
    assert not (tmp_path / "stat").exists()


def test_a_missing_database_is_made_only_where_that_was_asked_for(path: Path) -> None:
    with pytest.raises(MissingError, match="start the daemon once"):
        Store.open(path, readonly=True)
    with pytest.raises(MissingError):
        Store.open(path, create=False)
    assert not path.parent.exists()


def test_a_file_left_empty_by_a_crash_becomes_a_database(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with pytest.raises(MissingError, match="empty"):
        Store.open(path, readonly=True)
    with Store.open(path) as store:
        assert store.rules(0.0, BOOT, SESSION) == []


# --- changes by others ----------------------------------------------------------------------


def test_a_change_by_another_process_is_noticed_and_named(store: Store, path: Path) -> None:
    add(store, "allow port=1")
    with Store.open(path, readonly=True) as reader:
        last = reader.last_change()
        code = (
            "import sys; from arbiter.store import Store; from arbiter.rules.line import parse;"
            "Store.open(sys.argv[1]).remember(parse('deny port=9'), by='bob', created=1.0)"
        )
        assert python(code, str(path)).stderr == ""
        assert [(c.line, c.by) for c in reader.changes(last)] == [("deny port=9", "bob")]
        last = reader.last_change()
        store.record([RECORD])
        assert reader.last_change() == last


def test_reading_never_waits_for_a_writer_nor_a_writer_for_reading(path: Path) -> None:
    with Store.open(path) as store, Store.open(path, readonly=True, busy=0.0) as reader:
        add(store, "allow port=1")
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE rules SET frontend = 'x'")
        assert lines(reader) == ["allow port=1"]
        writer.execute("ROLLBACK")
        cursor = writer.execute("SELECT * FROM rules")  # a read that stays open
        add(store, "allow port=2")
        cursor.close()
        writer.close()


@pytest.fixture
def old(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(migrate, "VERSION", 1)  # these tests are about how, not about what
    path.parent.mkdir()
    made = sqlite3.connect(path)
    made.executescript(OLD)
    made.close()
    return path
