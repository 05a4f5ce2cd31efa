"""The daemon as a service: what it tells systemd, its sign of life, and what SIGHUP reads again."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Iterable
from typing import Protocol

from arbiter import protocol
from arbiter.kernel.queue import Queue
from arbiter.pipeline import Pipeline
from arbiter.sdnotify import Notifier
from arbiter.startup import DaemonError

WORDS_AFTER = 1.0
"""Seconds between a change and the status line about it: many changes, one line."""
BEATS = 3
"""Signs of life in each watchdog interval: one may be late, or lost."""
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
log = logging.getLogger("arbiter")


class Keeper(Protocol):
    """Who keeps something that is read from files."""

    def reload(self) -> None:
        """Read it anew."""


def shortage(error: object) -> str:
    """What the machine is short of for a while, in the kernel's words; "" if it is something else.

    Where there was no memory, or none for a thread, this ends the process at once, as if killed: an
    end in order needs both, and would hang; what passes until it is back `when_absent` has said.
    """
    if isinstance(error, MemoryError) or "can't start new thread" in str(error):
        log.critical("out of memory: arbiter ends at once, and when_absent says what passes")
        os._exit(1)
    if isinstance(error, OSError) and error.errno in _SHORTAGES:
        return os.strerror(error.errno)
    return ""


class Service:
    """Tells NOTIFY_SOCKET's owner how the daemon is. Without one it does nothing, and costs no
    wake-up. In the loop, so that a loop that hangs gives no sign of life."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Raises DaemonError where NOTIFY_SOCKET cannot be used."""
        self._pipeline = pipeline
        try:
            self._notifier = Notifier()
        except (OSError, ValueError) as error:
            text = f"systemd's NOTIFY_SOCKET cannot be used: {error}; unset it"
            raise DaemonError(text) from None
        self._beating: asyncio.TimerHandle | None = None
        self._wording: asyncio.TimerHandle | None = None
        self._told = ""
        self._trouble = ""
        self._unread: int | None = None
        """Decided by the last beat, if the kernel had packets for us then that we had not read."""

    def ready(self, queue: Queue) -> None:
        """The rules are in force, and packets come from this queue."""
        self._queue = queue
        self._told = self.words()
        self._tell("READY=1", f"STATUS={self._told}")
        if self._notifier.watchdog:
            self._beat()

    def stopping(self) -> None:
        """The end has begun: no sign of life is needed any more."""
        log.info("stopping")
        self._tell("STOPPING=1", "STATUS=stopping")
        self.close()

    def reload(self, keepers: Iterable[Keeper]) -> None:
        """Have all of them read anew, and tell so."""
        micros = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={micros}")
        for keeper in keepers:
            keeper.reload()
        self._told = self.words()
        self._tell("READY=1", f"STATUS={self._told}")

    def changed(self) -> None:
        """Something may be worth a new status line: it comes soon."""
        if self._notifier and self._wording is None:
            self._wording = asyncio.get_running_loop().call_later(WORDS_AFTER, self._word)

    def close(self) -> None:
        """Say no more."""
        for timer in (self._beating, self._wording):
            if timer is not None:
                timer.cancel()
        self._notifier.close()

    def words(self) -> str:
        """How it is, in one line: a newline in it would be a message of its own."""
        pipeline = self._pipeline
        up = sorted(link.name for link in pipeline.links.values() if link.up)
        asks = len(pipeline.asks)
        return protocol.clean(
            f"mode {pipeline.settings.mode.value}; {asks} {'ask' if asks == 1 else 'asks'} open, "
            f"{len(pipeline.held)} held; links up: {', '.join(up) or 'none'}",
            300,
        )

    def wrong(self) -> str:
        """Why packets would not get their verdict, though the loop runs; "" if they do."""
        counters = self._queue.counters()
        if not self._queue.bound():
            return f"queue {self._queue.number} is not ours any more"
        decided = sum(self._pipeline.counters.values())
        before, self._unread = self._unread, None
        if counters.waiting > self._queue.waiting:
            self._unread = decided
            if before == decided:
                waiting = counters.waiting - self._queue.waiting
                return f"{waiting} packets wait in the kernel, and none was read since"
        return ""

    def _beat(self) -> None:
        pause = self._notifier.watchdog / BEATS
        self._beating = asyncio.get_running_loop().call_later(pause, self._beat)
        wrong = self.wrong()
        if wrong:
            log.error("no sign of life for the watchdog: %s", wrong)
            return
        self._tell("WATCHDOG=1")
        self._word()

    def _word(self) -> None:
        if self._wording is not None:
            self._wording.cancel()
            self._wording = None
        words = self.words()
        if words != self._told:
            self._told = words
            self._tell(f"STATUS={words}")

    def _tell(self, *lines: str) -> None:
        try:
            self._notifier.tell(*lines)
        except OSError as error:
            if str(error) != self._trouble:
                log.error("systemd cannot be told how arbiter is: %s", error.strerror)
            self._trouble = str(error)
