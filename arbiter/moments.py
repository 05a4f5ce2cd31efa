"""Moments as people give them: `2h`, `today`, `2026-11-19T08:00`. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_SPAN = re.compile(r"([1-9][0-9]{0,5})([smhdw])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DAYS = {"today": 0, "yesterday": 1}


def read_moment(text: str, now: float) -> float:
    """Epoch seconds of a span before `now`, of the start of a local day, or of a time. Raises
    ValueError."""
    if found := _SPAN.match(text):
        return now - int(found[1]) * _SECONDS[found[2]]
    try:
        if text in _DAYS:
            day = datetime.fromtimestamp(now).date() - timedelta(days=_DAYS[text])
            return datetime(day.year, day.month, day.day).astimezone().timestamp()
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text!r} is no time: give a span before now, such as 12h, 7d or 2w; today or "
            "yesterday; or a day or time such as 2026-11-19 or 2026-11-19T08:00"
        ) from None
