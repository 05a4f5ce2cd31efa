"""What the commands about rules share: the database opened, this boot, who is a user here."""

from __future__ import annotations

import grp
import os
import pwd
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from arbiter.cli.common import fail
from arbiter.protocol import clean
from arbiter.rules.rule import is_number
from arbiter.rules.words import quote
from arbiter.store import Store, StoreError


@contextmanager
def open_store(db: Path, *, readonly: bool = False, create: bool = False) -> Iterator[Store]:
    """The database, with its errors told to the person; exit code 1. `create`: where there is none
    one is made, and that is told, too."""
    create &= not readonly
    new = create and not os.path.lexists(db)
    try:
        with Store.open(db, readonly=readonly, create=create) as store:
            if new:
                click.echo(f"arbiter: note: a new database was made: {clean(str(db))}", err=True)
            yield store
    except StoreError as error:
        fail(str(error))
    except sqlite3.Error as error:
        fail(f"{db}: {error}")


@contextmanager
def stoppable(db: Path, frontend: str, moment: float) -> Iterator[None]:
    """Ctrl-C ends the command with code 1 and the word whether it had changed the rules: whether a
    change by this frontend of this moment (epoch seconds) is in the database."""
    try:
        yield
    except KeyboardInterrupt:
        made = False
        if db.exists():
            with open_store(db, readonly=True) as store:
                changes = store.changes()
                made = any(c.time == moment and c.frontend == frontend for c in changes)
        if made:
            fail("interrupted when the rules were changed: `arbiter rules undo` takes that back")
        fail("interrupted: no rule was changed")


def boot_id() -> str:
    """This boot, random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def unknown_user(user: str) -> str:
    """What to say about a rule for a user whom this machine does not know; "" if it does."""
    if not user or is_number(user.removeprefix("@")):
        return ""
    what, name = ("group", user[1:]) if user.startswith("@") else ("user", user)
    try:
        if what == "group":
            grp.getgrnam(name)
        else:
            pwd.getpwnam(name)
    except (KeyError, ValueError):  # ValueError: a name with NUL or with what is no byte
        return f"there is no {what} {quote(name)} on this machine now"
    return ""
