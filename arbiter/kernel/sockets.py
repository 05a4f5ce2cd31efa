"""A packet's flow to the sockets that may have sent (or will receive) it: inode, uid, state.

sock_diag (`sockdiag.py`) answers for TCP, UDP, UDP-Lite and DCCP; the tables in /proc/net answer
where it cannot: ping sockets (icmp, icmp6), raw sockets, SCTP associations, and TCP or UDP on a
kernel without that diag module. A raw socket's packets carry nothing that tells it from another
one's, so all that could have sent the packet are named.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable

from msgspec import Struct

from arbiter.kernel.sockdiag import (
    DCCP,
    LISTEN,
    OPEN_STATES,
    SCTP,
    SYN_RECV,
    TCP,
    TIME_WAIT,
    UDP,
    UDPLITE,
    SockDiag,
    SocketInfo,
)
from arbiter.model import Flow, Hook, NoOwner, NoOwnerReason, Packet, proto_name

ICMP, ICMPV6, RAW = 1, 58, 255
_ECHO_REQUEST = {ICMP: 8, ICMPV6: 128}
_MAPPED = bytes(10) + b"\xff\xff"
_ANY = {4: bytes(4), 16: bytes(16)}
_NATIVE_LITTLE = sys.byteorder == "little"
_TABLES = (
    *("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6"),
    *("raw", "raw6", "icmp", "icmp6", "sctp/assocs", "sctp/eps"),
)
_TABLE_OF = {TCP: "tcp", UDP: "udp", UDPLITE: "udplite"}
_READ_SIZE = 65536


class Found(Struct, frozen=True):
    """The sockets of a flow, each with an inode; several where the kernel cannot tell which."""

    sockets: tuple[SocketInfo, ...]
    established: bool = False
    came_in: bool = False
    """As in Owner."""


class SocketTables:
    """The tables of /proc/net, kept open.

    So they go on showing the network namespace they were opened in, whichever thread reads them.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._files: dict[str, int] = {}
        for name in _TABLES:
            self.has(name)

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def has(self, name: str) -> bool:
        """Whether this kernel has that table: SCTP's appears with its module, at first use."""
        if name not in self._files:
            path = f"{self._proc}/thread-self/net/{name}"
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, PermissionError):
                return False
            if self._files.setdefault(name, fd) != fd:
                os.close(fd)  # another thread was quicker
        return True

    def _rows(self, name: str) -> list[list[str]]:
        """The table's lines in columns, without the heading; none if there is no such table."""
        if not self.has(name):
            return []
        fd = self._files[name]
        data, offset = b"", 0
        while chunk := os.pread(fd, _READ_SIZE, offset):
            data += chunk
            offset += len(chunk)
        return [line.split() for line in data.decode("ascii", "replace").splitlines()[1:]]

    def inet(self, name: str) -> list[SocketInfo]:
        """A table in the form of /proc/net/tcp.

        `lport` is the protocol of a raw socket, the echo identifier of a ping socket (inet_num).
        """
        return [info for row in self._rows(name) if (info := parse_inet(row))]

    def sctp(self) -> list[SocketInfo]:
        """SCTP associations, one entry for each pair of addresses; then the endpoints."""
        out = [info for row in self._rows("sctp/assocs") for info in parse_sctp(row)]
        for row in self._rows("sctp/eps"):  # ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS
            if len(row) >= 8 and row[5].isdigit() and row[6].isdigit() and row[7].isdigit():
                for text in row[8:]:
                    if address := _packed(text):
                        uid, inode, port = int(row[6]), int(row[7]), int(row[5])
                        out.append(SocketInfo(inode, uid, LISTEN, address, port, b"", 0))
        return out


def parse_inet(row: list[str]) -> SocketInfo | None:
    """One line of /proc/net/{tcp,udp,raw,icmp}{,6} (tcp4_seq_show and its likes); None if torn."""
    try:
        (local, lport), (remote, rport) = row[1].split(":"), row[2].split(":")
        return SocketInfo(
            inode=int(row[9]),
            uid=int(row[7]),
            state=int(row[3], 16),
            local=_words(local),
            lport=int(lport, 16),
            remote=_words(remote),
            rport=int(rport, 16),
        )
    except (ValueError, IndexError):
        return None


def parse_sctp(row: list[str]) -> list[SocketInfo]:
    """One line of /proc/net/sctp/assocs (sctp_assocs_seq_show); nothing if torn.

    ASSOC SOCK STY SST ST HBKT ASSOC-ID TX_QUEUE RX_QUEUE UID INODE LPORT RPORT LADDRS <-> RADDRS
    """
    try:
        uid, inode, lport, rport = map(int, row[9:13])
        middle = row.index("<->")
    except ValueError:
        return []
    here = [a for text in row[13:middle] if (a := _packed(text))]
    there: list[bytes] = []
    for text in row[middle + 1 :]:
        address = _packed(text)
        if address is None:
            break  # HBINT and what follows are numbers
        there.append(address)
    return [SocketInfo(inode, uid, 0, a, lport, b, rport) for a in here for b in there]


def _words(text: str) -> bytes:
    """An address printed as 32-bit words of the machine's own order (%08X)."""
    data = bytes.fromhex(text)
    if len(data) not in (4, 16):
        raise ValueError(f"an address of {len(data)} bytes")
    if not _NATIVE_LITTLE:
        return data
    return b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))


def _packed(text: str) -> bytes | None:
    text = text.removeprefix("*")  # the primary address
    if "." not in text and ":" not in text:
        return None
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except OSError:
        return None


def may_use(bound: bytes, address: bytes) -> bool:
    """Whether a socket bound to (or connected with) `bound` may use `address`."""
    if len(bound) == 16 and len(address) == 4:
        return bound == _ANY[16] or bound == _MAPPED + address
    return bound == address or bound == _ANY.get(len(address))


class SocketFinder:
    """Finds the sockets of a packet's flow, in the network namespace it was made in.

    Thread-safe.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._diag = SockDiag()
        self._tables = SocketTables(proc)
        self._by_diag = {p for p in (TCP, UDP, UDPLITE) if self._diag.supports(p)}

    def close(self) -> None:
        """Give the netlink socket and the files back."""
        self._diag.close()
        self._tables.close()

    def ports(self, proto: int) -> frozenset[int] | None:
        """The local ports of all sockets of a protocol: a flow from another one has none.

        None where only `find` can tell. OSError if the kernel fails.
        """
        if proto not in self._by_diag:
            return None
        families = socket.AF_INET, socket.AF_INET6
        return frozenset(i.lport for family in families for i in self._diag.dump(proto, family))

    def find(self, packet: Packet) -> Found | NoOwner:
        """The sockets of a packet that this host sends (OUT) or receives (IN), or why none."""
        flow, local = packet.flow, packet.hook is not Hook.IN
        if packet.hook is Hook.FORWARD:
            return NoOwner(NoOwnerReason.FORWARDED, detail="another host's packet, on its way")
        if local:
            device = packet.outdev
        else:
            device = packet.indev
            flow = Flow(flow.proto, flow.daddr, flow.dport, flow.saddr, flow.sport)
        try:
            if packet.fragment:
                return self._raw(packet, flow, "a later fragment has no ports to look up by")
            if flow.proto == DCCP and DCCP not in self._by_diag and self._diag.supports(DCCP):
                self._by_diag.add(DCCP)  # not before it is used: asking loads its module
            if flow.proto == TCP or flow.proto == DCCP:
                return self._stream(packet, flow, device)
            if flow.proto in (UDP, UDPLITE):
                return self._datagram(packet, flow, device)
            if flow.proto == SCTP:
                return self._sctp(packet, flow)
            return self._raw(packet, flow, "")
        except PermissionError as error:
            return NoOwner(NoOwnerReason.HIDDEN, detail=str(error))
        except OSError as error:
            if error.errno == errno.EBADF:
                raise  # closed: a mistake of ours, not a fact about the flow
            return NoOwner(NoOwnerReason.UNSUPPORTED, detail=str(error))

    # --- TCP, DCCP ---

    def _stream(self, packet: Packet, flow: Flow, device: int) -> Found | NoOwner:
        info = self._exact(flow, device)
        if info is None:
            return self._none(packet, flow)
        state = info.state
        if state == LISTEN and packet.hook is not Hook.IN:
            return self._none(packet, flow)  # a listener sends nothing: the sender has gone
        if state == SYN_RECV and info.inode == 0:
            # A request has neither uid nor inode of its own (inet_req_diag_fill): its listener's.
            listener = self._exact(
                Flow(flow.proto, flow.saddr, flow.sport, _ANY[len(flow.daddr)], 0), device
            )
            if listener is None:
                return self._none(packet, flow)
            info = listener
        established = state in OPEN_STATES
        if info.inode:
            older = established and not packet.opens and packet.hook is not Hook.IN
            return Found((info,), established, older and self._listens(flow, device))
        # The uid of what is left over from a closed socket is true in new kernels, else 0.
        uid = info.uid or None
        if state == TIME_WAIT:
            return NoOwner(NoOwnerReason.EXITED, uid, "", "in TIME_WAIT: closed before", True)
        if established:
            detail = "no process has it open any more; the kernel finishes sending"
            return NoOwner(NoOwnerReason.EXITED, uid, "", detail, True)
        return NoOwner(NoOwnerReason.KERNEL, info.uid, detail="a socket without a file")

    def _listens(self, flow: Flow, device: int) -> bool:
        """Whether a socket waits for others where the flow's packets leave from."""
        any_remote = Flow(flow.proto, flow.saddr, flow.sport, _ANY[len(flow.daddr)], 0)
        info = self._exact(any_remote, device)
        return info is not None and info.state == LISTEN

    def _exact(self, flow: Flow, device: int) -> SocketInfo | None:
        if flow.proto in self._by_diag:
            return self._diag.lookup(
                flow.proto, flow.saddr, flow.sport, flow.daddr, flow.dport, device
            )
        name = _TABLE_OF.get(flow.proto)
        if name is None or not self._tables.has(name):
            raise OSError(
                errno.EPROTONOSUPPORT,
                f"this kernel has neither sock_diag nor a table for {proto_name(flow.proto)};"
                " load its _diag module",
            )
        best: SocketInfo | None = None
        for info in self._table(name, flow):
            if info.lport != flow.sport or not may_use(info.local, flow.saddr):
                continue
            if info.rport == flow.dport and may_use(info.remote, flow.daddr):
                return info
            if info.rport == 0:
                best = info
        return best

    def _table(self, name: str, flow: Flow) -> list[SocketInfo]:
        """The family's table; for IPv4 flows the IPv6 one too, whose sockets can send them."""
        if len(flow.saddr) == 16:
            return self._tables.inet(f"{name}6")
        return self._tables.inet(name) + self._tables.inet(f"{name}6")

    # --- UDP, UDP-Lite ---

    def _datagram(self, packet: Packet, flow: Flow, device: int) -> Found | NoOwner:
        info = self._exact(flow, device)
        if info is not None and (info.rport or packet.hook is Hook.IN):
            return self._found([info], packet, flow)  # connected; inbound: the kernel's own choice
        # Several sockets may share a port (SO_REUSEADDR, SO_REUSEPORT), and a connected one may
        # send elsewhere with sendto(): every socket of that local port may be the sender.
        if flow.proto in self._by_diag:
            around = self._diag.dump(flow.proto, socket.AF_INET6, flow.sport)
            if len(flow.saddr) == 4:
                around += self._diag.dump(flow.proto, socket.AF_INET, flow.sport)
        else:
            around = self._table(_TABLE_OF[flow.proto], flow)
        around = [
            other
            for other in around
            if other.lport == flow.sport and not (other.v6only and len(flow.saddr) == 4)
        ]
        sharing = [other for other in around if may_use(other.local, flow.saddr)]
        if not sharing:  # a source address set per packet (IP_PKTINFO)
            sharing = [other for other in around if len(other.local) == len(flow.saddr)]
        if info is not None and all(other.inode != info.inode for other in sharing):
            sharing.append(info)
        return self._found(sharing, packet, flow)

    # --- SCTP ---

    def _sctp(self, packet: Packet, flow: Flow) -> Found | NoOwner:
        if not self._tables.has("sctp/assocs"):
            detail = "this kernel shows no SCTP associations (/proc/net/sctp)"
            return NoOwner(NoOwnerReason.UNSUPPORTED, detail=detail)
        mine = [
            info
            for info in self._tables.sctp()
            if info.lport == flow.sport and may_use(info.local, flow.saddr)
        ]
        exact = [i for i in mine if i.rport == flow.dport and may_use(i.remote, flow.daddr)]
        return self._found(exact or [i for i in mine if i.state == LISTEN], packet, flow)

    # --- ICMP and everything else ---

    def _raw(self, packet: Packet, flow: Flow, why: str) -> Found | NoOwner:
        name = "icmp" if len(flow.saddr) == 4 else "icmp6"
        request = packet.icmp_type == _ECHO_REQUEST.get(flow.proto) and not packet.fragment
        if request and packet.hook is not Hook.IN:
            ping = [
                info
                for info in self._tables.inet(name)
                if info.lport == flow.sport and may_use(info.local, flow.saddr)
            ]
            if ping:
                return self._found(ping, packet, flow)
        senders = self._raw_sockets(packet, flow)
        if senders:
            return self._found(senders, packet, flow)
        if why:
            return NoOwner(NoOwnerReason.UNSUPPORTED, detail=why)
        if request and packet.hook is not Hook.IN:
            return self._none(packet, flow)
        detail = f"no socket of {proto_name(flow.proto)} is open: the kernel's own traffic"
        return NoOwner(NoOwnerReason.KERNEL, detail=detail)

    def _raw_sockets(self, packet: Packet, flow: Flow) -> list[SocketInfo]:
        """Raw sockets of the protocol, and (sending) those that bring the whole IP header."""
        protocols = {flow.proto} if packet.hook is Hook.IN else {flow.proto, RAW}
        return [
            info
            for info in self._tables.inet("raw" if len(flow.saddr) == 4 else "raw6")
            if info.lport in protocols and (info.lport == RAW or may_use(info.local, flow.saddr))
        ]

    def _none(self, packet: Packet, flow: Flow) -> NoOwner:
        """No socket: closed already, or built by a raw socket (a scanner, a test tool)."""
        if packet.hook is Hook.IN:
            return NoOwner(NoOwnerReason.NO_SOCKET, detail="nothing listens there")
        detail = "closed before it could be looked up"
        if raw := self._raw_sockets(packet, flow):
            detail += f", or made by one of {len(raw)} raw sockets"
            return NoOwner(NoOwnerReason.NO_SOCKET, detail=detail)
        return NoOwner(NoOwnerReason.CLOSED, detail=detail)

    def _found(self, sockets: list[SocketInfo], packet: Packet, flow: Flow) -> Found | NoOwner:
        if not sockets:
            return self._none(packet, flow)
        held = {info.inode: info for info in sockets if info.inode}
        if not held:
            return NoOwner(NoOwnerReason.KERNEL, sockets[0].uid, detail="a socket without a file")
        uids = {info.uid for info in held.values()}
        if len(uids) > 1:
            named = ", ".join(str(uid) for uid in sorted(uids))
            detail = f"{len(held)} sockets could have sent it, of users {named}"
            return NoOwner(NoOwnerReason.AMBIGUOUS, detail=detail)
        return Found(tuple(held.values()))


Find = Callable[[Packet], Found | NoOwner]
"""What an owner look-up needs of this module."""
