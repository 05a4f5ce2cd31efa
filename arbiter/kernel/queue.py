"""The kernel's queues (nfnetlink_queue): packets in, verdicts out, nothing lost unnoticed.

NetfilterQueue parses and answers; this room adds what it leaves out: bounded work per wake-up,
counted losses, a receive buffer that is large enough, and the queue flags. `BoundQueue` is what
every queue needs; `Queue` holds packets for a verdict that comes at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

from msgspec import Struct
from netfilterqueue import COPY_PACKET, NetfilterQueue
from netfilterqueue import Packet as QueuedPacket

from arbiter import packets
from arbiter.kernel import netlink
from arbiter.kernel.fastpath import FastPath, Handed
from arbiter.model import MARK_MASK, Hook, Packet, Undecodable, Verdict, VerdictKind

BATCH = 64
"""Packets handled per wake-up, so that a flood cannot keep timers and answers waiting."""
RECEIVE_BUFFER = 4 << 20
"""Bytes asked of SO_RCVBUFFORCE (the kernel doubles them for its own overhead, socket(7)); one
queued message takes about 1 kB of it, so that a burst of 4,000 fits."""
SO_RCVBUFFORCE = 33
HOOKS = {1: Hook.IN, 2: Hook.FORWARD, 3: Hook.OUT}
"""NF_INET_LOCAL_IN, NF_INET_FORWARD, NF_INET_LOCAL_OUT (linux/netfilter.h)."""


class Counters(Struct, frozen=True):
    """What the kernel counts for a queue (/proc/net/netfilter/nfnetlink_queue)."""

    waiting: int
    """Packets without a verdict now."""
    dropped_full: int
    """Packets that found the queue full (dropped, or let through with fail-open)."""
    dropped_socket: int
    """Packets that could not be sent to us: the receive buffer was full."""
    total: int
    """Packets ever queued (the id sequence)."""


class QueueError(Exception):
    """The queue cannot be opened; the text says why and what to do."""


class _Budget:
    """What `run_socket` reads from: at most BATCH messages per wake-up.

    `NetfilterQueue.run(block=False)` would read until the socket is empty, which under a flood is
    never, and would swallow ENOBUFS, the only sign that packets were lost on the way to us.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._left = 0
        self.overruns = 0
        self.early: list[bytes] = []
        """Messages that others have read: while the queue was set up, or the fast path."""
        self.only_early = False

    def refill(self) -> None:
        self._left = BATCH

    def recv(self, size: int) -> bytes:
        if not self._left:
            raise BlockingIOError(errno.EAGAIN, "batch done")
        self._left -= 1
        if self.early:
            return self.early.pop(0)
        if self.only_early:
            raise BlockingIOError(errno.EAGAIN, "another one reads the socket")
        try:
            return self._sock.recv(size, socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                self.overruns += 1
            raise


class BoundQueue:
    """One bound queue: `receive` is called for each packet from `handle`, and must see to its
    verdict. `copy` is how many bytes of a packet it gets, `buffer` the bytes of SO_RCVBUF.
    Raises QueueError where the queue cannot be had."""

    def __init__(
        self,
        number: int,
        receive: Callable[[QueuedPacket], None],
        *,
        length: int,
        copy: int,
        buffer: int,
        flags: int,
    ) -> None:
        self.number = number
        self._buffer = buffer
        self.problems: list[str] = []
        try:
            self._nfq = NetfilterQueue()
        except OSError as error:
            raise QueueError(_no_queue(number, str(error))) from None
        try:
            with warnings.catch_warnings():
                # A smaller receive buffer is checked and said below, in our words.
                warnings.simplefilter("ignore", RuntimeWarning)
                self._nfq.bind(number, receive, length, COPY_PACKET, copy, buffer)
        except OSError as error:
            raise QueueError(_no_queue(number, str(error))) from None
        self._sock = socket.socket(fileno=os.dup(self._nfq.get_fd()))
        self._budget = _Budget(self._sock)
        self._configure(flags)

    def _configure(self, flags: int) -> None:
        with contextlib.suppress(PermissionError):
            self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, self._buffer)
        size = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        if size < self._buffer:
            self.problems.append(
                f"queue {self.number}'s receive buffer has {size // 1024} kB only: bursts may be "
                "lost; run arbiter as root or raise net.core.rmem_max"
            )
        mask = netlink.NFQA_CFG_F_FAIL_OPEN | netlink.NFQA_CFG_F_GSO
        try:
            netlink.queue_config_flags(
                self._nfq.get_fd(), self.number, flags, mask, self._budget.early
            )
        except OSError as error:
            self._nfq.unbind()
            raise QueueError(f"queue {self.number} refuses its flags: {error}") from None

    def fileno(self) -> int:
        """The descriptor that is readable while packets wait to be read."""
        return int(self._nfq.get_fd())

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call `handle` in this loop from now on, and at once for what came meanwhile."""
        loop.add_reader(self.fileno(), self.handle)
        while self._budget.early:
            self.handle()

    def handle(self) -> None:
        """Read what is there, BATCH packets at most; call it whenever `fileno` is readable."""
        self._budget.refill()
        # It only ever calls recv on it, and takes any object that has one.
        self._nfq.run_socket(cast(socket.socket, self._budget))

    @property
    def overruns(self) -> int:
        """How often the kernel said that messages to us were lost (ENOBUFS)."""
        return self._budget.overruns

    def bound(self) -> bool:
        """Whether the kernel's queue of this number still hands its packets to us."""
        port = str(self._sock.getsockname()[0])
        with open("/proc/thread-self/net/netfilter/nfnetlink_queue") as table:
            return any(
                columns[:2] == [str(self.number), port]
                for columns in (line.split() for line in table)
            )

    def counters(self) -> Counters:
        """The kernel's own counters for this queue; zeros where it is not bound."""
        with open("/proc/thread-self/net/netfilter/nfnetlink_queue") as table:
            for line in table:
                columns = line.split()
                if int(columns[0]) == self.number:
                    return Counters(*(int(columns[i]) for i in (2, 5, 6, 7)))
        return Counters(0, 0, 0, 0)

    def close(self) -> None:
        """Unbind. The kernel drops what still waits: answer it first."""
        self._nfq.unbind()
        self._sock.close()


class Queue(BoundQueue):
    """The queue of new connections. `on_packet` is called for each packet from `handle`; every
    packet then wants exactly one `set_verdict`, at any time and in any order, until `close`."""

    def __init__(
        self,
        number: int,
        on_packet: Callable[[Packet | Undecodable], None],
        *,
        length: int,
        fail_open: bool,
        mark_mask: int = MARK_MASK,
    ) -> None:
        self._mark_mask = mark_mask
        self._mark_shift = _lowest_bit(MARK_MASK) - _lowest_bit(mark_mask)
        # The library may hand packets over inside its own requests, before we are made.
        self._early: list[Packet | Undecodable] = []
        self._on_packet: Callable[[Packet | Undecodable], None] = self._early.append
        self._waiting: dict[int, QueuedPacket] = {}
        super().__init__(
            number,
            self._receive,
            length=length,
            copy=packets.COPY_RANGE,
            buffer=RECEIVE_BUFFER,
            # GSO: one message for a whole segmented send, or its parts would be reordered.
            flags=netlink.NFQA_CFG_F_GSO | (netlink.NFQA_CFG_F_FAIL_OPEN if fail_open else 0),
        )
        self._on_packet = on_packet
        self._path: FastPath | None = None
        self._handed: Handed | None = None
        self._on_repeated: Callable[[Packet | Undecodable, Handed], None] = lambda packet, it: None

    def go_by(
        self, path: FastPath, on_repeated: Callable[[Packet | Undecodable, Handed], None]
    ) -> None:
        """From `begin` on the fast path reads the queue. `on_repeated` is called for each packet
        that it has answered, which wants no `set_verdict`."""
        self._path, self._on_repeated = path, on_repeated

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call `handle` in this loop from now on, and at once for what came meanwhile."""
        early, self._early = self._early, []
        for packet in early:
            self._on_packet(packet)
        if self._path is None:
            super().begin(loop)
            return
        while self._budget.early:
            self.handle()
        self._budget.only_early = True
        loop.add_reader(self._path.fileno(), self._take)
        self._path.start(lambda why: loop.call_soon_threadsafe(self._fall_back, loop, why))

    def end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read no more."""
        loop.remove_reader(self.fileno())
        if self._path is not None:
            self._path.stop()
            loop.remove_reader(self._path.fileno())
            self.settle()

    def _fall_back(self, loop: asyncio.AbstractEventLoop, error: OSError) -> None:
        """The fast path cannot go on: read here, as without it."""
        path = self._path
        if path is None:
            return
        path.stop()
        loop.remove_reader(path.fileno())
        self._path = None
        self.problems.append(f"the fast path ended: {error}; restart arbiter for less latency")
        self._hand_all(path.rest())
        self._budget.only_early = False
        super().begin(loop)

    def _take(self) -> None:
        assert self._path is not None
        self._hand_all(self._path.take())

    def settle(self) -> None:
        """Tell of all that the fast path has answered."""
        if self._path is not None:
            self._hand_all(self._path.repeated())

    def _hand_all(self, taken: Iterable[Handed]) -> None:
        for handed in taken:
            self._handed = handed
            self._budget.early.append(handed.data)
            self.handle()
        self._handed = None

    def _receive(self, queued: QueuedPacket) -> None:
        payload = queued.get_payload() if queued.get_payload_len() else b""
        packet = packets.decode(
            payload,
            id=queued.id,
            hook=HOOKS.get(queued.hook, Hook.OUT),
            mark=queued.mark,
            indev=queued.indev,
            outdev=queued.outdev,
        )
        handed = self._handed
        if handed is not None and handed.token:
            self._on_repeated(packet, handed)
        else:
            self._waiting[queued.id] = queued
            self._on_packet(packet)

    def set_verdict(self, packet_id: int, verdict: Verdict) -> None:
        """Answer a packet. Its other mark bits stay: set_mark replaces the whole word, so the
        verdict's bits are put into the mark the packet came with. KeyError for one that does
        not wait."""
        queued = self._waiting.pop(packet_id)
        if verdict.mark:
            queued.set_mark(self.mark(queued.mark, verdict))
        if verdict.kind is VerdictKind.ACCEPT:
            queued.accept()
        elif verdict.kind is VerdictKind.DROP:
            queued.drop()
        else:
            queued.repeat()

    def mark(self, before: int, verdict: Verdict) -> int:
        """The whole mark that a packet has after this verdict."""
        return before & ~self._mark_mask | verdict.mark >> self._mark_shift

    @property
    def overruns(self) -> int:
        """How often the kernel said that messages to us were lost (ENOBUFS)."""
        return super().overruns + (self._path.overruns if self._path is not None else 0)

    @property
    def waiting(self) -> int:
        """Packets that have no verdict yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Unbind. The kernel drops what still waits: answer it first."""
        self._waiting.clear()
        super().close()


def _lowest_bit(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _no_queue(number: int, error: str) -> str:
    if os.geteuid() != 0:
        return f"queue {number} cannot be opened ({error}): arbiter run needs root, try sudo"
    holder = _holder(number)
    if holder:
        return f"queue {number} is held by {holder}: stop it, or take another queue (--queue-num N)"
    return f"queue {number} cannot be opened ({error}); `arbiter doctor` says what is missing"


def _holder(number: int) -> str:
    """Who has the queue bound: a netlink port id, which by habit is the process's pid."""
    table = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
    if not table.exists():
        return ""
    for line in table.read_text().splitlines():
        columns = line.split()
        if int(columns[0]) == number:
            comm = Path(f"/proc/{columns[1]}/comm")
            name = comm.read_text().strip() if comm.exists() else "another program"
            return f"{name} (port id {columns[1]})"
    return ""
