"""What can go wrong with the database, as one family of errors that people can act on."""

from __future__ import annotations

import errno
import grp
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class StoreError(Exception):
    """The database could not do what was asked; nothing of it was done.

    The text says what, where, why and the next step. Nothing is ever deleted or overwritten.
    """

    def __init__(self, what: str, where: Path, why: str, step: str) -> None:
        super().__init__(f"{what}: {where}: {why}; {step}")
        self.what = what
        self.where = where
        self.why = why
        self.step = step


class MissingError(StoreError):
    """There is no such file."""


class UnsuitableError(StoreError):
    """Not a regular file: a directory, a device, or SQLite's in-memory names."""


class LockedError(StoreError):
    """Another process holds the write lock, longer than we wait."""


class DiskFullError(StoreError):
    """No space left on the device, or the database's own limit is reached."""


class ReadOnlyError(StoreError):
    """The file, its directory or its file system may not be written by anyone."""


class NoPermissionError(StoreError):
    """This user may not read or write the file, or its directory."""


class CorruptError(StoreError):
    """Not a database, or a damaged one."""


class NotOursError(StoreError):
    """A sound database, of another program."""


class NewerError(StoreError):
    """Made by a later version of arbiter."""


class UnstorableError(StoreError):
    """The database is well; what was to be stored cannot be."""


class TooLongError(StoreError):
    """Reading was ended before it was done: it took too long."""


class ClosedError(StoreError):
    """The store was closed before."""


_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_REFUSED = (sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN)
_UNSTORABLE = (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH)


def explain(error: sqlite3.Error, path: Path, what: str) -> StoreError:
    """The StoreError for an error of SQLite (its result codes: sqlite.org/rescode.html)."""
    # Extended codes hold the primary one in the low byte. Errors that Python itself raises
    # (closed connection, undecodable text) have none.
    extended = getattr(error, "sqlite_errorcode", None)
    code = -1 if extended is None else extended & 0xFF
    why = " ".join(str(error).split())
    if code in _LOCKED:
        return LockedError(
            what, path, f"another process is writing ({why})", f"try again; who: fuser -v '{path}'"
        )
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _no_space(path)):
        return DiskFullError(
            what, path, f"no space left ({why})", f"free some: df -h '{path.parent}'"
        )
    if code == sqlite3.SQLITE_READONLY:
        return ReadOnlyError(what, path, why, "check the modes and the mount options (findmnt -T)")
    if code in _CORRUPT:
        return corrupt(path, what, why)
    if code in _REFUSED:
        return _refused(what, path, why)
    if code == sqlite3.SQLITE_IOERR:
        return StoreError(what, path, f"the device failed ({why})", "see dmesg, check the disk")
    if code == sqlite3.SQLITE_INTERRUPT:
        return TooLongError(what, path, "it takes too long", "narrow it down, by time or app")
    if code in _UNSTORABLE:
        return UnstorableError(
            what, path, why, "report this, with the rule or connection it was about"
        )
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in why:
        return ClosedError(what, path, "the store is closed", "open it again")
    if extended is None and "decode" in why:
        return corrupt(path, what, why)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreError(what, path, f"{why} ({name})", "check it: sqlite3 FILE 'PRAGMA quick_check'")


def _refused(what: str, path: Path, why: str) -> NoPermissionError:
    """Who may, and how to become one of them. To root, the reason that the system gives."""
    log, place = path.with_name(f"{path.name}-wal"), path.resolve().parent
    if _readable(path) and _readable(log) and not os.access(place, os.W_OK, effective_ids=True):
        why = (
            f"there is a log beside it, {log.name}, which is read only where {place} can be written"
        )
        return NoPermissionError(what, path, why, f"copy both: cp '{path}' '{log}' DIRECTORY")
    if os.geteuid() == 0:
        return NoPermissionError(what, path, why, f"check: ls -ld '{path.parent}' '{path}'")
    why = f"this user may not, {_readers(path)} may read it"
    return NoPermissionError(what, path, why, "run as root, with sudo")


def _readable(path: Path) -> bool:
    return os.access(path, os.R_OK, effective_ids=True)


def _readers(path: Path) -> str:
    """Whom the nearest place that can be looked at is for."""
    for place in (path, *path.parents):
        try:
            group = place.stat().st_gid
        except OSError:
            continue  # it lies in a directory that this user may not search
        try:
            return "only root" if group == 0 else f"root and group {grp.getgrgid(group).gr_name}"
        except KeyError:
            return f"root and the group with gid {group}"
    return "only root"


def corrupt(path: Path, what: str, why: str) -> CorruptError:
    """The file is damaged. The advice keeps it: `.recover` gets most rules out of a bad file."""
    why = f"it is damaged or not a database ({' '.join(why.split())})"
    then = "move it and its -wal aside and start anew, or restore a backup"
    if not _begins_as_database(path):
        return CorruptError(what, path, why, f"name another file; if it was arbiter's: {then}")
    return CorruptError(what, path, why, f"{then}; to save what can be: sqlite3 '{path}' .recover")


def _begins_as_database(path: Path) -> bool:
    """Or cannot be read. As https://www.sqlite.org/fileformat2.html#magic_header_string says."""
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError:
        return True


def _no_space(path: Path) -> bool:
    # With a full disk the growing of the -shm file fails as an I/O error.
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False  # the I/O error itself is what gets reported


@contextmanager
def explained(path: Path, what: str) -> Iterator[None]:
    """Turn errors of SQLite and the file system inside into StoreErrors."""
    try:
        yield
    except sqlite3.Error as error:
        raise explain(error, path, what) from error
    except UnicodeDecodeError as error:  # by Python, of what SQLite says of a damaged schema
        raise corrupt(path, what, str(error)) from error
    except PermissionError as error:
        raise _refused(what, path, error.strerror or str(error)) from error
    except OSError as error:
        raise _explain_os(error, path, what) from error


def _explain_os(error: OSError, path: Path, what: str) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(what, path, str(error), f"free some space: df -h '{path.parent}'")
    if error.errno == errno.EROFS:
        return ReadOnlyError(
            what, path, str(error), f"mount it writable: findmnt -T '{path.parent}'"
        )
    if error.errno == errno.ENOENT:
        return MissingError(what, path, str(error), "check the path, or start the daemon once")
    return StoreError(what, path, str(error), f"check the path: ls -ld '{path.parent}'")
