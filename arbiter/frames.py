"""A captured frame to the IP packet in it. Pure and total: never raises.

The link layers are those that people capture on: Ethernet with VLAN tags and PPPoE, Linux "cooked"
(the `any` device), bare IP (tun, wireguard), loopback of BSD and macOS, PPP. Numbers are those of
https://www.tcpdump.org/linktypes.html; the IP packet itself is for `arbiter.packets`.
"""

from __future__ import annotations

import struct
from typing import Final

NO_IP: Final = "no IP packet (ARP and the like)"
SHORT: Final = "a frame cut short before its IP header"
UNKNOWN: Final = "a frame of a link type that is not known here"
TAGS: Final = "more VLAN tags than any network has"
MAX_TAGS: Final = 8

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN = frozenset({0x8100, 0x88A8, 0x9100, 0x9200})  # IEEE 802.1Q, 802.1ad, and older ones
_PPPOE = 0x8864  # RFC 2516 5: session stage
_PPP = frozenset({0x0021, 0x0057})  # RFC 1332, RFC 5072
_FAMILIES = frozenset({2, 10, 24, 28, 30})
"""AF_INET; AF_INET6 of Linux, NetBSD and OpenBSD, FreeBSD, macOS."""

_word = struct.Struct("!H").unpack_from

_NULL, _ETHERNET, _PPP_LINK, _LOOP, _SLL, _SLL2 = 0, 1, 9, 108, 113, 276
_RAW = frozenset({12, 14, 101, 228, 229})
"""LINKTYPE_RAW, what DLT_RAW is in older files (12, and 14 of OpenBSD), IPV4 and IPV6."""


def ip_packet(linktype: int, frame: bytes) -> bytes | str:
    """The IP packet in `frame`, from its header on; or why none can be read: one of a few texts."""
    if linktype == _ETHERNET:
        return _ethertype(frame, 12)
    if linktype in _RAW:
        return frame if frame and frame[0] >> 4 in (4, 6) else NO_IP if frame else SHORT
    if linktype == _SLL:  # LINKTYPE_LINUX_SLL: the protocol is its last field, 16 bytes in all
        return _ethertype(frame, 14)
    if linktype == _SLL2:  # here it is the first of 20
        if len(frame) < 20:
            return SHORT
        return _ethertype(frame[:2] + frame[20:], 0)
    if linktype in (_NULL, _LOOP):
        if len(frame) < 4:
            return SHORT
        family = frame[:4]  # of the machine that captured: either order
        known = int.from_bytes(family, "little") in _FAMILIES or int.from_bytes(family) in _FAMILIES
        return frame[4:] if known else NO_IP
    if linktype == _PPP_LINK:
        return _ppp(frame[2:] if frame[:2] == b"\xff\x03" else frame)  # RFC 1662 3.1
    return UNKNOWN


def _ethertype(frame: bytes, at: int) -> bytes | str:
    """What follows the EtherType at `at`, behind any VLAN tags."""
    for _ in range(MAX_TAGS):
        if len(frame) < at + 2:
            return SHORT
        kind = _word(frame, at)[0]
        at += 2
        if kind in (_IPV4, _IPV6):
            return frame[at:] if len(frame) > at else SHORT
        if kind == _PPPOE:
            return _ppp(frame[at + 6 :])
        if kind not in _VLAN:
            return NO_IP
        at += 2  # the tag itself; its EtherType follows
    return TAGS


def _ppp(frame: bytes) -> bytes | str:
    """What follows a PPP protocol number, which may be one byte (RFC 1661 6.5)."""
    if frame[:1] and frame[0] & 1:
        kind, rest = frame[0], frame[1:]
    elif len(frame) >= 2:
        kind, rest = _word(frame, 0)[0], frame[2:]
    else:
        return SHORT
    if kind not in _PPP:
        return NO_IP
    return rest or SHORT
