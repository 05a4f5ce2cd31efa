"""Values that a D-Bus service sent, taken as what they should be, or as unknown. Pure, and total.

A service may be broken, replaced or years newer than we are: a value of a wrong type, length or
range is a fact that nobody has said. Nothing here raises, whatever it is given.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterable, Iterator, Mapping

from arbiter.linkfiles import APN, SIM

MAX_INTERFACES = 64
"""Interfaces, and so devices, that facts are kept of."""
MAX_ADDRESSES = 16
"""DNS servers of one interface."""
MAX_TEXT = 64
"""Characters of an operator's name; what is longer is cut."""
MAX_SSID = 32
"""Bytes (IEEE 802.11-2020, 9.4.2.2)."""
MAX_PATH = 255
"""Characters of an object path: ours to choose, the D-Bus specification has no limit."""
_PATH = re.compile(r"(?:/[A-Za-z0-9_]+)+")
_IFNAMSIZ = 16  # with the final NUL: linux/if.h
_NO_NAME = re.compile(r"[/:\s\x00\ud800-\udfff]")


def table(value: object) -> Mapping[str, object]:
    """A dictionary with text keys (a{sv}), else an empty one."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return value
    return {}


def items(value: object, most: int) -> Iterator[object]:
    """The first `most` elements of an array or struct, else nothing."""
    return iter(value[:most]) if isinstance(value, list | tuple) else iter(())


def number(value: object) -> int | None:
    """A number, which a boolean is not."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def text(value: object, most: int = MAX_TEXT) -> str:
    """Text of at most `most` characters, cut where it is longer; "" where it is none."""
    return value[:most] if isinstance(value, str) else ""


def path(value: object) -> str:
    """An object path, "" where it is none: also for "/", by which services mean "no object"."""
    if isinstance(value, str) and len(value) <= MAX_PATH and _PATH.fullmatch(value):
        return value
    return ""


def interface(value: object) -> str:
    """An interface name that the kernel could have (net/core/dev.c, dev_valid_name), else ""."""
    if not isinstance(value, str) or value in ("", ".", "..") or _NO_NAME.search(value):
        return ""
    return value if len(value.encode()) < _IFNAMSIZ else ""


def ssid(value: object) -> str:
    """A wifi network's name (ay); bytes that are no UTF-8 become surrogates (PEP 383)."""
    if not isinstance(value, bytes | bytearray) or len(value) > MAX_SSID:
        return ""
    return bytes(value).decode(errors="surrogateescape")


def iccid(value: object) -> str:
    """A SIM's number: 18 to 20 digits. The card fills its last byte up with F, some modems tell."""
    digits = value.rstrip("Ff") if isinstance(value, str) and len(value) <= MAX_TEXT else ""
    return digits if SIM.fullmatch(digits) else ""


def apn(value: object) -> str:
    """An access point name, as `links.d` may name it."""
    return value if isinstance(value, str) and APN.fullmatch(value) else ""


def address(value: object) -> bytes:
    """An IP address, packed: from bytes, from text, or from NetworkManager's number; else b""."""
    if isinstance(value, bytes | bytearray):
        return bytes(value) if len(value) in (4, 16) else b""
    if isinstance(value, str) and len(value) <= MAX_TEXT:
        try:
            return ipaddress.ip_address(value).packed
        except ValueError:
            return b""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32:
        # IP4Config.Nameservers (au): the four bytes in network order, read as a number here.
        return struct.pack("=I", value)
    return b""


def addresses(values: Iterable[object]) -> tuple[bytes, ...]:
    """Those that are addresses, each once, in order; MAX_ADDRESSES at most."""
    found = dict.fromkeys(packed for value in values if (packed := address(value)))
    return tuple(found)[:MAX_ADDRESSES]
