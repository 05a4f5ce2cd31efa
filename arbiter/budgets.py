"""What was used in the periods that count now: by app this month, and of each link's budget. Pure.

Days are local dates (`usage.day_of`), because budgets begin at local midnight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, tzinfo

from msgspec import Struct

from arbiter.model import OverBudget, Spent
from arbiter.tariff import UNITS, Budget, Period, period_start
from arbiter.usage import Account, Used, day_of, plus

MAX_APPS = 16_384
"""(app, link) pairs whose month is kept for prompts; `arbiter links usage` knows them all."""

KEPT_DAYS = 40
"""Days that are kept: a period is a month at most, and a clock that was wrong has days of its own,
which must not push out those that count."""


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
        self._apps: dict[str, dict[str, int]] = {}
        """App → link → bytes both ways of this month."""
        self._pairs = 0
        self._month = ""

    def load(self, rows: Iterable[Used], today: str) -> None:
        """Start anew with what is stored; `today` as `Used.day`."""
        self._days = {}
        self._begin(today[:7])
        for row in rows:
            self._add_day(row)
            if row.day[:7] == self._month:
                self._add_app(row)

    def add(self, used: Used) -> None:
        """More was used."""
        self._add_day(used)
        if used.day[:7] != self._month:
            self._begin(used.day[:7])
        self._add_app(used)

    def _begin(self, month: str) -> None:
        self._month, self._apps, self._pairs = month, {}, 0

    def _add_day(self, used: Used) -> None:
        key = (used.account.link, used.account.sim, used.day)
        if key not in self._days:
            days = sorted({day for _, _, day in self._days} | {used.day})
            if len(days) > KEPT_DAYS:
                self._days = {k: n for k, n in self._days.items() if k[2] >= days[-KEPT_DAYS]}
        self._days[key] = self._days.get(key, 0) + used.size

    def _add_app(self, used: Used) -> None:
        links = self._apps.get(used.account.app, {})
        link = used.account.link
        if link not in links:
            if self._pairs >= MAX_APPS:
                return
            self._pairs += 1
            self._apps[used.account.app] = links
        links[link] = links.get(link, 0) + used.size

    def of_app(self, app: str) -> Mapping[str, int]:
        """Bytes of an app this month, by link."""
        return dict(self._apps.get(app, {}))

    def carried(self, link: str, sim: str, since: str) -> int:
        """Bytes since the day `since`, over a link, or by a SIM in whatever link: with those of
        this link from when its SIM was not known, at the start of the machine."""
        return sum(
            size
            for (name, card, day), size in self._days.items()
            if day >= since
            and (name == link if not sim else card == sim or (name == link and not card))
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
    # A clock that was set back starts anew, or no answer would be younger than this.
    known = before is not None and before.period == period and before.since <= wall
    exceeded = before if before is not None and known else Exceeded(period, wall)
    text = f"{size_text(used)} of {budget} used"
    return Standing(0, Spent(exceeded.since, then, text), exceeded)


def size_text(count: int) -> str:
    """Bytes in the unit that they fill, as on a bill: `612 MB`, `1.5 GB`."""
    for unit, power in reversed(tuple(UNITS.items())):
        if count >= 10**power:
            amount = count / 10**power
            return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"
    return f"{count} bytes"
