"""One transaction of the store: all of it or nothing, and its errors as people can act on them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arbiter.rules.words import RuleError
from arbiter.store.errors import UnstorableError, explained


@contextmanager
def writing(db: sqlite3.Connection, path: Path, what: str, *, durable: bool) -> Iterator[None]:
    """A transaction with the write lock from its start: no upgrade of a lock can fail.

    `durable`: it is on disk when it ends (fsync). Raises StoreError, which says that `what` cannot
    be done with the database at `path`.
    """
    with explained(path, what):
        try:
            # sqlite.org/pragma.html#pragma_synchronous: in WAL mode FULL syncs every
            # commit, NORMAL leaves that to the checkpoint.
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            yield
            db.execute("COMMIT")
        except (UnicodeEncodeError, OverflowError) as error:
            raise UnstorableError(
                what, path, f"it holds what is no text or number ({error})", "rename it"
            ) from error
        except RuleError as error:
            raise UnstorableError(
                what, path, f"its line cannot be read back ({error})", "report this"
            ) from error
        finally:
            _undo_open(db)


def _undo_open(db: sqlite3.Connection) -> None:
    try:
        if db.in_transaction:
            db.execute("ROLLBACK")
    except sqlite3.ProgrammingError:
        return  # closed: there is nothing open, and the first error says so
