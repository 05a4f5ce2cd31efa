"""Names from DNS answers, on the real kernel: known before the connection, only if asked for."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from arbiter.dnswire import Answers
from arbiter.kernel import firewall
from arbiter.kernel.dnsqueue import NOT_ASKED, DnsQueue
from arbiter.kernel.firewall import Backend, FirewallError, Plan
from arbiter.kernel.queue import BoundQueue, Queue
from arbiter.lab import Lab
from arbiter.lab.config import DNS4, DNS6, SECOND4, SECOND6, SERVER4, SERVER6
from arbiter.model import ACCEPTED, Packet, Undecodable
from arbiter.names import NameCache

PLAN = Plan(queue=5, when_absent="pass", dns_queue=6)


def packed(address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address)


QUERY = b"\0\1\1\0\0\1\0\0\0\0\0\0\3www\3lab\4test\0\0\1\0\1"
"""www.lab.test, A."""
RESOLVERS = frozenset(map(packed, (DNS4, DNS6, "127.0.0.1", "::1")))


@pytest.fixture(scope="module")
def backend() -> Backend:
    try:
        return firewall.probe_backend("auto")
    except FirewallError as error:
        pytest.skip(f"KERNEL TEST NOT RUN: {error}")


@pytest.fixture
def ruled(clean_lab: Lab, backend: Backend) -> Lab:
    """A lab whose host has the plan's rules, and nobody who listens."""
    clean_lab.inside(lambda: firewall.apply(PLAN, backend))
    return clean_lab


class Watcher:
    """Both queues of the lab's host, read by a thread. `asked` has (address, the names known for
    it when its first packet was to be decided)."""

    def __init__(self, lab: Lab) -> None:
        self.names = NameCache()
        self.asked: list[tuple[bytes, tuple[str, ...]]] = []
        self.heard: list[Answers] = []
        self.dns = lab.inside(lambda: DnsQueue(6, RESOLVERS.__contains__, self._learn))
        self.queue = lab.inside(lambda: Queue(5, self._packet, length=1024, fail_open=False))
        self._stop, self._stopper = os.pipe()
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def _learn(self, found: Answers) -> None:
        self.heard.append(found)
        now = time.monotonic()
        self.names.learn(found.name, found.addresses, found.ttl, now, found.targets)

    def _packet(self, packet: Packet | Undecodable) -> None:
        assert isinstance(packet, Packet)
        if packet.flow.dport != 53:
            address = packet.flow.daddr
            self.asked.append((address, self.names.names_of(address, time.monotonic())))
        self.queue.set_verdict(packet.id, ACCEPTED)

    def _loop(self) -> None:
        readers = (self.dns, self.queue)
        watched: list[BoundQueue | int] = [*readers, self._stop]
        while True:
            ready = select.select(watched, [], [])[0]
            if self._stop in ready:
                return
            for reader in readers:
                if reader in ready:
                    reader.handle()

    def close(self) -> None:
        os.close(self._stopper)
        self._thread.join()
        os.close(self._stop)
        self.dns.close()
        self.queue.close()


@pytest.fixture
def watcher(ruled: Lab) -> Iterator[Watcher]:
    made = Watcher(ruled)
    yield made
    made.close()


def run(lab: Lab, *argv: str) -> str:
    done = lab.run(argv, timeout=20)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize(("way", "address"), [("-4", SERVER4), ("-6", SERVER6)])
def test_a_name_is_known_before_its_connection_is_decided(
    ruled: Lab, watcher: Watcher, way: str, address: str
) -> None:
    assert "link=wifi" in run(ruled, "curl", "-sS", way, "http://www.lab.test/")
    assert (packed(address), ("www.lab.test",)) in watcher.asked


@pytest.mark.parametrize("server", [DNS4, DNS6])
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_answers_count_over_udp_and_tcp_in_both_families(
    ruled: Lab, watcher: Watcher, server: str, transport: str
) -> None:
    dig = ["dig", transport, "+short", f"@{server}"]
    assert run(ruled, *dig, "A", "second.lab.test").split() == [SECOND4]
    assert run(ruled, *dig, "AAAA", "second.lab.test").split() == [SECOND6]
    now = time.monotonic()
    assert watcher.names.names_of(packed(SECOND4), now) == ("second.lab.test",)
    assert watcher.names.names_of(packed(SECOND6), now) == ("second.lab.test",)
    assert watcher.dns.learned == 2


def test_without_a_listener_dns_works_as_before(ruled: Lab) -> None:
    for transport in ("+notcp", "+tcp"):
        got = run(ruled, "dig", transport, "+short", "A", "second.lab.test")
        assert got.split() == [SECOND4]


def test_a_listener_that_is_stuck_does_not_stop_dns_for_more_than_its_queue(ruled: Lab) -> None:
    stuck = ruled.inside(lambda: DnsQueue(6, lambda _: True, lambda _: None, length=1))
    try:
        dig = ["dig", "+notcp", "+short", "+tries=2", "+time=1", "A", "second.lab.test"]
        # The first answer is held, and dig says so; the next one passes.
        assert run(ruled, *dig).split()[-1] == SECOND4
    finally:
        stuck.close()


def test_a_fault_of_ours_is_raised_and_costs_no_answer(ruled: Lab) -> None:
    def fail(found: Answers) -> None:
        raise ZeroDivisionError

    with (
        contextlib.closing(ruled.inside(lambda: DnsQueue(6, lambda _: True, fail))) as queue,
        udp_of(ruled, (DNS4, 53)) as sock,
    ):
        sock.send(QUERY)
        assert select.select([queue], [], [], 5)[0]
        with pytest.raises(ZeroDivisionError):
            queue.handle()
        assert sock.recv(2000)


# --- what is not believed --------------------------------------------------------------------


def answer(name: str, address: str, id: int = 1) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return (
        struct.pack("!6H", id, 0x8180, 1, 1, 0, 0)
        + labels
        + b"\0\0\1\0\1"
        + struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4)
        + packed(address)
    )


FORGE = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
    sock.sendto(bytes.fromhex(sys.argv[2]), (sys.argv[1], 0))
"""


def forge(lab: Lab, source: tuple[str, int], to: tuple[str, int], data: bytes) -> None:
    """One datagram from the wifi's internet, with a source of choice (raw(7))."""
    udp = struct.pack("!HHHH", source[1], to[1], 8 + len(data), 0) + data
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    packet = head + packed(source[0]) + packed(to[0]) + udp
    argv = [sys.executable, "-P", "-c", FORGE, to[0], packet.hex()]
    command = ["ip", "netns", "exec", lab.internet("wifi"), *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def udp_of(lab: Lab, connect: tuple[str, int] | None = None) -> Iterator[socket.socket]:
    def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(5)
        if connect:
            sock.connect(connect)
        else:
            sock.bind(("0.0.0.0", 0))
        return sock

    with lab.inside(make) as sock:
        yield sock


def test_a_packet_of_a_resolver_that_nobody_asked_teaches_nothing_even_if_it_is_answered(
    ruled: Lab, watcher: Watcher
) -> None:
    home = ruled.config.link("wifi").host4
    wire = answer("bank.example", "203.0.113.66")
    with udp_of(ruled) as sock:
        to = (home, sock.getsockname()[1])
        forge(ruled, (DNS4, 53), to, wire)
        data, peer = sock.recvfrom(2000)
        assert (data, peer) == (wire, (DNS4, 53))
        # From now on it is an established connection, but not one that this host began.
        sock.sendto(b"?", peer)
        forge(ruled, (DNS4, 53), to, wire)
        assert sock.recv(2000) == wire
    assert watcher.heard == [] and ruled.inside(watcher.dns.counters).total == 0


def test_an_answer_to_the_wrong_port_or_from_the_wrong_address_teaches_nothing(
    ruled: Lab, watcher: Watcher
) -> None:
    home = ruled.config.link("wifi").host4
    wire = answer("bank.example", "203.0.113.66")
    with udp_of(ruled, (DNS4, 53)) as sock:
        sock.send(QUERY)
        assert sock.recv(2000)
        port = sock.getsockname()[1]
        forge(ruled, (SECOND4, 53), (home, port), wire)
        forge(ruled, (DNS4, 53), (home, port + 1), wire)
        sock.send(QUERY)
        assert sock.recv(2000)
    assert [found.name for found in watcher.heard] == ["www.lab.test"] * 2


def test_an_answer_of_a_server_that_is_no_resolver_of_this_host_teaches_nothing(
    ruled: Lab, watcher: Watcher
) -> None:
    got = run(ruled, "dig", "+short", f"@{SERVER4}", "A", "second.lab.test")
    assert got.split() == [SECOND4]
    assert watcher.heard == [] and watcher.dns.unread[NOT_ASKED] == 1


def test_what_this_host_answers_to_others_is_not_read(ruled: Lab, watcher: Watcher) -> None:
    with local_resolver(ruled, "0.0.0.0", answer("local.example", "192.0.2.7")) as ask:
        home = ruled.config.link("wifi").host4
        forge(ruled, (SECOND4, 40000), (home, 53), QUERY)
        ask("")
        # Port 53 at both ends, as some resolvers have it.
        forge(ruled, (SECOND4, 53), (home, 53), QUERY)
        ask("")
    assert watcher.heard == [] and ruled.inside(watcher.dns.counters).total == 0


# --- resolvers on this host ------------------------------------------------------------------


@contextlib.contextmanager
def local_resolver(lab: Lab, address: str, wire: bytes) -> Iterator[Callable[[str], bytes]]:
    """A resolver on the host that answers everything with `wire`, and a way to ask it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def make() -> tuple[socket.socket, socket.socket]:
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind((address, 53))
        return server, socket.socket(family, socket.SOCK_DGRAM)

    server, client = lab.inside(make)
    with server, client:
        server.settimeout(5)
        client.settimeout(5)

        def ask(to: str) -> bytes:
            if to:
                client.sendto(QUERY, (to, 53))
            data, peer = server.recvfrom(2000)
            assert data == QUERY
            server.sendto(wire, peer)
            return client.recv(5000) if to else b""

        yield ask


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_resolver_on_loopback_counts(ruled: Lab, watcher: Watcher, address: str) -> None:
    wire = answer("local.example", "192.0.2.7")
    with local_resolver(ruled, address, wire) as ask:
        assert ask(address) == wire
    names = watcher.names.names_of(packed("192.0.2.7"), time.monotonic())
    assert names == ("local.example",)


def test_what_is_read_reaches_its_program_unchanged_whatever_it_is(
    ruled: Lab, watcher: Watcher
) -> None:
    for wire in (b"", b"x", b"\xff" * 3000, answer("local.example", "192.0.2.7") * 90):
        with local_resolver(ruled, "127.0.0.1", wire) as ask:
            assert ask("127.0.0.1") == wire


@pytest.mark.parametrize("cuts", [(2,), (1, 2, 30), (40, 41)])
def test_an_answer_in_several_segments_is_put_together(
    ruled: Lab, watcher: Watcher, cuts: tuple[int, ...]
) -> None:
    wire = answer("local.example", "192.0.2.7")
    stream = len(wire).to_bytes(2, "big") + wire

    def connect() -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 53)) as listener:
            client = socket.create_connection(("127.0.0.1", 53), 5)
            return client, listener.accept()[0]

    client, server = ruled.inside(connect)
    with client, server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, end in itertools.pairwise((0, *cuts, len(stream))):
            server.sendall(stream[start:end])
        got = b""
        while len(got) < len(stream):
            got += client.recv(2000)
    assert got == stream
    assert [found.name for found in watcher.heard] == ["local.example"]
