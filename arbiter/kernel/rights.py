"""What this process may do: the capabilities the daemon keeps, and the rest given up for good.

Called before the first thread: capabilities are a thread's own (capabilities(7)). What is started
later (nft, iptables) has no more: as root it would get the whole bounding set back at execve.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
}
"""Those we speak of: their bits in the sets (linux/capability.h)."""
NEEDED = {
    "CAP_NET_ADMIN": "queue, ruleset, routes, conntrack, sysctls of links",
    "CAP_SYS_PTRACE": "executable, descriptors and namespaces of other users' processes",
    "CAP_DAC_READ_SEARCH": "/proc/PID/fd, whose mode lets only its user in, and files by which "
    "programs are known",
    "CAP_NET_RAW": "iptables-legacy talks to the kernel through a raw socket",
}
"""What the daemon keeps, and what for."""
UMASK = 0o027
"""Files of the daemon are for root and its group, whatever the mask of who started it."""

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 24, 38, 47  # linux/prctl.h
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two words of 32 bits a set
_CAP_SETPCAP = 8
_libc = ctypes.CDLL(None, use_errno=True)


def held(name: str = "CapEff") -> int:
    """A set of this thread's capabilities as bits (proc(5): CapEff, CapPrm, CapBnd, ...)."""
    status = Path("/proc/thread-self/status").read_text(encoding="ascii", errors="replace")
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value, 16)
    raise ValueError(f"/proc/thread-self/status has no {name}")


def has(capability: str) -> bool:
    """Whether a capability of CAPABILITIES is in force."""
    return bool(held() >> CAPABILITIES[capability] & 1)


def confine(also: Iterable[str] = ()) -> None:
    """Keep NEEDED and `also`, give up every other capability, and let no program give more.

    Sets the umask, too. Raises OSError where the kernel refuses, which it does not on any that
    has these calls. Where we may not narrow the bounding set (no CAP_SETPCAP), who started us
    did, or a program that we start as root could have what is left in it.
    """
    os.umask(UMASK)
    keep = sum(1 << CAPABILITIES[name] for name in {*NEEDED, *also})
    if held() >> _CAP_SETPCAP & 1:
        for bit in range(held("CapBnd").bit_length()):
            if held("CapBnd") >> bit & 1 and not keep >> bit & 1:
                _check(_libc.prctl(_PR_CAPBSET_DROP, *_longs(bit)), "PR_CAPBSET_DROP")
    _check(
        _libc.prctl(_PR_CAP_AMBIENT, *_longs(_PR_CAP_AMBIENT_CLEAR_ALL)),
        "PR_CAP_AMBIENT_CLEAR_ALL",
    )
    left = held("CapPrm") & keep
    words = [left >> shift & 0xFFFFFFFF for shift in (0, 32)]
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(words[0], words[0], 0, words[1], words[1], 0)
    _check(_libc.capset(header, sets), "capset")
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, *_longs(1)), "PR_SET_NO_NEW_PRIVS")


def _longs(first: int) -> tuple[ctypes.c_ulong, ...]:
    """prctl's four arguments: unused ones must be 0, and are read as long."""
    return tuple(ctypes.c_ulong(value) for value in (first, 0, 0, 0))


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
