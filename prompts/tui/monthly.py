"""What `arbiter links usage --json` tells of a month, added up. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from prompts.linkwords import size_words
from prompts.render import tidy


@dataclass
class Sum:
    """Bytes of a month, and what they cost, by currency."""

    sent: int = 0
    received: int = 0
    costs: dict[str, Decimal] | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        """A row of the list; what is no number in it counts as nothing."""
        self.sent += _number(row.get("sent_bytes"))
        self.received += _number(row.get("received_bytes"))
        cost, currency = row.get("cost"), row.get("currency")
        if isinstance(cost, str) and isinstance(currency, str):
            try:
                amount = Decimal(cost)
            except InvalidOperation:
                return
            self.costs = self.costs or {}
            self.costs[currency] = self.costs.get(currency, Decimal(0)) + amount

    @property
    def words(self) -> str:
        """`1.5 MB sent, 20 MB received, 0.43 EUR`."""
        text = f"{size_words(self.sent)} sent, {size_words(self.received)} received"
        return ", ".join([text, *([self.cost] if self.cost else [])])

    @property
    def cost(self) -> str:
        """`0.43 EUR`; "" where no price is known."""
        costs = (self.costs or {}).items()
        return " + ".join(f"{amount:.2f} {tidy(currency)}" for currency, amount in costs)


class Month:
    """A month's bytes by app and link, from the rows of `links usage --by link,app`."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = (), problem: str = "") -> None:
        self.problem = problem
        """Why it is not known, or not wholly."""
        self.apps: dict[str, dict[str, Sum]] = {}
        """By app id, then by link."""
        self.links: dict[str, Sum] = {}
        for row in rows:
            app, link = str(row.get("app", "")), str(row.get("link", ""))
            self.apps.setdefault(app, {}).setdefault(link, Sum()).add(row)
            self.links.setdefault(link, Sum()).add(row)

    def of_app(self, id: str) -> Sum:
        """All links of one app."""
        total = Sum()
        for each in self.apps.get(id, {}).values():
            total.sent += each.sent
            total.received += each.received
            for currency, amount in (each.costs or {}).items():
                total.costs = total.costs or {}
                total.costs[currency] = total.costs.get(currency, Decimal(0)) + amount
        return total


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
