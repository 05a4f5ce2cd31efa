"""What is told outside: a connection was decided, one has ended, some could not be told. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from arbiter.model import Action
from arbiter.records import Progress, Record
from arbiter.recordwords import as_object, became, sentence


class Decided(Struct, frozen=True):
    """A connection was decided, and this is its record."""

    id: int
    record: Record

    kind = "decided"

    @property
    def values(self) -> dict[str, Any]:
        """Every key of the record, as `arbiter audit --nl` has them."""
        return as_object(self.id, self.record)

    @property
    def text(self) -> str:
        """In a line, for people."""
        return sentence(self.id, self.record)

    @property
    def time(self) -> float:
        """Epoch seconds."""
        return self.record.time

    @property
    def refused(self) -> bool:
        """Whether somebody may want to look at it."""
        return self.record.decision == Action.DENY.value


class Ended(Struct, frozen=True):
    """A connection has ended, or is gone. `record` is complete; None where it is not known any
    more: then only what it came to is told."""

    progress: Progress
    time: float
    """Epoch seconds at which it was told."""
    record: Record | None = None

    kind = "ended"
    refused = False

    @property
    def id(self) -> int:
        """That of its record."""
        return self.progress.id

    @property
    def values(self) -> dict[str, Any]:
        """The keys of its record, or of what became of it."""
        if self.record is not None:
            return as_object(self.id, self.record)
        names = self.progress.__struct_fields__
        return {name: getattr(self.progress, name) for name in names}

    @property
    def text(self) -> str:
        """In a line, for people."""
        if self.record is not None:
            return f"{sentence(self.id, self.record)}; {became(self.record)}"
        return f"{self.id}: {became(_only(self.progress))}"


class Lost(Struct, frozen=True):
    """So many items of [since, until] in epoch seconds were not told: there was no room."""

    count: int
    since: float
    until: float

    kind = "lost"
    refused = True

    @property
    def values(self) -> dict[str, Any]:
        """Its keys."""
        return {"count": self.count, "since": self.since, "until": self.until}

    @property
    def text(self) -> str:
        """In a line, for people."""
        return f"{self.count} records were lost on the way here: look in the database"

    @property
    def time(self) -> float:
        """Epoch seconds."""
        return self.until


Item = Decided | Ended | Lost


def _only(progress: Progress) -> Record:
    """A record of nothing but what became of it."""
    return Record(
        time=0.0,
        decision="",
        reason="",
        state=progress.state or "",
        out_bytes=progress.out_bytes,
        in_bytes=progress.in_bytes,
    )
