"""Owners on the real kernel, by the kind of their socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs
from ownerscene import (
    NOBODY,
    V4,
    V6,
    Client,
    clients,
    entered,
    finish,
    flow,
    looking_up,
    made_namespace,
    owner,
    packed,
    pids,
    reason,
    resolve,
)

from arbiter.kernel import netlink
from arbiter.kernel.holders import Holder, Holders
from arbiter.kernel.owner import OwnerLookup
from arbiter.kernel.procevents import ProcEvents
from arbiter.model import Flow, Hook, NoOwner, NoOwnerReason, Packet

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a network namespace"),
]


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    with made_namespace() as name:
        yield name


@pytest.fixture(autouse=True)
def inside(namespace: str) -> Iterator[None]:
    """The whole test runs in the namespace, and so do its clients."""
    with entered(namespace):
        yield


@pytest.fixture
def client() -> Iterator[Client]:
    with clients() as start:
        yield start


@pytest.fixture(params=["events", "no events"])
def lookup(request: pytest.FixtureRequest) -> Iterator[OwnerLookup]:
    with looking_up(request.param == "events") as made:
        yield made


# --- TCP ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connect", "remote"), [(V4, V4), (V6, V6), (f"::ffff:{V4}", V4)], ids=["v4", "v6", "mapped"]
)
def test_a_tcp_socket_in_syn_sent_has_its_owner(
    lookup: OwnerLookup, client: Client, connect: str, remote: str
) -> None:
    process, [port] = client(f"s = tcp({connect!r}); say(s.getsockname()[1]); wait()", NOBODY)
    found = owner(lookup, flow(6, port, remote))
    assert pids(found) == [process.pid]
    assert (found.uid, found.user, found.established) == (NOBODY, "nobody", False)
    assert os.stat(found.processes[0].exe).st_ino == os.stat(sys.executable).st_ino


def test_the_second_socket_is_found_without_a_scan(lookup: OwnerLookup, client: Client) -> None:
    code = "a = tcp('10.9.0.2'); b = tcp('10.9.0.2'); say(*(s.getsockname()[1] for s in (a, b)))"
    process, [one, two] = client(f"{code}; wait()")
    resolve(lookup, flow(6, one))
    assert pids(lookup.quick(flow(6, two))) == [process.pid]


def test_a_fresh_process_among_300_others_is_found_without_a_scan(
    lookup: OwnerLookup, client: Client
) -> None:
    code = "for _ in range(300):\n if not os.fork(): wait(); os._exit(0)\nsay(0)\nwait()"
    client(code)
    found, end = None, time.monotonic() + 30
    while found is None and time.monotonic() < end:
        # Without events, others that start on this machine meanwhile are newer: a storm of another
        # test, which takes seconds.
        process, [port] = client("s = tcp('10.9.0.2'); say(s.getsockname()[1]); wait()")
        found = lookup.quick(flow(6, port))
    assert pids(found) == [process.pid]


def test_an_open_connection_is_established(lookup: OwnerLookup) -> None:
    with (
        socket.create_server(("10.9.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sock,
    ):
        packet = flow(6, sock.getsockname()[1], "10.9.0.1", server.getsockname()[1])
        found = owner(lookup, packet)
        assert found.established
        assert pids(found) == [os.getpid()]
        assert found.inode == os.fstat(sock.fileno()).st_ino


@pytest.mark.parametrize(
    ("bound", "here"), [("10.9.0.1",) * 2, ("::", "10.9.0.1"), ("::", "fd09::1")]
)
def test_of_an_open_connection_the_side_that_listens_came_in(
    lookup: OwnerLookup, bound: str, here: str
) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with (
        socket.create_server((bound, 0), family=family, dualstack_ipv6=bound == "::") as server,
        socket.create_connection((here, server.getsockname()[1])) as sock,
        server.accept()[0],
    ):
        port = server.getsockname()[1]
        answer = flow(6, port, here, sock.getsockname()[1])
        segment = structs.replace(answer, tcp_flags=0x10)
        found = owner(lookup, segment)
        assert (found.established, found.came_in) == (True, True)
        asked = structs.replace(flow(6, sock.getsockname()[1], here, port), tcp_flags=0x10)
        assert not owner(lookup, asked).came_in
        assert not owner(lookup, structs.replace(answer, tcp_flags=0x02)).came_in


def test_a_closed_connection_is_exited_and_established(lookup: OwnerLookup) -> None:
    with socket.create_server(("10.9.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        packet = flow(6, sock.getsockname()[1], "10.9.0.1", server.getsockname()[1])
        peer, _ = server.accept()
        sock.close()  # FIN_WAIT2: an orphan
        orphan = resolve(lookup, packet)
        peer.close()  # TIME_WAIT
        waiting = resolve(lookup, packet)
    for found in (orphan, waiting):
        assert reason(found) is NoOwnerReason.EXITED
        assert isinstance(found, NoOwner)
        assert found.established
        assert found.uid is None, "the kernel says 0 of a TIME_WAIT socket, and means unknown"


@pytest.mark.parametrize(("bound", "peer"), [("10.9.0.2", V4), ("fd09::2", V6)])
def test_a_syn_whose_socket_is_closed_says_so(
    lookup: OwnerLookup, client: Client, bound: str, peer: str
) -> None:
    process, [port] = client(f"s = tcp('{bound}'); say(s.getsockname()[1]); wait()")
    assert pids(resolve(lookup, flow(6, port, peer))) == [process.pid]
    finish(process)
    assert reason(resolve(lookup, flow(6, port, peer))) is NoOwnerReason.CLOSED


def test_a_listener_owns_inbound_and_no_outbound_connections(lookup: OwnerLookup) -> None:
    with socket.create_server(("10.9.0.1", 0)) as server:
        port = server.getsockname()[1]
        inbound = Packet(1, Flow(6, packed(V4), 4000, packed("10.9.0.1"), port), hook=Hook.IN)
        assert pids(owner(lookup, inbound)) == [os.getpid()]
        assert reason(resolve(lookup, flow(6, port))) is NoOwnerReason.CLOSED
    assert reason(resolve(lookup, inbound)) is NoOwnerReason.NO_SOCKET


def test_a_socket_bound_to_a_device_is_found_by_that_device(lookup: OwnerLookup) -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"v0")
        sock.setblocking(False)
        sock.connect_ex((V4, 443))
        packet = flow(6, sock.getsockname()[1])
        device = structs.replace(packet, outdev=socket.if_nametoindex("v0"))
        assert pids(owner(lookup, device)) == [os.getpid()]


def test_an_mptcp_connection_has_its_owner(lookup: OwnerLookup) -> None:
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    except OSError as error:
        pytest.skip(f"this kernel has no MPTCP: {error}")
    with sock:
        sock.setblocking(False)
        sock.connect_ex((V4, 443))
        assert pids(owner(lookup, flow(6, sock.getsockname()[1]))) == [os.getpid()]


# --- UDP ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "remote"),
    [
        ("udp('10.9.0.2')", V4),
        ("udp()", V4),
        ("udp('10.9.0.3')", V4),  # connected elsewhere: sent with sendto()
        ("udp('::ffff:10.9.0.2', bind='::')", V4),
        ("udp(bind='::')", V4),
        ("udp('fd09::2', bind='::')", V6),
        ("udp(bind='::')", V6),
        ("udp(bind='10.9.0.1')", V4),
    ],
)
@pytest.mark.parametrize("proto", [17, 136])
def test_a_udp_socket_has_its_owner(
    lookup: OwnerLookup, client: Client, made: str, remote: str, proto: int
) -> None:
    lite = "socket.SOCK_DGRAM = 2; new = socket.socket\n"
    if proto == 136:
        lite += "socket.socket = lambda f, k: new(f, k, 136)\n"
    process, [port] = client(f"{lite}s = {made}; say(s.getsockname()[1]); wait()", NOBODY)
    found = owner(lookup, flow(proto, port, remote, 53))
    assert pids(found) == [process.pid]
    assert (found.uid, found.established) == (NOBODY, False)


def test_a_closed_udp_socket_is_no_socket(lookup: OwnerLookup) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        packet = flow(17, sock.getsockname()[1])
        assert pids(owner(lookup, packet)) == [os.getpid()]
    assert reason(resolve(lookup, packet)) is NoOwnerReason.CLOSED


def test_all_who_share_a_udp_port_are_named(lookup: OwnerLookup, client: Client) -> None:
    code = "s = udp(bport={}); say(s.getsockname()[1]); wait()"
    one, [port] = client(code.format(0))
    two, _ = client(code.format(port))
    found = owner(lookup, flow(17, port))
    assert sorted(pids(found)) == sorted([one.pid, two.pid])
    assert found.inode == 0, "no one socket can be named"


def test_a_udp_port_shared_by_two_users_is_ambiguous(lookup: OwnerLookup, client: Client) -> None:
    code = "s = udp(bport={}); say(s.getsockname()[1]); wait()"
    _, [port] = client(code.format(0), NOBODY)
    client(code.format(port), 1)
    found = resolve(lookup, flow(17, port))
    assert reason(found) is NoOwnerReason.AMBIGUOUS
    assert isinstance(found, NoOwner)
    assert "2 sockets could have sent it, of users 1, 65534" in found.detail


def test_an_ipv6_only_socket_does_not_own_ipv4(lookup: OwnerLookup) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("::", 0))
        port = sock.getsockname()[1]
        assert reason(resolve(lookup, flow(17, port))) is NoOwnerReason.CLOSED
        assert pids(owner(lookup, flow(17, port, V6))) == [os.getpid()]


# --- ping, raw, and the rest ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "proto", "kind", "remote"),
    [("AF_INET", 1, 8, V4), ("AF_INET6", 58, 128, V6)],
)
def test_a_ping_socket_is_found_by_its_identifier(
    lookup: OwnerLookup, client: Client, family: str, proto: int, kind: int, remote: str
) -> None:
    code = f"s = socket.socket(socket.{family}, socket.SOCK_DGRAM, {proto})\n"
    code += f"s.connect(({remote!r}, 0)); say(s.getsockname()[1]); wait()"
    process, [identifier] = client(code, NOBODY)
    packet = structs.replace(flow(proto, identifier, remote, 0), icmp_type=kind)
    found = owner(lookup, packet)
    assert (pids(found), found.uid) == ([process.pid], NOBODY)
    other = structs.replace(flow(proto, identifier ^ 1, remote, 0), icmp_type=kind)
    assert reason(resolve(lookup, other)) is NoOwnerReason.CLOSED


@pytest.mark.parametrize(
    ("family", "remote"), [(socket.AF_INET, V4), (socket.AF_INET6, V6)], ids=["v4", "v6"]
)
def test_every_raw_socket_of_the_protocol_is_named(
    lookup: OwnerLookup, client: Client, family: int, remote: str
) -> None:
    packet = flow(89, 0, remote, 0)
    assert reason(resolve(lookup, packet)) is NoOwnerReason.KERNEL
    with socket.socket(family, socket.SOCK_RAW, 89), socket.socket(family, socket.SOCK_RAW, 47):
        assert pids(owner(lookup, packet)) == [os.getpid()]
        process, _ = client(
            f"s = socket.socket({int(family)}, socket.SOCK_RAW, 255); say(0); wait()"
        )
        assert sorted(pids(owner(lookup, packet))) == sorted([os.getpid(), process.pid])


def test_a_raw_ping_is_found_and_a_raw_syn_is_hinted_at(lookup: OwnerLookup) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, 1):
        packet = structs.replace(flow(1, 77, V4, 0), icmp_type=8)
        assert pids(owner(lookup, packet)) == [os.getpid()]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, 255):
        found = resolve(lookup, flow(6, 1))
        assert reason(found) is NoOwnerReason.NO_SOCKET
        assert isinstance(found, NoOwner)
        assert "1 raw sockets" in found.detail


def test_what_cannot_be_looked_up_says_so(lookup: OwnerLookup) -> None:
    if not Path("/proc/net/sctp").exists():
        assert reason(lookup.quick(flow(132, 1))) is NoOwnerReason.UNSUPPORTED
    fragment = structs.replace(flow(17, 0, V4, 0), fragment=True)
    assert reason(lookup.quick(fragment)) is NoOwnerReason.UNSUPPORTED
    forwarded = structs.replace(flow(17, 1), hook=Hook.FORWARD)
    assert reason(lookup.quick(forwarded)) is NoOwnerReason.FORWARDED


def test_a_source_address_set_per_packet_is_no_hindrance(lookup: OwnerLookup) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("10.9.0.1", 0))
        packet = Packet(1, Flow(17, packed("127.0.0.1"), sock.getsockname()[1], packed(V4), 53))
        assert pids(owner(lookup, packet)) == [os.getpid()]


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.setblocking(False)
        made.connect_ex((V4, 443))
        yield made


@pytest.fixture
def events() -> Iterator[ProcEvents]:
    made = ProcEvents.open()
    if made is None:
        pytest.skip("this kernel delivers no process events here")
    yield made
    made.close()


# --- the rest of the room -------------------------------------------------------------------


def test_queue_flags_are_set_and_refusals_explained() -> None:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, netlink.NETLINK_NETFILTER) as sock:
        sock.bind((0, 0))
        fail_open = netlink.NFQA_CFG_F_FAIL_OPEN
        with pytest.raises(OSError, match=r"of queue 7: No such device"):
            netlink.queue_config_flags(sock.fileno(), 7, fail_open, fail_open, [])
        bind = bytes((0, 0, 0, 7)) + netlink.pack_attribute(1, bytes((1, 0, 0, 2)))
        netlink.ack_request(sock, 0x302, 0, bind, "binding queue 7")
        netlink.queue_config_flags(sock.fileno(), 7, fail_open, fail_open, [])
        netlink.queue_config_flags(sock.fileno(), 7, 0, fail_open, [])
        with pytest.raises(OSError, match=r"flags 0x1000 .* of queue 7"):
            netlink.queue_config_flags(sock.fileno(), 7, 0x1000, 0x1000, [])
        with socket.socket(socket.AF_NETLINK, kind, netlink.NETLINK_NETFILTER) as stranger:
            stranger.bind((0, 0))
            with pytest.raises(PermissionError):
                netlink.queue_config_flags(stranger.fileno(), 7, fail_open, fail_open, [])


def test_a_dead_process_is_no_candidate_for_long() -> None:
    holders = Holders()
    try:
        child = subprocess.Popen(["true"])
        child.wait()
        holders.note(Holder(child.pid, 3, 1), 0)
        assert holders.quick(2**32 - 2, 0) is None
        assert child.pid not in holders._recent
    finally:
        holders.close()
