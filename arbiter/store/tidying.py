"""When the writer's thread deletes what is old: while nothing else waits, in short steps."""

from __future__ import annotations

import time
from pathlib import Path

from arbiter.store.errors import StoreError
from arbiter.store.retention import Keeping, Plan
from arbiter.store.store import Store

FIRST = 60.0
"""Seconds after the start: then others need the machine."""
AGAIN = 3600.0
"""Seconds between looks, where nothing is left to do or something went wrong."""
REST = 3.0
"""A step is followed by so many times its time for others."""
LOG = 64 * 1024 * 1024
"""Bytes of the write-ahead log above which a reader is in the way: it is emptied at 4 MB else."""


class Tidying:
    """The steps of one writer. Not for more than one thread, but `due` and `problems`."""

    def __init__(self, path: Path, keeping: Keeping | None) -> None:
        self._log = path.with_name(path.name + "-wal")
        self._path, self._keeping = path, keeping
        self.due: float | None = None if keeping is None else time.monotonic() + FIRST
        """Monotonic time of the next step; None for never."""
        self._plan: Plan | None = None
        self._failed = self._held = ""

    def problems(self) -> list[str]:
        """What is wrong now, for people."""
        return [text for text in (self._failed, self._held) if text]

    def step(self, store: Store) -> None:
        """Do a little, and say when to come again."""
        if self._keeping is None:
            return
        started = time.monotonic()
        try:
            if self._plan is None:
                self._plan = store.retention.plan(self._keeping, time.time())
                store.retention.begin()
            more = store.retention.step(self._plan, time.time())
            if not more and self._plan.why == "size":
                more = store.retention.gone > 0  # the next day, if it is too large yet
                self._plan = None
            self._failed = ""
        except StoreError as error:
            more, self._plan = False, None
            self._failed = f"{error} (tried again in an hour)"
        if not more:
            self._plan = None
        ended = time.monotonic()
        self.due = ended + (REST * (ended - started) if more else AGAIN)

    def written(self) -> None:
        """Something was: see whether the log can be emptied."""
        try:
            size = self._log.stat().st_size
        except FileNotFoundError:
            size = 0
        self._held = ""
        if size > LOG:
            self._held = (
                f"the database's log grows: {self._log} has {size // 1_000_000} MB, as a program"
                f" reads for long; end it, it is one of: fuser '{self._path}'"
            )
