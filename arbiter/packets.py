"""Queued bytes to a Packet, or Undecodable with the reason. Pure and total: never raises.

Two ways to one answer. `_plain` takes what nearly every connection starts with (IPv4 without
options or IPv6 without extension headers; TCP, UDP or ICMP echo; no fragment) by struct, and
leaves everything else, every error included, to `_general`, which reads the headers by dpkt's
field tables. tests/test_packets.py holds the two together.

What a flow is follows conntrack, because the verdict's mark is written on conntrack's entry:
IPv6 extension headers are the set of `ipv6_ext_hdr()` (net/ipv6/exthdrs_core.c), so AH is
walked through in IPv6 and is a protocol of its own in IPv4; Mobility (135), HIP (139), Shim6
(140), tunnels, GRE and ESP are protocols too, and nothing inside them is read. The addresses
are those of the IP header: under source routing (IPv4 LSRR/SSRR, IPv6 routing header) that is
the next waypoint, as it is in conntrack.

Checked are the header's own claims, by length only: checksums, option contents and payloads
are the kernel's business (net/netfilter/nf_conntrack_proto_*.c calls those INVALID).
"""

from __future__ import annotations

import functools
import struct
from typing import Any, Final, NamedTuple

from arbiter.model import PORT_PROTOS, Flow, Hook, Packet, Undecodable

COPY_RANGE: Final = 40 + (8 + 24 + 104 + 8 + 48 + 8) + 20
"""Bytes of a packet the queue must copy: 260.

IPv6 header 40; in RFC 8200 4.1's order hop-by-hop 8 (router alert), destination options 24
(home address, RFC 6275 6.3), routing 104 (SRv6 with 6 segments, RFC 8754), fragment 8, AH 48
(RFC 4868 SHA-512), destination options 8; TCP's fixed header 20. IPv4 needs at most 60 + 20.
A longer chain is legal and rare (RFC 9098: routers drop it); it is Undecodable, and says so.
"""
MAX_EXTENSIONS: Final = 8
"""IPv6 extension headers walked. RFC 8200 4.1's list without ESP has 6; the rest is slack."""

_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION = 0, 43, 44, 51, 60
_EXTENSIONS = {
    _HOP_BY_HOP: "IPv6 hop-by-hop header",
    _ROUTING: "IPv6 routing header",
    _FRAGMENT: "IPv6 fragment header",
    _AH: "IPv6 authentication header",
    _DESTINATION: "IPv6 destination options header",
}
_ECHO = frozenset({(_ICMP, 8), (_ICMP, 0), (_ICMPV6, 128), (_ICMPV6, 129)})
_TRANSPORTS = {
    _TCP: ("TCP header", 20),  # RFC 9293 3.1
    _UDP: ("UDP header", 8),  # RFC 768
    33: ("DCCP header", 12),  # RFC 4340 5.1, with short sequence numbers
    132: ("SCTP header", 12),  # RFC 9260 3.1
    136: ("UDP-Lite header", 8),  # RFC 3828 3.1
    _ICMP: ("ICMP header", 8),  # RFC 792; struct icmphdr
    _ICMPV6: ("ICMPv6 header", 8),  # RFC 4443 2.1 and its first body word; struct icmp6hdr
}
"""Fixed header length in bytes, all of which must be there: fewer, and conntrack says INVALID."""

# x skips what is not read: 24 bytes of IPv4, 44 of IPv6, each with the first transport word.
_ipv4_plain = struct.Struct(">2xH2xHxB2x4s4sHH").unpack_from
_ipv6_plain = struct.Struct(">4xHBx16s16sHH").unpack_from


def decode(
    payload: bytes,
    *,
    id: int,
    hook: Hook = Hook.OUT,
    mark: int = 0,
    indev: int = 0,
    outdev: int = 0,
) -> Packet | Undecodable:
    """The packet in `payload`: an IP packet's first bytes, COPY_RANGE or more of them.

    A payload shorter than the packet is normal, one that ends inside a header is Undecodable.
    Bytes past the header's own length are no part of the packet and ignored, as the kernel
    trims them (net/ipv4/ip_input.c). The other arguments are the queue's, passed through.
    """
    return _plain(payload, id, hook, mark, indev, outdev) or _general(
        payload, id, hook, mark, indev, outdev
    )


def _plain(
    payload: bytes, id: int, hook: Hook, mark: int, indev: int, outdev: int
) -> Packet | None:
    """The usual packets, quickly; None for every other, which says nothing of it."""
    copied = len(payload)
    if copied < 28:
        return None
    if payload[0] == 0x45:
        total, fragment, proto, saddr, daddr, first, second = _ipv4_plain(payload)
        if fragment & 0x3FFF:  # MF or an offset; the reserved bit and DF do not matter
            return None
        at = 20
    elif payload[0] & 0xF0 == 0x60 and copied >= 48:
        total, proto, saddr, daddr, first, second = _ipv6_plain(payload)
        total += 40
        at = 40
    else:
        return None
    if proto == 6:
        if copied < at + 20:
            return None
        offset = payload[at + 12] >> 4
        if offset < 5 or total < at + offset * 4:  # so total >= at + 20
            return None
        flow = Flow(6, saddr, first, daddr, second)
        return Packet(id, flow, hook, mark, indev, outdev, total, payload[at + 13])
    if total < at + 8:
        return None
    if proto == 17:
        flow = Flow(17, saddr, first, daddr, second)
        return Packet(id, flow, hook, mark, indev, outdev, total)
    icmp_type = first >> 8
    if (proto, icmp_type) in _ECHO and proto == (1 if at == 20 else 58):
        flow = Flow(proto, saddr, payload[at + 4] << 8 | payload[at + 5], daddr, 0)
        return Packet(id, flow, hook, mark, indev, outdev, total, 0, icmp_type)
    return None


# --- everything else ------------------------------------------------------------------------


class _Heads(NamedTuple):
    """The headers of dpkt's classes alone: their field tables, without their parsing.

    dpkt's own classes (1.9.8) parse on into options, extension headers and payloads when they
    are made. On hostile or cut bytes that raises (fuzzed: NeedData, UnpackError, and
    AttributeError from IP6 on a fragment header before ESP), takes time for bytes nobody asked
    for, and IP6 knows a later fragment only by a fragment header in first place. These raise
    nothing but NeedData, and not that once the length is checked.
    """

    ipv4: Any
    ipv6: Any
    options: Any
    """Next header and length: routing headers' too."""
    ah: Any
    fragment: Any
    tcp: Any
    ports: Any
    """Every protocol of PORT_PROTOS begins with the two ports."""
    icmp: Any
    echo: Any


@functools.cache
def _heads() -> _Heads:
    import dpkt  # for the first odd packet: it takes 4 MB, which most machines never need

    def head(kind: type[Any]) -> Any:
        tables = {"__hdr__": kind.__hdr__, "__bit_fields__": getattr(kind, "__bit_fields__", {})}
        return type(kind.__name__, (dpkt.Packet,), tables)

    ip6, icmp = dpkt.ip6, dpkt.icmp.ICMP
    extensions = (ip6.IP6OptsHeader, ip6.IP6AHHeader, ip6.IP6FragmentHeader)
    transports = (dpkt.tcp.TCP, dpkt.udp.UDP, icmp, icmp.Echo)
    return _Heads._make(map(head, (dpkt.ip.IP, ip6.IP6, *extensions, *transports)))


class _MalformedError(Exception):
    """Why the packet is Undecodable; caught in `_general`. Takes constant texts only."""


class _Network(NamedTuple):
    """What the IP layer says: `at` is where `proto` begins, `total` where the packet ends."""

    proto: int
    at: int
    total: int
    saddr: bytes
    daddr: bytes
    later: bool = False
    """A fragment after the first."""
    whole: bool = True
    """No fragment at all, or an atomic one."""


def _general(
    payload: bytes, id: int, hook: Hook, mark: int, indev: int, outdev: int
) -> Packet | Undecodable:
    """Every packet, by every rule."""
    try:
        network = _network(payload)
        sport, dport, tcp_flags, icmp_type = _transport(payload, network)
    except _MalformedError as malformed:
        return Undecodable(id, str(malformed), hook, mark, outdev)
    except (ImportError, OSError):  # no descriptor is left, or dpkt was taken away meanwhile
        return Undecodable(
            id, "dpkt, which reads such packets, cannot be loaded", hook, mark, outdev
        )
    return Packet(
        id,
        Flow(network.proto, network.saddr, sport, network.daddr, dport),
        hook,
        mark,
        indev,
        outdev,
        network.total,
        tcp_flags,
        icmp_type,
        network.later,
    )


def _need(what: str, payload: bytes, end: int, total: int | None = None) -> None:
    """Raise unless `what` ends within the packet, and within what the queue copied of it."""
    if total is not None and end > total:
        raise _MalformedError(f"{what} is longer than the packet")
    if end > len(payload):
        raise _MalformedError(f"{what} is cut short in the queued bytes")


def _network(payload: bytes) -> _Network:
    # The version nibble decides, as in ip_rcv() and ip6_rcv_core(); RFC 791 3.1, RFC 8200 3.
    version = payload[0] >> 4 if payload else None
    if version == 4:
        return _ipv4(payload)
    if version == 6:
        return _ipv6(payload)
    raise _MalformedError("no bytes" if version is None else "IP version is neither 4 nor 6")


def _ipv4(payload: bytes) -> _Network:
    _need("IPv4 header", payload, 20)
    head = _heads().ipv4(payload)
    at = head.hl * 4
    if at < 20:
        raise _MalformedError("IPv4 header length is below 20 bytes")  # RFC 791 3.1: minimum 5
    # 0 too: Linux uses it for segments over 64 KiB inside the host (BIG TCP, iph_totlen()), but
    # those carry data of an open connection, and their length could not be told from here.
    if head.len < at:
        raise _MalformedError("IPv4 total length is below the header length")
    _need("IPv4 options", payload, at)
    later, whole = head.offset > 0, head.offset == 0 and not head.mf
    return _Network(head.p, at, head.len, head.src, head.dst, later, whole)


def _ipv6(payload: bytes) -> _Network:
    _need("IPv6 header", payload, 40)
    head = _heads().ipv6(payload)
    proto, at, total = head.nxt, 40, 40 + head.plen
    if head.plen == 0 and proto == _HOP_BY_HOP:
        # RFC 2675 3: the length, over 64 KiB, is in an option. Nothing that opens a connection
        # is that long; Linux's own (BIG TCP segments) carry data of one that is open.
        raise _MalformedError("IPv6 jumbogram")
    fragmented, whole = False, True
    for place in range(MAX_EXTENSIONS + 1):
        if proto not in _EXTENSIONS:
            return _Network(proto, at, total, head.src, head.dst, whole=whole)
        if place == MAX_EXTENSIONS:
            break
        what = _EXTENSIONS[proto]
        if proto == _HOP_BY_HOP and place:  # RFC 8200 4.1: only right after the IPv6 header
            raise _MalformedError("IPv6 hop-by-hop header is not the first")
        _need(what, payload, at + 8, total)
        if proto == _FRAGMENT:
            if fragmented:  # RFC 8200 4.1: once; a fragment of fragments only hides ports
                raise _MalformedError("IPv6 fragment header twice")
            extension, size, fragmented = _heads().fragment(payload[at:]), 8, True
            if extension.frag_off:
                # What the fragment begins with is data: its next header is the proto, even the
                # number of an extension header (RFC 8200 4.5; ipv6_skip_exthdr() stops too).
                return _Network(extension.nxt, at + 8, total, head.src, head.dst, True, False)
            whole = not extension.m_flag  # neither offset nor more: atomic, RFC 6946
        elif proto == _AH:
            _need(what, payload, at + 12, total)
            extension = _heads().ah(payload[at:])
            size = extension.len * 4 + 8
            if size < 12:  # RFC 4302 2: its fixed part
                raise _MalformedError("IPv6 authentication header length is below 12 bytes")
        else:
            extension = _heads().options(payload[at:])
            size = extension.len * 8 + 8
        _need(what, payload, at + size, total)
        proto, at = extension.nxt, at + size
    raise _MalformedError("too many IPv6 extension headers")


def _transport(payload: bytes, network: _Network) -> tuple[int, int, int, int]:
    """(sport, dport, tcp_flags, icmp_type) of the flow, 0 and -1 where there is none."""
    proto, at, total = network.proto, network.at, network.total
    # ICMP is defined over its own family only: the other's is a protocol without ports.
    foreign_icmp = proto == (_ICMPV6 if len(network.saddr) == 4 else _ICMP)
    if network.later or foreign_icmp or proto not in _TRANSPORTS:
        return 0, 0, 0, -1
    # A first fragment must hold this header as well: RFC 7112 5, RFC 1858 3 (tiny fragments).
    what, size = _TRANSPORTS[proto]
    _need(what, payload, at + size, total)
    segment = payload[at : at + size]
    if proto == _TCP:
        tcp = _heads().tcp(segment)
        if tcp.off < 5:  # RFC 9293 3.1, nf_conntrack_proto_tcp.c: tcp_error()
            raise _MalformedError("TCP data offset is below 20 bytes")
        if network.whole and at + tcp.off * 4 > total:
            raise _MalformedError("TCP header is longer than the packet")
        return tcp.sport, tcp.dport, tcp.flags & 0xFF, -1
    if proto in PORT_PROTOS:
        ports = _heads().ports(segment)
        return ports.sport, ports.dport, 0, -1
    icmp = _heads().icmp(segment)
    sport = _heads().echo(segment[4:]).id if (proto, icmp.type) in _ECHO else 0
    return sport, 0, 0, icmp.type
