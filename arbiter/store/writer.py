"""The thread that writes: rules at once and for good, decision records and usage in batches.

Records wait in memory, at most `bound` of them; where the database fails the batch is kept and
tried again, later each time. With nothing to write the thread sleeps without a timeout.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Generic, TypeVar

from arbiter.profiles import Book, Standing
from arbiter.records import Record
from arbiter.rules.rule import Entry, Layer, Rule
from arbiter.store.errors import ClosedError, StoreError, UnstorableError
from arbiter.store.rows import Author, Remembered
from arbiter.store.store import Store
from arbiter.usage import Batch, OpenFlow, Pending, Used

FLUSH_SECONDS = 0.5
FLUSH_RECORDS = 500
BOUND = 10_000
"""Records kept in memory; more are lost, and counted."""
RETRY_SECONDS = (0.5, 30.0)
"""The first and the longest pause after a failed batch; it doubles between."""

T = TypeVar("T")


class _Job(Generic[T]):
    """Work for the thread, and the future that its caller holds."""

    def __init__(self, work: Callable[[Store], T]) -> None:
        self.future: Future[T] = Future()
        self._work = work

    def run(self, store: Store) -> None:
        if not self.future.set_running_or_notify_cancel():
            return  # cancelled while it waited
        try:
            result = self._work(store)
        except (StoreError, ValueError) as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def refuse(self, error: StoreError) -> None:
        if self.future.cancelled() or self.future.done():
            return
        self.future.set_exception(error)


class Writer:
    """Owns a connection in a thread of its own. Every method may be called from any thread."""

    def __init__(
        self,
        path: str | Path,
        *,
        busy: float = 5.0,
        bound: int = BOUND,
        retry: tuple[float, float] = RETRY_SECONDS,
    ) -> None:
        """Open the database (see Store.open) and start the thread. Raises StoreError."""
        self.path = Path(path)
        self.lost = 0
        """Records that were never written, since the start."""
        self._busy, self._bound, self._retry = busy, bound, retry
        self._wake = threading.Condition()
        # All below belong to _wake.
        self._jobs: deque[_Job[Any]] = deque()
        self._records: deque[Record | Callable[[], Record]] = deque()
        self._usage = Pending()
        self._due: float | None = None  # monotonic time of the next flush; None with nothing
        self._pause = 0.0  # after a failed flush: how long until the next
        self._closing = False
        self._problem = ""
        self._usage_problem = ""
        self._bytes_lost = 0
        self._in_flight = 0  # the length of _batch
        # The thread's own: a batch stays one until it is written.
        self._batch: list[Record] = []
        opened: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(opened,), name="arbiter-store", daemon=True
        )
        self._thread.start()
        opened.result()

    # --- any thread -------------------------------------------------------------------------

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
    ) -> Future[Remembered]:
        """As Store.remember; the future is done when the rule is on disk, or failed for good."""
        return self._submit(
            lambda store: store.remember(
                rule,
                layer=layer,
                by=by,
                by_uid=by_uid,
                frontend=frontend,
                created=created,
                expires=expires,
                process=process,
                boot=boot,
                session=session,
                replace_others=replace_others,
            )
        )

    def retire(
        self,
        ids: Iterable[int],
        reason: str,
        at: float,
        *,
        by: str = "arbiter",
        by_uid: int | None = None,
        frontend: str = "",
    ) -> Future[tuple[int, ...]]:
        """As Store.retire."""
        kept = tuple(ids)
        return self._submit(
            lambda store: store.retire(kept, reason, at, by=by, by_uid=by_uid, frontend=frontend)
        )

    def sweep(self, now: float, boot: str, session: str) -> Future[tuple[int, ...]]:
        """As Store.sweep."""
        return self._submit(lambda store: store.sweep(now, boot, session))

    def rules(
        self, now: float, boot: str, session: str
    ) -> Future[tuple[list[Entry], tuple[str, ...]]]:
        """As Store.rules, after every change asked for before; with what was unreadable."""
        return self._submit(lambda store: (store.rules(now, boot, session), store.unreadable))

    def undo_rule(
        self,
        rule: int,
        now: float,
        boot: str,
        *,
        by: str,
        by_uid: int | None,
        frontend: str,
        others: bool,
    ) -> Future[tuple[str, ...]]:
        """As Store.undo_rule."""
        author = Author(by, by_uid, frontend)
        return self._submit(lambda store: store.undo_rule(rule, now, boot, author, others=others))

    def last_change(self) -> Future[int]:
        """As Store.last_change."""
        return self._submit(lambda store: store.last_change())

    def profiles(self) -> Future[Book]:
        """As Store.profiles.book, after every change asked for before."""
        return self._submit(lambda store: store.profiles.book())

    def keep_profile(self, before: str, standing: Standing, why: str, at: float) -> Future[bool]:
        """As Store.profiles.keep; arbiter itself is its author."""
        author = Author("arbiter")
        return self._submit(lambda store: store.profiles.keep(before, standing, why, at, author))

    def record(self, record: Record | Callable[[], Record]) -> None:
        """Write a record soon. Never waits for the database, and never fails.

        A callable is called in the writer's thread, to keep its work off the caller's path.
        """
        with self._wake:
            if self._closing or len(self._records) + self._in_flight >= self._bound:
                self.lost += 1
                return
            self._records.append(record)
            if self._due is None:
                self._due = time.monotonic() + FLUSH_SECONDS
                self._wake.notify()
            elif len(self._records) == FLUSH_RECORDS and not self._pause:
                self._due = 0.0
                self._wake.notify()

    def add_usage(self, batch: Batch) -> None:
        """As Store.add_usage, soon. Never waits for the database, and never fails.

        While the database fails batches are merged: they take no more memory than accounts and
        flows that there are.
        """
        with self._wake:
            if self._closing:
                self._lose_usage(batch, "the writer has ended")
                return
            self._usage.add(batch)
            if self._due is None and self._usage:
                self._due = time.monotonic() + FLUSH_SECONDS
                self._wake.notify()

    def open_flows(self) -> Future[list[OpenFlow]]:
        """As Store.open_flows."""
        return self._submit(lambda store: store.open_flows())

    def usage(self, since: str) -> Future[list[Used]]:
        """As Store.usage, from the day `since` on; what waits here is not in it."""
        return self._submit(lambda store: store.usage(since))

    def problems(self) -> tuple[str, ...]:
        """What is wrong now, each with its next step; empty when all is well."""
        with self._wake:
            found = [self._problem] if self._problem else []
            if self.lost:
                found.append(
                    f"decision records were lost: {self.path}: {self.lost} found no room while the"
                    " database could not be written; the decisions themselves were carried out"
                )
            if self._usage_problem:
                found.append(self._usage_problem)
            return tuple(found)

    def close(self) -> None:
        """Do what was asked before, write the records (one try), end the thread, and wait for it.

        Records that cannot be written are lost, and counted; `problems` still answers.
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _submit(self, work: Callable[[Store], T]) -> Future[T]:
        job = _Job(work)
        with self._wake:
            if not self._closing:
                self._jobs.append(job)
                self._wake.notify()
                return job.future
        job.refuse(self._closed())
        return job.future

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
                left = None if self._due is None else self._due - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._wake.wait(left)
            job = self._jobs.popleft() if self._jobs else None
            closing = self._closing
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
        flushed = self._flush(store)
        return not closing or (flushed and self._due is not None)

    def _flush(self, store: Store) -> bool:
        """Write usage and one batch of records; False where it failed, and is kept."""
        if not self._batch:
            with self._wake:
                size = min(len(self._records), FLUSH_RECORDS)
                taken = [self._records.popleft() for _ in range(size)]
                self._in_flight = size
            self._batch = [made if isinstance(made, Record) else made() for made in taken]
        with self._wake:
            usage = self._usage.take()
        try:
            self._write_usage(store, usage)
            usage = Batch()
            unstorable = self._write(store)
        except StoreError as error:
            with self._wake:
                later = self._usage.take()
                self._usage.add(usage)
                self._usage.add(later)
                first, longest = self._retry
                self._pause = min(self._pause * 2, longest) if self._pause else first
                self._due = time.monotonic() + self._pause
                waiting = len(self._records) + self._in_flight
                self._problem = f"{error} ({waiting} decision records wait in memory)"
            return False
        self._batch = []
        with self._wake:
            self.lost += unstorable
            self._in_flight, self._pause, self._problem = 0, 0.0, ""
            left = len(self._records)
            wait = 0.0 if left >= FLUSH_RECORDS else FLUSH_SECONDS
            self._due = time.monotonic() + wait if left or self._usage else None
        return True

    def _write_usage(self, store: Store, usage: Batch) -> None:
        """Write what was used, all of it or nothing."""
        if not (usage.used or usage.open or usage.closed):
            return
        try:
            store.add_usage(usage)
        except UnstorableError as error:
            with self._wake:  # it would fail for ever, and hold up everything behind it
                self._lose_usage(usage, str(error))

    def _lose_usage(self, usage: Batch, why: str) -> None:
        """What was used is not stored; with the lock held."""
        if count := sum(used.out_bytes + used.in_bytes for used in usage.used):
            self._bytes_lost += count
            self._usage_problem = (
                f"{self._bytes_lost} bytes that were used are not counted: {self.path}: {why};"
                " budgets have less left than is shown"
            )

    def _write(self, store: Store) -> int:
        """Write the batch; gives how many of its records no database would take."""
        try:
            store.record(self._batch)
        except UnstorableError:
            pass
        else:
            return 0
        unstorable = 0
        for record in self._batch:
            try:
                store.record((record,))
            except UnstorableError:
                unstorable += 1
        return unstorable

    def _stop(self, problem: str = "") -> None:
        """Nobody may wait for a thread that has ended."""
        with self._wake:
            self._closing = True
            self._problem = problem or self._problem
            jobs, self._jobs = self._jobs, deque()
            self.lost += len(self._records) + self._in_flight
            self._records.clear()
            self._in_flight = 0
            self._lose_usage(self._usage.take(), "the database could not be written by the end")
        for job in jobs:
            job.refuse(self._closed())
