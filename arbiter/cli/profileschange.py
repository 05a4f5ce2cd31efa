"""`arbiter profiles add`, `bind`, `unbind` and `remove`: what profiles there are, and where."""

from __future__ import annotations

import time
from pathlib import Path

import click

from arbiter.cli.common import db_option, fail, in_force, person, socket_option
from arbiter.cli.profileshere import here
from arbiter.cli.profilewords import listed, network_names, profile_name
from arbiter.cli.rulestore import boot_id, open_store
from arbiter.store import Author

_HERE = "The networks of the link that this machine uses first now, too."
here_option = click.option("--here", "here_too", is_flag=True, help=_HERE)
name_argument = click.argument("name", callback=profile_name)


@click.command()
@name_argument
@click.option(
    *("--network", "networks"),
    multiple=True,
    callback=network_names,
    metavar="NETWORK",
    help="What it comes with: gateway:MAC, ssid:NAME or sim:ICCID; repeatable.",
)
@here_option
@db_option
@socket_option
def add(name: str, networks: list[str], here_too: bool, db: Path, socket_path: Path) -> None:
    """Make a profile, bound to networks or not yet; `rules add '… profile=NAME'` gives it rules.

    A network belongs to one profile. Who runs a network can give it any SSID, and copy a gateway's
    MAC address: let such a network bring no rights that would harm you elsewhere, or bind a SIM.
    """
    networks = _all(networks, here_too)
    by, uid = person()
    with open_store(db, create=True) as store:
        store.profiles.add(name, networks, time.time(), Author(by, uid, "cli"))
    in_force(socket_path, db)
    bound = f"it comes with {listed(networks)}" if networks else "bound to no network"
    click.echo(f"added profile {name}: {bound}")


@click.command()
@name_argument
@click.argument("networks", nargs=-1, callback=network_names, metavar="[NETWORK]...")
@here_option
@db_option
@socket_option
def bind(name: str, networks: list[str], here_too: bool, db: Path, socket_path: Path) -> None:
    """Bind networks to a profile: gateway:MAC, ssid:NAME or sim:ICCID.

    If the machine is on one of them now, the daemon switches at once.
    """
    networks = _all(networks, here_too)
    if not networks:
        fail("give a NETWORK, or --here", 2)
    with open_store(db) as store:
        store.profiles.bind(name, networks)
    in_force(socket_path, db)
    click.echo(f"profile {name} comes with {listed(networks)}")


@click.command()
@click.argument("networks", nargs=-1, required=True, callback=network_names, metavar="NETWORK...")
@db_option
@socket_option
def unbind(networks: list[str], db: Path, socket_path: Path) -> None:
    """Let networks switch nothing any more; the active profile stays."""
    with open_store(db) as store:
        bound = store.profiles.unbind(networks)
    in_force(socket_path, db)
    for network, name in bound.items():
        click.echo(f"profile {name} does not come with {listed([network])} any more")


@click.command()
@name_argument
@db_option
@socket_option
def remove(name: str, db: Path, socket_path: Path) -> None:
    """Remove a profile and its bindings. Its rules stay, and do not match."""
    by, uid = person()
    with open_store(db) as store:
        active = store.profiles.remove(name, time.time(), Author(by, uid, "cli"))
        entries = store.rules(time.time(), boot_id(), None)
    in_force(socket_path, db)
    click.echo(f"removed profile {name}{': no profile is active now' if active else ''}")
    left = sum(entry.rule.profile == name for entry in entries)
    if left:
        rules = "1 rule names it, and does" if left == 1 else f"{left} rules name it, and do"
        click.echo(f"{rules} not match any more: arbiter rules list --profile {name}")


def _all(networks: list[str], here_too: bool) -> list[str]:
    return list(dict.fromkeys([*networks, *(here() if here_too else ())]))
