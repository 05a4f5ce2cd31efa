"""What the fast path reads in a message of the queue is what arbiter/packets.py reads in it; all
else it leaves alone, whatever the bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nativeharness import Harness
from queuemessages import (
    HEAD,
    HEADER,
    MARK,
    OUT,
    OUTDEV,
    PACKET,
    PAYLOAD,
    attribute,
    expected,
    message,
    queued,
    read,
    usual,
)
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from arbiter.packets import COPY_RANGE

FIXTURES = Path(__file__).parents[1] / "fixtures" / "packets" / "packets.jsonl"
PAYLOADS = {
    row["name"]: bytes.fromhex(row["hex"])
    for row in map(json.loads, FIXTURES.read_text().splitlines())
}


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with Harness(tmp_path_factory.mktemp("harness")) as program:
        yield program


@pytest.mark.parametrize(
    "payload",
    [
        bytes(ends / top / more)
        for ends in (
            IP(src="10.0.0.2", dst="192.0.2.1", id=1, flags="DF"),
            IPv6(src="2001:db8::2", dst="2001:db8::1", fl=7),
        )
        for top in (TCP(sport=40000, dport=443, flags="S", options=[("MSS", 1460)]), UDP(dport=53))
        for more in (b"", b"x" * 40)
    ],
)
def test_what_nearly_every_connection_begins_with_is_read(harness: Harness, payload: bytes) -> None:
    data = queued(payload)
    assert read(harness, data) == expected(data)


def test_all_fixtures_are_read_as_by_the_quick_decoder(harness: Harness) -> None:
    taken = {name for name, payload in PAYLOADS.items() if read(harness, queued(payload))}
    assert taken == {name for name, payload in PAYLOADS.items() if usual(payload)}
    assert 4 <= len(taken) < len(PAYLOADS)


def test_every_cut_of_the_fixtures_is_read_as_by_the_quick_decoder(harness: Harness) -> None:
    for payload in PAYLOADS.values():
        for size in range(min(len(payload), 64)):
            assert (read(harness, queued(payload[:size])) is not None) is usual(payload[:size])


def changed(payloads: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Some bytes others, some cut off."""
    spots = st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255)), max_size=3)

    def change(payload: bytes, spots: list[tuple[int, int]], cut: int) -> bytes:
        data = bytearray(payload[: len(payload) - cut])
        for at, value in spots:
            if at < len(data):
                data[at] = value
        return bytes(data)

    return st.builds(change, payloads, spots, st.sampled_from((0, 0, 0, 1, 8, 20)))


usuals = st.sampled_from([payload for payload in PAYLOADS.values() if usual(payload)])
payloads = changed(usuals | st.sampled_from(list(PAYLOADS.values()))) | st.binary(
    max_size=COPY_RANGE
)


@settings(max_examples=examples(600))
@given(payload=payloads, mark=st.integers(0, 2**32 - 1), outdev=st.integers(0, 2**32 - 1))
def test_a_packet_is_read_here_exactly_if_it_is_a_usual_one(
    harness: Harness, payload: bytes, mark: int, outdev: int
) -> None:
    data = queued(payload, mark, outdev)
    found = read(harness, data)
    assert (found is not None) is usual(payload)
    assert found is None or found == expected(data)


KINDS = st.sampled_from((HEAD, HEAD, MARK, OUTDEV, PAYLOAD, PAYLOAD, 0, 4, 16, 19, 0x3FFF))
FLAGS = st.sampled_from((0, 0, 0, 0x8000, 0x4000, 0xC000))
HOOKS = st.sampled_from((OUT, OUT, OUT, OUT, 0, 1, 2, 4, 255))
HEADS = st.builds(lambda id, hook: struct.pack(">IHBx", id, 0x86DD, hook), st.just(9), HOOKS)
VALUES = {
    HEAD: HEADS | HEADS | st.binary(max_size=9),
    MARK: st.binary(min_size=4, max_size=4) | st.binary(max_size=6),
    OUTDEV: st.binary(min_size=4, max_size=4) | st.binary(max_size=6),
    PAYLOAD: usuals | usuals | payloads,
}


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Attributes in any order, several of a type, of wrong sizes, with lengths that lie."""
    kinds = [HEAD, PAYLOAD, *draw(st.lists(KINDS, max_size=4))]
    parts = []
    for kind in draw(st.permutations(kinds)):
        value = draw(VALUES.get(kind, st.binary(max_size=8)))
        lie = draw(st.sampled_from((None,) * 12 + (0, 3, 4, 5, len(value) + 5, 65535)))
        parts.append(attribute(kind | draw(FLAGS), value, lie))
    return b"".join(parts)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Also with another type, a size that lies, cut, or with bytes behind it."""
    body = draw(bodies())
    kind = draw(st.sampled_from((PACKET,) * 8 + (0, 2, 3 << 8 | 1, 4 << 8)))
    lie = draw(st.sampled_from((None,) * 8 + (0, 16, len(body), 2**32 - 1, len(body) + 24)))
    data = message(body, kind=kind, size=lie, general=draw(st.binary(min_size=4, max_size=4)))
    return data[: len(data) - draw(st.sampled_from((0,) * 9 + (1, 4, 30)))]


@settings(max_examples=examples(1200))
@given(data=messages() | st.binary(max_size=120))
@example(data=message(attribute(HEAD, HEADER)))
@example(data=queued(PAYLOADS[next(iter(PAYLOADS))])[:20])
def test_whatever_the_message_what_is_read_is_what_the_decoder_reads(
    harness: Harness, data: bytes
) -> None:
    found = read(harness, data)
    if found is not None:
        assert found == expected(data)


@pytest.mark.parametrize("payload", [p for p in PAYLOADS.values() if usual(p)][:4])
def test_whatever_bit_is_wrong(harness: Harness, payload: bytes) -> None:
    data = queued(payload)
    for at in range(len(data) * 8):
        other = bytearray(data)
        other[at // 8] ^= 1 << at % 8
        found = read(harness, bytes(other))
        if found is not None:
            assert found == expected(bytes(other))


@pytest.mark.parametrize(
    "what",
    [
        *("another kind", "no header", "no payload", "another hook", "a short header"),
        *("a header cut by the end", "a long mark"),
    ],
)
def test_what_is_odd_is_left_alone(harness: Harness, what: str) -> None:
    payload = next(payload for payload in PAYLOADS.values() if usual(payload))
    head, body = attribute(HEAD, HEADER), attribute(PAYLOAD, payload)
    assert read(harness, message(head + body)) is not None
    odd = {
        "another kind": message(head + body, kind=PACKET | 1),
        "no header": message(body),
        "no payload": message(head),
        "another hook": message(attribute(HEAD, HEADER[:6] + b"\x02\0") + body),
        "a short header": message(attribute(HEAD, HEADER[:6]) + body),
        "a header cut by the end": message(body + attribute(HEAD, HEADER[:6])[:-2]),
        "a long mark": message(head + attribute(MARK, bytes(8)) + body),
    }
    assert read(harness, odd[what]) is None
