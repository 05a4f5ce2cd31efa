"""A real daemon on the lab's machine, and real programs beside it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from arbiter import protocol
from arbiter.lab import Lab
from arbiter.protocol import Role

T = TypeVar("T")

UDP_CLIENT = """
import socket, sys
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.settimeout(8)
sock.connect((address, port))
for number in range(count):
    sock.send(b"hello %d" % number)
    print(sock.recv(2000).decode().strip(), flush=True)
"""
MAPPED_CLIENT = """
import socket, sys
sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
sock.settimeout(8)
sock.connect(("::ffff:" + sys.argv[1], int(sys.argv[2])))
print(sock.recv(2000).decode().strip())
"""


def eventually(look: Callable[[], T], timeout: float = 8.0) -> T:
    """The first true value that `look` gives."""
    end = time.monotonic() + timeout
    while not (value := look()):
        assert time.monotonic() < end, f"waited {timeout} s in vain; last: {value!r}"
        time.sleep(0.02)
    return value


class Connection:
    """One client's end of the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.asks: list[protocol.DaemonMessage] = []
        self._decoder = protocol.daemon_decoder()
        self._messages: list[protocol.DaemonMessage] = []

    def send(self, message: protocol.ClientMessage) -> None:
        self.sock.sendall(protocol.encode(message))

    def receive(self) -> protocol.DaemonMessage:
        while not self._messages:
            data = self.sock.recv(65536)
            assert data, "the daemon ended the connection"
            for message in self._decoder.feed(data):
                assert not isinstance(message, protocol.ProtocolError), message
                self._messages.append(message)
        return self._messages.pop(0)


class Arbiter:
    """`arbiter run` in a lab's host namespace, with its own state and socket.

    `links` are the texts of files in links.d, by name: `{"lte.toml": "[link] ..."}`.
    """

    def __init__(
        self,
        lab: Lab,
        home: Path,
        *options: str,
        settings: str = "",
        links: Mapping[str, str] | None = None,
    ) -> None:
        self.lab, self.home, self.options = lab, home, options
        self.socket = home / "socket"
        (home / "config").mkdir(exist_ok=True)
        (home / "config" / "arbiter.toml").write_text(settings)
        for name, text in (links or {}).items():
            (home / "config" / "links.d").mkdir(exist_ok=True)
            (home / "config" / "links.d" / name).write_text(text)
        self.process: subprocess.Popen[str] | None = None
        self.programs: list[subprocess.Popen[str]] = []

    def start(self) -> Arbiter:
        argv = [*ARBITER, "run", "--config", str(self.home / "config")]
        argv += ["--state", str(self.home / "state"), "--socket", str(self.socket)]
        self.log = (self.home / "log").open("a+")
        self.process = self.lab.popen(
            [*argv, *self.options], stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != "ready\n":
            self.stop(signal.SIGKILL)
            raise AssertionError((self.home / "log").read_text())
        return self

    def stop(self, how: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(15)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        self.process = None
        return code

    def __enter__(self) -> Arbiter:
        return self.start()

    def __exit__(self, *_: object) -> None:
        for program in self.programs:
            if program.poll() is None:
                program.kill()
            program.wait()
            if program.stdout is not None:
                program.stdout.close()
        if self.process is not None:
            code = self.stop()
            assert code == 0, (self.home / "log").read_text()

    # --- commands ---------------------------------------------------------------------------

    def command(self, *argv: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        env = self.lab.environment() | {
            "ARBITER_SOCKET": str(self.socket),
            "ARBITER_DB": str(self.home / "state" / "arbiter.db"),
        }
        return self.lab.run([*ARBITER, *argv], user=user, env=env)

    def json(self, *argv: str) -> Any:
        done = self.command(*argv, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def connection(self, role: Role = Role.COMMAND) -> Iterator[Connection]:
        """A client of the daemon in this process: quicker than a command."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(self.socket))
            connection = Connection(sock)
            connection.send(protocol.Hello(protocol.VERSION, role, "test"))
            welcome = connection.receive()
            assert isinstance(welcome, protocol.Welcome), welcome
            connection.asks = [connection.receive() for _ in range(welcome.asks)]
            yield connection

    def asks(self) -> list[dict[str, Any]]:
        with self.connection() as connection:
            return [msgspec.to_builtins(ask) for ask in connection.asks]

    def status(self) -> protocol.Status:
        with self.connection() as connection:
            connection.send(protocol.Query())
            reply = connection.receive()
            assert isinstance(reply, protocol.Status), reply
            return reply

    def ask(self) -> dict[str, Any]:
        """The one ask that waits, once there is one."""
        (ask,) = eventually(self.asks)
        return ask

    def answer(self, decision: str, *options: str) -> str:
        """Answer the one ask that waits, from another process, through the socket."""
        done = self.command("answer", str(self.ask()["id"]), decision, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def add(self, line: str) -> None:
        done = self.command("rules", "add", line)
        assert done.returncode == 0, done.stderr

    def rules(self) -> list[str]:
        return [entry["rule"] for entry in self.json("rules", "list")]

    def counter(self, name: str) -> int:
        return self.status().counters.get(name, 0)

    # --- programs ---------------------------------------------------------------------------

    def program(self, *argv: str) -> subprocess.Popen[str]:
        """A program of the person's, with its output kept."""
        program = self.lab.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.programs.append(program)
        return program

    def run(self, *argv: str, timeout: float = 15) -> tuple[int, str, float]:
        """Run a program to its end: exit code, output, seconds."""
        began = time.monotonic()
        done = self.lab.run(argv, timeout=timeout)
        return done.returncode, done.stdout + done.stderr, time.monotonic() - began


ARBITER: Sequence[str] = (sys.executable, "-P", "-m", "arbiter")


def python(code: str, *argv: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *argv)
