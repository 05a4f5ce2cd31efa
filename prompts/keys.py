"""Bytes from a terminal to keys. Pure; ECMA-48 sequences, UTF-8, and bracketed paste.

What is pasted never becomes keys: a clipboard that holds an "a" must not allow anything.
"""

from __future__ import annotations

import codecs

PASTE_ON = "\x1b[?2004h"
PASTE_OFF = "\x1b[?2004l"
_PASTE_START, _PASTE_END = b"\x1b[200~", b"\x1b[201~"
_NAMES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1bOC": "right",
    b"\x1bOD": "left",
}
_CONTROLS = {"\r": "enter", "\n": "enter", " ": "space", "\x7f": "backspace", "\x08": "backspace",
             "\x04": "ctrl-d", "\x0c": "ctrl-l"}  # fmt: skip
_MAX_SEQUENCE = 32


class KeyDecoder:
    """`feed` what was read, get the keys: one character each, or a name ("enter", "esc", "up").

    A sequence nobody bound is "unknown", a paste is "paste". A lone Esc cannot be told from the
    start of a sequence: it stays `pending` until `flush`, some 100 ms later.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._pasting = False
        self._text = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def pending(self) -> bool:
        """An Esc waits for what follows."""
        return self._rest == b"\x1b"

    def flush(self) -> list[str]:
        """Nothing followed: the Esc was the Esc key."""
        if not self.pending:
            return []
        self._rest = b""
        return ["esc"]

    def feed(self, data: bytes) -> list[str]:
        """Every key that `data` completes. Never raises."""
        data, self._rest = self._rest + data, b""
        keys: list[str] = []
        while data:
            if self._pasting:
                data = self._skip_paste(data)
            elif data[:1] != b"\x1b":
                text, escape, data = data.partition(b"\x1b")
                keys += [_CONTROLS.get(c) or _printable(c) for c in self._text.decode(text)]
                data = escape + data
            else:
                length = _sequence_length(data)
                if not length:
                    self._rest = data
                    break
                sequence, data = data[:length], data[length:]
                if sequence == _PASTE_START:
                    self._pasting = True
                    keys.append("paste")
                else:
                    keys.append(_NAMES.get(sequence, "unknown"))
        return keys

    def _skip_paste(self, data: bytes) -> bytes:
        _, end, after = data.partition(_PASTE_END)
        if end:
            self._pasting = False
            return after
        self._rest = data[-(len(_PASTE_END) - 1) :]
        return b""


def _printable(char: str) -> str:
    return char if char.isprintable() else "unknown"


def _sequence_length(data: bytes) -> int:
    """Bytes of the escape sequence at the start of `data`; 0 if it is not complete."""
    if len(data) < 2:
        return 0
    if data[1:2] == b"O":
        return 3 if len(data) > 2 else 0
    if data[1:2] != b"[":
        return 2  # Alt and a key: bound to nothing, so it answers nothing
    for index in range(2, min(len(data), _MAX_SEQUENCE)):
        if 0x40 <= data[index] <= 0x7E:
            return index + 1
        if not 0x20 <= data[index] <= 0x3F:
            return index  # broken off by something that cannot belong to it
    return _MAX_SEQUENCE if len(data) >= _MAX_SEQUENCE else 0
