"""`arbiter profiles use` and `undo`: which profile is active, by hand."""

from __future__ import annotations

import time
from pathlib import Path

import click

from arbiter.cli.common import db_option, in_force, person, socket_option
from arbiter.cli.profilewords import profile_or_none
from arbiter.cli.rulestore import open_store
from arbiter.profiles import word
from arbiter.store import Author

_HOLDS = "until the machine comes onto a network of another profile"


@click.command()
@click.argument("name", callback=profile_or_none, metavar="NAME|none")
@db_option
@socket_option
def use(name: str, db: Path, socket_path: Path) -> None:
    """Make a profile the active one, or none.

    That holds until the machine comes onto a network that is bound to another profile than the one
    where it is now. New connections go by it, and what waits for an answer.
    """
    by, uid = person()
    with open_store(db) as store:
        switch = store.profiles.use(name, time.time(), Author(by, uid, "cli"))
    in_force(socket_path, db)
    what = f"profile {name}" if name else "no profile"
    click.echo(f"{what} is active{f', {_HOLDS}' if switch else ' already'}")


@click.command()
@db_option
@socket_option
def undo(db: Path, socket_path: Path) -> None:
    """Go back to the profile before the last switch, whoever or whatever made it.

    It holds as what `use` chose. Once more goes back further: see `arbiter profiles history`.
    """
    by, uid = person()
    with open_store(db) as store:
        switch = store.profiles.undo(time.time(), Author(by, uid, "cli"))
    in_force(socket_path, db)
    click.echo(f"{switch.why}: {word(switch.before)} → {word(switch.after)}, {_HOLDS}")
