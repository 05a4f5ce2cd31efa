"""`arbiter links`: the ways out, as the kernel shows them and files add to them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from arbiter.cli.common import CONFIG, STATE, fail, json_option, show_json, table
from arbiter.kernel.rtnldump import read_interfaces
from arbiter.linkkeeper import OWN_TABLES, read_files, read_numbers
from arbiter.links import FoundLink, assemble
from arbiter.model import address_text

COLUMNS = ("nr", "name", "interface", "kind", "IPv4 by", "IPv6 by", "mtu", "metered", "price")


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, readable=False),
    default=CONFIG,
    show_default=True,
    help="The directory of links.d.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, readable=False),
    default=STATE,
    envvar="ARBITER_STATE",
    show_default=True,
    show_envvar=True,
    help="The daemon's state directory: it keeps the links' numbers.",
)
@json_option
def links(config: Path, state: Path, as_json: bool) -> None:
    """List the links that rules can name with route via=NAME; the daemon need not run.

    A link is an interface that can carry traffic away from this machine; files in links.d add a
    name, a price, what it matches.
    """
    try:
        interfaces = asyncio.run(read_interfaces(OWN_TABLES)).interfaces
    except OSError as error:
        fail(f"the kernel's links cannot be read: {error.strerror or error}")
    try:
        known = read_numbers(state / "links.json")
    except OSError:
        known = {}  # not everybody may look into the state directory; the names are the same
    files, problems = read_files(config / "links.d")
    found = assemble(interfaces, files, known)
    if as_json:
        show_json([_object(link) for link in found])
    elif not found:
        click.echo("no link: no interface has a default route")
    else:
        columns = (
            "nr",
            "name",
            "interface",
            "kind",
            "IPv4 by",
            "IPv6 by",
            "mtu",
            "metered",
            "price",
        )
        table(columns, map(_row, found))
    if problems:
        fail("\n".join(problems))


def _by(up: bool, gateway: bytes) -> str:
    if not up:
        return "-"
    return address_text(gateway) if gateway else "on link"


def _row(link: FoundLink) -> tuple[str, ...]:
    metered = {None: "", True: "yes", False: "no"}[link.metered]
    return (
        str(link.number),
        link.name,
        link.interface,
        link.kind.value,
        _by(link.up4, link.gateway4),
        _by(link.up6, link.gateway6),
        str(link.mtu),
        metered,
        link.price,
    )


def _object(link: FoundLink) -> dict[str, object]:
    return {
        "number": link.number,
        "name": link.name,
        "interface": link.interface,
        "kind": link.kind.value,
        "up4": link.up4,
        "up6": link.up6,
        "gateway4": address_text(link.gateway4) if link.gateway4 else None,
        "gateway6": address_text(link.gateway6) if link.gateway6 else None,
        "mtu": link.mtu,
        "metered": link.metered,
        "price": link.price or None,
        "file": link.file or None,
    }
