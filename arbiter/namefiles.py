"""/etc/hosts, and which resolvers this host asks: read again when the files change.

An answer teaches a name only if it comes from one of these resolvers: a program may ask any
server in the world from its own socket, and such a server says whatever the program likes.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from arbiter.nametext import read_hosts, read_resolvers

MAX_LINE: Final = 4096
MAX_LINES: Final = 2_000_000
"""Of a file: lists of unwanted names have up to a million."""
_RESOLV = ("etc/resolv.conf", "run/systemd/resolve/resolv.conf")
"""What programs ask, and what systemd-resolved asks for those that speak to it by another way."""
_HOSTS = "etc/hosts"
_State = tuple[int, int, int, int]


class NameFiles:
    """`look` reads what changed; `hosts` and `resolvers` are what was read last."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._seen: dict[str, _State | None] = {}
        self._of_file: dict[str, tuple[bytes, ...]] = {}
        self.hosts: Mapping[bytes, tuple[str, ...]] = {}
        """For `names.NameCache.use_hosts`."""
        self.resolvers: frozenset[bytes] = frozenset()
        """Packed addresses."""
        self.problems: tuple[str, ...] = ()
        """What cannot be read, and what stays in force instead."""

    def look(self) -> bool:
        """Whether anything changed. One stat a file when not; a large hosts file takes about
        0.1 s to read (100,000 lines): not for the event loop's thread."""
        problems: list[str] = []
        changed = False
        for name in (_HOSTS, *_RESOLV):
            try:
                changed |= self._look_at(name)
            except OSError as error:
                why = error.strerror or str(error)
                problems.append(
                    f"/{name} cannot be read ({why}): what it said before stays in force"
                )
        self.resolvers = frozenset(itertools.chain.from_iterable(self._of_file.values()))
        self.problems = tuple(problems)
        return changed

    def _look_at(self, name: str) -> bool:
        path = self._root / name
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            state = None
        else:
            state = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
        if name in self._seen and self._seen[name] == state:
            return False
        if state is None:
            self._take(name, ())
        else:
            # Not blocking, should it be a pipe: that is then refused.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(fd, "rb") as file:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise OSError(0, "it is no regular file")
                lines = iter(lambda: file.readline(MAX_LINE), b"")
                self._take(name, itertools.islice(lines, MAX_LINES))
        self._seen[name] = state
        return True

    def _take(self, name: str, lines: Iterable[bytes]) -> None:
        if name == _HOSTS:
            self.hosts = read_hosts(lines)
        elif name == _RESOLV[0] or lines:
            self._of_file[name] = read_resolvers(lines)
        else:  # no systemd-resolved here
            self._of_file.pop(name, None)
