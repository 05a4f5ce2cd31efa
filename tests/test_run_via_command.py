"""`arbiter run-via` as a command: it holds on to its link through restarts of the daemon."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from arbiter import protocol
from arbiter.cli import run_via as module
from arbiter.protocol import Hello, Refused, RefusedReason, Running, RunVia, Welcome

WELCOME = Welcome(protocol.VERSION, "0.1.0", "alice", False, "ask", "deny", 0)
UNKNOWN = Refused(RefusedReason.INVALID, "there is no link 'lte' (known: none)")


class FakeDaemon:
    """Answers each run_via with the next of `replies`; the last one stays. Runs in a thread."""

    def __init__(self, path: Path, *replies: Running | Refused) -> None:
        self.path, self.replies = path, list(replies)
        self.heard: list[object] = []
        self.connections = 0
        self.running = threading.Event()
        self._server = socket.socket(socket.AF_UNIX)
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self.path.unlink(missing_ok=True)
        self._server.bind(str(self.path))
        self._server.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.path.unlink(missing_ok=True)
        for sock in self._open:
            with contextlib.suppress(OSError):  # it has hung up
                sock.shutdown(socket.SHUT_RDWR)  # close alone waits for the thread that reads
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        decoder = protocol.client_decoder()
        try:
            while data := sock.recv(65536):
                for message in decoder.feed(data):
                    self.heard.append(message)
                    if isinstance(message, Hello):
                        sock.sendall(protocol.encode(WELCOME))
                    if isinstance(message, RunVia):
                        reply = self.replies.pop(0) if self.replies[1:] else self.replies[0]
                        sock.sendall(protocol.encode(reply))
                        if isinstance(reply, Running):
                            self.running.set()
        except OSError:
            return


def command(path: Path, *argv: str) -> list[str]:
    return [sys.executable, "-m", "arbiter", "run-via", "--socket", str(path), "lte", "--", *argv]


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for program in started:
        program.terminate()
        program.wait(10)


def test_the_exit_code_is_the_programs(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s", Running("lte", True)):
        run = command(tmp_path / "s", "sh", "-c", "exit 7")
        assert subprocess.run(run, timeout=20, check=False).returncode == 7
        run = command(tmp_path / "s", "sh", "-c", "kill -9 $$")
        assert subprocess.run(run, timeout=20, check=False).returncode == 128 + signal.SIGKILL
        run = command(tmp_path / "s", "/no/such")
        assert subprocess.run(run, timeout=20, check=False).returncode == 127


EARLY = """
import os, signal, subprocess, time
from arbiter.cli import run_via

def popen(argv, start=subprocess.Popen):
    child = start(argv)
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0.5)  # it has set its trap
    return child

subprocess.Popen = popen
run_via._run(("sh", "-c", "trap 'exit 5' USR1; while :; do sleep 0.05; done"))
"""


def test_a_signal_that_comes_while_the_program_starts_reaches_it() -> None:
    done = subprocess.run([sys.executable, "-c", EARLY], timeout=20, check=False)
    assert done.returncode == 5


def test_nothing_runs_where_the_link_is_refused(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s", UNKNOWN):
        run = command(tmp_path / "s", "touch", str(tmp_path / "ran"))
        done = subprocess.run(run, timeout=20, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "there is no link" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_daemon_that_starts_anew_is_told_until_it_knows_the_link(
    tmp_path: Path, sleeper: list[subprocess.Popen[bytes]]
) -> None:
    path = tmp_path / "s"
    with FakeDaemon(path, Running("lte", True)) as first:
        sleeper.append(subprocess.Popen(command(path, "sleep", "60")))
        assert first.running.wait(20)
    with FakeDaemon(path, UNKNOWN, UNKNOWN, Running("lte", True)) as second:
        assert second.running.wait(20), "the program goes on over any link"
        assert second.heard.count(RunVia("lte")) == 3
    with FakeDaemon(path, Running("lte", True)) as third:
        assert third.running.wait(20)


def test_a_daemon_that_hangs_up_at_once_is_not_besieged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    class EnoughError(Exception):
        pass

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise EnoughError

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(module, "_again", lambda *_: ended())

    def ended() -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours

    with pytest.raises(EnoughError):
        module._keep(ended(), tmp_path, "lte")
    assert pauses == [module.RETRY] * 3


def test_a_kernel_that_lists_no_children_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 0)
    assert module._has_children() is False
