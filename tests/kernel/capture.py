"""What was on the wire: every frame at the internet's end of a link, whichever way it went.

AF_PACKET (packet(7)) and dpkt, and nothing of arbiter's own decoding: what a test states here does
not depend on what it tests.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import dpkt

from arbiter.lab import Lab
from arbiter.lab.plan import FAR_END

_ETH_P_ALL = 3  # linux/if_ether.h
_PACKET_OUTGOING = 4  # linux/if_packet.h
_SOL_PACKET, _PACKET_STATISTICS = 263, 6  # Python 3.11 does not name them
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_BUFFER = 32 << 20
_ND = range(133, 138)
"""ICMPv6 types of neighbour discovery (RFC 4861)."""


@dataclass(frozen=True)
class Frame:
    """One IP packet. `up`: it came from the lab's machine, else it went there."""

    link: str
    up: bool
    source: str
    destination: str
    proto: int
    sport: int = 0
    dport: int = 0
    syn: bool = False
    """A TCP handshake's: SYN, with or without ACK."""
    mss: int = 0
    """The TCP option of a SYN; 0 without one."""
    size: int = 0
    """Bytes, IP header included; a segmented send is one frame of up to 64 KB on a veth."""
    icmp: int = -1
    """ICMP or ICMPv6 type."""
    at: float = 0.0
    """time.monotonic() when it was read: a little after it passed."""


def decode(link: str, up: bool, data: bytes, at: float = 0.0) -> Frame | None:
    """None for what is not IP: ARP."""
    ip = dpkt.ethernet.Ethernet(data).data
    if not isinstance(ip, dpkt.ip.IP | dpkt.ip6.IP6):
        return None
    family = socket.AF_INET if isinstance(ip, dpkt.ip.IP) else socket.AF_INET6
    ends = socket.inet_ntop(family, ip.src), socket.inet_ntop(family, ip.dst)
    proto, size = ip.p, len(data) - 14
    part = ip.data
    if isinstance(part, dpkt.tcp.TCP):
        options = dict(dpkt.tcp.parse_opts(part.opts)) if part.flags & dpkt.tcp.TH_SYN else {}
        mss = int.from_bytes(options.get(dpkt.tcp.TCP_OPT_MSS, b""), "big")
        syn = bool(part.flags & dpkt.tcp.TH_SYN)
        return Frame(link, up, *ends, proto, part.sport, part.dport, syn, mss, size, at=at)
    if isinstance(part, dpkt.udp.UDP):
        return Frame(link, up, *ends, proto, part.sport, part.dport, size=size, at=at)
    kind = part.type if isinstance(part, dpkt.icmp.ICMP | dpkt.icmp6.ICMP6) else -1
    return Frame(link, up, *ends, proto, size=size, icmp=kind, at=at)


class Capture:
    """Frames of the named links (all, if none) between `with` and its end; it may be read inside.

    Raises AssertionError at the end if the kernel lost a frame: then nothing can be stated.
    """

    def __init__(self, lab: Lab, *links: str) -> None:
        self._lab = lab
        self._links = links or tuple(link.name for link in lab.config.links)
        self._sockets: dict[socket.socket, str] = {}
        self._raw: list[tuple[str, bool, bytes, float]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        for link in self._links:
            self._sockets[self._lab.inside(_open, link)] = link
        self._wake, self._stopping = os.pipe()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._stopping)
        self._thread.join()
        os.close(self._wake)
        lost = 0
        for sock in self._sockets:
            self._drain(sock)
            data = sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            lost += struct.unpack("=II", data)[1]
            sock.close()
        assert lost == 0, f"{lost} frames were not captured"

    def _read(self) -> None:
        by_number = {sock.fileno(): sock for sock in self._sockets}
        while self._wake not in (ready := select.select([self._wake, *by_number], [], [])[0]):
            for number in ready:
                self._drain(by_number[number])

    def _drain(self, sock: socket.socket) -> None:
        while True:
            try:
                data, address = sock.recvfrom(1 << 17, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                # ENETDOWN, once, where a test sets that end down; it goes on when it is up again.
                assert error.errno == errno.ENETDOWN, error
                continue
            with self._lock:
                up = address[2] != _PACKET_OUTGOING
                self._raw.append((self._sockets[sock], up, data, time.monotonic()))

    def frames(self, *links: str) -> list[Frame]:
        """All of these links' (of all, if none), in order; without neighbour discovery and MLD."""
        with self._lock:
            raw = list(self._raw)
        found = (decode(*one) for one in raw if not links or one[0] in links)
        return [frame for frame in found if frame is not None and not _chatter(frame)]

    def sent(self, *links: str) -> list[Frame]:
        """What the lab's machine sent."""
        return [frame for frame in self.frames(*links) if frame.up]


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with contextlib.suppress(PermissionError):  # a user namespace's root may not
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    sock.bind((FAR_END, _ETH_P_ALL))
    return sock


def _chatter(frame: Frame) -> bool:
    """What the kernel says by itself: neighbour discovery, multicast listener reports (0, 58)."""
    return frame.proto in (0, 58) and (frame.icmp in _ND or frame.destination.startswith("ff"))
