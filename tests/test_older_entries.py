"""Connections that began while nobody decided: which entries and sockets are looked at."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playbook import HERE, HERE6, NO_SOCKET, SERVER, SERVER6, owner

from arbiter.kernel import undecided, untracked
from arbiter.kernel.netlink import pack_attribute
from arbiter.kernel.sockdiag import SocketInfo
from arbiter.kernel.undecided import entry
from arbiter.model import MARK_DECIDED, MARK_DENIED, Flow, Packet
from arbiter.older import NO_ID, Fate, Here, Older, began_here, fate

REFUSED = MARK_DECIDED | MARK_DENIED
LOOP4, LOOP6 = b"\x7f\0\0\1", bytes(15) + b"\1"
LAN_LAST = b"\x0a\x4d\x01\xff"
HOST = Here({HERE, HERE6, LOOP4, LOOP6}, {LAN_LAST})


# --- which entries --------------------------------------------------------------------------


def nested(kind: int, *parts: tuple[int, bytes]) -> tuple[int, bytes]:
    return kind | 0x8000, b"".join(pack_attribute(*part) for part in parts)


def word(kind: int, value: int) -> tuple[int, bytes]:
    return kind, struct.pack("!I", value)


def tuple_of(kind: int, flow: Flow, *, echo: int | None = None) -> tuple[int, bytes]:
    v4 = len(flow.saddr) == 4
    ends = ((1, flow.saddr), (2, flow.daddr)) if v4 else ((3, flow.saddr), (4, flow.daddr))
    more: tuple[tuple[int, bytes], ...]
    if echo is None:
        more = (2, struct.pack("!H", flow.sport)), (3, struct.pack("!H", flow.dport))
    else:
        first = 4 if v4 else 7
        more = (first, struct.pack("!H", flow.sport)), (first + 1, bytes([echo]))
    proto = nested(2, (1, bytes([flow.proto])), *more)
    return nested(kind, nested(1, *ends), proto)


UDP = Flow(17, HERE, 45000, SERVER, 53)
CONFIRMED = 0b1110  # and a reply was seen, and it is assured


def payload(
    flow: Flow = UDP,
    *more: tuple[int, bytes],
    mark: int | None = None,
    status: int = CONFIRMED,
    reply: Flow | None = None,
    id: int = 99,
) -> bytes:
    back = reply or Flow(flow.proto, flow.daddr, flow.dport, flow.saddr, flow.sport)
    parts = [tuple_of(1, flow), tuple_of(2, back), word(3, status), word(12, id)]
    if mark is not None:
        parts.append(word(8, mark))
    return bytes(4) + b"".join(pack_attribute(*part) for part in (*parts, *more))


def read(*args: object, **more: object) -> Older | None:
    return entry(payload(*args, **more), HOST, REFUSED)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "flow", [UDP, Flow(17, HERE6, 1, SERVER6, 2), Flow(132, HERE, 5, SERVER, 6)]
)
def test_what_began_here_undecided_is_read_as_its_next_packet(flow: Flow) -> None:
    found = read(flow)
    assert found is not None
    assert (found.packet.flow, found.id, found.denied, found.needed) == (flow, 99, False, False)
    assert found.packet.id == NO_ID
    assert pack_attribute(0x8001, found.original) == pack_attribute(*tuple_of(1, flow))


def test_a_tcp_segment_of_it_is_none_that_opens() -> None:
    found = read(Flow(6, HERE, 45000, SERVER, 443))
    assert found is not None
    assert not found.packet.opens


@pytest.mark.parametrize(("number", "there", "back"), [(1, 8, 0), (58, 128, 129)])
def test_an_echo_is_looked_up_as_one(number: int, there: int, back: int) -> None:
    near, far = (HERE, SERVER) if number == 1 else (HERE6, SERVER6)
    orig = tuple_of(1, Flow(number, near, 77, far, 0), echo=there)
    answer = tuple_of(2, Flow(number, far, 77, near, 0), echo=back)
    parts = (orig, answer, word(3, CONFIRMED), word(12, 5))
    found = entry(bytes(4) + b"".join(pack_attribute(*p) for p in parts), HOST, REFUSED)
    assert found is not None
    assert (found.packet.flow.sport, found.packet.icmp_type) == (77, there)
    assert not found.needed


@pytest.mark.parametrize(("state", "over"), [(3, False), (6, False), (7, True), (8, True)])
def test_conntrack_says_which_streams_are_over(state: int, over: bool) -> None:
    info = nested(4, nested(1, (1, bytes([state]))))
    found = read(Flow(6, HERE, 45000, SERVER, 443), info)
    assert found is not None
    assert found.over is over


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ([], CONFIRMED | 1 << 0),
        ([], CONFIRMED | 1 << 9),
        ([], CONFIRMED | 1 << 14),
        ([], CONFIRMED | 1 << 15),
        ([(18, b"\0\7")], CONFIRMED),
        ([tuple_of(14, UDP)], CONFIRMED),
    ],
    ids=["expected", "dying", "offloaded", "in hardware", "zone", "master"],
)
def test_what_belongs_to_something_else_is_not_read(
    more: list[tuple[int, bytes]], status: int
) -> None:
    assert read(UDP, *more, status=status) is None


@pytest.mark.parametrize(
    ("more", "status", "reply"),
    [
        ([], CONFIRMED | 1 << 4, None),
        ([], CONFIRMED | 1 << 5, None),
        ([], CONFIRMED | 1 << 13, None),
        ([nested(5, (1, b"sip\0"))], CONFIRMED, None),
        ([(22, b"\0" * 15 + b"\1")], CONFIRMED, None),
        ([], CONFIRMED, Flow(17, SERVER, 53, b"\x0a\x09\x09\x09", 45000)),
        ([], CONFIRMED, Flow(17, SERVER, 53, HERE, 45001)),
    ],
    ids=["source", "destination", "helper bit", "helper", "label", "address", "port"],
)
def test_what_others_have_a_use_for_is_never_deleted(
    more: list[tuple[int, bytes]], status: int, reply: Flow | None
) -> None:
    found = read(UDP, *more, status=status, reply=reply)
    assert found is not None
    assert found.needed
    assert fate(found, NO_SOCKET, False) is Fate.STAYS
    assert fate(found, owner(), True) is Fate.DENIED


@given(mark=st.integers(0, 0xFFFFFFFF))
def test_only_what_has_no_bit_of_anybodys_or_is_denied_is_read(mark: int) -> None:
    found = read(UDP, mark=mark)
    assert (found is not None) is (mark in (0, REFUSED))
    assert found is None or found.denied is (mark == REFUSED)


def test_the_mark_of_what_is_denied_is_one_that_is_looked_at() -> None:
    found = read(UDP, mark=REFUSED)
    assert found is not None
    assert found.denied
    assert read(UDP, mark=REFUSED | 0x8) is None
    assert read(UDP, mark=0x8) is None


@given(st.binary(max_size=300))
def test_any_bytes_give_an_entry_or_none(data: bytes) -> None:
    entry(data, HOST, REFUSED)


@given(st.data())
def test_an_entry_that_is_cut_or_changed_anywhere_gives_one_or_none(data: st.DataObject) -> None:
    whole = bytearray(payload(Flow(6, HERE, 45000, SERVER, 443), nested(4, nested(1, (1, b"\3")))))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    entry(bytes(whole[: data.draw(st.integers(0, len(whole)))]), HOST, REFUSED)


def test_a_look_past_others_finds_the_same_as_one_at_each() -> None:
    flows = [
        *(UDP, Flow(17, b"\x0a\x09\x09\x09", 1, SERVER, 2), Flow(6, HERE6, 1, SERVER6, 2)),
        *(Flow(6, SERVER6, 1, HERE6, 2), Flow(17, SERVER, 1, HERE, 2)),
    ]
    payloads = [payload(flow) for flow in flows]
    each = [one for data in payloads if (one := entry(data, HOST, REFUSED)) is not None]
    assert [*undecided._ours(payloads, HOST, REFUSED)] == each
    assert [one.packet.flow for one in each] == [flows[0], flows[2]]


# --- what began here ------------------------------------------------------------------------

addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))


@given(saddr=addresses, daddr=addresses, sport=st.integers(0, 65535), dport=st.integers(0, 65535))
def test_what_is_forwarded_or_came_in_never_began_here(
    saddr: bytes, daddr: bytes, sport: int, dport: int
) -> None:
    one = Packet(NO_ID, Flow(17, saddr, sport, daddr, dport))
    assert not began_here(one, Here(set()))
    assert not began_here(one, Here({daddr}))
    assert not began_here(one, Here({saddr, daddr}))


@pytest.mark.parametrize(
    ("saddr", "daddr", "sport", "dport", "yes"),
    [
        (HERE, SERVER, 1, 2, True),
        (HERE6, SERVER6, 1, 2, True),
        (HERE, b"\xf0\0\0\1", 1, 2, True),
        (HERE, b"\xdf\xff\xff\xff", 1, 2, True),
        (LOOP4, SERVER, 1, 2, False),
        (HERE, b"\x7f\1\2\3", 1, 2, False),
        (HERE6, LOOP6, 1, 2, False),
        (HERE, HERE, 1, 2, False),
        (HERE, b"\xe0\0\0\xfb", 1, 2, False),
        (HERE, b"\xff\xff\xff\xff", 1, 2, False),
        (HERE, LAN_LAST, 1, 2, False),
        (HERE, bytes(4), 1, 2, False),
        (HERE6, b"\xff\2" + bytes(14), 1, 2, False),
        (HERE6, b"\xfe\x80" + bytes(13) + b"\1", 1, 2, False),
        (HERE6, b"\xfe\xbf" + bytes(13) + b"\1", 1, 2, False),
        (HERE6, b"\xfe\xc0" + bytes(13) + b"\1", 1, 2, True),
        (HERE, SERVER, 68, 67, False),
        (HERE, SERVER, 67, 68, True),
        (HERE6, SERVER6, 546, 547, False),
        (HERE, SERVER, 546, 547, True),
    ],
)
def test_what_the_ruleset_lets_pass_unasked_is_not_looked_at(
    saddr: bytes, daddr: bytes, sport: int, dport: int, yes: bool
) -> None:
    assert began_here(Packet(NO_ID, Flow(17, saddr, sport, daddr, dport)), HOST) is yes
    tcp = Packet(NO_ID, Flow(6, saddr, sport, daddr, dport))
    assert began_here(tcp, HOST) is (yes or (sport, dport) in ((68, 67), (546, 547)))


# --- sockets that conntrack does not know ---------------------------------------------------


def sock(
    lport: int, state: int = 1, local: bytes = HERE, remote: bytes = SERVER, rport: int = 443,
    inode: int = 5,
) -> SocketInfo:  # fmt: skip
    return SocketInfo(inode, 0, state, local, lport, remote, rport)


LOCAL = range(32768, 61000)


def ports(proto: int, *sockets: SocketInfo) -> list[int]:
    return [one.flow.sport for one in untracked.connected(proto, sockets, HOST, LOCAL)]


def test_sockets_of_a_port_on_which_this_host_serves_are_what_came_in() -> None:
    listens = sock(22, 10, bytes(4), bytes(4), 0)
    assert ports(6, sock(22), sock(45000), listens) == [45000]
    bound = sock(53, 7, bytes(16), bytes(16), 0)
    assert ports(17, sock(53), sock(45000), bound) == [45000]


def test_a_session_whose_server_was_stopped_is_what_came_in() -> None:
    assert ports(6, sock(22, rport=51000), sock(2222, rport=1024), sock(32767, rport=60000)) == []
    # a client that binds a port of its own, as NFS does, and any other client
    assert ports(6, sock(700, rport=1023), sock(32768, rport=51000), sock(60999, rport=8080)) == [
        *(700, 32768, 60999)
    ]


def test_only_what_is_open_and_held_and_goes_out_is_looked_at() -> None:
    states = [state for state in range(1, 13) if ports(6, sock(45000, state))]
    assert states == [1, 4, 5, 8]
    assert ports(17, sock(45000, 1)) == [45000]
    assert ports(6, sock(1, inode=0), sock(2, remote=HERE), sock(3, local=SERVER)) == []
    assert ports(6, sock(3)) == [3]


def test_an_ipv4_flow_of_an_ipv6_socket_is_one_of_ipv4() -> None:
    mapped = bytes(10) + b"\xff\xff"
    (one,) = untracked.connected(
        6, [sock(45000, local=mapped + HERE, remote=mapped + SERVER)], HOST, LOCAL
    )
    assert one.flow == Flow(6, HERE, 45000, SERVER, 443)
    assert not one.opens


@pytest.mark.parametrize(
    ("there", "back", "wrong"), [(8, 8, True), (8, 0, False), (0, 8, False), (0x23, 0x23, False)]
)
def test_a_stream_is_told_from_one_that_came_in_by_what_conntrack_saw(
    there: int, back: int, wrong: bool
) -> None:
    flow = Flow(6, HERE, 45000, SERVER, 443)
    other = Flow(6, SERVER, 443, HERE, 45000)
    info = nested(4, nested(1, (1, b"\3"), (4, bytes([there, 0])), (5, bytes([back, 0]))))
    assert untracked.wrong_way(payload(other, info), flow) is wrong
    assert not untracked.wrong_way(payload(flow, info), flow)
    assert not untracked.wrong_way(payload(other), flow), "what says nothing came in"
