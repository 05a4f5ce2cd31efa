"""Rules and records as rows of the database, and back. Pure but for `process_alive`."""

from __future__ import annotations

import math
from pathlib import Path
from sys import intern
from typing import Any

from msgspec import Struct, structs

from arbiter.records import Record, utf8, valid
from arbiter.rules.line import conditions, format_decision, format_rule, parse
from arbiter.rules.rule import Entry, Layer, LifetimeKind, Rule

Value = str | int | float | None

RULE_COLUMNS = (
    "line",
    "layer",
    "conditions",
    "decision",
    "app",
    "scope_user",
    "lifetime",
    "created",
    "by_user",
    "by_uid",
    "frontend",
    "expires",
    "pid",
    "start",
    "boot",
    "session",
)
ENTRY_COLUMNS = (
    "id, line, layer, created, by_user, frontend, expires, pid, start, boot, session, lifetime"
)
"""What `entry` and `ended` read, in this order."""


class Author(Struct, frozen=True):
    """Who changes the rules, and with what."""

    by: str
    by_uid: int | None = None
    frontend: str = ""


class Remembered(Struct, frozen=True):
    """A rule is on disk, instead of the rules with the ids `replaced`."""

    entry: Entry
    replaced: tuple[int, ...] = ()


class Change(Struct, frozen=True):
    """One change of one rule. Ids grow; `change` is added or retired."""

    id: int
    time: float
    rule_id: int
    change: str
    reason: str
    by: str
    by_uid: int | None
    frontend: str
    line: str


class Ended(Struct, frozen=True):
    """How a rule was taken out of force: when, in epoch seconds, why, and by whom."""

    at: float
    reason: str
    by: str
    replaced_by: int | None = None


class Kept(Struct, frozen=True):
    """A decision record in the database, and its number there."""

    id: int
    record: Record


class Missing(Struct, frozen=True):
    """Records of [since, until] in epoch seconds that are not there; `count` None: nobody knows."""

    since: float
    until: float
    count: int | None
    why: str


def rule_row(
    rule: Rule,
    layer: Layer,
    author: Author,
    *,
    created: float,
    expires: float | None,
    process: tuple[int, int] | None,
    boot: str,
    session: str,
) -> tuple[Value, ...]:
    """A rule as values of RULE_COLUMNS; only what its lifetime needs is kept of the rest.

    Raises ValueError where the lifetime needs what was not given, or is `once`.
    """
    kind = rule.lifetime.kind
    if kind is LifetimeKind.ONCE:
        raise ValueError("a decision that holds once is not remembered")
    if not math.isfinite(created) or (expires is not None and not math.isfinite(expires)):
        raise ValueError("a rule's times must be finite")
    if kind is LifetimeKind.SPAN:
        expires = created + rule.lifetime.seconds if expires is None else expires
    elif expires is not None:
        raise ValueError(f"a rule for={kind.value} does not expire at a time")
    if (kind is LifetimeKind.PROCESS) != (process is not None):
        raise ValueError("a rule for=process needs its process, and no other rule has one")
    if kind is LifetimeKind.SESSION and not session:
        raise ValueError("a rule for=session needs the id of the session")
    if kind in (LifetimeKind.BOOT, LifetimeKind.PROCESS) and not boot:
        raise ValueError(f"a rule for={kind.value} needs the boot id")
    pid, start = process or (None, None)
    return (
        format_rule(rule),
        int(layer),
        conditions(rule),
        format_decision(rule.decision),
        utf8(rule.app),
        utf8(rule.user),
        kind.value,
        created,
        utf8(author.by),
        author.by_uid,
        utf8(author.frontend),
        expires,
        pid,
        start,
        boot if kind in (LifetimeKind.BOOT, LifetimeKind.PROCESS) else "",
        session if kind is LifetimeKind.SESSION else "",
    )


def entry(row: tuple[Any, ...]) -> Entry:
    """An Entry from ENTRY_COLUMNS. Raises RuleError for a line that this arbiter cannot read."""
    id, line, layer, created, by, frontend, expires, pid, start, boot, session, _ = row
    return Entry(
        id=id,
        rule=parse(line),
        layer=Layer(layer),
        created=created,
        # The same few names in every rule: once in memory, not 100,000 times.
        by=intern(by),
        frontend=intern(frontend),
        expires=expires,
        process=None if pid is None else (pid, start),
        boot=intern(boot),
        session=intern(session),
    )


def ended(row: tuple[Any, ...], now: float, boot: str, session: str | None) -> str:
    """Why the rule in ENTRY_COLUMNS is not in force any more; "" if it is.

    `session` None is not known: the rules of every session count. A pid means nothing after a
    restart of the machine: boot is compared first.
    """
    expires, pid, start, row_boot, row_session, lifetime = row[6:]
    if expires is not None and expires <= now:
        return "expired"
    if lifetime in (LifetimeKind.BOOT, LifetimeKind.PROCESS) and row_boot != boot:
        return "boot"
    if lifetime == LifetimeKind.SESSION and session is not None and row_session != session:
        return "session"
    if pid is not None and not process_alive(pid, start):
        return "exited"
    return ""


def process_alive(pid: int, start: int) -> bool:
    """Whether the process that started at `start` (clock ticks since boot) still runs.

    A zombie counts as gone. Where /proc hides others' processes (hidepid=), so do they.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False  # no such process, or it went while we read (ESRCH)
    # proc(5): the name in parentheses may itself hold any byte, so count from the last ")".
    fields = text[text.rindex(b")") + 2 :].split()
    return fields[0] not in (b"Z", b"X") and int(fields[19]) == start


MOST = 1e200
"""The largest REAL: sums of it stay finite, or their difference would be NaN."""
_RECORD_FIELDS = Record.__struct_fields__
RECORD_COLUMNS = tuple("by_user" if name == "by" else name for name in _RECORD_FIELDS)
INSERT_RECORD = (
    f"INSERT INTO decisions (id, {', '.join(RECORD_COLUMNS)}, hash)"
    f" VALUES (?, {', '.join('?' * len(RECORD_COLUMNS))}, ?)"
)


def record_row(record: Record | Kept) -> tuple[Value, ...]:
    """A record as values of INSERT_RECORD but the last, its hash: one odd value must not keep a
    whole batch out. Without an id it gets the next."""
    id, plain = (record.id, record.record) if isinstance(record, Kept) else (None, record)
    return (id, *(storable(getattr(plain, name)) for name in _RECORD_FIELDS))


def record(row: tuple[Any, ...]) -> Record:
    """A record from RECORD_COLUMNS. SQLite has no truth values: they are numbers there."""
    made = Record(*row)
    return structs.replace(made, metered=_truth(made.metered), roaming=_truth(made.roaming))


def _truth(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def storable(value: Value) -> Value:
    """A value that SQLite takes, as near to it as it can be."""
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, int):
        return max(-(1 << 63), min(value, (1 << 63) - 1))  # SQLite's INTEGER
    if isinstance(value, float):
        if not math.isfinite(value):
            return 0.0  # SQLite would make NaN a NULL
        return max(-MOST, min(value, MOST))
    return value
