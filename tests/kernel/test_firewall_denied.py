"""The rules at work: what is denied is refused at once, whatever others let pass."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from firewallscene import (
    DENIED,
    KERNEL_ONLY,
    PLAN,
    QUEUE,
    add,
    both,
    consuming,
    echo,
    empty,
    ping,
    served,
    sh,
    tcp,
    udp,
    usable,
    wired,
)

from arbiter.kernel.firewall import apply, installed
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
