"""The rules at work: which packets are asked about, once, and which are not."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from firewallscene import (
    DENIED,
    KERNEL_ONLY,
    NS,
    PLAN,
    QUEUE,
    V4,
    V6,
    add,
    both,
    consuming,
    echo,
    empty,
    family_of,
    ping,
    served,
    sh,
    tcp,
    udp,
    until,
    usable,
    wired,
)

from arbiter.kernel.firewall import apply, remove
from arbiter.kernel.firewall.plan import Plan
from arbiter.kernel.firewall.probe import IPTABLES, NFT, Backend

pytestmark = KERNEL_ONLY


@pytest.fixture(scope="module")
def peer() -> Iterator[None]:
    with served():
        yield


@pytest.fixture
def home() -> Iterator[None]:
    with empty():
        yield


@pytest.fixture
def wire(home: None, peer: None) -> Iterator[None]:
    with wired():
        yield


@pytest.fixture(params=[NFT, *IPTABLES], ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest, home: None) -> Backend:
    return usable(request.param)


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
