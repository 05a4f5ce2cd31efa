"""`arbiter links`: the ways out, as the kernel and services show them and files add to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import click

from arbiter.accounts import local_zone
from arbiter.budgets import Totals, first_day, size_text, standing
from arbiter.bus import FactsWatch
from arbiter.cli.common import CONFIG, STATE, db_option, fail, json_option, show_json, table
from arbiter.cli.linkusage import usage
from arbiter.kernel.rtnl import LinkWatch
from arbiter.linkfiles import LinkFile
from arbiter.linkkeeper import own_tables
from arbiter.links import FoundLink, assemble
from arbiter.linkstate import read_files, read_numbers
from arbiter.model import address_text
from arbiter.protocol import clean
from arbiter.rules.words import quote
from arbiter.store import Store, StoreError
from arbiter.tariff import period_start
from arbiter.usage import day_of

COLUMNS = (
    "nr", "name", "interface", "kind", "IPv4 by", "IPv6 by", "metered", "price", "month", "left",
)  # fmt: skip


class Money:
    """What was used this month, and what is left of budgets; nothing where there is no database."""

    def __init__(self, db: Path) -> None:
        self._zone, self._wall = local_zone(), time.time()
        self._totals = Totals()
        self.problem = ""
        if not db.exists():
            return
        try:
            with Store.open(db, readonly=True) as store:
                rows = store.usage(first_day(self._wall, self._zone))
        except StoreError as error:
            self.problem = str(error)
            return
        self._totals.load(rows, day_of(self._wall, self._zone))

    def month(self, link: FoundLink) -> int:
        """Bytes over it, or by its SIM, this month."""
        month = day_of(self._wall, self._zone)[:8] + "01"
        return self._totals.carried(link.name, link.sim, month)

    def left(self, link: FoundLink) -> int | None:
        """Bytes left of its budget in this period; None without one."""
        if link.budget is None:
            return None
        since = day_of(period_start(link.budget, self._wall, self._zone), self._zone)
        used = self._totals.carried(link.name, link.sim, since)
        found = standing(link.budget, link.over_budget, used, self._wall, self._zone, None)
        return found.left


@click.group(invoke_without_command=True)
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
        from arbiter.cli.linkwatch import follow

        follow(look, db, as_json)
    if problems:
        fail("\n".join(problems))


links.add_command(usage)


class Look:
    """Interfaces and facts, joined to links: once, or as they change."""

    def __init__(self, known: Mapping[str, int], files: tuple[LinkFile, ...]) -> None:
        self._known, self._files = known, files
        self._changed = asyncio.Event()
        self._interfaces = LinkWatch(lambda _: self._news(), _nothing, own_tables=own_tables())
        self._facts = FactsWatch(lambda _: self._news(), _nothing)

    def _news(self) -> None:
        self._changed.set()

    async def start(self) -> None:
        """Follow what changes. Raises OSError."""
        await self._interfaces.start()
        await self._facts.start()

    async def close(self) -> None:
        """Stop."""
        await self._facts.close()
        await self._interfaces.close()

    async def once(self) -> tuple[FoundLink, ...]:
        """The links now. Raises OSError."""
        await self.start()
        try:
            return self.links()
        finally:
            await self.close()

    async def next(self) -> tuple[FoundLink, ...]:
        """The links after the next change."""
        await self._changed.wait()
        self._changed.clear()
        return self.links()

    def links(self) -> tuple[FoundLink, ...]:
        """The links as last seen."""
        interfaces, facts = self._interfaces.interfaces, self._facts.facts
        return assemble(interfaces, self._files, self._known, facts)


def _nothing(problem: str) -> None:
    """Gateways that may not be looked up, a service that does not answer: less is known."""


def _by(up: bool, gateway: bytes, everywhere: bool) -> str:
    if not up:
        return "-"
    if not everywhere:
        return "no default"
    return address_text(gateway) if gateway else "on link"


def _row(link: FoundLink, money: Money) -> tuple[str, ...]:
    left = money.left(link)
    metered = ("yes" if link.metered else "no") + (" (guess)" if "guess" in link.metered_by else "")
    month = money.month(link)
    return (
        str(link.number),
        link.name,
        link.interface,
        link.kind.value + (", roaming" if link.roaming else ""),
        _by(link.up4, link.gateway4, link.reach4 is None),
        _by(link.up6, link.gateway6, link.reach6 is None),
        metered,
        str(link.price or ""),
        size_text(month) if month else "",
        "" if left is None else f"{size_text(left)} of {link.budget}",
    )


def link_object(link: FoundLink, money: Money) -> dict[str, object]:
    """A link for programs. What a network, a modem or a kernel chose is cleaned: JSON goes to
    terminals, too."""
    return {
        "number": link.number,
        "name": link.name,
        "interface": clean(link.interface),
        "kind": link.kind.value,
        "up4": link.up4,
        "up6": link.up6,
        "gateway4": address_text(link.gateway4) if link.gateway4 else None,
        "gateway6": address_text(link.gateway6) if link.gateway6 else None,
        "mtu": link.mtu,
        "dns": [address_text(server) for server in link.dns],
        "metered": link.metered,
        "metered_by": link.metered_by,
        "roaming": link.roaming,
        "sim": link.sim or None,
        "operator": clean(link.operator) or None,
        "apn": clean(link.apn) or None,
        "networks": list(map(quote, link.networks)),
        "price": str(link.price) if link.price else None,
        "budget": str(link.budget) if link.budget else None,
        "over_budget": link.over_budget.value if link.budget else None,
        "left_bytes": money.left(link),
        "month_bytes": money.month(link),
        "file": link.file or None,
    }
