"""Every byte string is a Packet or Undecodable; fixtures/packets/ says which, and why."""

import functools
import json
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.packet import Raw

from arbiter.model import PORT_PROTOS, Flow, Hook, Packet, Undecodable
from arbiter.packets import COPY_RANGE, MAX_EXTENSIONS, _general, _heads, _plain, decode

FIXTURES = Path(__file__).parents[1] / "fixtures" / "packets"
ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in (FIXTURES / "packets.jsonl").read_text().splitlines()
]
GOOD = [row for row in ROWS if "headers" in row]
BAD = [row for row in ROWS if "headers" not in row]
BY_NAME = {row["name"]: bytes.fromhex(row["hex"]) for row in ROWS}
HEADERS = (
    "IPv4 header|IPv4 options|IPv6 header|IPv6 (hop-by-hop|routing|fragment|authentication|"
    "destination options) header|(TCP|UDP|UDP-Lite|DCCP|SCTP|ICMP|ICMPv6) header"
)
REASON = re.compile(
    rf"({HEADERS}) is (longer than the packet|cut short in the queued bytes)"
    "|no bytes|IP version is neither 4 nor 6|IPv4 header length is below 20 bytes"
    "|IPv4 total length is below the header length|TCP data offset is below 20 bytes"
    "|IPv6 jumbogram|IPv6 hop-by-hop header is not the first|IPv6 fragment header twice"
    "|IPv6 authentication header length is below 12 bytes|too many IPv6 extension headers"
)
"""Every reason there is: none has room for a byte of the packet."""

CONTEXT: dict[str, Any] = {"id": 7, "hook": Hook.IN, "mark": 0xCA6C, "indev": 3, "outdev": 4}
ids = pytest.mark.parametrize("row", GOOD, ids=lambda row: row["name"])


def packed(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def expected(row: dict[str, Any]) -> Packet:
    want: dict[str, Any] = {"sport": 0, "dport": 0, "tcp_flags": 0, "icmp_type": -1}
    want |= {"fragment": False} | row["expect"]
    saddr, daddr = packed(want.pop("saddr")), packed(want.pop("daddr"))
    flow = Flow(want.pop("proto"), saddr, want.pop("sport"), daddr, want.pop("dport"))
    return Packet(flow=flow, **want, **CONTEXT)


def plain(payload: bytes) -> Packet | None:
    return _plain(payload, *CONTEXT.values())


def general(payload: bytes) -> Packet | Undecodable:
    return _general(payload, *CONTEXT.values())


# --- golden packets -------------------------------------------------------------------------


def test_fixtures_are_what_the_generator_makes() -> None:
    made = runpy.run_path(str(FIXTURES / "make.py"))["render"]()
    assert made == (FIXTURES / "packets.jsonl").read_text()
    assert len(BY_NAME) == len(ROWS)


@ids
def test_golden_packet_decodes_to_its_fields(row: dict[str, Any]) -> None:
    payload = bytes.fromhex(row["hex"])
    assert decode(payload, **CONTEXT) == expected(row)
    assert general(payload) == expected(row)


@pytest.mark.parametrize("row", BAD, ids=lambda row: row["name"])
def test_malformed_packet_is_undecodable_with_its_reason(row: dict[str, Any]) -> None:
    reason = row["expect"]["undecodable"]
    assert decode(bytes.fromhex(row["hex"]), **CONTEXT) == Undecodable(
        7, reason, Hook.IN, 0xCA6C, 4
    )


@ids
def test_packet_cut_at_any_byte_decodes_fully_or_says_its_headers_are_cut(
    row: dict[str, Any],
) -> None:
    payload, headers = bytes.fromhex(row["hex"]), row["headers"]
    for size in range(len(payload) + 1):
        got = decode(payload[:size], **CONTEXT)
        if size >= headers:
            assert got == expected(row), size
        else:
            assert isinstance(got, Undecodable), size
            assert got.reason == "no bytes" or got.reason.endswith("cut short in the queued bytes")


def test_copy_range_holds_the_largest_fixture_and_no_more() -> None:
    assert max(row["headers"] for row in GOOD) == COPY_RANGE
    largest = next(row for row in GOOD if row["headers"] == COPY_RANGE)
    assert decode(bytes.fromhex(largest["hex"])[:COPY_RANGE], **CONTEXT) == expected(largest)


@ids
def test_bytes_after_the_packet_change_nothing(row: dict[str, Any]) -> None:
    assert decode(bytes.fromhex(row["hex"]) + b"\xff" * 64, **CONTEXT) == expected(row)


@pytest.mark.parametrize(
    "name",
    [
        f"ipv{version} {what}"
        for version in (4, 6)
        for what in ("tcp syn", "tcp syn ack ece", "tcp with data", "udp")
    ]
    + ["ipv4 echo request", "ipv4 echo reply", "ipv6 echo request6", "ipv6 echo reply6"]
    + ["ipv4 reserved and df flags", "ipv4 trailing bytes"],
)
def test_usual_packets_take_the_quick_way(name: str) -> None:
    assert plain(BY_NAME[name]) == general(BY_NAME[name])


def test_context_defaults_to_an_outgoing_unmarked_packet() -> None:
    for name in ("ipv4 tcp syn", "ipv4 gre", "empty"):
        got = decode(BY_NAME[name], id=1)
        assert (got.id, got.hook, got.mark, got.outdev) == (1, Hook.OUT, 0, 0)


# --- hostile bytes --------------------------------------------------------------------------


@functools.cache
def seeds() -> list[bytes]:
    return [seed for seed in BY_NAME.values() if seed]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A golden packet with a few bytes changed, mostly in its headers, perhaps cut or spliced."""
    data = bytearray(draw(st.sampled_from(seeds())))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, min(len(data), 80) - 1))
        data[place] = draw(st.one_of(st.integers(0, 255), st.sampled_from([0, 43, 44, 51, 60])))
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    if draw(st.booleans()):
        data += draw(st.sampled_from(seeds()))[draw(st.integers(0, 60)) :]
    return bytes(data)


@st.composite
def headed(draw: st.DrawFn) -> bytes:
    """Random bytes under a version nibble, where plain random bytes seldom get far."""
    first = draw(st.sampled_from([0x45, 0x46, 0x4F, 0x60]))
    return bytes([first]) + draw(st.binary(max_size=300))


hostile = st.one_of(st.binary(max_size=400), headed(), mutated())


@settings(deadline=None, max_examples=examples(500))
@given(hostile)
@example(b"")
@example(b"\x60" + bytes(39))
def test_every_byte_string_is_a_packet_or_undecodable_with_a_known_reason(payload: bytes) -> None:
    got = decode(payload, **CONTEXT)
    if isinstance(got, Undecodable):
        assert REASON.fullmatch(got.reason)
        return
    flow = got.flow
    assert payload[0] >> 4 == (4 if len(flow.saddr) == 4 else 6)
    assert len(flow.saddr) == len(flow.daddr)
    assert 0 <= flow.sport <= 0xFFFF and 0 <= flow.dport <= 0xFFFF and 0 <= flow.proto <= 255
    assert 20 <= got.length <= 65575 and 0 <= got.tcp_flags <= 255 and -1 <= got.icmp_type <= 255
    if got.fragment or flow.proto not in PORT_PROTOS | {1, 58}:
        assert (flow.sport, flow.dport, got.tcp_flags, got.icmp_type) == (0, 0, 0, -1)


@settings(deadline=None, max_examples=examples(500))
@given(hostile)
def test_quick_and_general_way_agree(payload: bytes) -> None:
    quick = plain(payload)
    if quick is not None:
        assert general(payload) == quick
    assert decode(payload, **CONTEXT) == general(payload)


@settings(deadline=None)
@given(mutated(), st.integers(0, 120))
def test_cutting_a_packet_never_changes_what_it_decodes_to(payload: bytes, size: int) -> None:
    whole, cut = decode(payload, **CONTEXT), decode(payload[:size], **CONTEXT)
    if cut == whole:
        return
    # Only less is known of less, and the only new fault is that bytes are missing.
    assert isinstance(cut, Undecodable)
    assert cut.reason == "no bytes" or cut.reason.endswith("cut short in the queued bytes")


def test_chain_of_extension_headers_is_bounded_however_long_the_packet() -> None:
    chain = b"\x3c\x00\x01\x04" + bytes(4)  # destination options holding a PadN
    for count in (MAX_EXTENSIONS + 1, 8000):
        payload = b"\x60\0\0\0" + (count * 8).to_bytes(2, "big") + b"\x3c\x40" + bytes(32)
        got = decode(payload + chain * count, id=1)
        assert got == Undecodable(1, "too many IPv6 extension headers")


# --- any packet that scapy builds -----------------------------------------------------------

port = st.integers(0, 0xFFFF)


@settings(deadline=None)  # scapy is slow, and slower on a busy machine
@given(
    saddr=st.binary(min_size=4, max_size=4),
    daddr=st.binary(min_size=4, max_size=4),
    sport=port,
    dport=port,
    flags=st.integers(0, 255),
    options=st.integers(0, 10),
    data=st.binary(max_size=64),
    mark=st.integers(0, 0xFFFFFFFF),
)
def test_ipv4_fields_come_back_as_scapy_was_told(
    saddr: bytes,
    daddr: bytes,
    sport: int,
    dport: int,
    flags: int,
    options: int,
    data: bytes,
    mark: int,
) -> None:
    # As many NOP options as the header has words for (RFC 791 3.1).
    head = IP(
        src=socket.inet_ntop(socket.AF_INET, saddr),
        dst=socket.inet_ntop(socket.AF_INET, daddr),
        options=[b"\x01" * (4 * options)] if options else [],
    )
    size = 20 + 4 * options
    ways: list[tuple[Any, Flow, int, int]] = [
        (
            TCP(sport=sport, dport=dport, flags=flags) / Raw(data),
            Flow(6, saddr, sport, daddr, dport),
            flags,
            -1,
        ),
        (UDP(sport=sport, dport=dport) / Raw(data), Flow(17, saddr, sport, daddr, dport), 0, -1),
        (ICMP(type=8, id=sport) / Raw(data), Flow(1, saddr, sport, daddr, 0), 0, 8),
        (ICMP(type=13, id=sport), Flow(1, saddr, 0, daddr, 0), 0, 13),
    ]
    for upper, flow, tcp_flags, icmp_type in ways:
        payload = bytes(head / upper)
        assert payload[0] & 15 == size // 4
        assert decode(payload, id=1, mark=mark, outdev=2) == Packet(
            1, flow, Hook.OUT, mark, 0, 2, len(payload), tcp_flags, icmp_type
        )


# (next header number, the header): options of 0-250 bytes, 0-6 waypoints, an atomic fragment.
extensions = st.lists(
    st.one_of(
        st.integers(0, 250).map(
            lambda n: (60, IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(n))]))
        ),
        st.integers(0, 6).map(lambda n: (43, IPv6ExtHdrRouting(type=2, addresses=["::1"] * n))),
        st.just((44, IPv6ExtHdrFragment(m=0, offset=0))),
        st.just((0, IPv6ExtHdrHopByHop())),
    ),
    max_size=MAX_EXTENSIONS + 1,
)


@settings(deadline=None)  # scapy is slow, and slower on a busy machine
@given(
    saddr=st.binary(min_size=16, max_size=16),
    daddr=st.binary(min_size=16, max_size=16),
    sport=port,
    dport=port,
    flags=st.integers(0, 255),
    chain=extensions,
)
def test_ipv6_fields_come_back_behind_any_extension_headers(
    saddr: bytes, daddr: bytes, sport: int, dport: int, flags: int, chain: list[Any]
) -> None:
    numbers = [number for number, _ in chain]
    refused = 0 in numbers[1:] or numbers.count(44) > 1 or len(chain) > MAX_EXTENSIONS
    ways: list[tuple[int, Any, int, int]] = [
        (6, TCP(sport=sport, dport=dport, flags=flags), flags, -1),
        (17, UDP(sport=sport, dport=dport), 0, -1),
        (58, ICMPv6EchoRequest(id=sport), 0, 128),
    ]
    for proto, upper, tcp_flags, icmp_type in ways:
        following = [*numbers, proto]
        packet = IPv6(
            src=socket.inet_ntop(socket.AF_INET6, saddr),
            dst=socket.inet_ntop(socket.AF_INET6, daddr),
            nh=following[0],
        )
        for (_, extension), number in zip(chain, following[1:], strict=True):
            link = extension.copy()
            link.nh = number
            packet = packet / link
        payload = bytes(packet / upper)
        got = decode(payload, id=1)
        if refused:
            assert isinstance(got, Undecodable)
            continue
        flow = Flow(proto, saddr, sport, daddr, 0 if proto == 58 else dport)
        assert got == Packet(1, flow, length=len(payload), tcp_flags=tcp_flags, icmp_type=icmp_type)


# --- without dpkt ----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ImportError, OSError(24, "Too many open files")])
def test_where_dpkt_cannot_be_loaded_only_odd_packets_are_undecodable_until_it_can(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refused(*_: object) -> None:
        raise error

    usual = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2))
    odd = bytes(IPv6(src="::1", dst="::2") / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2))
    _heads.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("builtins.__import__", refused)
        assert isinstance(decode(usual, id=1), Packet)
        found = decode(odd, id=2)
        assert isinstance(found, Undecodable) and "dpkt" in found.reason
    assert isinstance(decode(odd, id=3), Packet)


def test_dpkt_is_loaded_for_odd_packets_only() -> None:
    """It takes more memory than 10,000 rules."""
    code = "import sys, arbiter.daemon; print('dpkt' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
