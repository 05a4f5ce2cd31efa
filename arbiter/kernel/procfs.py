"""Processes from /proc: who a pid is, cheaply and without being fooled.

The directory /proc/PID is opened once and everything is read through that descriptor, so that
all of it is of one process even when the pid is used again meanwhile (fs/proc/base.c: its
inode holds the struct pid). What was read is confirmed by reading `stat` again: an exec in the
middle starts over.

An exec keeps pid and start time. It is noticed by the executable's device:inode and by fields
of `stat` that only execve sets, at random addresses: startcode, startstack, arg_start (zero
without ptrace rights, and constant where address randomisation is off: then argv is compared).

The effective uid is the owner of the directory itself: task_dump_owner() in fs/proc/base.c
gives that of directories with mode 0555 as it is, and only other files to root when the process
is not dumpable. It costs 1 µs, `status` 12.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import OrderedDict
from pathlib import Path

import psutil
from msgspec import Struct

from arbiter import identity
from arbiter.kernel import procread
from arbiter.kernel.elders import Elder, facts_of
from arbiter.kernel.procread import ARGV_READ, DIRECTORY, READ, Image
from arbiter.kernel.users import user_name
from arbiter.model import Ancestor, Process

CACHE_SIZE = 4096
"""Processes remembered."""
WARM_SIZE = 64
"""Processes whose two descriptors stay open: the second look costs half."""
ANCESTORS = 16
"""How far up the tree a process is followed."""
ARGV_LIMIT = 4096
"""Characters of argv kept in a Process; identification sees procread.ARGV_READ bytes of it."""
_ATTEMPTS = 3
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that say something of us, not of the process."""


class Details(Struct, frozen=True):
    """More of a process, for a prompt. "" or None for what could not be read."""

    cwd: str = ""
    user: str = ""
    terminal: str = ""
    created: float | None = None
    """Epoch seconds."""
    status: str = ""
    """psutil's word: running, sleeping, zombie, …; "gone" for a process that has ended."""


class _Entry:
    """A cached process, with what its next look-up must find unchanged."""

    __slots__ = ("argv", "directory", "exe", "image", "process", "reach", "stat", "where")

    def __init__(
        self, process: Process, image: Image, where: str, linked: bool, reach: int
    ) -> None:
        self.process = process
        self.image = image
        self.where = where
        self.exe = (*process.exe_id, linked) if any(process.exe_id) else None
        """Device, inode, and whether it has a name: losing it is news for `note`."""
        self.argv: bytes | None = None
        """Compared at every look-up where addresses do not betray an exec; else None."""
        self.reach = reach
        """How many ancestors are known; ANCESTORS where that is all there are."""
        self.directory = self.stat = -1

    def is_current(self) -> bool:
        """Nothing has changed. OSError where the process is gone, whoever has its pid now."""
        if self.exe is not None:
            exe = os.stat("exe", dir_fd=self.directory)
            if (exe.st_dev, exe.st_ino, exe.st_nlink > 0) != self.exe:
                return False
        # Last, because it fails once the process is gone: all above was of the living.
        return self.is_same_image()

    def is_same_image(self) -> bool:
        """No exec and no change of user since. OSError where the process is gone."""
        if self.argv is not None and (
            procread.slurp("cmdline", ARGV_READ, self.directory) != self.argv
        ):
            return False
        return (
            os.fstat(self.directory).st_uid == self.process.uid
            and procread.image(os.pread(self.stat, 2048, 0)) == self.image
        )

    def open(self) -> None:
        """Opens the two descriptors. Raises OSError where the process is gone."""
        self.directory = os.open(self.where, DIRECTORY)
        self.stat = os.open("stat", READ, dir_fd=self.directory)

    def close(self) -> None:
        for descriptor in (self.stat, self.directory):
            if descriptor >= 0:
                os.close(descriptor)
        self.directory = self.stat = -1


class ProcessTable:
    """Processes by pid, cached by what only the same program in the same process keeps.

    Thread-safe (one lock). `proc` is where procfs is mounted, or a tree like it.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, _Entry] = OrderedDict()
        self._warm: OrderedDict[int, _Entry] = OrderedDict()
        self._homes = procread.views(proc)
        self._random = procread.randomised(proc)

    def get(self, pid: int) -> Process | None:
        """The process that has this pid now; None if there is none.

        Raises OSError only where this process is out of descriptors or memory. A process that
        may not be looked at (not root, hidepid) has a note, and an app that no rule for an
        executable matches. Ancestors are as they were when it was first seen.
        """
        with self._lock:
            entry = self._get(pid, ANCESTORS)
            return entry.process if entry else None

    def start_time(self, pid: int) -> int | None:
        """Clock ticks since boot at which the process started; None if there is none."""
        try:
            return procread.parse_stat(procread.slurp(f"{self._proc}/{pid}/stat", 2048)).start
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _EXHAUSTED:
                raise
            return None

    def here(self, pid: int) -> bool:
        """Whether the process is in this one's network namespace; no where it cannot be seen."""
        try:
            ours, its = (Path(f"{self._proc}/{one}/ns/net").stat() for one in ("self", pid))
        except OSError:
            return False
        return (ours.st_dev, ours.st_ino) == (its.st_dev, its.st_ino)

    def ancestors(
        self, pid: int, parent: int, start: int, elder: Elder | None = None
    ) -> tuple[Ancestor, ...]:
        """Those of a process, the nearest first, as far as they are still there: what started at
        `start` (clock ticks since boot) cannot have a younger one. `elder` is its parent, if that
        was read before. OSError as `get`."""
        with self._lock:
            facts = elder and facts_of(elder, self._homes)
            if elder is None or facts is None or elder.start > start:
                return self._ancestors(pid, parent, start, ANCESTORS)[0]
            above, _ = self._ancestors(elder.pid, elder.ppid, elder.start, ANCESTORS - 1)
            return Ancestor(elder.pid, identity.identify(facts)), *above

    def image(self, process: Process) -> str:
        """What an execve of this process would change, as its stat file has it; "" where that, or
        its executable, cannot tell: not cached, no executable with a name, fixed addresses."""
        with self._lock:
            entry = self._cache.get(process.pid)
            if entry is None or entry.process is not process or entry.argv is not None:
                return ""
            plain = entry.exe is not None and entry.exe[2] and "/task/" not in entry.where
            return b" ".join(entry.image).decode("ascii") if plain else ""

    def forget(self, pid: int) -> None:
        """Drops what is cached of a pid, because it has exited."""
        with self._lock:
            self._drop(pid)

    def close(self) -> None:
        """Closes every descriptor and empties the cache. The table can be used on."""
        with self._lock:
            for pid in list(self._cache):
                self._drop(pid)

    def __len__(self) -> int:
        return len(self._cache)

    # --- cache ------------------------------------------------------------------------------

    def _get(self, pid: int, depth: int) -> _Entry | None:
        entry = self._cache.get(pid)
        if entry is not None:
            if self._unchanged(pid, entry) and entry.reach >= depth:
                self._cache.move_to_end(pid)
                return entry
            self._drop(pid)
        entry = self._look(pid, depth)
        if entry is not None:
            self._drop(pid)
            self._cache[pid] = entry
            self._keep_warm(pid, entry)
            if len(self._cache) > CACHE_SIZE:
                self._drop(next(iter(self._cache)))
        return entry

    def _unchanged(self, pid: int, entry: _Entry) -> bool:
        """The same process still runs the same program, as the same user."""
        try:
            if entry.stat < 0:
                entry.open()
                self._keep_warm(pid, entry)
            else:
                self._warm.move_to_end(pid)
            return entry.is_current()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _EXHAUSTED:
                raise
            return False

    def _keep_warm(self, pid: int, entry: _Entry) -> None:
        self._warm[pid] = entry
        self._warm.move_to_end(pid)
        if len(self._warm) > WARM_SIZE:
            self._warm.popitem(last=False)[1].close()

    def _cool(self) -> None:
        """Closes every descriptor that is kept open only for speed."""
        while self._warm:
            self._warm.popitem()[1].close()

    def _drop(self, pid: int) -> None:
        entry = self._cache.pop(pid, None)
        if entry is not None:
            self._warm.pop(pid, None)
            entry.close()

    # --- reading ----------------------------------------------------------------------------

    def _look(self, pid: int, depth: int) -> _Entry | None:
        """Reads a process; None if it is gone. A few times over while it keeps changing."""
        where = f"{self._proc}/{pid}"
        for _ in range(_ATTEMPTS):
            try:
                entry = self._read(pid, where, depth)
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno in _EXHAUSTED:
                    if not self._warm:
                        raise
                    self._cool()
                    continue
                # Gone, or its first thread is and others live on: they have all it had.
                where = procread.live_thread(where, pid)
                if not where:
                    return None
                continue
            if entry is not None:
                return entry
        return None

    def _read(self, pid: int, where: str, depth: int) -> _Entry | None:
        """One attempt. None if it changed meanwhile, OSError if it is gone."""
        directory = os.open(where, DIRECTORY)
        stat = -1
        kept = False
        try:
            stat = os.open("stat", READ, dir_fd=directory)
            status = procread.parse_stat(os.pread(stat, 2048, 0))
            reading = procread.read(directory, status, self._proc, self._homes)
            facts = reading.facts
            start = status.start
            if "/task/" in where:  # a thread's own; the process has its first thread's
                start = procread.parse_stat(procread.slurp("../../stat", 2048, directory)).start
            parents, reach = self._ancestors(pid, status.ppid, start, depth)
            process = Process(
                pid=pid,
                start=start,
                uid=os.fstat(directory).st_uid,
                app=identity.identify(facts),
                exe=facts.exe,
                exe_id=reading.exe_id,
                argv=_shorten(facts.argv),
                ancestors=parents,
                cgroup=facts.cgroup,
                note=identity.note(facts),
            )
            entry = _Entry(process, status.image, where, reading.linked, reach)
            if identity.interpreter_name(facts.exe.rpartition("/")[2]) and not (
                self._random and procread.is_random(directory, status.image)
            ):
                entry.argv = reading.raw
            entry.directory, entry.stat = directory, stat
            kept = entry.is_same_image()
            return entry if kept else None
        finally:
            if not kept:
                for descriptor in (stat, directory):
                    if descriptor >= 0:
                        os.close(descriptor)

    def _ancestors(
        self, pid: int, ppid: int, start: int, depth: int
    ) -> tuple[tuple[Ancestor, ...], int]:
        if depth == 0 or ppid <= 0 or ppid == pid:
            return (), ANCESTORS if ppid <= 0 else 0
        parent = self._get(ppid, depth - 1)
        if parent is None or parent.process.start > start:
            return (), ANCESTORS  # it has gone, and its pid may be another's already
        above = (Ancestor(ppid, parent.process.app), *parent.process.ancestors)[:ANCESTORS]
        return above, min(ANCESTORS, parent.reach + 1)


def argv_of(cmdline: bytes) -> tuple[str, ...]:
    """What a Process has of a cmdline."""
    return _shorten(procread.split_argv(cmdline))


def _shorten(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The first ARGV_LIMIT characters, cut visibly: thousands of these are kept."""
    if sum(map(len, argv)) + len(argv) <= ARGV_LIMIT:
        return argv
    kept: list[str] = []
    room = ARGV_LIMIT
    for word in argv:
        if len(word) >= room:
            return (*kept, word[: max(0, room - 1)] + "…")
        kept.append(word)
        room -= len(word) + 1
    return tuple(kept)


# --- for prompts ----------------------------------------------------------------------------


def details(process: Process) -> Details:
    """What a prompt shows beside the app. Slow (up to 1 ms), never raises; reads /proc only."""
    found: dict[str, object] = {}
    gone = Details(user=user_name(process.uid), status="gone")
    try:
        subject = psutil.Process(process.pid)
        with subject.oneshot():
            for name in ("cwd", "terminal", "create_time", "status"):
                with contextlib.suppress(psutil.AccessDenied, OSError):  # the others still show
                    found[name] = getattr(subject, name)()
        if (
            procread.parse_stat(procread.slurp(f"/proc/{process.pid}/stat", 2048)).start
            != process.start
        ):
            return gone
    except (psutil.Error, OSError, ValueError):  # psutil wraps some errors, not all
        return gone
    created = found.get("create_time")
    return Details(
        cwd=str(found.get("cwd") or ""),
        user=user_name(process.uid),
        terminal=str(found.get("terminal") or ""),
        created=created if isinstance(created, float) else None,
        status=str(found.get("status") or ""),
    )
