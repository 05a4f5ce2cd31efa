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
WATCHED: Mapping[Path, tuple[str, ...]] = {
    Path("/etc"): ("hosts", "resolv.conf"),
    Path("/run/systemd/resolve"): ("resolv.conf",),
}
"""The same, for `kernel.filewatch`."""
_State = tuple[int, int, int, int]


class NameFiles:
    """`look_at_…` read what changed; `hosts` and `resolvers` are what was read last."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._paths = {name: os.fspath(root / name) for name in (_HOSTS, *_RESOLV)}
        self._seen: dict[str, _State | None] = {}
        self._of_file: dict[str, tuple[bytes, ...]] = {}
        self._problems: dict[str, str] = {}
        self.hosts: Mapping[bytes, tuple[str, ...]] = {}
        """For `names.NameCache.use_hosts`."""
        self.resolvers: frozenset[bytes] = frozenset()
        """Packed addresses."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What cannot be read, and what stays in force instead."""
        return tuple(self._problems.values())

    def look_at_hosts(self) -> bool:
        """Whether /etc/hosts changed; `hosts` is new then. One stat when not. A list of 100,000
        unwanted names takes 20 ms: a thread may do this while others call what else is here."""
        return self._look((_HOSTS,))

    def look_at_resolvers(self) -> bool:
        """Whether a file of resolvers changed; `resolvers` is new then."""
        changed = self._look(_RESOLV)
        if changed:
            self.resolvers = frozenset(itertools.chain.from_iterable(self._of_file.values()))
        return changed

    def believes(self, resolver: bytes) -> bool:
        """Whether that packed address is a resolver of this host now. Of an unknown one the
        files are asked again (two stats): a new network brings new resolvers, and its first
        answer is there before anybody else says so."""
        if resolver in self.resolvers:
            return True
        return self.look_at_resolvers() and resolver in self.resolvers

    def _look(self, names: Iterable[str]) -> bool:
        changed = False
        for name in names:
            try:
                changed |= self._look_at(name)
                self._problems.pop(name, None)
            except OSError as error:
                why = error.strerror or str(error)
                self._problems[name] = (
                    f"/{name} cannot be read ({why}): what it said before stays in force; "
                    "mend the file, it is tried again"
                )
        return changed

    def _look_at(self, name: str) -> bool:
        path = self._paths[name]
        try:
            found = os.stat(path)  # noqa: PTH116 - three times as quick, and once a stranger's answer
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
