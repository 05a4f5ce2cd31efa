"""The fast path: what was decided for a process before is answered again without Python.

A thread of compiled code (native/*.c) reads the queue. It repeats an answer only to the same
question (protocol, addresses, port, link, mark; or wherever it leads, where it was taught so), once
it has found the socket by sock_diag, seen it in the descriptor table of the same process, running
the same program as the same user, and in no relative's; or in that of a process that was just born
and runs the same program. (Such are opened in /proc ahead, as they are born.) All else waits for
the pipeline as ever. The pipeline hears of each packet that was answered, and keeps its record.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import ModuleType
from typing import Any, NamedTuple

from arbiter.kernel.elders import Elder
from arbiter.kernel.netlink import NETLINK_SOCK_DIAG
from arbiter.kernel.procevents import FORKS_BUFFER, listen

_native: ModuleType | None
try:
    from arbiter.kernel import _fastpath as _native
except ImportError:  # no compiler when it was installed: all of it works, with more latency
    _native = None

BATCH = 64
"""Messages taken per wake-up, so that a flood cannot keep timers and answers waiting."""
_PREPARED = 10.0
"""Seconds: it takes a moment only."""
NAME = "arbiter-fast"
"""Of its thread."""


class Standing(NamedTuple):
    """What must be found unchanged of a process that alone holds its sockets."""

    pid: int
    uid: int
    """Effective."""
    device: int
    file: int
    """st_dev and st_ino of its executable."""
    image: str
    """starttime, startcode, startstack and arg_start of its stat file (proc(5))."""
    descriptor: int
    """Where its last socket was."""
    relatives: tuple[int, ...]
    """Who may share its descriptors."""
    program: bytes
    """The path of its executable, where another process that runs the same file as the same user
    and in the same cgroup is decided the same; b"" where it may not be."""
    only: int
    """Children of this process only; 0 where ancestors change nothing."""


class Question(NamedTuple):
    """What is asked again and again."""

    proto: int
    saddr: bytes
    daddr: bytes
    """Zeros: whatever it is."""
    dport: int
    outdev: int
    mark: int


class Handed(NamedTuple):
    """A message of the queue."""

    data: bytes
    token: int
    """Of the answer that was repeated; 0 for a packet that waits for its verdict."""
    inode: int
    came: int
    answered: int
    """Nanoseconds of CLOCK_MONOTONIC."""
    pid: int
    """Of another process than the one that was decided about, whose parent, start and arguments
    follow; 0 for the same."""
    parent: int
    known: bool
    """That parent was told before, and has run no other program since."""
    elder: Elder | None
    """The parent, if it is new and could be read: it may end before it is looked up."""
    start: int
    cmdline: bytes


def _handed(message: tuple[Any, ...]) -> Handed:
    one = Handed._make(message)
    return one if one.elder is None else one._replace(elder=Elder._make(one.elder))


def compiled() -> bool:
    """Whether the compiled part is there."""
    return _native is not None


class Start:
    """What a fast path needs of the rights that the daemon gives up: process events of its own, and
    a thread ahead of others."""

    def __init__(
        self,
        events: socket.socket,
        births: socket.socket | None,
        prepare: Callable[[], None],
    ) -> None:
        """`births`: process events, too, those that the thread is woken by. `prepare` is called in
        the thread, and gives up its rights."""
        self.events, self.births = events, births
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        prepared = threading.Event()

        def run() -> None:
            prepare()
            prepared.set()
            self._work.get()()

        self._thread = threading.Thread(target=run, name=NAME, daemon=True)
        self._thread.start()
        if not prepared.wait(_PREPARED):
            raise OSError(errno.EPERM, "the thread of the fast path could not give up its rights")

    @classmethod
    def open(cls, prepare: Callable[[], None]) -> Start | None:
        """None where there can be no fast path: not compiled, or no process events."""
        events = listen(buffer=FORKS_BUFFER) if compiled() else None
        return None if events is None else cls(events, listen(), prepare)

    def run(self, work: Callable[[], None]) -> None:
        """Do this in the thread, which ends with it. Once."""
        self._work.put(work)

    def join(self) -> None:
        """Wait for its end, if it was given work."""
        self._thread.join()

    def close(self) -> None:
        """Give the events back."""
        self.events.close()
        if self.births is not None:
            self.births.close()


class FastPath:
    """Reads a queue in its own thread from `start` on, and makes `fileno` readable where there is
    something to `take`. Made in the network namespace of its queue. OSError where it cannot be."""

    def __init__(self, netlink: int, queue: int, start: Start) -> None:
        assert _native is not None
        self._start = start
        self._diag = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
        )
        self._diag.connect((0, 0))  # nobody but the kernel can slip an answer in
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._path = _native.FastPath(
            netlink=netlink,
            queue=queue,
            diag=self._diag.fileno(),
            events=start.events.fileno(),
            births=-1 if start.births is None else start.births.fileno(),
            wake=self._wake,
            stop=self._stop,
        )
        self.mark = self._path.mark
        self.forget = self._path.forget
        self.leave_out, self.left_out = self._path.leave_out, self._path.left_out
        self._running = False

    def start(self, failed: Callable[[OSError], object]) -> None:
        """`failed` is called in the thread, if it cannot go on."""

        def run() -> None:
            try:
                self._path.run()
            except OSError as error:
                failed(error)

        self._running = True
        self._start.run(run)

    def fileno(self) -> int:
        """Readable while there may be something to take."""
        return self._wake

    def take(self) -> Iterator[Handed]:
        """What has come, BATCH messages at most, those that wait for a verdict first. One by one:
        what it is handed may make the pipeline `forget`, and then the `repeated` come before."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        for _ in range(BATCH):
            if (message := self._path.take(True)) is None:
                return
            yield _handed(message)
        os.eventfd_write(self._wake, 1)

    def repeated(self) -> Iterator[Handed]:
        """What was answered and not taken yet. After `forget` no more of it comes."""
        while (message := self._path.take(False)) is not None:
            yield _handed(message)

    def rest(self) -> Iterator[Handed]:
        """All that was read and not taken yet. Stop it before."""
        while (message := self._path.take(True)) is not None:
            yield _handed(message)

    def teach(
        self,
        mark: int,
        question: Question,
        standing: Standing,
        uid: int,
        verdict: int,
        token: int,
        until: float,
    ) -> bool:
        """Repeat this verdict (the packet's whole mark) from now on. False where the process may
        have changed since `mark` was taken. `until`: seconds of CLOCK_MONOTONIC."""
        nanoseconds = int(until * 1e9)
        return bool(self._path.teach(mark, question, standing, uid, verdict, token, nanoseconds))

    @property
    def overruns(self) -> int:
        """How often messages to us were lost: ENOBUFS, or larger than any should be."""
        return sum(self._path.losses())

    def stop(self) -> None:
        """Read no more; what was read can still be taken."""
        if self._running:
            self._running = False
            os.eventfd_write(self._stop, 1)
            self._start.join()

    def close(self) -> None:
        """Stop, and give everything back."""
        self.stop()
        self._diag.close()
        self._start.close()
        os.close(self._wake)
        os.close(self._stop)
