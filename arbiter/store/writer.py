"""The thread that writes: rules at once and for good, decision records and usage in batches.

Records wait in memory, at most `bound` of them; where the database fails the batch is kept and
tried again, later each time. With nothing to write the thread sleeps, but for tidying.py.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from arbiter.records import Progress, Record
from arbiter.store.asked import Asked
from arbiter.store.database import OpenFile, log_problems
from arbiter.store.errors import ClosedError, StoreError, UnstorableError
from arbiter.store.jobs import Job
from arbiter.store.losses import Losses
from arbiter.store.retention import Keeping
from arbiter.store.rows import Kept
from arbiter.store.store import Store
from arbiter.store.tidying import Tidying
from arbiter.usage import Batch, Pending

FLUSH_SECONDS = 0.5
FLUSH_RECORDS = 500
BOUND = 10_000
"""Records kept in memory; more are lost, and counted."""
NO_ROOM = "the database could not be written, and there was no room for more in memory"
UNSTORABLE = "no database would take them"
SKIPPED = "numbers were given to records that have others"
RETRY_SECONDS = (0.5, 30.0)
"""The first and the longest pause after a failed batch; it doubles between."""

T = TypeVar("T")
Made = Record | Kept
"""A record, with its id where the daemon gave it one."""
_Awaited = tuple[int, Future[bool]]
"""Done once so many records, of all that were ever taken, are written or lost."""


class Writer(Asked):
    """Owns a connection in a thread of its own. Every method may be called from any thread."""

    def __init__(
        self,
        path: str | Path,
        *,
        busy: float = 5.0,
        bound: int = BOUND,
        retry: tuple[float, float] = RETRY_SECONDS,
        told: Callable[[str], None] = lambda text: None,
        keeping: Keeping | None = None,
    ) -> None:
        """Open the database (see Store.open) and start the thread. Raises StoreError.

        `told` hears, in that thread, when records cannot be written and when they can again;
        `keeping` None deletes nothing.
        """
        self.path = Path(path)
        self._told = told
        self._busy, self._bound, self._retry = busy, bound, retry
        self._wake = threading.Condition()
        self._tidying = Tidying(keeping)
        # All below belong to _wake.
        self._jobs: deque[Job[Any]] = deque()
        self._records: deque[Made | Callable[[], Made]] = deque()
        self._progress: dict[int, Progress] = {}
        self._losses = Losses()
        self._usage = Pending()
        self._due: float | None = None  # monotonic time of the next flush; None with nothing
        self._pause = 0.0  # after a failed flush: how long until the next
        self._closing = False
        self._problem = ""
        self._in_flight = 0  # the length of _batch
        self._given = 0  # records that were ever taken
        self._awaited: deque[_Awaited] = deque()
        # The thread's own: a batch stays one until it is written.
        self._batch: list[Made] = []
        self._error: StoreError | None = None  # of the last flush that failed
        opened: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(opened,), name="arbiter-store", daemon=True
        )
        self._thread.start()
        opened.result()

    # --- any thread -------------------------------------------------------------------------

    def record(self, record: Made | Callable[[], Made]) -> None:
        """Write a record soon. Never waits for the database, and never fails.

        A callable is called in the writer's thread, to keep its work off the caller's path.
        """
        with self._wake:
            if self._closing or len(self._records) + self._in_flight >= self._bound:
                self._losses.add(1, time.time(), NO_ROOM)
                return
            self._records.append(record)
            self._given += 1
            if self._due is None:
                self._due = time.monotonic() + FLUSH_SECONDS
                self._wake.notify()
            elif len(self._records) == FLUSH_RECORDS and not self._pause:
                self._due = 0.0
                self._wake.notify()

    def skipped(self) -> None:
        """Ids were given that no record will have, as theirs got others: that is written down as a
        gap of no records, or `verify` would miss them. Never waits, and never fails."""
        with self._wake:
            self._losses.add(0, time.time(), SKIPPED)
            if self._due is None:
                self._due = time.monotonic() + FLUSH_SECONDS
                self._wake.notify()

    def write_first(self, makes: Sequence[Callable[[], Kept]]) -> Future[int]:
        """Write records, all or none; they are on disk when the future is done (fsync). It raises
        StoreError. They are made in the writer's thread.

        What waits is written before, or nothing is: the ids of records grow.
        """
        return self._submit(partial(self._write_first, makes))

    def complete(self, progress: Iterable[Progress]) -> None:
        """As Store.lives.complete, soon, and after the records that were given before. Never waits
        for the database, and never fails; what there is no room for stays as the record was."""
        with self._wake:
            for one in progress:
                if self._closing or (
                    len(self._progress) >= self._bound and one.id not in self._progress
                ):
                    self._losses.incomplete += 1
                else:
                    self._progress[one.id] = one
            if self._due is None and self._progress:
                self._due = time.monotonic() + FLUSH_SECONDS
                self._wake.notify()

    def written(self) -> Future[bool]:
        """True once the records that were given before are on disk; False where the database takes
        none now: they wait, and `problems` tells it."""
        future: Future[bool] = Future()
        future.set_running_or_notify_cancel()  # nobody can cancel it now
        with self._wake:
            waits = bool(self._records or self._in_flight)
            able = not (self._closing or self._pause)
            if waits and able:
                self._awaited.append((self._given, future))
                self._due = 0.0
                self._wake.notify()
        if not (waits and able):
            future.set_result(not waits)
        return future

    @property
    def lost(self) -> int:
        """Records that were never written, since the start."""
        return self._losses.count

    def add_usage(self, batch: Batch) -> None:
        """As Store.add_usage, soon. Never waits for the database, and never fails.

        While the database fails batches are merged: they take no more memory than accounts and
        flows that there are.
        """
        with self._wake:
            if self._closing:
                self._losses.add_usage(batch, "the writer has ended")
                return
            self._usage.add(batch)
            if self._due is None and self._usage:
                self._due = time.monotonic() + FLUSH_SECONDS
                self._wake.notify()

    def problems(self) -> tuple[str, ...]:
        """What is wrong now, each with its next step; empty when all is well."""
        with self._wake:
            found = [self._problem] if self._problem else []
            found.extend(self._losses.problems(self.path))
        return (*found, *self._tidying.problems(), *log_problems(self.path))

    def close(self) -> None:
        """Do what was asked before, write the records (one try), end the thread, and wait for it.

        Records that cannot be written are lost, and counted; `problems` still answers.
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _submit(self, work: Callable[[Store], T]) -> Future[T]:
        """Have the thread do it, in turn."""
        job = Job(partial(self._checked, work))
        with self._wake:
            if not self._closing:
                self._jobs.append(job)
                self._wake.notify()
                return job.future
        job.refuse(self._closed())
        return job.future

    def _checked(self, work: Callable[[Store], T], store: Store) -> T:
        self._file.check()
        return work(store)

    def _closed(self) -> ClosedError:
        return ClosedError(
            "cannot change the rules", self.path, "the writer has ended", "start arbiter again"
        )

    # --- the writer's thread ----------------------------------------------------------------

    def _run(self, opened: Future[None]) -> None:
        try:
            store = Store.open(self.path, busy=self._busy)
        except StoreError as error:
            self._stop()
            opened.set_exception(error)
            return
        self._file = OpenFile(self.path)
        opened.set_result(None)
        problem = (
            f"nothing is stored any more: {self.path}: the writer thread broke down;"
            " its traceback is in the journal; restart arbiter, and report this"
        )
        try:
            with store:
                while self._turn(store):
                    pass
            problem = ""
        finally:
            self._stop(problem)

    def _turn(self, store: Store) -> bool:
        """Wait for something to do, and do it; False at the end."""
        with self._wake:
            while not (self._jobs or self._closing):
                left = self._tidying.pause(self._due)
                if left is not None and left <= 0:
                    break
                self._wake.wait(left)
            job = self._jobs.popleft() if self._jobs else None
            closing = self._closing
            flush = closing or (self._due is not None and self._due <= time.monotonic())
        if job is not None:
            # A person waits for this; the records can wait until no job does.
            try:
                job.run(store)
            finally:
                job.refuse(self._closed())  # of effect only where run() broke down
            with self._wake:
                if self._due is not None and not self._pause:
                    self._due = 0.0
            return True
        if not flush:
            return self._tidying.step(store)
        flushed = self._flush(store)
        return not closing or (flushed and self._due is not None)

    def _flush(self, store: Store) -> bool:
        """Write usage and one batch of records; False where it failed, and is kept."""
        if not self._batch:
            with self._wake:
                size = min(len(self._records), FLUSH_RECORDS)
                taken = [self._records.popleft() for _ in range(size)]
                self._in_flight = size
            self._batch = [made() if callable(made) else made for made in taken]
        with self._wake:
            usage = self._usage.take()
            # Those of records that still wait would find no row.
            progress = {} if self._records else self._progress
            self._progress = self._progress if self._records else {}
        try:
            self._file.check()
            self._write_usage(store, usage)
            usage = Batch()
            self._write(store)
            self._write_progress(store, progress)
            progress = {}
            self._write_gap(store)
        except StoreError as error:
            self._error = error
            with self._wake:
                self._in_flight = len(self._batch)
                self._progress = progress | self._progress
                later = self._usage.take()
                self._usage.add(usage)
                self._usage.add(later)
                first, longest = self._retry
                self._pause = min(self._pause * 2, longest) if self._pause else first
                self._due = time.monotonic() + self._pause
                waiting = len(self._records) + self._in_flight
                first_time = not self._problem
                self._problem = f"{error} ({waiting} decision records wait in memory)"
                given_up, self._awaited = self._awaited, deque()
            for _, future in given_up:
                future.set_result(False)
            if first_time:
                self._told(f"nothing can be written down: {error}")
            return False
        told: list[_Awaited] = []
        with self._wake:
            again = bool(self._problem)
            self._in_flight, self._pause, self._problem = 0, 0.0, ""
            left = len(self._records)
            while self._awaited and self._awaited[0][0] <= self._given - left:
                told.append(self._awaited.popleft())
            wait = 0.0 if left >= FLUSH_RECORDS else FLUSH_SECONDS
            more = left or self._usage or self._progress or self._losses.gap
            wait = 0.0 if self._awaited else wait
            self._due = time.monotonic() + wait if more else None
        for _, future in told:
            future.set_result(True)
        if again:
            self._told("what was decided is written down again")
        return True

    def _write_first(self, makes: Sequence[Callable[[], Kept]], store: Store) -> int:
        """By the thread. Raises StoreError."""
        while self._records or self._batch:  # what comes meanwhile comes from the same loop
            if not self._flush(store):
                assert self._error is not None, "it failed"
                raise self._error
        return store.record([make() for make in makes], durable=True)

    def _write_usage(self, store: Store, usage: Batch) -> None:
        """Write what was used, all of it or nothing."""
        if not (usage.used or usage.open or usage.closed):
            return
        try:
            store.add_usage(usage)
        except UnstorableError as error:
            with self._wake:  # it would fail for ever, and hold up everything behind it
                self._losses.add_usage(usage, str(error))

    def _write(self, store: Store) -> None:
        """Write the batch. What no database would take is counted as lost."""
        try:
            store.record(self._batch)
        except UnstorableError:
            while self._batch:
                self._write_one(store)  # and forget it: what is written must not be tried again
                del self._batch[0]
        self._batch = []

    def _write_one(self, store: Store) -> None:
        try:
            store.record(self._batch[:1])
        except UnstorableError:
            [made] = self._batch[:1]
            plain = made.record if isinstance(made, Kept) else made
            with self._wake:
                self._losses.add(1, plain.time or time.time(), UNSTORABLE)

    def _write_progress(self, store: Store, progress: dict[int, Progress]) -> None:
        """Complete records, all of it or nothing."""
        if not progress:
            return
        try:
            store.lives.complete(progress.values())
        except UnstorableError:
            with self._wake:
                self._losses.incomplete += len(progress)

    def _write_gap(self, store: Store) -> None:
        """What is missing is written down as soon as anything can be written."""
        with self._wake:
            gap = self._losses.gap
        if gap is not None:
            store.lives.gap(gap.since, gap.until, gap.count, gap.why)
            with self._wake:
                self._losses.told(gap)

    def _stop(self, problem: str = "") -> None:
        """Nobody may wait for a thread that has ended."""
        with self._wake:
            self._closing = True
            self._problem = problem or self._problem
            jobs, self._jobs = self._jobs, deque()
            if missing := len(self._records) + self._in_flight:
                self._losses.add(missing, time.time(), NO_ROOM)
            self._losses.incomplete += len(self._progress)
            self._records.clear()
            self._progress.clear()
            self._in_flight = 0
            why = "the database could not be written by the end"
            self._losses.add_usage(self._usage.take(), why)
            told, self._awaited = self._awaited, deque()
        for _, future in told:
            future.set_result(False)
        for job in jobs:
            job.refuse(self._closed())
