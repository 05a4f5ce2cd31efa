"""What the tests of `arbiter explain` share: its command on a database of rules and records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, Done, within

from arbiter.records import Record, json_list
from arbiter.rules import parse
from arbiter.store import Store

CAPTURES = ROOT / "fixtures" / "captures"
BROWSE = str(CAPTURES / "browse.pcap")
Run = Callable[..., Done]


def explaining(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs commands on what is in that directory, from where docs/explain.md's are run."""
    monkeypatch.chdir(ROOT)
    return within(home, ARBITER_CONFIG=str(home / "config"))


def record(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        "time": 1_700_000_000.0,  # Tuesday 2023-11-14 22:13:20 UTC
        "decision": "allow",
        "reason": "rule",
        "proto": "tcp",
        "saddr": "192.0.2.10",
        "sport": 40000,
        "daddr": "198.51.100.7",
        "dport": 443,
        "uid": 0,
        "user": "root",
        "app": "/usr/bin/curl",
        "app_kind": "path",
        "pid": 7,
        "start": 70,
        "parents": json_list(["/usr/bin/bash"]),
        "rule_id": 1,
        "layer": 2,
        "by": "alice",
        "frontend": "terminal",
        "names": json_list(["www.example.org"]),
        "link": "wifi",
    }
    return Record(**(fields | changes))


def remember(store: Store, line: str, **more: Any) -> int:
    at: dict[str, Any] = {"by": "alice", "frontend": "terminal", "created": 1_699_999_000.0}
    return store.remember(parse(line), **(at | more)).entry.id
