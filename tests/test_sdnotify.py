"""arbiter/sdnotify.py against real datagram sockets, as systemd has them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from arbiter.sdnotify import Notifier


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(2)
    if request.param == "path":
        address = str(tmp_path / "notify")
        sock.bind(address)
    else:
        address = f"@arbiter-test-{os.getpid()}"
        sock.bind(f"\0{address[1:]}")
    with closing(sock):
        yield sock, address


def test_each_message_is_one_datagram_of_lines(listener: tuple[socket.socket, str]) -> None:
    sock, address = listener
    notifier = Notifier({"NOTIFY_SOCKET": address})
    assert notifier
    notifier.tell("READY=1", "STATUS=mode ask; links up: naïve")
    notifier.tell("WATCHDOG=1")
    assert sock.recv(4096).decode() == "READY=1\nSTATUS=mode ask; links up: naïve"
    assert sock.recv(4096) == b"WATCHDOG=1"
    notifier.close()
    assert not notifier
    notifier.tell("STOPPING=1")  # nobody listens any more: nothing happens
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(4096)


def test_without_the_variable_nobody_is_told() -> None:
    notifier = Notifier({})
    assert not notifier
    notifier.tell("READY=1")
    notifier.close()


@pytest.mark.parametrize("address", ["relative", "@", "/"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="NOTIFY_SOCKET"):
        Notifier({"NOTIFY_SOCKET": address})


def test_an_address_where_nobody_listens_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")})


def test_an_end_that_does_not_read_makes_nobody_wait(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.bind(str(tmp_path / "s"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "s")})
        with pytest.raises(BlockingIOError):
            for _ in range(100_000):
                notifier.tell("STATUS=" + "x" * 1000)
        notifier.close()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-1"}, 0.0),
    ],
)
def test_the_watchdog_is_that_of_this_process(environment: dict[str, str], seconds: float) -> None:
    assert Notifier(environment).watchdog == seconds
