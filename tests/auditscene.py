"""A day of decisions, small: what the tests of `arbiter audit` look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arbiter.records import Record, json_list
from arbiter.store import Store

BEGAN = 1795000000.0
CURL, FIREFOX, SYNC = "/usr/bin/curl", "/usr/lib/firefox/firefox", "unit:timesync.service"


def record(at: float, decision: str = "allow", reason: str = "observe", **more: Any) -> Record:
    fields: dict[str, Any] = {
        "proto": "tcp", "saddr": "10.1.0.2", "sport": 40000, "daddr": "203.0.113.1", "dport": 443,
        "uid": 1000, "user": "alice", "app": CURL, "app_kind": "path", "pid": 42, "start": 4242,
        "exe": CURL, "argv": json_list(["curl", "x"]), "parents": json_list(["/usr/bin/bash"]),
        "link": "wifi",
    } | more  # fmt: skip
    return Record(BEGAN + at, decision, reason, **fields)


DAY = (
    record(0, names=json_list(["deb.debian.org"]), state="closed", replied=BEGAN + 1,
           closed=BEGAN + 130, out_bytes=612, in_bytes=4200, out_packets=7, in_packets=8),
    record(60, "deny", "rule", rule_id=3, layer=2, by="root", frontend="cli", app=FIREFOX,
           daddr="2001:db8::7", names=json_list(["a.tracker.example"]), link=""),
    record(120, "route via=lte", "answer", by="bob", frontend="terminal", waited=7.4, user="bob",
           uid=1001, app=FIREFOX, daddr="198.51.100.9", dport=8080, link="lte", state="unknown"),
    record(180, "deny", "rule", rule_id=-4, layer=1, by="file:/etc/arbiter/policy.d/x.toml:12",
           proto="udp", dport=123, app=SYNC, daddr="192.168.1.1", user="sync", uid=998, link=""),
    record(240, "deny", "undecodable", proto="", saddr="", sport=0, daddr="", dport=0, uid=None,
           user="", app="", app_kind="", exe="", pid=None, start=None, argv="[]", parents="[]",
           link="", no_owner="", note="IPv4 header cut short"),
    record(300, "deny", "deadline", proto="icmp", sport=9, dport=0, waited=30.0, app="", exe="",
           no_owner="exited", link="", profile="home", metered=True, roaming=False),
)  # fmt: skip
"""Records 1 to 6, a minute apart."""


def store_day(path: Path, *others: Record) -> Path:
    """A database with the day in it."""
    with Store.open(path) as store:
        store.record([*DAY, *others])
    return path
