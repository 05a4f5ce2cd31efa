"""The time zone of this machine, which days of budgets, rules and reports are counted in."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo


def local_zone() -> tzinfo:
    """The machine's time zone, with its changes to summer time; UTC where it has none."""
    path = Path("/etc/localtime")
    try:
        with path.open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return datetime.now().astimezone().tzinfo or UTC
