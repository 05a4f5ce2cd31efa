"""Takes messages that are too large out of a D-Bus stream, before anybody parses them. Pure.

Every local user may send signals of up to 32 MiB to every connection of the system bus
(system.conf: `allow send_type="signal"`; max_message_size), and one of 2.6 MB in small pieces took
the parser 0.3 s, in which no verdict would be given. What we wait for is small.
"""

from __future__ import annotations

import struct

_RETURN = 2
"""METHOD_RETURN. Only what we called may send one (system.conf: send_requested_reply)."""
MOST_RETURN = 1 << 20
"""Bytes of an answer: NetworkManager's with 1000 access points in sight is a third of it."""
MOST = 1 << 16
"""Bytes of every other message: signals, errors, calls."""
_HEADER = 16
"""Bytes up to the header's fields: endianness, type, flags, version, body length, serial, length of
the fields (D-Bus specification, "Message Format")."""
_LENGTHS = {b"l": struct.Struct("<4xI4xI"), b"B": struct.Struct(">4xI4xI")}


class Sieve:
    """Bytes in, bytes out: whole messages are missing, the others untouched."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0
        """Bytes of the message under way that are still to come."""
        self._passing = True
        self.dropped = 0
        """Messages that were too large."""

    def feed(self, data: bytes) -> bytes:
        """What of the next bytes of the stream, in any portions, goes on to the parser."""
        out = bytearray()
        at = 0
        while at < len(data):
            if self._left:
                part = data[at : at + self._left]
                self._left -= len(part)
                at += len(part)
                if self._passing:
                    out += part
                continue
            missing = _HEADER - len(self._head)
            self._head += data[at : at + missing]
            at += missing
            if len(self._head) == _HEADER:
                self._begin()
                if self._passing:
                    out += self._head
                self._head.clear()
        return bytes(out)

    def _begin(self) -> None:
        lengths = _LENGTHS.get(bytes(self._head[:1]))
        if lengths is None:
            # No D-Bus: the parser is to see that and end the connection. Nothing is awaited.
            self._passing = True
            return
        body, fields = lengths.unpack_from(self._head)
        self._left = -(-fields // 8) * 8 + body
        most = MOST_RETURN if self._head[1] == _RETURN else MOST
        self._passing = _HEADER + self._left <= most
        self.dropped += not self._passing
