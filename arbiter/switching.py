"""The active profile, kept true: as links change, as a person chooses, and told. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from arbiter.events import Effect, KeepProfile, Notify
from arbiter.model import Link
from arbiter.profiles import Book, Standing, look
from arbiter.protocol import clean

BACK = "`arbiter profiles undo` goes back"


class Switching:
    """What is known of profiles. Only the pipeline changes it."""

    def __init__(self) -> None:
        self.book = Book()
        self.standing = Standing()
        self._bound = self.book.bound()
        self._read = False
        """Whether the store's word has come: the first is no news."""

    @property
    def active(self) -> str:
        """The name of the active profile; "" for none."""
        return self.standing.active

    def read(self, book: Book) -> list[Effect]:
        """The store says so: definitions, and the last word on which is active."""
        before, last = self.active, book.last
        self.book, self.standing, self._bound = book, book.standing, book.bound()
        if not self._read or self.active == before:
            self._read = True
            return []
        why = clean(f"{last.why} by {last.by}", 200) if last else ""
        return _told(self.active, why, back=book.back)

    def look(self, links: Iterable[Link]) -> list[Effect]:
        """These are the links, the most preferred first: does another profile follow?"""
        before, found = self.standing, look(self._bound, self.standing, links)
        self.standing = found.standing
        if found.standing == before:
            return []
        kept = KeepProfile(before.active, found.standing, found.why)
        return [kept, *(_told(self.active, found.why, back=True) if found.why else [])]


def _told(name: str, why: str, *, back: bool) -> list[Effect]:
    said = f"profile {name}" if name else "no profile is active"
    return [Notify(None, f"{said}: {why}" + (f"; {BACK}" if back else ""))]
