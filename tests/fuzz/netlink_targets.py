"""Fuzzed: what the kernel says of interfaces, routes, connections, sockets and processes."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator

from arbiter.kernel import conntrack
from arbiter.kernel import rtnetlink as rtnetlink_own
from arbiter.kernel.conntrack import counted, flow_of
from arbiter.kernel.linkevents import Judge, Told
from arbiter.kernel.neighbours import Gateways
from arbiter.kernel.netlink import messages, pack_attribute
from arbiter.kernel.procevents import ProcEvents
from arbiter.kernel.rtnldump import _Reader
from arbiter.kernel.rtnlmessages import (
    RTN_UNICAST,
    is_unicast,
    read_address,
    read_link,
    read_route,
)
from arbiter.kernel.sockdiag import _dumped
from arbiter.model import MARK_DECIDED, MARK_MASK, Flow
from arbiter.usage import Counted

IFF_LOOPBACK = 0x8


def rtnetlink(data: bytes) -> None:
    """All bytes as a message of each list; and as a datagram of events."""
    _link(data)
    _address(data)
    _route(data)
    judge = Judge(range(7000, 7032), (), Gateways())
    assert judge.judge(data) in Told
    try:
        payloads = [message.payload for message in messages(data)]
    except ValueError:
        assert judge.judge(data) & Told.CHANGE
        return
    for payload in payloads:
        _link(payload)
        _address(payload)
        _route(payload)


def ip_rules(data: bytes) -> None:
    """All bytes as a rule, a route and an address, as read before arbiter writes its own."""
    for read in (rtnetlink_own._rule, rtnetlink_own._table_route):
        try:
            read(data)
        except ValueError as error:
            assert str(error).isprintable()
    try:
        found = rtnetlink_own._address(data)
    except ValueError as error:
        assert str(error).isprintable()
        return
    if found is not None and data[0] == 2 and len(found.last) == 4 and data[1] <= 32:
        network = ipaddress.ip_network((found.last, data[1]), strict=False)
        assert data[1] > 30 or network.broadcast_address.packed == found.last


def conntrack_entry(data: bytes) -> None:
    """All bytes as an entry and a datagram of ends: what is read can be written and read again."""
    for payload in (data, *conntrack._deleted(data)):
        found = counted(payload)
        if found is not None:
            assert found.mark & MARK_DECIDED and not found.mark & ~MARK_MASK
            assert counted(_entry(found)) == found
    flow = flow_of(data)
    assert flow is None or flow_of(_tuple(flow)) == flow


def _entry(found: Counted) -> bytes:
    def counters(packets: int, size: int) -> bytes:
        return _nested((1, packets.to_bytes(8)), (2, size.to_bytes(8)))

    return bytes(4) + _nested(
        (1, _tuple(found.flow)),
        (8, found.mark.to_bytes(4)),
        (9, counters(found.out_packets, found.out_bytes)),
        (10, counters(found.in_packets, found.in_bytes)),
        (12, found.id.to_bytes(4)),
        (20, _nested((1, found.started.to_bytes(8)))),
    )


def _tuple(flow: Flow) -> bytes:
    kinds = (1, 2) if len(flow.saddr) == 4 else (3, 4)
    ports = (flow.sport.to_bytes(2), flow.dport.to_bytes(2))
    # An id in `sport` is that of an echo; else the type is one that carries none.
    echo, other = {1: (8, 13), 58: (128, 135)}.get(flow.proto, (0, 0))
    kind = bytes([echo if flow.sport else other])
    proto = (
        (1, bytes([flow.proto])),
        *zip((2, 3), ports, strict=True),
        *((number, ports[0]) for number in (4, 7)),
        *((number, kind) for number in (5, 8)),
    )
    ends = zip(kinds, (flow.saddr, flow.daddr), strict=True)
    return _nested((1, _nested(*ends)), (2, _nested(*proto)))


def _nested(*parts: tuple[int, bytes]) -> bytes:
    return b"".join(pack_attribute(kind, value) for kind, value in parts)


def sockets(data: bytes) -> None:
    """All bytes as a datagram of a dump of sockets, and as one socket."""
    payloads = [data]
    try:
        payloads += [message.payload for message in messages(data)]
    except ValueError as error:
        assert str(error).isprintable()
    for payload in payloads:
        try:
            found = _dumped(payload)
        except ValueError as error:
            assert str(error).isprintable()
            continue
        assert len(found.local) == len(found.remote) == (4 if payload[0] == 2 else 16)
        assert max(found.lport, found.rport) < 1 << 16
        assert found.local == payload[8 : 8 + len(found.local)]


def processes(data: bytes) -> None:
    """All bytes as an event, and each eight of them as one of a few processes: who lives is known,
    and no more is kept than there may be."""
    ProcEvents().feed(data)
    events = ProcEvents()
    alive: dict[int, int] = {}
    for what, one, other in _events(data):
        if what == _FORK:
            events.feed(_event(what, one, one, other, other))
            alive[other] = one
        elif what == _EXEC:
            events.feed(_event(what, one, one))
            alive.setdefault(one, 0)
        elif what == _EXIT:
            events.feed(_event(what, one, one, 0, 0))
            alive.pop(one, None)
            events.gone.clear()
        else:
            events.feed(_event(what, one, other))
    newest = list(events.newest())
    assert len(newest) == len(set(newest)) and set(newest) <= alive.keys()
    for pid in alive:
        children = events.children(pid)
        assert len(children) == len(set(children)) and set(children) <= alive.keys()
        assert pid not in events.elders(pid)


_FORK, _EXEC, _EXIT = 0x1, 0x2, 0x80000000


def _events(data: bytes) -> Iterator[tuple[int, int, int]]:
    for at in range(0, len(data) - 2, 3):
        kind, one, other = data[at : at + 3]
        one, other = one % 16 + 1, other % 16 + 1
        yield (_FORK if one != other else _EXEC, _EXEC, _EXIT, 0x4)[kind % 4], one, other


def _event(what: int, *pids: int) -> bytes:
    head = struct.pack("=16x IIIIHH II8x", 1, 1, 0, 0, 40, 0, what, 0)
    return head + struct.pack(f"={len(pids)}I", *pids)


def _reader() -> _Reader:
    return _Reader(range(7000, 7032), {})


def _link(data: bytes) -> None:
    reader = _reader()
    try:
        link = read_link(data)
        reader.link(data)
    except ValueError as error:
        assert str(error).isprintable()
        return
    assert link.name and "\0" not in link.name + link.driver + link.master
    shown = list(reader.interfaces())
    assert [i.index for i in shown] == ([] if link.flags & IFF_LOOPBACK else [link.index])
    assert all((i.name, i.mtu, i.driver) == (link.name, link.mtu, link.driver) for i in shown)


def _address(data: bytes) -> None:
    try:
        found = read_address(data)
        _reader().address(data)
    except ValueError as error:
        assert str(error).isprintable()
        return
    if found is not None:
        assert len(found.packed) in (4, 16)
        assert found.prefixlen <= 8 * len(found.packed)


def _route(data: bytes) -> None:
    try:
        found = read_route(data)
        _reader().route(data)
    except ValueError as error:
        assert str(error).isprintable()
        return
    size = {4: 4, 6: 16}[found.family]
    assert len(found.dst) == (size if found.prefixlen else 0)
    assert found.prefixlen <= 8 * size
    assert len(found.source) in (0, size)
    assert all(len(hop.gateway) in (0, 4, 16) for hop in found.hops)
    assert 8 * len(found.hops) <= len(data)
    assert not is_unicast(data) or data[7] == RTN_UNICAST
