from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.tariff import UNITS, Budget, Period, Price, cost, period_start

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = st.sampled_from(
    [BERLIN, ZoneInfo("Africa/Cairo"), ZoneInfo("America/Havana"), ZoneInfo("Asia/Kathmandu")]
)
EPOCHS = st.integers(0, 4_000_000_000)


def at(text: str, zone: tzinfo = UTC) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def start(period: Period, epoch: float, zone: tzinfo | int) -> float:
    return period_start(Budget(1, period), epoch, zone)


@pytest.mark.parametrize(
    ("count", "price", "due"),
    [
        (1_000_000, Price(Decimal("0.02"), "EUR", "MB"), "0.02"),
        (1, Price(Decimal("0.02"), "EUR", "MB"), "0.00000002"),
        (1_500, Price(Decimal("3"), "EUR", "kB"), "4.5"),
        (500_000_000, Price(Decimal("1.5"), "CHF", "GB"), "0.75"),
        (0, Price(Decimal("1.5"), "CHF", "GB"), "0"),
        (10**12, Price(Decimal("7"), "CHF", "TB"), "7"),
    ],
)
def test_traffic_costs_what_the_price_says(count: int, price: Price, due: str) -> None:
    assert cost(count, price) == Decimal(due)


@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
    st.decimals(0, 999_999_999, places=12),
    st.sampled_from(list(UNITS)),
)
def test_no_cost_is_lost_in_rounding(a: int, b: int, amount: Decimal, unit: str) -> None:
    price = Price(amount, "EUR", unit)
    assert Fraction(cost(a + b, price)) == Fraction(amount) * (a + b) / 10 ** UNITS[unit]


@pytest.mark.parametrize("count", [-1, 1 << 64])
def test_what_is_no_count_of_bytes_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="no number of bytes"):
        cost(count, Price(Decimal(1), "EUR", "MB"))


@pytest.mark.parametrize(
    ("period", "now", "began"),
    [
        (Period.MONTH, "2024-02-29T23:59:59", "2024-02-01T00:00:00"),
        (Period.MONTH, "2024-03-01T00:00:00", "2024-03-01T00:00:00"),
        (Period.MONTH, "2024-03-31T12:00:00", "2024-03-01T00:00:00"),
        (Period.WEEK, "2024-03-03T23:00:00", "2024-02-26T00:00:00"),
        (Period.WEEK, "2024-03-04T00:00:00", "2024-03-04T00:00:00"),
        (Period.DAY, "2024-03-31T23:30:00", "2024-03-31T00:00:00"),
        (Period.WEEK, "1970-01-01T02:00:00", "1969-12-29T00:00:00"),
    ],
)
@pytest.mark.parametrize(
    "zone", [UTC, BERLIN, timezone(timedelta(hours=-9, minutes=-30)), ZoneInfo("Asia/Kathmandu")]
)
def test_a_period_begins_at_local_midnight(
    period: Period, now: str, began: str, zone: tzinfo
) -> None:
    assert start(period, at(now, zone), zone) == at(began, zone)


def test_an_offset_in_seconds_is_a_zone() -> None:
    # 23:30 UTC on the 31st is the 1st already, an hour further east.
    now = at("2024-01-31T23:30:00")
    assert start(Period.MONTH, now, 3600) == at("2024-01-31T23:00:00")
    assert start(Period.MONTH, now, -3600) == at("2024-01-01T01:00:00")
    assert start(Period.MONTH, now, 0) == at("2024-01-01T00:00:00")


def test_summer_time_does_not_move_the_first_of_the_month() -> None:
    began = at("2024-02-29T23:00:00")
    assert start(Period.MONTH, at("2024-03-30T12:00:00"), BERLIN) == began
    assert start(Period.MONTH, at("2024-03-31T12:00:00"), BERLIN) == began


def test_where_midnight_is_skipped_or_comes_twice_the_day_begins_with_its_first_moment() -> None:
    cairo, havana = ZoneInfo("Africa/Cairo"), ZoneInfo("America/Havana")
    # Friday 26 April 2024: 00:00 became 01:00 (UTC+3). 3 November 2024: 01:00 became 00:00 again.
    assert start(Period.DAY, at("2024-04-26T09:00:00"), cairo) == at("2024-04-25T22:00:00")
    assert start(Period.DAY, at("2024-11-03T05:30:00"), havana) == at("2024-11-03T04:00:00")


@given(st.sampled_from(Period), EPOCHS, ZONES)
def test_a_period_began_before_now_and_not_too_long_ago(
    period: Period, epoch: int, zone: ZoneInfo
) -> None:
    began = start(period, epoch, zone)
    longest = {Period.DAY: 1, Period.WEEK: 7, Period.MONTH: 31}[period] * 86_400 + 3600
    assert began <= epoch < began + longest
    assert start(period, began, zone) == began


@given(st.sampled_from(Period), EPOCHS, EPOCHS, ZONES)
def test_later_moments_are_in_no_earlier_period(
    period: Period, a: int, b: int, zone: ZoneInfo
) -> None:
    low, high = sorted([a, b])
    assert start(period, low, zone) <= start(period, high, zone)
