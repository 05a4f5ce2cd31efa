"""The two sysctls a link needs, and their old values, given back even after SIGKILL.

A reply to a rerouted connection comes in by a link that table main would not use for its sender:
strict reverse path filtering drops it. `rp_filter` = 2 (loose) on the link suffices, because the
kernel takes the greater of `all` and the interface (IN_DEV_RPFILTER, linux/inetdevice.h), and
`src_valid_mark` = 1 lets the check see the mark restored in PREROUTING. Never on `all`: that broke
others (tailscale#19796, cilium#48706). IPv6 has neither.

The old value is on disk before the new one is in the kernel; it is written back only where the
kernel still has ours, so a crash at any point, and a change by another program, are both safe.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from arbiter.kernel.firewall.plan import check_interface
from arbiter.protocol import clean

FILE = Path("/run/arbiter/sysctl.json")
"""Where the old values are kept. /run: they are the boot's, as the sysctls are."""
WANTED = {"rp_filter": "2", "src_valid_mark": "1"}
_CONF = Path("/proc/sys/net/ipv4/conf")
_SIZE_LIMIT = 1 << 20


class _Saved(Struct, forbid_unknown_fields=True):
    """One interface, by the index that survives a renaming."""

    index: int
    interface: str
    was: dict[str, str]


class _File(Struct, forbid_unknown_fields=True):
    boot: str
    namespace: int
    """Inode of the network namespace: the same index is another interface elsewhere."""
    saved: list[_Saved] = []


def apply(interfaces: Iterable[str], file: Path = FILE) -> tuple[str, ...]:
    """Set both on these links, and give back those of links that are no longer among them.

    Written only where different. Returns what could not be done, each with its why and next step;
    an interface that is gone is not an error. Works in the network namespace of this thread.
    """
    errors: list[str] = []
    kept, problem = _load(file)
    if problem:
        return (problem,)
    before = msgspec.json.encode(kept)
    links: dict[int, str] = {}
    for name in interfaces:
        try:
            check_interface(name)
        except ValueError as error:
            errors.append(str(error))
            continue
        if name in ("all", "default"):
            errors.append(
                f"interface {name} cannot be a link: its sysctls are everybody's; rename it"
            )
            continue
        with contextlib.suppress(OSError):  # gone: no sysctl to set
            links[socket.if_nametoindex(name)] = name
    for saved in [s for s in kept.saved if s.index not in links]:
        errors += _give_back(saved)
        kept.saved.remove(saved)
    to_write: list[tuple[str, str]] = []
    for index, name in links.items():
        saved = next((s for s in kept.saved if s.index == index), _Saved(index, name, {}))
        for key, value in WANTED.items():
            try:
                now = _read(name, key)
            except OSError as error:
                errors.append(_cannot("read", name, key, error))
                continue
            if now != value:
                saved.was[key] = now  # also if another program changed it since: then it wants this
                to_write.append((name, key))
        if saved.was and saved not in kept.saved:
            kept.saved.append(saved)
    # On disk first: a crash in between leaves a note of a change that was not made, which is safe.
    try:
        if msgspec.json.encode(kept) != before:
            _store(file, kept)
    except OSError as error:
        return (*errors, f"{file}: the old sysctls cannot be kept, so none is set: {error}")
    for name, key in to_write:
        try:
            (_CONF / name / key).write_text(WANTED[key])
        except FileNotFoundError:
            continue  # the interface went in this moment
        except OSError as error:
            errors.append(_cannot("set", name, key, error))
    return tuple(errors)


def restore(file: Path = FILE) -> tuple[str, ...]:
    """Give back every old value and forget them; () if all is as it was before arbiter.

    What another program changed since is left as it is and said. May be repeated.
    """
    kept, problem = _load(file)
    if problem:
        return (problem,)
    said = [text for saved in kept.saved for text in _give_back(saved)]
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        said.append(f"{file} cannot be removed: {error}; remove it by hand")
    return tuple(said)


def _give_back(saved: _Saved) -> list[str]:
    try:
        name = socket.if_indextoname(saved.index)
    except OSError:
        return []  # the interface is gone, and its sysctls with it
    said = []
    for key in saved.was.keys() & WANTED.keys():
        was = saved.was[key]
        try:
            now = _read(name, key)
            if now == was:
                continue
            if now == WANTED[key]:
                (_CONF / name / key).write_text(was)
                continue
        except FileNotFoundError:
            continue
        except OSError as error:
            said.append(_cannot("give back", name, key, error))
            continue
        said.append(
            f"net.ipv4.conf.{name}.{key} is {clean(now)}, arbiter set {WANTED[key]} and found "
            f"{clean(was)} before: another program changed it since, so it stays; "
            f"`sysctl net/ipv4/conf/{name}/{key}={clean(was)}` would give it back"
        )
    return said


def _read(interface: str, key: str) -> str:
    return (_CONF / interface / key).read_text().strip()


def _cannot(what: str, interface: str, key: str, error: OSError) -> str:
    return (
        f"cannot {what} net.ipv4.conf.{interface}.{key}: {error.strerror}; replies on that link "
        "may be dropped by strict reverse path filtering; arbiter needs a writable /proc/sys"
    )


def _here() -> _File:
    # thread-self: the network namespace is a thread's (setns(2)), and /proc/sys/net shows it.
    namespace = Path("/proc/thread-self/ns/net").stat().st_ino
    return _File(Path("/proc/sys/kernel/random/boot_id").read_text().strip(), namespace)


def _load(file: Path) -> tuple[_File, str]:
    """What was kept, and why it cannot be used ("" if it can)."""
    here = _here()
    try:
        with file.open("rb") as stream:
            kept = msgspec.json.decode(stream.read(_SIZE_LIMIT), type=_File)
    except FileNotFoundError:
        return here, ""
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        text = f"{file} cannot be read, so old sysctls are unknown: {clean(str(error))}"
        return here, f"{text}; look at net.ipv4.conf.*.rp_filter yourself and remove the file"
    if kept.boot != here.boot:
        return here, ""  # an earlier boot's: the kernel has forgotten those sysctls by itself
    if kept.namespace != here.namespace:
        return here, (
            f"{file} is of another network namespace; run this command there "
            "(`ip netns exec …`), or remove the file if that namespace is gone"
        )
    return kept, ""


def _store(file: Path, kept: _File) -> None:
    """In one step, and on disk when it returns."""
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
