"""Netlink by hand, sock_diag on loopback, and the /proc/net tables."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.kernel import netlink, sockdiag, sockets
from arbiter.kernel.netlink import (
    Message,
    ack_request,
    attributes,
    messages,
    pack_attribute,
    pack_message,
)
from arbiter.kernel.sockdiag import ESTABLISHED, LISTEN, TCP, UDP, SockDiag
from arbiter.kernel.sockets import SocketTables, may_use, parse_inet, parse_sctp

LOCALHOST = socket.inet_aton("127.0.0.1")
MAPPED = bytes(10) + b"\xff\xff"

# --- netlink --------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=6),
)
def test_attributes_come_back_as_they_were_packed(items: list[tuple[int, bytes]]) -> None:
    data = b"".join(pack_attribute(kind, value) for kind, value in items)
    assert list(attributes(data)) == items
    assert len(data) % 4 == 0


@given(st.integers(0, 65535), st.integers(0, 2**32 - 1), st.binary(max_size=64))
def test_a_message_comes_back_as_it_was_packed(kind: int, seq: int, payload: bytes) -> None:
    [message] = messages(pack_message(kind, netlink.NLM_F_ACK, seq, payload))
    assert message == Message(kind, netlink.NLM_F_ACK | netlink.NLM_F_REQUEST, seq, payload)


@given(st.binary(max_size=80))
def test_any_bytes_parse_or_raise_value_error(data: bytes) -> None:
    for parse in (messages, attributes):
        try:
            list(parse(data))
        except ValueError:
            continue


@pytest.mark.parametrize("length", [0, 15, 21])
def test_a_message_that_lies_about_its_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"says {length} bytes, 20 are there"):
        list(messages(struct.pack("=IHHII", length, 2, 0, 1, 0) + bytes(4)))


class FakeKernel:
    """The other end of a socket pair: answers in advance, as the kernel does inside send."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        monkeypatch.setattr(os, "urandom", lambda n: struct.pack("=I", 77)[:n])

    def say(self, number: int, seq: int = 77, kind: int = netlink.NLMSG_ERROR) -> None:
        self.theirs.send(pack_message(kind, 0, seq, struct.pack("=i", -number) + bytes(16)))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    fake = FakeKernel(monkeypatch)
    with fake.ours, fake.theirs:
        yield fake


def test_an_acknowledgement_is_read_past_answers_to_others(kernel: FakeKernel) -> None:
    kernel.say(errno.EPERM, seq=76)
    kernel.say(0)
    ack_request(kernel.ours, 5, 0, b"", "asking")
    [sent] = messages(kernel.theirs.recv(100))
    assert (sent.type, sent.flags, sent.seq) == (5, netlink.NLM_F_REQUEST | netlink.NLM_F_ACK, 77)
    with pytest.raises(BlockingIOError):
        kernel.ours.recv(1, socket.MSG_DONTWAIT)


def test_a_refusal_says_what_was_refused(kernel: FakeKernel) -> None:
    kernel.say(errno.EPERM)
    with pytest.raises(PermissionError, match="setting a thing: Operation not permitted"):
        ack_request(kernel.ours, 5, 0, b"", "setting a thing")


def test_silence_is_an_error_and_never_waited_for(kernel: FakeKernel) -> None:
    with pytest.raises(TimeoutError, match="the kernel gave no answer"):
        ack_request(kernel.ours, 5, 0, b"", "asking")


def test_a_packet_in_front_of_the_answer_stays_in_the_socket(kernel: FakeKernel) -> None:
    kernel.say(0, kind=0x300)
    with pytest.raises(OSError, match="packets are waiting") as caught:
        ack_request(kernel.ours, 5, 0, b"", "asking")
    assert caught.value.errno == errno.EBUSY
    [left] = messages(kernel.ours.recv(100, socket.MSG_DONTWAIT))
    assert left.type == 0x300


# --- sock_diag on loopback ------------------------------------------------------------------


@pytest.fixture
def diag() -> Iterator[SockDiag]:
    with SockDiag() as made:
        yield made


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def test_a_connection_is_found_with_inode_uid_and_state(diag: SockDiag) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        here, there = client.getsockname()[1], server.getsockname()[1]
        info = diag.lookup(TCP, LOCALHOST, here, LOCALHOST, there)
        assert info is not None
        assert (info.inode, info.uid, info.state) == (inode(client), os.getuid(), ESTABLISHED)
        assert (info.local, info.lport, info.remote, info.rport) == (
            *(LOCALHOST, here),
            *(LOCALHOST, there),
        )
        listener = diag.lookup(TCP, LOCALHOST, there, LOCALHOST, 1)
        assert listener is not None
        assert (listener.inode, listener.state) == (inode(server), LISTEN)


def test_a_flow_without_socket_is_none(diag: SockDiag) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, not listening: its port is nobody else's
        port = free.getsockname()[1]
        assert diag.lookup(TCP, LOCALHOST, port, LOCALHOST, 9) is None


def test_udp_is_found_connected_and_not(diag: SockDiag) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        port = sock.getsockname()[1]
        loose = diag.lookup(UDP, LOCALHOST, port, LOCALHOST, 9)
        assert loose is not None
        assert (loose.inode, loose.rport) == (inode(sock), 0)
        sock.connect(("127.0.0.1", 9))
        joined = diag.lookup(UDP, LOCALHOST, port, LOCALHOST, 9)
        assert joined is not None
        assert (joined.inode, joined.rport) == (inode(sock), 9)
        assert diag.lookup(UDP, LOCALHOST, port, LOCALHOST, 10) is None


def test_a_dump_is_of_one_port_and_knows_v6only(diag: SockDiag) -> None:
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as only,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as both,
    ):
        only.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for sock in (only, both):
            sock.bind(("::", 0))
        for sock, expected in ((only, True), (both, False)):
            [info] = diag.dump(UDP, socket.AF_INET6, sock.getsockname()[1])
            assert (info.inode, info.v6only) == (inode(sock), expected)


def test_protocols_without_a_handler_are_told(diag: SockDiag) -> None:
    assert diag.supports(TCP)
    assert diag.supports(UDP)
    assert not diag.supports(253)  # RFC 3692: for experiments


def test_a_dump_of_many_sockets_comes_whole(diag: SockDiag) -> None:
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(700)]
    try:
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        found = {info.inode for info in diag.dump(UDP, socket.AF_INET)}
        assert {inode(sock) for sock in socks} <= found
    finally:
        for sock in socks:
            sock.close()


def answering(diag: SockDiag, *replies: bytes) -> socket.socket:
    """Puts replies in place of the kernel's. The caller closes what it gets."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    diag._sock.close()
    diag._sock = ours
    for reply in replies:
        theirs.send(reply)
    return theirs


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (b"", "0 bytes of answer"),
        (bytes(19), "19 bytes of answer"),
        (struct.pack("=IHHII", 20, 20, 0, 1, 0) + bytes(4), "malformed"),
        (struct.pack("=IHHII", 500, 20, 0, 1, 0) + bytes(80), "malformed"),
        (struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -errno.EACCES) + bytes(16), "Permission denied"),
        (struct.pack("=IHHIIi", 36, 20, 0, 9, 0, 0) + bytes(99), "gave no answer"),
    ],
)
def test_a_bad_answer_is_an_os_error(diag: SockDiag, reply: bytes, text: str) -> None:
    with answering(diag, reply), pytest.raises(OSError, match=text):
        diag.lookup(TCP, LOCALHOST, 1, LOCALHOST, 2)


def test_an_answer_to_an_older_question_is_passed_over(diag: SockDiag) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        diag._send(socket.AF_INET, TCP, 1, LOCALHOST, 1, LOCALHOST, 2, 0)  # left unread
        info = diag.lookup(TCP, LOCALHOST, port, LOCALHOST, 1)
        assert info is not None
        assert info.inode == inode(server)


@given(st.binary(max_size=200))
def test_a_dump_survives_any_answer(data: bytes) -> None:
    with SockDiag() as diag, answering(diag, data), pytest.raises(OSError, match="sock_diag"):
        diag.dump(UDP, socket.AF_INET)


# --- /proc/net ------------------------------------------------------------------------------

RAW4 = (
    "   1: 0100000A:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000"
    "  1000        0 27365 2 00000000c5be8ae8 0"
)
TCP6 = (
    "0: 0000000000000000FFFF00000100007F:1F90 B80D0120000000000000000001000000:D431 02"
    " 00000000:00000000 00:00000000 00000000  1001        0 4242 1 00 100 0 0 10 0"
)
SCTP = (
    "ffff880 ffff881 0   10  3  332    17        0        0       1000 8212 40000 5000"
    "  *10.0.0.1 fd00::1 <-> *10.0.0.2 fd00::2 \t    7500   10   10  0 0 0 0 1 1 212992 212992"
)


def test_a_raw_line_is_read() -> None:
    info = parse_inet(RAW4.split())
    assert info is not None
    assert (info.inode, info.uid, info.state, info.lport) == (27365, 1000, 7, 1)
    assert info.local == socket.inet_aton("10.0.0.1")
    assert info.remote == bytes(4)


def test_an_ipv6_line_is_read_with_its_mapped_address() -> None:
    info = parse_inet(TCP6.split())
    assert info is not None
    assert info.local == MAPPED + LOCALHOST
    assert info.remote == socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    assert (info.lport, info.rport, info.state, info.uid) == (8080, 54321, 2, 1001)


def test_an_sctp_association_has_all_its_address_pairs() -> None:
    pairs = {(info.local, info.remote) for info in parse_sctp(SCTP.split())}
    four = socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.2")
    six = [socket.inet_pton(socket.AF_INET6, text) for text in ("fd00::1", "fd00::2")]
    assert pairs == {(a, b) for a in (four[0], six[0]) for b in (four[1], six[1])}
    first = parse_sctp(SCTP.split())[0]
    assert (first.inode, first.uid, first.lport, first.rport) == (8212, 1000, 40000, 5000)


@given(st.lists(st.text(max_size=12), max_size=20))
def test_a_torn_line_is_no_socket(row: list[str]) -> None:
    assert isinstance(parse_inet(row), sockdiag.SocketInfo | None)
    assert isinstance(parse_sctp(row), list)


@given(st.integers(1, 9))
def test_a_line_cut_short_is_no_socket(columns: int) -> None:
    assert parse_inet(RAW4.split()[:columns]) is None


def test_tables_are_read_whole_and_missing_ones_are_empty(tmp_path: Path) -> None:
    net = tmp_path / "thread-self" / "net"
    net.mkdir(parents=True)
    (net / "raw").write_text("  sl  local_address\n" + f"{RAW4}\n" * 1500)
    tables = SocketTables(str(tmp_path))
    try:
        assert len(tables.inet("raw")) == 1500
        assert tables.has("raw")
        assert not tables.has("raw6")
        assert tables.inet("raw6") == []
        assert tables.sctp() == []
        (net / "sctp").mkdir()
        (net / "sctp" / "assocs").write_text(f"ASSOC\n{SCTP}\n")
        assert len(tables.sctp()) == 4, "a module loaded later"
    finally:
        tables.close()


@pytest.mark.parametrize(
    ("bound", "address", "expected"),
    [
        (bytes(4), LOCALHOST, True),
        (LOCALHOST, LOCALHOST, True),
        (socket.inet_aton("10.0.0.1"), LOCALHOST, False),
        (bytes(16), LOCALHOST, True),
        (MAPPED + LOCALHOST, LOCALHOST, True),
        (MAPPED + socket.inet_aton("10.0.0.1"), LOCALHOST, False),
        (bytes(15) + b"\1", LOCALHOST, False),
        (bytes(16), bytes(15) + b"\1", True),
        (bytes(4), bytes(15) + b"\1", False),
    ],
)
def test_a_socket_uses_the_addresses_it_may(bound: bytes, address: bytes, expected: bool) -> None:
    assert may_use(bound, address) is expected


def test_every_table_the_finder_reads_is_opened() -> None:
    assert {"raw", "raw6", "icmp", "icmp6", "sctp/assocs"} <= set(sockets._TABLES)
