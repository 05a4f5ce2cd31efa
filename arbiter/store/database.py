"""The way to a connection: checks the file, makes it if need be, and sets SQLite up."""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
import stat
import time
from pathlib import Path

from arbiter.store import migrate
from arbiter.store.errors import (
    MissingError,
    NoPermissionError,
    ReadOnlyError,
    StoreError,
    UnsuitableError,
    explained,
)

DIRECTORY_MODE = 0o750
WAL_KEPT = 4 << 20
"""Bytes that the -wal file may keep after a checkpoint."""

WAL_TOLD = 64 << 20
"""Bytes of a -wal file that are worth a word: some reader keeps it from being emptied."""


class OpenFile:
    """Which file it was that was opened. SQLite goes on with one that is gone, and all is lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._was = _identity(path)

    def check(self) -> None:
        """Raises MissingError where it is not there any more, or is another."""
        now = _identity(self._path)
        if now == self._was:
            return
        gone = now is None
        raise MissingError(
            "cannot use the database",
            self._path,
            "it was removed while arbiter ran" if gone else "another file was put in its place",
            "put it back, or restart arbiter: "
            + ("it begins anew" if gone else "it uses that one"),
        )


def _identity(path: Path) -> tuple[int, int] | None:
    with explained(path, "cannot use the database"):
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
    return found.st_dev, found.st_ino


def log_problems(path: Path) -> list[str]:
    """What is wrong with the write-ahead log of a database, for people."""
    log = path.with_name(path.name + "-wal")
    try:
        size = log.stat().st_size
    except OSError:
        return []  # none, or nobody may look: who writes to it says what is wrong
    if size < WAL_TOLD:
        return []
    return [
        f"the write-ahead log grows: {log} has {size >> 20} MB: a program that reads the database"
        f" without end keeps it from being emptied; who: fuser -v '{path}'"
    ]


def connect(path: Path, *, readonly: bool, create: bool, busy: float) -> sqlite3.Connection:
    """A connection to a verified database of the current schema, in autocommit mode.

    Waits up to `busy` seconds for a lock. Raises StoreError; a bad file is left as it is.
    """
    what = "cannot open the database"
    with explained(path, what):
        if _exists(path, what):
            if not readonly:
                _require_writable(path, what)
        elif readonly or not create:
            raise MissingError(
                what, path, "there is no such file", "start the daemon once, or give --db FILE"
            )
        else:
            _make(path)
        connection = _open(path, readonly, busy)
        try:
            _prepare(connection, path, readonly, busy)
        except BaseException:
            connection.close()
            raise
    return connection


def _exists(path: Path, what: str) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise UnsuitableError(what, path, "it is not a regular file", "name a file")
    return True


def _require_writable(path: Path, what: str) -> None:
    """SQLite itself would quietly open it for reading, and fail at the first rule."""
    for place in (path, path.resolve().parent):
        if os.access(place, os.R_OK | os.W_OK, effective_ids=True):
            continue
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            step = f"mount it writable: findmnt -T '{place}'"
            raise ReadOnlyError(what, path, "its file system is mounted read-only", step)
        step = "run as root, with sudo"
        if os.geteuid() == 0:
            step = f"check: ls -ld '{place}'; lsattr -d '{place}'"
        raise NoPermissionError(what, path, f"this user may not write {place}", step)


def _close_to_others(path: Path) -> None:
    """It says who connects where: never for everyone, whatever made or restored it. Only what is
    known for ours: the modes of another file that root was made to name stay as they are."""
    real = path.resolve()
    for place in (real, *(real.with_name(real.name + end) for end in ("-wal", "-shm"))):
        with contextlib.suppress(FileNotFoundError):  # SQLite makes and removes those two
            mode = place.stat().st_mode & 0o777
            if mode & ~migrate.FILE_MODE:
                place.chmod(mode & migrate.FILE_MODE)


def _make(path: Path) -> None:
    if str(path) in ("", ".", ":memory:"):
        raise UnsuitableError("cannot open the database", path, "not a file", "name a file")
    try:
        path.parent.mkdir(mode=0o700)  # this one, and no other: the name may be mistyped
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise MissingError(
            "cannot make the database", path, f"there is no directory {path.parent.parent}",
            "make it, or name another file",
        ) from None  # fmt: skip
    else:
        path.parent.chmod(DIRECTORY_MODE)  # mkdir's mode is cut by the umask
    try:
        migrate.make_file(path)
    except FileExistsError:
        return  # another process was faster: it applies the schema, or we do
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # or the name may be gone after a power cut, with all rules
    finally:
        os.close(directory)


def _open(path: Path, readonly: bool, busy: float) -> sqlite3.Connection:
    options = "mode=ro" if readonly else "mode=rw"
    if readonly and not os.access(path.resolve().parent, os.W_OK, effective_ids=True):
        wal = path.with_name(path.name + "-wal")
        if not wal.exists() or wal.stat().st_size == 0:
            # In a directory that we may not write, SQLite cannot make the -shm file that a WAL
            # database needs. With no log there is nobody writing: read the file as it is.
            options = "immutable=1"
    return sqlite3.connect(
        f"file:{migrate.quote(path)}?{options}", uri=True, timeout=busy, isolation_level=None
    )


def _use_wal(connection: sqlite3.Connection, busy: float) -> str:
    """Turn the write-ahead log on; gives the journal mode there is then.

    SQLite does not call its busy handler for this change: two processes that make the same
    database at once would fail for no reason.
    """
    end = time.monotonic() + busy
    while True:
        try:
            mode: str = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return mode


def _prepare(connection: sqlite3.Connection, path: Path, readonly: bool, busy: float) -> None:
    # A file made to harm must not run functions or write through views and triggers.
    connection.execute("PRAGMA trusted_schema = OFF")
    version = migrate.identify(connection, path)
    if version is None:
        if readonly:
            raise MissingError(
                "cannot read the database", path, "it is empty", "start the daemon once"
            )
        # Must precede the first table; lets a later clean-up give pages back.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    elif readonly and version < migrate.VERSION:
        raise StoreError(
            "cannot read the database",
            path,
            f"it has schema {version}, older than {migrate.VERSION}",
            "start the daemon once: it upgrades it; or upgrade a copy:"
            f" sqlite3 {shlex.quote(str(path))} '.backup copy.db',"
            " then arbiter audit vacuum --db copy.db",
        )
    if not readonly:
        _close_to_others(path)
        mode = _use_wal(connection, busy)
        if mode != "wal":
            why = f"its file system cannot share memory (journal mode stays {mode})"
            raise UnsuitableError("cannot use the database", path, why, "put it on a local disk")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT}")
        if version is None:
            migrate.create(connection, path)
        else:
            migrate.upgrade(connection, path, version)
    connection.execute("PRAGMA foreign_keys = ON")
    # What a statement with triggers could have to take back, and tables of sums: small, often made.
    connection.execute("PRAGMA temp_store = MEMORY")
    migrate.verify(connection, path)
