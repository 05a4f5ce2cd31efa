"""The two sysctls a link needs, and their old values, given back even after SIGKILL.

A reply to a rerouted connection comes in by a link that table main would not use for its sender:
strict reverse path filtering drops it. `rp_filter` = 2 (loose) on the link suffices, because the
kernel takes the greater of `all` and the interface (IN_DEV_RPFILTER, linux/inetdevice.h), and
`src_valid_mark` = 1 lets the check see the mark restored in PREROUTING. Never on `all`: that broke
others (tailscale#19796, cilium#48706). IPv6 has neither.

How the old values are kept, and given back: see `sysctlnotes`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec

from arbiter.kernel import sysctlnotes
from arbiter.kernel.firewall.plan import check_interface
from arbiter.kernel.sysctlnotes import Notes, Saved

FILE = Path("/run/arbiter/sysctl.json")
"""Where the old values are kept. /run: they are the boot's, as the sysctls are."""
WANTED = {"rp_filter": "2", "src_valid_mark": "1"}
_CONF = Path("/proc/sys/net/ipv4/conf")
_WHY = "replies on that link may be dropped by strict reverse path filtering"


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
        saved = next((s for s in kept.saved if s.index == index), Saved(index, name, {}))
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
    return (*said, *sysctlnotes.remove(file))


def _give_back(saved: Saved) -> list[str]:
    try:
        name = socket.if_indextoname(saved.index)
    except OSError:
        return []  # the interface is gone, and its sysctls with it
    where = sysctlnotes.Place(_CONF / name, f"net.ipv4.conf.{name}", _WHY)
    return sysctlnotes.give_back(where, saved.was, WANTED)


def _read(interface: str, key: str) -> str:
    return (_CONF / interface / key).read_text().strip()


def _cannot(what: str, interface: str, key: str, error: OSError) -> str:
    where = sysctlnotes.Place(_CONF / interface, f"net.ipv4.conf.{interface}", _WHY)
    return sysctlnotes.cannot(what, where, key, error)


def _load(file: Path) -> tuple[Notes, str]:
    return sysctlnotes.load(file, "net.ipv4.conf.*.rp_filter")


_store = sysctlnotes.store
