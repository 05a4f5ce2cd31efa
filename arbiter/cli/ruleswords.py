"""What the commands about rules share: the database, times in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from arbiter.cli.common import fail
from arbiter.store import Store, StoreError


@contextmanager
def open_store(db: Path, *, readonly: bool = False) -> Iterator[Store]:
    """The database, with its errors told to the person; exit code 1."""
    try:
        with Store.open(db, readonly=readonly, create=not readonly) as store:
            yield store
    except StoreError as error:
        fail(str(error))
    except sqlite3.Error as error:
        fail(f"{db}: {error}")


def boot_id() -> str:
    """This boot, random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def when(epoch: float) -> str:
    """A time of the calendar, local."""
    try:
        return datetime.fromtimestamp(epoch).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):  # no day of the calendar: show what is stored
        return f"{epoch:g}"
