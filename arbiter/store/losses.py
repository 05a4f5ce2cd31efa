"""What could not be written: counted and told; records are written down as a gap. Pure."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from arbiter.usage import Batch


class Gap(Struct, frozen=True):
    """So many records of [since, until] in epoch seconds are missing."""

    since: float
    until: float
    count: int
    why: str


class Losses:
    """What was lost since the start, and the part of it that no gap in the database tells yet."""

    def __init__(self) -> None:
        self.count = 0
        """Records that were never written."""
        self.incomplete = 0
        """Times that what became of a connection could not be written."""
        self.bytes = 0
        """Bytes that were used, and are in no account."""
        self._why_bytes = ""
        self.gap: Gap | None = None

    def add_usage(self, batch: Batch, why: str) -> None:
        """So much was used, and is not stored."""
        if count := sum(used.size for used in batch.used):
            self.bytes += count
            self._why_bytes = why

    def add(self, count: int, now: float, why: str) -> None:
        """So many more, at this epoch second."""
        self.count += count
        gap = self.gap
        if gap is None:
            self.gap = Gap(now, now, count, why)
        else:
            self.gap = Gap(gap.since, max(gap.until, now), gap.count + count, why)

    def told(self, gap: Gap) -> None:
        """The database has this gap; what was lost while it was written is one of its own."""
        left = self.gap.count - gap.count if self.gap is not None else 0
        if self.gap is not None and left:
            self.gap = Gap(gap.until, self.gap.until, left, self.gap.why)
        else:
            self.gap = None

    def problems(self, path: Path) -> list[str]:
        """What is lost, for people."""
        found = []
        if self.count:
            found.append(
                f"decision records were lost: {path}: {self.count} found no room while the"
                " database could not be written; the decisions themselves were carried out"
            )
        if self.incomplete:
            found.append(
                f"decision records are incomplete: {path}: what became of {self.incomplete}"
                " connections found no room while the database could not be written"
            )
        if self.bytes:
            found.append(
                f"{self.bytes} bytes that were used are not counted: {path}: {self._why_bytes};"
                " budgets have less left than is shown"
            )
        return found
