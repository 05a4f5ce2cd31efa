"""A week of observing, small: what the tests of `arbiter rules review` look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arbiter.records import Record, json_list
from arbiter.store import Store

CURL = "/usr/bin/curl"
FIREFOX = "/usr/lib/firefox/firefox"
BEGAN = 1795000000.0


def record(
    app: str, to: str, port: int, *names: str, at: float = 0.0, proto: str = "tcp", **more: Any
) -> Record:
    fields: dict[str, Any] = {
        "user": "alice", "uid": 1000, "parents": json_list(["/usr/bin/bash"]),
        "decision": "allow", "reason": "observe",
    } | more  # fmt: skip
    decision, reason = fields.pop("decision"), fields.pop("reason")
    return Record(
        BEGAN + at,
        decision,
        reason,
        app=app,
        daddr=to,
        dport=port,
        proto=proto,
        names=json_list(names),
        **fields,
    )


def week() -> Iterator[Record]:
    """curl to three destinations, one of which was refused; a browser; and an ntp client."""
    for n in range(34):
        yield record(CURL, "198.51.100.10", 443, "deb.debian.org", at=n)
    for n in range(4):
        yield record(CURL, "198.51.100.11", 443, "www.debian.org", at=n)
    refused: dict[str, Any] = {"decision": "deny", "reason": "deadline"}
    for n in range(3):
        yield record(CURL, "192.168.1.1", 53, at=60.0 * n, proto="udp", **refused)
    for n in range(30):
        yield record(FIREFOX, f"203.0.113.{n}", 443, f"h{n}.example", at=3600.0 * n)
    time: dict[str, Any] = {"user": "systemd-timesync", "uid": 998, "parents": "[]"}
    yield record("unit:systemd-timesyncd.service", "192.0.2.123", 123, proto="udp", **time)


def store_week(path: Path, *others: Record) -> Path:
    """A database with the week in it."""
    with Store.open(path) as store:
        store.record([*week(), *others])
    return path
