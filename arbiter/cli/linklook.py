"""The links as the kernel, services, files and the database show them now, for the commands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from arbiter.budgets import Totals, first_day, standing
from arbiter.bus import FactsWatch
from arbiter.kernel.rtnl import LinkWatch
from arbiter.linkfiles import LinkFile
from arbiter.linkkeeper import own_tables
from arbiter.links import FoundLink, assemble, remember
from arbiter.localtime import local_zone
from arbiter.model import address_text
from arbiter.protocol import clean
from arbiter.rules.words import quote
from arbiter.store import Store, StoreError
from arbiter.tariff import period_start
from arbiter.usage import day_of


class Money:
    """What was used this month, and what is left of budgets; nothing where there is no database."""

    def __init__(self, db: Path) -> None:
        self._zone, self._wall = local_zone(), time.time()
        self._totals = Totals()
        self.problem = ""
        try:
            if not db.exists():
                return
            with Store.open(db, readonly=True) as store:
                rows = store.usage(first_day(self._wall, self._zone))
        except PermissionError:
            self.problem = f"{db} may be read by root and group arbiter only"
            return
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


class Look:
    """Interfaces and facts, joined to links: once, or as they change."""

    def __init__(self, known: Mapping[str, int], files: tuple[LinkFile, ...]) -> None:
        self._known, self._files = known, files

    def _news(self) -> None:
        self._changed.set()

    async def start(self, problem: Callable[[str], None]) -> None:
        """Follow what changes, and tell what keeps it from being seen. Raises OSError."""
        # Made anew each time: they belong to the event loop in which they first waited.
        self._changed = asyncio.Event()
        self._interfaces = LinkWatch(lambda _: self._news(), problem, own_tables=own_tables())
        self._facts = FactsWatch(lambda _: self._news(), problem)
        await self._interfaces.start()
        await self._facts.start()

    async def close(self) -> None:
        """Stop."""
        await self._facts.close()
        await self._interfaces.close()

    async def once(self) -> tuple[FoundLink, ...]:
        """The links now. Raises OSError."""
        await self.start(_nothing)
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
        """The links as last seen. One that was there before is one that is down, and not gone."""
        interfaces, facts = self._interfaces.interfaces, self._facts.facts
        found = assemble(interfaces, self._files, self._known, facts)
        self._known = remember(self._known, found)
        return found


def _nothing(problem: str) -> None:
    """Gateways that may not be looked up, a service that does not answer: less is known."""


def link_object(link: FoundLink, money: Money) -> dict[str, object]:
    """A link for programs."""
    return {
        "number": link.number,
        "name": link.name,
        "interface": clean(link.interface),
        "kind": link.kind.value,
        "up4": link.up4,
        "up6": link.up6,
        "addresses4": [address_text(one) for one in link.addresses if len(one) == 4],
        "addresses6": [address_text(one) for one in link.addresses if len(one) == 16],
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
