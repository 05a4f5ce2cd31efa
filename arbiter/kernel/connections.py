"""The connections of one process: its sockets that have a peer, as /proc/net shows them.

The tables are those of this process's network namespace; a process of another one is refused, or
its sockets would be looked for where they are not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct, structs

from arbiter.kernel.sockdiag import LISTEN, SCTP, TCP, UDP, UDPLITE, SocketInfo
from arbiter.kernel.sockets import ICMP, ICMPV6, SocketTables, may_use
from arbiter.model import PORT_PROTOS, Flow, Hook
from arbiter.rules.rule import plain

_TABLES = {
    "tcp": TCP,
    "tcp6": TCP,
    "udp": UDP,
    "udp6": UDP,
    "udplite": UDPLITE,
    "udplite6": UDPLITE,
    "icmp": ICMP,
    "icmp6": ICMPV6,
    "raw": None,
    "raw6": None,
}
"""The protocol of each table; a raw socket's own is where others have their port."""


class LookError(Exception):
    """The connections cannot be seen; the text says why and what to do."""


class Connection(Struct, frozen=True):
    """A socket with a peer. `flow` is as its packets out carry it, whoever began."""

    flow: Flow
    socket: SocketInfo
    came_in: bool = False
    """A socket of this machine listens on its local port: the peer began it."""

    @property
    def hook(self) -> Hook:
        """The way of its first packet."""
        return Hook.IN if self.came_in else Hook.OUT


def of_process(pid: int, proc: str = "/proc") -> list[Connection]:
    """The connections that the process has open now, by protocol, the peer's address and port.

    Raises LookError where it is gone, or may not be looked into.
    """
    inodes = _sockets(pid, proc)
    tables = SocketTables(proc)
    try:
        rows = list(_rows(tables))
    finally:
        tables.close()
    listening = [info for proto, info in rows if (proto, info.state) == (TCP, LISTEN)]
    found = [
        _connection(proto, info, listening)
        for proto, info in rows
        if info.inode in inodes and _has_peer(info)
    ]
    unique = {(one.flow, one.socket.inode): one for one in found}
    return sorted(unique.values(), key=_order)


def came_in(flow: Flow, proc: str = "/proc") -> bool:
    """Whether a socket of this machine listens where the flow's packets leave from."""
    tables = SocketTables(proc)
    try:
        listening = [info for proto, info in _rows(tables) if (proto, info.state) == (TCP, LISTEN)]
    finally:
        tables.close()
    return flow.proto == TCP and _listens(flow, listening)


def _order(one: Connection) -> tuple[int, int, bytes, int, bytes, int]:
    flow = one.flow
    return (flow.proto, len(flow.daddr), flow.daddr, flow.dport, flow.saddr, flow.sport)


def _sockets(pid: int, proc: str) -> set[int]:
    """The inodes of the sockets that it has open."""
    nothing = f"there is no process {pid}"
    try:
        here, there = (Path(proc, one, "ns/net").stat() for one in ("thread-self", str(pid)))
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise LookError(
                f"process {pid} is in another network namespace, where another arbiter decides: "
                f"sudo nsenter -t {pid} -n arbiter explain --pid {pid}"
            )
        folder = Path(f"{proc}/{pid}/fd")
        links = (_link(folder / name) for name in os.listdir(folder))  # noqa: PTH208  # names
        return {int(link[8:-1]) for link in links if link.startswith("socket:[")}
    except (FileNotFoundError, ProcessLookupError):
        raise LookError(nothing) from None
    except PermissionError:
        raise LookError(
            f"process {pid} may not be looked into: it is another user's; repeat it with sudo"
        ) from None


def _link(path: Path) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - there may be thousands
    except (FileNotFoundError, ProcessLookupError):
        return ""  # closed meanwhile


def _rows(tables: SocketTables) -> Iterable[tuple[int, SocketInfo]]:
    """Every socket with its protocol; those of protocols without ports have none."""
    for name, proto in _TABLES.items():
        for info in tables.inet(name):
            if proto is None:
                yield info.lport, structs.replace(info, lport=0, rport=0)
            else:
                yield proto, info
    for info in tables.sctp():
        yield SCTP, info


def _has_peer(info: SocketInfo) -> bool:
    return info.state != LISTEN and bool(info.remote) and any(info.remote)


def _connection(proto: int, info: SocketInfo, listening: Iterable[SocketInfo]) -> Connection:
    dport = info.rport if proto in PORT_PROTOS else 0  # a ping socket's local one is its echo id
    flow = Flow(proto, plain(info.local), info.lport, plain(info.remote), dport)
    return Connection(flow, info, proto == TCP and _listens(flow, listening))


def _listens(flow: Flow, listening: Iterable[SocketInfo]) -> bool:
    # UDP has no listeners: its table says 07 (TCP_CLOSE) of every socket that has no peer.
    return any(one.lport == flow.sport and may_use(one.local, flow.saddr) for one in listening)
