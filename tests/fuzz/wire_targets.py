"""Fuzzed: what comes from the network and from clients."""

from __future__ import annotations

import ipaddress

import dns.exception
import dns.message
import dns.rdataclass
import dns.rdatatype
import msgspec

from arbiter import nametext
from arbiter.dnsstream import MAX_MESSAGE, MAX_STREAMS, Reader
from arbiter.dnswire import Answers, Unread, answers
from arbiter.hostname import host_name
from arbiter.model import PORT_PROTOS, Packet, Undecodable
from arbiter.packets import _general, _plain, decode
from arbiter.protocol import ProtocolError, client_decoder, daemon_decoder, encode


def dns_message(data: bytes) -> None:
    """A DNS message: nothing is learned that dnspython does not read in it, too."""
    for cut in (False, True):
        found = answers(data, cut)
        if isinstance(found, Unread):
            assert found.reason.isascii()
            continue
        for name in (found.name, *found.targets):
            assert host_name(name.encode()) == name
        assert all(len(address) in (4, 16) for address in found.addresses)
        assert 0 <= found.ttl <= 0x7FFFFFFF
        if not cut:
            _dnspython_agrees(data, found)


def _dnspython_agrees(data: bytes, found: Answers) -> None:
    try:
        message = dns.message.from_wire(data, ignore_trailing=True, continue_on_error=True)
    except (dns.exception.DNSException, ValueError):
        return  # its author is stricter, and reads nothing at all
    said = {
        bytes(map(int, rdata.address.split(".")))
        if rrset.rdtype == dns.rdatatype.A
        else _packed6(rdata.address)
        for rrset in (*message.answer, *message.additional)
        if rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
        and rrset.rdclass == dns.rdataclass.IN
        for rdata in rrset
    }
    if message.errors:
        return  # where it gave up, and what comes after it is not read
    (asked,) = message.question
    if asked.rdtype not in (64, 65):
        assert found.name == asked.name.to_text().rstrip(".").lower()
    if b"\0\x40" not in data and b"\0\x41" not in data:
        # No SVCB or HTTPS record, whose hints are addresses, too (RFC 9460).
        assert set(found.addresses) <= said


def _packed6(text: str) -> bytes:
    address = ipaddress.IPv6Address(text)
    return address.ipv4_mapped.packed if address.ipv4_mapped else address.packed


def dns_stream(data: bytes) -> None:
    """Packets of a resolver, each with its length before it in two bytes."""
    reader = Reader()
    while len(data) > 2:
        size = int.from_bytes(data[:2]) % 2048
        packet, data = data[2 : 2 + size], data[2 + size :]
        found = reader.feed(packet)
        assert len(reader) <= MAX_STREAMS
        if isinstance(found, str):
            assert found.isprintable()
            continue
        for message in found:
            assert len(message.resolver) in (4, 16)
            assert len(message.data) <= max(MAX_MESSAGE, len(packet))
            assert isinstance(answers(message.data, message.cut), Answers | Unread)


def packet(data: bytes) -> None:
    """A queued packet: the quick way never says other than the thorough one."""
    found = decode(data, id=7)
    assert isinstance(found, Packet | Undecodable)
    plain = _plain(data, 7, found.hook, 0, 0, 0)
    assert plain is None or plain == _general(data, 7, found.hook, 0, 0, 0)
    if isinstance(found, Undecodable):
        assert found.reason.isascii() and found.reason.isprintable()
        return
    flow = found.flow
    assert len(flow.saddr) == len(flow.daddr) == (4 if flow.family == 4 else 16)
    assert 0 <= flow.sport < 65536 and 0 <= flow.dport < 65536
    echo = flow.proto in (1, 58)
    assert flow.proto in PORT_PROTOS or flow.dport == 0
    assert flow.proto in PORT_PROTOS or echo or flow.sport == 0
    assert not (found.fragment and (flow.sport or flow.dport))


def protocol(data: bytes) -> None:
    """Messages of either side, however they are cut into pieces; and all bytes as one message."""
    _messages(data)
    _messages(data.replace(b"\n", b" ") + b"\n")


def _messages(data: bytes) -> None:
    for make in (client_decoder, daemon_decoder):
        whole = make().feed(data)
        pieces = make()
        parts: list[object] = []
        for start in range(0, len(data), 7):
            parts += pieces.feed(data[start : start + 7])
        assert [_said(one) for one in parts] == [_said(one) for one in whole]
        for one in whole:
            if isinstance(one, ProtocolError):
                assert one.text.isprintable()
            else:
                (again,) = make().feed(encode(one))
                assert again == one


def _said(one: object) -> object:
    if isinstance(one, ProtocolError):
        return one.reason, one.text, one.fatal
    return msgspec.to_builtins(one)


def hosts(data: bytes) -> None:
    """hosts(5) and resolv.conf(5)."""
    for address, names in nametext.read_hosts(data.split(b"\n")).items():
        assert len(address) in (4, 16)
        for name in names:
            assert host_name(name.encode()) == name
    assert all(len(one) in (4, 16) for one in nametext.read_resolvers(data.split(b"\n")))
