"""Where the socket lies in the file system: made, looked after while it is served, taken away.

Nothing of anybody else's is ever removed: not a file in its place, nor another daemon's socket,
neither at the start nor at the end.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path


class ServerError(Exception):
    """The socket cannot be opened; the text says why and what to do."""


class Place:
    """The path of the socket, and which file there is ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ours: tuple[int, int] | None = None
        """Device and inode of the socket that was made."""

    def open(self) -> socket.socket:
        """A socket that is bound there (mode 0666), in place of one that a dead daemon left.

        Raises ServerError, with nothing made.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # The modes are set by umask, so that there is no moment with another one. Other threads
        # may make files meanwhile: each gives the mode itself, and none above 0666.
        mask = os.umask(0o022)
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            _clear_stale(self.path)
            os.umask(0o111)
            sock.bind(str(self.path))
            self._ours = self._there()
        except OSError as error:
            sock.close()
            text = f"the socket {self.path} cannot be opened: {error.strerror or error}"
            raise ServerError(f"{text}; choose another with --socket") from None
        finally:
            os.umask(mask)
        return sock

    @property
    def ours(self) -> bool:
        """Whether who goes to the path comes to the socket that was made."""
        return self._ours is not None and self._there() == self._ours

    def clear(self) -> None:
        """Remove the socket that was made, and nothing that took its place. Raises OSError."""
        if self.ours:
            self.path.unlink(missing_ok=True)

    def _there(self) -> tuple[int, int] | None:
        try:
            found = self.path.lstat()
        except OSError:
            return None  # whatever is wrong with the path, `open` says it
        return found.st_dev, found.st_ino


def _clear_stale(path: Path) -> None:
    """Remove a socket nobody listens on; refuse one that is in use or no socket."""
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise OSError(errno.EEXIST, "there is a file of that name which is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, "another arbiter answers there")
