"""What was used, and the baselines of live flows, as rows. Called inside Store's transactions."""

from __future__ import annotations

import sqlite3
from typing import Any

from arbiter.model import Flow
from arbiter.records import from_utf8, utf8
from arbiter.usage import Account, Batch, Counted, Key, OpenFlow, Used

MAX_INTEGER = (1 << 63) - 1
"""SQLite's largest; a sum that would be more stays there."""
_FIGURES = ("out_bytes", "in_bytes", "out_packets", "in_packets", "connections")
_SUMS = ", ".join(f"{n} = min({n}, {MAX_INTEGER} - excluded.{n}) + excluded.{n}" for n in _FIGURES)
COLUMNS = f"day, app, user, link, sim, {', '.join(_FIGURES)}"
ADD = (
    f"INSERT INTO usage ({COLUMNS})"
    f" VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET {_SUMS}"
)
_FLOW_COLUMNS = (
    "proto, saddr, sport, daddr, dport, id, mark, started,"
    " out_bytes, in_bytes, out_packets, in_packets, app, user, link, sim"
)
_KEEP = f"INSERT OR REPLACE INTO open_flows ({_FLOW_COLUMNS}) VALUES ({', '.join('?' * 16)})"
_FORGET = (
    "DELETE FROM open_flows WHERE proto = ? AND saddr = ? AND sport = ? AND daddr = ?"
    " AND dport = ? AND id = ?"
)


def write(db: sqlite3.Connection, batch: Batch) -> None:
    """Add what was used, keep the new baselines, forget those of flows that are gone."""
    db.executemany(ADD, (_used_row(used) for used in batch.used))
    db.executemany(_KEEP, (_flow_row(flow) for flow in batch.open))
    db.executemany(_FORGET, (_key_row(key) for key in batch.closed))


def open_flows(db: sqlite3.Connection) -> list[OpenFlow]:
    """The baselines, in no order."""
    rows = db.execute(f"SELECT {_FLOW_COLUMNS} FROM open_flows")
    return [_flow(row) for row in rows]


def usage(db: sqlite3.Connection, since: str, until: str) -> list[Used]:
    """The rows of the days from `since` to before `until`, by day."""
    rows = db.execute(
        f"SELECT {COLUMNS} FROM usage"
        " WHERE day >= ? AND day < ? ORDER BY day, app, user, link, sim",
        (since, until),
    )
    return [Used(_account(row[1:5]), row[0], *row[5:]) for row in rows]


def _used_row(used: Used) -> tuple[str | int, ...]:
    figures = (getattr(used, name) for name in _FIGURES)
    return (used.day, *_account_row(used.account), *(min(n, MAX_INTEGER) for n in figures))


def _account_row(account: Account) -> tuple[str, str, str, str]:
    return utf8(account.app), utf8(account.user), utf8(account.link), utf8(account.sim)


def _account(texts: tuple[str, ...]) -> Account:
    return Account(*map(from_utf8, texts))


def _key_row(key: Key) -> tuple[int | bytes, ...]:
    flow, id = key
    return flow.proto, flow.saddr, flow.sport, flow.daddr, flow.dport, id


def _flow_row(flow: OpenFlow) -> tuple[str | int | bytes, ...]:
    entry = flow.counted
    counters = (entry.started, entry.out_bytes, entry.in_bytes, entry.out_packets, entry.in_packets)
    return (
        *_key_row(entry.key),
        entry.mark,
        *(min(n, MAX_INTEGER) for n in counters),
        *_account_row(flow.account),
    )


def _flow(row: tuple[Any, ...]) -> OpenFlow:
    proto, saddr, sport, daddr, dport, id, mark, started, *counters = row[:12]
    out_bytes, in_bytes, out_packets, in_packets = counters
    entry = Counted(
        flow=Flow(proto, saddr, sport, daddr, dport),
        id=id,
        mark=mark,
        out_bytes=out_bytes,
        in_bytes=in_bytes,
        out_packets=out_packets,
        in_packets=in_packets,
        started=started,
    )
    return OpenFlow(_account(row[12:]), entry)
