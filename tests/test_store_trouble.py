"""A database that fails while arbiter runs: full disk, lock, removed, replaced, a reader without
end. Nothing is lost silently, nothing is damaged, and it goes on by itself."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from arbiter.records import Record
from arbiter.rules.line import parse
from arbiter.store import MissingError, Store, StoreError, Writer
from arbiter.store.errors import DiskFullError
from arbiter.store.rows import Kept
from arbiter.store.transaction import writing


def record(number: int) -> Record:
    return Record(time=float(number), decision="allow", reason="rule", dport=number)


def until(true: Callable[[], object], seconds: float = 8.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)


def stored(path: Path) -> list[int]:
    with Store.open(path, readonly=True) as store:
        return sorted(found.dport for found in store.decisions(limit=100_000))


class Scene:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self.writer = Writer(path, busy=0.05, retry=(0.05, 0.1), told=self.said.append)

    def records(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            self.writer.record(record(number))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "arbiter.db")
    yield made
    made.writer.close()


def sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        (checked,) = db.execute("PRAGMA integrity_check").fetchone()
    return bool(checked == "ok")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_removed_file_is_noticed_and_nothing_goes_where_nobody_finds_it(
    scene: Scene, tmp_path: Path, replaced: bool
) -> None:
    scene.records(1, 3)
    until(lambda: stored(scene.path) == [1, 2, 3])
    away = tmp_path / "away"
    for end in ("", "-wal", "-shm"):
        Path(f"{scene.path}{end}").rename(f"{away}{end}")
    if replaced:
        Store.open(scene.path).close()
    with pytest.raises(MissingError, match="put it back, or restart arbiter"):
        scene.writer.remember(parse("allow port=1"), by="a", created=1.0).result(5)
    scene.records(4, 5)
    until(lambda: scene.said)
    why = "another file was put in its place" if replaced else "it was removed while arbiter ran"
    assert why in scene.said[0]
    assert "2 decision records wait in memory" in scene.writer.problems()[0]
    for end in ("", "-wal", "-shm"):
        if Path(f"{away}{end}").exists():
            Path(f"{away}{end}").rename(f"{scene.path}{end}")
    until(lambda: stored(scene.path) == [1, 2, 3, 4, 5])
    until(lambda: scene.said[-1] == "what was decided is written down again")
    assert len(scene.said) == 2
    assert scene.writer.problems() == ()
    assert sound(scene.path)


def test_a_lock_by_another_program_is_waited_for_and_said_once(scene: Scene) -> None:
    with closing(sqlite3.connect(scene.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        scene.records(1, 20)
        until(lambda: scene.said)
        time.sleep(0.5)
        assert len(scene.said) == 1, "it is said once, however often it is tried"
        assert "another process is writing" in scene.said[0]
        first = scene.writer.write_first([lambda: Kept(900, record(900))])
        with pytest.raises(StoreError, match="another process is writing"):
            first.result(5)
        other.execute("COMMIT")
    until(lambda: stored(scene.path) == list(range(1, 21)))
    assert scene.writer.lost == 0


def test_a_record_that_is_to_come_first_is_on_disk_when_its_future_is_done(scene: Scene) -> None:
    done = scene.writer.write_first([lambda: Kept(7, record(7)), lambda: Kept(8, record(8))])
    assert done.result(5) == 2
    assert stored(scene.path) == [7, 8]


def test_records_that_wait_are_written_before_so_that_ids_grow(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[int] = []
    real = Store.record

    def noted(store: Store, records: list[Kept], *, durable: bool = False) -> int:
        done = real(store, records, durable=durable)
        order.extend(kept.id for kept in records)
        return done

    monkeypatch.setattr(Store, "record", noted)
    with closing(sqlite3.connect(scene.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for id in (1, 2, 3):
            scene.writer.record(Kept(id, record(id)))
        until(lambda: scene.said)
        other.execute("COMMIT")
        scene.writer.record(Kept(4, record(4)))
        assert scene.writer.write_first([lambda: Kept(5, record(5))]).result(5) == 1
    assert order == [1, 2, 3, 4, 5]


def test_what_comes_first_is_synced(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def noted(db: sqlite3.Connection, path: Path, what: str, *, durable: bool) -> object:
        asked.append(durable)
        return writing(db, path, what, durable=durable)

    monkeypatch.setattr("arbiter.store.store.writing", noted)
    scene.writer.write_first([lambda: Kept(7, record(7))]).result(5)
    assert asked == [True]


READER = """
import sqlite3, sys
db = sqlite3.connect("file:" + sys.argv[1] + "?mode=ro", uri=True, isolation_level=None)
db.execute("BEGIN")
print(db.execute("SELECT count(*) FROM decisions").fetchone()[0], flush=True)
sys.stdin.read()
print(db.execute("SELECT count(*) FROM decisions").fetchone()[0], flush=True)
"""


def test_a_reader_without_end_holds_nobody_up_and_the_growing_log_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arbiter.store.database.WAL_TOLD", 1 << 20)
    monkeypatch.setattr("arbiter.store.database.WAL_KEPT", 1 << 19)
    scene = Scene(tmp_path / "arbiter.db")
    scene.records(1, 10)
    until(lambda: len(stored(scene.path)) == 10)
    argv = [sys.executable, "-c", READER, str(scene.path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "10\n"
        for first in range(11, 9011, 1000):
            scene.records(first, first + 999)
            until(lambda first=first: len(stored(scene.path)) >= first + 999)  # type: ignore[misc]
        made = scene.writer.remember(parse("allow port=1"), by="a", created=1.0).result(5)
        assert made.entry.id == 1
        assert (scene.writer.lost, scene.said) == (0, [])
        (problem,) = scene.writer.problems()
        assert "the write-ahead log grows" in problem
        assert f"fuser -v '{scene.path}'" in problem
        out, _ = reader.communicate("")
        assert out == "10\n", "a reader sees one state of the database, from its begin to its end"
    # Once it is gone, the next change copies all back, and the one behind it begins the log anew.
    scene.writer.remember(parse("allow port=1"), by="a", created=1.0).result(5)
    scene.writer.remember(parse("allow port=2"), by="a", created=1.0).result(5)
    assert scene.writer.problems() == ()
    scene.writer.close()


# --- a disk that is full ----------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("no file system can be mounted here: repeat it as root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Leave no room."""
    path = place / "fill"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return path


def test_a_full_disk_costs_nothing_but_time(small_disk: Path) -> None:
    scene = Scene(small_disk / "arbiter.db")
    kept = scene.writer.remember(parse("allow port=1"), by="a", created=1.0).result(5).entry
    filled = fill(small_disk)
    scene.records(1, 1500)
    until(lambda: scene.said)
    assert "no space left" in scene.said[0]
    assert "df -h" in scene.said[0]
    with pytest.raises(DiskFullError):
        scene.writer.remember(parse("allow port=2"), by="a", created=1.0).result(5)
    with pytest.raises(DiskFullError):
        scene.writer.write_first([lambda: Kept(9000, record(9000))]).result(5)
    assert sound(scene.path)
    filled.unlink()
    until(lambda: len(stored(scene.path)) == 1500)
    until(lambda: scene.writer.problems() == ())
    again = scene.writer.remember(parse("allow port=2"), by="a", created=1.0).result(5).entry
    scene.writer.close()
    assert sound(scene.path)
    with Store.open(scene.path, readonly=True) as store:
        assert store.rules(2.0, "", "") == [kept, again]
        assert store.records.gaps(0.0, None) == []
    assert scene.writer.lost == 0


def test_what_found_no_room_in_memory_either_is_a_gap(small_disk: Path) -> None:
    scene = Scene(small_disk / "arbiter.db")
    scene.writer.close()
    said: list[str] = []
    writer = Writer(scene.path, busy=0.05, retry=(0.05, 0.1), bound=100, told=said.append)
    filled = fill(small_disk)
    writer.record(record(1))
    until(lambda: said)
    for number in range(2, 151):
        writer.record(record(number))
    assert writer.lost == 50
    filled.unlink()
    until(lambda: len(stored(scene.path)) == 100)
    writer.close()
    with Store.open(scene.path, readonly=True) as store:
        (gap,) = store.records.gaps(0.0, None)
    assert (gap.count, "no room" in gap.why) == (50, True)


@pytest.fixture
def failing_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that `mount -o remount,abort` makes read-only, as ext4 does of an error."""
    image, place = tmp_path / "image", tmp_path / "failing"
    place.mkdir()
    image.write_bytes(b"")
    os.truncate(image, 8 << 20)
    made = os.geteuid() == 0 and shutil.which("mkfs.ext4") is not None
    if made:
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        argv = ["mount", "-o", "loop", str(image), str(place)]
        made = not subprocess.run(argv, capture_output=True).returncode
    if not made:
        pytest.skip("no image can be mounted here: repeat it as root, with e2fsprogs")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_file_system_that_has_become_read_only_is_told(failing_disk: Path) -> None:
    scene = Scene(failing_disk / "arbiter.db")
    kept = scene.writer.remember(parse("allow port=1"), by="a", created=1.0).result(5).entry
    subprocess.run(["mount", "-o", "remount,abort", str(failing_disk)], check=True)
    scene.records(1, 3)
    until(lambda: scene.said)
    assert "cannot write decision records" in scene.said[0]
    assert "see dmesg" in scene.said[0] or "mounted read-only" in scene.said[0]
    with pytest.raises(StoreError):
        scene.writer.remember(parse("allow port=2"), by="a", created=1.0).result(5)
    assert scene.writer.rules(2.0, "", "", 0, 9).result(5).entries == (kept,), "it is still read"
    scene.writer.close()
    assert scene.writer.lost == 3
