"""rtnetlink's messages are read as they were written, and any bytes are a value or a ValueError."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.kernel.netlink import pack_attribute
from arbiter.kernel.rtnlmessages import (
    AddressMessage,
    Hop,
    LinkMessage,
    RouteMessage,
    is_unicast,
    read_address,
    read_link,
    read_route,
)

READERS: tuple[Callable[[bytes], object], ...] = (read_link, read_address, read_route, is_unicast)
AF = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
SIZE = {4: 4, 6: 16}
U8, U32, INDEX = st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(1, 2**31 - 1)
NAMES = st.binary(min_size=1, max_size=15).filter(lambda name: not {0, ord("/")} & {*name})
KINDS = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", max_size=15)
OTHERS = st.lists(st.tuples(st.integers(200, 16000), st.binary(max_size=30)), max_size=4)
"""Attributes of a kernel that is newer than this."""

Attributes = list[tuple[int, bytes]]


def word(value: int) -> bytes:
    return struct.pack("=I", value)


def packed(attributes: Attributes) -> bytes:
    return b"".join(pack_attribute(kind, value) for kind, value in attributes)


@st.composite
def bodies(draw: st.DrawFn, attributes: Attributes) -> bytes:
    """Those attributes with others, in any order; what is empty is left out, or not."""
    kept = [(kind, value) for kind, value in attributes if value or draw(st.booleans())]
    return packed(draw(st.permutations(kept + draw(OTHERS))))


# --- as they were written -------------------------------------------------------------------


@st.composite
def links(draw: st.DrawFn) -> tuple[bytes, LinkMessage]:
    name = draw(NAMES)
    end = draw(st.sampled_from([b"", b"\0", b"\0\0", b"\0rest"]))
    link = LinkMessage(
        index=draw(INDEX),
        arphrd=draw(st.integers(0, 65535)),
        flags=draw(U32),
        name=os.fsdecode(name),
        mtu=draw(U32),
        address=draw(st.binary(max_size=32)),
        permanent=draw(st.binary(max_size=32)),
        driver=draw(KINDS),
        master=draw(KINDS),
    )
    info = draw(bodies([(1, link.driver.encode() + end), (4, link.master.encode() + end)]))
    body = draw(
        bodies(
            [
                (3, name + end),
                (4, word(link.mtu)),
                (1, link.address),
                (54, link.permanent),
                (18 | 0x8000 * draw(st.booleans()), info),  # NLA_F_NESTED
            ]
        )
    )
    head = struct.pack("=BBHiII", 0, 0, link.arphrd, link.index, link.flags, draw(U32))
    return head + body, link


@given(links())
def test_an_interface_is_read_as_it_was_written(case: tuple[bytes, LinkMessage]) -> None:
    data, link = case
    assert read_link(data) == link


@st.composite
def addresses(draw: st.DrawFn) -> tuple[bytes, AddressMessage]:
    family = draw(st.sampled_from([4, 6]))
    size = SIZE[family]
    address = AddressMessage(
        index=draw(INDEX),
        packed=draw(st.binary(min_size=size, max_size=size)),
        prefixlen=draw(st.integers(0, 8 * size)),
        flags=draw(U32),
        scope=draw(U8),
    )
    peer = draw(st.binary(min_size=size, max_size=size))
    where = draw(
        st.sampled_from(
            [
                [(2, address.packed), (1, peer)],
                [(2, address.packed), (1, address.packed)],
                [(2, address.packed)],
                [(1, address.packed)],
            ]
        )
    )
    flags = [(8, word(address.flags))] if address.flags > 255 or draw(st.booleans()) else []
    small = draw(U8) if flags else address.flags
    head = struct.pack("=BBBBI", AF[family], address.prefixlen, small, address.scope, address.index)
    return head + draw(bodies(where + flags)), address


@given(addresses())
def test_an_address_is_the_interfaces_own_and_not_its_peers(
    case: tuple[bytes, AddressMessage],
) -> None:
    data, address = case
    assert read_address(data) == address


@st.composite
def ways(draw: st.DrawFn, family: int) -> tuple[bytes, bytes]:
    """(gateway, the attributes that say it)."""
    kind = draw(st.sampled_from(["none", "gateway", "via"]))
    if kind == "none":
        return b"", b""
    other = draw(st.sampled_from([4, 6])) if kind == "via" else family
    gateway = draw(st.binary(min_size=SIZE[other], max_size=SIZE[other]))
    if kind == "via":
        return gateway, pack_attribute(18, struct.pack("=H", AF[other]) + gateway)
    return gateway, pack_attribute(5, gateway)


@st.composite
def routes(draw: st.DrawFn) -> tuple[bytes, RouteMessage]:
    family = draw(st.sampled_from([4, 6]))
    size = SIZE[family]
    length = draw(st.integers(0, 8 * size))
    flags, table = draw(U32), draw(U32)
    form = draw(st.sampled_from(["one", "several", "none"]))
    hops, said = [], b""
    if form == "one":
        gateway, said = draw(ways(family))
        hops = [Hop(draw(INDEX), flags & 0xFF, gateway)]
        said += pack_attribute(4, word(hops[0].index))
    elif form == "several":
        for _ in range(draw(st.integers(1, 4))):
            gateway, way = draw(ways(family))
            way += packed(draw(OTHERS))
            hops.append(Hop(draw(INDEX), draw(U8), gateway))
            said += struct.pack("=HBBi", 8 + len(way), hops[-1].flags, draw(U8), hops[-1].index)
            said += way
        said = pack_attribute(9, said)
    route = RouteMessage(
        family=family,
        dst=draw(st.binary(min_size=size, max_size=size)) if length else b"",
        prefixlen=length,
        table=table,
        protocol=draw(U8),
        flags=flags,
        metric=draw(U32),
        source=draw(st.sampled_from([b"", draw(st.binary(min_size=size, max_size=size))])),
        hops=tuple(hops),
    )
    attributes = [(1, route.dst or draw(st.sampled_from([b"", bytes(size)]))), (7, route.source)]
    attributes += [(6, word(route.metric))] if route.metric else []
    attributes += [(15, word(table))] if table > 255 or draw(st.booleans()) else []
    small = draw(U8) if attributes[-1][0] == 15 else table
    any4 = draw(st.tuples(U8, U8, U8, U8))  # source length and tos, scope and type
    head = (AF[family], length, *any4[:2], small, route.protocol, *any4[2:], flags)
    return struct.pack("=BBBBBBBBI", *head) + draw(bodies(attributes)) + said, route


@given(routes())
def test_a_route_is_read_with_every_hop(case: tuple[bytes, RouteMessage]) -> None:
    data, route = case
    assert read_route(data) == route


def test_several_hops_count_before_one_and_may_be_padded() -> None:
    """RTNH_ALIGN: what is behind an odd attribute begins at the next four bytes."""
    odd = pack_attribute(200, b"\1")[:5]
    several = struct.pack("=HBBi", 13, 1, 0, 3) + odd + bytes(3) + struct.pack("=HBBi", 8, 0, 0, 4)
    data = struct.pack("=BBBBBBBBI", AF[4], 0, 0, 0, 254, 3, 0, 1, 0)
    found = read_route(data + packed([(4, word(9)), (9, several)]))
    assert found.hops == (Hop(3, 1, b""), Hop(4, 0, b""))


@pytest.mark.parametrize("family", [0, 2, 7, 10, 28, 128])
@pytest.mark.parametrize("tos", [0, 1, 0x10, 255])
@pytest.mark.parametrize("kind", range(13))
def test_a_plain_unicast_route_is_told_by_its_header(family: int, tos: int, kind: int) -> None:
    for flags in (0, 0x1, 0x4, 0x100, 0x200, 0x201, 0x800, 0x2200, 0xFFFFFDFF, 0xFFFFFFFF):
        data = struct.pack("=BBBBBBBBI", family, 0, 0, tos, 254, 3, 0, kind, flags)
        plain = family in AF.values() and kind == 1 and tos == 0 and not flags & 0x200
        assert is_unicast(data) is plain


# --- what is no message ---------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_value_error(data: bytes) -> None:
    for read in READERS:
        try:
            read(data)
        except ValueError as error:
            assert str(error).isascii()


@given(st.one_of(links(), addresses(), routes()), st.data())
def test_a_message_that_is_cut_or_damaged_is_a_value_or_a_value_error(
    case: tuple[bytes, object], data: st.DataObject
) -> None:
    whole = bytearray(case[0])
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(U8)
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for read in READERS:
        try:
            read(cut)
        except ValueError:
            continue


LINK = struct.pack("=BBHiII", 0, 0, 1, 7, 1, 0)
NAMED = LINK + packed([(3, b"eth0\0"), (4, word(1500))])
ADDRESS = struct.pack("=BBBBI", AF[4], 24, 0, 0, 7)
ROUTE = struct.pack("=BBBBBBBBI", AF[4], 24, 0, 0, 254, 3, 0, 1, 0)
DEFAULT = struct.pack("=BBBBBBBBI", AF[4], 0, 0, 0, 254, 3, 0, 1, 0)
DST = pack_attribute(1, b"\x0a\0\0\0")


@pytest.mark.parametrize(
    ("read", "data", "why"),
    [
        (read_link, LINK[:-1], "interface message of 15 bytes, 16 expected"),
        (read_link, LINK, "interface message of #7 without its name or MTU"),
        (read_link, LINK + packed([(3, b"eth0\0")]), "without its name or MTU"),
        (read_link, LINK + packed([(3, b"\0eth0"), (4, word(1500))]), "without its name or MTU"),
        (read_link, LINK + packed([(3, b"e\0"), (4, b"\1\2")]), "attribute 4 of 2 bytes"),
        (read_link, NAMED + b"\1\0", "attribute cut off"),
        (read_link, NAMED + pack_attribute(18, b"\x09\0\1\0veth"), "says 9 bytes"),
        (read_address, ADDRESS[:-1], "address message of 7 bytes, 8 expected"),
        (read_address, ADDRESS, "address message of #7 without an address"),
        (read_address, ADDRESS + pack_attribute(2, bytes(16)), "attribute 2 of 16 bytes, 4 exp"),
        (read_address, b"\2\x21" + ADDRESS[2:] + pack_attribute(2, bytes(4)), "length 33"),
        (read_route, ROUTE[:-1], "route message of 11 bytes, 12 expected"),
        (is_unicast, ROUTE[:-1], "route message of 11 bytes, 12 expected"),
        (read_route, b"\x1c" + ROUTE[1:], "route message of address family 28"),
        (read_route, ROUTE, "route message with destination none/24"),
        (read_route, b"\2\x21" + ROUTE[2:] + DST, "destination 0a000000/33"),
        (read_route, ROUTE + pack_attribute(1, bytes(16)), "attribute 1 of 16 bytes, 4 expected"),
        (read_route, DEFAULT + packed([(4, word(2)), (5, bytes(16))]), "attribute 5 of 16 bytes"),
        (read_route, DEFAULT + packed([(4, word(2)), (5, b"\1")]), "attribute 5 of 1 bytes"),
        (read_route, DEFAULT + packed([(4, word(2)), (18, b"\x0a\0\1")]), "family, of 1 bytes"),
        (read_route, DEFAULT + packed([(4, b"\2")]), "attribute 4 of 1 bytes"),
        (read_route, DEFAULT + packed([(7, b"\2")]), "attribute 7 of 1 bytes"),
        (read_route, DEFAULT + packed([(9, b"\x08\0\0\0")]), "next hop message of 4 bytes, 8 exp"),
        (read_route, DEFAULT + packed([(9, b"\x07\0\0\0\2\0\0\0")]), "next hop says 7 bytes, 8"),
        (read_route, DEFAULT + packed([(9, b"\0\0\0\0\2\0\0\0")]), "next hop says 0 bytes, 8"),
        (read_route, DEFAULT + packed([(9, b"\x09\0\0\0\2\0\0\0")]), "next hop says 9 bytes, 8"),
    ],
)
def test_what_is_wrong_is_said(read: Callable[[bytes], object], data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read(data)


def test_an_address_of_another_family_is_none() -> None:
    """rtnl_dump_all asks every family of the kernel: Phonet and MCTP have addresses, too."""
    assert read_address(struct.pack("=BBBBI", 35, 0, 0, 0, 7) + pack_attribute(2, b"\x10")) is None
