"""Conntrack's messages: what is a decided entry is read, and everything else is None."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.kernel.conntrack import counted, flow_of
from arbiter.kernel.netlink import pack_attribute
from arbiter.model import MARK_MASK, Flow
from arbiter.usage import Counted

V4 = (bytes([10, 0, 0, 2]), bytes([198, 51, 100, 10]))
V6 = (bytes(15) + b"\1", bytes(15) + b"\2")


def nested(*parts: tuple[int, bytes]) -> bytes:
    # NLA_F_NESTED, as the kernel sets it on containers; on values it does no harm
    return b"".join(pack_attribute(kind, value) for kind, value in parts)


def tuple_of(ends: tuple[bytes, bytes], proto: int, *more: tuple[int, bytes]) -> bytes:
    kinds = (1, 2) if len(ends[0]) == 4 else (3, 4)
    address = nested(*zip(kinds, ends, strict=True))
    return nested((0x8001, address), (0x8002, nested((1, bytes([proto])), *more)))


def ports(sport: int, dport: int) -> tuple[tuple[int, bytes], ...]:
    return (2, struct.pack("!H", sport)), (3, struct.pack("!H", dport))


def counters(packets: int, size: int) -> bytes:
    return nested((1, struct.pack("!Q", packets)), (2, struct.pack("!Q", size)))


def payload(orig: bytes, mark: int = 0x22000000, *more: tuple[int, bytes]) -> bytes:
    return bytes(4) + nested(
        (0x8001, orig),
        (8, struct.pack("!I", mark)),
        (0x8009, counters(3, 400)),
        (0x800A, counters(5, 6000)),
        (12, struct.pack("!I", 77)),
        *more,
    )


TCP4 = tuple_of(V4, 6, *ports(40000, 443))


@pytest.mark.parametrize(
    ("orig", "flow"),
    [
        (TCP4, Flow(6, V4[0], 40000, V4[1], 443)),
        (tuple_of(V6, 17, *ports(1, 2)), Flow(17, V6[0], 1, V6[1], 2)),
        (tuple_of(V4, 1, (4, b"\1\2"), (5, b"\x08"), (6, b"\0")), Flow(1, V4[0], 258, V4[1], 0)),
        (tuple_of(V6, 58, (7, b"\1\2"), (8, b"\x80")), Flow(58, V6[0], 258, V6[1], 0)),
        (tuple_of(V4, 1, (4, b"\1\2"), (5, b"\x0d"), (6, b"\0")), Flow(1, V4[0], 0, V4[1], 0)),
        (tuple_of(V4, 47, *ports(9, 9)), Flow(47, V4[0], 0, V4[1], 0)),
        (tuple_of(V4, 58, (7, b"\1\2"), (8, b"\x80")), Flow(58, V4[0], 0, V4[1], 0)),
    ],
    ids=["tcp", "udp6", "echo", "echo6", "timestamp", "gre", "foreign icmp"],
)
def test_a_flow_is_what_its_first_packet_was_decoded_to(orig: bytes, flow: Flow) -> None:
    assert flow_of(orig) == flow
    assert counted(payload(orig)) == Counted(flow, 77, 0x22000000, 400, 6000, 3, 5)


def test_the_time_it_began_is_read_where_conntrack_says_it() -> None:
    time = (0x8014, nested((1, struct.pack("!Q", 123))))
    found = counted(payload(TCP4, 0x20000000, time))
    assert found is not None
    assert found.started == 123


@pytest.mark.parametrize("shift", [0, 3, 24, 25])
def test_marks_are_read_at_their_place_and_told_at_the_default_one(shift: int) -> None:
    mask = 0x7F << shift
    found = counted(payload(TCP4, (0x22 << shift) | (~mask & 0xFFFFFFFF)), mask)
    assert found is not None
    assert found.mark == 0x22000000


@pytest.mark.parametrize("mark", [0, 0x02000000, 0x00FFFFFF | 0x80000000])
def test_what_is_not_decided_is_none(mark: int) -> None:
    assert counted(payload(TCP4, mark)) is None


def test_an_entry_that_nothing_counts_is_none() -> None:
    body = nested((0x8001, TCP4), (8, struct.pack("!I", 0x22000000)), (12, bytes(4)))
    assert counted(bytes(4) + body) is None


@given(st.binary(max_size=300), st.sampled_from([MARK_MASK, 0x7F]))
def test_no_bytes_are_too_odd(data: bytes, mask: int) -> None:
    assert counted(data, mask) is None or len(data) > 60
    flow_of(data)


@given(st.data())
def test_a_damaged_entry_is_none_or_whole(data: st.DataObject) -> None:
    """Every length and every byte of a good one changed."""
    good = bytearray(payload(TCP4))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    for damaged in (bytes(good), bytes(good[:cut])):
        found = counted(damaged)
        if found is not None:
            assert (len(found.flow.saddr), len(found.flow.daddr)) in ((4, 4), (16, 16))
            assert found.mark & ~MARK_MASK == 0
            assert max(found.out_bytes, found.in_bytes, found.started) < 1 << 64
            assert max(found.flow.sport, found.flow.dport) < 1 << 16
