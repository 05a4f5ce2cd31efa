"""The owner of a packet's flow: socket, then processes, then everything known about them.

`quick` runs in the event loop: one sock_diag question and a few readlinks. `scan` reads all of
/proc in a worker thread. Neither guesses: what was found is verified after its facts were read
(start time, executable, and the descriptor still that socket), and no owner is a value with its
reason.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Protocol

from msgspec import structs

from arbiter.kernel.holders import MAX_LISTED, Holder, Holders, Scan
from arbiter.kernel.procevents import ProcEvents
from arbiter.kernel.sockets import Find, Found, SocketFinder
from arbiter.kernel.tunfiles import TunFiles
from arbiter.kernel.tunnels import PROTOCOLS, UDP, Tunnels
from arbiter.kernel.users import user_groups, user_name
from arbiter.model import Hook, NoOwner, NoOwnerReason, Owner, Packet, Process

_MAX_VERIFIED = 256
_SEEN_SECONDS = 1.0
"""How long what a scan saw beside what it looked for is believed where it is still so."""
_GONE = (NoOwnerReason.CLOSED, NoOwnerReason.NO_SOCKET)
"""What a socket that was there a moment ago is found as, once it is closed."""


class Processes(Protocol):
    """What an owner look-up needs of `procfs.ProcessTable`."""

    def get(self, pid: int) -> Process | None:
        """The process as it is now; None if it is gone."""

    def start_time(self, pid: int) -> int | None:
        """Its start in clock ticks since boot; None if it is gone."""


class OwnerLookup:
    """Finds owners in the network namespace of the thread that makes it."""

    def __init__(
        self,
        processes: Processes,
        *,
        proc: str = "/proc",
        events: ProcEvents | None = None,
        find: Find | None = None,
    ) -> None:
        self._processes = processes
        self._finder: SocketFinder | None = None
        if find is None:
            self._finder = SocketFinder(proc)
            find = self._finder.find
        self._find = find
        self._tunnels = Tunnels()
        self._tuns = TunFiles(proc)
        self._holders = Holders(proc, events)
        self._last = Scan((), False)
        self._last_until = 0.0
        self._verified: OrderedDict[int, Process] = OrderedDict()
        # Guards the process table, what was verified and the holders' memory: a scan, in its own
        # thread, takes it for one process at a time.
        self._lock = threading.Lock()

    def close(self) -> None:
        """Give sockets and files back; the events and processes are the caller's."""
        if self._finder is not None:
            self._finder.close()
        self._tunnels.close()
        self._holders.close()

    def use_tuns(self, devices: Mapping[str, int]) -> None:
        """These links are tun or tap interfaces, by name: their indexes."""
        self._tuns.use(devices)

    def quick(self, packet: Packet) -> Owner | NoOwner | None:
        """The owner, by the likeliest processes and their relatives; None: only `scan` can tell.

        A socket passed over a Unix socket (SCM_RIGHTS) to a stranger is found with one of its
        holders only; `scan` names them all.
        """
        found = self._find(packet)
        if isinstance(found, NoOwner):
            return None if _may_be_tunnels(packet, found) else _named(found)
        processes: list[Process] = []
        with self._lock:
            for info in found.sockets:
                seen = self._seen(info.inode)
                holders = self._holders.quick(info.inode, info.uid, seen)
                if holders is None:
                    return None
                for holder in holders:
                    process = self._verify(holder)
                    if process is None:
                        return None
                    processes.append(process)
                self._holders.note(holders[0], info.uid)
            return self._owner(found, processes, MAX_LISTED)

    def hear(self) -> None:
        """See `Holders.hear`."""
        with self._lock:
            self._holders.hear()

    def ports(self, proto: int) -> frozenset[int] | None:
        """See `SocketFinder.ports`."""
        return None if self._finder is None else self._finder.ports(proto)

    def place(self, pid: int) -> tuple[int, tuple[int, ...]] | None:
        """Of a process that was just found: see `Holders.place`."""
        with self._lock:
            return self._holders.place(pid)

    def scan(self, packet: Packet) -> Owner | NoOwner:
        """The owner, with every process that holds the socket: reads all of /proc (slow).

        Or, where a scan of _SEEN_SECONDS ago at most saw the socket: who holds it still of those
        that did, and their relatives. A stranger whom it was passed to since is not named.

        Of what no process can have sent, the tunnel that did.
        """
        uid: int | None = None
        last: Scan | None = None
        for _ in range(2):
            found = self._find(packet)
            if isinstance(found, NoOwner):
                if uid is not None and found.reason in _GONE:
                    return _exited(uid, found.established)
                return self._nobodys(packet, _named(found))
            uid = found.sockets[0].uid
            last = self._all_seen(found) or self._scan(found)
            owner = self._scanned(found, last)
            if owner is not None:
                return owner
        assert last is not None and uid is not None
        if last.holders:
            return _exited(uid, False)
        return self._unheld(packet, uid, last)

    def _scan(self, found: Found) -> Scan:
        last = self._holders.scan(info.inode for info in found.sockets)
        with self._lock:
            self._last, self._last_until = last, time.monotonic() + _SEEN_SECONDS
        return last

    def _all_seen(self, found: Found) -> Scan | None:
        """What the last scan saw of these sockets; None where only another one can tell."""
        with self._lock:
            holders: list[Holder] = []
            for info in found.sockets:
                seen = self._seen(info.inode)
                more = self._holders.quick(info.inode, info.uid, seen) if seen else None
                if not more:
                    return None
                holders += more
            return Scan(tuple(holders), self._last.hidden)

    def _scanned(self, found: Found, scan: Scan) -> Owner | None:
        uids = {info.inode: info.uid for info in found.sockets}
        processes: list[Process] = []
        for holder in scan.holders:
            with self._lock:
                process = self._verify(holder)
                if process is not None:
                    processes.append(process)
                    self._holders.note(holder, uids[holder.inode])
        if not processes:
            return None
        with self._lock:
            return self._owner(found, processes)

    def _unheld(self, packet: Packet, uid: int, scan: Scan) -> NoOwner:
        """A socket with an inode, in nobody's descriptor table, twice."""
        again = self._find(packet)
        if isinstance(again, NoOwner):
            if again.reason in _GONE:
                return _exited(uid, again.established)
            return self._nobodys(packet, _named(again))
        user, established = user_name(uid), again.established
        if scan.hidden:
            detail = "other users' processes cannot be looked into; run as root"
            return NoOwner(NoOwnerReason.HIDDEN, uid, user, detail, established)
        if uid == 0:
            detail = "the socket is in no process's descriptor table"
            none = NoOwner(NoOwnerReason.KERNEL, uid, user, detail, established)
        else:
            detail = (
                "the socket is in no process's descriptor table: passed on and not yet received,"
                " or registered with io_uring"
            )
            none = NoOwner(NoOwnerReason.AMBIGUOUS, uid, user, detail, established)
        # WireGuard's socket has the uid of who set it up (sock_alloc, net/socket.c), and
        # systemd-networkd is not root. No other can be bound to its port. Raw sockets have none.
        ours = packet.hook is Hook.OUT and packet.flow.proto == UDP
        return self._tunnels_or(packet, none) if ours else none

    def _nobodys(self, packet: Packet, none: NoOwner) -> NoOwner:
        return self._tunnels_or(packet, none) if _may_be_tunnels(packet, none) else none

    def _tunnels_or(self, packet: Packet, none: NoOwner) -> NoOwner:
        """The tunnel that sent what no process did; else `none`."""
        try:
            tunnels = self._tunnels.sending(packet.flow)
        except (OSError, ValueError) as error:
            # Then it is nobody's: the rules decide it as they do the rest.
            detail = f"{none.detail}; whether a tunnel sent it cannot be read: {error}"
            return structs.replace(none, detail=detail)
        if not tunnels:
            return none
        names = " and ".join(tunnel.name for tunnel in tunnels)
        indexes = tuple(tunnel.index for tunnel in tunnels)
        detail, root = f"the tunnel {names} itself", user_name(0)
        return NoOwner(NoOwnerReason.KERNEL, 0, root, detail, none.established, indexes)

    # --- with the lock held ---

    def _seen(self, inode: int) -> tuple[Holder, ...]:
        """Who held the socket when a scan a moment ago saw it: of a program with thousands of
        sockets each would cost a scan of its own."""
        if not self._last.seen:
            return ()
        if time.monotonic() > self._last_until:
            self._last = Scan((), False)
            return ()
        return self._last.seen.get(inode, ())

    def _verify(self, holder: Holder) -> Process | None:
        """The process, if it was the same before and after it was seen to hold the socket.

        One `get` is enough if the same process was verified by an earlier look-up: then the
        descriptor was read between two equal states. While a process is there its pid is no
        other's, so that the second `get`, of the same one, says whose descriptor was read.
        """
        process = self._processes.get(holder.pid)
        if process is None:
            return None
        known = self._verified.get(holder.pid)
        if known is None or not _same(known, process):
            if not self._holders.holds(holder):
                return None
            again = self._processes.get(holder.pid)
            if again is None or not _same(again, process):
                return None
        self._verified[holder.pid] = process
        self._verified.move_to_end(holder.pid)
        if len(self._verified) > _MAX_VERIFIED:
            self._verified.popitem(last=False)
        return process

    def _owner(
        self, found: Found, processes: list[Process], most: int | None = None
    ) -> Owner | None:
        """The youngest first: of a shell and the program it started, the program. None if one has
        more than `most` descriptors, and may be a tunnel's."""
        tunnels = self._carried_by(processes, most)
        if tunnels is None:
            return None
        if len(processes) > 1:
            unique = {process.pid: process for process in processes}
            processes = sorted(
                unique.values(), key=lambda p: (p.start, len(p.ancestors), p.pid), reverse=True
            )
        info = found.sockets[0]
        user = user_name(info.uid)
        inode = info.inode if len(found.sockets) == 1 else 0
        groups, gids = user_groups(info.uid)
        return Owner(
            info.uid,
            user,
            tuple(processes),
            inode,
            found.established,
            groups,
            gids,
            tunnels,
            found.came_in,
        )

    def _carried_by(self, processes: list[Process], most: int | None) -> tuple[int, ...] | None:
        """The tunnels whose end each of the processes holds: what only one of them may send is no
        tunnel's."""
        common: tuple[int, ...] | None = None
        for process in processes:
            held = self._tuns.held_by((process.pid, process.start), most)
            if held is None:
                return None
            if held and self._processes.start_time(process.pid) != process.start:
                held = ()  # another one's by now
            common = held if common is None else tuple(index for index in common if index in held)
            if not common:
                return ()
        return common


def _may_be_tunnels(packet: Packet, none: NoOwner) -> bool:
    """Whether it may be the outer packet of a tunnel of the kernel's."""
    outer = packet.hook is Hook.OUT and packet.flow.proto in PROTOCOLS
    return outer and none.reason is NoOwnerReason.KERNEL


def _named(none: NoOwner) -> NoOwner:
    if none.uid is None:
        return none
    user = user_name(none.uid)
    return structs.replace(none, user=user)


def _exited(uid: int, established: bool) -> NoOwner:
    detail = "its process exited, or ran another program, while it was looked up"
    return NoOwner(NoOwnerReason.EXITED, uid, user_name(uid), detail, established)


def _same(one: Process, other: Process) -> bool:
    """Whether nothing that tells who it is has changed: pid, start, executable, arguments."""
    return one is other or one == other
