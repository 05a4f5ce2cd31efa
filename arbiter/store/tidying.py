"""When the writer's thread deletes what is old: while nothing else waits, in short steps."""

from __future__ import annotations

import math
import time

from arbiter.store.errors import StoreError
from arbiter.store.retention import Keeping, Plan
from arbiter.store.store import Store

FIRST = 60.0
"""Seconds after the start: then others need the machine."""
AGAIN = 3600.0
"""Seconds between looks, where nothing is left to do or something went wrong."""
REST = 3.0
"""A step is followed by so many times its time for others."""


class Tidying:
    """The steps of one writer. Not for more than one thread, but `keep`, `due` and `problems`."""

    def __init__(self, keeping: Keeping | None) -> None:
        self._keeping = keeping
        self.due = math.inf if keeping is None else time.monotonic() + FIRST
        """Monotonic time of the next step; infinity for never."""
        self._plan: Plan | None = None
        self._by = keeping
        """What the plan was made by."""
        self._failed = ""

    def keep(self, keeping: Keeping) -> None:
        """Go by another wish from the next step on, which is due. From any thread."""
        if keeping != self._keeping:
            self._keeping = keeping
            self.due = time.monotonic()

    def problems(self) -> list[str]:
        """What is wrong now, for people."""
        return [self._failed] if self._failed else []

    def pause(self, other: float | None) -> float | None:
        """Seconds until something is due: a step, or what is due at this moment (None: nothing)."""
        due = self.due if other is None else min(self.due, other)
        return None if due == math.inf else due - time.monotonic()

    def step(self, store: Store) -> bool:
        """Do a little, and say when to come again. Gives True: the thread goes on."""
        keeping = self._keeping
        assert keeping is not None, "nothing is ever due"
        started = time.monotonic()
        try:
            if self._plan is None or self._by is not keeping:
                self._plan, self._by = store.retention.plan(keeping, time.time()), keeping
                store.retention.begin()
            more = store.retention.step(self._plan, time.time())
            if not more and self._plan.why == "size":
                more = store.retention.gone["decisions"] > 0  # the next day, if it is too large yet
                self._plan = None
            self._failed = ""
        except StoreError as error:
            more, self._plan = False, None
            self._failed = f"{error} (tried again in an hour)"
        if not more:
            self._plan = None
        ended = time.monotonic()
        if self._keeping is keeping:  # else it is due at once
            self.due = ended + (REST * (ended - started) if more else AGAIN)
        return True
