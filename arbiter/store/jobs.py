"""Work for the writer's thread, and the future that its caller holds."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from arbiter.store.errors import StoreError
from arbiter.store.store import Store

T = TypeVar("T")


class Job(Generic[T]):
    """Something to be done with the store, once."""

    def __init__(self, work: Callable[[Store], T]) -> None:
        self.future: Future[T] = Future()
        self._work = work

    def run(self, store: Store) -> None:
        """Do it, unless it was cancelled. What goes wrong is the future's."""
        if not self.future.set_running_or_notify_cancel():
            return  # cancelled while it waited
        try:
            result = self._work(store)
        except (StoreError, ValueError) as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def refuse(self, error: StoreError) -> None:
        """It will not be done. Of no effect where it was."""
        if self.future.cancelled() or self.future.done():
            return
        self.future.set_exception(error)
