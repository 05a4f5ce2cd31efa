"""Whether the evidence holds: the tables, each chain, the rules against their changes, the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from arbiter.store import migrate
from arbiter.store.chain import CHAINS, Chain, end_of
from arbiter.store.checkpoints import RETENTION, Point, checkpoints
from arbiter.store.covered import hidden
from arbiter.store.errors import explained
from arbiter.store.walk import Broken, Checked, Row, Walk


class Verified(Struct, frozen=True):
    """All that was found."""

    chains: tuple[Checked, ...]
    others: tuple[Broken, ...] = ()
    """What does not hold beside the chains."""

    @property
    def broken(self) -> list[Broken]:
        """All that does not hold; nothing where the evidence is intact."""
        return [*(c.broken for c in self.chains if c.broken is not None), *self.others]


def verify(
    db: sqlite3.Connection,
    path: Path,
    outside: Iterable[Point] = (),
    tick: Callable[[int], None] = lambda rows: None,
) -> Verified:
    """Check everything, as of one moment. `outside`: checkpoints that were kept elsewhere. `tick`
    is told of rows that were read. Raises StoreError where the file cannot be read at all."""
    given = tuple(outside)
    kept = db.text_factory
    with explained(path, "cannot verify the records"):
        # Bytes that are no text are a changed row, and not the end of this.
        db.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
        db.execute("PRAGMA temp_store = FILE")  # what is counted may be millions of rows
        db.execute("BEGIN")
        try:
            if others := tuple(_schema(db)):
                return Verified((), others)  # no row of such a table says anything
            chains = tuple(_check(db, chain, given, tick) for chain in CHAINS)
            others = (*_rules(db), *_file(db))
            if not any(c.broken is not None for c in chains) and not others:
                others = tuple(hidden(db))  # else it is no wonder that they say something else
            return Verified(chains, others)
        finally:
            db.execute("ROLLBACK")
            db.execute("PRAGMA temp_store = MEMORY")
            db.text_factory = kept


def _schema(db: sqlite3.Connection) -> Iterator[Broken]:
    """What is not as schema.sql makes it: tables, the triggers that keep the sums, the views that
    people read; and what writes along where arbiter writes."""
    sql = "SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'trigger', 'view')"
    with closing(sqlite3.connect(":memory:")) as made:
        made.executescript(migrate.schema())
        wanted = {name: (kind, migrate.bare(text)) for name, kind, text in made.execute(sql)}
    found = {name: (kind, migrate.bare(text)) for name, kind, text in db.execute(sql)}
    for name, (kind, text) in sorted(wanted.items()):
        if found.get(name) != (kind, text):
            yield Broken("schema", f"{kind} {name} is not as arbiter makes it", name)
    sql = "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
    for name, table in db.execute(sql):
        if table in migrate.TABLES and name not in wanted:
            why = f"a trigger, {name}, writes along where arbiter writes to {table}"
            yield Broken("schema", why, table)


def _check(
    db: sqlite3.Connection, chain: Chain, outside: tuple[Point, ...], tick: Callable[[int], None]
) -> Checked:
    end = end_of(db, chain)
    if end is None:
        why = f"{chain.table}: table chains does not say any more where its chain ends"
        return Checked(chain.table, broken=Broken("cut", why, chain.table))
    given = [point for point in outside if point.chain == chain.table]
    gaps = db.execute("SELECT time_from, time_to FROM gaps").fetchall()
    return Walk(chain, end, checkpoints(db, chain), given).through(_rows(db, chain), gaps, tick)


def _rows(db: sqlite3.Connection, chain: Chain) -> Iterator[Row]:
    sql = f"SELECT {', '.join(chain.columns)}, hash FROM {chain.table} ORDER BY id"  # noqa: S608
    for row in db.execute(sql):
        yield Row(row[0], row[1], row[:-1], row[-1])


# --- the rules, and the file ----------------------------------------------------------------

_OTHER_LINE = (
    "SELECT id, created FROM rules WHERE created >= ? AND NOT EXISTS (SELECT 1 FROM rule_changes AS"
    " made WHERE made.rule_id = rules.id AND change = 'added' AND made.line = rules.line)"
    " ORDER BY id LIMIT 1"
)
_OTHER_END = (
    "SELECT id, created, retired FROM rules WHERE created >= ? AND (retired IS NOT NULL) <> EXISTS"
    " (SELECT 1 FROM rule_changes AS made WHERE made.rule_id = rules.id AND change = 'retired')"
    " ORDER BY id LIMIT 1"
)


def _rules(db: sqlite3.Connection) -> Iterator[Broken]:
    """Rules that are not as the changes of rules tell; of those whose changes were cleared away
    by retention nothing is known."""
    sql = "SELECT ifnull(max(time), 0) FROM checkpoints WHERE chain = 'rule_changes' AND why = ?"
    (since,) = db.execute(sql, (RETENTION,)).fetchone()
    for id, created in db.execute(_OTHER_LINE, (since,)):
        why = f"rules: no change says that rule {id} was added with this line: it was changed"
        yield Broken("rule", f"{why}, or put in", "rules", id, created)
    for id, created, retired in db.execute(_OTHER_END, (since,)):
        told = "is in force, and a change says that it ended"
        if retired is not None:
            told = "has ended, and no change says so"
        yield Broken("rule", f"rules: rule {id} {told}", "rules", id, created)


def _file(db: sqlite3.Connection) -> Iterator[Broken]:
    """The first damage that SQLite itself finds."""
    (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        yield Broken("damaged", f"the file is damaged: {' '.join(str(said).split())}")
    for table, row, other, _ in db.execute("PRAGMA foreign_key_check"):
        why = f"row {row} of {table} refers to a row of {other} that is not there"
        yield Broken("damaged", f"the tables do not fit together: {why}", table, row)
        return
