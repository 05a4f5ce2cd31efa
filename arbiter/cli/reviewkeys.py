"""Single keys from a terminal, for a review: what may have been pasted is never a key."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LOOK_EVERY = 0.5
"""Seconds between looks at the terminal's size, while nobody presses a key."""
_ENTER = "\x1b[?1049h\x1b[?2004h"
"""xterm's control sequences: the alternate screen, so that what was on this one comes again, and
bracketed paste."""
_LEAVE = "\x1b[?2004l\x1b[?1049l"
_PASTE_START, _PASTE_END = b"\x1b[200~", b"\x1b[201~"
_NAMES = {"\r": "enter", "\n": "enter", "\x04": "q", " ": "space", "\x1b": "esc"}


class Keys:
    """Reads the keys of a terminal that `terminal` has prepared."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pasting = False

    def forget(self) -> None:
        """Drop what was typed before what is shown now could be read."""
        termios.tcflush(self._fd, termios.TCIFLUSH)

    def read(self) -> str:
        """The next key: one character, or a name. "" if there was none for a while; "q" at the
        end of the input.

        What comes in one piece was pasted, or is the sequence of a function key: "several".
        """
        if not select.select([self._fd], [], [], LOOK_EVERY)[0]:
            return ""
        data = os.read(self._fd, 4096)
        if not data:
            return "q"
        if self._pasting or _PASTE_START in data:
            self._pasting = data.rfind(_PASTE_END) < data.rfind(_PASTE_START)
            if _PASTE_START not in data:
                self._pasting = _PASTE_END not in data
            return "several"
        text = data.decode("utf-8", "replace")
        return _NAMES.get(text, text) if len(text) == 1 else "several"


def plain() -> bool:
    """Whether the terminal knows no control sequences."""
    return os.environ.get("TERM", "dumb") == "dumb"


@contextmanager
def terminal(fd: int) -> Iterator[Keys]:
    """Single keys from `fd`, unechoed, on a screen of their own; as it was before at the end,
    whatever ends it.

    SIGTERM ends it as Ctrl-C does, by KeyboardInterrupt. After a stop (Ctrl-Z) it is prepared
    again.
    """
    before = termios.tcgetattr(fd)

    def prepare(*_: object) -> None:
        tty.setcbreak(fd)
        _write(_ENTER)

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    kept = {number: signal.getsignal(number) for number in (signal.SIGCONT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGCONT, prepare)
        signal.signal(signal.SIGTERM, end)
        prepare()
        yield Keys(fd)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        _write(_LEAVE)
        for number, handler in kept.items():
            signal.signal(number, handler)


def _write(sequences: str) -> None:
    if not plain():
        sys.stdout.write(sequences)
        sys.stdout.flush()
