"""The netlink message that labels a connection, byte by byte; tests/kernel asks the kernel."""

from __future__ import annotations

import socket
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.kernel import netlink
from arbiter.kernel.ctlabel import BITS, Labels, pack_bits, pack_tuple
from arbiter.model import Flow

A4, B4 = bytes([10, 0, 0, 1]), bytes([192, 0, 2, 7])
A6, B6 = bytes(15) + b"\1", bytes([32, 1, 13, 184]) + bytes(11) + b"\7"


def unpacked(flow: Flow) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """(addresses, protocol) by attribute number; every attribute is whole."""
    ((kind, value),) = netlink.attributes(pack_tuple(flow))
    assert kind == 1  # CTA_TUPLE_ORIG
    parts = dict(netlink.attributes(value))
    assert set(parts) == {1, 2}  # CTA_TUPLE_IP, CTA_TUPLE_PROTO
    return dict(netlink.attributes(parts[1])), dict(netlink.attributes(parts[2]))


@pytest.mark.parametrize("proto", [6, 17, 33, 132, 136])
def test_protocols_with_ports_are_named_by_them(proto: int) -> None:
    addresses, found = unpacked(Flow(proto, A4, 4660, B4, 443))
    assert addresses == {1: A4, 2: B4}
    assert found == {1: bytes([proto]), 2: b"\x12\x34", 3: b"\x01\xbb"}
    assert unpacked(Flow(proto, A6, 1, B6, 2))[0] == {3: A6, 4: B6}


def test_an_echo_request_is_named_by_its_identifier_type_and_code() -> None:
    assert unpacked(Flow(1, A4, 77, B4, 0))[1] == {1: b"\1", 4: b"\0M", 5: b"\x08", 6: b"\0"}
    assert unpacked(Flow(58, A6, 77, B6, 0))[1] == {1: b"\x3a", 7: b"\0M", 8: b"\x80", 9: b"\0"}


@pytest.mark.parametrize("flow", [Flow(50, A4, 0, B4, 0), Flow(58, A4, 0, B4, 0)])
def test_other_protocols_are_named_by_their_addresses(flow: Flow) -> None:
    assert unpacked(flow)[1] == {1: bytes([flow.proto])}


def test_gre_has_two_keys_of_nothing() -> None:
    assert unpacked(Flow(47, A4, 0, B4, 0))[1] == {1: b"\x2f", 2: b"\0\0", 3: b"\0\0"}


@given(
    st.integers(0, 255),
    st.booleans(),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 65535),
    st.integers(0, 65535),
)
def test_every_flow_has_a_tuple(proto: int, v6: bool, address: bytes, a: int, b: int) -> None:
    address = address if v6 else address[:4]
    unpacked(Flow(proto, address, a, address, b))


@given(st.sets(st.integers(0, BITS - 1)))
def test_labels_are_bits_of_native_longs(labels: set[int]) -> None:
    packed = pack_bits(labels)
    assert len(packed) == 16
    size = struct.calcsize("@L")
    words = [packed[at : at + size] for at in range(0, 16, size)]
    numbers = [int.from_bytes(word, sys.byteorder) for word in words]
    found = {n * size * 8 + bit for n, word in enumerate(numbers) for bit in range(size * 8)
             if word >> bit & 1}  # fmt: skip
    assert found == labels


@pytest.mark.parametrize("label", [-1, 128])
def test_a_label_that_no_connection_can_have_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match="is not in 0-127"):
        Labels((label,))


def test_a_label_that_is_not_ours_is_never_set() -> None:
    labels = Labels((97, 98))
    try:
        with pytest.raises(ValueError, match=r"label 5 is none of \[97, 98\]"):
            labels.set(Flow(6, A4, 1, B4, 2), 5)
    finally:
        labels.close()


class Kernel:
    """Answers as the kernel would, with what a test says."""

    def __init__(self, labels: Labels, answers: list[bytes]) -> None:
        self.answers = answers
        self.sent: list[bytes] = []
        labels._socket.close()
        labels._socket = self  # type: ignore[assignment]

    def send(self, data: bytes) -> int:
        self.sent.append(data)
        return len(data)

    def recv(self, size: int, flags: int) -> bytes:
        assert flags == socket.MSG_DONTWAIT
        if not self.answers:
            raise BlockingIOError
        return self.answers.pop(0)


def answer(seq: int, error: int) -> bytes:
    return netlink.pack_message(netlink.NLMSG_ERROR, 0, seq, struct.pack("=i", -error) + bytes(16))


FLOW = Flow(6, A4, 1, B4, 2)


def test_only_our_bits_are_in_the_mask_and_one_in_the_value() -> None:
    labels = Labels((97, 98, 99))
    kernel = Kernel(labels, [answer(1, 0), answer(2, 0)])
    assert labels.set(FLOW, 98) and labels.set(FLOW, None)
    for sent, bits in zip(kernel.sent, ([98], []), strict=True):
        (message,) = netlink.messages(sent)
        assert message.type == 0x100 and message.flags == netlink.NLM_F_REQUEST | netlink.NLM_F_ACK
        assert message.payload[:4] == bytes([socket.AF_INET, 0, 0, 0])
        parts = dict(netlink.attributes(message.payload[4:]))
        assert parts[22] == pack_bits(bits) and parts[23] == pack_bits((97, 98, 99))


def test_an_answer_to_an_earlier_request_is_passed_over() -> None:
    labels = Labels((97,))
    Kernel(labels, [answer(7, 1), answer(1, 2)])
    assert labels.set(FLOW, 97) is False


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([answer(1, 28)], "older than the rules about classes"),
        ([answer(1, 1)], "CAP_NET_ADMIN"),
        ([], "timed out"),
        ([answer(9, 0)] * 100, "Protocol error"),
    ],
)
def test_a_refusal_names_the_flow_and_the_reason(answers: list[bytes], words: str) -> None:
    labels = Labels((97,))
    Kernel(labels, answers)
    with pytest.raises(OSError, match=r"label 97 on tcp 10\.0\.0\.1 1 → 192\.0\.2\.7 2") as caught:
        labels.set(FLOW, 97)
    assert words in str(caught.value)
