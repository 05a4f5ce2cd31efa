"""A socket's inode to the processes that hold it: the likeliest first, or all by a full scan.

The kernel has no such look-up: /proc/PID/fd is read. A readlink costs about 1 us, so the order of
candidates is everything: who opened the last sockets of that user, at the descriptor used then;
the newest processes; then whole descriptor tables, within a budget. A process found so may share
the socket with its relatives (inherited over fork): those are looked at too.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from msgspec import Struct

from arbiter.kernel.procevents import ProcEvents

_MAX_RECENT = 64
_MAX_OWN = 256
_MAX_NEWEST = 16
_MAX_DESCENT = 24
_MAX_RELATIVES = 200
_MAX_READS = 500
"""Readlinks of one quick search: about 0.5 ms, then a full scan has to tell."""
MAX_LISTED = 256
"""Descriptors of one process looked at by a quick search."""
MAX_SEEN = 32768
"""Sockets that a full scan remembers: some 200 bytes each, for a second."""
_MAX_KNOWN = 16384
_KNOWN_SECONDS = 1.0
"""How long what a search read is not read again: a program that opens thousands of sockets at once
would have the same descriptors read for each of them."""


class Holder(Struct, frozen=True):
    """A process that has the socket open, and where."""

    pid: int
    fd: int
    inode: int
    task: int = 0
    """The thread whose own descriptor table it is; 0 for the process's."""


class Scan(Struct, frozen=True):
    """What a full scan found. `hidden`: a process could not be looked into."""

    holders: tuple[Holder, ...]
    hidden: bool
    seen: dict[int, tuple[Holder, ...]] = {}
    """All holders of other sockets by their inodes, as far as there is room (MAX_SEEN)."""


class _Recent:
    """A process that held a socket lately."""

    __slots__ = ("fd", "own", "uid")

    def __init__(self, uid: int, fd: int) -> None:
        self.uid = uid
        self.fd = fd
        self.own: set[int] = set()
        """Descriptors at which it held a socket that no parent of it had there.

        What is found there later is not inherited either: it took that descriptor's place after
        the process was born. (True while exits are seen: pids are used again.)
        """


class Holders:
    """Remembers who held sockets lately.

    `quick` and `note` are for one thread at a time; `scan` and `holds` keep no state and may run
    beside them.
    """

    def __init__(self, proc: str = "/proc", events: ProcEvents | None = None) -> None:
        self._proc = proc
        self._events = events
        self._recent: OrderedDict[int, _Recent] = OrderedDict()
        self._usual: OrderedDict[int, list[int]] = OrderedDict()
        """Of a uid: the last three different descriptors its sockets had, the newest first."""
        self._known: dict[str, tuple[int, int]] = {}
        """Socket → where a search of whole tables saw it. Verified before it is used."""
        self._read: set[tuple[int, int]] = set()
        self._known_until = 0.0
        self._loadavg = os.open(f"{proc}/loadavg", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the file kept open; the events are not ours."""
        os.close(self._loadavg)

    def holds(self, holder: Holder) -> bool:
        """Whether it still does."""
        # /proc/TID exists for threads, too, though it is not listed.
        return self._is(holder.task or holder.pid, holder.fd, f"socket:[{holder.inode}]")

    def note(self, holder: Holder, uid: int) -> None:
        """Remember a holder: it is the first candidate for the next socket of that uid."""
        recent = self._recent
        entry = recent.get(holder.pid)
        if entry is None:
            entry = recent[holder.pid] = _Recent(uid, holder.fd)
            if len(recent) > _MAX_RECENT:
                recent.popitem(last=False)
        entry.uid, entry.fd = uid, holder.fd
        recent.move_to_end(holder.pid)
        usual = self._usual.pop(uid, [])
        self._usual[uid] = [holder.fd, *(fd for fd in usual if fd != holder.fd)][:3]
        if len(self._usual) > _MAX_RECENT:
            self._usual.popitem(last=False)

    def place(self, pid: int) -> tuple[int, tuple[int, ...]] | None:
        """Where the last socket of a process was, and its relatives, who may have shared it. None
        where there are no process events, or it held none lately."""
        entry = self._recent.get(pid)
        if entry is None or self._events is None:
            return None
        children, elders = self._relatives(pid)
        return entry.fd, (*children, *elders)

    # --- quick ---

    def hear(self) -> bool:
        """Hear of what processes did until now; False where some of it was missed. Called ahead of
        a search it saves that the time: a full buffer takes a millisecond."""
        events = self._events
        fresh = events is not None and events.drain()
        if events is not None and events.gone:
            for pid in events.gone:
                self._recent.pop(pid, None)
            events.gone.clear()
        if not fresh:
            for entry in self._recent.values():
                entry.own.clear()
        return fresh

    def quick(self, inode: int, uid: int, known: tuple[Holder, ...] = ()) -> list[Holder] | None:
        """Holders of the socket, found among the likeliest; None where only a scan can tell.

        `known` are all that a scan saw a moment ago: they are looked at first, and whom they had
        since, by fork, is found with them."""
        fresh = self.hear()
        target = f"socket:[{inode}]"
        if known and all(map(self.holds, known)):
            return self._with_relatives(known, target, inode)
        first = self._search(target, uid, fresh)
        if first is None:
            return None
        pid, fd = first
        return self._family(pid, fd, target, inode)

    def _with_relatives(
        self, known: tuple[Holder, ...], target: str, inode: int
    ) -> list[Holder] | None:
        out = {holder.pid: holder for holder in known}
        for holder in known:
            if not holder.task:
                family = self._family(holder.pid, holder.fd, target, inode)
                if family is None:
                    return None
                out |= {other.pid: other for other in family if other.pid not in out}
        return list(out.values())

    def _search(self, target: str, uid: int, fresh: bool) -> tuple[int, int] | None:
        seen = self._known.get(target)
        if seen is not None and self._is(*seen, target):
            return self._process(seen[0]), seen[1]
        others: list[tuple[int, int]] = []
        tried = 0
        for pid, entry in reversed(self._recent.items()):
            fd = entry.fd
            if entry.uid != uid:
                others.append((pid, fd))
                continue
            if self._is(pid, fd, target):
                return pid, fd
            tried += 1
            if tried == 8:
                break
        hints = self._usual.get(uid, (3,))  # the same program again: its descriptor, too
        newest: list[int] = []
        for pid in self._newest(fresh):
            newest.append(pid)
            for fd in hints:
                if self._is(pid, fd, target):
                    return self._process(pid), fd
        for pid, fd in others[:8]:
            if self._is(pid, fd, target):
                return pid, fd
        return self._search_tables(target, uid, newest)

    def _search_tables(self, target: str, uid: int, newest: list[int]) -> tuple[int, int] | None:
        """Whole descriptor tables, highest first: what was opened last is usually there."""
        recent = list(reversed(self._recent.items()))
        same = [pid for pid, entry in recent if entry.uid == uid]
        rest = [pid for pid, entry in recent if entry.uid != uid]
        now = time.monotonic()
        if now > self._known_until or len(self._read) > _MAX_KNOWN:
            self._known.clear()
            self._read.clear()
            self._known_until = now + _KNOWN_SECONDS
        budget = _MAX_READS
        for pid in dict.fromkeys([*newest[:4], *same[:4], *newest[4:], *same[4:], *rest]):
            try:
                fds = self._descriptors(f"{self._proc}/{pid}/fd")
            except PermissionError:
                continue
            if not fds:
                self._recent.pop(pid, None)  # it has gone
            unread = (fd for fd in fds if (pid, fd) not in self._read)
            for fd in itertools.islice(unread, MAX_LISTED):
                link = _link(f"{self._proc}/{pid}/fd/{fd}")
                self._read.add((pid, fd))
                if link.startswith("socket:"):
                    self._known[link] = pid, fd
                if link == target:
                    return self._process(pid), fd
                budget -= 1
                if budget == 0:
                    return None
        return None

    def _newest(self, fresh: bool) -> Iterator[int]:
        """The newest processes; without (whole) events, the newest pids, threads among them."""
        known: tuple[int, ...] = ()
        if fresh and self._events is not None:
            known = tuple(itertools.islice(self._events.newest(), _MAX_NEWEST))
            yield from known
        if len(known) < _MAX_NEWEST:
            # proc(5): the last field is the pid most recently created.
            last = int(os.pread(self._loadavg, 128, 0).split()[-1])
            pids = range(last, max(1, last - _MAX_DESCENT), -1)
            yield from (pid for pid in pids if pid not in known)

    # --- relatives ---

    def _family(self, pid: int, fd: int, target: str, inode: int) -> list[Holder] | None:
        """The holder and the relatives that share its descriptor; None if they are too many."""
        out = [Holder(pid, fd, inode)]
        todo, seen, inherited = [pid], {pid}, False
        while todo:
            at = todo.pop()
            children, elders = self._relatives(at)
            if at == pid and (entry := self._recent.get(pid)) and fd in entry.own:
                elders = []
            for other in (*children, *elders):
                if other in seen:
                    continue
                seen.add(other)
                if len(seen) > _MAX_RELATIVES:
                    return None
                if self._is(other, fd, target):
                    out.append(Holder(other, fd, inode))
                    todo.append(other)
                    inherited = inherited or other in elders
                elif other in children and self._is(other, 0, target):
                    out.append(Holder(other, 0, inode))  # as its standard input (inetd, nc -e)
                    todo.append(other)
        self._note_own(pid, fd, inherited)
        return out

    def _note_own(self, pid: int, fd: int, inherited: bool) -> None:
        entry = self._recent.get(pid)
        if entry is None:
            return
        if inherited:
            entry.own.discard(fd)
        elif len(entry.own) < _MAX_OWN:
            entry.own.add(fd)

    def _relatives(self, pid: int) -> tuple[list[int], list[int]]:
        """Children and parents: from the events where they saw them, else from /proc.

        Past an exited relative its own ones take its place, hence the plural.
        """
        events = self._events
        if events is None:
            parent = self._parent(pid)
            return self._children(pid), [parent] if parent else []
        if not events.complete(pid):
            events.adopt(pid, self._children(pid))
        if events.parent(pid) is None and (parent := self._parent(pid)):
            events.learn_parent(pid, parent)
        return events.children(pid), events.elders(pid)

    def _children(self, pid: int) -> list[int]:
        out: list[int] = []
        try:
            for task in _names(f"{self._proc}/{pid}/task"):
                with open(f"{self._proc}/{pid}/task/{task}/children", "rb") as file:
                    out += map(int, file.read().split())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return out  # it exits, or the kernel lacks CONFIG_PROC_CHILDREN: a scan can tell
        return out

    def _parent(self, pid: int) -> int:
        """Pid of the parent; 0 if it has none or has gone."""
        try:
            with open(f"{self._proc}/{pid}/stat", "rb") as file:
                # The name in the second field may hold spaces and parentheses.
                return int(file.read().rpartition(b")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return 0

    # --- scan ---

    def scan(self, inodes: Iterable[int]) -> Scan:
        """Every process that holds one of the sockets. Tens of milliseconds: not in the loop."""
        targets = {f"socket:[{inode}]": inode for inode in inodes}
        pids = [int(name) for name in _names(self._proc) if name.isdigit()]
        seen: dict[int, tuple[Holder, ...]] = {}
        found, hidden = self._look(targets, ((pid, 0) for pid in pids), seen)
        if not found:
            # A thread may have a descriptor table of its own (unshare), or outlive the first one.
            found, _ = self._look(targets, self._tasks(pids), {})
        return Scan(tuple(found), hidden, seen)

    def _tasks(self, pids: Iterable[int]) -> Iterator[tuple[int, int]]:
        for pid in pids:
            try:
                tasks = _names(f"{self._proc}/{pid}/task")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            yield from ((pid, int(task)) for task in tasks if task != str(pid))

    def _look(
        self,
        targets: dict[str, int],
        tables: Iterable[tuple[int, int]],
        seen: dict[int, tuple[Holder, ...]],
    ) -> tuple[list[Holder], bool]:
        """Holders in the tables of these (process, thread or 0), and whether one was hidden; what
        else is there goes to `seen`."""
        found: dict[tuple[int, int], Holder] = {}
        hidden = False
        for pid, task in tables:
            table = f"{self._proc}/{task or pid}/fd"
            try:
                for fd in self._descriptors(table):
                    link = _link(f"{table}/{fd}")
                    inode = targets.get(link)
                    if inode is not None and (pid, inode) not in found:
                        found[pid, inode] = Holder(pid, fd, inode, task)
                    elif inode is None and link.startswith("socket:["):
                        other = int(link[8:-1])
                        if other in seen or len(seen) < MAX_SEEN:
                            seen[other] = (*seen.get(other, ()), Holder(pid, fd, other, task))
            except PermissionError:
                hidden = True
        return list(found.values()), hidden

    # --- /proc ---

    def _descriptors(self, table: str) -> list[int]:
        """Open descriptors, highest first; none of a process that is gone. PermissionError."""
        try:
            return sorted(map(int, _names(table)), reverse=True)
        except (FileNotFoundError, ProcessLookupError):
            return []

    def _is(self, pid: int, fd: int, target: str) -> bool:
        return _link(f"{self._proc}/{pid}/fd/{fd}") == target

    def _process(self, pid: int) -> int:
        """The process of a thread id; the id itself if it has gone."""
        if self._events is not None and self._events.saw(pid):
            return pid
        try:
            with open(f"{self._proc}/{pid}/status", "rb") as file:
                for line in file:
                    if line.startswith(b"Tgid:"):
                        return int(line.split()[1])
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return pid
        return pid


def _names(path: str) -> list[str]:
    return os.listdir(path)  # noqa: PTH208  # a Path for each name costs more than the call


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115  # a Path costs more than the system call
    except OSError:
        return ""  # gone, not ours to see, a path too long: whatever it is, not this socket
