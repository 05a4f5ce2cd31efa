"""A database of many records, as a busy machine might have after a year. For bench/audit.py.

Programs, destinations and ports are drawn by Zipf's law (the first of n things comes ln(n) times
less often than all of them), so that there are few common and many rare ones. The records are
spread evenly over 365 days before `END`. Rows go in without indexes, triggers and sums, which are
made after.
"""

from __future__ import annotations

import json
import math
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arbiter.store import Store, migrate, sumstep

END = 1_795_000_000.0
YEAR = 365 * 86400
PICKS = 1_000_000
"""Different draws; records beyond repeat them in another order."""
APPS = 150
PLACES = 60_000
"""Addresses that the most used program knows; the n-th knows an n-th of them, 20 at least."""
PORTS = (443,) * 19 + (80, 80, 80, 53, 53, 123, 22, 993, 5222, 8080)
"""A place has one of them, or in one of fifty cases a port of its own."""
_PICK = (
    "CREATE TEMP TABLE pick (id INTEGER PRIMARY KEY, proto, daddr, dport, uid, user, app, exe,"
    " argv, decision, reason, rule_id, layer, by_user, frontend, waited, link, names, state)"
)
_FILL = """
INSERT INTO decisions (id, time, hook, proto, saddr, sport, daddr, dport, outdev, length, uid, user,
    app, app_kind, pid, start, exe, argv, parents, no_owner, decision, reason, rule_id, layer,
    by_user, frontend, waited, count, note, link, names, sims, networks, metered, roaming, profile,
    state, replied, closed, out_bytes, in_bytes, out_packets, in_packets)
WITH RECURSIVE n(id) AS (SELECT :first UNION ALL SELECT id + 1 FROM n WHERE id < :last)
SELECT n.id, :began + (n.id - 1) * :step AS at, 'out', proto, '192.168.1.20',
    32768 + n.id % 28000, daddr, dport, 2, 60, uid, user, app, 'path', 1000 + n.id % 30000,
    n.id * 7, exe, argv, '["/usr/bin/bash"]', '', decision, reason, rule_id, layer, by_user,
    frontend, waited, 1, '', link, names, '[]', '["ssid:Home"]', 0, 0, '', state,
    iif(state = '', NULL, :began + (n.id - 1) * :step + 0.03),
    iif(state = '', NULL, :began + (n.id - 1) * :step + 40),
    iif(state = '', NULL, 600 + n.id % 9000),
    iif(state = '', NULL, 3000 + n.id % 90000), iif(state = '', NULL, 8), iif(state = '', NULL, 9)
FROM n CROSS JOIN temp.pick ON pick.id = (n.id * 7919) % :picks
"""


def build(path: Path, count: int, say: Any = print) -> None:
    """Make it, unless it is there. It is renamed to `path` when it is whole."""
    if path.exists():
        return
    raw = path.with_name(path.name + ".part")
    for old in path.parent.glob(raw.name + "*"):
        old.unlink()
    Store.open(raw).close()
    db = sqlite3.connect(raw, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -500000")
    later = db.execute(
        "SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL"
        " AND (type = 'trigger' OR (type = 'index' AND tbl_name = 'decisions'))"
    ).fetchall()
    for name, kind, _ in later:
        db.execute(f"DROP {kind} {name}")
    picks = min(PICKS, max(count // 10, 1))
    say(f"drawing {picks} connections")
    db.execute("BEGIN")
    db.execute(_PICK)
    marks = ", ".join("?" * 19)
    db.executemany(f"INSERT INTO temp.pick VALUES ({marks})", _picks(picks))
    db.execute("COMMIT")
    step = YEAR / count
    values = {"began": END - YEAR, "step": step, "picks": picks}
    for first in range(1, count + 1, 500_000):
        last = min(first + 499_999, count)
        db.execute(_FILL, {**values, "first": first, "last": last})
        say(f"{last} records")
    db.execute("DROP TABLE temp.pick")
    # As an older database gets them: no hashes, and the sums in one look.
    db.execute("UPDATE chains SET first = ? + 1, last = ? WHERE name = 'decisions'", (count, count))
    for statement in migrate.statements(sumstep.TO_9):
        if statement.startswith("INSERT"):
            db.execute(statement)
    say("made the sums")
    for name, _, sql in later:
        db.execute(sql)
        say(f"made {name}")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    raw.rename(path)
    for old in path.parent.glob(raw.name + "*"):
        old.unlink()


def _picks(count: int) -> Iterator[tuple[Any, ...]]:
    draw = random.Random(2007)

    def rank(most: int) -> int:
        return int(math.exp(draw.random() * math.log(most + 1))) - 1

    for id in range(count):
        app = rank(APPS)
        place = app * 131 + rank(max(PLACES // (app + 1), 20))
        exe = f"/usr/lib/program{app}/bin/program{app}"
        six = place % 4 == 0
        daddr = f"2001:db8:{place >> 8:x}::{place & 255:x}" if six else (
            f"{20 + (place >> 16)}.{place >> 8 & 255}.{place & 255}.7"
        )  # fmt: skip
        name = f"www{place}.site{place % 997}.example"
        names = json.dumps([name] if draw.random() < 0.9 else [name, f"cdn{place % 31}.example"])
        port = PORTS[place % len(PORTS)] if place % 50 else 1024 + place % 40000
        denied = place % 12 == 5
        answered = draw.random() < 0.002
        layer = None if answered or place % 9 == 1 else 2 if app % 5 else 1
        number = app * 3 + place % 3 + 1
        yield (
            id, "udp" if port in (53, 123) else "tcp", daddr, port, 1000 + app % 4,
            ("alice", "bob", "carol", "dave")[app % 4], exe if app != 7 else "",
            exe if place % 997 else exe + "-beta", json.dumps([exe, "--run"]),
            "deny" if denied else "route via=lte" if app == 3 else "allow",
            "answer" if answered else "observe" if layer is None else "rule",
            None if layer is None else number if layer == 2 else -number, layer,
            "alice" if answered or layer == 2 else f"file:/etc/arbiter/policy.d/x.toml:{number}"
            if layer else "", "terminal" if answered else "cli" if layer == 2 else "",
            draw.random() * 20 if answered else 0.0,
            "" if denied else "lte" if app == 3 else "wifi", names, "" if denied else "closed",
        )  # fmt: skip
