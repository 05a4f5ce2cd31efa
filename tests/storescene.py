"""What the tests of the store share: a database of this run, and its rules."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from arbiter.records import Record, json_list
from arbiter.rules.line import parse
from arbiter.store import Store, migrate

ROOT = Path(__file__).parents[1]
BOOT, SESSION = "boot-1", "run-1"


def add(store: Store, line: str, at: float = 100.0, **more: Any) -> int:
    values: dict[str, Any] = {"by": "alice", "by_uid": 1000, "frontend": "terminal", **more}
    return store.remember(parse(line), created=at, **values).entry.id


def lines(store: Store, now: float = 200.0, boot: str = BOOT, session: str = SESSION) -> list[str]:
    with_line = {change.rule_id: change.line for change in store.changes()}
    return [with_line[entry.id] for entry in store.rules(now, boot, session)]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def python(code: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]  # options pass through
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        **options,
    )


RECORD = Record(
    time=12.5,
    decision="deny",
    reason="rule",
    proto="tcp",
    saddr="192.0.2.1",
    sport=4711,
    daddr="2001:db8::1",
    dport=443,
    outdev=2,
    length=60,
    uid=1000,
    user="alice",
    app="/usr/bin/curl",
    app_kind="path",
    pid=7,
    start=8,
    exe="/usr/bin/curl",
    argv=json_list(["curl", "a\udcff"]),
    parents=json_list(["/bin/sh"]),
    rule_id=3,
    layer=2,
    by="bob",
    frontend="tui",
    waited=1.5,
    count=2,
    note="n",
)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


OLD = f"""
PRAGMA application_id = {migrate.APPLICATION_ID};
CREATE TABLE rules (id INTEGER PRIMARY KEY, line TEXT, made REAL);
INSERT INTO rules VALUES (4, 'allow port=1', 7.5), (9, 'deny port=2', 8.5);
"""
