"""Minutes of the week: when a rule with `time=` holds. Pure: the caller has the clock and the zone.

The wall clock decides: where a zone leaves an hour out, nobody lives through that part of a span,
and where it repeats one, the span holds both times.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from datetime import datetime, tzinfo

Times = tuple[tuple[int, int], ...]
"""(first minute, minute after the last) of the week that starts on Monday 00:00; sorted, neither
overlapping nor adjacent. () is always."""

DAY = 1440
"""Minutes of a day on the wall clock, whatever a zone does."""
WEEK = 7 * DAY
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def holds(times: Times, minute: int) -> bool:
    """Whether `minute` (of the week) is in `times`; always if these are ()."""
    if not times:
        return True
    before = bisect.bisect_right(times, (minute, WEEK)) - 1
    return before >= 0 and minute < times[before][1]


def minute_of_week(now: float, zone: tzinfo) -> int:
    """The minute that a clock on the wall shows at `now` (epoch seconds)."""
    local = datetime.fromtimestamp(now, zone)
    return local.weekday() * DAY + local.hour * 60 + local.minute


def times_fault(times: Times) -> str:
    """What keeps `times` from being the one value for what it means; "" if nothing."""
    last = -1
    for start, end in times:
        if not last < start < end <= WEEK:
            return "times are sorted spans of the week's minutes, with gaps between them"
        last = end
    return "a time that holds all week is no condition" if times == ((0, WEEK),) else ""


def joined(windows: Iterable[tuple[int, int]]) -> Times:
    """Windows that may reach over the end of the week, joined."""
    cut = []
    for start, end in windows:
        cut.append((start, min(end, WEEK)))
        if end > WEEK:
            cut.append((0, end - WEEK))
    out: list[tuple[int, int]] = []
    for start, end in sorted(cut):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return tuple(out)
