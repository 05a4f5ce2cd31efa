"""The tables of iptables-legacy as the kernel has them, read without a process: only to compare.

By getsockopt(2), as libiptc reads them (linux/netfilter_ipv4/ip_tables.h and its IPv6 sister).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from pathlib import Path

from msgspec import Struct

from arbiter.kernel.firewall.iptables import TABLES

MOST = 256 * 1024
"""Bytes of a table that are compared whole; of a larger one the number of rules and its size."""
_TRIES = 3
_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES; the same for IPv6
_INFO = struct.Struct("=32s11III")  # struct ipt_getinfo
_HEAD = 40  # struct ipt_get_entries, before its entries
_U16 = struct.Struct("=H")

_libc = ctypes.CDLL(None, use_errno=True)


class _Family(Struct, frozen=True):
    name: str
    domain: int
    level: int
    next_offset: int
    """Where an entry says how long it is (struct ipt_entry, struct ip6t_entry)."""
    counters: int
    """Where it counts: 16 bytes."""


_FAMILIES = (
    _Family("ip", socket.AF_INET, socket.IPPROTO_IP, 90, 96),
    _Family("ip6", socket.AF_INET6, socket.IPPROTO_IPV6, 142, 152),
)


def state() -> dict[tuple[str, str], bytes]:
    """(family, table) to what it has, without counters, of each table there is that arbiter uses.

    OSError where the kernel refuses: it wants CAP_NET_ADMIN.
    """
    found: dict[tuple[str, str], bytes] = {}
    for family in _FAMILIES:
        try:
            # Asking for a table that is not there would make it, for good.
            names = Path(f"/proc/thread-self/net/{family.name}_tables_names").read_text().split()
        except FileNotFoundError:
            continue
        tables = [table for table in TABLES if table in names]
        if tables:
            with socket.socket(family.domain, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                found |= {(family.name, t): _table(sock.fileno(), family, t) for t in tables}
    return found


def _table(fd: int, family: _Family, table: str) -> bytes:
    name = table.encode()
    for _ in range(_TRIES):
        info = _ask(fd, family.level, _GET_INFO, _INFO.pack(name, *[0] * 13))
        size = _INFO.unpack(info)[-1]
        if size > MOST:
            return info
        try:
            asked = struct.pack("=32sI4x", name, size) + bytes(size)
            return _bare(_ask(fd, family.level, _GET_ENTRIES, asked)[_HEAD:], family)
        except OSError as error:
            if error.errno != errno.EAGAIN:  # it has another size by now
                raise
    return info


def _ask(fd: int, level: int, option: int, value: bytes) -> bytes:
    buffer = ctypes.create_string_buffer(value, len(value))
    length = ctypes.c_uint32(len(value))
    if _libc.getsockopt(fd, level, option, buffer, ctypes.byref(length)):
        number = ctypes.get_errno()
        raise OSError(number, f"reading a table of iptables-legacy: {os.strerror(number)}")
    return buffer.raw


def _bare(entries: bytes, family: _Family) -> bytes:
    """The entries, each with its counters at 0."""
    bare, offset = bytearray(entries), 0
    while offset + family.counters + 16 <= len(bare):
        bare[offset + family.counters : offset + family.counters + 16] = bytes(16)
        (length,) = _U16.unpack_from(bare, offset + family.next_offset)
        if not length:
            break
        offset += length
    return bytes(bare)
