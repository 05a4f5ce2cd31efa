"""Fuzzed: what the kernel says of interfaces, addresses and routes."""

from __future__ import annotations

from arbiter.kernel.linkevents import Judge, Told
from arbiter.kernel.neighbours import Gateways
from arbiter.kernel.netlink import messages
from arbiter.kernel.rtnldump import _Reader
from arbiter.kernel.rtnlmessages import (
    RTN_UNICAST,
    is_unicast,
    read_address,
    read_link,
    read_route,
)

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
