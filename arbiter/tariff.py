"""What traffic over a link costs, and how much of it there may be. Floor 0.

Money is Decimal and exact; whoever shows it rounds it.
"""

from __future__ import annotations

import enum
from datetime import datetime, timedelta, timezone, tzinfo
from decimal import Context, Decimal, Inexact, InvalidOperation
from types import MappingProxyType

from msgspec import Struct

UNITS = MappingProxyType({"kB": 3, "MB": 6, "GB": 9, "TB": 12})
"""Units of size, as powers of ten (SI, as operators bill): 1 MB is 10^6 bytes."""
MAX_BYTES = (1 << 63) - 1
"""The largest budget: what a column of SQLite holds."""

EXACT = Context(prec=60, traps=[Inexact, InvalidOperation])
"""Enough digits for any amount times any 64-bit counter; what would be rounded is an error."""


class Period(enum.StrEnum):
    """How long a budget lasts; each begins at local midnight."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Price(Struct, frozen=True):
    """What traffic costs: `amount` of `currency` for each `unit`, a key of UNITS."""

    amount: Decimal
    currency: str
    """Three capital letters, as ISO 4217's: EUR."""
    unit: str

    def __str__(self) -> str:
        """As a link file says it: `0.02 EUR/MB`."""
        return f"{self.amount:f} {self.currency}/{self.unit}"


class Budget(Struct, frozen=True):
    """How many bytes a link may carry in each period before `over_budget` counts."""

    bytes: int
    period: Period

    def __str__(self) -> str:
        """As a link file says it, in the largest unit that it fills: `1.5 GB/month`."""
        unit = next((u for u in reversed(UNITS) if self.bytes >= 10 ** UNITS[u]), "kB")
        amount = Decimal(self.bytes).scaleb(-UNITS[unit], EXACT)
        text = f"{amount:f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return f"{text} {unit}/{self.period}"


def cost(count: int, price: Price) -> Decimal:
    """What `count` bytes (a 64-bit counter) cost, exactly, in the price's currency.

    Raises ValueError for a count below 0 or beyond 64 bits.
    """
    if not 0 <= count < 1 << 64:
        raise ValueError(f"{count} is no number of bytes: it must be from 0 to 2^64 - 1")
    return EXACT.scaleb(EXACT.multiply(price.amount, count), -UNITS[price.unit])


def period_start(budget: Budget, epoch: float, zone: tzinfo | int) -> float:
    """When the budget's period that `epoch` lies in began, in epoch seconds.

    At local midnight: of the 1st, of Monday (ISO 8601), or of the day. `zone` is the local time
    zone, or its offset in seconds east of UTC where that never changes: an offset that is right
    today is an hour wrong on the other side of a change to summer time. Where the clock skips
    midnight the period begins at the first moment of the day.
    """
    if isinstance(zone, int):
        zone = timezone(timedelta(seconds=zone))
    day = datetime.fromtimestamp(epoch, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    if budget.period is Period.MONTH:
        day = day.replace(day=1)
    elif budget.period is Period.WEEK:
        day -= timedelta(days=day.weekday())
    # fold=0: the first of two midnights, where the clock is set back over it.
    return day.replace(fold=0).timestamp()
