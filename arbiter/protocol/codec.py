"""Messages to lines, and lines to messages. Sans-io: bytes in, what is complete out."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from arbiter.protocol.messages import ClientMessage, DaemonMessage, Message
from arbiter.protocol.text import clean
from arbiter.protocol.words import RefusedReason

MAX_MESSAGE = 65536
"""Bytes of one line, newline included; a longer one ends the connection."""


class ProtocolError(Exception):
    """A line that is not a message. `fatal`: the stream cannot be read on."""

    def __init__(self, reason: RefusedReason, text: str, fatal: bool = False) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.fatal = fatal


T = TypeVar("T")
_encoder = msgspec.json.Encoder()
_client: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
_daemon: msgspec.json.Decoder[DaemonMessage] = msgspec.json.Decoder(DaemonMessage)


def encode(message: Message) -> bytes:
    """One line, newline included."""
    return _encoder.encode(message) + b"\n"


class LineDecoder(Generic[T]):
    """Bytes to messages: `feed` what arrived, get what is complete, good and bad in order.

    Keeps at most MAX_MESSAGE bytes of an unfinished line; past that the error is fatal and
    everything fed later is ignored, because the place of the next line is unknown.
    """

    def __init__(self, decoder: msgspec.json.Decoder[T]) -> None:
        self._decoder = decoder
        self._rest = b""
        self._dead = False

    def feed(self, data: bytes) -> list[T | ProtocolError]:
        """Every message completed by `data`. Never raises."""
        if self._dead:
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        out: list[T | ProtocolError] = []
        for line in lines:
            if len(line) >= MAX_MESSAGE:
                return [*out, self._die()]
            if line.strip():
                out.append(self._decode(line))
        if len(self._rest) >= MAX_MESSAGE:
            out.append(self._die())
        return out

    def _decode(self, line: bytes) -> T | ProtocolError:
        try:
            return self._decoder.decode(line)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            text = f"not a message of this protocol: {clean(str(error))}; see docs/protocol.md"
            return ProtocolError(RefusedReason.MALFORMED, text)

    def _die(self) -> ProtocolError:
        self._dead, self._rest = True, b""
        text = f"a message may have {MAX_MESSAGE} bytes at most; the connection ends here"
        return ProtocolError(RefusedReason.TOO_LARGE, text, fatal=True)


def client_decoder() -> LineDecoder[ClientMessage]:
    """For the daemon: decodes what clients send."""
    return LineDecoder(_client)


def daemon_decoder() -> LineDecoder[DaemonMessage]:
    """For clients: decodes what the daemon sends."""
    return LineDecoder(_daemon)
