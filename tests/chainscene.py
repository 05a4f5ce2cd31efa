"""A database with its hash chains, what others write into it, and what is then found broken."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from auditscene import BEGAN, record, store_day

from arbiter.rules import parse
from arbiter.store import Author, Store, Wanted
from arbiter.store.checkpoints import read_point
from arbiter.store.verify import Verified


def fill(path: Path) -> Path:
    """Twelve records, and rules that were added, replaced, imported, removed and undone."""
    store_day(path)
    with Store.open(path) as store:
        for port in (1, 2, 3, 1):
            store.remember(parse(f"allow port={port}"), by="alice", by_uid=1000, created=BEGAN)
        store.remove(3, "bob", at=BEGAN + 1)
        wanted = [Wanted(parse("deny port=7")), Wanted(parse("deny port=8 app=/usr/bin/curl"))]
        store.import_rules(wanted, author=Author("root", 0, "cli"), created=BEGAN + 2)
        store.undo(None, BEGAN + 3, "", by="root")
        store.evidence.checkpoint("start", BEGAN + 4)
        store.record([record(400 + i, app=f"/usr/bin/{i}", exe="") for i in range(6)])
    return path


@cache
def filled() -> bytes:
    """The file of such a database, made once."""
    with TemporaryDirectory() as folder:
        return fill(Path(folder) / "a.db").read_bytes()


def put(path: Path) -> Path:
    """One such database there."""
    path.write_bytes(filled())
    return path


def change(path: Path, sql: str, *values: Any) -> None:
    """What somebody with another program does."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(sql, values)


def verified(path: Path, *points: str) -> Verified:
    with Store.open(path, readonly=True) as store:
        return store.evidence.verify([read_point(point) for point in points])


def broken(path: Path, *points: str) -> tuple[str, str, int | None]:
    """The one thing that is broken: word, table, id."""
    (first, *_) = verified(path, *points).broken
    return first.what, first.table, first.id


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()
