"""When a process is gone: one pidfd each, so that no pid is ever mistaken for its successor."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable

GONE = (errno.ESRCH, errno.ENOENT, errno.EINVAL)
"""No such process, or the pid is a thread's by now: kernels differ in what they call that."""
StartTime = Callable[[int], int | None]


class ExitWatch:
    """Calls `gone(pid, start)` once, in the event loop, for every process watched."""

    def __init__(self, start_time: StartTime, gone: Callable[[int, int], None]) -> None:
        self._start_time = start_time
        self._gone = gone
        self._fds: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._fds)

    def watch(self, pid: int, start: int) -> None:
        """Watch a process; one that is gone already is said at the loop's next turn.

        Raises OSError (EMFILE, ENFILE) where no descriptor is left.
        """
        if (pid, start) in self._fds:
            return
        loop = asyncio.get_running_loop()
        try:
            fd = os.pidfd_open(pid)
        except OSError as error:
            if error.errno not in GONE:
                raise
            loop.call_soon(self._gone, pid, start)
            return
        # The pidfd holds on to the process that has the pid now: only its start time tells
        # whether that is the one we mean.
        try:
            same = self._start_time(pid) == start
        except OSError:
            os.close(fd)
            raise
        if not same:
            os.close(fd)
            loop.call_soon(self._gone, pid, start)
            return
        self._fds[pid, start] = fd
        loop.add_reader(fd, self._exited, pid, start)

    def _exited(self, pid: int, start: int) -> None:
        self._forget(pid, start)
        self._gone(pid, start)

    def _forget(self, pid: int, start: int) -> None:
        fd = self._fds.pop((pid, start))
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)

    def close(self) -> None:
        """Stop watching."""
        for pid, start in tuple(self._fds):
            self._forget(pid, start)
