"""Process events after a loss: nothing is believed until all of what was there is read."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest

from arbiter.kernel.procevents import ProcEvents


class Flood(socket.socket):
    """One end of a pair of sockets, as the kernel's own looks."""

    def recvfrom(self, *args: Any) -> Any:
        return self.recv(*args), (0, 0)


def test_a_flood_is_a_loss_until_all_of_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says ENOBUFS once, and then nothing until everything was read."""
    monkeypatch.setattr("arbiter.kernel.procevents._MAX_DRAIN", 3)
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    events = ProcEvents(Flood(fileno=ours.detach()))
    with kernel, contextlib.closing(events):
        for _ in range(5):
            kernel.send(bytes(76))
        assert [events.drain() for _ in range(3)] == [False, False, True]
        kernel.send(bytes(76))
        assert events.drain()
