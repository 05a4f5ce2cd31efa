"""What is asked of the writer's thread: done in turn, each with a future for what came of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

from arbiter.profiles import Book, Standing
from arbiter.records import Running
from arbiter.rules.rule import Layer, Rule
from arbiter.store.checkpoints import Checkpoint
from arbiter.store.inforce import Page
from arbiter.store.records import LookedUp
from arbiter.store.retention import Keeping
from arbiter.store.rows import Author, Remembered
from arbiter.store.store import Store
from arbiter.store.tidying import Tidying
from arbiter.store.usage import MAX_INTEGER
from arbiter.usage import OpenFlow, Used

T = TypeVar("T")


class Asked(ABC):
    """Every method may be called from any thread. The futures raise StoreError."""

    @abstractmethod
    def _submit(self, work: Callable[[Store], T]) -> Future[T]:
        """Have the thread do it, in turn."""

    _tidying: Tidying

    def keep(self, keeping: Keeping) -> None:
        """What is old is deleted by this from now on."""
        self._tidying.keep(keeping)
        self._submit(lambda store: None)  # the thread looks what is due

    # --- names ------------------------------------------------------------------------------

    def looked_up(self, since: float, limit: int) -> Future[list[LookedUp]]:
        """As Store.records.looked_up."""
        return self._submit(lambda store: store.records.looked_up(since, limit))

    # --- rules and profiles -----------------------------------------------------------------

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

    def rules(self, now: float, boot: str, session: str, after: int, most: int) -> Future[Page]:
        """As Store.rules_page, after every change asked for before."""
        return self._submit(lambda store: store.rules_page(now, boot, session, after, most))

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

    # --- the daemon's runs and connections --------------------------------------------------

    def begin_run(self, now: float, first: int = MAX_INTEGER) -> Future[int]:
        """As Store.lives.begin."""
        return self._submit(lambda store: store.lives.begin(now, first))

    def next_record(self) -> Future[int]:
        """As Store.lives.next."""
        return self._submit(lambda store: store.lives.next())

    def checkpoint(self, why: str, now: float) -> Future[list[Checkpoint]]:
        """As Store.evidence.checkpoint."""
        return self._submit(lambda store: store.evidence.checkpoint(why, now))

    def end_run(self, now: float) -> Future[None]:
        """As Store.lives.end."""
        return self._submit(lambda store: store.lives.end(now))

    def running(self) -> Future[list[Running]]:
        """As Store.lives.running."""
        return self._submit(lambda store: store.lives.running())

    def open_flows(self) -> Future[list[OpenFlow]]:
        """As Store.open_flows."""
        return self._submit(lambda store: store.open_flows())

    def usage(self, since: str) -> Future[list[Used]]:
        """As Store.usage, from the day `since` on; what waits here is not in it."""
        return self._submit(lambda store: store.usage(since))
