"""A real daemon on the lab's machine, and real programs beside it."""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from click.testing import CliRunner

from arbiter import protocol
from arbiter.cli import cli
from arbiter.kernel import conntrack
from arbiter.kernel.netlink import ack_request
from arbiter.lab import Lab
from arbiter.lab.plan import FAR_END
from arbiter.model import MARK_DECIDED, MARK_LINK, MARK_LINK_SHIFT, MARK_MASK, Flow
from arbiter.protocol import Role

T = TypeVar("T")
PATIENCE = float(os.environ.get("TEST_PATIENCE", "1"))
"""How many times longer to wait for what has to happen: an emulated CPU needs 10."""

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
ECHO_CLIENT = """
import socket, sys
udp = sys.argv[2] == "udp"
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
sock.settimeout(15)
sock.connect((sys.argv[1], 7))
if not udp:
    hello = b""
    while not hello.endswith(b"\\n"):
        hello += sock.recv(1)
for line in sys.stdin:
    left = int(line)
    while left > 0:
        part = min(left, 1000 if udp else 8000)
        sock.sendall(b"x" * part)
        back = len(sock.recv(2000)) if udp else 0
        while not udp and back < part:
            got = len(sock.recv(65536))
            assert got, "the connection ended"
            back += got
        left -= part
    print("done", flush=True)
"""
"""`python(ECHO_CLIENT, ADDRESS, "tcp" | "udp")`: each number on its stdin is so many bytes that it
sends and has sent back, over one connection."""
SIOCETHTOOL, ETHTOOL_STSO, ETHTOOL_SGSO = 0x8946, 0x1F, 0x24  # linux/sockios.h, linux/ethtool.h


def eventually(look: Callable[[], T], timeout: float = 8.0) -> T:
    """The first true value that `look` gives."""
    end = time.monotonic() + timeout * PATIENCE
    while True:
        began = time.monotonic()
        if value := look():
            return value
        now = time.monotonic()
        assert now < end, f"waited {timeout} s in vain; last: {value!r}"
        time.sleep(max(0.02, now - began))  # looking must not keep from happening what is awaited


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


class Echo:
    """An ECHO_CLIENT that runs."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        self.program = program

    def send(self, size: int) -> None:
        """So many bytes there and back."""
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        self.program.stdin.write(f"{size}\n")
        self.program.stdin.flush()
        said = self.program.stdout.readline()
        assert said == "done\n", said + self.program.stdout.read()

    def end(self) -> None:
        """It hangs up, and is gone."""
        assert self.program.stdin is not None
        self.program.stdin.close()
        assert self.program.wait(10) == 0


class Prompt:
    """A connected prompt, read by a thread: what it was told, whenever it was."""

    def __init__(self, arbiter: Arbiter) -> None:
        self._context = arbiter.connection(Role.PROMPT)
        self.messages: list[protocol.DaemonMessage] = []

    def __enter__(self) -> Prompt:
        self.connection = self._context.__enter__()
        self.connection.sock.settimeout(None)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._context.__exit__(None, None, None)

    def _read(self) -> None:
        decoder = protocol.daemon_decoder()
        while data := self.connection.sock.recv(65536):
            for message in decoder.feed(data):
                assert not isinstance(message, protocol.ProtocolError), message
                self.messages.append(message)

    def notices(self) -> list[str]:
        """The texts of all notices."""
        return [m.text for m in tuple(self.messages) if isinstance(m, protocol.Notice)]

    def told(self, *parts: str) -> str:
        """The first notice with all these parts, once it has come."""
        return eventually(
            lambda: next((t for t in self.notices() if all(part in t for part in parts)), ""), 10
        )

    def ask(self) -> protocol.Ask:
        """The newest ask, once there is one."""

        def newest() -> protocol.Ask | None:
            found = [m for m in tuple(self.messages) if isinstance(m, protocol.Ask)]
            return found[-1] if found else None

        found = eventually(newest)
        assert found is not None
        return found


class Arbiter:
    """`arbiter run` in a lab's host namespace, with its own state and socket.

    `links` are the texts of files in links.d, by name: `{"lte.toml": "[link] ..."}`. `through` is
    a command that executes the one behind it, such as `prlimit`.
    """

    def __init__(
        self,
        lab: Lab,
        home: Path,
        *options: str,
        settings: str = "",
        links: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
    ) -> None:
        self.lab, self.home, self.options = lab, home, options
        self.through = through
        self.environment = lab.environment() | dict(environment or {})
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
            [*self.through, *argv, *self.options],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=self.environment,
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
        code = self.process.wait(15 * PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        self.process = None
        return code

    def __enter__(self) -> Arbiter:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.end_programs()
        if self.process is not None:
            code = self.stop()
            assert code == 0, (self.home / "log").read_text()

    def end_programs(self) -> None:
        """Those that still run, too."""
        for program in self.programs:
            if program.poll() is None:
                program.kill()
            program.wait()
            for pipe in (program.stdout, program.stdin):
                if pipe is not None:
                    pipe.close()
        self.programs.clear()

    def forget(self) -> None:
        """No rule and no program of a test is left: for one daemon that serves many tests, each of
        which compares with what it found."""
        self.end_programs()
        ids = [str(entry["id"]) for entry in self.json("rules", "list")]
        if ids:
            self.quickly("rules", "remove", *ids)

    # --- commands ---------------------------------------------------------------------------

    def command(
        self, *argv: str, user: str | None = None, timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """One in a process of its own; `timeout` in seconds of a machine with little to do."""
        env = self.command_environment()
        return self.lab.run([*ARBITER, *argv], user=user, env=env, timeout=timeout * PATIENCE)

    def command_environment(self) -> dict[str, str]:
        return self.environment | {
            "ARBITER_SOCKET": str(self.socket),
            "ARBITER_DB": str(self.home / "state" / "arbiter.db"),
        }

    def ran(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """One that needs only the database, the socket, /proc and the files: it runs in this
        process, and costs a tenth of one of its own."""
        env = self.command_environment()
        done = self.lab.inside(lambda: CliRunner().invoke(cli, argv, env=env))
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        return subprocess.CompletedProcess(argv, done.exit_code, done.stdout, done.stderr)

    def quickly(self, *argv: str) -> str:
        """What such a command writes that succeeds."""
        done = self.ran(*argv)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    def json(self, *argv: str) -> Any:
        return json.loads(self.quickly(*argv, "--json"))

    @contextmanager
    def connection(self, role: Role = Role.COMMAND) -> Iterator[Connection]:
        """A client of the daemon in this process: quicker than a command."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20 * PATIENCE)
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
            while not isinstance(reply := connection.receive(), protocol.Status):
                pass  # what is asked and decided meanwhile is told to everybody
            return reply

    def ask(self) -> dict[str, Any]:
        """The one ask that waits, once there is one."""
        (ask,) = eventually(self.asks)
        return ask

    def answer(self, decision: str, *options: str) -> str:
        """Answer the one ask that waits, through the socket."""
        return self.quickly("answer", str(self.ask()["id"]), decision, *options)

    def add(self, *lines: str) -> None:
        """These rules; each is in force when its command has ended."""
        for line in lines:
            self.quickly("rules", "add", line)

    def intact(self) -> None:
        """The record is whole, as the daemon left it up to now."""
        self.quickly("audit", "verify")

    def rules(self) -> list[str]:
        return [entry["rule"] for entry in self.json("rules", "list")]

    def counter(self, name: str) -> int:
        return self.status().counters.get(name, 0)

    def settled(self) -> dict[str, int]:
        """All counters, once every packet that came is counted; until then none."""
        counters = self.status().counters
        return counters if counters.get("packets", 0) == counters["queued"] else {}

    def links(self) -> dict[str, dict[str, Any]]:
        """`arbiter links --json`, by name."""
        config, state = str(self.home / "config"), str(self.home / "state")
        found = self.json("links", "--config", config, "--state", state)
        return {link["name"]: link for link in found}

    def usage(self, *options: str) -> list[dict[str, Any]]:
        """`arbiter links usage --json`."""
        words = ("links", "usage", "--config", str(self.home / "config"), *options, "--json")
        found: list[dict[str, Any]] = json.loads(self.quickly(*words))
        return found

    def last_note(self) -> str:
        """The note of the newest decision; they are written some time after the verdict."""
        rows = self.database("SELECT note FROM decisions ORDER BY id DESC LIMIT 1")
        return str(rows[0][0]) if rows else ""

    def database(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows, or a change: the daemon should be down for one."""
        path = self.home / "state" / "arbiter.db"
        with closing(sqlite3.connect(path, timeout=10)) as db, db:
            return db.execute(statement).fetchall()

    # --- programs ---------------------------------------------------------------------------

    def prompt(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """`arbiter prompt WORDS` of this daemon."""
        process = subprocess.Popen(
            [*ARBITER, "prompt", *words],
            env=dict(os.environ) | self.command_environment() | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.programs.append(process)
        return process

    def echo(self, address: str, proto: str = "tcp") -> Echo:
        """A connection to the echo server that lives until the test ends it."""
        argv = python(ECHO_CLIENT, address, proto)
        pipe = subprocess.PIPE
        program = self.lab.popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
        self.programs.append(program)
        return Echo(program)

    def program(self, *argv: str) -> subprocess.Popen[str]:
        """A program of the person's, with its output kept."""
        program = self.lab.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.programs.append(program)
        return program

    def run(self, *argv: str, timeout: float = 15) -> tuple[int, str, float]:
        """Run a program to its end: exit code, output, seconds."""
        began = time.monotonic()
        done = self.lab.run(argv, timeout=timeout * PATIENCE)
        return done.returncode, done.stdout + done.stderr, time.monotonic() - began


def carried(lab: Lab, name: str) -> tuple[int, int]:
    """Bytes of IP packets, out and in, as an interface of the lab's host counted them."""
    (shown,) = json.loads(lab.run(["ip", "-s", "-j", "link", "show", name]).stdout)
    tx, rx = shown["stats64"]["tx"], shown["stats64"]["rx"]
    return tx["bytes"] - 14 * tx["packets"], rx["bytes"] - 14 * rx["packets"]  # Ethernet's header


def cut_by_the_link(lab: Lab, *names: str) -> None:
    """Segmentation before these interfaces of the lab, at both ends, as for hardware that cannot:
    then they count what a real link carries."""

    def switch(names: Sequence[str]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for name in names:
                for command in (ETHTOOL_STSO, ETHTOOL_SGSO):
                    value = array.array("B", struct.pack("II", command, 0))
                    address = value.buffer_info()[0]
                    fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP", name.encode(), address))

    lab.inside(lambda: switch(names))
    for link in lab.config.links:
        if link.interface in names:
            lab.inside(lambda: switch((FAR_END,)), link.name)


def end_flows(lab: Lab, *numbers: int) -> None:
    """Every connection over these links' numbers (0: routed nowhere) is over for conntrack, as if
    its time was out; once the last word of TCP is said, which would begin another. Take
    `forget_closed` before."""
    eventually(lambda: all(flow.proto != 6 for flow in flows(lab)))

    def forget(mark: int) -> None:
        with conntrack.open_netfilter() as sock:
            body = conntrack.by_mark(mark, MARK_DECIDED | MARK_LINK)
            ack_request(sock, conntrack.CT_DELETE, 0, body, "ending connections")

    for number in numbers:
        mark = MARK_DECIDED | number << MARK_LINK_SHIFT
        lab.inside(lambda mark=mark: forget(mark))  # type: ignore[misc]


def forget_closed(lab: Lab) -> None:
    """From now on a TCP connection that is closed is over for conntrack after a second, and not
    after two minutes."""
    line = [f"net.netfilter.nf_conntrack_tcp_timeout_{name}=1" for name in ("time_wait", "close")]
    done = lab.run(["sysctl", "-qw", *line])
    assert done.returncode == 0, done.stderr


def ports(lab: Lab) -> set[int]:
    """Destination ports of the decided connections that conntrack knows."""
    return {flow.dport for flow in flows(lab)}


def flows(lab: Lab) -> list[Flow]:
    """The decided connections that conntrack knows. A look at them makes it forget what is over
    (ctnetlink_dump_table, net/netfilter/nf_conntrack_netlink.c)."""
    return [entry.flow for entry in lab.inside(lambda: conntrack.read(MARK_MASK))]


ARBITER: Sequence[str] = (sys.executable, "-P", "-m", "arbiter")


def python(code: str, *argv: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *argv)
