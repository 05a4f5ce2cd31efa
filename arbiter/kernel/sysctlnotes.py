"""Old values of sysctls, kept in a file, so that they are given back even after SIGKILL.

The old value is on disk before the new one is in the kernel; it is written back only where the
kernel still has ours, so a crash at any point, and a change by another program, are both safe.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from arbiter.protocol import clean

_SIZE_LIMIT = 1 << 20
_NETNS_COOKIE = 71  # SO_NETNS_COOKIE, asm-generic/socket.h


class Saved(Struct, forbid_unknown_fields=True):
    """Old values of one folder of sysctls: an interface's, by the index that survives a renaming.

    0 and "" where they are no interface's.
    """

    index: int
    interface: str
    was: dict[str, str]


class Notes(Struct, forbid_unknown_fields=True):
    """The file: what arbiter changed in this boot, in one network namespace."""

    boot: str
    namespace: int
    """Inode of the network namespace: the same index is another interface elsewhere."""
    cookie: int = 0
    """Of the same: an inode is used again, a cookie is not. 0 before Linux 5.14."""
    saved: list[Saved] = []


class Place(Struct, frozen=True):
    """A folder of sysctls, and how to speak of it."""

    folder: Path
    name: str
    """In sysctl(8)'s words: net.netfilter."""
    why: str
    """What it means if one of them cannot be set: a clause."""


def load(file: Path, look_at: str) -> tuple[Notes, str]:
    """What was kept, and why it cannot be used ("" if it can).

    `look_at` are the sysctls that a person should look at if it cannot.
    """
    here = _here()
    try:
        with file.open("rb") as stream:
            kept = msgspec.json.decode(stream.read(_SIZE_LIMIT), type=Notes)
    except FileNotFoundError:
        return here, ""
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        text = f"{file} cannot be read, so old sysctls are unknown: {clean(str(error))}"
        return here, f"{text}; look at {look_at} yourself and remove the file"
    if kept.boot != here.boot:
        return here, ""  # an earlier boot's: the kernel has forgotten those sysctls by itself
    if kept.namespace == here.namespace and kept.cookie not in (0, here.cookie):
        return here, ""  # of a namespace that is gone, and its sysctls with it
    if kept.namespace != here.namespace:
        return here, (
            f"{file} is of another network namespace; run this command there "
            "(`ip netns exec …`), or remove the file if that namespace is gone"
        )
    return kept, ""


def store(file: Path, kept: Notes) -> None:
    """In one step, and on disk when it returns. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)  # of a run that was killed
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(new, flags, 0o640)
    try:
        os.write(descriptor, msgspec.json.encode(kept))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.replace(file)


def remove(file: Path) -> tuple[str, ...]:
    """Forget the file; gives what went wrong."""
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        return (f"{file} cannot be removed: {error}; remove it by hand",)
    return ()


def give_back(place: Place, was: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """Write old values back where the kernel still has ours; gives what could not be done.

    What another program changed since is left as it is and said; only keys of `ours` are touched.
    """
    said = []
    path = place.folder.relative_to("/proc/sys")  # with slashes: an interface may have a dot
    for key in was.keys() & ours.keys():
        old = was[key]
        try:
            now = (place.folder / key).read_text().strip()
            if now == old:
                continue
            if now == ours[key]:
                (place.folder / key).write_text(old)
                continue
        except FileNotFoundError:
            continue
        except OSError as error:
            said.append(cannot("give back", place, key, error))
            continue
        said.append(
            f"{place.name}.{key} is {clean(now)}, arbiter set {ours[key]} and found "
            f"{clean(old)} before: another program changed it since, so it stays; "
            f"`sysctl {path}/{key}={clean(old)}` would give it back"
        )
    return said


def cannot(what: str, place: Place, key: str, error: OSError) -> str:
    """A sysctl could not be read, set or given back: why, and the next step."""
    return (
        f"cannot {what} {place.name}.{key}: {error.strerror}; {place.why}; "
        "arbiter needs a writable /proc/sys"
    )


def _here() -> Notes:
    # thread-self: the network namespace is a thread's (setns(2)), and /proc/sys/net shows it.
    namespace = Path("/proc/thread-self/ns/net").stat().st_ino
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Notes(boot, namespace, _cookie())


def _cookie() -> int:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            return int.from_bytes(
                sock.getsockopt(socket.SOL_SOCKET, _NETNS_COOKIE, 8), sys.byteorder
            )
        except OSError:
            return 0
