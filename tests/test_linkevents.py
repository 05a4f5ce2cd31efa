"""What each rtnetlink event means: nothing, a look, a look at once, or our rules touched."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.kernel.linkevents import Judge, Told
from arbiter.kernel.neighbours import Gateways
from arbiter.kernel.netlink import pack_attribute
from arbiter.links import Address, Interface, LinkKind
from arbiter.routeplan import PROTOCOL

LOST = Told.CHANGE | Told.LOSS
OWN_PORT, FOREIGN_PORT = 4242, 77
UP, RUNNING = 0x1, 0x10001
HERE, GATEWAY, MAC = bytes([10, 0, 1, 2]), bytes([10, 0, 1, 1]), "02:00:00:00:00:01"
REACHABLE, STALE, INCOMPLETE, FAILED, NOARP = 0x02, 0x04, 0x01, 0x20, 0x40


def made(known: str = MAC) -> Judge:
    gateways = Gateways()
    gateways.known = {(5, GATEWAY): known}
    judge = Judge(range(7001, 7032), {OWN_PORT}, gateways)
    mine = Address(HERE, 24)
    judge.told(
        [
            Interface(5, "wlan0", LinkKind.WIFI, True, 1500, (mine,)),
            Interface(6, "wwan0", LinkKind.CELLULAR, False, 1500, (mine,)),
        ]
    )
    return judge


def event(kind: int, body: bytes, port: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, port) + body


def link(kind: int, index: int, flags: int, family: int = 0) -> bytes:
    return event(kind, struct.pack("=BBHiII", family, 0, 1, index, flags, 0))


def address(kind: int, index: int, local: bytes, peer: bytes = b"") -> bytes:
    body = struct.pack("=BBBBI", 2, 24, 0, 0, index) + pack_attribute(1, peer or local)
    return event(kind, body + (pack_attribute(2, local) if peer else b""))


def route(kind: int, table: int = 254, length: int = 24, flags: int = 0, port: int = 0) -> bytes:
    small = table if table < 256 else 252
    body = struct.pack("=BBBBBBBBI", 2, length, 0, 0, small, 3, 0, 1, flags)
    return event(kind, body + pack_attribute(15, struct.pack("=I", table)), port)


def rule(kind: int, protocol: int, port: int, preference: int = 900, more: bytes = b"") -> bytes:
    body = bytes(12) + pack_attribute(21, bytes([protocol])) + more
    if preference:
        body += pack_attribute(6, struct.pack("=I", preference))
    return event(kind, body, port)


def neighbour(
    kind: int, state: int, mac: str = MAC, index: int = 5, dst: bytes = GATEWAY, family: int = 2
) -> bytes:
    body = struct.pack("=BBHiHBB", family, 0, 0, index, state, 0, 1) + pack_attribute(1, dst)
    lladdr = bytes.fromhex(mac.replace(":", ""))
    return event(kind, body + (pack_attribute(2, lladdr) if mac else b""))


@pytest.mark.parametrize(
    "data",
    [
        link(17, 5, 0),
        link(16, 5, 0),
        link(16, 5, UP),
        address(21, 5, HERE),
        address(21, 5, HERE, peer=GATEWAY),
        route(25, length=0),
        route(25, length=1),
        route(25, table=51820, length=0),
    ],
)
def test_what_was_told_and_is_gone_is_a_loss(data: bytes) -> None:
    assert made().judge(data) == LOST
    assert made().judge(route(24) + data) == LOST


@pytest.mark.parametrize(
    "data",
    [
        link(16, 5, RUNNING),
        link(16, 6, 0),
        link(17, 6, 0),
        link(16, 9, 0),
        link(17, 5, 0, family=7),
        address(20, 5, HERE),
        address(21, 6, HERE),
        address(21, 5, GATEWAY),
        address(21, 5, GATEWAY, peer=HERE),
        route(24, length=0),
        route(25, length=2),
    ],
)
def test_other_events_of_links_addresses_and_routes_are_changes(data: bytes) -> None:
    assert made().judge(data) == Told.CHANGE


@pytest.mark.parametrize("table", [7001, 7031])
def test_routes_of_our_tables_say_only_that_somebody_else_touched_them(table: int) -> None:
    for kind in (24, 25):
        assert made().judge(route(kind, table, 0, port=OWN_PORT)) == Told.NOTHING
        assert made().judge(route(kind, table, 0, port=0)) == Told.NOTHING
        assert made().judge(route(kind, table, 0, port=FOREIGN_PORT)) == Told.RULES
    assert made().judge(route(25, table=7032, length=0, port=OWN_PORT)) == LOST


def test_a_rule_of_ours_that_another_removed_is_told_at_once_and_no_other() -> None:
    assert made().judge(rule(33, PROTOCOL, FOREIGN_PORT)) == Told.RULES | Told.LOSS
    assert made().judge(rule(33, PROTOCOL, 0)) == Told.RULES | Told.LOSS
    assert made().judge(rule(33, PROTOCOL, OWN_PORT)) == Told.NOTHING
    assert made().judge(rule(33, 3, FOREIGN_PORT)) == Told.NOTHING
    assert made().judge(rule(32, PROTOCOL, FOREIGN_PORT)) == Told.NOTHING


def test_a_rule_of_others_that_may_stand_before_ours_is_told_at_once() -> None:
    for preference in (0, 904, 32765):
        assert made().judge(rule(32, 3, FOREIGN_PORT, preference)) == Told.RULES | Told.LOSS
    assert made().judge(rule(32, 3, FOREIGN_PORT, 32766)) == Told.NOTHING
    assert made().judge(rule(32, 2, 0, 1000, pack_attribute(19, b"\x01"))) == Told.NOTHING, (
        "a VRF's"
    )


def test_events_of_table_local_and_of_the_route_cache_do_not_matter() -> None:
    assert not made().judge(route(24, table=255))
    assert not made().judge(route(25, table=255, length=0))
    assert not made().judge(route(24, flags=0x200))


@pytest.mark.parametrize("state", [REACHABLE, STALE, 0x08, 0x10, 0x80])
def test_a_gateway_that_is_as_it_was_told_is_no_change(state: int) -> None:
    assert not made().judge(neighbour(28, state))
    assert made(known="").judge(neighbour(28, state)) == Told.CHANGE
    assert made().judge(neighbour(28, state, "02:00:00:00:00:02")) == Told.CHANGE


@pytest.mark.parametrize("state", [INCOMPLETE, FAILED, NOARP, 0])
def test_a_gateway_that_is_not_resolved_is_a_change_only_if_it_was(state: int) -> None:
    for mac in ("", MAC):
        assert made().judge(neighbour(28, state, mac)) == Told.CHANGE
        assert not made(known="").judge(neighbour(28, state, mac))
    assert made().judge(neighbour(29, STALE)) == Told.CHANGE
    assert not made(known="").judge(neighbour(29, STALE))


@pytest.mark.parametrize(
    "data",
    [
        neighbour(28, REACHABLE, index=6),
        neighbour(28, REACHABLE, dst=bytes([10, 0, 1, 7])),
        neighbour(28, REACHABLE, dst=bytes(16), family=10),
        neighbour(28, REACHABLE, dst=b"", family=7),
        neighbour(29, STALE, index=6),
    ],
)
def test_neighbours_that_are_no_gateways_do_not_matter(data: bytes) -> None:
    assert not made().judge(data)


@pytest.mark.parametrize("mac", ["02:00", "02:" * 19 + "01"])
def test_a_hardware_address_of_another_size_is_none(mac: str) -> None:
    assert not made(known="").judge(neighbour(28, REACHABLE, mac))


EVENTS = [
    link(17, 5, 0),
    address(21, 5, HERE),
    route(25, length=0),
    route(25, 7001, port=FOREIGN_PORT),
    rule(33, PROTOCOL, FOREIGN_PORT),
    neighbour(29, STALE),
]


@given(st.binary(max_size=64))
def test_any_bytes_are_judged(data: bytes) -> None:
    assert isinstance(made().judge(data), Told)


@given(st.sampled_from(EVENTS), st.integers(1, 70))
def test_torn_events_count_as_a_change(data: bytes, cut: int) -> None:
    if torn := data[:-cut]:
        assert made().judge(torn) & Told.CHANGE


@given(st.sampled_from(EVENTS), st.data())
def test_an_event_with_any_one_byte_changed_is_judged(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    changed = bytearray(data)
    changed[at] = draw.draw(st.integers(0, 255))
    assert isinstance(made().judge(bytes(changed)), Told)
