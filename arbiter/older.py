"""Connections that began while nobody decided: which are looked at, and what becomes of each.

Conntrack calls them established, and the ruleset lets what is established pass. So each is looked
at once the ruleset is in force: what a rule denies is marked as denied, and the ruleset refuses its
next packet; what no socket has any more is forgotten, or whoever gets its port would go on by it.
Everything else stays as it is: routing a connection that is open would break it.

Without a rule of anybody's that wants it a network namespace has no conntrack: then it knows none
of the connections that are open at the start, and takes one whose other side sends first for one
that came in. So connected sockets are looked at as well, and those that are denied are ended. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Set as AbstractSet

from msgspec import Struct

from arbiter.model import NoOwner, NoOwnerReason, Owner, Packet

NO_ID = -1
"""In place of a queue's id, in the `Packet` that stands for such a connection."""
_TCP, _UDP = 6, 17
_NO_SOCKET = frozenset({NoOwnerReason.CLOSED, NoOwnerReason.NO_SOCKET})
_KERNELS = frozenset({4, 41, 47, 50, 51, 97, 108, 115})
"""Protocols that the kernel itself speaks for tunnels and IPsec: without a socket, and for ever."""


class Here(Struct, frozen=True):
    """This host's addresses, packed."""

    own: AbstractSet[bytes]
    broadcast: AbstractSet[bytes] = frozenset()


class Older(Struct, frozen=True, gc=False):
    """An entry of conntrack that no verdict marked, or that is marked as denied since it is one."""

    packet: Packet
    """Its next one, as the queue would have it: from this host."""
    id: int
    """Conntrack's number for the entry."""
    original: bytes
    """Its CTA_TUPLE_ORIG."""
    denied: bool = False
    """It is marked as denied: by an earlier look."""
    over: bool = False
    """TCP that conntrack saw end: it carries nothing any more."""
    needed: bool = False
    """Others have a use for the entry: it must not be deleted."""
    untracked: bool = False
    """There is none: a socket that is connected, and that conntrack does not know, or only since
    the other side sent something in the middle of it. `id` and `original` say nothing."""


class Fate(enum.Enum):
    """What becomes of an entry."""

    STAYS = enum.auto()
    DENIED = enum.auto()
    """It is marked: the ruleset refuses its next packet. Without an entry its socket is ended."""
    FORGOTTEN = enum.auto()
    """It is deleted: what comes next is new, and decided."""


def began_here(packet: Packet, here: Here) -> bool:
    """Whether it goes from this host to another one, and is of what the ruleset has decided: not
    loopback, forwarded, multicast, broadcast, link-local IPv6, DHCP."""
    flow = packet.flow
    source, target = flow.saddr, flow.daddr
    if source not in here.own or target in here.own or _loops(source) or _loops(target):
        return False
    if target in here.broadcast or not any(target):
        return False
    if len(target) == 4:
        many = 224 <= target[0] < 240 or target == b"\xff\xff\xff\xff"
        dhcp = (68, 67)
    else:
        many = target[0] == 0xFF or (target[0] == 0xFE and target[1] & 0xC0 == 0x80)
        dhcp = (546, 547)
    return not many and not (flow.proto == _UDP and (flow.sport, flow.dport) == dhcp)


def gone(packet: Packet, owner: Owner | NoOwner) -> bool:
    """Whether nothing on this host sends it any more.

    TCP that the kernel finishes, in TIME_WAIT or without its process, is not gone yet. What only
    the kernel can have sent is not gone, where it may be a tunnel's.
    """
    if isinstance(owner, Owner) or owner.tunnels or owner.established:
        return False
    if owner.reason in _NO_SOCKET or owner.reason is NoOwnerReason.EXITED:
        return True
    # A socket without a file has an owner's uid; no socket at all has none.
    nobodys = owner.reason is NoOwnerReason.KERNEL and owner.uid is None
    return nobodys and packet.flow.proto not in _KERNELS


def fate(older: Older, owner: Owner | NoOwner, denied: bool) -> Fate:
    """What becomes of an entry whose connection is `owner`'s, and `denied` by a rule or not.

    What was denied and whose socket is gone ends by its time-out, but for TCP, whose entries live
    for days: the other side may be sending still, and its packet would begin an entry that came in.
    """
    if older.untracked:
        return Fate.DENIED if denied and not gone(older.packet, owner) else Fate.STAYS
    if gone(older.packet, owner):
        ends = older.denied and older.packet.flow.proto != _TCP
        return Fate.STAYS if older.needed or ends else Fate.FORGOTTEN
    if denied:
        return Fate.STAYS if older.denied or older.over else Fate.DENIED
    return Fate.FORGOTTEN if older.denied and not older.needed else Fate.STAYS


def _loops(address: bytes) -> bool:
    return address[0] == 127 if len(address) == 4 else address == bytes(15) + b"\1"
