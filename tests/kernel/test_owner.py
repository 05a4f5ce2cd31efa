"""Owners on the real kernel, in a network namespace of our own.

Nobody answers at 10.9.0.2 and fd09::2: a SYN sent there leaves its socket in SYN_SENT. The other
users' and other programs' sockets are those of small clients, run as processes of their own.

One file, because all of it needs this namespace and these clients: about a third is that harness.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from arbiter.kernel import netlink
from arbiter.kernel.holders import Holder, Holders, Scan
from arbiter.kernel.owner import OwnerLookup
from arbiter.kernel.procevents import ProcEvents
from arbiter.kernel.procfs import ProcessTable
from arbiter.kernel.sockdiag import SocketInfo
from arbiter.kernel.sockets import Found
from arbiter.kernel.tunnels import Tunnel, Tunnels
from arbiter.model import Flow, Hook, NoOwner, NoOwnerReason, Owner, Packet, Process

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a network namespace"),
]

NOBODY = 65534
V4, V6 = "10.9.0.2", "fd09::2"
PRELUDE = """
import ctypes, json, os, socket, sys, threading, time
def drop(uid):
    os.setgid(uid)
    os.setuid(uid)
    assert ctypes.CDLL(None).prctl(4, 1) == 0  # dumpable again, as a program of that user is
def say(*found):
    print(json.dumps(found), flush=True)
def wait():
    sys.stdin.read()
def tcp(address, port=443):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.setblocking(False)
    s.connect_ex((address, port))
    return s
def udp(address=None, port=53, bind="0.0.0.0", bport=0):
    s = socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((bind, bport))
    if address:
        s.connect((address, port))
    return s
"""


def setns(fd: int) -> None:
    assert ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) == 0, "setns"


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    name = f"arbown{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        at = ("ip", "-n", name)
        run(*at, "link", "set", "lo", "up")
        run(*at, "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        for device in ("v0", "v1"):
            run(*at, "link", "set", device, "up")
        run(*at, "address", "add", "10.9.0.1/24", "dev", "v0")
        run(*at, "address", "add", "fd09::1/64", "dev", "v0", "nodad")
        for address in (V4, V6):
            run(*at, "neigh", "add", address, "lladdr", "02:00:00:00:00:99", "dev", "v0")
        yield name
    finally:
        run("ip", "netns", "del", name)


@pytest.fixture(autouse=True)
def inside(namespace: str) -> Iterator[None]:
    """The whole test runs in the namespace, and so do its clients."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    setns(there)
    try:
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        yield
    finally:
        setns(home)
        os.close(home)
        os.close(there)


Client = Callable[..., tuple["subprocess.Popen[str]", list[int]]]


@pytest.fixture
def client() -> Iterator[Client]:
    """Starts a client: its process, and the numbers it says once its sockets are there."""
    with contextlib.ExitStack() as stack:

        def start(code: str, uid: int = 0) -> tuple[subprocess.Popen[str], list[int]]:
            drop = f"drop({uid})\n" if uid else ""
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", f"{PRELUDE}{drop}{code}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(finish, process)
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert isinstance(said, list)
            return process, said

        yield start


def finish(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


@pytest.fixture(params=["events", "no events"])
def lookup(request: pytest.FixtureRequest) -> Iterator[OwnerLookup]:
    events = None
    if request.param == "events":
        events = ProcEvents.open()
        if events is None:
            pytest.skip("this kernel delivers no process events here")
    table = ProcessTable()
    made = OwnerLookup(table, events=events)
    yield made
    made.close()
    table.close()
    if events:
        events.close()


def packed(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def flow(proto: int, sport: int, remote: str = V4, dport: int = 443) -> Packet:
    local = "fd09::1" if ":" in remote else "10.9.0.1"
    return Packet(1, Flow(proto, packed(local), sport, packed(remote), dport))


def resolve(lookup: OwnerLookup, packet: Packet) -> Owner | NoOwner:
    quick = lookup.quick(packet)
    return lookup.scan(packet) if quick is None else quick


def owner(lookup: OwnerLookup, packet: Packet) -> Owner:
    """The owner; quick and scan must agree on it."""
    found = resolve(lookup, packet)
    assert isinstance(found, Owner), found
    scanned = lookup.scan(packet)
    assert isinstance(scanned, Owner), scanned
    assert pids(scanned) == pids(found)
    assert (scanned.uid, scanned.inode) == (found.uid, found.inode)
    return found


def pids(found: Owner | NoOwner | None) -> list[int]:
    assert isinstance(found, Owner), found
    return [process.pid for process in found.processes]


def reason(found: Owner | NoOwner | None) -> NoOwnerReason:
    assert isinstance(found, NoOwner), found
    return found.reason


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
    process, [port] = client("s = tcp('10.9.0.2'); say(s.getsockname()[1]); wait()")
    assert pids(lookup.quick(flow(6, port))) == [process.pid]


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


# --- several holders ------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2])
def test_a_socket_inherited_over_fork_names_all_the_youngest_first(
    lookup: OwnerLookup, client: Client, depth: int
) -> None:
    code = "s = tcp('10.9.0.2'); pids = [os.getpid()]\nr, w = os.pipe()\n"
    code += f"for _ in range({depth}):\n time.sleep(0.03)\n if not os.fork():\n"
    code += "  os.write(w, b'%9d' % os.getpid())\n else:\n  break\n"
    code += "else:\n wait(); os._exit(0)\n"
    code += "if os.getpid() == pids[0]:\n"
    code += f" say(s.getsockname()[1], *(int(os.read(r, 9)) for _ in range({depth})))\n"
    code += "wait()\n"
    process, [port, *born] = client(code)
    family = [*reversed(born), process.pid]
    assert pids(resolve(lookup, flow(6, port))) == family
    assert pids(lookup.quick(flow(6, port))) == family, "known now: without a scan"
    assert pids(lookup.scan(flow(6, port))) == family


def test_a_child_forked_after_the_first_look_up_is_named_by_the_next(lookup: OwnerLookup) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        packet = flow(17, sock.getsockname()[1])
        assert pids(resolve(lookup, packet)) == [os.getpid()]
        assert pids(lookup.quick(packet)) == [os.getpid()]
        sock.set_inheritable(True)
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(sock.fileno(),)) as child:
            try:
                assert pids(lookup.quick(packet)) == [child.pid, os.getpid()]
            finally:
                assert child.stdin is not None
                child.stdin.close()
        assert pids(lookup.quick(packet)) == [os.getpid()]


def test_a_child_with_the_connection_as_its_standard_input_is_named(lookup: OwnerLookup) -> None:
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex((V4, 443))
        packet = flow(6, sock.getsockname()[1])
        resolve(lookup, packet)
        with subprocess.Popen(["sleep", "60"], stdin=sock.fileno()) as child:
            try:
                assert pids(lookup.quick(packet)) == [child.pid, os.getpid()]
            finally:
                child.kill()


def test_a_socket_passed_to_a_stranger_names_both_in_a_scan(
    lookup: OwnerLookup, client: Client, tmp_path: Path
) -> None:
    path = str(tmp_path / "pass")
    get = "u = socket.socket(socket.AF_UNIX); u.bind({0!r}); u.listen(); say(0)\n"
    get += (
        "c, _ = u.accept(); fds = [os.dup(0) for _ in range(5)]; got = socket.recv_fds(c, 9, 1)\n"
    )
    get += "c.send(b'x'); wait()"
    receiver, _ = client(get.format(path))
    give = "s = tcp('10.9.0.2'); u = socket.socket(socket.AF_UNIX); u.connect({0!r})\n"
    give += "socket.send_fds(u, [b'x'], [s.fileno()]); u.recv(1); say(s.getsockname()[1]); wait()"
    sender, [port] = client(give.format(path))
    assert sorted(pids(lookup.scan(flow(6, port)))) == sorted([sender.pid, receiver.pid])


def test_a_thread_is_its_process(lookup: OwnerLookup, client: Client) -> None:
    code = "def work():\n global s\n s = tcp('10.9.0.2'); say(s.getsockname()[1]); time.sleep(60)\n"
    process, [port] = client(code + "threading.Thread(target=work, daemon=True).start(); wait()")
    assert pids(owner(lookup, flow(6, port))) == [process.pid]


def test_a_descriptor_of_one_thread_only_is_found_by_a_scan(
    lookup: OwnerLookup, client: Client
) -> None:
    code = "import ctypes\ndef work():\n assert ctypes.CDLL(None).unshare(0x400) == 0\n"
    code += " s = tcp('10.9.0.2'); say(s.getsockname()[1]); time.sleep(60)\n"
    process, [port] = client(code + "threading.Thread(target=work, daemon=True).start(); wait()")
    assert pids(lookup.scan(flow(6, port))) == [process.pid]


def test_a_process_with_many_descriptors_is_found(lookup: OwnerLookup, client: Client) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
    code += "s = tcp('10.9.0.2'); more = [os.dup(0) for _ in range(2000)]\n"
    process, [port] = client(code + "say(s.getsockname()[1]); wait()")
    assert pids(owner(lookup, flow(6, port))) == [process.pid]
    assert pids(lookup.quick(flow(6, port))) == [process.pid], "known now: without a scan"


def test_one_scan_tells_of_all_sockets_of_a_program_that_has_thousands(
    lookup: OwnerLookup, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or who opens thousands of connections at once makes everybody wait for a scan for each."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
    code += "all = [udp('10.9.0.2') for _ in range(3000)]\n"
    code += "say(*(s.getsockname()[1] for s in all))\n"
    process, ports = client(code + "wait()")
    scans, scan = list[int](), lookup._holders.scan

    def counted(inodes: Iterable[int]) -> Scan:
        scans.append(1)
        return scan(inodes)

    monkeypatch.setattr(lookup._holders, "scan", counted)
    assert pids(lookup.scan(flow(17, ports.pop(), dport=53))) == [process.pid]
    began = time.monotonic()
    while ports and time.monotonic() < began + 0.5:
        port = ports.pop()
        assert pids(lookup.quick(flow(17, port, dport=53))) == [process.pid]
        assert pids(lookup.scan(flow(17, port, dport=53))) == [process.pid]
    assert len(scans) == 1
    assert len(ports) < 2800, "it is quick, too"


def test_a_child_forked_after_a_scan_is_named_with_what_that_scan_saw(
    lookup: OwnerLookup, client: Client
) -> None:
    code = "one, two = tcp('10.9.0.2'), tcp('10.9.0.2')\n"
    code += "say(one.getsockname()[1], two.getsockname()[1])\n"
    code += "sys.stdin.readline()\npid = os.fork()\nif pid: say(pid)\nwait()"
    process, [one, two] = client(code)
    assert pids(lookup.scan(flow(6, one))) == [process.pid]
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    [child] = json.loads(process.stdout.readline())
    assert sorted(pids(resolve(lookup, flow(6, two)))) == sorted([process.pid, child])


def test_a_process_that_moved_to_another_namespace_still_owns(
    lookup: OwnerLookup, client: Client
) -> None:
    code = "import ctypes\ns = tcp('10.9.0.2'); assert ctypes.CDLL(None).unshare(0x40000000) == 0\n"
    process, [port] = client(code + "say(s.getsockname()[1]); wait()")
    assert pids(owner(lookup, flow(6, port))) == [process.pid]


def test_the_uid_is_the_sockets_not_the_processs(lookup: OwnerLookup, client: Client) -> None:
    process, [port] = client(
        "s = tcp('10.9.0.2'); os.setuid(65534); say(s.getsockname()[1]); wait()"
    )
    found = owner(lookup, flow(6, port))
    assert (pids(found), found.uid, found.processes[0].uid) == ([process.pid], 0, NOBODY)


def test_another_users_process_is_hidden_from_nobody(client: Client) -> None:
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex((V4, 443))
        code = f"""
sys.path[:0] = {[str(Path(__file__).parents[2]), *sys.path]!r}
from arbiter.kernel.owner import OwnerLookup
from arbiter.kernel.procevents import ProcEvents
from arbiter.kernel.procfs import ProcessTable
from arbiter.model import Flow, Packet
drop({NOBODY})
events = ProcEvents.open()
lookup = OwnerLookup(ProcessTable(), events=events)
own = tcp("10.9.0.2")
packets = [Packet(1, Flow(6, bytes((10, 9, 0, 1)), port, bytes((10, 9, 0, 2)), 443))
           for port in ({sock.getsockname()[1]}, own.getsockname()[1])]
other = lookup.scan(packets[0])
mine = lookup.scan(packets[1])
say(events is None, lookup.quick(packets[0]) is None, other.reason, other.uid,
    [p.pid for p in mine.processes])
wait()
"""
        process, said = client(code)
        assert said == [True, True, "not permitted to look", 0, [process.pid]]


# --- races ----------------------------------------------------------------------------------


class Table:
    """A process table that says what a test wants: one answer after the other, the last again."""

    def __init__(self, *answers: Process | None, start: int = 5) -> None:
        self.answers = list(answers)
        self.start = start

    def get(self, pid: int) -> Process | None:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def start_time(self, pid: int) -> int | None:
        return self.start


def facts(start: int = 5, exe: str = "/usr/bin/a") -> Process:
    real = ProcessTable()
    process = real.get(os.getpid())
    real.close()
    assert process is not None
    return structs.replace(process, start=start, exe=exe)


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.setblocking(False)
        made.connect_ex((V4, 443))
        yield made


@pytest.mark.parametrize(
    "table",
    [
        Table(None),
        Table(*(facts(start) for start in range(5, 11))),
        Table(*(facts(exe=f"/{name}") for name in "abcdef")),
    ],
    ids=["gone", "pid used again", "exec"],
)
def test_a_process_that_changes_under_the_look_up_is_never_named(
    table: Table, sock: socket.socket
) -> None:
    lookup = OwnerLookup(table)
    packet = flow(6, sock.getsockname()[1])
    try:
        lookup._holders.note(Holder(os.getpid(), sock.fileno(), 0), 0)
        assert lookup.quick(packet) is None
        found = lookup.scan(packet)
        assert reason(found) is NoOwnerReason.EXITED
        assert isinstance(found, NoOwner)
        assert (found.uid, found.user) == (0, "root")
    finally:
        lookup.close()


def test_a_process_that_settles_is_named_at_the_second_try(sock: socket.socket) -> None:
    lookup = OwnerLookup(Table(facts(4), facts(5)))
    try:
        found = lookup.scan(flow(6, sock.getsockname()[1]))
        assert isinstance(found, Owner)
        assert [process.start for process in found.processes] == [5]
    finally:
        lookup.close()


def test_a_socket_closed_while_its_process_is_read_names_nobody(sock: socket.socket) -> None:
    class Closing(Table):
        def get(self, pid: int) -> Process | None:
            sock.close()
            return super().get(pid)

    lookup = OwnerLookup(Closing(facts()))
    try:
        packet = flow(6, sock.getsockname()[1])
        assert reason(lookup.scan(packet)) is NoOwnerReason.EXITED
    finally:
        lookup.close()


def test_an_exec_between_two_look_ups_is_verified_anew(sock: socket.socket) -> None:
    table = Table(facts(exe="/a"))
    lookup = OwnerLookup(table)
    try:
        packet = flow(6, sock.getsockname()[1])
        assert isinstance(lookup.scan(packet), Owner)
        table.answers = [facts(exe="/b"), facts(exe="/c")]
        assert lookup.quick(packet) is None, "it changed while it was looked at"
        found = lookup.quick(packet)
        assert isinstance(found, Owner)
        assert found.processes[0].exe == "/c"
    finally:
        lookup.close()


@pytest.mark.parametrize(
    ("uid", "expected"), [(0, NoOwnerReason.KERNEL), (1000, NoOwnerReason.AMBIGUOUS)]
)
def test_a_socket_in_nobodys_descriptor_table_is_not_guessed_at(
    uid: int, expected: NoOwnerReason
) -> None:
    info = SocketInfo(2**32 - 2, uid, 2, bytes(4), 1, bytes(4), 2)
    lookup = OwnerLookup(ProcessTable(), find=lambda packet: Found((info,)))
    try:
        assert lookup.quick(flow(6, 1)) is None
        assert reason(lookup.scan(flow(6, 1))) is expected
    finally:
        lookup.close()


@pytest.mark.parametrize("uid", [0, 998])
@pytest.mark.parametrize("known", [True, False])
def test_a_tunnels_socket_is_the_kernels_whoever_set_the_tunnel_up(
    monkeypatch: pytest.MonkeyPatch, uid: int, known: bool
) -> None:
    """Its uid is that of systemd-networkd, say."""
    info = SocketInfo(2**32 - 2, uid, 7, bytes(4), 1, bytes(4), 0)
    lookup = OwnerLookup(ProcessTable(), find=lambda packet: Found((info,)))
    tunnels = (Tunnel(9, "wg0"),) if known else ()
    monkeypatch.setattr(Tunnels, "sending", lambda self, flow: tunnels)
    try:
        assert lookup.quick(flow(17, 1)) is None
        found = lookup.scan(flow(17, 1))
        assert isinstance(found, NoOwner)
        if known:
            assert (found.reason, found.uid, found.user) == (NoOwnerReason.KERNEL, 0, "root")
            assert found.tunnels == (9,)
        else:
            plain = NoOwnerReason.AMBIGUOUS if uid else NoOwnerReason.KERNEL
            assert (found.reason, found.uid, found.tunnels) == (plain, uid, ())
        raw = lookup.scan(flow(47, 0))
        assert isinstance(raw, NoOwner)
        assert raw.tunnels == (), "a socket that somebody has: no tunnel needs one"
    finally:
        lookup.close()


def test_a_socket_in_transit_has_no_holder_and_then_its_receiver(lookup: OwnerLookup) -> None:
    one, two = socket.socketpair()
    with one, two:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((V4, 443))
        packet = flow(6, sock.getsockname()[1])
        socket.send_fds(one, [b"x"], [sock.fileno()])
        sock.close()
        assert isinstance(resolve(lookup, packet), NoOwner)
        _, fds, _, _ = socket.recv_fds(two, 9, 1)
        assert pids(resolve(lookup, packet)) == [os.getpid()]
        os.close(fds[0])


def test_scans_run_beside_quick_look_ups(lookup: OwnerLookup, client: Client) -> None:
    process, [port] = client("s = tcp('10.9.0.2'); say(s.getsockname()[1]); wait()")
    packet, stop, seen = flow(6, port), threading.Event(), []

    def scanning() -> None:
        while not stop.is_set():
            seen.append(pids(lookup.scan(packet)))

    thread = threading.Thread(target=scanning)
    thread.start()
    try:
        lookup.scan(packet)
        for _ in range(500):
            assert pids(lookup.quick(packet)) == [process.pid]
    finally:
        stop.set()
        thread.join()
    assert seen
    assert all(one == [process.pid] for one in seen)


# --- process events -------------------------------------------------------------------------


@pytest.fixture
def events() -> Iterator[ProcEvents]:
    made = ProcEvents.open()
    if made is None:
        pytest.skip("this kernel delivers no process events here")
    yield made
    made.close()


def test_births_and_deaths_are_seen_from_another_network_namespace(events: ProcEvents) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert events.drain()
        assert child.pid in list(events.newest())
        assert events.parent(child.pid) == os.getpid()
        assert child.pid in events.children(os.getpid())
        assert events.complete(child.pid)
        assert not events.complete(os.getpid()), "older than our listening"
        assert child.stdin is not None
        child.stdin.close()
    assert events.drain()
    assert child.pid not in list(events.newest())
    assert child.pid in events.gone
    assert child.pid not in events.children(os.getpid())


def test_threads_are_not_processes(events: ProcEvents) -> None:
    thread = threading.Thread(target=time.sleep, args=(0.01,))
    thread.start()
    thread.join()
    events.drain()
    assert thread.native_id not in list(events.newest())
    assert thread.native_id not in events.gone


def test_an_overrun_is_told_and_everything_known_forgotten(
    events: ProcEvents, client: Client
) -> None:
    subprocess.run(["true"], check=True)
    assert events.drain()
    client(
        "for _ in range(400):\n pid = os.fork()\n if not pid: os._exit(0)\n"
        " os.waitpid(pid, 0)\nsay(0)"
    )
    assert not events.drain()
    assert events.overruns == 1
    assert list(events.newest()) == []
    with subprocess.Popen(["sleep", "9"]) as child:
        assert events.drain(), "and then it goes on"
        assert child.pid in list(events.newest())
        child.kill()


def test_what_is_known_is_bounded_and_says_when_it_is_not_whole() -> None:
    events = ProcEvents()
    events.adopt(2, [])
    assert events.complete(2)
    for child in range(3, 9000):
        events.forked(2, child)
    assert len(events._parent) <= 8192
    assert len(list(events.newest())) == 256
    assert not events.complete(2), "its first children were forgotten"


def test_relatives_are_known_past_an_exited_parent() -> None:
    events = ProcEvents()
    events.forked(1, 10)
    for child in (11, 12):
        events.forked(10, child)
    events.exited(10)
    assert sorted(events.elders(11)) == [1, 11, 12]
    assert sorted(events.children(1)) == [11, 12]
    for child in (11, 12):
        events.exited(child)
    assert (events.children(1), events.elders(11)) == ([], [])


@given(
    st.lists(
        st.tuples(st.sampled_from(["forked", "exited"]), st.integers(1, 6), st.integers(1, 6)),
        max_size=60,
    )
)
def test_any_order_of_events_keeps_the_tree_whole(steps: list[tuple[str, int, int]]) -> None:
    events = ProcEvents()
    for what, one, two in steps:
        if what == "exited":
            events.exited(one)
        elif one != two:
            events.forked(one, two)
    for pid in range(1, 7):
        children = events.children(pid)
        assert len(children) == len(set(children))
        assert all(child not in events._dead for child in children)
        assert len(events.elders(pid)) < 50
        for child in events._children.get(pid, ()):
            assert events._parent[child] == pid
    assert set(events.newest()).isdisjoint(events._dead)


@given(st.binary(max_size=120))
def test_any_bytes_are_no_process_event(data: bytes) -> None:
    events = ProcEvents()
    events.feed(data)
    assert len(list(events.newest())) <= 1


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
