"""Captures: in any link layer and format the same connections; of any bytes an end."""

from __future__ import annotations

import gzip
import ipaddress
import random
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from arbiter import captures, frames
from arbiter.capturefile import MAX_READ, CaptureError, CaptureFile, Frame
from arbiter.captures import Capture, Captured
from arbiter.flowtext import flow_text
from arbiter.frames import ip_packet
from arbiter.model import Flow

FIXTURES = Path(__file__).parent.parent / "fixtures" / "captures"
RAW = 101
HOST, SERVER = "192.0.2.10", "198.51.100.7"


def read(path: Path, *openers: str) -> tuple[list[Captured], Capture]:
    capture = Capture(ipaddress.ip_address(text).packed for text in openers)
    with CaptureFile(path) as file:
        found = [one for frame in file if (one := capture.feed(*frame))]
    return found, capture


def fed(packets: Iterable[Any], capture: Capture | None = None) -> list[Captured]:
    capture = capture or Capture()
    fed = (capture.feed(n, float(n), RAW, bytes(p)) for n, p in enumerate(packets, 1))
    return [one for one in fed if one is not None]


# --- the same conversation, however it was captured -----------------------------------------

BROWSE = [
    (1, "udp 192.0.2.10:4000 > 192.0.2.53:53", ()),
    (3, "tcp 192.0.2.10:40000 > 198.51.100.7:443", ("www.example.org",)),
    (7, "tcp [2001:db8::10]:40001 > [2001:db8:1::7]:443", ("www.example.org",)),
    (9, "udp 192.0.2.10:40002 > 198.51.100.7:443", ("www.example.org",)),
    (11, "icmp 192.0.2.10:77 > 198.51.100.7", ("www.example.org",)),
    (13, "icmpv6 [2001:db8::10]:78 > 2001:db8:1::7", ("www.example.org",)),
    (14, "sctp 192.0.2.10:40003 > 198.51.100.7:5000", ("www.example.org",)),
    (15, "gre 192.0.2.10 > 198.51.100.7", ("www.example.org",)),
]
"""(packet, connection, names) of fixtures/captures/browse.*, see make.py there."""


def test_there_is_a_capture_of_each_link_layer_and_format() -> None:
    assert len(list(FIXTURES.glob("browse*"))) == 10


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("browse*")), ids=lambda path: path.name)
def test_a_conversation_is_the_same_in_every_link_layer_and_format(path: Path) -> None:
    found, capture = read(path)
    assert [(c.number, flow_text(c.packet.flow), c.names) for c in found] == BROWSE
    assert not any(c.midstream for c in found)
    assert (capture.packets, capture.read, capture.flows, capture.midstream) == (15, 15, 8, 0)
    assert not capture.unread and not capture.passed
    times = [1_700_000_000 + (number - 1) / 10 for number, _, _ in BROWSE]
    assert [c.time for c in found] == pytest.approx(times, abs=1e-6)


def test_what_is_odd_is_told_or_counted_with_its_packet() -> None:
    found, capture = read(FIXTURES / "odd.pcap")
    assert [(c.number, flow_text(c.packet.flow), c.midstream) for c in found] == [
        (2, "tcp 192.0.2.10:50000 > 198.51.100.7:443", True),  # by its ports
        (3, "tcp 192.0.2.10:50001 > 198.51.100.7:993", True),  # by its SYN+ACK
        (12, "udp 192.0.2.53:53 > 192.0.2.20:4000", False),
        (13, "tcp 192.0.2.20:50004 > 198.51.100.7:80", False),
        (14, "tcp 192.0.2.10:50005 > 198.51.100.7:80", False),
    ]
    many = "it is for many at once, and goes no further than this network"
    assert capture.passed == {many: 3, "it stays on this machine": 1}
    assert capture.unread == {
        frames.NO_IP: 1,
        captures.RESET: 1,
        captures.RELATED: 1,
        captures.FRAGMENT: 1,
        "TCP header is longer than the packet": 1,
    }
    assert capture.first[many] == 5 and capture.first[captures.FRAGMENT] == 10


def test_only_what_the_given_hosts_opened_and_looked_up_is_told() -> None:
    found, capture = read(FIXTURES / "odd.pcap", "192.0.2.10")
    assert [c.number for c in found] == [2, 3, 14]
    assert found[-1].names == ()  # the other host looked that up
    assert capture.passed[captures.OTHERS] == 5
    found, _ = read(FIXTURES / "odd.pcap", "192.0.2.20")
    assert [(c.number, c.names) for c in found] == [(13, ("elsewhere.example",))]
    # Who opened what was open before is a guess: the one asked about, if the ports do not tell.
    found, _ = read(FIXTURES / "odd.pcap", "198.51.100.7")
    assert [flow_text(c.packet.flow) for c in found] == ["tcp 198.51.100.7:443 > 192.0.2.10:50000"]


# --- any flows ------------------------------------------------------------------------------

names = st.sampled_from(["a.example", "b.example.org", "c.d.example"])
public4 = st.integers(1, 0xFFFF).map(lambda n: str(ipaddress.ip_address(0xC6336400 ^ n)))
public6 = st.integers(1, 0xFFFF).map(lambda n: str(ipaddress.ip_address((0x20010DB8 << 96) + n)))
ports = st.integers(1000, 65535)  # not DHCP's


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    """A flow from a host of ours to one of the internet, of a protocol that has ports."""
    six = draw(st.booleans())
    host, server = ("2001:db8:ffff::10", draw(public6)) if six else (HOST, draw(public4))
    here, there = (ipaddress.ip_address(text).packed for text in (host, server))
    proto = draw(st.sampled_from([6, 17, 132]))
    return Flow(proto, here, draw(ports), there, draw(ports))


def frame(flow: Flow, back: bool = False, flags: str = "A") -> bytes:
    source, sport, to, dport = flow.saddr, flow.sport, flow.daddr, flow.dport
    if back:
        source, sport, to, dport = to, dport, source, sport
    src, dst = (str(ipaddress.ip_address(one)) for one in (source, to))
    six = ":" in src
    head: Any = (
        IPv6(src=src, dst=dst, nh=flow.proto) if six else IP(src=src, dst=dst, proto=flow.proto)
    )
    if flow.proto == 6:
        return bytes(head / TCP(sport=sport, dport=dport, flags=flags))
    if flow.proto == 17:
        return bytes(head / UDP(sport=sport, dport=dport) / Raw(b"x"))
    return bytes(head / Raw(struct.pack("!HHII", sport, dport, 0, 0) + b"\1\0\0\4"))


@settings(deadline=None, max_examples=examples(60))  # scapy is slow
@given(st.lists(flows(), unique=True, max_size=12), st.integers(0, 1 << 30))
def test_a_capture_of_random_flows_gives_exactly_these(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[Flow], seed: int
) -> None:
    """Each opened once, with what follows of it in between, both ways, in any order."""
    dice = random.Random(seed)
    opened: list[Flow] = []
    sent: list[bytes] = []
    waiting = wanted.copy()
    while waiting or dice.random() < 0.7:
        if waiting and (not opened or dice.random() < 0.5):
            opened.append(waiting.pop())
            sent.append(frame(opened[-1], flags="S"))
        elif opened:
            sent.append(
                frame(dice.choice(opened), dice.random() < 0.5, dice.choice(["A", "PA", "SA"]))
            )
        else:
            break
    path = tmp_path_factory.mktemp("capture") / "random.pcap"
    path.write_bytes(pcap(sent))
    found, capture = read(path)
    assert [one.packet.flow for one in found] == opened
    assert not any(one.midstream for one in found)
    assert capture.packets == len(sent) and not capture.unread


def pcap(packets: Iterable[bytes], linktype: int = RAW) -> bytes:
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, linktype)
    for number, data in enumerate(packets):
        out += struct.pack("<IIII", number, 0, len(data), len(data)) + data
    return out


def test_a_syn_that_is_sent_again_opens_nothing_new() -> None:
    syn = IP(src=HOST, dst=SERVER) / TCP(sport=1, dport=2, flags="S")
    assert [c.number for c in fed([syn, syn])] == [1]


@pytest.mark.parametrize(
    ("source", "sport", "dport", "flags", "opener"),
    [
        (HOST, 40000, 443, "A", HOST),
        (SERVER, 443, 40000, "PA", HOST),
        (
            HOST,
            443,
            40000,
            "SA",
            SERVER,
        ),  # a server on a low port answers: this tells, the ports not
        (HOST, 500, 500, "A", HOST),
    ],
)
def test_who_opened_a_connection_that_was_open_before(
    source: str, sport: int, dport: int, flags: str, opener: str
) -> None:
    there = SERVER if source == HOST else HOST
    (found,) = fed([IP(src=source, dst=there) / TCP(sport=sport, dport=dport, flags=flags)])
    assert found.midstream and not found.packet.opens
    assert found.packet.flow.saddr == ipaddress.ip_address(opener).packed


def test_an_echo_reply_alone_is_of_one_who_asked_before() -> None:
    (found,) = fed([IP(src=SERVER, dst=HOST) / ICMP(type=0, id=9)])
    assert found.midstream and flow_text(found.packet.flow) == f"icmp {HOST}:9 > {SERVER}"
    again = IP(src=HOST, dst=SERVER) / ICMP(type=8, id=9)
    other = IP(src=HOST, dst=SERVER) / ICMP(type=8, id=10)
    assert [c.packet.flow.sport for c in fed([again, again, other])] == [9, 10]


def answer(name: str, address: str, ttl: int = 60) -> Any:
    dns = DNS(qr=1, qd=DNSQR(qname=name), an=DNSRR(rrname=name, ttl=ttl, rdata=address))
    return IP(src="192.0.2.53", dst=HOST) / UDP(sport=53, dport=4000) / dns


def test_names_are_those_that_were_answered_before_and_not_after() -> None:
    def connect(port: int) -> Any:
        return IP(src=HOST, dst=SERVER) / TCP(sport=port, dport=443, flags="S")

    found = fed(
        [
            connect(1),
            answer("a.example", SERVER),
            connect(2),
            answer("b.example", SERVER),
            connect(3),
        ]
    )
    named = {c.packet.flow.sport: c.names for c in found}
    assert (named[1], named[2], named[3]) == ((), ("a.example",), ("b.example", "a.example"))


def test_a_clock_that_goes_back_takes_no_name_away() -> None:
    syns = [IP(src=HOST, dst=SERVER) / TCP(sport=n, dport=443, flags="S") for n in (1, 2, 3)]
    capture = Capture()
    capture.feed(1, 1e9, RAW, bytes(syns[0]))
    capture.feed(2, 5.0, RAW, bytes(answer("a.example", SERVER)))
    for number, time in ((3, 6.0), (4, 1e9 + 1)):
        found = capture.feed(number, time, RAW, bytes(syns[number - 2]))
        assert found is not None and found.names == ("a.example",) and found.time == time


def test_memory_is_bounded_and_what_is_forgotten_is_said() -> None:
    capture = Capture(limit=3)
    syns = [IP(src=HOST, dst=SERVER) / TCP(sport=n, dport=443, flags="S") for n in (1, 2, 3, 1, 4)]
    assert len(fed(syns, capture)) == 4
    assert capture.forgotten == 1
    assert fed(syns[:1], capture) == []  # 1 was seen again before 4 came: 2 went
    assert len(fed(syns[1:2], capture)) == 1


# --- any bytes ------------------------------------------------------------------------------


@given(st.integers(0, 300), st.binary(max_size=200))
def test_no_frame_does_anything_but_be_read_or_be_counted(linktype: int, data: bytes) -> None:
    found = ip_packet(linktype, data)
    assert isinstance(found, str) or data.endswith(found)
    capture = Capture()
    one = capture.feed(1, 0.0, linktype, data)
    assert (one is not None) + sum(capture.unread.values()) + sum(capture.passed.values()) == 1


@pytest.mark.parametrize("linktype", [0, 1, 9, 12, 101, 108, 113, 228, 229, 276])
def test_a_frame_that_is_cut_anywhere_is_counted(linktype: int) -> None:
    packet = bytes(IP(src=HOST, dst=SERVER) / TCP(sport=1, dport=2, flags="S"))
    heads = {
        0: b"\2\0\0\0",
        108: b"\0\0\0\2",
        1: bytes(12) + b"\x08\0",
        9: b"\xff\3\0\x21",
        113: bytes(14) + b"\x08\0",
        276: b"\x08\0" + bytes(18),
    }
    whole = heads.get(linktype, b"") + packet
    assert Capture().feed(1, 0.0, linktype, whole) is not None
    for size in range(len(whole)):
        capture = Capture()
        assert capture.feed(1, 0.0, linktype, whole[:size]) is None
        assert sum(capture.unread.values()) == 1


def test_vlan_tags_without_end_are_not_followed() -> None:
    assert ip_packet(1, bytes(12) + b"\x81\0\0\1" * 1000) == frames.TAGS
    tags = b"\x81\0\0\1" * (frames.MAX_TAGS - 1)
    assert ip_packet(1, bytes(12) + tags + b"\x08\0\x45") == b"\x45"


# --- files ----------------------------------------------------------------------------------


def frames_of(path: Path) -> tuple[list[Frame], str]:
    """What is read, and how it ends."""
    found: list[Frame] = []
    try:
        with CaptureFile(path) as file:
            found.extend(file)
    except CaptureError as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize("name", ["browse.pcap", "browse.pcapng", "browse.pcap.gz"])
def test_a_file_that_breaks_off_anywhere_is_told_from_one_that_ends(
    name: str, tmp_path: Path
) -> None:
    whole = (FIXTURES / name).read_bytes()
    data = gzip.decompress(whole) if name.endswith("gz") else whole
    ends = {24} if name != "browse.pcapng" else set()
    at = 24
    while name != "browse.pcapng" and at < len(data):
        at += 16 + int.from_bytes(data[at + 8 : at + 12], "little")
        ends.add(at)
    at = 0
    while name == "browse.pcapng" and at < len(data):
        at += int.from_bytes(data[at + 4 : at + 8], "little")
        ends.add(at)
    path = tmp_path / name
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        found, problem = frames_of(path)
        if name.endswith("gz"):
            assert problem, size
        elif size in ends:
            assert not problem, (size, problem)
        else:
            assert problem and str(path) in problem, size
            assert size < 30 or f"packet {len(found) + 1}:" in problem or not found, problem


def test_errors_say_which_file_and_packet_and_why(tmp_path: Path) -> None:
    path = FIXTURES / "broken-off.pcap"
    found, problem = frames_of(path)
    assert len(found) == 14
    assert problem.startswith(f"{path}, packet 15: the file breaks off in the middle of it")
    for name, why in (("empty.pcap", "is empty"), ("make.py", "is neither pcap nor pcapng")):
        assert frames_of(FIXTURES / name) == ([], f"{FIXTURES / name} {why}")
    with pytest.raises(CaptureError, match=r"none.pcap cannot be read: No such file"):
        CaptureFile(tmp_path / "none.pcap")
    with pytest.raises(CaptureError, match="cannot be read: Is a directory"):
        CaptureFile(tmp_path)


def block(kind: int, body: bytes) -> bytes:
    size = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + size + body + size


SECTION = block(0x0A0D0D0A, b"\x4d\x3c\x2b\x1a\1\0\0\0" + b"\xff" * 8)
INTERFACE = block(1, struct.pack("<HHI", RAW, 0, 0))


def hostile() -> dict[str, tuple[bytes, str]]:
    """Files that would have us take gigabytes, or never end, and a word of what is said."""
    pcap_head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, RAW)
    return {
        "a block of 4 GiB": (SECTION + INTERFACE + struct.pack("<II", 6, 0xFFFFFFF0), "bytes"),
        "a packet of 4 GiB": (pcap_head + struct.pack("<IIII", 0, 0, 0xFFFFFFFF, 1), "breaks off"),
        "interfaces only": (SECTION + INTERFACE * 40_000, "blocks without a packet"),
        "gzip in gzip": (gzip.compress(gzip.compress(pcap_head)), "neither pcap nor pcapng"),
        "gzip that is none": (b"\x1f\x8b" + bytes(100), "packet 1"),
        "an option that lies": (SECTION + block(1, bytes(8) + b"\x09\0\xff\xff\1"), ""),
        "a clock of 10^-127": (
            SECTION + block(1, struct.pack("<HHIHHB3xHH", RAW, 0, 0, 9, 1, 127, 0, 0))
            + block(6, struct.pack("<IIIII", 0, 1, 1, 1, 1) + b"E\0\0\0"),
            "",
        ),
        "a packet of no interface": (SECTION + block(6, bytes(20)), ""),
    }  # fmt: skip


@pytest.mark.parametrize("kind", sorted(hostile()))
def test_a_hostile_file_has_an_end_and_a_word(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, word = hostile()[kind]
    path = tmp_path / "hostile"
    path.write_bytes(data)
    _, problem = frames_of(path)
    assert word in problem and bool(word) <= bool(problem)
    assert capsys.readouterr() == ("", ""), "scapy says nothing on the terminal"


def test_a_sparse_block_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(SECTION + INTERFACE + struct.pack("<II", 6, MAX_READ + 400))
        file.truncate(MAX_READ * 3)
    assert "no packet is that long" in frames_of(path)[1]


@settings(deadline=None, max_examples=examples(200))
@given(st.sampled_from(["browse.pcap", "browse.pcapng"]), st.data())
def test_no_bytes_in_a_file_do_anything_but_be_read_or_end_it(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = bytearray((FIXTURES / name).read_bytes())
    places = data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1)
    )
    for at, value in places:
        content[at] = value
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(content)
    capture = Capture()
    found, _ = frames_of(path)
    for one in found:
        capture.feed(*one)
    assert capture.packets == len(found)


def test_packets_come_from_a_pipe_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    reader, writer = os.pipe()
    os.write(writer, (FIXTURES / "browse.pcap").read_bytes())
    os.close(writer)
    kept = os.dup(0)
    try:
        os.dup2(reader, 0)
        found, problem = frames_of(Path("-"))
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(reader)
    assert len(found) == 15 and not problem
