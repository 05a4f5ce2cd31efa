"""The proc connector: which processes were born, ran another program, or died (linux/cn_proc.h).

Nothing waits on it: it is drained when somebody asks, so an idle machine is not woken. The buffer
is small on purpose (a drain is bounded by it): after an overrun everything known is forgotten, and
the callers fall back to /proc. The kernel delivers only in the initial network, pid and user
namespaces; elsewhere `ProcEvents.open` returns None.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator

from arbiter.kernel.netlink import NETLINK_CONNECTOR, attach_filter, pack_message

_CN_IDX_PROC = 1
_CN_VAL_PROC = 1
_PROC_CN_MCAST_LISTEN = 1
_NLMSG_DONE = 3
_NONE, _FORK, _EXEC, _EXIT = 0, 0x1, 0x2, 0x80000000
_EVENT = struct.Struct("=16x IIIIHH II8x IIII")  # nlmsghdr, cn_msg, proc_event with four pids
_EVENT_SHORT = struct.Struct("=16x IIIIHH II8x II")
_CLONE_NEWNET = 0x40000000
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 65536
"""Bytes; the kernel doubles it. About 170 events, which take 0.2 ms to read."""
FORKS_BUFFER = 1 << 19
"""Bytes for who reads them with packets only: about 1,400 events, until the next packet."""
_MAX_DRAIN = 4096
_MAX_NEWEST = 256
_MAX_KNOWN = 8192


class ProcEvents:
    """Newest processes and their relations, from fork, exec and exit events.

    Not thread-safe: one thread drains and asks. (uid events are left out: nothing uses them.)
    """

    def __init__(self, sock: socket.socket | None = None) -> None:
        self._sock = sock
        poll = select.poll()
        if sock is not None:
            poll.register(sock, select.POLLIN)
        self._poll = poll.poll
        self._newest: OrderedDict[int, None] = OrderedDict()
        self._parent: OrderedDict[int, int] = OrderedDict()
        self._children: dict[int, set[int]] = {}
        self._complete: set[int] = set()
        self._dead: set[int] = set()
        self._lossy = False
        """Some were lost, and since then not all was read: until then the kernel drops more without
        a word (NETLINK_S_CONGESTED, net/netlink/af_netlink.c)."""
        self.gone: deque[int] = deque(maxlen=_MAX_DRAIN)
        """Pids that exited, for whoever remembers pids: take them out and clear the list."""
        self.overruns = 0
        """How often the kernel dropped events and knowledge was forgotten."""

    @classmethod
    def open(cls, proc: str = "/proc") -> ProcEvents | None:
        """Listen; None where the kernel does not deliver to us (not root, a container).

        See `listen`.
        """
        sock = listen(proc)
        return None if sock is None else cls(sock)

    def close(self) -> None:
        """Stop listening."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def drain(self) -> bool:
        """Read what has happened; False if events were lost and everything known forgotten."""
        if self._sock is None or not self._poll(0):  # cheaper than a recv that raises
            return True
        whole = not self._lossy
        for _ in range(_MAX_DRAIN):
            try:
                data, sender = self._sock.recvfrom(512, socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._lossy = False
                return whole
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                whole = False
                self.forget()
                continue
            if sender[0] == 0 and whole:  # from the kernel; after a loss the rest is old news
                self.feed(data)
        self._lossy = True
        self.forget()  # more than a buffer can hold: they come faster than they are read
        return False

    def forget(self) -> None:
        """Drop everything known, because something was missed."""
        self.overruns += 1
        for known in (self._newest, self._parent, self._children, self._complete, self._dead):
            known.clear()

    def feed(self, data: bytes) -> None:
        """One netlink message. Total: what is not a process event is ignored."""
        if len(data) < _EVENT_SHORT.size:
            return
        if len(data) >= _EVENT.size:
            idx, val, _, _, _, _, what, _, a, b, c, d = _EVENT.unpack_from(data)
        else:
            idx, val, _, _, _, _, what, _, a, b = _EVENT_SHORT.unpack_from(data)
            c = d = 0
        if idx != _CN_IDX_PROC or val != _CN_VAL_PROC:
            return
        if what == _FORK and c == d and c:  # else a new thread
            self.forked(b, d)
        elif what == _EXEC:
            self._renew(b)
        elif what == _EXIT and a == b:  # else a thread
            self.exited(b)

    def forked(self, parent: int, child: int) -> None:
        """`child` is a new process of `parent`: an older one of that pid is gone."""
        self._unlink(child)
        self._parent[child] = parent
        self._children.setdefault(parent, set()).add(child)
        self._complete.add(child)
        self._renew(child)
        while len(self._parent) > _MAX_KNOWN:
            oldest, its_parent = next(iter(self._parent.items()))
            self._complete.discard(its_parent)
            self._unlink(oldest)

    def exited(self, pid: int) -> None:
        """`pid` is gone; it stays as a link between its relatives while it has children."""
        self._newest.pop(pid, None)
        self.gone.append(pid)
        if self._children.get(pid):
            self._dead.add(pid)
        else:
            self._unlink(pid)

    def adopt(self, parent: int, children: Iterable[int]) -> None:
        """The children of a process that is older than our listening, read from /proc."""
        for child in children:
            if child not in self._parent:
                self._parent[child] = parent
                self._children.setdefault(parent, set()).add(child)
        self._complete.add(parent)

    def learn_parent(self, pid: int, parent: int) -> None:
        """Who the parent of a process is that is older than our listening."""
        self._parent.setdefault(pid, parent)
        self._children.setdefault(self._parent[pid], set()).add(pid)

    def complete(self, pid: int) -> bool:
        """Whether every child of `pid` is known."""
        return pid in self._complete

    def newest(self) -> Iterator[int]:
        """Pids of living processes, the last to be born or to change its program first."""
        return reversed(self._newest)

    def saw(self, pid: int) -> bool:
        """Whether it is one of the newest: then it is a process, and no thread of one."""
        return pid in self._newest

    def parent(self, pid: int) -> int | None:
        """Who forked `pid`, if that was seen."""
        return self._parent.get(pid)

    def children(self, pid: int) -> list[int]:
        """Its children as known; an exited child's own children in its place."""
        known = self._children.get(pid)
        if not known:
            return []
        out: list[int] = []
        todo = list(known)
        while todo:
            child = todo.pop()
            if child in self._dead:
                todo += self._children.get(child, ())
            else:
                out.append(child)
        return out

    def elders(self, pid: int) -> list[int]:
        """Its parent, if known; past an exited parent its other children and its own parent.

        The nearest first, each once.
        """
        parent = self._parent.get(pid)
        out: dict[int, None] = {}
        while parent in self._dead:
            out |= dict.fromkeys(self.children(parent))
            parent = self._parent.get(parent)
        out.pop(pid, None)
        return [*out] if parent is None else [*out, parent]

    def _renew(self, pid: int) -> None:
        self._newest[pid] = None
        self._newest.move_to_end(pid)
        if len(self._newest) > _MAX_NEWEST:
            self._newest.popitem(last=False)

    def _unlink(self, pid: int) -> None:
        """Forget one process. A parent that only linked its dead kin goes with its last child."""
        parent = self._parent.pop(pid, None)
        self._newest.pop(pid, None)
        self._complete.discard(pid)
        self._dead.discard(pid)
        for child in self._children.pop(pid, ()):
            self._parent.pop(child, None)
        if parent is not None and (siblings := self._children.get(parent)) is not None:
            siblings.discard(pid)
            if not siblings:
                del self._children[parent]
                if parent in self._dead:
                    self._unlink(parent)


def listen(proc: str = "/proc", buffer: int = _RECEIVE_BUFFER) -> socket.socket | None:
    """A socket at which process events come; None where the kernel does not deliver to us.

    From another network namespace (the lab), it is opened in the initial one, found by init or the
    kernel's own threads; only the socket stays there. `buffer` in bytes.
    """
    for namespace in (None, f"{proc}/1/ns/net", f"{proc}/2/ns/net"):
        sock = _connector_socket(namespace, buffer)
        if sock is None:
            continue
        if _listen(sock):
            return sock
        sock.close()
    return None


def _connector_socket(namespace: str | None, buffer: int) -> socket.socket | None:
    """A connector socket bound to the process events, in that network namespace or our own.

    None where that is not permitted, or the kernel has no connector.
    """
    made: list[socket.socket | OSError] = []

    def make(target: int) -> None:
        try:
            _setns(target)
            made.append(_bound_socket(buffer))
        except OSError as error:
            made.append(error)

    try:
        if namespace is None:
            return _bound_socket(buffer)
        fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # setns(2) moves one thread: a short-lived one goes there and opens the socket.
            thread = threading.Thread(target=make, args=(fd,), name="proc-connector")
            thread.start()
            thread.join()
        finally:
            os.close(fd)
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]
    except (PermissionError, FileNotFoundError):
        return None
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            return None
        raise


def _setns(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns to the initial network namespace: {os.strerror(number)}")


def _bound_socket(buffer: int) -> socket.socket:
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    sock = socket.socket(socket.AF_NETLINK, kind, NETLINK_CONNECTOR)
    try:
        _attach_filter(sock)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
        sock.bind((0, _CN_IDX_PROC))
    except OSError:
        sock.close()
        raise
    return sock


def _attach_filter(sock: socket.socket) -> None:
    """Let through acknowledgements, execs, and forks and exits of processes, not of threads.

    Classic BPF over the message from its nlmsghdr on; loads are in network order.
    """
    ld, tax, jeq, jeqx, ret = 0x20, 0x07, 0x15, 0x1D, 0x06
    what, data = 36, 52
    program = [
        (ld, 0, 0, what),
        (jeq, 12, 0, socket.htonl(_NONE)),
        (jeq, 11, 0, socket.htonl(_EXEC)),
        (jeq, 1, 0, socket.htonl(_FORK)),
        (jeq, 4, 8, socket.htonl(_EXIT)),
        (ld, 0, 0, data + 8),  # fork: child_pid and child_tgid
        (tax, 0, 0, 0),
        (ld, 0, 0, data + 12),
        (jeqx, 5, 4, 0),
        (ld, 0, 0, data),  # exit: process_pid and process_tgid
        (tax, 0, 0, 0),
        (ld, 0, 0, data + 4),
        (jeqx, 1, 0, 0),
        (ret, 0, 0, 0),
        (ret, 0, 0, 0xFFFFFFFF),
    ]
    attach_filter(sock, program)


def _listen(sock: socket.socket) -> bool:
    """Ask for events; whether the kernel confirmed it (it does so inside send, or never)."""
    mine = int.from_bytes(os.urandom(3), "big")
    operation = struct.pack("=I", _PROC_CN_MCAST_LISTEN)
    message = struct.pack("=IIIIHH", _CN_IDX_PROC, _CN_VAL_PROC, 0, mine, len(operation), 0)
    try:
        sock.sendto(pack_message(_NLMSG_DONE, 0, 0, message + operation), (0, 0))
    except (PermissionError, ConnectionRefusedError):
        return False
    for _ in range(_MAX_DRAIN):
        try:
            data, sender = sock.recvfrom(512, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        if sender[0] != 0 or len(data) < _EVENT_SHORT.size:
            continue
        # cn_proc_ack answers with ack + 1; its seq is overwritten by send_msg.
        idx, _, _, ack, _, _, what, _, error, _ = _EVENT_SHORT.unpack_from(data)
        if idx == _CN_IDX_PROC and what == _NONE and ack == mine + 1:
            return bool(error == 0)
    return False
