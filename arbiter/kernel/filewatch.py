"""Tells when files of some folders change: inotify(7), by hand, in the event loop.

A folder need not be there yet, and may be moved away and replaced: its parents are watched for
the next name on the way down. What comes in bursts (an editor's save, an installation) is told
once, when it is quiet, and at last after a bounded time. What changes behind the back of a symbolic
link, or on a mount, is seen of a file whose name is given: it is watched itself. Of a pattern's
files it is not seen.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fnmatch
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

QUIET = 0.2
"""Seconds without a change, before changes are told."""
LONGEST = 2.0
"""Seconds that changes wait for quiet at most."""
_READ = 65536
_EVENT = struct.Struct("=iIII")  # linux/inotify.h, struct inotify_event, without its name

IN_ATTRIB = 0x004
IN_CLOSE_WRITE = 0x008
IN_MOVED_FROM = 0x040
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x01000000
_WATCHED = (
    IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
    | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR
)  # fmt: skip
_ITSELF = IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED

_WILD = frozenset("*?[")
"""What makes a name a pattern (fnmatch)."""

_libc = ctypes.CDLL(None, use_errno=True)


class FileWatch:
    """Calls `changed()` in the event loop after files changed whose names match.

    `folders` maps each folder, an absolute path, to a pattern (fnmatch) of file names in it, or to
    several. Names that begin with "." never match: editors keep their own files under such names. A
    change of the folder's own owner or mode is told, too (its parent tells).
    """

    def __init__(
        self,
        folders: Mapping[Path, str | tuple[str, ...]],
        changed: Callable[[], None],
        trouble: Callable[[str], None],
        *,
        quiet: float = QUIET,
        longest: float = LONGEST,
    ) -> None:
        self._folders = {
            folder: (patterns,) if isinstance(patterns, str) else patterns
            for folder, patterns in folders.items()
        }
        self._changed, self._trouble = changed, trouble
        self._quiet, self._longest = quiet, longest
        self._fd = -1
        self._names: dict[int, tuple[set[str], set[str]]] = {}
        """Of each watch: patterns of files, and names on the way to what is watched; that of a file
        itself has the pattern ""."""
        self._timer: asyncio.TimerHandle | None = None
        self._latest = 0.0
        """The loop's time at which changes are told, quiet or not."""
        self._said = ""

    def start(self) -> None:
        """Watch from now on, in the running loop. OSError where the kernel has no room for it."""
        if self._fd >= 0:
            raise ValueError("it watches already")
        self._fd = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify_init1")
        try:
            self._arm()
        except OSError:
            self.close()
            raise
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def close(self) -> None:
        """Watch no more; changes that were not told yet never are."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd, self._names = -1, {}

    def _arm(self) -> None:
        """Watch every folder that is there, and its parents: from the top, so that none is missed.

        One that appears after we looked for it is told by its parent, which is watched by then.
        """
        names: dict[int, tuple[set[str], set[str]]] = {}
        for folder, patterns in self._folders.items():
            parts = folder.parts
            for depth in range(1, len(parts) + 1):
                watch = self._add(Path(*parts[:depth]))
                if watch is None:
                    break
                files, folders = names.setdefault(watch, (set(), set()))
                if depth < len(parts):
                    folders.add(parts[depth])
                    continue
                files.update(patterns)
                for name in patterns:
                    if not _WILD.intersection(name):
                        folders.add(name)
                        watch = self._add(folder / name, _WATCHED & ~IN_ONLYDIR)
                        if watch is not None:
                            names.setdefault(watch, (set(), set()))[0].add("")
        for watch in self._names.keys() - names.keys():
            _libc.inotify_rm_watch(self._fd, watch)  # EINVAL: the kernel dropped it, with its inode
        self._names = names

    def _add(self, path: Path, mask: int = _WATCHED) -> int | None:
        """The watch of a folder, the same for the same folder; None if it is not there."""
        watch: int = _libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
        if watch < 0 and ctypes.get_errno() in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        return _checked(watch, f"inotify_add_watch {path}")

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return
        told, moved, at = False, False, 0
        while at < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            name = os.fsdecode(data[at - length : at].rstrip(b"\0"))
            if mask & IN_Q_OVERFLOW:
                told = moved = True
                continue
            files, folders = self._names.get(watch, (set(), set()))
            on_the_way = (
                name in folders or "" in files or bool(mask & _ITSELF and (files or folders))
            )
            moved |= on_the_way
            told |= on_the_way or _meant(name, files)
        if moved:
            self._arm_again()
        if told:
            self._wait()

    def _arm_again(self) -> None:
        try:
            self._arm()
            self._said = ""
        except OSError as error:
            text = f"changes of files may not be seen any more: {error}; SIGHUP reads them anew"
            if text != self._said:
                self._trouble(text)
            self._said = text

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer is None:
            self._latest = now + self._longest
        else:
            self._timer.cancel()
        self._timer = loop.call_at(min(now + self._quiet, self._latest), self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._changed()


def _meant(name: str, patterns: set[str]) -> bool:
    return (
        bool(name)
        and not name.startswith(".")
        and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    )


def _checked(result: int, call: str) -> int:
    if result >= 0:
        return result
    number = ctypes.get_errno()
    hint = ""
    if number in (errno.ENOSPC, errno.EMFILE):
        hint = " (raise fs.inotify.max_user_watches or max_user_instances)"
    raise OSError(number, f"{call}: {os.strerror(number)}{hint}")
