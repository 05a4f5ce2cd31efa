"""The thread between the daemon and one target: a bounded queue, retries, and honest losses."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from arbiter.sinks.items import Item, Lost

BOUND = 10_000
"""Items that wait at most; more are lost, and counted."""
RETRY_SECONDS = (0.5, 30.0)
"""The first and the longest pause after a failure; it doubles between."""
PATIENCE = 2.0
"""Seconds that the end waits for a target."""

Make = Callable[[], Item]


class Target(Protocol):
    """What takes records. It is used by one thread."""

    most: int
    """Items that `send` takes at once."""
    where: str
    """What it is, for people."""
    step: str
    """What to do where it fails."""

    def begin(self) -> None:
        """Raises OSError where it is clear before the first item that none will arrive."""

    def render(self, item: Item) -> bytes:
        """An item in its form."""

    def send(self, items: Sequence[bytes]) -> int:
        """Pass the first items on, one at least; gives how many. OSError: none was; it is closed
        then, and is to open itself again."""

    def close(self) -> None:
        """Let go what is open."""


class Sink:
    """Every method may be called from any thread, and none but `close` waits for the target."""

    def __init__(
        self,
        target: Target,
        told: Callable[[str], None],
        *,
        bound: int = BOUND,
        retry: tuple[float, float] = RETRY_SECONDS,
    ) -> None:
        """`told` hears, in the thread, when the target begins to fail and when it works again."""
        self._target, self._told, self._bound, self._retry = target, told, bound, retry
        self._wake = threading.Condition()
        # All below belong to _wake.
        self._queue: deque[Make] = deque()
        self._in_flight = 0
        self._missing: Lost | None = None  # what no item in the queue tells yet
        self._problem = ""
        self._closing = False
        self.lost = 0
        """Items that never reached the target."""
        self._thread = threading.Thread(target=self._run, name="arbiter-sink", daemon=True)
        self._thread.start()

    # --- any thread -------------------------------------------------------------------------

    def give(self, items: Iterable[Make]) -> None:
        """Pass items on, soon; each is made in the thread."""
        with self._wake:
            for make in items:
                if self._closing or len(self._queue) + self._in_flight >= self._bound:
                    self._lose(1)
                    continue
                self._tell_missing()
                self._queue.append(make)
            self._wake.notify()

    def problems(self) -> tuple[str, ...]:
        """What is wrong now, with its next step; empty when all is well."""
        with self._wake:
            lost = f"{self.lost} were lost" if self.lost else ""
            if self._problem:
                waiting = len(self._queue) + self._in_flight
                counts = ", ".join(part for part in (f"{waiting} wait in memory", lost) if part)
                return (f"{self._problem} ({counts})",)
            where = self._target.where
            return (
                f"records did not reach {where}: {lost}: look for them in `arbiter audit`",
            ) * bool(lost)

    def close(self) -> None:
        """Pass on what waits, for PATIENCE seconds at most and with one try; the rest is lost."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(PATIENCE)
        with self._wake:
            if self._thread.is_alive():
                self._lose(len(self._queue) + self._in_flight)

    def _lose(self, count: int) -> None:
        """So many more; with the lock held."""
        if count:
            now, missing = time.time(), self._missing
            self.lost += count
            since = now if missing is None else missing.since
            self._missing = Lost(count + (missing.count if missing else 0), since, now)

    def _tell_missing(self) -> None:
        """What is missing stands where it is missing; with the lock held."""
        if self._missing is not None:
            self._queue.append(_as_it_is(self._missing))
            self._missing = None

    # --- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        where = self._target.where
        broken = f"nothing goes to {where} any more: its thread broke down, the log says where"
        try:
            self._begin()
            while self._turn():
                pass
            broken = ""
        finally:
            with self._wake:
                self._closing = True
                self._problem = broken or self._problem
                self._lose(len(self._queue) + self._in_flight)
                self._queue.clear()
                self._in_flight = 0
            self._target.close()

    def _begin(self) -> None:
        try:
            self._target.begin()
        except OSError as error:
            self._target.close()
            self._says(error)

    def _turn(self) -> bool:
        """Pass one batch on; False at the end."""
        with self._wake:
            while not (self._queue or self._missing or self._closing):
                self._wake.wait()
            if not self._queue and not self._closing:
                self._tell_missing()
            size = min(len(self._queue), self._target.most)
            taken = [self._queue.popleft() for _ in range(size)]
            self._in_flight = size
            if not taken:
                return False
        batch = [self._target.render(make()) for make in taken]
        pause = 0.0
        while batch:
            try:
                del batch[: self._target.send(batch)]
            except OSError as error:
                self._target.close()
                pause = min(pause * 2, self._retry[1]) if pause else self._retry[0]
                if not self._failed(error, pause):
                    return False
            else:
                pause = 0.0
                with self._wake:
                    self._in_flight = len(batch)
        self._works()
        return True

    def _failed(self, error: OSError, pause: float) -> bool:
        """Say so, and wait; False where there is no time to try again."""
        self._says(error)
        end = time.monotonic() + pause
        with self._wake:
            while not self._closing and (left := end - time.monotonic()) > 0:
                self._wake.wait(left)
            return not self._closing

    def _says(self, error: OSError) -> None:
        target = self._target
        problem = f"records do not reach {target.where}: {error.strerror or error}; {target.step}"
        if problem != self._problem:
            self._told(problem)
        with self._wake:
            self._problem = problem

    def _works(self) -> None:
        if self._problem:
            with self._wake:
                self._problem = ""
            lost = f" ({self.lost} were lost so far)" if self.lost else ""
            self._told(f"records reach {self._target.where} again{lost}")


def _as_it_is(item: Item) -> Make:
    return lambda: item
