"""A new database gets schema.sql; an older one is brought up to it, step by step.

Each step runs in one transaction with the raise of `user_version`, so that a crash leaves a
whole version. Before the first step the database is copied beside itself; nothing deletes that.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import quote as percent

from arbiter.store import steps, sumstep
from arbiter.store.errors import NewerError, NotOursError, StoreError, corrupt, explained

if TYPE_CHECKING:
    from sqlite_utils import Database

APPLICATION_ID = 0x41726274
"""PRAGMA application_id: "Arbt"."""
VERSION = 10
"""PRAGMA user_version of schema.sql."""
_CHECKED = ("rules", "rule_changes", "profiles", "profile_networks", "profile_switches")
TABLES = frozenset(
    {
        *(*_CHECKED, "decisions", "usage", "open_flows", "runs", "gaps", "chains", "checkpoints"),
        *("outcomes", "destinations", "daily", "totals", "pruned"),
    }
)
FILE_MODE = 0o640

STEPS: Mapping[int, str | Callable[[Database], None]] = MappingProxyType(
    {
        1: steps.TO_2,
        2: steps.TO_3,
        3: steps.TO_4,
        4: steps.TO_5,
        5: steps.TO_6,
        6: steps.TO_7,
        7: steps.TO_8,
        8: sumstep.TO_9,
        9: steps.TO_10,
    }
)
"""How to get from a version to the next, by the version it starts from; version 1 is the first.

SQL statements, or a function that uses sqlite-utils; neither may begin or commit.
"""


def schema() -> str:
    """The text of schema.sql."""
    return Path(__file__).with_name("schema.sql").read_text("utf-8")


def bare(sql: str) -> str:
    """A statement without comments and layout: a column that ALTER TABLE added stands otherwise
    than in schema.sql, and is the same. (A string with -- in it keeps its quote open, and is none
    of ours.)"""
    return re.sub(r" *([(),]) *", r"\1", " ".join(re.sub("--[^\n]*", "", sql).split()))


def statements(script: str) -> Iterator[str]:
    """The single statements of a script.

    `executescript` would commit the open transaction first, and with it half a migration.
    """
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip() and not all(
        line.strip().startswith("--") or not line.strip() for line in statement.splitlines()
    ):
        raise ValueError(f"an unfinished SQL statement: {statement.strip()[:80]!r}")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def identify(connection: sqlite3.Connection, path: Path) -> int | None:
    """The schema version of the database; None for one without any content.

    Raises a StoreError where it is not one that this arbiter can use; nothing is written.
    """
    what = "cannot use the database"
    size = path.stat().st_size  # before the pages are counted: another process may make them now
    # One statement, so that all three are of the same moment.
    found: tuple[int, int, int] = connection.execute(
        "SELECT (SELECT application_id FROM pragma_application_id),"
        " (SELECT user_version FROM pragma_user_version), count(*) FROM sqlite_master"
    ).fetchone()
    application, version, objects = found
    if application == 0 and version == 0 and objects == 0:
        if size and not _pragma(connection, "page_count"):
            # SQLite takes a file of a few bytes for an empty database, and would overwrite it.
            raise corrupt(path, what, "file is not a database")
        return None
    if application != APPLICATION_ID:
        raise NotOursError(
            what,
            path,
            f"it belongs to another program (application_id {application:#x},"
            f" not {APPLICATION_ID:#x})",
            "name another file, or move this one away",
        )
    if version > VERSION:
        raise NewerError(
            what,
            path,
            f"a later arbiter made it (schema {version}; this one knows up to {VERSION})",
            f"install that arbiter again, or restore a backup: ls '{path.parent}'",
        )
    missing = [number for number in range(version, VERSION) if number not in STEPS]
    if missing:
        raise StoreError(
            "cannot upgrade the database",
            path,
            f"it has schema {version}, and there is no step from {missing[0]}",
            "install a later arbiter, or start anew with another file",
        )
    return version


def _utils(connection: sqlite3.Connection) -> Database:
    # Imported where it is used: it costs the daemon 10 MB and 90 ms, and most starts migrate
    # nothing. Plugins of other packages stay out of this process.
    from sqlite_utils import Database

    return Database(connection, execute_plugins=False)


def _apply(connection: sqlite3.Connection, script: str) -> None:
    for statement in statements(script):
        connection.execute(statement)


def create(connection: sqlite3.Connection, path: Path) -> None:
    """Apply schema.sql to an empty database. Harmless where another process was faster."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if identify(connection, path) is None:
            _apply(connection, schema())
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def upgrade(connection: sqlite3.Connection, path: Path, version: int) -> Path | None:
    """Bring an older database to VERSION; gives the backup's path, None if nothing was to do."""
    if version == VERSION:
        return None
    saved = backup(path, version)
    # Cannot be changed inside a transaction; steps that rebuild a table need it off, and each
    # is checked before it commits (sqlite.org/lang_altertable.html, section 7).
    connection.execute("PRAGMA foreign_keys = OFF")
    while version < VERSION:
        version = _step(connection, path)
    connection.execute("PRAGMA foreign_keys = ON")
    return saved


def _step(connection: sqlite3.Connection, path: Path) -> int:
    database = _utils(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read again: another process may have upgraded it while we waited.
        version = _pragma(connection, "user_version")
        if version >= VERSION:
            return version
        step = STEPS[version]
        if callable(step):
            step(database)
        else:
            _apply(connection, step)
        if not connection.in_transaction:
            raise RuntimeError(f"the step from schema {version} ended its transaction")
        broken = connection.execute("PRAGMA foreign_key_check").fetchone()
        if broken is not None:
            raise StoreError(
                f"cannot upgrade the database from schema {version}",
                path,
                f"row {broken[1]} of {broken[0]} would refer to nothing",
                "report this; the database is unchanged",
            )
        connection.execute(f"PRAGMA user_version = {version + 1}")
        connection.execute("COMMIT")
        return version + 1
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def backup(path: Path, version: int) -> Path:
    """Copy the database to `NAME.vN.backup` (then .backup2, ...); never over an older copy."""
    with explained(path, "cannot back up the database before its upgrade"):
        saved = _reserve(path, version)
        source = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)
        target = sqlite3.connect(saved)
        try:
            source.backup(target)
        except sqlite3.Error:
            saved.unlink()  # half a copy would pass for a backup
            raise
        finally:
            target.close()
            source.close()
    return saved


def _reserve(path: Path, version: int) -> Path:
    number = 1
    while True:
        saved = path.with_name(f"{path.name}.v{version}.backup{number if number > 1 else ''}")
        try:
            make_file(saved)
        except FileExistsError:
            number += 1
        else:
            return saved


def make_file(path: Path) -> None:
    """Make an empty file with FILE_MODE, whatever the umask, never open to more for a moment.

    SQLite gives -wal and -shm the mode of the database. Raises FileExistsError.
    """
    # Only ever for a file that is not there: closing a descriptor of an open database would
    # drop this process's locks on it (fcntl(2); sqlite.org/howtocorrupt.html, 2.2).
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, FILE_MODE)
    finally:
        os.close(descriptor)


def quote(path: Path) -> str:
    """A path for a `file:` URI of SQLite, which would read `?`, `#` and `%` in it."""
    return percent(os.fsencode(path.absolute()))


def verify(connection: sqlite3.Connection, path: Path) -> None:
    """Raise CorruptError where the tables of rules or profiles are damaged, or a table is missing.

    Not the decisions nor what was used: they may be large, and their damage must not keep the
    rules from being used. Costs some 100 ms at 100,000 rules.
    """
    found = {
        row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    if not found >= TABLES:
        raise corrupt(path, "cannot use the database", f"no table {sorted(TABLES - found)[0]}")
    for table in _CHECKED:
        result = connection.execute(f"PRAGMA quick_check({table})").fetchone()[0]
        if result != "ok":
            raise corrupt(path, "cannot use the database", result)
