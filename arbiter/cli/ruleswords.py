"""The words that the commands about rules share."""

from __future__ import annotations

from datetime import datetime


def when(epoch: float) -> str:
    """A time of the calendar, local."""
    try:
        return datetime.fromtimestamp(epoch).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):  # no day of the calendar: show what is stored
        return f"{epoch:g}"
