"""Files that the daemon believes: regular ones, read in bounds, that only root could have written.

Or whoever runs this: without root, what a command reads is its own user's business.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from pathlib import Path

from arbiter.policyfiles import FileFacts, stat_fault

_ALL_USERS = "4294967295"
"""The size of a user namespace that has every user (user_namespaces(7))."""


class UnbelievedError(OSError):
    """Somebody else could have written it; the text says who, and what to do."""


def believed() -> frozenset[int]:
    """The uids that may own such a file: root, and who runs this.

    In a user namespace that has not all users, root's files show the overflow uid: what runs there
    has no right over the machine that it could be made to misuse.
    """
    owners = {0, os.geteuid()}
    if Path("/proc/self/uid_map").read_text(encoding="ascii").split()[2:3] != [_ALL_USERS]:
        owners.add(int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii")))
    return frozenset(owners)


def read_small(path: Path, limit: int, owners: Collection[int] | None = None) -> str:
    """The text of a regular file of at most `limit` bytes, and a little more of a larger one: a
    pipe would never end, and a device fill the memory.

    Raises UnbelievedError where others than `owners` (None: nobody is meant) may write it, OSError
    and UnicodeDecodeError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if owners is not None:
            _check(found, owners)
        return file.read(limit + 1).decode("utf-8")


def reason(error: OSError | UnicodeDecodeError) -> str:
    """Why a file could not be read, for people."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is no UTF-8 text (byte {error.start + 1})"
    return error.strerror or str(error)


def check_folder(folder: Path, owners: Collection[int]) -> None:
    """Who may write a folder may exchange every file in it: raises UnbelievedError, OSError."""
    _check(folder.stat(), owners)


def _check(found: os.stat_result, owners: Collection[int]) -> None:
    fault = stat_fault(FileFacts(found.st_uid, found.st_gid, found.st_mode), owners)
    if fault:
        raise UnbelievedError(fault)
