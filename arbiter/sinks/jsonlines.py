"""Records as lines of JSON in a file that logrotate may take away at any time."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from arbiter.sinks.items import Item

MODE = 0o640
DIRECTORY_MODE = 0o750


def line(item: Item) -> bytes:
    """One item as a line: `kind`, then its keys as `arbiter audit --nl` has them. ASCII."""
    return json.dumps({"kind": item.kind} | item.values).encode("ascii") + b"\n"


class JsonLines:
    """A file that only grows by whole lines. A new one is made where it was moved away.

    It never follows a symbolic link, and writes to regular files only. The methods raise OSError.
    """

    most = 500

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self.where = str(path)
        self.step = f"check: ls -ld '{path.parent}' '{path}'; df -h '{path.parent}'"

    def begin(self) -> None:
        """Make or open the file: a path that cannot be one is told before there are records."""
        self._open()

    def render(self, item: Item) -> bytes:
        """A line."""
        return line(item)

    def send(self, lines: Sequence[bytes]) -> int:
        """Append all the lines or none; gives how many."""
        fd = self._open()
        data = b"".join(lines)
        before = os.fstat(fd).st_size
        written = 0
        try:
            while written < len(data):
                written += os.write(fd, data[written:])
        except OSError:
            # A full disk may have taken a part. Ours is the only writer; who cuts the file short
            # meanwhile (copytruncate) leaves nothing of it.
            if written and os.fstat(fd).st_size == before + written:
                os.ftruncate(fd, before)
            raise
        return len(lines)

    def _open(self) -> int:
        """The descriptor of what is at the path now."""
        if self._fd is not None:
            with contextlib.suppress(FileNotFoundError):
                there, ours = self._path.stat(follow_symlinks=False), os.fstat(self._fd)
                if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                    return self._fd
            self.close()
        self._path.parent.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(self._path, flags | os.O_NOCTTY, MODE)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(errno.ELOOP, "it is a symbolic link") from None
            raise
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            # A power cut may have left a part of a line: no record may be glued to it.
            if found.st_size and os.pread(fd, 1, found.st_size - 1) != b"\n":
                os.write(fd, b"\n")
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return fd

    def close(self) -> None:
        """Let the file go."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
