"""Decision records, grouped into what the rules would be asked again: the source of a review."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from collections.abc import Iterator

from msgspec import Struct

from arbiter.events import UNDECIDED
from arbiter.model import PROTO_NUMBERS, Hook
from arbiter.rules.rule import Query, is_number
from arbiter.rules.seen import Sighting

_SAME = (
    "app, uid, user, parents, hook, proto, daddr, dport, names, sims, networks, metered, roaming,"
    " profile"
)
"""All that a rule may be held against: what agrees in it is decided alike."""
_SUMS = (
    "CAST(total(count) AS INTEGER),"
    " CAST(total(CASE decision WHEN 'deny' THEN count ELSE 0 END) AS INTEGER), min(time), max(time)"
)
"""`sum` would fail for counts that no connection ever had, and which somebody has written there."""
_REASONS = ", ".join(f"'{reason.value}'" for reason in UNDECIDED)
_SELECT = f"SELECT {_SAME}, {_SUMS} FROM decisions"  # noqa: S608  # names from our code
_WHERE = f"WHERE reason IN ({_REASONS})"
_ESCAPED = re.compile(r"\\udc[89a-f][0-9a-f]")
"""How the store writes a byte that is no UTF-8; a file's name may hold this very text, too."""


class Unreadable(Struct, frozen=True):
    """Connections that no rule can be made from: how many, and why, in one clause."""

    count: int
    why: str


def sightings(
    db: sqlite3.Connection, since: float, app: str | None
) -> Iterator[Sighting | Unreadable]:
    """Groups of records from epoch second `since` on, of one app or of all. Raises sqlite3.Error.

    Indices serve `since` and `app`. Without them the table is read from end to end, as most of it
    is wanted: by the index that SQLite would choose it takes half as long again.
    """
    where, values = _WHERE, {"since": since, "app": app}
    if since > 0:
        where += " AND time >= :since"
    if app is not None:
        where += " AND app = :app"
    indexed = "" if where != _WHERE else "NOT INDEXED "
    for row in db.execute(f"{_SELECT} {indexed}{where} GROUP BY {_SAME}", values):
        count, refused, first, last = row[14:]
        try:
            query = _query(*row[:14])
        except ValueError as error:
            yield Unreadable(count, str(error))
        else:
            yield Sighting(query, count, refused, first, last)


def _query(
    app: str,
    uid: int | None,
    user: str,
    parents: str,
    hook: str,
    proto: str,
    daddr: str,
    dport: int,
    names: str,
    sims: str,
    networks: str,
    metered: int | None,
    roaming: int | None,
    profile: str,
) -> Query:
    """ValueError for what is not as arbiter writes it: a database may come from anywhere."""
    if _ESCAPED.search(app):
        raise ValueError("the app's path is not UTF-8, and records do not keep its bytes")
    if not 0 <= dport <= 65535:
        raise ValueError("a record's port is none")
    return Query(
        app=app,
        parents=_texts(parents),
        uid=uid,
        user=user,
        daddr=_address(daddr),
        dport=dport,
        proto=_proto(proto),
        hook=_hook(hook),
        sims=_texts(sims),
        networks=_texts(networks),
        metered=None if metered is None else bool(metered),
        roaming=None if roaming is None else bool(roaming),
        profile=profile,
        names=_texts(names),
    )


def _texts(array: str) -> tuple[str, ...]:
    if array == "[]":
        return ()
    try:
        found = json.loads(array)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError("a record's list of names, parents, SIMs or networks cannot be read")
    return tuple(found)


def _address(text: str) -> bytes:
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        raise ValueError("a record's address is none") from None


def _proto(text: str) -> int:
    number = PROTO_NUMBERS.get(text)
    if number is None and is_number(text) and len(text) <= 3:
        number = int(text)
    if number is None or number > 255:
        raise ValueError("a record's protocol is none")
    return number


def _hook(text: str) -> Hook:
    try:
        return Hook(text)
    except ValueError:
        raise ValueError("a record's hook is none") from None
