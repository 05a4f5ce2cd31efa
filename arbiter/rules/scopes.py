"""Which part of the address space an address lies in. Every address is in exactly one scope.

What is not known to be near is `internet`: the scope that people allow least lightly. That
holds for shared carrier addresses (100.64.0.0/10, RFC 6598: the provider's, not one's own),
for deprecated site-local ones (fec0::/10, RFC 3879), NAT64, 6to4 and reserved blocks.
"""

from __future__ import annotations

from typing import Final

from arbiter.rules.rule import ScopeName, plain

_LAN, _INTERNET = ScopeName.LAN, ScopeName.INTERNET
_MULTICAST, _LOOPBACK = ScopeName.MULTICAST, ScopeName.LOOPBACK

_FIRST4 = {
    10: _LAN,  # RFC 1918
    127: _LOOPBACK,  # RFC 1122 3.2.1.3
    **dict.fromkeys(range(224, 240), _MULTICAST),  # RFC 5771
}
_FIRST6 = {
    0xFC: _LAN,  # unique local, RFC 4193
    0xFD: _LAN,
    0xFF: _MULTICAST,  # RFC 4291 2.7
}


LAN: Final = (
    (bytes((10, 0, 0, 0)), 8),
    (bytes((172, 16, 0, 0)), 12),
    (bytes((192, 168, 0, 0)), 16),
    (bytes((169, 254, 0, 0)), 16),
    (b"\xff\xff\xff\xff", 32),
    (b"\xfc" + bytes(15), 7),
    (b"\xfe\x80" + bytes(14), 10),
)
"""Packed addresses with so many bits: all of the scope start with one of them, and no others."""
LOOPBACK: Final = (
    (bytes((127, 0, 0, 0)), 8),
    (bytes(4), 32),
    (bytes(16), 127),
)
MULTICAST: Final = ((bytes((224, 0, 0, 0)), 4), (b"\xff" + bytes(15), 8))


def scope_of(daddr: bytes) -> ScopeName:
    """lan, internet, multicast or loopback, for a packed address; ValueError if it is none.

    The unspecified address is loopback, because that is where Linux takes it
    (net/ipv4/route.c, ip_route_output_key_hash_rcu). Limited broadcast never leaves the LAN.
    """
    daddr = plain(daddr)
    if len(daddr) == 4:
        return _FIRST4.get(daddr[0]) or _scope4(daddr)
    if len(daddr) == 16:
        return _FIRST6.get(daddr[0]) or _scope6(daddr)
    raise ValueError(f"an address has 4 or 16 bytes, not {len(daddr)}")


def _scope4(daddr: bytes) -> ScopeName:
    first, second = daddr[0], daddr[1]
    if first == 192 and second == 168:  # RFC 1918
        return _LAN
    if first == 172 and 16 <= second < 32:  # RFC 1918
        return _LAN
    if first == 169 and second == 254:  # link-local, RFC 3927
        return _LAN
    if daddr == b"\xff\xff\xff\xff":  # RFC 919
        return _LAN
    if daddr == bytes(4):
        return _LOOPBACK
    return _INTERNET


_UNSPECIFIED6 = bytes(16)
_LOOPBACK6 = bytes(15) + b"\x01"


def _scope6(daddr: bytes) -> ScopeName:
    if daddr[0] == 0xFE and daddr[1] & 0xC0 == 0x80:  # link-local, RFC 4291 2.5.6
        return _LAN
    if daddr in (_UNSPECIFIED6, _LOOPBACK6):
        return _LOOPBACK
    return _INTERNET
