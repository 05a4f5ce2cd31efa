"""Watches interfaces, addresses, routes and gateways: tells each new state, a loss at once.

An event says that something changed; what is now is read anew (`rtnldump`). So nothing is lost with
an event: an overrun of the socket (ENOBUFS) is one more reason to look. While nothing happens,
nothing runs.

Changes mostly come in dozens, and are told once things are quiet. But what was told and is gone (an
interface, an address, a default route) is looked at without that wait: until it is told, new
connections are decided for a link that is not there.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Container

from arbiter.kernel.linkevents import EVERYTHING, GROUPS, Judge, Told
from arbiter.kernel.neighbours import Gateways
from arbiter.kernel.rtnetlink import OWN_PORTS
from arbiter.kernel.rtnldump import Kinds, read_interfaces
from arbiter.links import Interface

QUIET = 0.05
"""Seconds without an event after which the state is read."""
LONGEST = 0.5
"""Seconds after the first event when it is read in any case."""
BETWEEN_LOSSES = 0.25
"""Seconds between two looks that did not wait for quiet: a storm of losses, a carrier that comes
and goes, is no storm of looks. Meanwhile a loss is told like other changes."""
RETRY = 1.0
"""Seconds after a failure."""
_NETLINK_ROUTE = 0
_READ_SIZE = 65536
_BATCH = 64
"""Events read at a time, before others on the loop have their turn."""


class LinkWatch:
    """The interfaces of the network namespace it was started in.

    `changed` gets all of them, at the start and after each change. `problem` gets a sentence when
    the state cannot be read, and "" once it can again; meanwhile the last state stays, and it is
    tried again every second. `own_tables` are arbiter's routing tables: they mirror the others, and
    would otherwise keep a lost default route alive.

    `rules_changed` is called when rules or routes of arbiter's may be gone, though `changed` was
    not: another program removed them (at its start systemd-networkd removes foreign rules), or they
    went with an interface that was back before it was looked at. `routes.apply` is the answer. What
    this process itself does is never told. One event loop; nothing here is thread-safe.
    """

    def __init__(
        self,
        changed: Callable[[tuple[Interface, ...]], None],
        problem: Callable[[str], None],
        *,
        own_tables: Container[int],
        rules_changed: Callable[[], None] = lambda: None,
        quiet: float = QUIET,
        longest: float = LONGEST,
        receive_buffer: int | None = None,
    ) -> None:
        self._changed = changed
        self._problem = problem
        self._own_tables = own_tables
        self._rules_changed = rules_changed
        self._quiet = quiet
        self._longest = longest
        self._receive_buffer = receive_buffer
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._dirty = asyncio.Event()
        self._told = Told.NOTHING
        self._next_at_once = 0.0
        self._gateways = Gateways()
        self._judge = Judge(own_tables, OWN_PORTS, self._gateways)
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
            sock.bind((0, GROUPS))
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
                if error.errno != errno.ENOBUFS:
                    self._close_socket()  # the next look opens a new one
                    self._note(Told.CHANGE | Told.LOSS)  # as if lost: what was told is unheard
                    return
                self._note(EVERYTHING)
                self.overruns += 1
                continue
            # Only the kernel's own words: others may send to this socket, with the right to.
            if sender[0] == 0 and (told := self._judge.judge(data)):
                self._note(told)

    def _note(self, told: Told) -> None:
        self._told |= told
        self._dirty.set()

    # --- looking ------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._dirty.wait()
            quiet = await self._settle()
            told, self._told = self._told, Told.NOTHING
            self._dirty.clear()
            if told & Told.RULES:
                self._rules_changed()
            if told & Told.CHANGE and not await self._look(told):
                await asyncio.sleep(RETRY)
                self._note(Told.CHANGE | Told.LOSS)
            elif told & Told.CHANGE and not quiet:
                # The look was in the middle of something, the end of which may be silent.
                self._note(Told.CHANGE)

    async def _settle(self) -> bool:
        """Until no event came for `quiet` seconds, `longest` at most; not at all after a loss.

        Whether it is quiet now.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._longest
        while True:
            if self._told & Told.LOSS:
                until = min(until, self._next_at_once)
            rest = until - loop.time()
            if rest <= 0:
                break
            self._dirty.clear()
            try:
                async with asyncio.timeout(min(self._quiet, rest)):
                    await self._dirty.wait()
            except TimeoutError:
                if rest > self._quiet:
                    return True
        self._next_at_once = loop.time() + BETWEEN_LOSSES
        return False

    async def _look(self, told: Told) -> bool:
        """Read the state and tell it if it is new; False where it could not be read."""
        try:
            if self._socket is None:
                self._open()
            found = await self._read()
        except OSError as error:
            self._say(
                f"cannot read interfaces and routes from rtnetlink: {error}; links stay as they "
                f"were last seen, next try in {RETRY:.0f} s; see `ip monitor` and `arbiter doctor`"
            )
            return False
        self._say(self._gateways.problem)
        if found != self.interfaces:
            self.interfaces = found
            self._changed(found)
        elif told & Told.LOSS and not told & Told.RULES:
            # Lost and back already. IPv4 routes of ours went with it, without a word
            # (fib_sync_down_dev and fib_sync_down_addr in net/ipv4/fib_semantics.c).
            self._rules_changed()
        return True

    async def _read(self) -> tuple[Interface, ...]:
        self.looks += 1
        snapshot = await read_interfaces(self._own_tables, self._kinds)
        self._kinds = snapshot.kinds
        if not snapshot.consistent:
            self._note(Told.CHANGE)
        # No await from here on: the next event is judged by what was found.
        found = self._gateways.look(snapshot.interfaces)
        self._judge.told(found)
        return found

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
