"""A DNS message to what it says about addresses: pure, total, bounded; never raises.

What counts is what the asker was told about the name it asked for (RFC 1034 4.3.2): the chain of
CNAMEs is followed from the question, and an address counts only where its owner is on that
chain. Everything else in a message, however true, was not asked for and is not read: NS and glue,
other owners, other classes.

By hand, because this runs for every DNS answer before its program sees it: dnspython needs
thirteen times as long, and 8 MB. tests/test_dnswire.py holds the two together.

Bounded: MAX_RECORDS records of MAX_STEPS labels and pointers each, whatever the message claims.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from arbiter.hostname import host_name

MAX_RECORDS: Final = 256
"""Records looked at: as many addresses as a UDP answer of 4 kB can hold."""
MAX_STEPS: Final = 160
"""Labels and compression pointers of one name: 127 labels fit into 255 octets (RFC 1035 2.3.4),
and a chain of pointers that is longer than a few has no honest maker."""
MAX_CHAIN: Final = 16
"""CNAMEs followed; resolvers stop at about as many (BIND's max-query-restarts is 11)."""
MAX_TTL: Final = 0x7FFFFFFF
"""Seconds; a TTL with the highest bit set is 0 (RFC 2181 8)."""

_A, _CNAME, _AAAA, _SVCB, _HTTPS, _IN = 1, 5, 28, 64, 65, 1
_IPV4HINT, _IPV6HINT = 4, 6  # SvcParamKeys, RFC 9460 14.3.2
_MAPPED = b"\0" * 10 + b"\xff\xff"

_header = struct.Struct("!2xHHHHH").unpack_from
_fixed = struct.Struct("!HHIH").unpack_from
_word = struct.Struct("!H").unpack_from


class Answers(Struct, frozen=True, gc=False):
    """What the asker learned. `addresses` may be empty: no such records, or only `targets`."""

    name: str
    """The asked name: lower-case A-labels, no final dot. Of a service (`_443._https.x.example`)
    the host's: `x.example`."""
    addresses: tuple[bytes, ...] = ()
    """Packed, in the order of the message; IPv4-mapped ones as their IPv4 address, which is what
    packets to them carry."""
    ttl: int = 0
    """Seconds: the smallest of the records that led to the addresses."""
    targets: tuple[str, ...] = ()
    """Hosts that serve `name` (HTTPS and SVCB records, RFC 9460), to be asked for next."""
    truncated: bool = False
    """There was more; what is here is true all the same."""


class Unread(Struct, frozen=True, gc=False):
    """A message that teaches nothing, and why, in one clause; never copied from its bytes."""

    reason: str


class _MalformedError(Exception):
    """Why the message is Unread; caught in `answers`. Takes constant texts only."""


def answers(message: bytes, cut: bool = False) -> Answers | Unread:
    """What `message`, from its header on (no length prefix), tells its asker.

    `cut`: the end of the message is not there. Then, and where its TC bit says so, the whole
    records at its beginning count; any other malformed message is none, as its asker will say too.
    """
    try:
        return _answers(message, cut)
    except _MalformedError as malformed:
        return Unread(str(malformed))


# A name as a value: its labels, lower case (RFC 4343), each behind its length octet. Unlike text
# with dots it is unambiguous whatever bytes a label has.


def _answers(message: bytes, cut: bool) -> Answers | Unread:
    if len(message) < 12:
        return Unread("shorter than a header")
    flags, questions, count, authority, extra = _header(message)
    if not flags & 0x8000:
        return Unread("a question")
    if flags & 0x780F:  # opcode QUERY, rcode NOERROR
        return Unread("not an answer to a query, or an error")
    if questions != 1:
        return Unread("not exactly one question")
    asked, at = _name(message, 12)
    if at + 4 > len(message):
        return Unread("the question is cut short")
    kind, of_class = _word(message, at)[0], _word(message, at + 2)[0]
    if of_class != _IN:
        return Unread("not of the internet's class")
    name = host_name(_dotted(_host_of_service(asked) if kind in (_SVCB, _HTTPS) else asked))
    if name is None:
        return Unread("the asked name is no host name")
    # RFC 9460 4.2: a resolver adds what the asker of a service will need next.
    total = count + authority + extra if kind in (_SVCB, _HTTPS) else count
    found, whole = _records(message, at + 4, min(total, MAX_RECORDS), asked, count, authority)
    truncated = not whole or total > MAX_RECORDS or cut or bool(flags & 0x0200)
    if not whole and not cut and not flags & 0x0200:
        return Unread("a record is malformed")
    return _follow(name, asked, found, truncated)


def _host_of_service(asked: bytes) -> bytes:
    """Without the `_port._scheme` in front (RFC 9460 2.3)."""
    for _ in range(2):
        if len(asked) > 1 and asked[1] == 0x5F:  # "_"
            asked = asked[1 + asked[0] :]
    return asked


class _Found:
    """What the records said, by owner."""

    __slots__ = ("addresses", "cnames", "services")

    def __init__(self) -> None:
        self.addresses: list[tuple[bytes, bytes, int]] = []
        self.cnames: dict[bytes, tuple[bytes, int]] = {}
        self.services: list[tuple[bytes, bytes, list[bytes], int]] = []


def _records(
    message: bytes, at: int, total: int, asked: bytes, count: int, authority: int
) -> tuple[_Found, bool]:
    """Everything of use in the records from `at` on, and whether all of them were well-formed."""
    found, size = _Found(), len(message)
    known: dict[int, bytes] = {}
    try:
        for place in range(total):
            # Nearly every owner is a pointer: to the question, or to the last CNAME's target.
            if at + 12 <= size and message[at] >= 0xC0:
                pointer = _word(message, at)[0] & 0x3FFF
                owner = asked if pointer == 12 else known.get(pointer)
                if owner is None:
                    owner = known[pointer] = _name(message, at)[0]
                at += 2
            else:
                owner, at = _name(message, at)
            if at + 10 > size:
                return found, False
            kind, of_class, ttl, length = _fixed(message, at)
            at += 10
            end = at + length
            if end > size:
                return found, False
            if of_class == _IN and not count <= place < count + authority:
                _record(message, kind, owner, min(ttl, MAX_TTL + 1), at, end, found)
            at = end
    except _MalformedError:
        return found, False
    return found, True


def _record(
    message: bytes, kind: int, owner: bytes, ttl: int, at: int, end: int, found: _Found
) -> None:
    if ttl > MAX_TTL:
        ttl = 0
    if kind == _A:
        if end - at != 4:
            raise _MalformedError("an A record is not of 4 bytes")
        found.addresses.append((owner, message[at:end], ttl))
    elif kind == _AAAA:
        if end - at != 16:
            raise _MalformedError("an AAAA record is not of 16 bytes")
        found.addresses.append((owner, message[at:end], ttl))
    elif kind == _CNAME:
        target, after = _name(message, at)
        if after != end:
            raise _MalformedError("a CNAME record is not as long as its name")
        found.cnames.setdefault(owner, (target, ttl))
    elif kind in (_SVCB, _HTTPS):
        found.services.append((owner, *_service(message, owner, at, end), ttl))


def _service(message: bytes, owner: bytes, at: int, end: int) -> tuple[bytes, list[bytes]]:
    """(target, address hints) of an SVCB or HTTPS record (RFC 9460 2.2)."""
    if end - at < 3:
        raise _MalformedError("a service record is cut short")
    priority = _word(message, at)[0]
    target, at = _name(message, at + 2)
    hints: list[bytes] = []
    while at + 4 <= end and priority:  # priority 0: an alias, its parameters are ignored
        key, length = _word(message, at)[0], _word(message, at + 2)[0]
        at += 4
        if at + length > end:
            raise _MalformedError("a service parameter is cut short")
        width = {_IPV4HINT: 4, _IPV6HINT: 16}.get(key)
        if width:
            if not length or length % width:
                raise _MalformedError("an address hint is of an impossible length")
            hints += [message[i : i + width] for i in range(at, at + length, width)]
        at += length
    if at > end or (priority and at != end):
        raise _MalformedError("a service record is not as long as its parts")
    # "." is the owner itself (RFC 9460 2.5.2); as an alias it says that there is no service.
    return target or owner if priority else target, hints


def _follow(name: str, asked: bytes, found: _Found, truncated: bool) -> Answers:
    """The chain from the asked name, and the addresses of those on it."""
    chain: dict[bytes, int] = {asked: MAX_TTL}
    at, ttl = asked, MAX_TTL
    while at in found.cnames and len(chain) <= MAX_CHAIN:
        at, of_record = found.cnames[at]
        if at in chain:
            break
        chain[at] = ttl = min(ttl, of_record)
    targets: dict[bytes, int] = {}
    addresses: dict[bytes, None] = {}
    least = MAX_TTL
    for owner, target, hints, of_record in found.services:
        if owner in chain:
            until = min(chain[owner], of_record)
            if target and target not in chain:
                targets.setdefault(target, until)
            for hint in hints:
                addresses[_plain(hint)] = None
                least = min(least, until)
    for owner, address, of_record in found.addresses:
        until = chain.get(owner, targets.get(owner, -1))
        if until >= 0:
            addresses[_plain(address)] = None
            least = min(least, until, of_record)
    return Answers(
        name,
        tuple(addresses),
        least if addresses else min((ttl, *targets.values())),
        _texts(targets, name),
        truncated,
    )


def _texts(names: Iterable[bytes], but: str) -> tuple[str, ...]:
    texts = (host_name(_dotted(name)) for name in names)
    return tuple(dict.fromkeys(text for text in texts if text is not None and text != but))


def _plain(address: bytes) -> bytes:
    return address[12:] if len(address) == 16 and address.startswith(_MAPPED) else address


def _dotted(name: bytes) -> bytes:
    """For `host_name`, which must not take a dot within a label for a border: b"" then."""
    labels, at = [], 0
    while at < len(name):
        labels.append(name[at + 1 : at + 1 + name[at]])
        at += 1 + name[at]
    return b"" if any(b"." in label for label in labels) else b".".join(labels)


def _name(message: bytes, at: int) -> tuple[bytes, int]:
    """(the name at `at`, the offset behind it). Raises _MalformedError.

    A pointer must lead backwards (RFC 1035 4.1.4: to a prior occurrence), so no loop is possible.
    """
    parts: list[bytes] = []
    octets, after, lowest = 1, 0, at
    size = len(message)
    for _ in range(MAX_STEPS):
        if at >= size:
            raise _MalformedError("a name is cut short")
        length = message[at]
        if length == 0:
            return b"".join(parts).lower(), after or at + 1
        if length < 64:
            octets += 1 + length
            if at + 1 + length > size:
                raise _MalformedError("a name is cut short")
            if octets > 255:
                raise _MalformedError("a name is longer than 255 octets")
            parts.append(message[at : at + 1 + length])
            at += 1 + length
        elif length >= 0xC0:
            if at + 2 > size:
                raise _MalformedError("a name is cut short")
            after = after or at + 2
            at = _word(message, at)[0] & 0x3FFF
            if at >= lowest:
                raise _MalformedError("a compression pointer does not lead backwards")
            lowest = at
        else:  # RFC 6891 5: extended label types are obsolete
            raise _MalformedError("a label of an unknown type")
    raise _MalformedError("a name of too many parts")
