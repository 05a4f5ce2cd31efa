"""`arbiter links`: the ways out, as the kernel and services show them and files add to them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from arbiter.budgets import size_text
from arbiter.cli.common import (
    STATE,
    config_option,
    db_option,
    fail,
    json_option,
    show_json,
    table,
)
from arbiter.cli.lazy import Lazy
from arbiter.cli.linklook import Look, Money, link_object
from arbiter.cli.linkwatch import follow
from arbiter.links import FoundLink
from arbiter.linkstate import read_files, read_numbers

COLUMNS = ("name", "interface", "kind", "carries", "metered", "price", "month", "left")


ELSEWHERE = {
    "usage": (
        "arbiter.cli.linkusage:usage",
        "Show what was used in a month, the most first, and its cost at the links' prices of now.",
    ),
}


@click.group(cls=Lazy, elsewhere=ELSEWHERE, invoke_without_command=True)
@config_option("The directory of links.d.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, readable=False),
    default=STATE,
    envvar="ARBITER_STATE",
    show_default=True,
    show_envvar=True,
    help="The daemon's state directory: it keeps the links' numbers.",
)
@db_option
@click.option("--watch", is_flag=True, help="Go on, and say what changes, until Ctrl-C.")
@json_option
@click.pass_context
def links(
    ctx: click.Context, config: Path, state: Path, db: Path, watch: bool, as_json: bool
) -> None:
    """List the links that rules can name with route via=NAME; the daemon need not run.

    A link is an interface that can carry traffic away from this machine; files in links.d add a
    name, a price, a budget, what it matches. What is used is known while the daemon runs.
    """
    if ctx.invoked_subcommand is not None:
        return
    try:
        known = read_numbers(state / "links.json")
    except OSError:
        known = {}  # not everybody may look into the state directory; the names are the same
    files, problems = read_files(config / "links.d")
    look = Look(known, files)
    try:
        found = asyncio.run(look.once())
    except OSError as error:
        fail(f"the kernel's links cannot be read: {error.strerror or error}")
    money = Money(db)
    if as_json and not watch:
        show_json([link_object(link, money) for link in found])
    elif not found:
        click.echo("no link: no interface has a default route")
    elif not as_json:
        table(COLUMNS, (_row(link, money) for link in found))
    if money.problem:
        click.echo(f"arbiter: usage is not shown: {money.problem}", err=True)
    if watch:
        for problem in problems:
            click.echo(f"arbiter: {problem}", err=True)
        follow(look, found, db, as_json)
    if problems:
        fail("\n".join(problems))


def _carries(link: FoundLink) -> str:
    """`IPv4, IPv6`, `IPv4 to 2 networks`, or `down`."""
    families = (("IPv4", link.up4, link.reach4), ("IPv6", link.up6, link.reach6))
    found = [
        name if reach is None else f"{name} to {len(reach)} network{'s' * (len(reach) != 1)}"
        for name, up, reach in families
        if up
    ]
    return ", ".join(found) or "down"


def _left(left: int | None, link: FoundLink) -> str:
    if left is None:
        return ""
    return f"{size_text(left)} of {link.budget}" if left else f"over {link.budget}"


def _row(link: FoundLink, money: Money) -> tuple[str, ...]:
    left, month = money.left(link), money.month(link)
    metered = ("yes" if link.metered else "no") + (" (guess)" if "guess" in link.metered_by else "")
    return (
        link.name,
        link.interface,
        link.kind.value + (", roaming" if link.roaming else ""),
        _carries(link),
        metered,
        str(link.price or ""),
        size_text(month) if month else "",
        _left(left, link),
    )
