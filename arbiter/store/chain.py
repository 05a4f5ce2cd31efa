"""The hash chain over decision records and changes of rules: what a row's hash covers, and its end.

A hash is the byte FORMAT and 16 bytes of SHA-256 over a MessagePack array: the hash of the row
before (nil for the first), the table's name, and the row's columns that the format covers.
MessagePack because each value carries its type and length, so that no two rows read the same, and
every language can write it: integers and texts in their shortest form, REAL as a float64.
docs/audit.md says it for others.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType

from msgspec import Struct, msgpack

from arbiter.store.errors import UnstorableError
from arbiter.store.rows import Value

FORMAT = 2
"""What a hash covers, and how. Older rows keep theirs: a column more or less is another format."""
FORMATS: Mapping[int, frozenset[str]] = MappingProxyType({1: frozenset(), 2: frozenset({"count"})})
"""The formats that there are, and what of a chain's columns each leaves out: packets may join a
record after it was written."""
_LENGTH = 16
_encode = msgpack.Encoder().encode


class Chain(Struct, frozen=True):
    """A table whose rows are chained in the order of their ids."""

    table: str
    columns: tuple[str, ...]
    """What some format covers, in this order; the id first. Texts, but for the two sets below."""
    integers: frozenset[str]
    reals: frozenset[str]


DECISIONS = Chain(
    "decisions",
    (
        "id", "time", "decision", "reason", "hook", "proto", "saddr", "sport", "daddr", "dport",
        "outdev", "length", "uid", "user", "app", "app_kind", "pid", "start", "exe", "argv",
        "parents", "no_owner", "rule_id", "layer", "by_user", "frontend", "waited", "count",
        "note", "link", "names", "sims", "networks", "metered", "roaming", "profile",
    ),
    integers=frozenset({
        "id", "sport", "dport", "outdev", "length", "uid", "pid", "start", "rule_id", "layer",
        "count", "metered", "roaming",
    }),
    reals=frozenset({"time", "waited"}),
)  # fmt: skip
"""Not what is completed later: state, replied, closed, bytes and packets."""
RULE_CHANGES = Chain(
    "rule_changes",
    ("id", "time", "rule_id", "change", "reason", "by_user", "by_uid", "frontend", "line"),
    integers=frozenset({"id", "rule_id", "by_uid"}),
    reals=frozenset({"time"}),
)
CHAINS = (DECISIONS, RULE_CHANGES)


class End(Struct, frozen=True):
    """A row of table `chains`: where a chain begins and ends."""

    first: int
    last: int
    hash: bytes | None
    count: int


def row_hash(
    chain: Chain, before: bytes | None, values: Sequence[Value], format: int = FORMAT
) -> bytes:
    """The hash of a row, given as values of `chain.columns` as the database has them."""
    covered = _COVERED[chain.table, format](values)
    digest = hashlib.sha256(_encode((before, chain.table, *covered))).digest()
    return bytes((format,)) + digest[:_LENGTH]


def format_of(hash: bytes | None) -> int | None:
    """The format of a hash; None where it has none that is known here."""
    return hash[0] if hash and hash[0] in FORMATS else None


def as_stored(chain: Chain, values: Sequence[Value]) -> list[Value]:
    """Values of `chain.columns` as they will come out of the database again."""
    kinds = _KINDS[chain.table]
    found = [
        value if value is None or type(value) is kind else kind(value)
        for value, kind in zip(values, kinds, strict=True)
    ]
    for place in _REALS[chain.table]:
        if (real := found[place]) is not None:
            assert isinstance(real, float)
            found[place] = real + 0.0  # SQLite has one zero: -0.0 comes back as 0.0
    return found


_COVERED = {
    (chain.table, format): itemgetter(
        *(place for place, name in enumerate(chain.columns) if name not in left_out)
    )
    for chain in CHAINS
    for format, left_out in FORMATS.items()
}
_KINDS = {
    chain.table: tuple(
        int if name in chain.integers else float if name in chain.reals else str
        for name in chain.columns
    )
    for chain in CHAINS
}
_REALS = {
    chain.table: tuple(i for i, name in enumerate(chain.columns) if name in chain.reals)
    for chain in CHAINS
}


def end_of(db: sqlite3.Connection, chain: Chain) -> End | None:
    """Where the chain ends; None where somebody took that away."""
    sql = "SELECT first, last, hash, count FROM chains WHERE name = ?"
    row = db.execute(sql, (chain.table,)).fetchone()
    return None if row is None else End(*row)


def next_id(db: sqlite3.Connection, chain: Chain) -> int:
    """The id for the next row: never one that was used before, cleared away or put in by hand."""
    return _after(db, chain, end_of(db, chain))


def _after(db: sqlite3.Connection, chain: Chain, end: End | None) -> int:
    sql = f"SELECT max(id) FROM {chain.table}"
    (highest,) = db.execute(sql).fetchone()
    return max(int(highest or 0), end.last if end is not None else 0) + 1


def extend(
    db: sqlite3.Connection, path: Path, chain: Chain, rows: Iterable[Sequence[Value]]
) -> list[tuple[int, bytes]]:
    """Chain rows that are about to be inserted, in this order and inside the same transaction;
    gives each its id (that it has, or the next) and hash. Raises UnstorableError for an id that
    is not after those before: the chain has the order of ids."""
    end = end_of(db, chain)
    following = _after(db, chain, end)
    if end is None:  # somebody took it away: those before belong to no chain that can be shown
        end = End(following, following - 1, None, 0)
    last, before = end.last, end.hash
    out: list[tuple[int, bytes]] = []
    for id, *values in rows:
        made = following if id is None else int(id)
        if made <= last:
            what, why = f"cannot write to {chain.table}", f"{made} is not after {last}"
            raise UnstorableError(what, path, why, "report this")
        before = row_hash(chain, before, as_stored(chain, (made, *values)))
        last, following = made, made + 1
        out.append((made, before))
    db.execute(
        "INSERT INTO chains (name, first, last, hash, count) VALUES (?, ?, ?, ?, ?) ON CONFLICT"
        " (name) DO UPDATE SET last = excluded.last, hash = excluded.hash, count = excluded.count",
        (chain.table, end.first, last, before, end.count + len(out)),
    )
    return out
