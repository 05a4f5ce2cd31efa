"""The store on real files: rules, records, migrations, and everything that can be wrong.

Longer than the habit: one set of fixtures serves all of it.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
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
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from arbiter import store as store_package
from arbiter.records import Record, json_list, utf8
from arbiter.rules.line import parse
from arbiter.rules.rule import Layer
from arbiter.store import (
    ClosedError,
    CorruptError,
    DiskFullError,
    LockedError,
    MissingError,
    NewerError,
    NoPermissionError,
    NotOursError,
    ReadOnlyError,
    Store,
    StoreError,
    UnstorableError,
    UnsuitableError,
    migrate,
)

ROOT = Path(__file__).parents[1]
BOOT, SESSION = "boot-1", "run-1"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes user or mounts: needs root")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "arbiter.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


def add(store: Store, line: str, at: float = 100.0, **more: Any) -> int:
    values: dict[str, Any] = {"by": "alice", "by_uid": 1000, "frontend": "terminal", **more}
    return store.remember(parse(line), created=at, **values).entry.id


def lines(store: Store, now: float = 200.0, boot: str = BOOT, session: str = SESSION) -> list[str]:
    with_line = {change.rule_id: change.line for change in store.changes()}
    return [with_line[entry.id] for entry in store.rules(now, boot, session)]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def my_start(pid: int | str = "self") -> int:
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


@contextmanager
def umask(value: int) -> Iterator[None]:
    old = os.umask(value)
    try:
        yield
    finally:
        os.umask(old)


def python(code: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]  # options pass through
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        **options,
    )


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


# --- rules ----------------------------------------------------------------------------------


def test_a_remembered_rule_comes_back_as_it_was_with_its_provenance(path: Path) -> None:
    rule = parse("route via=lte,any app=/usr/bin/curl host=192.0.2.0/24 port=443 for=15m")
    with Store.open(path) as store:
        made = store.remember(rule, by="alice", by_uid=1000, frontend="tui", created=100.5)
        assert made.replaced == ()
        assert made.entry.expires == 100.5 + 900
    with Store.open(path, readonly=True) as store:
        assert store.rules(101.0, "", "") == [made.entry]
        assert store.get(made.entry.id) == made.entry
    entry = made.entry
    assert (entry.rule, entry.layer, entry.by) == (rule, Layer.REMEMBERED, "alice")
    assert (entry.created, entry.frontend) == (100.5, "tui")


def test_readers_in_sql_find_decision_app_and_user_in_columns(store: Store, path: Path) -> None:
    add(store, "route via=lte app=/usr/bin/curl user=bob for=boot", boot=BOOT)
    row = next(iter(Database(sqlite3.connect(path)).query("SELECT * FROM rules")))
    assert row["decision"] == "route via=lte"
    assert (row["app"], row["scope_user"], row["lifetime"]) == ("/usr/bin/curl", "bob", "boot")
    assert row["conditions"] == "app=/usr/bin/curl user=bob"


def test_the_same_conditions_again_replace_the_rule(store: Store) -> None:
    first = add(store, "allow app=/usr/bin/curl port=443")
    made = store.remember(
        parse("deny app=/usr/bin/curl port=443 for=1h"), by="bob", created=150.0, frontend="cli"
    )
    assert made.replaced == (first,)
    assert lines(store) == ["deny app=/usr/bin/curl port=443 for=1h"]
    assert [(c.rule_id, c.change, c.reason, c.by) for c in store.changes()] == [
        (first, "added", "remembered", "alice"),
        (first, "retired", "replaced", "bob"),
        (made.entry.id, "added", "remembered", "bob"),
    ]


def test_other_conditions_users_or_layers_replace_nothing(store: Store) -> None:
    add(store, "allow app=/usr/bin/curl")
    add(store, "deny app=/usr/bin/curl port=443")
    add(store, "deny app=/usr/bin/curl user=bob")
    add(store, "deny app=/usr/bin/curl", layer=Layer.ADMIN)
    assert len(lines(store)) == 4


def test_rules_for_one_process_each_stand_side_by_side_until_a_wider_one(store: Store) -> None:
    mine = (os.getpid(), my_start())
    parent = (os.getppid(), my_start(os.getppid()))
    first = add(store, "allow app=/bin/x for=process", process=mine, boot=BOOT)
    second = add(store, "deny app=/bin/x for=process", process=parent, boot=BOOT)
    assert len(lines(store)) == 2
    third = add(store, "deny app=/bin/x for=process", process=mine, boot=BOOT)
    assert [entry.id for entry in store.rules(200.0, BOOT, SESSION)] == [second, third]
    made = store.remember(parse("deny app=/bin/x"), by="alice", created=3.0)
    assert made.replaced == (second, third)
    assert first not in made.replaced


def test_only_rules_in_force_are_given(store: Store) -> None:
    add(store, "allow port=1")
    add(store, "allow port=2 for=1m", at=100.0)
    add(store, "allow port=3 for=boot", boot=BOOT)
    add(store, "allow port=4 for=session", session=SESSION)
    mine = (os.getpid(), my_start())
    add(store, "allow port=5 for=process", process=mine, boot=BOOT)
    add(store, "allow port=6 for=process", process=(mine[0], mine[1] + 1), boot=BOOT)
    add(store, "allow port=7 for=process", process=(2**22 + 1, 1), boot=BOOT)

    def ports(now: float, boot: str, session: str) -> list[int]:
        return [entry.rule.ports[0][0] for entry in store.rules(now, boot, session)]

    assert ports(159.9, BOOT, SESSION) == [1, 2, 3, 4, 5]
    assert ports(160.0, BOOT, SESSION) == [1, 3, 4, 5]
    assert ports(160.0, "boot-2", SESSION) == [1, 4]
    assert ports(160.0, BOOT, "run-2") == [1, 3, 5]
    assert ports(160.0, "", "") == [1]


def test_a_zombie_is_a_process_that_is_gone(store: Store) -> None:
    child = subprocess.Popen(["/bin/sleep", "60"])
    process = (child.pid, my_start(child.pid))
    add(store, "allow port=5 for=process", process=process, boot=BOOT)
    assert len(lines(store)) == 1
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert lines(store) == []
    child.wait()


def test_sweep_retires_what_has_ended_and_says_why(store: Store) -> None:
    keep = add(store, "allow port=1")
    gone = [
        add(store, "allow port=2 for=1m"),
        add(store, "allow port=3 for=boot", boot="boot-0"),
        add(store, "allow port=4 for=session", session="run-0"),
        add(store, "allow port=5 for=process", process=(2**22 + 1, 1), boot=BOOT),
    ]
    assert store.sweep(500.0, BOOT, SESSION) == tuple(gone)
    reasons = [c.reason for c in store.changes() if c.change == "retired"]
    assert reasons == ["expired", "boot", "session", "exited"]
    assert store.sweep(500.0, BOOT, SESSION) == ()
    assert [entry.id for entry in store.rules(0.0, "boot-0", "run-0")] == [keep]


def test_a_retired_rule_is_kept_with_who_when_and_why(store: Store, path: Path) -> None:
    id = add(store, "allow app=/usr/bin/curl")
    assert store.remove(id, "bob", at=300.0, by_uid=7, frontend="cli")
    assert not store.remove(id, "eve", at=400.0)
    assert not store.remove(999, "eve", at=400.0)
    assert lines(store) == []
    row = next(iter(Database(sqlite3.connect(path)).query("SELECT * FROM rules")))
    assert (row["retired"], row["retired_by"], row["retired_reason"]) == (300.0, "bob", "removed")
    last = store.changes()[-1]
    assert (last.time, last.by, last.by_uid, last.frontend) == (300.0, "bob", 7, "cli")
    assert (last.rule_id, last.change, last.line) == (id, "retired", "allow app=/usr/bin/curl")
    assert len(store.changes()) == 2


def test_retire_tells_which_were_in_force(store: Store) -> None:
    first, second = add(store, "allow port=1"), add(store, "allow port=2")
    assert store.retire([second, 77, second, first], "exited", 5.0) == (second, first)


def test_rules_are_synced_to_the_disk_and_records_are_not_waited_for(store: Store) -> None:
    said: list[str] = []
    store._db.set_trace_callback(said.append)
    add(store, "allow port=1")
    store.record([RECORD])
    store._db.set_trace_callback(None)
    found = [line for line in said if line.startswith(("PRAGMA sync", "COMMIT"))]
    assert found == ["PRAGMA synchronous = FULL", "COMMIT", "PRAGMA synchronous = NORMAL", "COMMIT"]


def test_the_database_itself_refuses_a_duplicate_and_a_dangling_reference(store: Store) -> None:
    id = add(store, "allow port=1")
    columns = "line, layer, conditions, decision, app, scope_user, lifetime, created, by_user"
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        store._db.execute(f"INSERT INTO rules ({columns}) SELECT {columns} FROM rules")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        store._db.execute("UPDATE rules SET replaced_by = 77 WHERE id = ?", (id,))


def test_ids_are_never_used_twice_even_after_a_deletion_by_hand(path: Path) -> None:
    with Store.open(path) as store:
        first = add(store, "allow port=1")
        store._db.execute("DELETE FROM rule_changes")
        store._db.execute("DELETE FROM rules")
    with Store.open(path) as store:
        assert add(store, "allow port=1") > first


@pytest.mark.parametrize(
    ("line", "more"),
    [
        ("allow port=1 for=once", {}),
        ("allow port=1 for=process", {"boot": BOOT}),
        ("allow port=1 for=process", {"process": (1, 1)}),
        ("allow port=1 for=session", {"boot": BOOT}),
        ("allow port=1 for=boot", {"session": SESSION}),
        ("allow port=1", {"expires": 5.0}),
        ("allow port=1", {"process": (1, 1), "boot": BOOT}),
        ("allow port=1 for=1m", {"expires": float("nan")}),
    ],
)
def test_a_rule_without_what_its_lifetime_needs_is_refused(
    store: Store, line: str, more: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"rule|remembered"):
        add(store, line, **more)
    assert store.changes() == []


def test_one_unreadable_line_leaves_the_other_rules_in_force(store: Store, path: Path) -> None:
    good, bad = add(store, "allow port=1"), add(store, "deny port=2")
    with sqlite3.connect(path) as other:
        other.execute("UPDATE rules SET line = 'deny prot=2\n' WHERE id = ?", (bad,))
    other.close()
    assert [entry.id for entry in store.rules(0.0, BOOT, SESSION)] == [good]
    assert len(store.unreadable) == 1
    assert f"arbiter rules remove {bad}" in store.unreadable[0]
    assert store.unread == (bad,)
    assert store.unreadable[0].isprintable()
    store.remove(bad, "root", at=1.0)
    store.rules(0.0, BOOT, SESSION)
    assert not store.unreadable


TEXT = st.text(max_size=30) | st.sampled_from(["\udcff/x", "/a b", '/a"b', "/a\\b", "/\u202ex"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(app=TEXT.filter(bool), by=TEXT)
def test_any_app_and_any_name_is_stored_losslessly_or_refused(
    store: Store, app: str, by: str
) -> None:
    rule = parse("deny port=1").replace(app=app)
    made = store.remember(rule, by=by, created=1.0)
    back = store.get(made.entry.id)
    assert back is not None
    assert back.rule == rule
    assert back.by == utf8(by)


OPERATION = st.tuples(
    st.sampled_from(["allow", "deny"]),
    st.integers(1, 3),
    st.sampled_from(["", " for=1m", " for=session"]),
    st.booleans(),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(OPERATION, max_size=12))
def test_the_rules_are_the_last_word_on_each_question(
    store: Store, operations: list[tuple[str, int, str, bool]]
) -> None:
    """Against a dict: per conditions the last answer counts, a removed one not at all."""
    store.retire([e.id for e in store.rules(0.0, BOOT, SESSION)], "test", 0.0)
    expected: dict[str, tuple[int, str]] = {}
    for decision, port, lifetime, remove in operations:
        line = f"{decision} port={port}{lifetime}"
        id = add(store, line, session=SESSION)
        expected[f"port={port}"] = (id, line)
        if remove:
            store.remove(id, "bob", at=1.0)
            del expected[f"port={port}"]
    assert sorted(lines(store, now=0.0)) == sorted(line for _, line in expected.values())


# --- records --------------------------------------------------------------------------------

RECORD = Record(
    time=12.5,
    decision="deny",
    reason="rule",
    proto="tcp",
    saddr="192.0.2.1",
    sport=4711,
    daddr="2001:db8::1",
    dport=443,
    outdev=2,
    length=60,
    uid=1000,
    user="alice",
    app="/usr/bin/curl",
    app_kind="path",
    pid=7,
    start=8,
    exe="/usr/bin/curl",
    argv=json_list(["curl", "a\udcff"]),
    parents=json_list(["/bin/sh"]),
    rule_id=3,
    layer=2,
    by="bob",
    frontend="tui",
    waited=1.5,
    count=2,
    note="n",
)


def test_a_record_comes_back_as_it_was(store: Store) -> None:
    small = Record(time=1.0, decision="allow", reason="observe")
    assert store.record([RECORD, small]) == 2
    assert store.decisions() == [RECORD, small]


def test_decisions_are_found_by_time_and_app(store: Store) -> None:
    store.record(
        Record(time=float(t), decision="allow", reason="rule", app="ab"[t % 2]) for t in range(10)
    )
    assert [r.time for r in store.decisions(since=3.0, until=6.0)] == [5.0, 4.0, 3.0]
    assert [r.time for r in store.decisions(app="a", limit=2)] == [8.0, 6.0]


@given(
    st.builds(
        Record,
        time=st.floats(),
        decision=TEXT,
        reason=TEXT,
        app=TEXT,
        exe=TEXT,
        uid=st.none() | st.integers(),
        length=st.integers(),
        waited=st.floats(),
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_record_can_be_stored_and_read(store: Store, record: Record) -> None:
    assert store.record([record]) == 1
    found = store.decisions(since=float("-inf"), limit=1_000_000)
    assert (utf8(record.app), utf8(record.exe)) in {(r.app, r.exe) for r in found}


def test_a_batch_is_written_whole_or_not_at_all(store: Store) -> None:
    bad = Record(time=None, decision="x", reason="y")  # type: ignore[arg-type]  # a bug's record
    with pytest.raises(UnstorableError):
        store.record([RECORD, bad])
    assert store.decisions() == []
    assert store.record([RECORD]) == 1


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


# --- what can be wrong ----------------------------------------------------------------------

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


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("content", [b"x", b"not a database at all" * 100, b"\0" * 4096])
def test_a_file_that_is_no_database_is_left_as_it_is(
    path: Path, content: bytes, readonly: bool
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CorruptError, match=r"damaged or not a database.*recover"):
        Store.open(path, readonly=readonly)
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == [path.name]


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


# --- migrations -----------------------------------------------------------------------------

OLD = f"""
PRAGMA application_id = {migrate.APPLICATION_ID};
CREATE TABLE rules (id INTEGER PRIMARY KEY, line TEXT, made REAL);
INSERT INTO rules VALUES (4, 'allow port=1', 7.5), (9, 'deny port=2', 8.5);
"""


def to_version_1(database: Database) -> None:
    old = list(database["rules"].rows)
    database.execute("DROP TABLE rules")
    for statement in migrate.statements(migrate.schema()):
        database.execute(statement)
    for row in old:
        database.execute(
            "INSERT INTO rules (id, line, layer, conditions, decision, app, scope_user, lifetime,"
            " created, by_user) VALUES (?, ?, 2, ?, '', '', '', 'forever', ?, 'old')",
            [row["id"], row["line"], row["line"].split()[1], row["made"]],
        )


@pytest.fixture
def old(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(migrate, "VERSION", 1)  # these tests are about how, not about what
    path.parent.mkdir()
    made = sqlite3.connect(path)
    made.executescript(OLD)
    made.close()
    return path


def shape(path: Path) -> list[tuple[str, ...]]:
    database = sqlite3.connect(path)
    found = database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
    database.close()
    return [(kind, name, migrate.bare(sql or "")) for kind, name, sql in found]


def test_version_0_is_upgraded_after_a_backup(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shape(old)
    monkeypatch.setattr(migrate, "STEPS", {0: to_version_1})
    with Store.open(old) as store:
        assert [(e.id, e.created) for e in store.rules(9.0, "", "")] == [(4, 7.5), (9, 8.5)]
        assert add(store, "allow port=3") == 10
        assert store._db.execute("PRAGMA foreign_keys").fetchone()[0] == 1
    Store.open(tmp_path / "new.db").close()
    assert shape(old) == shape(tmp_path / "new.db")
    backup = old.with_name("arbiter.db.v0.backup")
    assert shape(backup) == before
    assert mode(backup) == 0o640
    assert sorted(file.name for file in old.parent.iterdir()) == ["arbiter.db", backup.name]


def test_an_older_version_is_not_upgraded_by_reading_it(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "STEPS", {0: to_version_1})
    before = digest(old)
    with pytest.raises(StoreError, match=r"older than 1; start the daemon once"):
        Store.open(old, readonly=True)
    assert digest(old) == before


def test_a_backup_never_overwrites_another(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "STEPS", {0: to_version_1})
    other = old.with_name("arbiter.db.v0.backup")
    other.write_text("precious")
    Store.open(old).close()
    assert other.read_text() == "precious"
    assert shape(old.with_name("arbiter.db.v0.backup2"))[0][1] == "rules"


def breaks(database: Database) -> None:
    to_version_1(database)
    database.execute("INSERT INTO no_such_table VALUES (1)")


def dangles(database: Database) -> None:
    to_version_1(database)
    database.execute("UPDATE rules SET replaced_by = 777")


def commits(database: Database) -> None:
    to_version_1(database)
    database.execute("COMMIT")


@pytest.mark.parametrize("step", [breaks, dangles, "CREATE TABLE t (a); BOOM;"])
def test_a_step_that_fails_leaves_the_old_version_whole(
    old: Path, monkeypatch: pytest.MonkeyPatch, step: object
) -> None:
    before = shape(old)
    monkeypatch.setattr(migrate, "STEPS", {0: step})
    with pytest.raises(StoreError):
        Store.open(old)
    assert shape(old) == before
    monkeypatch.setattr(migrate, "STEPS", {0: to_version_1})
    Store.open(old).close()


def test_a_step_that_commits_is_found_out(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "STEPS", {0: commits})
    with pytest.raises(RuntimeError, match="ended its transaction"):
        Store.open(old)


def test_a_version_without_a_way_up_is_refused(old: Path) -> None:
    before = digest(old)
    with pytest.raises(StoreError, match="no step from 0"):
        Store.open(old)
    assert digest(old) == before
    assert not old.with_name("arbiter.db.v0.backup").exists()
    connection = sqlite3.connect(old)
    assert connection.execute("SELECT count(*) FROM rules").fetchone()[0] == 2
    connection.close()


def test_a_script_is_split_at_whole_statements_only() -> None:
    trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN\n SELECT 1;\nEND;\n"
    script = f"CREATE TABLE a (b); -- x;\n{trigger}-- end\n"
    assert len(list(migrate.statements(script))) == 2
    with pytest.raises(ValueError, match="unfinished"):
        list(migrate.statements("CREATE TABLE a (b"))


def test_every_error_says_what_where_why_and_the_next_step(path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        Store.open(path, readonly=True)
    error = caught.value
    assert all((error.what, error.why, error.step))
    assert error.where == path
    assert str(error) == f"{error.what}: {path}: {error.why}; {error.step}"
    kinds = {LockedError, DiskFullError, ReadOnlyError, CorruptError, NoPermissionError}
    assert all(issubclass(kind, StoreError) for kind in kinds)


def test_nobody_undoes_somebody_elses_rule_by_an_answer(tmp_path: Path) -> None:
    rule = parse("deny app=/usr/bin/curl user=alice")
    with Store.open(tmp_path / "a.db") as store:
        by_root = store.remember(rule, by="root", by_uid=0, created=1.0)
        allow = parse("allow app=/usr/bin/curl user=alice")
        with pytest.raises(StoreError, match=f"rule {by_root.entry.id} has the same conditions"):
            store.remember(allow, by="alice", by_uid=1000, created=2.0, replace_others=False)
        assert [entry.rule for entry in store.rules(3.0, "", None)] == [rule]
        own = store.remember(allow, by="root", by_uid=0, created=4.0, replace_others=False)
        assert own.replaced == (by_root.entry.id,)
