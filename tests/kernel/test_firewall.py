"""The rules at work: two network namespaces, a veth pair, echo servers, a queue consumer.

Every test runs for every backend the kernel has, and says which one it lacks. Nothing is ever
put into the namespace the tests were started in.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec import structs

from arbiter.kernel import doctor
from arbiter.kernel.firewall import (
    apply,
    installed,
    look,
    overlaps,
    probe,
    remove,
    shown,
    whole,
)
from arbiter.kernel.firewall.plan import Plan
from arbiter.kernel.firewall.probe import IPTABLES, NFT, Backend, FirewallError

netfilterqueue = pytest.importorskip("netfilterqueue")
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

QUEUE = 7
PORT = 7000
DECIDED, DENIED = 0x20000000, 0x60000000
V4, V6 = ("10.77.0.2", "fd77::2")
NS = f"fwt{os.getpid()}"
SO_MARK = 36
IP_RECVERR, IPV6_RECVERR = 11, 25
ECHO = f"""
import selectors, socket
s = selectors.DefaultSelector()
for family, kind in ((2, 1), (2, 2), (10, 1), (10, 2)):
    k = socket.socket(family, kind)
    k.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == 10:
        k.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    k.bind(("::" if family == 10 else "0.0.0.0", {PORT}))
    if kind == 1:
        k.listen(64)
    s.register(k, 1, kind)
print("ready", flush=True)
while True:
    for key, _ in s.select():
        k = key.fileobj
        if key.data == 1:
            s.register(k.accept()[0], 1, 3)
        elif key.data == 2:
            k.sendto(*k.recvfrom(2000))
        else:
            try:
                data = k.recv(2000)
            except ConnectionError:
                data = b""
            if data:
                k.sendall(data)
            else:
                s.unregister(k)
                k.close()
"""


def sh(*argv: str, text: str | None = None) -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def add(tool: str, rule: str) -> None:
    sh(tool, *rule.split())


def enter(path: str) -> None:
    """This thread, and what it starts, goes into a network namespace (setns(2))."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000):
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def peer() -> Iterator[None]:
    """The peer namespace with its servers, for all tests of this module."""
    sh("ip", "netns", "add", f"{NS}b")
    server = subprocess.Popen(
        ["ip", "netns", "exec", f"{NS}b", "python3", "-c", ECHO], stdout=subprocess.PIPE
    )
    try:
        sh("ip", "-n", f"{NS}b", "link", "set", "lo", "up")
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        yield
    finally:
        server.kill()
        server.communicate()
        sh("ip", "netns", "del", f"{NS}b")


@pytest.fixture
def home() -> Iterator[None]:
    """A fresh namespace without any ruleset, and this process in it."""
    os_ns = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
    back = os.open(os_ns, os.O_RDONLY | os.O_CLOEXEC)
    sh("ip", "netns", "add", f"{NS}a")
    try:
        sh("ip", "-n", f"{NS}a", "link", "set", "lo", "up")
        enter(f"/run/netns/{NS}a")
        yield
    finally:
        enter(f"/proc/self/fd/{back}")
        os.close(back)
        sh("ip", "netns", "del", f"{NS}a")


@pytest.fixture
def wire(home: None, peer: None) -> Iterator[None]:
    """10.77.0.1, fd77::1 here; .2 and ::2 at the peer."""
    sh("ip", "link", "add", "fwv0", "type", "veth", "peer", "fwv1", "netns", f"{NS}b")
    for ns, device, last in ((f"{NS}a", "fwv0", 1), (f"{NS}b", "fwv1", 2)):
        sh("ip", "-n", ns, "addr", "add", f"10.77.0.{last}/24", "dev", device)
        sh("ip", "-n", ns, "addr", "add", f"fd77::{last}/64", "dev", device, "nodad")
        sh("ip", "-n", ns, "link", "set", device, "up")
    deadline = time.monotonic() + 10
    while "tentative" in sh("ip", "-6", "addr", "show", "dev", "fwv0"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield
    sh("ip", "link", "del", "fwv0")  # deleting the namespace would do it some time later


_lacking: dict[str, str | None] = {}


@pytest.fixture(params=[NFT, *IPTABLES], ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest, home: None) -> Backend:
    chosen: Backend = request.param
    if chosen.name not in _lacking:
        _lacking[chosen.name] = probe.why_not(chosen)
    if reason := _lacking[chosen.name]:
        pytest.skip(f"this kernel or machine lacks {chosen.name}: {reason}")
    return chosen


@dataclass
class Consumer:
    """Answers every queued packet with `bits` and keeps what came."""

    bits: int = DECIDED
    seen: list[tuple[bytes, int]] = field(default_factory=list)

    def flows(self) -> list[str]:
        """Protocol number and destination of each queued packet, in order."""
        out = []
        for data, _ in self.seen:
            if data[0] >> 4 == 4:
                out.append(f"{data[9]} {socket.inet_ntop(socket.AF_INET, data[16:20])}")
            else:
                out.append(f"{data[6]} {socket.inet_ntop(socket.AF_INET6, data[24:40])}")
        return out


@contextmanager
def consuming(bits: int = DECIDED) -> Iterator[Consumer]:
    consumer = Consumer(bits)
    queue = netfilterqueue.NetfilterQueue()

    def callback(packet: Any) -> None:
        consumer.seen.append((packet.get_payload(), packet.get_mark()))
        packet.set_mark(packet.get_mark() | consumer.bits)
        packet.accept()

    queue.bind(QUEUE, callback)
    wake, stop = os.pipe()

    def loop() -> None:
        while wake not in select.select([queue.get_fd(), wake], [], [])[0]:
            queue.run(block=False)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield consumer
    finally:
        os.close(stop)
        thread.join()
        queue.unbind()
        os.close(wake)


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp(address: str, mark: int = 0, seconds: float = 3.0) -> socket.socket:
    sock = socket.socket(family_of(address), socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        sock.connect((address, PORT))
    except OSError:
        sock.close()
        raise
    return sock


def udp(address: str, mark: int = 0) -> socket.socket:
    sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
    sock.settimeout(3)
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
    sock.connect((address, PORT))
    return sock


def echo(sock: socket.socket, data: bytes = b"hello") -> None:
    sock.send(data)
    assert sock.recv(2000) == data


def ping(address: str) -> socket.socket:
    """A raw socket that has just sent an echo request (RFC 792, RFC 4443)."""
    v6 = ":" in address
    proto = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
    sock = socket.socket(family_of(address), socket.SOCK_RAW, proto)
    sock.settimeout(3)
    if v6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    sock.connect((address, 0))
    body = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 77, 1)
    if not v6:
        body = body[:2] + struct.pack("!H", 0xFFFF & ~(0x0800 + 77 + 1)) + body[4:]
    sock.send(body)
    return sock


def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def rulesets() -> tuple[str, ...]:
    """All rules of this namespace as the tools print them, without counters, dates, handles."""
    texts = [sh("nft", "list", "ruleset"), sh("iptables-nft-save"), sh("ip6tables-nft-save")]
    texts += [probe.save("ip", "legacy"), probe.save("ip6", "legacy")]
    texts = [re.sub(r"packets \d+ bytes \d+|\[\d+:\d+\]", "", text) for text in texts]
    return tuple(re.sub(r"^#.*\n", "", text, flags=re.MULTILINE) for text in texts)


def drop_empty_tables(saved: str) -> str:
    """Without tables of nothing but empty ACCEPT chains: what legacy can never delete."""
    return re.sub(r"\*\w+\n(?::\w+ ACCEPT *\n)*COMMIT\n", "", saved)


def counted(tool: str, comment: str) -> int:
    """Packets counted by the user's rule with that comment."""
    for line in sh(f"{tool}-save", "-c").splitlines():
        if f"--comment {comment}" in line:
            return int(line[1:].split(":")[0])
    raise AssertionError(f"no rule {comment} in {tool}-save")


PLAN = Plan(queue=QUEUE)
both = pytest.mark.parametrize("address", [V4, V6])


# --- queueing --------------------------------------------------------------------------------


@both
def test_a_connection_costs_user_space_one_packet(
    backend: Backend, wire: None, address: str
) -> None:
    apply(PLAN, backend)
    with consuming() as consumer, closing(tcp(address)) as a, closing(udp(address)) as b:
        for _ in range(5):
            echo(a)
            echo(b)
        ping(address).close()
        until(lambda: len(consumer.seen) >= 3)
    icmp = 58 if ":" in address else 1
    assert consumer.flows() == [f"{proto} {address}" for proto in (6, 17, icmp)]
    assert {mark for _, mark in consumer.seen} == {0}


@both
def test_udp_without_a_reply_is_queued_once(backend: Backend, wire: None, address: str) -> None:
    apply(PLAN, backend)
    sh("ip", "netns", "exec", f"{NS}b", "nft", "-f", "-", text=SILENT)
    try:
        with consuming() as consumer, closing(udp(address)) as sock:
            for _ in range(5):
                sock.send(b"x")
                time.sleep(0.02)
            assert len(consumer.seen) == 1
    finally:
        sh("ip", "netns", "exec", f"{NS}b", "nft", "delete", "table", "inet", "silent")


SILENT = (
    "table inet silent { chain c { type filter hook input priority 0; udp dport 7000 drop; }\n}"
)


def say(address: str, sport: int, dport: int) -> None:
    """One datagram, from `sport` if not 0."""
    with closing(socket.socket(family_of(address), socket.SOCK_DGRAM)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if address not in ("127.0.0.1", "::1", "10.77.0.1", "fd77::1"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"fwv0")
        sock.bind(("", sport))
        sock.sendto(b"x", (address, dport))


def test_loopback_non_unicast_link_local_and_dhcp_are_not_queued(
    backend: Backend, wire: None
) -> None:
    apply(PLAN, backend)
    links = json.loads(sh("ip", "-n", f"{NS}b", "-j", "-6", "addr", "show", "dev", "fwv1"))
    found = [info["local"] for link in links for info in link.get("addr_info", [])]
    link_local = next(address for address in found if address.startswith("fe80"))
    sh("ip", "-6", "neigh", "flush", "dev", "fwv0")  # so that there is discovery to see
    with consuming() as consumer:
        for address in ("127.0.0.1", "10.77.0.1", "224.0.0.251", "10.77.0.255", "::1", "fd77::1"):
            say(address, 0, 5353)
        for address in ("ff02::fb", link_local):
            say(address, 0, 5353)
        say("255.255.255.255", 68, 67)
        say(V4, 68, 67)  # a renewal is unicast
        say(V6, 546, 547)
        with closing(tcp(V6)) as a, closing(tcp(V4)) as b:  # what must be queued still is
            echo(a)
            echo(b)
        say(V4, 67, 68)  # nor is anything let by that only looks like DHCP
        until(lambda: len(consumer.seen) == 3)
    assert consumer.flows() == [f"6 {V6}", f"6 {V4}", f"17 {V4}"]


@both
def test_packets_with_a_foreign_mark_are_neither_queued_nor_changed(
    backend: Backend, wire: None, address: str
) -> None:
    tool = "ip6tables-nft" if ":" in address else "iptables-nft"
    rule = "-t mangle -A POSTROUTING -m mark --mark 0xca6c/0xffffffff -m comment --comment x"
    add(tool, rule)
    apply(PLAN, backend)
    with consuming() as consumer, closing(tcp(address, mark=0xCA6C)) as sock:
        echo(sock)
        assert consumer.seen == []
    assert counted(tool, "x") >= 3


@both
def test_foreign_bits_survive_in_packet_and_connection_marks(
    backend: Backend, wire: None, address: str
) -> None:
    tool = "ip6tables-nft" if ":" in address else "iptables-nft"
    for rule in (
        "-t nat -A POSTROUTING -j CONNMARK --set-xmark 0x80004000/0x80004000",
        "-t mangle -A POSTROUTING -j MARK --set-xmark 0x80000/0xff0000",
        "-t nat -A POSTROUTING -m mark --mark 0x20080000/0xffffffff -m comment --comment first",
        "-A INPUT -m connmark --mark 0xa0004000/0xffffffff -m comment --comment reply",
    ):
        add(tool, rule)
    apply(PLAN, backend)
    with consuming() as consumer, closing(tcp(address)) as sock:
        for _ in range(3):
            echo(sock)
        assert len(consumer.seen) == 1
    assert counted(tool, "first") == 1
    assert counted(tool, "reply") >= 3


def test_untracked_packets_are_asked_about_tcp_at_its_syn(backend: Backend, wire: None) -> None:
    for rule in ("-t raw -A OUTPUT -j CT --notrack", "-t raw -A PREROUTING -j CT --notrack"):
        add("iptables-nft", rule)
    apply(PLAN, backend)
    with consuming() as consumer:
        with closing(tcp(V4)) as a, closing(udp(V4)) as b:
            for _ in range(3):
                echo(a)
                echo(b)
        assert sorted(consumer.flows()) == [f"17 {V4}"] * 3 + [f"6 {V4}"]
        consumer.bits = DENIED
        with pytest.raises(ConnectionRefusedError):
            tcp(V4).close()
        with closing(udp(V4)) as sock, pytest.raises(OSError, match="No route to host"):
            echo(sock)


# --- denying ---------------------------------------------------------------------------------


def expect_denied(address: str) -> None:
    """TCP, UDP and ICMP are told at once, and nothing gets through."""
    started = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        tcp(address).close()
    expected = errno.EACCES if ":" in address else errno.EHOSTUNREACH
    with closing(udp(address)) as sock:
        sock.send(b"x")
        with pytest.raises(OSError) as raised:
            sock.recv(10)
        assert raised.value.errno == expected
    with closing(ping(address)) as sock:
        with pytest.raises(OSError) as raised:
            sock.recv(100)
        assert raised.value.errno == expected
    assert time.monotonic() - started < 2


@both
def test_denied_connections_of_every_protocol_fail_at_once(
    backend: Backend, wire: None, address: str
) -> None:
    apply(PLAN, backend)
    with consuming(DENIED):
        expect_denied(address)


@both
def test_a_users_accept_in_front_does_not_let_denied_packets_by(
    backend: Backend, wire: None, address: str
) -> None:
    tool = "ip6tables-nft" if ":" in address else "iptables-nft"
    for table in ("raw", "mangle", "filter", "security"):
        sh(tool, "-t", table, "-A", "OUTPUT", "-j", "ACCEPT")
    sh("nft", "-f", "-", text=ACCEPT_FIRST)
    apply(PLAN, backend)
    with consuming(DENIED):
        expect_denied(address)


ACCEPT_FIRST = """table inet user { chain c { type filter hook output priority -400; accept; }
 chain d { type filter hook output priority -1; accept; }
 chain e { type filter hook postrouting priority -400; accept; }
}
"""


@both
def test_an_accept_put_in_front_later_still_meets_the_last_line(
    backend: Backend, wire: None, address: str
) -> None:
    apply(PLAN, backend)
    tool = "ip6tables-nft" if ":" in address else "iptables-nft"
    if backend.variant == "legacy":
        tool = tool.replace("nft", "legacy")
    sh(tool, "-I", "OUTPUT", "1", "-o", "fwv0", "-j", "ACCEPT")
    if backend == NFT:  # the same attack on the nft form: the chain that rejects is emptied
        sh("nft", "flush", "chain", "inet", "arbiter", "deny")
    with consuming(DENIED) as consumer:
        with pytest.raises(TimeoutError):
            tcp(address, seconds=0.7).close()
        with closing(udp(address)) as sock:
            sock.settimeout(0.3)
            sock.send(b"x")
            with pytest.raises(TimeoutError):
                sock.recv(10)
        assert len(consumer.seen) >= 2
    assert [text for text in installed().problems if "front" in text or "deny" in text]


@both
def test_a_running_connection_is_cut_by_its_connection_mark(
    backend: Backend, wire: None, address: str
) -> None:
    """A link that left the plan: settled connections on it are refused, not sent elsewhere."""
    apply(Plan(queue=QUEUE, links=((5, "fwv0"),)), backend)
    with consuming(0x25000000) as consumer, closing(tcp(address)) as sock:
        echo(sock)
        apply(PLAN, backend)
        with pytest.raises(ConnectionResetError):
            for _ in range(3):
                echo(sock)
        assert len(consumer.seen) == 1


@both
def test_a_denied_connection_is_cut_whatever_mark_its_packets_carry(
    backend: Backend, wire: None, address: str
) -> None:
    """The connection mark denies where the packet's own mark is somebody else's word."""
    tool = "ip6tables-nft" if ":" in address else "iptables-nft"
    add(tool, "-A INPUT -p tcp -j CONNMARK --set-xmark 0x60000000/0x7f000000")
    apply(PLAN, backend)
    started = time.monotonic()
    with pytest.raises(ConnectionError), closing(tcp(address, mark=0xCA6C)) as sock:
        for _ in range(3):
            echo(sock)
    assert time.monotonic() - started < 2


# --- links -----------------------------------------------------------------------------------


@both
def test_a_link_s_mark_is_restored_on_replies_and_its_source_is_masqueraded(
    backend: Backend, wire: None, address: str
) -> None:
    tool = "ip6tables-nft" if ":" in address else "iptables-nft"
    add(tool, "-A INPUT -m mark --mark 0x23000000 -m comment --comment reply")
    add(tool, "-A OUTPUT -m mark --mark 0x23000000 -m comment --comment out")
    other = "fd77::9/64" if ":" in address else "10.78.0.9/24"
    sh("ip", "addr", "add", other, "dev", "lo")
    apply(Plan(queue=QUEUE, links=((3, "fwv0"),), tunnels=("wg9",)), backend)
    with consuming(0x23000000), closing(socket.socket(family_of(address))) as sock:
        sock.settimeout(3)
        sock.bind((other.split("/")[0], 0))  # the peer has no way back to it: only by NAT
        sock.connect((address, PORT))
        echo(sock)
    assert counted(tool, "reply") >= 2
    assert counted(tool, "out") >= 2


@both
def test_a_tunnel_s_decapsulated_packets_lose_our_bits_only(
    backend: Backend, wire: None, address: str
) -> None:
    tool = "ip6tables-nft" if ":" in address else "iptables-nft"
    # Before our prerouting: stands for a mark inherited from the outer packet.
    add(tool, "-t raw -A PREROUTING -i fwv0 -j MARK --set-xmark 0x21000040")
    add(tool, "-A INPUT -m mark --mark 0x40/0xffffffff -m comment --comment clean")
    apply(Plan(queue=QUEUE, tunnels=("fwv0",)), backend)
    with consuming(), closing(tcp(address)) as sock:
        echo(sock)
    assert counted(tool, "clean") >= 2


@both
def test_what_enters_a_tunnel_keeps_its_connection_s_mark_and_gives_no_bit_to_the_outer_packet(
    backend: Backend, wire: None, address: str
) -> None:
    """ipip, gre and sit send the outer packet with the inner one's mark: it would be saved as the
    outer connection's, and route the tunnel into itself."""
    tool = "ip6tables-nft" if ":" in address else "iptables-nft"
    add(tool, "-A OUTPUT -o fwv0 -j MARK --set-xmark 0x40/0x40")
    # The last look before the device: after every table that may ask for our bits.
    sh("nft", "-f", "-", text=LAST_LOOK)
    apply(Plan(queue=QUEUE, links=((3, "fwv0"),), tunnels=("fwv0",)), backend)
    with consuming(0x23000000) as consumer, closing(tcp(address)) as sock:
        for _ in range(3):
            echo(sock)
        assert len(consumer.seen) == 1, "its decision was saved all the same"
    bare, marked = (
        int(found)
        for found in re.findall(r"packets (\d+)", sh("nft", "list", "table", "inet", "look"))
    )
    assert bare >= 5
    assert marked == 0


LAST_LOOK = """table inet look { chain c { type filter hook postrouting priority 400;
 oifname "fwv0" meta l4proto tcp meta mark 0x40 counter
 oifname "fwv0" meta l4proto tcp meta mark != 0x40 counter
}
}
"""


# --- nobody listens --------------------------------------------------------------------------


@both
def test_without_a_listener_pass_passes_and_block_drops(
    backend: Backend, wire: None, address: str
) -> None:
    apply(Plan(queue=QUEUE, when_absent="pass"), backend)
    with closing(tcp(address)) as sock:
        echo(sock)
    apply(PLAN, backend)
    with pytest.raises(TimeoutError):
        tcp(address, seconds=0.7).close()
    assert remove() == ()
    with closing(tcp(address)) as sock:
        echo(sock)


# --- applying and removing -------------------------------------------------------------------

LINKED = Plan(queue=QUEUE, links=((1, "wlan0"), (31, "wwan0")), tunnels=("wg0",))
USERS = {
    "nothing": (),
    "some chains": (
        "iptables-nft -t mangle -A PREROUTING -j ACCEPT",
        "iptables-nft -A OUTPUT -p tcp -j ACCEPT",
        "ip6tables-nft -A INPUT -m comment --comment ARBITER_OUTPUT -j ACCEPT",
    ),
    "empty chains": (
        "iptables-nft -A OUTPUT -j ACCEPT",
        "iptables-nft -D OUTPUT -j ACCEPT",
        "ip6tables-nft -t mangle -N MINE",
        "ip6tables-nft -P OUTPUT DROP",
        "nft add table inet mine",
    ),
}


@pytest.mark.parametrize("users", USERS)
@pytest.mark.parametrize("plan", [PLAN, LINKED], ids=["plain", "links"])
def test_applying_twice_is_applying_once_and_removing_leaves_what_was_before(
    backend: Backend, plan: Plan, users: str
) -> None:
    for line in USERS[users]:
        sh(*line.split())
    before = rulesets()
    apply(plan, backend)
    once = rulesets()
    assert installed().backends == (backend.name,) and installed().problems == ()
    apply(plan, backend)
    assert rulesets() == once != before
    assert remove() == ()
    assert not installed()
    after = rulesets()
    if backend.variant == "legacy":
        assert [drop_empty_tables(t) for t in after] == [drop_empty_tables(t) for t in before]
    else:
        assert after == before
    assert remove() == ()  # again, with nothing there
    assert rulesets() == after


def test_a_plan_replaces_another_completely(backend: Backend) -> None:
    apply(PLAN, backend)
    plain = rulesets()
    apply(LINKED, backend)
    apply(PLAN, backend)
    stripped = [
        re.sub(r"^:ARBITER_MADE.*\n", "", drop_empty_tables(t), flags=re.M) for t in rulesets()
    ]
    assert stripped[3:] == [drop_empty_tables(t) for t in plain][3:]
    assert not re.search("wlan0|wwan0|wg0", "".join(stripped))
    assert remove() == ()


@both
def test_what_is_held_survives_other_links(backend: Backend, wire: None, address: str) -> None:
    """Each change of links makes a ruleset: one that comes is not paid for by whoever is asked."""
    apply(PLAN, backend)
    held: list[Any] = []
    queue = netfilterqueue.NetfilterQueue()

    def hold(packet: Any) -> None:
        packet.retain()
        held.append(packet)

    queue.bind(QUEUE, hold)
    try:
        with closing(udp(address)) as sock:
            sock.send(b"once")
            select.select([queue.get_fd()], [], [], 5)
            queue.run(block=False)
            for plan in (LINKED, PLAN, LINKED):
                apply(plan, backend)
            (packet,) = held
            packet.set_mark(DECIDED)
            packet.accept()
            assert sock.recv(100) == b"once"
    finally:
        queue.unbind()


def test_users_rules_added_meanwhile_survive_removal(backend: Backend) -> None:
    apply(PLAN, backend)
    sh("iptables-nft", "-t", "mangle", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT")
    sh("ip6tables-nft", "-P", "OUTPUT", "DROP")
    assert remove() == ()
    assert "-A OUTPUT -p udp -j ACCEPT" in sh("iptables-nft-save")
    assert ":OUTPUT DROP" in sh("ip6tables-nft-save")


def test_removal_finds_every_backend_s_leftovers_and_applying_leaves_one(backend: Backend) -> None:
    works = [one for one in (NFT, *IPTABLES) if not _lacking.get(one.name, "unknown")]
    for one in works:
        if one == NFT:
            sh("nft", "-f", "-", text="table inet arbiter { chain output { accept; }\n}")
        else:
            tool = probe.tool("ip6", "nft" if one.variant == "nft" else "legacy")
            assert tool is not None
            sh(tool, "-t", "mangle", "-N", "ARBITER_OUTPUT")
            sh(tool, "-t", "mangle", "-A", "OUTPUT", "-j", "ARBITER_OUTPUT")
    assert installed().backends == tuple(one.name for one in works)
    apply(PLAN, backend)
    assert installed().backends == (backend.name,)
    assert remove() == ()
    assert not re.search("arbiter", "".join(rulesets()), re.IGNORECASE)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_failing_second_family_brings_the_first_back(
    backend: Backend, earlier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == NFT:
        pytest.skip("nft has both families in one transaction: there is no second")
    if earlier:
        apply(LINKED, backend)
    before = rulesets()
    restore = probe.restore
    failed: list[str] = []

    def failing(family: str, variant: str, text: str) -> None:
        if family == "ip6" and not failed:
            failed.append(text)
            text = text.replace("-j NFQUEUE", "-j NO_SUCH_TARGET")
        restore("ip6" if family == "ip6" else "ip", "nft" if variant == "nft" else "legacy", text)

    monkeypatch.setattr(probe, "restore", failing)
    with pytest.raises(FirewallError, match=r"not in force.*ip6tables"):
        apply(PLAN, backend)
    assert failed
    now = rulesets()
    # nft lists chains in the order of their making; iptables-save compares what they say.
    start = 1 if earlier else 0
    assert [drop_empty_tables(t) for t in now[start:]] == [
        drop_empty_tables(t) for t in before[start:]
    ]
    assert installed().backends == ((backend.name,) if earlier else ())
    assert remove() == ()


def test_a_ruleset_the_kernel_refuses_changes_nothing(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rulesets()
    module = "nft" if backend == NFT else "iptables"
    monkeypatch.setattr(f"arbiter.kernel.firewall.{module}.render", lambda *_: "*nonsense\nx\n")
    with pytest.raises(FirewallError, match="failed"):
        apply(PLAN, backend)
    assert [drop_empty_tables(t) for t in rulesets()] == [drop_empty_tables(t) for t in before]


def test_probing_leaves_no_trace(backend: Backend) -> None:
    assert probe.why_not(backend) is None
    texts = rulesets()
    assert texts[0] == "" and not any(drop_empty_tables(t) for t in texts[1:])
    assert probe.probe_backend(backend.name) == backend


def test_without_tools_the_error_names_the_package(
    home: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "find_tool", lambda name: None)
    with pytest.raises(FirewallError, match="apt install nftables") as raised:
        probe.probe_backend()
    assert "apt install iptables" in str(raised.value)


# --- looking ---------------------------------------------------------------------------------


def test_overlaps_are_found_in_the_kernel_s_own_words(home: None) -> None:
    assert overlaps(PLAN, *look()) == ()
    sh("ip", "rule", "add", "fwmark", "0x80000/0xff0000", "lookup", "52")
    sh("ip", "rule", "add", "not", "fwmark", "0xca6c", "lookup", "51820")
    sh("ip6tables-nft", "-A", "OUTPUT", "-m", "mark", "--mark", "0x4000/0x4000")
    assert overlaps(PLAN, *look()) == ()
    sh("ip", "-6", "rule", "add", "not", "fwmark", "0x6d6f6c65", "lookup", "9")
    sh("ip6tables-nft", "-A", "OUTPUT", "-j", "CONNMARK", "--restore-mark", "--mask", "0xff000000")
    sh("nft", "-f", "-", text=THEIRS)
    where = {one.where.split()[0] for one in overlaps(PLAN, *look())}
    assert where == {"ip", "iptables", "nft"}
    (message,) = (one.text for one in overlaps(PLAN, *look()) if "6d6f6c65" in one.text)
    assert "0x6d000000" in message


THEIRS = """table inet theirs { chain c { type filter hook output priority 0;
 meta mark & 0x40000000 == 0x40000000 ct mark set ct mark & 0xfeffffff | 0x01000000
}
}
"""


def test_our_own_rules_are_no_overlap(backend: Backend) -> None:
    apply(LINKED, backend)
    assert overlaps(LINKED, *look()) == ()
    assert remove() == ()


def test_doctor_has_the_kernel_load_what_a_start_would_load(
    home: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where nobody used a queue since it was started the module is not there yet."""
    asked: list[bool] = []
    load = doctor._load_queues

    def loading() -> None:
        load()
        asked.append(True)

    monkeypatch.setattr(doctor, "_QUEUES", MissingAtFirst(lambda: bool(asked)))
    monkeypatch.setattr(doctor, "_load_queues", loading)
    (check,) = (c for c in doctor.examine(PLAN) if c.name == "packet queue")
    assert (str(check.level), asked) == ("ok", [True])
    (again,) = (c for c in doctor.examine(PLAN) if c.name == "packet queue")
    assert (again.level, asked) == (check.level, [True])


@dataclass
class MissingAtFirst:
    """A file that is there once `loaded` says so."""

    loaded: Callable[[], bool]

    def exists(self) -> bool:
        return self.loaded()

    def read_text(self, _: str) -> str:
        if not self.loaded():
            raise FileNotFoundError(2, "No such file or directory")
        return ""


def test_doctor_finds_this_machine_fit_and_names_what_is_not(backend: Backend, wire: None) -> None:
    checks = {check.name: check for check in doctor.examine(PLAN)}
    assert [c.name for c in checks.values() if c.level == "fail"] == []
    with consuming():
        checks = {check.name: check for check in doctor.examine(PLAN)}
        assert checks["packet queue"].level == "warn" and "listener" in checks["packet queue"].text
        apply(PLAN, backend)
        sh("nft", "-f", "-", text=THEIRS.replace("meta", "notrack; meta", 1))
        checks = {check.name: check for check in doctor.examine(PLAN)}
        levels = {name: str(check.level) for name, check in checks.items()}
        assert levels["packet queue"] == "ok" and "arbiter itself" in checks["packet queue"].text
        assert levels["marks"] == "fail" and "mark_base" in checks["marks"].text
        assert levels["notrack"] == "warn" and levels["in force"] == "ok"
    assert remove() == ()


@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        Plan(links=((1, "wlan0"), (7, "wwan0")), tunnels=("wg0",), dns_queue=11),
        Plan(when_absent="pass", mask=0x7F << 9, tunnels=("wg0", "tun0")),
    ],
)
def test_what_is_shown_after_apply_is_whole_and_any_change_of_it_is_seen(
    backend: Backend, plan: Plan
) -> None:
    """Or the daemon would put back what is there, again and again, or never."""
    assert not shown(backend)
    apply(plan, backend)
    there = shown(backend)
    assert whole(plan, backend, there)
    assert not whole(structs.replace(plan, links=((2, "eth0"),)), backend, there)
    apply(plan, backend)
    assert shown(backend) == there
    if backend.variant:
        sh(f"iptables-{backend.variant}", "-t", "mangle", "-D", "ARBITER_OUTPUT", "2")
    else:
        sh("nft", "flush", "chain", "inet", "arbiter", "ask")
    changed = shown(backend)
    assert changed != there
    assert not whole(plan, backend, changed)
    apply(plan, backend)
    assert shown(backend) == there
    if backend.variant:  # somebody in front of us
        sh(f"ip6tables-{backend.variant}", "-t", "mangle", "-I", "OUTPUT", "-j", "ACCEPT")
        assert not whole(plan, backend, shown(backend))
        apply(plan, backend)
        assert shown(backend) == there
    assert remove() == ()
    assert not shown(backend)
