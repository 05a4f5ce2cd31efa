"""Messages of the kernel's queue, and what is in them: by the C of the fast path, and by the
decoder that all other packets go through."""

from __future__ import annotations

import struct
from typing import NamedTuple

from nativeharness import Harness

from arbiter.model import Flow, Hook, Packet
from arbiter.packets import _plain, decode

PACKET, HEAD, MARK, OUTDEV, PAYLOAD = 3 << 8, 1, 3, 6, 10
"""The message's type, and types of attributes (linux/netfilter/nfnetlink_queue.h)."""
OUT = 3
HEADER = struct.pack(">IHBx", 7, 0x0800, OUT)
_FOUND = struct.Struct("=BB2sII16s16s2s2xI")


class Read(NamedTuple):
    """What the C read."""

    id: int
    mark: int
    outdev: int
    flow: Flow


def attribute(kind: int, value: bytes, size: int | None = None) -> bytes:
    """One of netlink's; `size` is what it says of its own."""
    said = len(value) + 4 if size is None else size
    return struct.pack("=HH", said, kind) + value + bytes(-len(value) % 4)


def message(
    body: bytes, *, kind: int = PACKET, size: int | None = None, general: bytes = bytes(4)
) -> bytes:
    """One with these attributes; `size` is what it says of its own, `general` is its nfgenmsg."""
    said = len(body) + 20 if size is None else size
    return struct.pack("=IHHII", said, kind, 0, 0, 0) + general + body


def queued(payload: bytes, mark: int = 0xCA6C0001, outdev: int = 4, number: int = 7) -> bytes:
    """As the kernel writes it (nfqnl_build_packet_message)."""
    body = attribute(HEAD, struct.pack(">IHBx", number, 0x0800, OUT))
    body += attribute(OUTDEV, struct.pack(">I", outdev))
    body += attribute(MARK, struct.pack(">I", mark)) + attribute(16, bytes(8))
    return message(body + attribute(PAYLOAD, payload))


def read(harness: Harness, data: bytes) -> Read | None:
    """What the C reads; None for what it leaves alone."""
    said = harness.ask("p", data)
    if said == b"\0":
        return None
    assert said[0] == 1
    family, proto, dport, outdev, mark, saddr, daddr, sport, number = _FOUND.unpack(said[1:])
    size = {2: 4, 10: 16}[family]
    # Compared byte by byte: nothing may be left behind an IPv4 address.
    assert not any(saddr[size:] + daddr[size:])
    ports = int.from_bytes(sport, "big"), int.from_bytes(dport, "big")
    flow = Flow(proto, saddr[:size], ports[0], daddr[:size], ports[1])
    return Read(int.from_bytes(struct.pack("=I", number), "big"), mark, outdev, flow)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a message, of several of a type the last."""
    found, at = {}, 20
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        assert 4 <= size <= len(data) - at
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += -(-size // 4) * 4
    return found


def number(value: bytes | None) -> int:
    return int.from_bytes(value or b"", "big")


def expected(data: bytes) -> Read:
    """By the decoder that all other packets go through."""
    found = attributes(data)
    packet_id, _, hook = struct.unpack_from(">IHB", found[HEAD])
    assert hook == OUT
    packet = decode(found[PAYLOAD], id=packet_id, mark=number(found.get(MARK)))
    assert isinstance(packet, Packet)
    assert packet.flow.proto in (6, 17) and packet.opens and not packet.fragment
    return Read(packet.id, packet.mark, number(found.get(OUTDEV)), packet.flow)


def usual(payload: bytes) -> bool:
    """Whether it is one of those that are to be answered here."""
    packet = _plain(payload, 7, Hook.OUT, 0, 0, 0)
    return packet is not None and packet.flow.proto in (6, 17) and packet.opens
