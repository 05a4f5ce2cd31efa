"""The daemon that runs, for commands that do not need it: what it does without a rule."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from arbiter import protocol
from arbiter.protocol import Role, Welcome
from arbiter.settings import Fallback, Mode, Settings

PATIENCE = 2.0
"""Seconds that it is waited for."""


class Running(NamedTuple):
    """How a daemon was started: `arbiter run --mode` counts before the settings."""

    mode: Mode
    fallback: Fallback

    def over(self, settings: Settings) -> Settings:
        """The settings, with what it does in the place of what they say."""
        return structs.replace(settings, mode=self.mode, fallback=self.fallback)


def running(path: Path) -> Running | None:
    """What the daemon at this socket says; None where none is. ValueError, with why, where it
    does not say it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        try:
            sock.connect(str(path))
            hello = protocol.Hello(protocol.VERSION, Role.COMMAND, "arbiter explain")
            sock.sendall(protocol.encode(hello))
            return _read(sock)
        except (FileNotFoundError, ConnectionRefusedError):
            return None  # no daemon
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            text = f"the daemon at {path} does not say its mode ({protocol.clean(str(why), 200)})"
            raise ValueError(text) from error


def _read(sock: socket.socket) -> Running:
    """Raises OSError, and ValueError where it is no welcome."""
    decoder = protocol.daemon_decoder()
    while data := sock.recv(65536):
        for message in decoder.feed(data):
            if isinstance(message, Welcome):
                return Running(Mode(message.mode), Fallback(message.fallback))
            text = getattr(message, "text", "it is not arbiter")
            raise ValueError(text)
    raise ValueError("it ended the connection")
