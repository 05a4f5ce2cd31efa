"""Profiles on disk: their networks, which one is active, and every switch. For `Store.profiles`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from arbiter.profiles import Book, Profile, Standing, Switch, read_bound, undoable, word
from arbiter.records import utf8
from arbiter.rules.places import profile_fault
from arbiter.rules.words import RuleError, quote
from arbiter.store.errors import UnsuitableError, explained
from arbiter.store.rows import Author
from arbiter.store.transaction import writing

_COLUMNS = "id, time, profile_from, profile_to, why, by_user, by_uid, frontend, undoes"
_UNDONE = "EXISTS (SELECT 1 FROM profile_switches later WHERE later.undoes = profile_switches.id)"
_SELECT = f"SELECT {_COLUMNS}, {_UNDONE} FROM profile_switches"
CHOSEN, REMOVED = "chosen", "it was removed"
_LIST = "see `arbiter profiles list`"


class Profiles:
    """The part of a Store about profiles. Every method raises StoreError; then nothing is done."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db, self._path = db, path

    def _write(self, what: str) -> AbstractContextManager[None]:
        return writing(self._db, self._path, what, durable=True)

    # --- reading ----------------------------------------------------------------------------

    def book(self) -> Book:
        """All of it but the history, by name."""
        with explained(self._path, "cannot read the profiles"):
            return self._book()

    def names(self) -> frozenset[str]:
        """Of every profile."""
        with explained(self._path, "cannot read the profiles"):
            return frozenset(row[0] for row in self._db.execute("SELECT name FROM profiles"))

    def history(self) -> list[Switch]:
        """Every switch, in order."""
        with explained(self._path, "cannot read the profiles"):
            return self._history()

    def _history(self) -> list[Switch]:
        return [_switch(row) for row in self._db.execute(f"{_SELECT} ORDER BY id").fetchall()]

    def _book(self) -> Book:
        names = [row[0] for row in self._db.execute("SELECT name FROM profiles ORDER BY name")]
        rows = self._db.execute("SELECT network, profile FROM profile_networks").fetchall()
        bad = [f"{n!r}: {profile_fault(n) or 'it has no name'}" for n in names if not _good(n)]
        networks: dict[str, list[str]] = {name: [] for name in names if _good(name)}
        for text, name in rows:
            try:
                networks.get(name, []).append(read_bound(text))
            except RuleError as error:
                bad.append(f"network {text!r} of {name!r}: {error}")
        step = "make it anew: `arbiter profiles add`"
        return Book(
            tuple(Profile(name, tuple(sorted(of))) for name, of in networks.items()),
            self._standing(),
            self._last(),
            self._back(names),
            tuple(f"cannot read a profile: {self._path}: {why}; {step}" for why in bad),
        )

    def _standing(self) -> Standing:
        found = self._db.execute(
            "SELECT profile_to, place FROM profile_switches ORDER BY id DESC LIMIT 1"
        ).fetchone()
        if found is None:
            return Standing()
        active, place = found  # a name that nobody could have chosen is none
        kept = place if place is None or _good(place) else ""
        return Standing(active if _good(active) else "", kept)

    def _back(self, names: Iterable[str]) -> bool:
        taken = undoable(self._history())
        return taken is not None and (not taken.before or taken.before in names)

    def _last(self) -> Switch | None:
        row = self._db.execute(f"{_SELECT} ORDER BY id DESC LIMIT 1").fetchone()
        return None if row is None else _switch(row)

    # --- definitions ------------------------------------------------------------------------

    def add(self, name: str, networks: Sequence[str], at: float, author: Author) -> None:
        """A new profile, with its networks; each must be bound to none."""
        what = f"cannot add profile {name}"
        with self._write(what):
            if self._exists(name):
                raise UnsuitableError(what, self._path, "it is there already", _LIST)
            values = (name, at, utf8(author.by), author.by_uid)
            self._db.execute("INSERT INTO profiles VALUES (?, ?, ?, ?)", values)
            self._bind(name, networks, what)

    def bind(self, name: str, networks: Sequence[str]) -> None:
        """More networks; each must be bound to none, or to this profile already."""
        what = f"cannot bind to profile {name}"
        with self._write(what):
            self._require(name, what)
            self._bind(name, networks, what)

    def unbind(self, networks: Sequence[str]) -> dict[str, str]:
        """These networks switch nothing any more; gives the profile that each was bound to."""
        what = "cannot unbind"
        bound: dict[str, str] = {}
        with self._write(what):
            for network in networks:
                bound[network] = self._bound_to(network)
                if not bound[network]:
                    why = f"{quote(network)} is bound to no profile"
                    raise UnsuitableError(what, self._path, why, _LIST)
            for network in networks:
                delete = "DELETE FROM profile_networks WHERE network = ?"
                self._db.execute(delete, (quote(network),))
        return bound

    def remove(self, name: str, at: float, author: Author) -> bool:
        """Take a profile away with its bindings; True if it was active: then none is."""
        what = f"cannot remove profile {name}"
        with self._write(what):
            self._require(name, what)
            self._db.execute("DELETE FROM profile_networks WHERE profile = ?", (name,))
            self._db.execute("DELETE FROM profiles WHERE name = ?", (name,))
            standing = self._standing()
            place = "" if standing.place == name else standing.place
            if standing.active == name:
                self._put(at, name, "", REMOVED, author, place)
            elif place != standing.place:
                self._keep_place(place)
        return standing.active == name

    def _exists(self, name: str) -> bool:
        found = self._db.execute("SELECT 1 FROM profiles WHERE name = ?", (name,)).fetchone()
        return found is not None

    def _require(self, name: str, what: str) -> None:
        if not self._exists(name):
            raise UnsuitableError(what, self._path, "there is no such profile", _LIST)

    def _bound_to(self, network: str) -> str:
        select = "SELECT profile FROM profile_networks WHERE network = ?"
        found = self._db.execute(select, (quote(network),)).fetchone()
        return str(found[0]) if found else ""

    def _bind(self, name: str, networks: Iterable[str], what: str) -> None:
        for network in networks:
            other = self._bound_to(network)
            if other and other != name:
                why = f"{quote(network)} is bound to profile {other}"
                step = f"first: arbiter profiles unbind {quote(network)}"
                raise UnsuitableError(what, self._path, why, step)
            if not other:
                values = (quote(network), name)
                self._db.execute("INSERT INTO profile_networks VALUES (?, ?)", values)

    # --- switching --------------------------------------------------------------------------

    def use(self, name: str, at: float, author: Author) -> Switch | None:
        """A person wants this profile, "" for none; None where it is the active one already."""
        what = f"cannot use profile {word(name)}"
        with self._write(what):
            if name:
                self._require(name, what)
            before = self._standing().active
            if before == name:
                return None
            return self._put(at, before, name, CHOSEN, author, None)

    def undo(self, at: float, author: Author) -> Switch:
        """Go back to the profile before the last switch that nobody took back."""
        what = "cannot go back to another profile"
        step = "see `arbiter profiles history`"
        with self._write(what):
            taken = undoable(self._history())
            if taken is None:
                raise UnsuitableError(what, self._path, "there is nothing to undo", step)
            if taken.before and not self._exists(taken.before):
                why = f"there is no profile {taken.before} any more"
                raise UnsuitableError(what, self._path, why, step)
            before = self._standing().active
            why = f"undo of switch {taken.id}"
            return self._put(at, before, taken.before, why, author, None, taken.id)

    def keep(self, before: str, standing: Standing, why: str, at: float, author: Author) -> bool:
        """Write down where the machine is and, with a `why`, the switch that this means.

        False, and nothing is written, where `before` is not the active profile any more.
        """
        with self._write("cannot keep which profile is active"):
            if self._standing().active != before or (why and not self._exists(standing.active)):
                return False
            if why:
                self._put(at, before, standing.active, why, author, standing.place)
            else:
                self._keep_place(standing.place)
        return True

    def _keep_place(self, place: str | None) -> None:
        last = "(SELECT max(id) FROM profile_switches)"
        self._db.execute(f"UPDATE profile_switches SET place = ? WHERE id = {last}", (place,))

    def _put(
        self,
        at: float,
        before: str,
        after: str,
        why: str,
        author: Author,
        place: str | None,
        undoes: int | None = None,
    ) -> Switch:
        by = (utf8(author.by), author.by_uid, utf8(author.frontend))
        values = (at, before, after, utf8(why), *by, undoes, place)
        self._db.execute(
            "INSERT INTO profile_switches (time, profile_from, profile_to, why, by_user, by_uid,"
            " frontend, undoes, place) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        last = self._last()
        assert last is not None
        return last


def _switch(row: tuple[Any, ...]) -> Switch:
    return Switch(*(*row[:-1], bool(row[-1])))


def _good(name: str) -> bool:
    return bool(name) and not profile_fault(name)
