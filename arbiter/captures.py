"""Captured packets, in their order, to the connections that begin in them. Pure and bounded.

A flow is new with its first packet, as it is to conntrack: whoever sends that opened it. TCP opens
with a SYN; where the capture began later, or lost it, the flow is `midstream`, and who opened it is
a guess from the ports unless a SYN+ACK tells. Names are those that DNS answers in the capture gave
before. Everything odd is counted, with the number of the first packet that was, and never raises.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

from msgspec import Struct

from arbiter.dnsstream import PORT, Reader
from arbiter.dnswire import Answers, answers
from arbiter.frames import ip_packet
from arbiter.model import PORT_PROTOS, Flow, Packet, Undecodable
from arbiter.names import NameCache
from arbiter.packets import decode
from arbiter.questions import exempt

MAX_FLOWS: Final = 262_144
"""Flows remembered, about 50 MB: the one that was quiet for longest is forgotten first, and would
count as another one should it go on."""

_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_SYN, _RST, _SYN_ACK = 0x02, 0x04, 0x12
# net/netfilter/nf_conntrack_proto_icmp.c and ..._icmpv6.c: what may begin a flow, and its answer.
_ASKS = {_ICMP: frozenset({8, 10, 13, 15, 17}), _ICMPV6: frozenset({128, 139})}
_REPLIES = {_ICMP: frozenset({0, 9, 14, 16, 18}), _ICMPV6: frozenset({129, 140})}

FRAGMENT: Final = "a later fragment, which has no ports"
RESET: Final = "a reset of a connection that is not in the capture"
RELATED: Final = "an ICMP message about another connection, or of no connection"
OTHERS: Final = "opened by another host"


class Captured(Struct, frozen=True):
    """A connection that begins here. `packet` goes from who opened it."""

    number: int
    """Of its first packet in the capture, from 1."""
    time: float
    """Epoch seconds."""
    packet: Packet
    midstream: bool = False
    """It was open before: its first packet is not the one that opened it."""
    names: tuple[str, ...] = ()
    """By which the capture shows that its destination was looked up, the newest first."""


class _Left(NamedTuple):
    """A packet that is only counted, and why."""

    counter: Counter[str]
    why: str


class Capture:
    """Feed it every packet in order. `openers` (packed): only connections opened by these."""

    def __init__(self, openers: Iterable[bytes] = (), limit: int = MAX_FLOWS) -> None:
        self._openers, self._limit = frozenset(openers), limit
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._dns, self._names = Reader(), NameCache()
        self._clock = 0.0
        self.began: float | None = None
        """The time of the first packet, in epoch seconds."""
        self.packets = self.read = self.flows = self.midstream = self.forgotten = 0
        """Packets in all, those with IP that could be read, and connections found."""
        self.passed: Counter[str] = Counter()
        """Connections that are not told: why, and how many; a fixed set of texts."""
        self.unread: Counter[str] = Counter()
        """Packets that say nothing of connections: the same."""
        self.first: dict[str, int] = {}
        """The number of the first packet of each of these."""

    def feed(self, number: int, time: float, linktype: int, frame: bytes) -> Captured | None:
        """The connection that begins with this frame, if one does."""
        self.packets += 1
        self.began = time if self.began is None else self.began
        self._clock = max(self._clock, time)
        found = self._look(number, time, linktype, frame)
        if isinstance(found, _Left):
            found.counter[found.why] += 1
            self.first.setdefault(found.why, number)
            return None
        return found

    def _look(
        self, number: int, time: float, linktype: int, frame: bytes
    ) -> Captured | _Left | None:
        data = ip_packet(linktype, frame)
        if isinstance(data, str):
            return _Left(self.unread, data)
        packet = decode(data, id=number)
        if isinstance(packet, Undecodable):
            return _Left(self.unread, packet.reason)
        self.read += 1
        if packet.flow.sport == PORT and packet.flow.proto in (_TCP, _UDP):
            self._learn(packet.flow, data)
        if packet.fragment:
            return _Left(self.unread, FRAGMENT)
        key = _key(packet.flow)
        if key in self._seen:
            self._seen.move_to_end(key)
            return None
        opened = _opened(packet)
        if isinstance(opened, str):
            return _Left(self.unread, opened)
        self._remember(key)
        flow, midstream, guessed = opened
        if self._openers and flow.saddr not in self._openers:
            if not (guessed and flow.daddr in self._openers):
                return _Left(self.passed, OTHERS)
            flow = _back(flow)
        flags = _SYN if flow.proto == _TCP and not midstream else packet.tcp_flags & ~_SYN
        first = Packet(
            number, flow, length=packet.length, tcp_flags=flags, icmp_type=packet.icmp_type
        )
        why = exempt(first)
        if why:
            return _Left(self.passed, why)
        self.flows += 1
        self.midstream += midstream
        names = self._names.names_of(flow.daddr, self._clock)
        return Captured(number, time, first, midstream, names)

    def _remember(self, key: bytes) -> None:
        self._seen[key] = None
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)
            self.forgotten += 1

    def _learn(self, flow: Flow, data: bytes) -> None:
        """A name counts for the hosts that are asked about; of none in particular, for all."""
        if self._openers and flow.daddr not in self._openers:
            return
        messages = self._dns.feed(data)
        for message in () if isinstance(messages, str) else messages:
            found = answers(message.data, message.cut)
            if isinstance(found, Answers):
                self._names.learn(
                    found.name, found.addresses, found.ttl, self._clock, found.targets
                )


def _key(flow: Flow) -> bytes:
    """The same for both directions. An echo's identifier is in `sport` both ways."""
    if flow.proto in PORT_PROTOS:
        here = flow.saddr + flow.sport.to_bytes(2)
        there = flow.daddr + flow.dport.to_bytes(2)
        between = b""
    else:
        here, there, between = flow.saddr, flow.daddr, flow.sport.to_bytes(2)
    low, high = sorted((here, there))
    return bytes((flow.proto,)) + between + low + high


def _back(flow: Flow) -> Flow:
    """The other direction."""
    if flow.proto in PORT_PROTOS:
        return Flow(flow.proto, flow.daddr, flow.dport, flow.saddr, flow.sport)
    return Flow(flow.proto, flow.daddr, flow.sport, flow.saddr, 0)


def _opened(packet: Packet) -> tuple[Flow, bool, bool] | str:
    """The flow from who opened it, whether it was open before, and whether that is a guess; or
    why this packet begins none."""
    flow = packet.flow
    if flow.proto == _TCP:
        if packet.opens:
            return flow, False, False
        if packet.tcp_flags & _RST:
            return RESET
        if packet.tcp_flags & _SYN_ACK == _SYN_ACK:
            return _back(flow), True, False
        return (_back(flow) if flow.sport < flow.dport else flow), True, True
    if flow.proto in _ASKS and (flow.proto == _ICMP) == (len(flow.saddr) == 4):
        if packet.icmp_type in _REPLIES[flow.proto]:
            return _back(flow), True, False
        if packet.icmp_type not in _ASKS[flow.proto] and not exempt(packet):
            return RELATED
    return flow, False, False
