"""Links, addresses and routes of a real kernel, put together: fixtures/rtnetlink."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from arbiter.kernel import rtnldump
from arbiter.kernel.netlink import Message, pack_attribute
from arbiter.kernel.rtnldump import RT_TABLE_LOCAL as LOCAL
from arbiter.kernel.rtnldump import RT_TABLE_MAIN as MAIN
from arbiter.kernel.rtnldump import _Reader, read_interfaces
from arbiter.links import Interface, Route

FIXTURES = Path(__file__).parents[1] / "fixtures" / "rtnetlink"
ROWS = [json.loads(line) for line in (FIXTURES / "debian-12.jsonl").read_text().splitlines()]
MESSAGES = [(row["list"], bytes.fromhex(row["hex"])) for row in ROWS]
OWN_TABLES = range(7000, 7032)
WLAN0 = 3
"""Its index in the fixtures."""


def read(messages: list[tuple[str, bytes]]) -> Iterator[Interface]:
    reader = _Reader(OWN_TABLES, {})
    take = {"links": reader.link, "addresses": reader.address, "routes": reader.route}
    for name, payload in messages:
        take[name](payload)
    return reader.interfaces()


def ip(packed: bytes) -> str:
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, packed)


def words(interface: Interface) -> Iterator[str]:
    """As interfaces.txt has it."""
    name = interface.name.encode("unicode_escape").decode()
    state = "up" if interface.up else "down"
    mac = f" {interface.mac}" if interface.mac else ""
    yield f"{name}: {interface.kind} {interface.driver} {state} mtu {interface.mtu}{mac}"
    for address in interface.addresses:
        yield f"  {ip(address.packed)}/{address.prefixlen}"
    yield from (f"  {route_words(route)}" for route in interface.routes)


def route_words(route: Route) -> str:
    to = f"{ip(route.dst)}/{route.prefixlen}" if route.prefixlen else f"default{route.family}"
    via = f" via {ip(route.gateway)}" if route.gateway else ""
    source = f" from {ip(route.source)}" if route.source else ""
    return f"to {to}{via} metric {route.metric}{source}"


def test_what_a_kernel_says_of_every_kind_is_what_stands_in_words() -> None:
    found = [line for interface in read(MESSAGES) for line in words(interface)]
    assert "\n".join(found) + "\n" == (FIXTURES / "interfaces.txt").read_text()


def test_the_order_of_the_messages_of_a_list_does_not_count() -> None:
    assert [*read(MESSAGES[::-1])] == [*read(MESSAGES)]


def route(dst: str, table: int) -> tuple[str, bytes]:
    """A unicast route over wlan0, as a kernel would say it."""
    network = ipaddress.ip_network(dst)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    body = struct.pack("=BBBBBBBBI", family, network.prefixlen, 0, 0, min(table, 252), 3, 0, 1, 0)
    body += pack_attribute(4, struct.pack("=I", WLAN0)) + pack_attribute(
        15, struct.pack("=I", table)
    )
    if network.prefixlen:
        body += pack_attribute(1, network.network_address.packed)
    return "routes", body


def routes(*messages: tuple[str, bytes]) -> list[str]:
    """Those of wlan0, without what is in the fixtures."""
    links = [message for message in MESSAGES if message[0] == "links"]
    (wlan0,) = (found for found in read([*links, *messages]) if found.index == WLAN0)
    return [route_words(found) for found in wlan0.routes]


def test_what_stays_on_its_link_or_on_this_host_is_no_way_out() -> None:
    for staying in ("fe80::/64", "fe80::1/128", "febf::/16", "ff00::/8", "ff3e::/16", "ffff::/16"):
        assert routes(route(staying, MAIN)) == [], staying
    for leading in ("fe00::/16", "fe7f::/16", "fec0::/16", "fd00::/8", "254.128.0.0/9"):
        assert len(routes(route(leading, MAIN))) == 1, leading
    assert routes(route("0.0.0.0/0", LOCAL), route("::/0", LOCAL), route("10.0.0.0/8", LOCAL)) == []


def test_another_tables_default_counts_where_main_has_none_of_that_family() -> None:
    elsewhere = [route("0.0.0.0/0", 51820), route("::/0", 70000), route("10.0.0.0/8", 51820)]
    both = ["to default4 metric 0", "to default6 metric 0"]
    assert routes(*elsewhere) == routes(*elsewhere, route("::/0", MAIN)) == both
    assert routes(route("0.0.0.0/0", 7001), route("::/0", 7031), route("10.0.0.0/8", 7001)) == []


def test_each_message_that_is_cut_anywhere_is_a_value_or_a_value_error() -> None:
    for name, payload in MESSAGES[::7]:
        for end in range(0, len(payload), 3):
            try:
                list(read([(name, payload[:end])]))
            except ValueError:
                continue


@pytest.mark.parametrize("lists", [0, 1, 2, 3])
def test_a_message_that_cannot_be_is_a_refusal_that_names_its_list(
    lists: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kernel:
        """Says nothing in so many lists, and then what is no message."""

        interrupted = False

        def __enter__(self) -> Kernel:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def parts(self, kind: int, body: bytes, what: str) -> Iterator[list[Message]]:
            nonlocal lists
            lists -= 1
            yield [Message(16, 2, 1, b"\2\0")] if lists < 0 else []

    name = ("interfaces", "addresses", "IPv4 routes", "IPv6 routes")[lists]
    monkeypatch.setattr(rtnldump, "Rtnetlink", Kernel)
    with pytest.raises(OSError, match=f"listing {name}: .* message of 2 bytes"):
        asyncio.run(read_interfaces(OWN_TABLES))
