"""The lab's DNS answers: bytes in, bytes out (RFC 1035). Pure and total: never raises.

Written by hand because a server must answer what a resolver of any kind sends, and the few
lines it takes are easier to trust than a general parser of hostile packets.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping

A, AAAA, ANY = 1, 28, 255
_NOERROR, _FORMERR, _NXDOMAIN, _NOTIMP = 0, 1, 3, 4
_HEADER = struct.Struct("!6H")
TTL = 60
"""Seconds an answer may be kept."""


def lookup(names: Mapping[str, tuple[str, ...]], name: str) -> tuple[str, ...] | None:
    """Addresses of `name` (lower case, no final dot): its own, or its nearest wildcard's."""
    if name in names:
        return names[name]
    rest = name
    while "." in rest:
        rest = rest.split(".", 1)[1]
        if f"*.{rest}" in names:
            return names[f"*.{rest}"]
    return None


def question(query: bytes) -> tuple[str, int, int] | None:
    """(name, type, offset after the question) of a query; None for what is not one.

    The name is lower-cased ASCII; odd bytes become U+FFFD and thus match nothing. Compression
    (RFC 1035 4.1.4) has no place in a first name and is refused.
    """
    if len(query) < 12 or query[2] & 0x80 or _HEADER.unpack_from(query)[2] != 1:
        return None
    labels, at = [], 12
    while at < len(query) and 0 < query[at] < 64:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace").lower())
        at += 1 + query[at]
    # 255 octets at most for a name (RFC 1035 2.3.4); what follows its root label is type, class.
    if at + 5 > len(query) or query[at] != 0 or at - 11 > 255:
        return None
    return ".".join(labels), int.from_bytes(query[at + 1 : at + 3], "big"), at + 5


def reply(query: bytes, names: Mapping[str, tuple[str, ...]]) -> bytes | None:
    """The answer to `query`, or None where there is nothing to answer (not a DNS header, a reply).

    Malformed questions get FORMERR and other opcodes NOTIMP, as RFC 1035 4.1.1 has it. An EDNS
    record is ignored, which tells the resolver that there is no EDNS here (RFC 6891 7).
    """
    if len(query) < 12 or query[2] & 0x80:
        return None
    if query[2] & 0x78:
        return _header(query, _NOTIMP, 0, 0)
    asked = question(query)
    if asked is None:
        return _header(query, _FORMERR, 0, 0)
    name, kind, end = asked
    known = lookup(names, name)
    wanted = {4: A, 6: AAAA}
    found = [ipaddress.ip_address(a) for a in known or ()]
    records = [a for a in found if kind in (wanted[a.version], ANY)]
    body = b"".join(
        # 0xC00C: the name at offset 12, the question's own.
        struct.pack("!HHHIH", 0xC00C, wanted[a.version], 1, TTL, len(a.packed)) + a.packed
        for a in records
    )
    code = _NXDOMAIN if known is None else _NOERROR
    return _header(query, code, 1, len(records)) + query[12:end] + body


def _header(query: bytes, code: int, questions: int, answers: int) -> bytes:
    # QR and AA; the query's RD is copied, RA set: stub resolvers want a recursive server.
    flags = 0x8480 | (query[2] & 0x01) << 8 | (query[2] & 0x78) << 8 | code
    return _HEADER.pack(int.from_bytes(query[:2], "big"), flags, questions, answers, 0, 0)
