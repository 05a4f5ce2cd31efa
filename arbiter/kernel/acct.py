"""The switches of conntrack's counting, set while arbiter runs and given back at the end.

`nf_conntrack_acct` is looked at when an entry is made (nf_ct_acct_ext_add,
net/netfilter/nf_conntrack_core.c): a flow that began before it was set is never counted.
`nf_conntrack_events` 0 would keep the ends of flows from us (nf_ct_ecache_ext_add); 2, the usual
value since 5.19, tells those of flows that began while somebody listened. Both are the network
namespace's own.
"""

from __future__ import annotations

from pathlib import Path

from arbiter.kernel import sysctlnotes
from arbiter.kernel.sysctlnotes import Saved

FILE = Path("/run/arbiter/acct.json")
"""Where the old values are kept."""
WANTED = {"nf_conntrack_acct": "1", "nf_conntrack_events": "1"}
"""What is written; any value but 0 is left as it is."""
_FOLDER = Path("/proc/sys/net/netfilter")
_NAME = "net.netfilter"
_WITHOUT = {
    "nf_conntrack_acct": "bytes per app, link and SIM are not counted, and no budget is used up",
    "nf_conntrack_events": "bytes since the last read of a connection that ends are not counted",
}


def enable(file: Path = FILE) -> tuple[str, ...]:
    """Let conntrack count, and tell when a flow ends; before the first flow is decided.

    Returns what could not be done, each with its why and next step. Where nf_conntrack is a module
    it must be loaded by now: `ConntrackWatch.start` loads it. May be repeated. Works in the network
    namespace of this thread.
    """
    kept, problem = sysctlnotes.load(file, f"{_NAME}.nf_conntrack_acct")
    if problem:
        return (f"{problem}; until then {_WITHOUT['nf_conntrack_acct']}",)
    errors: list[str] = []
    saved = next(iter(kept.saved), None) or Saved(0, "", {})
    to_write: list[str] = []
    for key in WANTED:
        try:
            now = (_FOLDER / key).read_text().strip()
        except FileNotFoundError:
            errors.append(
                f"there is no {_NAME}.{key}: {_WITHOUT[key]}; load nf_conntrack "
                "(`modprobe nf_conntrack`) and restart arbiter, or use a kernel that has it"
            )
            continue
        except OSError as error:
            errors.append(sysctlnotes.cannot("read", _place(key), key, error))
            continue
        if now == "0":
            saved.was[key] = now
            to_write.append(key)
    try:
        if to_write:
            kept.saved = [saved]
            sysctlnotes.store(file, kept)  # first: see `sysctlnotes`
    except OSError as error:
        return (
            *errors,
            f"{file}: the old sysctls cannot be kept, so none is set: {error}; "
            f"{_WITHOUT['nf_conntrack_acct']}",
        )
    for key in to_write:
        try:
            (_FOLDER / key).write_text(WANTED[key])
        except OSError as error:
            errors.append(sysctlnotes.cannot("set", _place(key), key, error))
    return tuple(errors)


def restore(file: Path = FILE) -> tuple[str, ...]:
    """Give the old values back and forget them; () if all is as it was before arbiter.

    What another program changed since is left as it is and said. May be repeated.
    """
    kept, problem = sysctlnotes.load(file, f"{_NAME}.nf_conntrack_acct")
    if problem:
        return (problem,)
    place = _place("nf_conntrack_acct")
    said = [text for s in kept.saved for text in sysctlnotes.give_back(place, s.was, WANTED)]
    return (*said, *sysctlnotes.remove(file))


def _place(key: str) -> sysctlnotes.Place:
    return sysctlnotes.Place(_FOLDER, _NAME, _WITHOUT[key])
