"""What was used in the periods that count now: by app this month, and of each link's budget. Pure.

Days are local dates (`usage.day_of`), because budgets begin at local midnight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta, tzinfo

from msgspec import Struct

from arbiter.model import OverBudget, Spent
from arbiter.tariff import UNITS, Budget, Period, period_start
from arbiter.usage import Account, Used, day_of, plus

MAX_APPS = 16_384
"""(app, link) pairs whose month is kept for prompts; `arbiter links usage` knows them all."""


def first_day(wall: float, zone: tzinfo | int) -> str:
    """The earliest day that a period which holds epoch second `wall` can begin on."""
    starts = [period_start(Budget(1, period), wall, zone) for period in Period]
    return day_of(min(starts), zone)


def next_midnight(wall: float, zone: tzinfo) -> float:
    """Epoch seconds of the next local midnight after `wall`."""
    day = datetime.fromtimestamp(wall, zone).date() + timedelta(days=1)
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()


def summed(rows: Iterable[Used], *by: str) -> dict[tuple[str, ...], Used]:
    """Rows added up by `day` and fields of Account, the greatest number of bytes first.

    `summed(rows, "link", "app")` maps (link, app) to a Used whose other fields are "". Raises
    AttributeError for a field that there is not.
    """
    sums: dict[tuple[str, ...], Used] = {}
    for row in rows:
        key = tuple(row.day if name == "day" else getattr(row.account, name) for name in by)
        named = dict(zip(by, key, strict=True))
        day = named.pop("day", "")
        start = Used(Account(**named), day)
        sums[key] = plus(sums.get(key, start), row)
    return dict(sorted(sums.items(), key=lambda kv: (-kv[1].size, kv[0])))


class Totals:
    """Sums of what was used, as they grow. Its size is that of links times days, and MAX_APPS."""

    def __init__(self) -> None:
        self._days: dict[tuple[str, str, str], int] = {}
        """(link, SIM, day) → bytes both ways."""
        self._apps: dict[tuple[str, str], int] = {}
        """(app, link) → bytes both ways of this month."""
        self._month = ""

    def load(self, rows: Iterable[Used], today: str) -> None:
        """Start anew with what is stored; `today` as `Used.day`."""
        self._days, self._apps, self._month = {}, {}, today[:7]
        for row in rows:
            self.add(row)

    def add(self, used: Used) -> None:
        """More was used."""
        account, size = used.account, used.size
        key = (account.link, account.sim, used.day)
        self._days[key] = self._days.get(key, 0) + size
        if used.day[:7] > self._month:
            self._month, self._apps = used.day[:7], {}
            # A week may have begun in the month before, and no period longer ago.
            oldest = (date.fromisoformat(used.day) - timedelta(days=7)).isoformat()
            self._days = {key: n for key, n in self._days.items() if key[2] >= oldest}
        app = (account.app, account.link)
        if used.day[:7] == self._month and (app in self._apps or len(self._apps) < MAX_APPS):
            self._apps[app] = self._apps.get(app, 0) + size

    def of_app(self, app: str) -> Mapping[str, int]:
        """Bytes of an app this month, by link."""
        return {link: size for (name, link), size in self._apps.items() if name == app}

    def carried(self, link: str, sim: str, since: str) -> int:
        """Bytes since the day `since`, over a link, or by a SIM in whatever link."""
        return sum(
            size
            for (name, card, day), size in self._days.items()
            if day >= since and (card == sim if sim else name == link)
        )


class Exceeded(Struct, frozen=True):
    """When a budget was first seen to be used up; kept over a restart."""

    period: str
    """The day on which the period began."""
    since: float
    """Epoch seconds."""


class Standing(Struct, frozen=True):
    """Where a budget stands."""

    left: int
    """Bytes; 0 where it is used up."""
    spent: Spent | None
    exceeded: Exceeded | None
    """To be given to `standing` next time."""


def standing(
    budget: Budget,
    then: OverBudget,
    used: int,
    wall: float,
    zone: tzinfo | int,
    before: Exceeded | None,
) -> Standing:
    """A budget of which `used` bytes are gone in the period that holds epoch second `wall`."""
    left = max(0, budget.bytes - used)
    if left:
        return Standing(left, None, None)
    period = day_of(period_start(budget, wall, zone), zone)
    exceeded = before if before is not None and before.period == period else Exceeded(period, wall)
    text = f"{size_text(used)} of {budget} used"
    return Standing(0, Spent(exceeded.since, then, text), exceeded)


def size_text(count: int) -> str:
    """Bytes in the unit that they fill, as on a bill: `612 MB`, `1.5 GB`."""
    for unit, power in reversed(tuple(UNITS.items())):
        if count >= 10**power:
            amount = count / 10**power
            return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"
    return f"{count} bytes"
