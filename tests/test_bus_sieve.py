"""Large messages leave the stream whole, and nothing else does."""

from __future__ import annotations

import struct

import pytest
from dbus_fast import Message, MessageType
from hypothesis import given
from hypothesis import strategies as st

from arbiter.bus.sieve import MOST, MOST_RETURN, Sieve


def message(size: int, kind: int = 4, order: str = "<", fields: int = 5) -> bytes:
    """A message of exactly `size` bytes, header and all, as far as a sieve looks."""
    padded = -(-fields // 8) * 8
    body = size - 16 - padded
    head = struct.pack(
        f"{order}cBBBIII", b"l" if order == "<" else b"B", kind, 0, 1, body, 7, fields
    )
    return head + bytes(padded) + b"b" * body


def portions(data: bytes, sizes: list[int]) -> list[bytes]:
    out, at = [], 0
    for size in sizes:
        out.append(data[at : at + size])
        at += size
    return [*out, data[at:]]


messages = st.builds(
    message,
    st.one_of(st.integers(64, 300), st.sampled_from([MOST, MOST + 1, MOST + 8])),
    st.sampled_from([1, 3, 4]),
    st.sampled_from("<>"),
    st.integers(0, 40),
)


@given(st.lists(messages, max_size=6), st.lists(st.integers(0, 100_000), max_size=20))
def test_small_messages_pass_and_large_ones_do_not_in_whatever_portions(
    sent: list[bytes], sizes: list[int]
) -> None:
    sieve = Sieve()
    passed = b"".join(map(sieve.feed, portions(b"".join(sent), sizes)))
    assert passed == b"".join(one for one in sent if len(one) <= MOST)
    assert sieve.dropped == sum(len(one) > MOST for one in sent)


@pytest.mark.parametrize(
    ("size", "passes"), [(MOST + 1, True), (MOST_RETURN, True), (MOST_RETURN + 1, False)]
)
def test_an_answer_may_be_larger(size: int, passes: bool) -> None:
    sent = message(size, kind=2)
    assert Sieve().feed(sent) == (sent if passes else b"")


def test_dbus_fasts_own_messages_are_measured_right() -> None:
    small = [
        Message(
            message_type=MessageType.SIGNAL,
            path="/" + "p" * length,
            interface="a.b",
            member="C",
            signature="s",
            body=["x" * length],
            serial=1,
        )
        for length in range(1, 30)
    ]
    data = b"".join(bytes(one._marshall(False)) for one in small)
    large = message(MOST * 3)
    assert Sieve().feed(data + large + data) == data + data


@given(st.lists(st.binary(max_size=64)))
def test_bytes_that_are_no_dbus_are_no_surprise(chunks: list[bytes]) -> None:
    sieve = Sieve()
    for chunk in chunks:
        assert len(sieve.feed(chunk)) <= sum(map(len, chunks))
