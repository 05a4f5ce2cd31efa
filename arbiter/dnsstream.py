"""IP packets from a resolver to whole DNS messages: pure, bounded; never raises.

UDP is a message a packet. Over TCP each message has its length in front (RFC 1035 4.2.2) and may
come in any number of segments, seen here in front of the kernel's own TCP: late, twice, or in
another order. A connection is read from its SYN+ACK on, so that its first byte is known.

What is lost here is a name, never a packet: everything odd is left out, with a reason. The
kernel has put fragments together and thrown out what is not of a known connection (nf_defrag and
nf_conntrack come first), so headers are read for where they end only.
"""

from __future__ import annotations

import struct
from typing import Final

from msgspec import Struct

PORT: Final = 53
MAX_STREAMS: Final = 32
"""TCP connections read at a time; a new one takes the place of the oldest."""
MAX_MESSAGE: Final = 16384
"""Bytes of a TCP message that are kept: what is longer counts as cut there."""
MAX_AHEAD: Final = 8
"""Segments of a connection kept until what comes before them is there; further ones are dropped,
and the connection is not understood any more."""

_UDP, _TCP = 17, 6
_FIN, _SYN, _RST = 1, 2, 4
_word = struct.Struct("!H").unpack_from
_long = struct.Struct("!I").unpack_from
_CIRCLE = 1 << 32
"""TCP sequence numbers count modulo this (RFC 9293 3.4)."""


class Message(Struct, frozen=True, gc=False):
    """A DNS message, from its header on, and the address it came from (packed)."""

    resolver: bytes
    data: bytes
    cut: bool = False
    """Its end is not there."""


class Reader:
    """Packets in, messages out. Holds MAX_STREAMS * (MAX_MESSAGE + MAX_AHEAD * packet) bytes at
    most: 1.8 MB with packets of 4 kB, the queue's limit."""

    def __init__(self) -> None:
        self._streams: dict[tuple[bytes, bytes, int], _Stream] = {}

    def __len__(self) -> int:
        """TCP connections being read."""
        return len(self._streams)

    def feed(self, packet: bytes) -> list[Message] | str:
        """The messages that are complete with this IP packet (its first bytes at least), or why
        it is none of a resolver's: in one clause, never copied from the packet."""
        size = len(packet)
        version = packet[0] >> 4 if packet else 0
        if version == 4 and size >= 20:
            at, total, proto = (packet[0] & 15) * 4, _word(packet, 2)[0], packet[9]
            resolver, local = packet[12:16], packet[16:20]
            if at < 20 or _word(packet, 6)[0] & 0x3FFF:
                return "an IPv4 header too short, or a fragment"
        elif version == 6 and size >= 40:
            at, total, proto = 40, 40 + _word(packet, 4)[0], packet[6]
            resolver, local = packet[8:24], packet[24:40]
        else:
            return "no IP packet"
        if proto == _UDP and size >= at + 8 and _word(packet, at)[0] == PORT:
            end = at + _word(packet, at + 4)[0]
            if not at + 8 <= end <= total:
                return "a UDP length that cannot be"
            return [Message(resolver, packet[at + 8 : end], size < end)]
        if proto == _TCP and size >= at + 20 and _word(packet, at)[0] == PORT:
            data = at + (packet[at + 12] >> 4) * 4
            if not at + 20 <= data <= total:
                return "a TCP header length that cannot be"
            key = (resolver, local, _word(packet, at + 2)[0])
            lost = max(0, total - max(size, data))
            return self._segment(key, packet, at, packet[data:total], lost)
        return "not of a resolver's port, cut short, or behind IPv6 extension headers"

    def _segment(
        self, key: tuple[bytes, bytes, int], packet: bytes, at: int, data: bytes, lost: int
    ) -> list[Message]:
        """A segment with `data`, whose last `lost` bytes were not copied to us."""
        seq, flags = _long(packet, at + 4)[0], packet[at + 13]
        stream = self._streams.get(key)
        if flags & _SYN:
            if stream is not None and stream.expects == (seq + 1) % _CIRCLE:
                return []  # sent again: our side's ACK was lost
            self._streams.pop(key, None)
            if len(self._streams) >= MAX_STREAMS:
                del self._streams[next(iter(self._streams))]
            seq += 1  # the SYN has a number of its own; data may follow it (RFC 7413)
            stream = self._streams[key] = _Stream(seq % _CIRCLE)
        if stream is None:  # begun before we listened: where its messages begin is not known
            return []
        found = [Message(key[0], *part) for part in stream.take(seq % _CIRCLE, data, lost)]
        if flags & _RST or stream.broken or (flags & _FIN and not stream.ahead):
            self._streams.pop(key, None)
        return found


class _Stream:
    """One direction of a TCP connection: its bytes in order, and what came too early."""

    __slots__ = ("_buffer", "_skip", "ahead", "broken", "expects")

    def __init__(self, expects: int) -> None:
        self.expects = expects
        """The number of the next byte."""
        self.ahead: dict[int, tuple[bytes, int]] = {}
        self.broken = False
        self._buffer = bytearray()
        self._skip = 0

    def take(self, seq: int, data: bytes, lost: int) -> list[tuple[bytes, bool]]:
        """(message, whether it is cut) for each one that ends with this segment."""
        found: list[tuple[bytes, bool]] = []
        waiting: tuple[int, bytes, int] | None = (seq, data, lost)
        while waiting and not self.broken:
            seq, data, lost = waiting
            early = (seq - self.expects) % _CIRCLE
            if early >= _CIRCLE // 2:  # sent again: only what is new of it
                data = data[_CIRCLE - early :]
            elif early:
                if len(self.ahead) < MAX_AHEAD:
                    self.ahead[seq] = (data, lost)
                else:
                    self.broken = True
                return found
            self.expects = (self.expects + len(data)) % _CIRCLE
            self._append(data, found)
            if lost:
                self._hole(found)
            waiting = self._next()
        return found

    def _next(self) -> tuple[int, bytes, int] | None:
        for seq in self.ahead:
            if (self.expects - seq) % _CIRCLE < _CIRCLE // 2:
                return (seq, *self.ahead.pop(seq))
        return None

    def _append(self, data: bytes, found: list[tuple[bytes, bool]]) -> None:
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._buffer += data[skipped:]
        while len(self._buffer) >= 2:
            end = 2 + _word(self._buffer)[0]
            here = len(self._buffer)
            if here < end and here < 2 + MAX_MESSAGE:
                return
            found.append((bytes(self._buffer[2 : min(end, here)]), here < end))
            self._skip = max(0, end - here)
            del self._buffer[: min(end, here)]

    def _hole(self, found: list[tuple[bytes, bool]]) -> None:
        """Bytes are missing for good: what is there of the message counts, nothing after it."""
        if len(self._buffer) > 2:
            found.append((bytes(self._buffer[2:]), True))
        self.broken = True
