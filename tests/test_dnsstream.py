"""Packets of a resolver: messages come out whole, or a reason, in bounded memory."""

from __future__ import annotations

import itertools
import struct

from hypothesis import given
from hypothesis import strategies as st

from arbiter.dnsstream import MAX_AHEAD, MAX_MESSAGE, MAX_STREAMS, Message, Reader

RESOLVER, LOCAL = bytes([192, 0, 2, 53]), bytes([192, 0, 2, 1])


def udp(data: bytes, v6: bool = False, sport: int = 53) -> bytes:
    length = 8 + len(data)
    head = struct.pack("!HHHH", sport, 40000, length, 0)
    if v6:
        return (
            struct.pack("!IHBB", 6 << 28, length, 17, 64)
            + bytes(15)
            + b"\5"
            + bytes(16)
            + head
            + data
        )
    return _ipv4(17, head + data)


def _ipv4(proto: int, body: bytes) -> bytes:
    return (
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0x4000, 64, proto, 0)
        + RESOLVER
        + LOCAL
        + body
    )


def tcp(seq: int, data: bytes = b"", flags: int = 0x10, port: int = 40000) -> bytes:
    return _ipv4(
        6, struct.pack("!HHIIBBHHH", 53, port, seq % (1 << 32), 1, 5 << 4, flags, 100, 0, 0) + data
    )


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(one)) + one for one in messages)


def all_of(reader: Reader, *packets: bytes) -> list[bytes]:
    found: list[bytes] = []
    for packet in packets:
        got = reader.feed(packet)
        assert isinstance(got, list), got
        found += [one.data for one in got]
    return found


def test_a_datagram_is_a_message_from_its_resolver() -> None:
    assert Reader().feed(udp(b"hello")) == [Message(RESOLVER, b"hello")]
    assert Reader().feed(udp(b"hello", v6=True)) == [Message(bytes(15) + b"\5", b"hello")]
    assert Reader().feed(udp(b"hello")[:-2]) == [Message(RESOLVER, b"hel", True)]
    assert Reader().feed(udp(b"hello") + b"padding") == [Message(RESOLVER, b"hello")]


def test_what_is_no_packet_of_a_resolver_says_why() -> None:
    assert Reader().feed(b"") == "no IP packet"
    assert "of a resolver's port" in str(Reader().feed(udp(b"hello", sport=54)))
    assert "fragment" in str(Reader().feed(udp(b"x")[:6] + b"\x20\x00" + udp(b"x")[8:]))
    assert "UDP length" in str(Reader().feed(udp(b"x")[:24] + b"\0\7" + udp(b"x")[26:]))
    assert "TCP header" in str(Reader().feed(tcp(1)[:32] + b"\x40" + tcp(1)[33:]))


START = (1 << 32) - 3
"""So that sequence numbers wrap within each test."""


@given(st.lists(st.binary(max_size=40), max_size=5), st.data())
def test_messages_over_tcp_come_out_whole_however_they_are_cut_repeated_or_swapped(
    messages: list[bytes], data: st.DataObject
) -> None:
    stream = framed(*messages)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=MAX_AHEAD)))
    edges = [0, *cuts, len(stream)]
    parts = [(a, stream[a:b]) for a, b in itertools.pairwise(edges) if a < b]
    parts += data.draw(st.lists(st.sampled_from(parts), max_size=3)) if parts else []
    order = data.draw(st.permutations(parts))
    reader = Reader()
    opening = tcp(START - 1, flags=0x12)
    assert all_of(reader, opening, opening) == []
    if len(parts) <= MAX_AHEAD:
        assert all_of(reader, *(tcp(START + at, part) for at, part in order)) == messages


@given(st.lists(st.one_of(st.binary(max_size=80), st.builds(
    lambda seq, data, flags, port, end: tcp(seq, data, flags, port)[: 60 + end],
    st.one_of(st.integers(0, 60), st.integers(0, (1 << 32) - 1)),
    st.binary(max_size=60), st.integers(0, 255), st.integers(1, 40), st.integers(-40, 40),
)), max_size=60))  # fmt: skip
def test_any_packets_give_messages_or_a_reason_in_bounded_memory(packets: list[bytes]) -> None:
    reader = Reader()
    for packet in packets:
        found = reader.feed(packet)
        assert isinstance(found, str) or all(isinstance(one, Message) for one in found)
        assert len(reader) <= MAX_STREAMS


def test_a_connection_is_forgotten_at_its_end_and_the_oldest_when_there_are_too_many() -> None:
    reader = Reader()
    for flags in (0x11, 0x14):
        assert all_of(reader, tcp(0, flags=0x12), tcp(1, framed(b"a"), flags)) == [b"a"]
        assert len(reader) == 0
    for port in range(1, MAX_STREAMS + 2):
        all_of(reader, tcp(0, flags=0x12, port=port))
    assert len(reader) == MAX_STREAMS
    assert all_of(reader, tcp(1, framed(b"a"), port=1)) == []
    assert all_of(reader, tcp(1, framed(b"b"), port=2)) == [b"b"]


def test_a_connection_that_began_before_us_is_not_guessed_at() -> None:
    assert all_of(Reader(), tcp(77, framed(b"a"))) == []


def test_a_message_that_is_too_long_is_cut_and_the_next_one_is_whole() -> None:
    reader, long = Reader(), bytes(60000)
    stream = framed(long, b"next")
    all_of(reader, tcp(0, flags=0x12))
    found: list[Message] = []
    for at in range(0, len(stream), 3000):
        got = reader.feed(tcp(1 + at, stream[at : at + 3000]))
        assert isinstance(got, list)
        found += got
    assert [(len(one.data) >= MAX_MESSAGE, one.cut) for one in found] == [
        (True, True),
        (False, False),
    ]
    assert found[1].data == b"next"


def test_a_segment_that_was_not_copied_whole_ends_the_reading_of_its_connection() -> None:
    reader = Reader()
    all_of(reader, tcp(0, flags=0x12))
    got = reader.feed(tcp(1, framed(b"whole", b"x" * 90))[:-50])
    assert got == [Message(RESOLVER, b"whole"), Message(RESOLVER, b"x" * 40, True)]
    assert len(reader) == 0


def test_a_connection_with_too_many_holes_is_given_up() -> None:
    reader = Reader()
    all_of(reader, tcp(0, flags=0x12))
    all_of(reader, *(tcp(10 + 2 * n, b"x") for n in range(MAX_AHEAD)))
    assert len(reader) == 1
    all_of(reader, tcp(100, b"x"))
    assert len(reader) == 0
