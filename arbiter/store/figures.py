"""The figures of a report: sums over the records of a span. Called by Records.

The records are read once, into a temporary table of what is the same in all that a figure speaks
of, with how often; all figures are sums over that. Of days whose records were deleted it gets the
sums by day, which are those of UTC, and the first of them is taken whole, as in sums.py. Raises
sqlite3.Error.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from arbiter.events import Reason
from arbiter.protocol import clean
from arbiter.report.values import (
    Answers,
    Day,
    Denied,
    Destination,
    Executable,
    Gap,
    Group,
    NewDestination,
    Totals,
)
from arbiter.store.pruned import pruned_before
from arbiter.store.sums import DAY

LIMIT = 300
"""Characters of a text that somebody chose."""
_HOST = (
    "ifnull(CASE WHEN names <> '[]' AND json_valid(names) THEN json_extract(names, '$[0]') END,"
    " daddr)"
)
_SAME = (
    f"app, exe, {_HOST} AS host, daddr, dport, proto, decision, reason, rule_id, by_user, frontend"
)
_CHOSEN = (
    "CREATE TEMP TABLE chosen AS SELECT date(time, 'unixepoch', 'localtime') AS day,"
    f" {_SAME}, count(*) AS n, min(time) AS first, max(time) AS last,"
    " total(out_bytes) AS sent, total(in_bytes) AS received,"
    " total(waited) AS waited FROM decisions INDEXED BY decisions_time"
    " WHERE time >= max(:since, :kept) AND time < :until"
    " GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"
)
_SUMMED = (
    f"INSERT INTO temp.chosen SELECT date(day, 'unixepoch'), {_SAME}, connections, first, last,"
    " sent, received, waited FROM daily INDEXED BY daily_day"
    " CROSS JOIN outcomes ON outcomes.id = outcome"
    " CROSS JOIN destinations ON destinations.id = destination"
    " WHERE day >= :since AND day < min(:until, :kept)"
)
_RECORDED = "SELECT min(first) FROM daily WHERE day = (SELECT min(day) FROM daily)"
_UNANSWERED = ", ".join(
    f"'{reason.value}'" for reason in (Reason.DEADLINE, Reason.UNATTENDED, Reason.OVERFLOW)
)
_DENIED = "ifnull(sum(n) FILTER (WHERE decision = 'deny'), 0)"
_TOTALS = (
    f"SELECT ifnull(sum(n), 0), {_DENIED},"
    " ifnull(sum(n) FILTER (WHERE decision LIKE 'route %'), 0),"
    " ifnull(sum(n) FILTER (WHERE reason = 'rule'), 0),"
    " ifnull(sum(n) FILTER (WHERE reason = 'answer'), 0),"
    f" ifnull(sum(n) FILTER (WHERE reason IN ({_UNANSWERED})), 0),"
    " ifnull(sum(n) FILTER (WHERE reason IN ('answer', 'deadline')), 0),"
    " count(DISTINCT nullif(app, '')), count(DISTINCT nullif(host, '')) FROM temp.chosen"
)
_DAYS = f"SELECT day, sum(n), {_DENIED} FROM temp.chosen GROUP BY day ORDER BY day"
_APPS = (
    f"SELECT app, sum(n) AS count, {_DENIED}, CAST(total(sent) AS INTEGER),"
    " CAST(total(received) AS INTEGER), max(last) FROM temp.chosen"
    " GROUP BY app ORDER BY count DESC, app"
)
_PLACES = (
    f"SELECT host, dport, proto, count(DISTINCT app), sum(n) AS count, {_DENIED},"
    " max(last) FROM temp.chosen GROUP BY host, dport, proto ORDER BY count DESC, host, dport"
)
_REFUSED = (
    "SELECT app, host, dport, proto, reason, rule_id, by_user, sum(n) AS count, max(last)"
    " FROM temp.chosen WHERE decision = 'deny' GROUP BY app, host, dport, proto, reason, rule_id,"
    " by_user ORDER BY count DESC, app, host, dport"
)
_REASONS = (
    "SELECT reason, decision, sum(n) AS count FROM temp.chosen GROUP BY reason, decision"
    " ORDER BY count DESC, reason, decision"
)
_ANSWERS = (
    "SELECT by_user, frontend, decision, sum(n) AS count, total(waited) / sum(n) FROM temp.chosen"
    " WHERE reason = 'answer' GROUP BY by_user, frontend, decision ORDER BY count DESC, by_user"
)
_EXECUTABLES = (
    "SELECT app, exe, min(first) AS since, max(last), sum(n) FROM temp.chosen WHERE exe <> ''"
    " AND app IN (SELECT app FROM temp.chosen WHERE exe <> ''"
    " GROUP BY app HAVING min(exe) < max(exe)) GROUP BY app, exe ORDER BY app, since"
)
_BEFORE = (
    "SELECT 1 FROM outcomes AS made CROSS JOIN totals AS old ON old.outcome = made.id"
    " WHERE made.app = went.app AND old.first < :since"
)
_KNOWN = (  # by the address: of what a program did before there may be a million records
    "SELECT 1 FROM destinations AS place CROSS JOIN totals AS old ON old.destination = place.id"
    " CROSS JOIN outcomes AS made ON made.id = old.outcome WHERE place.daddr = went.daddr"
    " AND place.dport = went.dport AND place.proto = went.proto AND made.app = went.app"
    " AND old.first < :since"
)
_NEW = (
    "SELECT app, host, dport, proto, min(first) AS since, sum(count),"
    f" NOT EXISTS ({_BEFORE}) FROM ("
    f" SELECT *, EXISTS ({_KNOWN}) AS known FROM ("
    " SELECT app, host, daddr, dport, proto, min(first) AS first, sum(n) AS count"
    " FROM temp.chosen GROUP BY app, host, daddr, dport, proto) AS went) AS went"
    " GROUP BY app, host, dport, proto HAVING NOT max(known) ORDER BY since DESC, app, host"
)
"""A name is new where none of its addresses of the span was gone to before."""
_GAPS = (
    "SELECT time_from, time_to, count, why FROM gaps WHERE time_to >= :since AND time_from < :until"
)
_OFF = (
    "SELECT max(ended, :since), min(ifnull(next, :until), :until) FROM ("
    "SELECT ended, lead(started) OVER (ORDER BY id) AS next FROM runs)"
    " WHERE ended < :until AND ifnull(next, :until) > :since"
)


class Figures(Struct, frozen=True):
    """What the records of a span add up to; lists are cut, `beyond` counts what is left out."""

    recorded: float | None
    summed: float | None
    totals: Totals
    days: tuple[Day, ...]
    apps: tuple[Group, ...]
    destinations: tuple[Destination, ...]
    denied: tuple[Denied, ...]
    reasons: tuple[tuple[str, str, int], ...]
    answers: tuple[Answers, ...]
    new: tuple[NewDestination, ...]
    executables: tuple[Executable, ...]
    gaps: tuple[Gap, ...]
    off: tuple[tuple[float, float], ...]
    beyond: dict[str, int]


STEPS = 12
"""How often `done` is called."""


def figures(
    db: sqlite3.Connection,
    since: float,
    until: float,
    top: int,
    why: Callable[[str, int | None, str], str],
    done: Callable[[], object] = lambda: None,
) -> Figures:
    """Of [since, until) in epoch seconds. `why(reason, rule, by)` says why something was decided;
    `done` is called after each step."""
    kept = pruned_before(db, "decisions")
    summed = kept if since < kept else None
    if summed is not None:
        since = math.floor(since / DAY) * DAY
    span = {"since": since, "until": until, "kept": kept}
    beyond: dict[str, int] = {}
    (recorded,) = db.execute(_RECORDED).fetchone()

    def rows(sql: str, name: str = "") -> Iterator[tuple[Any, ...]]:
        """Cleaned; of a list with a name the first `top`, and how many more there are."""
        for number, row in enumerate(db.execute(sql, span)):
            if not name or number < top:
                yield tuple(_clean(value) for value in row)
            else:
                beyond[name] = beyond.get(name, 0) + 1
        done()

    db.execute(_CHOSEN, span)
    done()
    try:
        if summed is not None:
            db.execute(_SUMMED, span)
        fresh = recorded is not None and recorded < since
        return Figures(
            recorded=recorded,
            summed=summed,
            totals=Totals(*next(rows(_TOTALS))),
            days=tuple(Day(*row) for row in rows(_DAYS)),
            apps=tuple(Group(*row) for row in rows(_APPS, "apps")),
            destinations=tuple(Destination(*row) for row in rows(_PLACES, "destinations")),
            denied=tuple(
                Denied(app, host, port, proto, clean(why(reason, rule, by), LIMIT), count, last)
                for app, host, port, proto, reason, rule, by, count, last in rows(
                    _REFUSED, "denied"
                )
            ),
            reasons=tuple((r, d, n) for r, d, n in rows(_REASONS)),
            answers=tuple(Answers(*row) for row in rows(_ANSWERS, "answers")),
            new=tuple(
                NewDestination(app, host, port, proto, first, count, bool(new))
                for app, host, port, proto, first, count, new in (
                    rows(_NEW, "new") if fresh else ()
                )
            ),
            executables=tuple(Executable(*row) for row in rows(_EXECUTABLES, "executables")),
            gaps=tuple(Gap(*row) for row in rows(_GAPS)),
            off=tuple((begin, end) for begin, end in rows(_OFF, "off")),
            beyond=beyond,
        )
    finally:
        db.execute("DROP TABLE temp.chosen")


def _clean(value: Any) -> Any:
    return clean(value, LIMIT) if isinstance(value, str) else value
