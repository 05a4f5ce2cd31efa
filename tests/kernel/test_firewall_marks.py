"""The rules at work: the marks of others stay as they are, and ours go where they must."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from firewallscene import (
    KERNEL_ONLY,
    PLAN,
    PORT,
    QUEUE,
    add,
    both,
    consuming,
    echo,
    empty,
    family_of,
    served,
    sh,
    tcp,
    usable,
    wired,
)

from arbiter.kernel.firewall import apply
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


def counted(tool: str, comment: str) -> int:
    """Packets counted by the user's rule with that comment."""
    for line in sh(f"{tool}-save", "-c").splitlines():
        if f"--comment {comment}" in line:
            return int(line[1:].split(":")[0])
    raise AssertionError(f"no rule {comment} in {tool}-save")


# --- of others --------------------------------------------------------------------------------


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


# --- of links ---------------------------------------------------------------------------------


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
