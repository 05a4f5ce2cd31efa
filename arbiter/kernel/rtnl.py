"""Watches interfaces, addresses and routes: tells of each new state, once things are quiet.

An event says that something changed; what is now is read anew (`rtnldump`). So nothing is lost with
an event: an overrun of the socket (ENOBUFS) is one more reason to look. While nothing happens,
nothing runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Container

from pyroute2.netlink.exceptions import NetlinkError

from arbiter.kernel.netlink import messages
from arbiter.kernel.rtnldump import RT_TABLE_LOCAL, Kinds, read_interfaces
from arbiter.links import Interface

QUIET = 0.05
"""Seconds without an event after which the state is read."""
LONGEST = 0.5
"""Seconds after the first event when it is read in any case."""
RETRY = 1.0
"""Seconds after a failure."""
_NETLINK_ROUTE = 0
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE (linux/rtnetlink.h)."""
_LINK_OR_ADDRESS = frozenset({16, 17, 20, 21})  # RTM_{NEW,DEL}{LINK,ADDR}
_ROUTE = frozenset({24, 25})
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTM_F_CLONED = 0x200
_READ_SIZE = 65536
_BATCH = 64
"""Events read at a time, before others on the loop have their turn."""


class LinkWatch:
    """The interfaces of the network namespace it was started in.

    `changed` gets all of them, at the start and after each change. `problem` gets a sentence when
    the state cannot be read, and "" once it can again; meanwhile the last state stays, and it is
    tried again every second. `own_tables` are arbiter's routing tables: they mirror the others, and
    would otherwise keep a lost default route alive. One event loop; nothing here is thread-safe.
    """

    def __init__(
        self,
        changed: Callable[[tuple[Interface, ...]], None],
        problem: Callable[[str], None],
        *,
        own_tables: Container[int],
        quiet: float = QUIET,
        longest: float = LONGEST,
        receive_buffer: int | None = None,
    ) -> None:
        self._changed = changed
        self._problem = problem
        self._own_tables = own_tables
        self._quiet = quiet
        self._longest = longest
        self._receive_buffer = receive_buffer
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._dirty = asyncio.Event()
        self._kinds: Kinds = {}
        self._failed = ""
        self.interfaces: tuple[Interface, ...] = ()
        """The last state told."""
        self.looks = 0
        """How often the state was read."""
        self.overruns = 0
        """How often the kernel said that events were lost."""

    async def start(self) -> None:
        """Tell the first state, and watch from then on. OSError where netlink is refused."""
        if self._task is not None:
            raise RuntimeError("this watch is running: close it before starting it again")
        self._open()  # before the first look: what happens from here on is seen
        try:
            self.interfaces = await self._read()
            self._changed(self.interfaces)
        except NetlinkError as error:
            self._close_socket()
            raise OSError(error.code, f"reading interfaces and routes: {error}") from error
        except BaseException:
            self._close_socket()
            raise
        self._task = asyncio.create_task(self._run(), name="link watch")
        self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Stop; `changed` is not called any more. May be called twice."""
        task, self._task = self._task, None
        self._close_socket()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    # --- events -------------------------------------------------------------------------------

    def _open(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        sock = socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE)
        try:
            if self._receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            sock.bind((0, _GROUPS))
        except OSError:
            sock.close()
            raise
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable, sock)

    def _close_socket(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                data, sender = sock.recvfrom(_READ_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                self._dirty.set()
                if error.errno != errno.ENOBUFS:
                    self._close_socket()  # the next look opens a new one
                    return
                self.overruns += 1
                continue
            # Only the kernel's own words: others may send to this socket, with the right to.
            if sender[0] == 0 and not self._dirty.is_set() and matters(data):
                self._dirty.set()

    # --- looking ------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._dirty.wait()
            await self._settle()
            self._dirty.clear()
            if not await self._look():
                await asyncio.sleep(RETRY)
                self._dirty.set()

    async def _settle(self) -> None:
        """Until no event came for `quiet` seconds, but `longest` at most."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._longest
        while (rest := until - loop.time()) > 0:
            self._dirty.clear()
            try:
                async with asyncio.timeout(min(self._quiet, rest)):
                    await self._dirty.wait()
            except TimeoutError:
                return

    async def _look(self) -> bool:
        """Read the state and tell it if it is new; False where it could not be read."""
        try:
            if self._socket is None:
                self._open()
            found = await self._read()
        except (OSError, NetlinkError) as error:
            self._say(
                f"cannot read interfaces and routes from rtnetlink: {error}; links stay as they "
                f"were last seen, next try in {RETRY:.0f} s; see `ip monitor` and `arbiter doctor`"
            )
            return False
        self._say("")
        if found != self.interfaces:
            self.interfaces = found
            self._changed(found)
        return True

    async def _read(self) -> tuple[Interface, ...]:
        self.looks += 1
        snapshot = await read_interfaces(self._own_tables, self._kinds)
        self._kinds = snapshot.kinds
        if not snapshot.consistent:
            self._dirty.set()
        return snapshot.interfaces

    def _say(self, text: str) -> None:
        if text != self._failed:
            self._failed = text
            self._problem(text)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A look never ends by itself: what `changed` or a bug threw is said, not lost."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._close_socket()
        self._problem(
            f"links are not watched any more, a fault in arbiter: {type(error).__name__}: {error}; "
            "restart arbiter, and please report it"
        )


def matters(data: bytes) -> bool:
    """Whether a datagram of events can change what `read_interfaces` tells. Pure.

    Routes of table local follow addresses; cloned ones are cache entries. What cannot be read
    counts as a change.
    """
    with contextlib.suppress(ValueError):
        return any(_message_matters(message.type, message.payload) for message in messages(data))
    return True


def _message_matters(kind: int, payload: bytes) -> bool:
    if kind in _LINK_OR_ADDRESS:
        return True
    if kind not in _ROUTE:
        return False
    if len(payload) < _RTMSG.size:
        return True
    *_, table, _, _, _, flags = _RTMSG.unpack_from(payload)
    return table != RT_TABLE_LOCAL and not flags & _RTM_F_CLONED
