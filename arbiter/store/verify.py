"""Whether the evidence holds: the tables, each chain, the rules against their changes, the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from arbiter.store import migrate
from arbiter.store.chain import CHAINS, Chain, end_of
from arbiter.store.checkpoints import Point, checkpoints
from arbiter.store.covered import hidden
from arbiter.store.errors import explained
from arbiter.store.pruned import Gone, pruned
from arbiter.store.walk import Broken, Checked, Row, Walk


class Verified(Struct, frozen=True):
    """All that was found."""

    chains: tuple[Checked, ...]
    others: tuple[Broken, ...] = ()
    """What does not hold beside the chains."""
    pruned: tuple[Gone, ...] = ()
    """What retention says that it deleted, by table: nothing is proven of that."""

    @property
    def broken(self) -> list[Broken]:
        """All that does not hold; nothing where the evidence is intact."""
        return [*(c.broken for c in self.chains if c.broken is not None), *self.others]


def verify(
    db: sqlite3.Connection,
    path: Path,
    outside: Iterable[Point] = (),
    tick: Callable[[int], None] = lambda rows: None,
    stage: Callable[[str], None] = lambda what: None,
) -> Verified:
    """Check everything, as of one moment. `outside`: checkpoints that were kept elsewhere. `tick`
    is told of rows that were read, and then `stage` what is checked at one go: the file, the sums.
    Raises StoreError where the file cannot be read at all."""
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
            stage("the file")
            others = (*_rules(db), *_gone(db), *_indexes(db), *_file(db))
            if not any(c.broken is not None for c in chains) and not others:
                stage("the sums")
                others = tuple(hidden(db))  # else it is no wonder that they say something else
            return Verified(chains, others, tuple(pruned(db)))
        finally:
            db.execute("ROLLBACK")
            db.execute("PRAGMA temp_store = MEMORY")
            db.text_factory = kept


def _schema(db: sqlite3.Connection) -> Iterator[Broken]:
    """What is not as schema.sql makes it: tables, the triggers that keep the sums, the views that
    people read; and what writes along where arbiter writes."""
    with closing(sqlite3.connect(":memory:")) as made:
        made.executescript(migrate.schema())
        wanted = _made(made, "table", "trigger", "view")
    yield from _differ(wanted, db)
    sql = "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
    for name, table in db.execute(sql):
        if table in migrate.TABLES and name not in wanted:
            why = f"a trigger, {name}, writes along where arbiter writes to {table}"
            yield Broken("schema", why, table)


def _indexes(db: sqlite3.Connection) -> Iterator[Broken]:
    """Indexes that are not as schema.sql makes them: one keeps a rule from being there twice, and
    commands go by the others."""
    with closing(sqlite3.connect(":memory:")) as made:
        made.executescript(migrate.schema())
        wanted = _made(made, "index")
    yield from _differ(wanted, db)


def _made(db: sqlite3.Connection, *kinds: str) -> dict[str, tuple[str, str]]:
    """What there is of these kinds, by name: the kind, and how it is made."""
    sql = "SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL"
    return {name: (kind, migrate.bare(sql)) for name, kind, sql in db.execute(sql) if kind in kinds}


def _differ(wanted: dict[str, tuple[str, str]], db: sqlite3.Connection) -> Iterator[Broken]:
    found = _made(db, *{kind for kind, _ in wanted.values()})
    for name, made in sorted(wanted.items()):
        if found.get(name) != made:
            yield Broken("schema", f"{made[0]} {name} is not as arbiter makes it", name)


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
    sql = f"SELECT {', '.join(chain.columns)}, hash FROM {chain.table} ORDER BY id"
    for row in db.execute(sql):
        yield Row(row[0], row[1], row[:-1], row[-1])


# --- the rules, and the file ----------------------------------------------------------------

_OTHER_LINE = (
    "SELECT id, created FROM rules WHERE NOT EXISTS (SELECT 1 FROM rule_changes AS made"
    " WHERE made.rule_id = rules.id AND change = 'added' AND made.line = rules.line)"
    " ORDER BY id LIMIT 1"
)
_OTHER_END = (
    "SELECT id, created, retired FROM rules WHERE (retired IS NOT NULL) <> EXISTS"
    " (SELECT 1 FROM rule_changes AS made WHERE made.rule_id = rules.id AND change = 'retired')"
    " ORDER BY id LIMIT 1"
)
_COUNTED = ("checkpoints", "runs", "gaps", "profile_switches")
"""Tables without a chain that only retention deletes from."""


def _rules(db: sqlite3.Connection) -> Iterator[Broken]:
    """Rules that are not as the changes of rules tell: retention leaves a rule all of them."""
    for id, created in db.execute(_OTHER_LINE):
        why = f"rules: no change says that rule {id} was added with this line: it was changed"
        yield Broken("rule", f"{why}, or put in", "rules", id, created)
    for id, created, retired in db.execute(_OTHER_END):
        told = "is in force, and a change says that it ended"
        if retired is not None:
            told = "has ended, and no change says so"
        yield Broken("rule", f"rules: rule {id} {told}", "rules", id, created)


def _gone(db: sqlite3.Connection) -> Iterator[Broken]:
    """Rows that have no chain, and are fewer than SQLite gave ids less those that retention says
    it deleted (sqlite.org/autoinc.html: the id of a row that failed is given again)."""
    told = {gone.what: gone.count for gone in pruned(db)}
    given = dict(db.execute("SELECT name, CAST(seq AS INTEGER) FROM sqlite_sequence"))
    for table in _COUNTED:
        (there,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
        missing = given.get(table, 0) - told.get(table, 0) - there
        if missing:
            why = f"{missing} rows are gone that retention has not deleted"
            if missing < 0:
                why = f"{-missing} rows more are there, or were deleted, than ever were given an id"
            yield Broken("deleted", f"{table}: {why}", table)


def _file(db: sqlite3.Connection) -> Iterator[Broken]:
    """The first damage that SQLite itself finds. Indexes are held against their tables, too: what
    an index leaves out no command would show that goes by it."""
    (said,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if said != "ok":
        yield Broken("damaged", f"the file is damaged: {' '.join(str(said).split())}")
    for table, row, other, _ in db.execute("PRAGMA foreign_key_check"):
        why = f"row {row} of {table} refers to a row of {other} that is not there"
        yield Broken("damaged", f"the tables do not fit together: {why}", table, row)
        return
