"""`time=`: when in the week a rule holds, from words and back.

    time  = group *("+" group)
    group = days / spans / days "@" spans
    days  = day *("," day),   day  = mon ... sun, or two with "-" between them
    spans = span *("," span), span = HH:MM "-" HH:MM, from the first to before the second

What is kept is minutes of the local week (week.py), so that equal meaning is equal value. A span
whose end is not after its start crosses midnight and belongs to the day on which it starts.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from arbiter.rules.week import DAY, DAYS, WEEK, Times, joined
from arbiter.rules.words import RuleError, quote, shown

_EVERY_DAY = tuple(range(7))
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])\Z")


# --- reading --------------------------------------------------------------------------------


def read_times(text: str, position: int) -> Times:
    """The times that `text` names. Raises RuleError."""
    windows: list[tuple[int, int]] = []
    at = position
    for group in text.split("+"):
        days, sign, spans = group.partition("@")
        which, of_day = _EVERY_DAY, [(0, DAY)]
        spans_only = not sign and (group[:1].isdigit() or ":" in group)
        if spans_only:
            spans = group
        else:
            which = _days(days, at, text)
        if spans_only or sign:
            of_day = _spans(spans, at + len(group) - len(spans), text)
        for start, end in of_day:
            windows += [(day * DAY + start, day * DAY + end) for day in which]
        at += len(group) + 1
    times = joined(windows)
    if times == ((0, WEEK),):
        raise RuleError("that is all week: leave out time=", position, text)
    return times


def _days(text: str, position: int, whole: str) -> tuple[int, ...]:
    days: list[int] = []
    for item in text.split(","):
        first, dash, last = item.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            fault = f"{quote(shown(item))} is no day: it is mon to sun, or two such as mon-fri"
            raise RuleError(fault, position, item, _meant(whole))
        start = DAYS.index(first)
        count = (DAYS.index(last) - start) % 7 + 1 if dash else 1
        days += [(start + step) % 7 for step in range(count)]
        position += len(item) + 1
    return tuple(days)


def _spans(text: str, position: int, whole: str) -> list[tuple[int, int]]:
    spans = []
    for item in text.split(","):
        first, _, last = item.partition("-")
        start, end = _minute(first), DAY if last == "24:00" else _minute(last)
        if start is None or end is None:
            fault = f"{quote(shown(item))} is no span of a day: it is such as 08:00-17:30"
            raise RuleError(fault, position, item, _meant(whole))
        if start == end:
            fault = f"{quote(item)} is no time at all; the whole day is 00:00-24:00"
            raise RuleError(fault, position, item)
        spans.append((start, end if start < end else end + DAY))
        position += len(item) + 1
    return spans


def _minute(text: str) -> int | None:
    match = _CLOCK.match(text)
    return int(match[1]) * 60 + int(match[2]) if match else None


_WORDS = {
    **dict.fromkeys(("weekday", "weekdays", "workdays"), "mon-fri"),
    **dict.fromkeys(("weekend", "weekends"), "sat,sun"),
}


def _meant(text: str) -> str:
    """The same with whole day names shortened and hours written in full; "" if still no time."""
    if len(text) > 60:
        return ""
    given = text
    text = re.sub(r"[a-z]+", lambda word: _WORDS.get(word[0], word[0][:3]), text.lower())
    text = re.sub(
        r"(?<![0-9:])([0-9]{1,2})(?::([0-9]{2}))?(?![0-9:])",
        lambda clock: f"{clock[1]:0>2}:{clock[2] or '00'}",
        text,
    )
    text = re.sub(r"(?<=[a-z]) +(?=[0-9])", "@", text).replace(";", "+").replace(" ", "")
    if text == given:  # it has been read already, and is no time
        return ""
    try:
        return format_times(read_times(text, 0))
    except RuleError:
        return ""


# --- writing --------------------------------------------------------------------------------


def format_times(times: Times) -> str:
    """What `read_times` reads back as the same: days that have the same spans stand together."""
    by_day: dict[int, list[tuple[int, int]]] = {}
    for start, end in _pieces(times):
        day = start // DAY
        by_day.setdefault(day, []).append((start - day * DAY, end - day * DAY))
    by_spans: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for day, listed in sorted(by_day.items()):
        by_spans.setdefault(tuple(sorted(listed)), []).append(day)
    groups = []
    for spans, days in by_spans.items():
        words = ",".join(f"{_clock(start)}-{_clock(end)}" for start, end in spans)
        if spans == ((0, DAY),):
            groups.append(_day_words(days))
        else:
            groups.append(words if len(days) == 7 else f"{_day_words(days)}@{words}")
    return "+".join(groups)


def _pieces(times: Times) -> Iterable[tuple[int, int]]:
    """`times` cut into spans that one day can have: whole days, and less than a day from there."""
    spans = list(times)
    if len(spans) > 1 and spans[0][0] == 0 and spans[-1][1] == WEEK:
        spans[-1] = (spans[-1][0], WEEK + spans[0][1])  # from Sunday into Monday
        del spans[0]
    for start, end in spans:
        at = start
        while at < end:
            midnight = (at // DAY + 1) * DAY
            stop = end if end <= midnight or (end - at < DAY and at % DAY) else midnight
            yield at % WEEK, at % WEEK + stop - at
            at = stop


def _clock(minute: int) -> str:
    if minute > DAY:
        minute -= DAY
    return f"{minute // 60:02}:{minute % 60:02}"


def _day_words(days: list[int]) -> str:
    """`mon-fri,sun`: three in a row and more as a range."""
    words = []
    for _, run in itertools.groupby(enumerate(days), lambda pair: pair[1] - pair[0]):
        row = [DAYS[day] for _, day in run]
        words += [f"{row[0]}-{row[-1]}"] if len(row) > 2 else row
    return ",".join(words)


def shown_minute(minute: int) -> str:
    """A minute of the week for people: `sat 14:05`."""
    return f"{DAYS[minute // DAY]} {_clock(minute % DAY)}"
