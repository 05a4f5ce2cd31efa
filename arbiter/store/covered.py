"""Whether the sums tell of every record: filters go by them, and show nothing they leave out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from arbiter.store.sums import DAY, SAME_DESTINATION, SAME_OUTCOME
from arbiter.store.walk import Broken

_COUNT = f"""
CREATE TEMP TABLE counted AS
SELECT outcomes.id AS of_outcome, destinations.id AS of_destination,
    CAST(max(0, min(time, 1e11)) / {DAY} AS INTEGER) * {DAY} AS of_day, count(*) AS records,
    min(decisions.id) AS id, min(time) AS since, max(time) AS until
FROM decisions NOT INDEXED
LEFT JOIN outcomes ON {SAME_OUTCOME} LEFT JOIN destinations ON {SAME_DESTINATION}
GROUP BY 1, 2, 3
"""
_TOTALS = """
SELECT id FROM (
    SELECT of_outcome, of_destination, sum(records) AS records, min(id) AS id,
        min(since) AS since, max(until) AS until
    FROM temp.counted GROUP BY 1, 2)
LEFT JOIN totals ON outcome = of_outcome AND destination = of_destination
WHERE outcome IS NULL OR connections < records OR first > since OR last < until
ORDER BY id LIMIT 1
"""
_DAILY = """
SELECT id FROM temp.counted
LEFT JOIN daily ON outcome = of_outcome AND destination = of_destination AND day = of_day
WHERE of_day >= (SELECT ifnull(max(before), 0) FROM pruned WHERE what = 'daily')
    AND (outcome IS NULL OR connections < records OR first > since OR last < until)
ORDER BY id LIMIT 1
"""


def hidden(db: sqlite3.Connection) -> Iterator[Broken]:
    """The first record that the sums for all time, and the first that those by day, say too little
    of; of days whose sums retention cleared away nothing is known. Raises sqlite3.Error."""
    db.execute(_COUNT)
    try:
        for sums, sql in (("all time", _TOTALS), ("its day", _DAILY)):
            for (id,) in db.execute(sql):
                why = (
                    f"decisions: the sums for {sums} do not tell of record {id}, and others like"
                    " it: commands with filters may not show it"
                )
                yield Broken("sums", why, "decisions", id)
    finally:
        db.execute("DROP TABLE temp.counted")
