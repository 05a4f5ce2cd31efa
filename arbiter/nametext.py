"""What hosts(5) and resolv.conf(5) say, as values. Pure and bounded; never raises.

Odd lines are skipped as the C library skips them: these files are not ours to judge.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from arbiter.hostname import host_name

MAX_HOSTS: Final = 4096
"""Addresses taken from a hosts file."""
MAX_HOST_NAMES: Final = 16
"""Names of one address."""
MAX_RESOLVERS: Final = 16
_MAPPED = b"\0" * 10 + b"\xff\xff"
_SINKS = (b"0.0.0.0", b"127.")
"""How the lines of lists of unwanted names begin, of which there may be a million. Nothing to these
addresses is ever decided."""


def read_hosts(lines: Iterable[bytes]) -> dict[bytes, tuple[str, ...]]:
    """{packed address: names} of a hosts file's lines; IPv4-mapped addresses as IPv4."""
    found: dict[bytes, dict[str, None]] = {}
    for line in lines:
        if line.startswith(_SINKS):
            continue
        words = line.partition(b"#")[0].split()
        if len(words) < 2 or (address := _address(words[0])) is None:
            continue
        if address not in found and len(found) >= MAX_HOSTS:
            break
        names = found.setdefault(address, {})
        for word in words[1:]:
            if len(names) < MAX_HOST_NAMES and (name := host_name(word.lower().rstrip(b"."))):
                names[name] = None
    return {address: tuple(names) for address, names in found.items() if names}


def read_resolvers(lines: Iterable[bytes]) -> tuple[bytes, ...]:
    """The packed name server addresses of resolv.conf's lines, without zones.

    Where there are none the C library asks this host itself (resolv.conf(5)): 127.0.0.1 then.
    """
    found: dict[bytes, None] = {}
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == b"nameserver" and len(found) < MAX_RESOLVERS:
            address = _address(words[1])
            if address is not None:
                found[address] = None
    return tuple(found) or (b"\x7f\0\0\1",)


def _address(word: bytes) -> bytes | None:
    try:
        packed = ipaddress.ip_address(word.partition(b"%")[0].decode("ascii")).packed
    except ValueError:  # no address, or not even ASCII: the line is none
        return None
    return packed[12:] if len(packed) == 16 and packed.startswith(_MAPPED) else packed
