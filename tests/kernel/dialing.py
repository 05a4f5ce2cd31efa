"""Programs that connect when they are told to, and whether the fast path answered for them."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from running import PATIENCE, Arbiter, eventually

from arbiter.lab.config import SECOND4, SECOND6, SERVER4, SERVER6

DIAL = """
import errno, json, os, socket, sys

def dial(proto, address, port, mapped=False, device=""):
    family = socket.AF_INET6 if ":" in address or mapped else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM)
    if device:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    return reach(sock, ("::ffff:" if mapped else "") + address, port)

def reach(sock, address, port):
    sock.settimeout(4)
    try:
        sock.connect((address, port))
        if sock.type == socket.SOCK_DGRAM:
            sock.send(b"x")
        sock.recv(100)
        return "reached"
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
    finally:
        sock.close()

def burst(address, port, count):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, port))
    for number in range(count):
        sock.send(b"x")
    sock.settimeout(4)
    sock.recv(100)
    sock.close()
    return count

def serve():
    for line in sys.stdin:
        try:
            told = eval(line)
        except Exception as error:
            told = repr(error)
        print(json.dumps(told), flush=True)
"""
"""What a `Dialer` may be told: any expression, `dial("tcp", "192.0.2.1", 7)` above all."""
SERVE = DIAL + "\nserve()\n"
PARENT = f"""{DIAL}
import array, subprocess, time

def started(argv, **more):
    global child
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)
    return child.pid

def tell(line):
    child.stdin.write(line + "\\n")
    child.stdin.flush()
    return json.loads(child.stdout.readline())

def made():
    global sock
    sock = socket.socket()
    os.set_inheritable(sock.fileno(), True)
    return sock.fileno()

def give(path):
    with socket.socket(socket.AF_UNIX) as to:
        to.connect(path)
        socket.send_fds(to, [b"x"], [sock.fileno()])
        to.recv(1)
    return True

serve()
"""
"""A program that shares its sockets with others."""
TAKER = f"""{DIAL}
def take(fd, address, port=7):
    return reach(socket.socket(fileno=fd), address, port)

def receive(path):
    global taken
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        print("true", flush=True)
        peer, _ = server.accept()
        _, (taken,), _, _ = socket.recv_fds(peer, 1, 1)
        peer.send(b"x")
    return taken

serve()
"""
"""A program that connects a socket of another one."""
TARGETS = (("tcp", SERVER4), ("tcp", SERVER6), ("udp", SERVER4), ("udp", SERVER6))
SECONDS = {SERVER4: SECOND4, SERVER6: SECOND6}
"""The other server of the same family."""
REFUSED = {"ECONNREFUSED", "EPERM", "EACCES", "EHOSTUNREACH"}
"""What a program is told at once of a connection that is denied."""


class Program:
    """A program that is told line by line, and answers so."""

    def __init__(self, arbiter: Arbiter, *argv: str) -> None:
        pipe = subprocess.PIPE
        self.program = arbiter.lab.popen(
            argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )
        arbiter.programs.append(self.program)
        self._read = b""

    @property
    def pid(self) -> int:
        return self.program.pid

    def tell(self, line: str) -> None:
        assert self.program.stdin is not None
        self.program.stdin.write(line + "\n")
        self.program.stdin.flush()

    def line(self) -> str:
        """The next that it writes."""
        assert self.program.stdout is not None
        output = self.program.stdout.fileno()
        while b"\n" not in self._read:
            ready, _, _ = select.select([output], [], [], 15 * PATIENCE)
            assert ready, f"it said nothing more: {self._read!r}"
            data = os.read(output, 65536)
            assert data, f"it has ended: {self._read!r}"
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()


class Dialer(Program):
    """A program that runs until the test ends it, and does what it is told."""

    def __init__(self, arbiter: Arbiter, *argv: str) -> None:
        super().__init__(arbiter, *(argv or (sys.executable, "-c", SERVE)))

    def do(self, expression: str) -> object:
        """What the expression is, in the program."""
        self.tell(expression)
        return self.told()

    def told(self) -> object:
        """The next that it says."""
        line = self.line()
        try:
            return json.loads(line)
        except ValueError:
            raise AssertionError(line) from None

    def dial(
        self, proto: str, address: str, port: int = 7, mapped: bool = False, device: str = ""
    ) -> object:
        """`reached`, or the name of the error."""
        return self.do(f"dial({proto!r}, {address!r}, {port}, {mapped}, {device!r})")


class Shell(Program):
    """One parent of many processes, one after the other."""

    def __init__(self, arbiter: Arbiter) -> None:
        super().__init__(arbiter, "sh")

    def do(self, command: str) -> tuple[int, list[str]]:
        """Run it: its exit code, and the lines that it wrote."""
        self.tell(f"{command}\necho :$?")
        lines: list[str] = []
        while not (line := self.line()).startswith(":"):
            lines.append(line)
        return int(line[1:]), lines


def binary(where: Path, name: str = "dialer") -> tuple[str, ...]:
    """A copy of the interpreter that is named as none is: a program of its own, whatever it runs.
    The words to run it by."""
    file = where / name
    shutil.copy(Path(sys.executable).resolve(), file)
    return ("env", f"PYTHONHOME={sys.base_prefix}", str(file))


def once(proto: str, address: str, port: int = 7) -> Sequence[str]:
    """Arguments of an interpreter that connects and says what came of it."""
    return ("-S", "-c", f"{DIAL}\nprint(dial({proto!r}, {address!r}, {port}))")


def repeats(arbiter: Arbiter) -> int:
    """How many connections the fast path has answered, once all are counted that came."""
    time.sleep(0.02 * PATIENCE)
    return eventually(arbiter.settled).get("repeated", 0)


def records(
    arbiter: Arbiter, count: int, *filters: str, pid: int | None = None
) -> list[dict[str, Any]]:
    """All that `arbiter audit` finds so, the newest last, once there are so many (of this process);
    and the log is whole."""

    def found() -> list[dict[str, Any]]:
        lines = arbiter.json("audit", *filters)
        found = [one for one in lines if pid in (None, one["pid"])]
        return found if len(found) >= count else []

    those = eventually(found)
    arbiter.intact()
    return sorted(those, key=lambda one: int(one["id"]))


def known(
    arbiter: Arbiter,
    dialer: Dialer,
    proto: str,
    server: str,
    port: int = 7,
    *,
    end: str = "reached",
    mapped: bool = False,
    device: str = "",
) -> None:
    """It has connected so, and the fast path answers for it: nothing else is proven without."""
    before = repeats(arbiter)
    for _ in range(20):
        assert dialer.dial(proto, server, port, mapped, device) == end
        if repeats(arbiter) > before:
            return
    raise AssertionError("nothing was repeated")


def repeated(arbiter: Arbiter, act: Callable[[], object], ready: Callable[[], object]) -> None:
    """What `act` does once is answered by the fast path, after `ready`. At one of several tries: a
    storm of processes in another test makes it forget. Nothing of the last try is known then."""
    for number in range(10):
        ready()
        before = repeats(arbiter)
        act()
        if repeats(arbiter) == before + 1:
            return
        arbiter.add(f"deny port={60_000 + number}")  # any change takes back what was taught
    raise AssertionError("it was looked at each time")


def script(where: Path, name: str, code: str) -> str:
    """A script of its own, which is an app of its own."""
    file = where / name
    file.write_text(code)
    return str(file)


def becomes(dialer: Dialer | Shell, name: str) -> None:
    """It runs another program now: what it is told next is not read by the one before."""
    eventually(lambda: name in Path(f"/proc/{dialer.pid}/cmdline").read_text())


def introduce(arbiter: Arbiter, dialer: Dialer, path: str) -> None:
    """Its app is known by a connection to another port, and only this script may connect to 7."""
    arbiter.add("deny port=9")
    dialer.dial("udp", SERVER4, 9)

    def apps() -> set[str]:
        told = arbiter.json("audit", "--port", "9")
        return {one["app"] for one in told if str(one["app"]).endswith(f":{path}")}

    (app,) = eventually(apps)
    arbiter.add(f"allow app={app} port=7")


def known_program(arbiter: Arbiter, parent: Shell, command: str) -> None:
    """A new process of this parent's is answered by the fast path. A storm of processes in another
    test makes it forget, for as long as that lasts."""
    before = repeats(arbiter)
    for _ in range(200):
        assert parent.do(command) == (0, ["reached"])
        if repeats(arbiter) > before:
            return
    raise AssertionError("nothing was repeated")
