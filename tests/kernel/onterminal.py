"""A prompt as a person has it: `arbiter prompt` on a pty of its own, read all the time."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from types import TracebackType
from typing import Self

from running import ARBITER, Arbiter, eventually

from prompts.machine import GUARD_SECONDS, HELD_SECONDS

READ_SECONDS = max(GUARD_SECONDS, HELD_SECONDS) + 0.2
"""What a person takes to read a question, at the least."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?<>=]*[A-Za-z]|\x1b[()][0-9A-B]|\x1b[=>78]")


class OnTerminal:
    """`arbiter prompt KIND` beside a daemon; `said` is all it wrote, without escapes."""

    def __init__(self, arbiter: Arbiter, kind: str, columns: int = 120, lines: int = 40) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        env = os.environ | arbiter.command_environment()
        self.process = subprocess.Popen(
            [*ARBITER, "prompt", kind],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=env | {"TERM": "xterm-256color", "LANG": "C.UTF-8"},
        )
        os.close(slave)
        self._raw = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # EIO: the prompt has ended, pty(7)
                return
            self._raw += data

    @property
    def said(self) -> str:
        """Everything so far: a full screen is written in parts, so look for single words."""
        return _ESCAPES.sub("", self._raw.decode(errors="replace"))

    def sees(self, text: str, after: int = 0) -> int:
        """Wait for what it writes; gives how much it had written, for the next `after`."""
        eventually(lambda: text in self.said[after:], 20)
        return len(self.said)

    def key(self, keys: str) -> None:
        """Typed at once."""
        os.write(self._master, keys.encode())

    def end(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        code = self.process.wait(20)
        self._thread.join(10)
        os.close(self._master)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        code = self.end()
        assert error is not None or code == 128 + signal.SIGTERM, self.said
