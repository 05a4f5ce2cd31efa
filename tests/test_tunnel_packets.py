"""Which packets are a tunnel's own: what the kernel's messages say, and nothing beyond it."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playbook import HERE, HERE6, SERVER, SERVER6
from playbook import packet as tcp

from arbiter.kernel import owner
from arbiter.kernel.netlink import os_error, pack_attribute
from arbiter.kernel.tunnels import (
    ESP,
    GRE,
    IPIP,
    IPV6,
    UDP,
    Outer,
    Tunnel,
    read_addresses,
    read_endpoint,
    read_link,
    read_wireguard,
)
from arbiter.model import Flow, Hook, NoOwner, NoOwnerReason, Packet

WG = Tunnel(9, "wg0")
PORT = 51820


def u16(number: int) -> bytes:
    return number.to_bytes(2, sys.byteorder)


def sockaddr(address: bytes, port: int) -> bytes:
    if len(address) == 4:
        return u16(socket.AF_INET) + port.to_bytes(2, "big") + address + bytes(8)
    return u16(socket.AF_INET6) + port.to_bytes(2, "big") + bytes(4) + address + bytes(4)


def peer(endpoint: bytes = b"") -> bytes:
    key = pack_attribute(1, b"k" * 32)
    return pack_attribute(0, key + (pack_attribute(4, endpoint) if endpoint else b""))


def device(*peers: bytes, port: int = 0) -> bytes:
    body = struct.pack("=BBH", 0, 1, 0)
    if port:
        body += pack_attribute(6, u16(port)) + pack_attribute(3, b"s" * 32)
    return body + pack_attribute(8, b"".join(peers))


def interface(kind: str, data: bytes = b"", name: str = "tun9", elsewhere: bool = False) -> bytes:
    info = pack_attribute(1, kind.encode() + b"\0") + pack_attribute(2, data)
    body = struct.pack("=BBHiII", 0, 0, 0, 9, 0, 0) + pack_attribute(3, name.encode() + b"\0")
    body += pack_attribute(18, info) if kind else b""
    return body + (pack_attribute(37, struct.pack("=i", 0)) if elsewhere else b"")


def test_wireguards_packets_go_to_a_peers_endpoint_from_the_devices_port() -> None:
    messages = [
        device(peer(sockaddr(SERVER, 7)), peer(), port=PORT),
        device(peer(sockaddr(SERVER6, 8))),
    ]
    assert list(read_wireguard(WG, messages)) == [
        Outer(WG, frozenset({UDP}), b"", SERVER, PORT, 7),
        Outer(WG, frozenset({UDP}), b"", SERVER6, PORT, 8),
    ]


def test_a_device_that_is_down_has_no_port_and_sends_nothing() -> None:
    assert list(read_wireguard(WG, [device(peer(sockaddr(SERVER, 7)))])) == []


@given(st.binary(max_size=40))
def test_an_endpoint_of_any_bytes_is_an_address_with_its_port_or_nothing(data: bytes) -> None:
    found = read_endpoint(data)
    if found is not None:
        assert sockaddr(*found)[:4] == data[:4]
        assert found[0] in data[4:]
        assert len(found[0]) in (4, 16)


@pytest.mark.parametrize("address", [SERVER, SERVER6])
def test_an_endpoint_that_is_cut_off_is_none(address: bytes) -> None:
    whole = sockaddr(address, 7)
    assert read_endpoint(whole) == (address, 7)
    assert read_endpoint(whole[: 4 if len(address) == 4 else 20]) is None


@pytest.mark.parametrize(
    ("kind", "local", "remote", "protocols"),
    [
        ("ipip", 2, 3, {IPIP, IPV6}),
        ("sit", 2, 3, {IPIP, IPV6}),
        ("ip6tnl", 2, 3, {IPIP, IPV6}),
        ("gre", 6, 7, {GRE}),
        ("ip6gretap", 6, 7, {GRE}),
        ("vti", 4, 5, {ESP}),
    ],
)
def test_a_tunnel_between_two_addresses_sends_from_one_to_the_other(
    kind: str, local: int, remote: int, protocols: set[int]
) -> None:
    data = pack_attribute(1, bytes(4)) + pack_attribute(local, HERE)
    data += pack_attribute(remote, SERVER)
    tunnel, found, own = read_link(interface(kind, data))
    assert (tunnel, found) == (Tunnel(9, "tun9"), kind)
    assert list(read_addresses(tunnel, kind, own)) == [
        Outer(tunnel, frozenset(protocols), HERE, SERVER)
    ]
    anywhere = pack_attribute(local, bytes(4)) + pack_attribute(remote, SERVER)
    assert [outer.local for outer in read_addresses(tunnel, kind, anywhere)] == [b""]
    nowhere = pack_attribute(local, HERE) + pack_attribute(remote, bytes(4))
    assert list(read_addresses(tunnel, kind, nowhere)) == []


def test_what_is_no_tunnel_or_sends_elsewhere_has_no_kind() -> None:
    assert read_link(interface(""))[1:] == ("", b"")
    assert read_link(interface("ipip", b"", elsewhere=True))[1:] == ("", b"")
    assert read_link(interface("veth"))[1] == "veth"


@pytest.mark.parametrize(
    ("flow", "fits"),
    [
        (Flow(UDP, HERE, PORT, SERVER, 7), True),
        (Flow(UDP, HERE, PORT + 1, SERVER, 7), False),
        (Flow(UDP, HERE, PORT, SERVER, 8), False),
        (Flow(UDP, HERE, PORT, HERE, 7), False),
        (Flow(UDP, HERE6, PORT, SERVER6, 7), False),
        (Flow(136, HERE, PORT, SERVER, 7), False),
    ],
)
def test_every_part_of_a_packet_must_fit(flow: Flow, fits: bool) -> None:
    assert Outer(WG, frozenset({UDP}), b"", SERVER, PORT, 7).fits(flow) is fits


def test_the_local_address_must_fit_where_one_is_set() -> None:
    outer = Outer(WG, frozenset({GRE}), HERE, SERVER)
    assert outer.fits(Flow(GRE, HERE, 0, SERVER, 0))
    assert not outer.fits(Flow(GRE, SERVER, 0, SERVER, 0))


# --- what an owner look-up makes of it ------------------------------------------------------------


class Fake:
    """In place of the kernel's answers: what it is asked, and what it says."""

    def __init__(self, *found: Tunnel, error: Exception | None = None) -> None:
        self.found, self.error, self.asked = found, error, 0

    def sending(self, flow: Flow) -> tuple[Tunnel, ...]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.found

    def close(self) -> None:
        pass


def looked_up(
    monkeypatch: pytest.MonkeyPatch, fake: Fake, reason: NoOwnerReason, packet: Packet
) -> tuple[Any, NoOwner]:
    monkeypatch.setattr(owner, "Tunnels", lambda: fake)
    none = NoOwner(reason, 0, detail="a socket without a file")
    made = owner.OwnerLookup(Nobody(), find=lambda packet: none)
    try:
        quick, scan = made.quick(packet), made.scan(packet)
    finally:
        made.close()
    assert isinstance(scan, NoOwner)
    return quick, scan


class Nobody:
    def get(self, pid: int) -> None:
        return None

    def start_time(self, pid: int) -> None:
        return None


OUTER = Packet(1, Flow(UDP, HERE, PORT, SERVER, 7))


def test_a_packet_of_the_kernels_is_the_tunnels_that_sends_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Fake(WG, Tunnel(10, "wg1"))
    quick, scan = looked_up(monkeypatch, fake, NoOwnerReason.KERNEL, OUTER)
    assert quick is None, "off the event loop"
    assert (scan.tunnels, scan.detail) == ((9, 10), "the tunnel wg0 and wg1 itself")
    assert (scan.reason, scan.uid, scan.user) == (NoOwnerReason.KERNEL, 0, "root")


@pytest.mark.parametrize("reason", [r for r in NoOwnerReason if r is not NoOwnerReason.KERNEL])
def test_what_is_not_surely_the_kernels_is_no_tunnels(
    monkeypatch: pytest.MonkeyPatch, reason: NoOwnerReason
) -> None:
    fake = Fake(WG)
    quick, scan = looked_up(monkeypatch, fake, reason, OUTER)
    assert quick == scan
    assert (scan.tunnels, fake.asked) == ((), 0)


@pytest.mark.parametrize("packet", [tcp(1), Packet(1, OUTER.flow, hook=Hook.IN)])
def test_what_no_tunnel_can_have_sent_is_decided_at_once(
    monkeypatch: pytest.MonkeyPatch, packet: Packet
) -> None:
    fake = Fake(WG)
    quick, scan = looked_up(monkeypatch, fake, NoOwnerReason.KERNEL, packet)
    assert (quick, scan.tunnels, fake.asked) == (scan, (), 0)


@pytest.mark.parametrize("error", [os_error(1, "reading"), ValueError("cut off")])
def test_where_tunnels_cannot_be_read_the_packet_is_nobodys_and_says_so(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    _, scan = looked_up(monkeypatch, Fake(error=error), NoOwnerReason.KERNEL, OUTER)
    assert (scan.reason, scan.tunnels) == (NoOwnerReason.KERNEL, ())
    assert "whether a tunnel sent it cannot be read" in scan.detail
