"""The database of rules, profiles, records and usage: one connection, one thread, no clock.

Every method raises StoreError; where it does, nothing of what was asked is done.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from arbiter.records import Record, utf8
from arbiter.rules.rule import Entry, Layer, Rule
from arbiter.rules.seen import Sighting
from arbiter.rules.stale import Uses
from arbiter.store import chain, changes, imports, inforce, replacing, rows, sightings, undo, usage
from arbiter.store.database import connect
from arbiter.store.errors import UnstorableError, explained
from arbiter.store.evidence import Evidence
from arbiter.store.history import Step, Undone, adding, again, choose, steps
from arbiter.store.imports import Planned, Wanted
from arbiter.store.lives import LifeRows
from arbiter.store.profiles import Profiles
from arbiter.store.records import Records
from arbiter.store.retention import Retention
from arbiter.store.rows import Author, Change, Kept, Remembered
from arbiter.store.sightings import Unreadable
from arbiter.store.transaction import writing
from arbiter.store.uses import uses
from arbiter.usage import Batch, OpenFlow, Used

STEPS = 2000
"""Steps of SQLite, a fraction of a millisecond, between two looks at whether reading is over."""
_INSERT_RULE = (
    f"INSERT INTO rules ({', '.join(rows.RULE_COLUMNS)})"
    f" VALUES ({', '.join('?' * len(rows.RULE_COLUMNS))})"
)


class Store:
    """An open database. Use it in the thread that opened it; close it, or use `with`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self.path = path
        self.profiles = Profiles(connection, path)
        self.records = Records(connection, path)
        self.lives = LifeRows(connection, path)
        self.evidence = Evidence(connection, path)
        self.retention = Retention(connection, path)
        self.unreadable: tuple[str, ...] = ()
        self.unread: tuple[int, ...] = ()
        """Rules that the last `rules` or `sweep` could not read, each with why and next step."""

    @classmethod
    def open(
        cls, path: str | Path, *, readonly: bool = False, create: bool = True, busy: float = 5.0
    ) -> Self:
        """Open, and if need be make (directory 0750, file 0640) or upgrade, the database.

        `busy`: seconds to wait for another writer. Raises StoreError.
        """
        path = Path(path)
        return cls(connect(path, readonly=readonly, create=create, busy=busy), path)

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        self._db.close()

    @contextmanager
    def until(self, over: Callable[[], bool]) -> Iterator[None]:
        """What is read inside ends with TooLongError once `over`, which is asked all the time."""
        self._db.set_progress_handler(over, STEPS)
        try:
            yield
        finally:
            self._db.set_progress_handler(None, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- rules ------------------------------------------------------------------------------

    def remember(
        self,
        rule: Rule,
        *,
        layer: Layer = Layer.REMEMBERED,
        by: str,
        by_uid: int | None = None,
        frontend: str = "",
        created: float,
        expires: float | None = None,
        process: tuple[int, int] | None = None,
        boot: str = "",
        session: str = "",
        replace_others: bool = True,
        instead_of: int | None = None,
    ) -> Remembered:
        """Put a rule on disk, for good when this returns (fsync), and retire what it replaces.

        It replaces the rule of the same layer and conditions (its `user=` is one of them), and
        every rule of those for one process; a rule for one process replaces that one's only.
        `created` and `expires` are epoch seconds; `expires` defaults to the rule's span.
        Without `replace_others` only one's own rule (`by_uid`) may be replaced: nobody undoes an
        admin's rule by an answer. `instead_of` is a rule in force that this one is an edit of.
        Raises ValueError where the lifetime lacks what it needs.
        """
        author = Author(by, by_uid, frontend)
        values = rows.rule_row(
            rule,
            layer,
            author,
            created=created,
            expires=expires,
            process=process,
            boot=boot,
            session=session,
        )
        row = dict(zip(rows.RULE_COLUMNS, values, strict=True))
        with self._write("cannot remember the rule", durable=True):
            replaced = replacing.replaced(self._db, self.path, row, instead_of)
            if not replace_others:
                replacing.check_own(self._db, self.path, replaced, by_uid)
            entry = self._put(values, replaced, created, author, rule)
        return Remembered(entry, replaced)

    def import_rules(
        self,
        wanted: Sequence[Wanted],
        *,
        author: Author,
        created: float,
        boot: str = "",
        layer: Layer = Layer.REMEMBERED,
        only_plan: bool = False,
        ends: Iterable[int] = (),
    ) -> list[Planned]:
        """Put rules on disk, all or none in one transaction, each in place of its like, and take
        those with the ids `ends` out of force.

        What is there already stays as it is, so that importing again changes nothing. With
        `only_plan` nothing is written. `created` is now, in epoch seconds. Raises ValueError
        where a rule cannot be kept (its lifetime), or two have the same conditions.
        """
        if only_plan:
            with explained(self.path, "cannot read the rules"):
                return imports.plan(self._db, wanted, layer, created, boot)
        with self._write("cannot import the rules", durable=True):
            planned = imports.plan(self._db, wanted, layer, created, boot)
            for place, one in enumerate(planned):
                if one.same:
                    continue
                values = rows.rule_row(
                    one.wanted.rule,
                    layer,
                    author,
                    created=created,
                    expires=one.wanted.expires,
                    process=None,
                    boot=boot,
                    session="",
                )
                entry = self._put(values, one.replaces, created, author, one.wanted.rule)
                planned[place] = msgspec.structs.replace(one, id=entry.id)
            for id in ends:
                changes.retire(self._db, self.path, id, "removed", created, author)
        return planned

    def _put(
        self,
        values: tuple[rows.Value, ...],
        replaced: Iterable[int],
        created: float,
        author: Author,
        rule: Rule,
    ) -> Entry:
        """One new rule instead of others, inside a transaction."""
        for id in replaced:
            changes.retire(self._db, self.path, id, "replaced", created, author)
        id = self._db.execute(_INSERT_RULE, values).lastrowid or 0
        for old in replaced:
            self._db.execute("UPDATE rules SET replaced_by = ? WHERE id = ?", (id, old))
        line = str(values[0])
        changes.log(self._db, self.path, created, id, "added", "remembered", author, line)
        entry = rows.entry(
            self._db.execute(f"{inforce.SELECT_ENTRY} WHERE id = ?", (id,)).fetchone()
        )
        if entry.rule != rule:
            # A rule must match exactly what was shown: better none than another one.
            raise UnstorableError(
                "cannot remember the rule",
                self.path,
                f"its line {line!r} reads back as another rule",
                "report this, with the rule",
            )
        return entry

    def retire(
        self,
        ids: Iterable[int],
        reason: str,
        at: float,
        *,
        by: str = "arbiter",
        by_uid: int | None = None,
        frontend: str = "",
    ) -> tuple[int, ...]:
        """Take rules out of force, and keep them as history. Gives the ids that were in force."""
        author = Author(by, by_uid, frontend)
        with self._write("cannot retire rules", durable=True):
            return tuple(
                id for id in ids if changes.retire(self._db, self.path, id, reason, at, author)
            )

    def remove(
        self, id: int, by: str, *, at: float, by_uid: int | None = None, frontend: str = ""
    ) -> bool:
        """Retire one rule because a person wants it gone; False if it is not in force."""
        return bool(self.retire((id,), "removed", at, by=by, by_uid=by_uid, frontend=frontend))

    def rules(self, now: float, boot: str, session: str | None) -> list[Entry]:
        """The rules in force at `now` (epoch seconds), oldest first.

        `session` None: of any session, for readers who do not know the daemon's. Expired rules,
        and those of another boot, another session or a process that is gone, are
        left out. A line that cannot be read is left out too, and named in `unreadable`.
        """
        found = self.rules_page(now, boot, session)
        self.unreadable, self.unread = tuple(found.unreadable.values()), tuple(found.unreadable)
        return list(found.entries)

    def rules_page(
        self, now: float, boot: str, session: str | None, after: int = 0, most: int = inforce.ALL
    ) -> inforce.Page:
        """The same, of at most so many rules with ids above `after`."""
        with explained(self.path, "cannot read the rules"):
            return inforce.page(self._db, self.path, now, boot, session, after, most)

    def sweep(self, now: float, boot: str, session: str) -> tuple[int, ...]:
        """Retire every rule that `rules` leaves out for good, with the reason; gives their ids."""
        with self._write("cannot retire rules that have ended", durable=False):
            gone = inforce.ended(self._db, now, boot, session)
            for id, reason in gone:
                changes.retire(self._db, self.path, id, reason, now, Author("arbiter"))
        return tuple(id for id, _ in gone)

    def get(self, id: int) -> Entry | None:
        """The rule with this id, in force or retired. Raises RuleError for an unreadable line."""
        with explained(self.path, f"cannot read rule {id}"):
            row = self._db.execute(f"{inforce.SELECT_ENTRY} WHERE id = ?", (id,)).fetchone()
        return None if row is None else rows.entry(row)

    # --- changes ----------------------------------------------------------------------------

    def last_change(self) -> int:
        """The id of the newest change of a rule; 0 for none."""
        with explained(self.path, "cannot read the changes of rules"):
            value: int | None = self._db.execute("SELECT max(id) FROM rule_changes").fetchone()[0]
        return value or 0

    def changes(self, after: int = 0) -> list[Change]:
        """Every change of a rule with an id above `after`, in order."""
        with explained(self.path, "cannot read the changes of rules"):
            found = self._db.execute(
                "SELECT id, time, rule_id, change, reason, by_user, by_uid, frontend, line"
                " FROM rule_changes WHERE id > ? ORDER BY id",
                (after,),
            ).fetchall()
        return [Change(*row) for row in found]

    def history(self) -> list[Step]:
        """Every step that changed the rules, in order."""
        return steps(self.changes(), self.records.pruned_before("rules"))

    def undo(
        self,
        step: int | None,
        now: float,
        boot: str,
        *,
        by: str,
        by_uid: int | None = None,
        frontend: str = "",
    ) -> Undone:
        """Take a step back (None: the last that can be), all of it or nothing.

        What it added is retired, what it retired is in force again, under a new id and as old as
        it was; but for rules whose time is over by `now` (epoch seconds), or that were of another
        `boot` or of a session. Raises StoreError where the rules have changed since.
        """
        what = "cannot undo" if step is None else f"cannot undo step {step}"
        with self._write(what, durable=True):
            made = self.changes()
            chosen = choose(self.history(), step, what, self.path)
            author = Author(by, by_uid, frontend)
            return undo.take_back(self._db, self.path, chosen, again(made), now, boot, author)

    def undo_rule(
        self, rule: int, now: float, boot: str, author: Author, *, others: bool
    ) -> tuple[str, ...]:
        """Take the step back that added a rule; gives the lines of those in force again. Raises
        StoreError where the rules have changed since, or, without `others`, somebody else made it.
        """
        what = f"cannot take rule {rule} back"
        with self._write(what, durable=True):
            made = self.changes()
            step = adding(self.history(), rule, None if others else author.by_uid, what, self.path)
            done = undo.take_back(self._db, self.path, step, again(made), now, boot, author)
            lines = {change.rule_id: change.line for change in self.changes(made[-1].id)}
        return tuple(lines[id] for id in done.restored)

    # --- decisions --------------------------------------------------------------------------

    def record(self, records: Iterable[Record | Kept], *, durable: bool = False) -> int:
        """Write decision records, all or none, in one transaction; gives how many. Those without
        an id get the next.

        They survive a crash of arbiter; a power cut may take the last ones, unless they are to be
        `durable` (fsync).
        """
        values = [rows.record_row(record) for record in records]
        with self._write("cannot write decision records", durable=durable):
            covered = (row[: len(chain.DECISIONS.columns)] for row in values)
            made = chain.extend(self._db, self.path, chain.DECISIONS, covered)
            chained = ((id, *row[1:], hash) for row, (id, hash) in zip(values, made, strict=True))
            self._db.executemany(rows.INSERT_RECORD, chained)
        return len(values)

    def decisions(
        self, *, since: float = 0.0, until: float | None = None, app: str = "", limit: int = 1000
    ) -> list[Record]:
        """The newest `limit` records of [since, until) in epoch seconds, newest first."""
        return self.records.newest(since, until, app, limit)

    def undecided(
        self, *, since: float = 0.0, app: str | None = None
    ) -> Iterator[Sighting | Unreadable]:
        """What nobody decided, from epoch second `since` on, in one look through the records.

        `app` "" is what had no owner; None is every app.
        """
        with explained(self.path, "cannot read the decisions"):
            yield from sightings.sightings(self._db, since, None if app is None else utf8(app))

    def uses(self, ids: Iterable[int], since: float, now: float) -> Uses:
        """When these rules came and decided last, and which expired in [since, now] (epoch)."""
        with explained(self.path, "cannot read when rules were used"):
            return uses(self._db, ids, since, now)

    # --- usage ------------------------------------------------------------------------------

    def add_usage(self, batch: Batch) -> None:
        """Add what was used, with the baselines that belong to it, in one transaction.

        It survives a crash of arbiter; a power cut may take the last ones (no fsync), both
        together.
        """
        with self._write("cannot write what was used", durable=False):
            usage.write(self._db, batch)

    def open_flows(self) -> list[OpenFlow]:
        """The flows that ran when `add_usage` was called last: for `Ledger.restore`."""
        with explained(self.path, "cannot read the open connections"):
            return usage.open_flows(self._db)

    def usage(self, since: str = "", until: str = "~") -> list[Used]:
        """What was used on the days of [since, until), as 2026-07-31, day by day.

        `budgets.summed` adds the rows up by link, SIM, app, ...
        """
        with explained(self.path, "cannot read what was used"):
            return usage.usage(self._db, since, until)

    def _write(self, what: str, *, durable: bool) -> AbstractContextManager[None]:
        return writing(self._db, self.path, what, durable=durable)
