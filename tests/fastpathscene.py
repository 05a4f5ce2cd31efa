"""The compiled fast path at work, without a queue of the kernel.

Its queue is a pair of sockets: in one end come packets of a UDP socket that is really there, and
verdicts go out. sock_diag and /proc are real, process events are told by us.

    python tests/fastpathscene.py MODULE SECONDS

reads, teaches, forgets, marks, takes and tells from a thread each, for test_fastpath_module.py;
MODULE may be compiled under a sanitizer. Each packet must be given back once, and each verdict
belong to one that says so; then what was counted is printed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple, Self

import queuemessages
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from arbiter.kernel import procread
from arbiter.kernel.netlink import NETLINK_SOCK_DIAG

DPORT, MARK, VERDICT = 9, 0x40, 0x41
NUMBER = 7
"""Of the queue."""
ADDRESSES: dict[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
ACCEPT = 1
PENDING = 1000
"""Packets on their way at most, so that the end is near."""


class Taken(NamedTuple):
    """What the module gives."""

    data: bytes
    token: int
    inode: int
    came: int
    answered: int
    pid: int
    parent: int
    known: bool
    elder: tuple[Any, ...] | None
    start: int
    cmdline: bytes


class Verdict(NamedTuple):
    """What the module sends to the kernel."""

    id: int
    mark: int


def load(path: str) -> ModuleType:
    """The module in this file."""
    spec = importlib.util.spec_from_file_location("_fastpath", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def connected(family: int = socket.AF_INET, address: str = "", port: int = DPORT) -> socket.socket:
    """A UDP socket that sends to one address only."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((ADDRESSES[family], 0))
    sock.connect((address or ADDRESSES[family], port))
    return sock


def packed(family: int) -> bytes:
    return socket.inet_pton(family, ADDRESSES[family])


def queued(
    family: int,
    sport: int,
    number: int = 1,
    mark: int = MARK,
    address: str = "",
    port: int = DPORT,
) -> bytes:
    """The message of the queue for a packet of the socket at this port."""
    ip = IP if family == socket.AF_INET else IPv6
    source = ADDRESSES[family]
    payload = bytes(ip(src=source, dst=address or source) / UDP(sport=sport, dport=port))
    return queuemessages.queued(payload, mark, 1, number)


def event(what: int, *pids: int) -> bytes:
    """A message of the proc connector."""
    body = struct.pack("=II8x4I", what, 0, *(*pids, 0, 0, 0, 0)[:4]) + bytes(8)
    return struct.pack("=IHHIIIIIIHH", 76, 3, 0, 0, 0, 1, 1, 0, 0, 40, 0) + body


def standing(pid: int, descriptor: int, program: bool = False, only: int = 0) -> tuple[Any, ...]:
    """What the module is taught of a process. `only`: children of this one, for its program."""
    exe, directory = os.stat(f"/proc/{pid}/exe"), os.stat(f"/proc/{pid}")
    with open(f"/proc/{pid}/stat", "rb") as file:
        status = procread.parse_stat(file.read())
    image = b" ".join(status.image).decode()
    path = os.fsencode(os.readlink(f"/proc/{pid}/exe")) if program else b""
    known = (pid, directory.st_uid, exe.st_dev, exe.st_ino, image, descriptor)
    return *known, (status.ppid,), path, only


class Scene:
    """A fast path and the other ends of all that it reads and writes. Close it."""

    def __init__(
        self,
        module: ModuleType,
        events: socket.socket | None = None,
        births: socket.socket | None = None,
        ahead: bool = True,
    ) -> None:
        """`events`, `births`: real ones, in place of what is told by us. `ahead`: births count."""
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.kernel, self._queue = pair
        self.happens, self._events = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.bears, self._births = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.bears.setblocking(False)
        self._diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
        self._diag.connect((0, 0))
        self.wake, self._stop = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
        self.path: Any = module.FastPath(
            netlink=self._queue.fileno(),
            queue=NUMBER,
            diag=self._diag.fileno(),
            events=(events or self._events).fileno(),
            births=(births or self._births).fileno() if ahead else -1,
            wake=self.wake,
            stop=self._stop,
        )
        self._thread = threading.Thread(target=self.path.run, daemon=True)
        self._thread.start()

    @property
    def task(self) -> int:
        """The kernel's number of its thread."""
        assert self._thread.native_id is not None
        return self._thread.native_id

    def stop(self) -> None:
        """Read no more."""
        os.eventfd_write(self._stop, 1)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def close(self) -> None:
        """Stop, and give everything back."""
        self.stop()
        del self.path
        for sock in (self.kernel, self._queue, self.happens, self._events, self._diag):
            sock.close()
        self.bears.close()
        self._births.close()
        os.close(self.wake)
        os.close(self._stop)

    def teach(
        self,
        family: int,
        known: tuple[Any, ...],
        token: int,
        mark: int | None = None,
        wherever: bool = False,
    ) -> bool:
        """Repeat this from now on; `wherever` it goes."""
        address = packed(family)
        to = bytes(len(address)) if wherever else address
        question = (17, address, to, DPORT, 1, MARK)
        since = self.path.mark() if mark is None else mark
        until = time.monotonic_ns() + 60_000_000_000
        return bool(self.path.teach(since, question, known, os.geteuid(), VERDICT, token, until))

    def send(self, data: bytes) -> Taken:
        """A message comes; what the module gives of it."""
        self.kernel.send(data)
        return self.next()

    def next(self) -> Taken:
        """What comes next. AssertionError if nothing does."""
        until = time.monotonic() + 30
        while (found := self.path.take(True)) is None:
            ready, _, _ = select.select([self.wake], [], [], until - time.monotonic())
            assert ready
            os.eventfd_read(self.wake)
        return Taken._make(found)

    def deaf(self) -> bool:
        """Whether no birth waits to be read."""
        return not select.select([self._births], [], [], 0)[0]

    def unread(self) -> bool:
        """Whether there is a message that was not read yet."""
        return bool(select.select([self._queue], [], [], 0)[0])

    def verdict(self) -> Verdict | None:
        """The next one that was given; None: there is none."""
        try:
            data = self.kernel.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        return read_verdict(data)


def read_verdict(data: bytes) -> Verdict:
    """A message to the queue, as nfnetlink_queue(7)'s kernel side reads it."""
    size, kind, flags, _, _, _, _, queue = struct.unpack_from("=IHHIIBBH", data)
    assert (size, kind, flags, socket.ntohs(queue)) == (len(data), 3 << 8 | 1, 1, NUMBER)
    first, kind, verdict, number, second, other, mark = struct.unpack_from("=HH4s4sHH4s", data, 20)
    assert (first, kind, second, other) == (12, 2, 8, 3)
    assert int.from_bytes(verdict, "big") == ACCEPT
    return Verdict(int.from_bytes(number, "big"), int.from_bytes(mark, "big"))


CHILD = """
import ctypes, os, socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("127.0.0.1", 0))
one.connect((sys.argv[1], 9))
os.set_inheritable(one.fileno(), True)
print(one.fileno(), one.getsockname()[1], flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""
"""A process with a socket, which does what it is told."""


class Child:
    """It, as long as the test runs."""

    def __init__(
        self,
        *words: str,
        executable: str = sys.executable,
        under: Sequence[str] = (),
        cwd: str | None = None,
        address: str = ADDRESSES[socket.AF_INET],
    ) -> None:
        """`under`: the command that starts it. `address`: to where its socket is connected."""
        pipe = subprocess.PIPE
        argv = [*under, executable, "-S", "-E", "-c", CHILD, address, *words]
        self.address = address
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, cwd=cwd)
        self.descriptor, self.port = map(int, self.line().split())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self) -> str:
        """The next that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def tell(self, expression: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()

    def do(self, expression: str) -> str:
        """What comes of it."""
        self.tell(expression)
        return self.line().strip()

    def packet(self, number: int = 1) -> bytes:
        return queued(socket.AF_INET, self.port, number, address=self.address)


LOOKED_AT = ("", "/cgroup", "/cmdline")


def opened(pid: int) -> tuple[str, ...]:
    """What this process has open of that one: LOOKED_AT where it was opened ahead."""
    head = f"/proc/{pid}"
    links = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return tuple(sorted(link[len(head) :] for link in links if f"{link}/".startswith(f"{head}/")))


def stress(module: ModuleType, seconds: float) -> dict[str, int]:
    """All at once; what was counted."""
    scene = Scene(module)
    us = os.getpid()
    counts = dict.fromkeys(("sent", "taken", "repeated", "verdicts", "taught", "forgot"), 0)
    socks = [connected(family) for family in ADDRESSES for _ in range(4)]
    messages = [queued(sock.family, sock.getsockname()[1]) for sock in socks]
    messages += [queued(socket.AF_INET, socks[0].getsockname()[1], mark=0), b"", bytes(300)]
    ended, quiet = threading.Event(), threading.Event()
    failures: list[BaseException] = []
    wanted = itertools.cycle((True, True, False))

    def feed() -> None:
        if counts["sent"] - counts["taken"] > PENDING:
            time.sleep(0.001)
            return
        for message in messages:
            scene.kernel.send(message)
            counts["sent"] += 1

    def read_verdicts() -> None:
        ready, _, _ = select.select([scene.kernel], [], [], 0.05)
        if ready:
            read_verdict(scene.kernel.recv(4096))
            counts["verdicts"] += 1

    def take() -> None:
        select.select([scene.wake], [], [], 0.01)
        while (one := scene.path.take(next(wanted))) is not None:
            counts["taken"] += 1
            counts["repeated"] += Taken._make(one).token > 0

    def teach() -> None:
        for sock in (socks[0], socks[-1]):
            known = standing(us, sock.fileno(), program=True)
            counts["taught"] += scene.teach(sock.family, known, 5)
        scene.path.losses()

    def forget() -> None:
        time.sleep(0.003)
        scene.path.forget()
        counts["forgot"] += 1

    def tell() -> None:
        time.sleep(0.002)
        for message in (event(1, us, us, 2**22, 2**22), event(2, us, us), b"x"):
            scene.happens.send(message)
        for child in (us, us + 1, os.getppid()):  # us: born to our parent, as was taught
            with contextlib.suppress(BlockingIOError):
                scene.bears.send(event(1, os.getppid(), os.getppid(), child, child))
        scene.path.mark()

    def during(what: Callable[[], None], end: threading.Event) -> threading.Thread:
        def run() -> None:
            try:
                while not end.is_set():
                    what()
            except BaseException as error:
                failures.append(error)
                raise

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    busy = [during(what, ended) for what in (feed, teach, forget, tell)]
    reading = [during(what, quiet) for what in (take, read_verdicts)]
    time.sleep(seconds)
    ended.set()
    for thread in busy:
        thread.join(30)
    until = time.monotonic() + 20
    while counts["taken"] < counts["sent"] and time.monotonic() < until and not failures:
        time.sleep(0.01)
    time.sleep(0.1)
    quiet.set()
    for thread in (*busy, *reading):
        thread.join(30)
        assert not thread.is_alive()
    assert not failures, failures
    assert scene.path.take(True) is None
    scene.close()
    for sock in socks:
        sock.close()
    return counts


def main() -> None:
    """For whoever runs this file."""
    before = len(os.listdir("/proc/self/fd"))
    counts = stress(load(sys.argv[1]), float(sys.argv[2]))
    counts["left open"] = len(os.listdir("/proc/self/fd")) - before
    sys.stdout.write(json.dumps(counts) + "\n")


if __name__ == "__main__":
    main()
