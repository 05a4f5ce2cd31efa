"""`time=`: midnight, week days and changes of the clock, against the words themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import rule_strategies as strategies
from hypothesis import given
from hypothesis import strategies as st

from arbiter.rules.times import format_times, read_times
from arbiter.rules.week import DAYS, holds, minute_of_week, times_fault

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "Australia/Lord_Howe",  # half an hour of summer
    "Asia/Kathmandu",
    "Pacific/Apia",  # had no 2011-12-30
]

clocks = st.integers(0, 1439).map(lambda minute: f"{minute // 60:02}:{minute % 60:02}")
spans = (
    st.tuples(clocks, clocks | st.just("24:00"))
    .filter(lambda pair: pair[0] != pair[1])
    .map("-".join)
)
days = st.lists(
    st.sampled_from(DAYS) | st.tuples(st.sampled_from(DAYS), st.sampled_from(DAYS)).map("-".join),
    min_size=1,
    max_size=3,
).map(",".join)
span_lists = st.lists(spans, min_size=1, max_size=2).map(",".join)
groups = days | span_lists | st.tuples(days, span_lists).map("@".join)
texts = st.lists(groups, min_size=1, max_size=3).map("+".join)


def naive(text: str, local: datetime) -> bool:
    """What the words say, read again at this one minute."""
    clock = f"{local.hour:02}:{local.minute:02}"
    today, yesterday = local.weekday(), (local.weekday() - 1) % 7
    for group in text.split("+"):
        named, _, listed = group.partition("@")
        if ":" in named:
            named, listed = "mon-sun", named
        in_force = set()
        for item in named.split(","):
            first, _, last = item.partition("-")
            day = DAYS.index(first)
            in_force.add(day)
            while last and DAYS[day] != last:
                day = (day + 1) % 7
                in_force.add(day)
        for span in (listed or "00:00-24:00").split(","):
            start, end = span.split("-")
            if start < end:
                hit = today in in_force and start <= clock < end
            else:
                hit = (today in in_force and start <= clock) or (
                    yesterday in in_force and clock < end
                )
            if hit:
                return True
    return False


def times_of(text: str) -> tuple[tuple[int, int], ...] | None:
    try:
        return read_times(text, 0)
    except ValueError as error:
        assert "all week" in str(error)
        return None


@strategies.UNHURRIED
@given(
    texts,
    st.sampled_from(ZONES),
    st.datetimes(datetime(2011, 12, 28), datetime(2035, 1, 1)),
    st.lists(st.integers(0, 4 * 1440), max_size=60),
)
def test_a_time_holds_in_exactly_the_minutes_that_its_words_name(
    text: str, name: str, start: datetime, steps: list[int]
) -> None:
    times = times_of(text)
    zone = ZoneInfo(name)
    for step in (0, *steps):
        now = (start.replace(tzinfo=UTC) + timedelta(minutes=step)).timestamp()
        local = datetime.fromtimestamp(now, UTC).astimezone(zone)
        expected = naive(text, local)
        assert (times is None or holds(times, minute_of_week(now, zone))) is expected


@pytest.mark.parametrize("name", ZONES[1:5])
@pytest.mark.parametrize("month", [3, 4, 10, 11])
def test_every_five_minutes_of_the_nights_in_which_clocks_change(name: str, month: int) -> None:
    zone = ZoneInfo(name)
    words = ("sun@01:30-02:30", "23:45-02:15", "sat@22:00-03:00+sun@02:00-02:30")
    read = [(text, read_times(text, 0)) for text in words]
    first = datetime(2026, month, 1, tzinfo=UTC)
    for minute in range(31 * 1440):
        moment = first + timedelta(minutes=minute)
        local = moment.astimezone(zone)
        if 4 <= local.hour < 21:
            continue  # clocks change at night
        week = minute_of_week(moment.timestamp(), zone)
        for text, times in read:
            assert holds(times, week) is naive(text, local), (text, local)


def test_a_clock_that_is_put_back_lives_through_an_hour_twice_and_forward_never() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    times = read_times("02:10-02:50", 0)

    def minutes(year: int, month: int, day: int) -> int:
        start = datetime(year, month, day, tzinfo=berlin).timestamp()
        return sum(holds(times, minute_of_week(start + 60 * m, berlin)) for m in range(6 * 60))

    assert (minutes(2026, 3, 29), minutes(2026, 6, 1), minutes(2026, 10, 25)) == (0, 40, 80)


@strategies.UNHURRIED
@given(texts)
def test_times_have_one_value_and_one_spelling(text: str) -> None:
    times = times_of(text)
    if times is None:
        return
    assert times_fault(times) == ""
    canonical = format_times(times)
    assert read_times(canonical, 0) == times
    assert format_times(read_times(canonical, 0)) == canonical


@strategies.UNHURRIED
@given(strategies.times)
def test_every_set_of_minutes_can_be_written(times: tuple[tuple[int, int], ...]) -> None:
    assert read_times(format_times(times), 0) == times
