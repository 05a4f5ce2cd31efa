"""Links from interfaces and files: what is one, what it is called, and which number it keeps."""

from __future__ import annotations

import socket
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from arbiter.kernel.linkkind import Hardware, kind_of, read_hardware
from arbiter.linkfiles import LinkFile, Match
from arbiter.linknumbers import Numbers, valid_name
from arbiter.links import (
    Address,
    FoundLink,
    Interface,
    LinkKind,
    Route,
    assemble,
    carries,
    default_routes,
    is_link,
    remember,
)
from arbiter.model import Link
from arbiter.netfacts import NetFacts
from arbiter.tariff import Price


def file_of(
    name: str = "",
    interface: str = "",
    sim: str = "",
    metered: bool | None = None,
    price: Price | None = None,
    number: int | None = None,
    origin: str = "links.d/x.toml",
) -> LinkFile:
    """As arbiter/linkfiles.py makes them, and some that it would refuse."""
    match = Match(interface=interface, sim=sim)
    return LinkFile(name, match, number, metered, price, origin=origin)


def ip(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


GATEWAY4, GATEWAY6 = ip("192.0.2.1"), ip("fe80::1")
DEFAULT4 = Route(4, b"", 0, GATEWAY4, 100)
DEFAULT6 = Route(6, b"", 0, GATEWAY6, 1024)
SUBNET4 = Route(4, ip("192.0.2.0"), 24)
HOME4, HOME6 = Address(ip("192.0.2.2"), 24), Address(ip("2001:db8::2"), 64)


def interface(
    name: str = "eth0",
    index: int = 2,
    kind: LinkKind = LinkKind.ETHERNET,
    up: bool = True,
    routes: tuple[Route, ...] = (DEFAULT4, SUBNET4),
    addresses: tuple[Address, ...] = (HOME4,),
    mac: str = "",
) -> Interface:
    return Interface(index, name, kind, up, 1500, addresses, routes, mac)


# --- what is a link -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "link"),
    [
        (interface(), True),
        (interface(up=False), True),
        (interface(routes=(DEFAULT6,)), True),
        (interface("tun0", routes=(Route(4, b"", 0),)), True),
        (
            interface("tun0", routes=(Route(4, ip("0.0.0.0"), 1), Route(4, ip("128.0.0.0"), 1))),
            True,
        ),
        (interface("tun0", routes=(Route(6, ip("::"), 1), Route(6, ip("8000::"), 1))), True),
        (interface("tun0", routes=(Route(4, ip("0.0.0.0"), 1), Route(6, ip("8000::"), 1))), False),
        (interface("tun0", routes=(Route(4, ip("128.0.0.0"), 1),)), False),
        (interface("br0"), True),
        (interface("docker0", routes=(SUBNET4,)), False),
        (interface("br-5f3a", routes=(SUBNET4,)), False),
        (interface("virbr0", routes=(SUBNET4,)), False),
        (interface("veth12ab", routes=()), False),
        (interface("lo"), False),
    ],
    ids=lambda value: str(getattr(value, "name", value)),
)
def test_a_link_is_what_a_default_route_leads_over(found: Interface, link: bool) -> None:
    assert is_link(found) is link
    assert bool(assemble([found])) is link


def test_a_file_makes_any_interface_a_link_but_loopback() -> None:
    files = (file_of("lan", "veth*"), file_of("all", "lo"))
    assert is_link(interface("veth1", routes=()), files)
    assert not is_link(interface("vnet1", routes=()), files)
    assert not is_link(interface("lo"), files)
    assert not is_link(interface("veth1", routes=()), (file_of("nothing", ""),))


def test_what_was_a_link_stays_one_and_is_down_while_its_interface_exists() -> None:
    known = remember({}, assemble([interface()]))
    (lost,) = assemble([interface(up=False, routes=(), addresses=())], (), known)
    assert (lost.name, lost.number, lost.up4, lost.up6) == ("ethernet", 1, False, False)
    assert assemble([], (), known) == ()


@pytest.mark.parametrize(
    ("found", "four", "six"),
    [
        (interface(), True, False),
        (interface(up=False), False, False),
        (interface(addresses=()), False, False),
        (interface(routes=(SUBNET4,)), False, False),
        (interface(routes=(SUBNET4, Route(4, ip("10.0.0.0"), 8, GATEWAY4))), True, False),
        (interface(routes=(Route(4, ip("10.0.0.0"), 8),)), True, False),
        (interface(routes=(DEFAULT6,), addresses=(HOME6,)), False, True),
        (interface(routes=(DEFAULT6,), addresses=(HOME4,)), False, False),
        (interface(routes=(DEFAULT4,), addresses=(HOME6,)), False, False),
        (interface(routes=(DEFAULT4, DEFAULT6), addresses=(HOME4, HOME6)), True, True),
    ],
)
def test_a_family_needs_the_link_up_an_address_and_a_way_beyond_its_subnet(
    found: Interface, four: bool, six: bool
) -> None:
    assert (carries(found, 4), carries(found, 6)) == (four, six)


def test_without_a_default_route_a_link_leads_where_its_routes_do() -> None:
    wide = Route(4, ip("10.64.0.0"), 10, GATEWAY4)
    found = interface(routes=(SUBNET4, wide, DEFAULT6), addresses=(HOME4, HOME6))
    (mms,) = assemble([found], (file_of("mms", "eth0"),))
    assert mms.reach6 is None
    link = Link("mms", 1, "eth0", True, mms.up4, mms.up6, mms.reach4, mms.reach6)
    assert link.reaches(ip("10.127.255.255")) and link.reaches(ip("192.0.2.77"))
    assert not link.reaches(ip("10.128.0.0")) and not link.reaches(ip("198.51.100.1"))
    assert link.reaches(ip("2001:db8:ffff::1"))


def test_the_gateway_is_that_of_the_route_the_kernel_prefers() -> None:
    worse = Route(4, b"", 0, ip("192.0.2.9"), 600)
    both = interface(routes=(worse, DEFAULT4))
    assert default_routes(both, 4) == (DEFAULT4, worse)
    half = Route(4, ip("0.0.0.0"), 1, ip("10.8.0.1"), 700)
    other = replace(half, dst=ip("128.0.0.0"))
    assert default_routes(interface(routes=(DEFAULT4, other, half)), 4) == (half, other, DEFAULT4)
    (link,) = assemble([both])
    assert (link.gateway4, link.gateway6) == (GATEWAY4, b"")


# --- numbers --------------------------------------------------------------------------------

IDENTITIES = st.lists(st.sampled_from([f"interface e{n}" for n in range(40)]), unique=True)
PRESENT = st.lists(
    st.sampled_from([f"interface e{n}" for n in range(40)]), unique=True, max_size=31
)


def test_new_links_get_the_lowest_free_numbers_in_their_order() -> None:
    assert Numbers.assign(["b", "a"], {}) == {"b": 1, "a": 2}
    assert Numbers.assign(["c", "a"], {"a": 2, "x": 1}) == {"x": 1, "c": 3, "a": 2}


@given(st.lists(IDENTITIES, max_size=12))
def test_numbers_never_collide_and_a_known_link_never_changes_its_own(
    history: list[list[str]],
) -> None:
    known: dict[str, int] = {}
    for present in history:
        numbers = Numbers.assign(present, known)
        assert len(set(numbers.values())) == len(numbers)
        assert all(1 <= number <= 31 for number in numbers.values())
        assert len(numbers) == min(31, len(known.keys() | set(present)))
        for name in numbers.keys() & known.keys():
            assert numbers[name] == known[name]
        assert known.keys() & set(present) <= numbers.keys()
        known = numbers


@given(st.lists(PRESENT, max_size=12))
def test_whoever_is_present_has_a_number_and_only_need_makes_arbiter_forget(
    history: list[list[str]],
) -> None:
    known: dict[str, int] = {}
    for present in history:
        numbers = Numbers.assign(present, known)
        assert set(present) <= numbers.keys()
        if lost := known.keys() - numbers.keys():
            assert len(numbers) == 31
            gone = [name for name in known if name not in present]
            assert lost == set(gone[: len(lost)])
        known = numbers


def test_the_longest_absent_gives_up_its_number_when_all_are_taken() -> None:
    known = Numbers.assign([f"e{n}" for n in range(1, 32)], {})
    known = Numbers.assign([f"e{n}" for n in range(1, 32) if n != 7], known)
    known = Numbers.assign([f"e{n}" for n in range(2, 32) if n != 7], known)
    full = Numbers.assign(["new", *(f"e{n}" for n in range(2, 32) if n != 7)], known)
    assert full["new"] == 7
    assert "e7" not in full
    assert full["e1"] == 1
    again = Numbers.assign(["new", "newer", *(f"e{n}" for n in range(2, 32) if n != 7)], full)
    assert again["newer"] == 1
    crowd = Numbers.assign([f"x{n}" for n in range(32)], {})
    assert len(crowd) == 31
    assert "x31" not in crowd


def test_only_a_file_takes_a_number_from_somebody() -> None:
    known = {"a": 1, "b": 2, "c": 3}
    numbers = Numbers.assign(["a", "b"], known, {"b": 1})
    assert numbers == {"c": 3, "a": 2, "b": 1}
    reserved = Numbers.assign(["a"], {}, {"absent": 1})
    assert reserved == {"a": 2}


@given(st.dictionaries(st.text(max_size=3), st.integers(-2, 40)), st.lists(st.text(max_size=3)))
def test_what_cannot_be_true_of_a_stored_assignment_is_forgotten(
    known: dict[str, int], present: list[str]
) -> None:
    numbers = Numbers.assign(present, known)
    assert len(set(numbers.values())) == len(numbers)
    assert all(1 <= number <= 31 for number in numbers.values())


# --- identity -------------------------------------------------------------------------------


def by_interface(links: tuple[FoundLink, ...]) -> dict[str, FoundLink]:
    return {link.interface: link for link in links}


def test_hardware_keeps_name_and_number_when_its_interface_is_renamed() -> None:
    stick = interface("wlan1", 7, LinkKind.WIFI, mac="00:11:22:33:44:55")
    other = interface("eth0", 2)
    known = remember({}, assemble([stick, other]))
    moved = replace(stick, name="wlx001122334455", index=12)
    found = by_interface(assemble([other, moved], (), known))
    assert found["wlx001122334455"].number == known["wifi 00:11:22:33:44:55"]
    assert found["wlx001122334455"].name == "wifi"
    assert found["eth0"].number == known["interface eth0"]


def test_a_link_that_a_file_begins_to_name_keeps_its_number() -> None:
    two = [interface("wlan0", 2, LinkKind.WIFI), interface("wwan0", 3, LinkKind.CELLULAR)]
    known = remember({}, assemble(two))
    files = (file_of("mobile", "wwan*"),)
    found = by_interface(assemble(two[::-1], files, known))
    assert (found["wwan0"].name, found["wwan0"].number) == ("mobile", known["interface wwan0"])
    later = remember(known, assemble(two, files, known))
    assert later == {"interface wlan0": 1, "file mobile": 2}


def test_two_interfaces_with_one_hardware_address_are_two_links() -> None:
    mac = "00:11:22:33:44:55"
    found = assemble([interface("eth0", 2, mac=mac), interface("eth0.5", 3, mac=mac)])
    assert [link.identity for link in found] == [f"ethernet {mac}", "interface eth0.5"]
    assert len({link.number for link in found}) == 2


# --- names and files ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LinkKind)
def test_a_single_link_is_called_by_its_kind(kind: LinkKind) -> None:
    (link,) = assemble([interface("x0", kind=kind)])
    assert link.name == {"cellular": "lte"}.get(kind.value, kind.value)


def test_of_several_of_a_kind_the_first_known_keeps_the_name() -> None:
    old = interface("wlan5", 9, LinkKind.WIFI)
    known = remember({}, assemble([old]))
    found = by_interface(assemble([interface("wlan0", 2, LinkKind.WIFI), old], (), known))
    assert found["wlan5"].name == "wifi"
    assert found["wlan0"].name == "wlan0"


def test_a_name_from_a_file_wins_over_everybody() -> None:
    files = (file_of("wifi", "eth0"), file_of("any", "eth1"))
    found = assemble(
        [
            interface("wlan0", 2, LinkKind.WIFI),
            interface("eth0", 3),
            interface("eth1", 4, LinkKind.USB),
        ],
        files,
    )
    assert {link.interface: link.name for link in found} == {
        "wlan0": "wlan0",
        "eth0": "wifi",
        "eth1": "usb",
    }


def test_a_file_adds_its_facts() -> None:
    file = file_of(
        "lte",
        "wwan*",
        metered=True,
        price=Price(Decimal("0.02"), "EUR", "MB"),
        number=9,
        origin="l/lte.toml",
    )
    found = assemble([interface("wwan0", 3), interface("wwan1", 4), interface("eth0", 5)], (file,))
    first, second, third = (by_interface(found)[name] for name in ("wwan0", "wwan1", "eth0"))
    assert (first.name, first.number, first.identity) == ("lte", 9, "file lte")
    assert (first.metered, first.price, first.file) == (True, file.price, "l/lte.toml")
    assert (second.metered, second.price, second.file) == (True, file.price, "l/lte.toml")
    assert second.name != "lte"
    assert (third.metered, third.price, third.file) == (False, None, "")


SIM, OTHER_SIM = "8949012345678901234", "8949012345678905678"


def test_a_file_for_a_sim_comes_first_and_matches_that_sim_only() -> None:
    files = (
        file_of("b", "wwan*"),
        file_of("c", "wwan1"),
        file_of("a", "wwan*", sim=SIM),
    )
    both = [interface("wwan0", 2, LinkKind.CELLULAR), interface("wwan1", 3, LinkKind.CELLULAR)]

    def names(sim: str) -> list[str]:
        found = assemble(both, files, None, {"wwan0": NetFacts(sim=sim)})
        return [link.name for link in sorted(found, key=lambda link: link.interface)]

    assert names(SIM) == ["a", "c"]
    assert names(OTHER_SIM) == names("") == ["b", "c"]
    (only,) = assemble(both[:1], files[2:])
    assert only.name == "lte", "a SIM that nobody knows is no match"


@pytest.mark.parametrize(
    ("kind", "file", "facts", "metered", "by"),
    [
        (LinkKind.ETHERNET, None, NetFacts(), False, "guess"),
        (LinkKind.CELLULAR, None, NetFacts(), True, "guess"),
        (LinkKind.BLUETOOTH, None, NetFacts(), True, "guess"),
        (LinkKind.WIFI, None, NetFacts(metered=True), True, "NetworkManager"),
        (
            LinkKind.CELLULAR,
            None,
            NetFacts(metered=False, metered_guessed=True),
            False,
            "NetworkManager's guess",
        ),
        (LinkKind.WIFI, False, NetFacts(metered=True), False, "file"),
    ],
)
def test_a_file_says_more_than_a_service_and_that_more_than_the_kind(
    kind: LinkKind, file: bool | None, facts: NetFacts, metered: bool, by: str
) -> None:
    files = (file_of("x", "if0", metered=file),) if file is not None else ()
    (link,) = assemble([interface("if0", 2, kind)], files, None, {"if0": facts})
    assert (link.metered, link.metered_by) == (metered, by)


def test_a_price_without_a_word_on_it_means_metered() -> None:
    file = file_of("x", "if0", price=Price(Decimal("0.02"), "EUR", "MB"))
    (link,) = assemble([interface("if0", 2)], (file,))
    assert (link.metered, link.metered_by) == (True, "file")


def test_networks_are_named_as_rules_name_them() -> None:
    where = replace(
        interface("wlan0", 2, LinkKind.WIFI), gateways=((GATEWAY4, "02:00:00:00:00:01"),)
    )
    (link,) = assemble([where], (), None, {"wlan0": NetFacts(ssid="Home", sim=SIM)})
    assert link.networks == ("gateway:02:00:00:00:00:01", "ssid:Home", f"sim:{SIM}")
    (unknown,) = assemble([interface("wlan0", 2, LinkKind.WIFI)])
    assert unknown.networks == ()


def test_where_a_link_is_may_be_known_soon_while_a_gateway_is_silent() -> None:
    silent = interface("wlan0", 2, LinkKind.WIFI)
    both = replace(silent, routes=(DEFAULT4, SUBNET4, DEFAULT6))
    one, two = ((GATEWAY4, "02:00:00:00:00:01"),), (DEFAULT6.gateway, "02:00:00:00:00:01")
    for where, finding in (
        (silent, True),
        (replace(silent, gateways=one), False),
        (replace(both, gateways=one), True),
        (replace(both, gateways=(*one, two)), False),
        (replace(silent, routes=(SUBNET4,)), False),
        (replace(silent, kind=LinkKind.VPN), False),
        (replace(silent, kind=LinkKind.CELLULAR), False),
    ):
        (link,) = assemble([where], (file_of("x", "wlan0"),))
        assert link.finding is finding


def test_roaming_is_unknown_for_a_modem_nobody_speaks_of_and_no_question_elsewhere() -> None:
    found = assemble([interface("wwan0", 2, LinkKind.CELLULAR), interface("eth0", 3)])
    assert [link.roaming for link in found] == [None, False]


def test_the_first_default_route_says_which_link_comes_first() -> None:
    found = by_interface(
        assemble([interface("a", 2), interface("b", 3, routes=(SUBNET4,))], (file_of("b", "b"),))
    )
    assert found["a"].metric == 100
    assert found["b"].metric > 0xFFFFFFFF


INTERFACE_NAMES = st.one_of(
    st.sampled_from(
        ["any", "wifi", "lte", "metered", "link1", "link2", "link1-2", "eth0:1", "é", "w\udcff"]
    ),
    st.text(st.characters(exclude_characters="/\0", codec=None), min_size=1, max_size=15),
)
INTERFACES = st.lists(
    st.builds(
        interface,
        name=INTERFACE_NAMES,
        index=st.integers(2, 99),
        kind=st.sampled_from(LinkKind),
        mac=st.sampled_from(["", "00:00:00:00:00:01", "00:00:00:00:00:02"]),
    ),
    unique_by=(lambda i: i.name, lambda i: i.index),
    max_size=40,
)
FILES = st.lists(
    st.builds(
        file_of,
        name=st.sampled_from(["", "any", "lte", "home", "é", "link1", "wifi"]),
        interface=st.sampled_from(["*", "w*", "wifi", "link?", "[", ""]),
        number=st.sampled_from([None, 1, 2, 31, 77]),
    ),
    max_size=4,
)


@given(st.lists(st.tuples(INTERFACES, FILES), min_size=1, max_size=3))
def test_names_and_numbers_are_valid_and_unique_whatever_interfaces_are_called(
    scenes: list[tuple[list[Interface], list[LinkFile]]],
) -> None:
    known: dict[str, int] = {}
    for interfaces, files in scenes:
        found = assemble(interfaces, files, known)
        assert len(found) == min(31, len([i for i in interfaces if i.name != "lo"])) or files
        for values in (
            [link.name for link in found],
            [link.number for link in found],
            [link.identity for link in found],
            [link.index for link in found],
        ):
            assert len(set(values)) == len(values)
        assert all(valid_name(link.name) and 1 <= link.number <= 31 for link in found)
        assert all(link.identity.encode() for link in found)
        known = remember(known, found)
        assert {link.identity: link.number for link in found}.items() <= known.items()
        assert len(set(known.values())) == len(known)
        assert assemble(interfaces[::-1], files, known) == found


@pytest.mark.parametrize("name", ["", "any", "metered", "unmetered", "a b", "x" * 16, "é", "a\n"])
def test_what_a_rule_cannot_say_is_no_name(name: str) -> None:
    assert not valid_name(name)


# --- kinds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "driver", "arphrd", "hardware", "kind"),
    [
        ("wlan0", "veth", 1, None, "wifi"),
        ("wwan0", "veth", 1, None, "cellular"),
        ("wlan0", "veth", 1, Hardware(), "wifi"),
        ("eth0", "", 1, Hardware(bus="pci"), "ethernet"),
        ("home", "", 1, Hardware(wireless=True, devtype="wlan", bus="usb"), "wifi"),
        ("home", "", 1, Hardware(devtype="wlan"), "wifi"),
        ("wwp0s20", "", 519, Hardware(devtype="wwan", bus="usb"), "cellular"),
        ("wdm0", "wwan", 65534, None, "cellular"),
        ("rmnet_data0", "rmnet", 519, None, "cellular"),
        ("data0", "", 519, None, "cellular"),
        ("enx0123", "", 1, Hardware(bus="usb"), "usb"),
        ("usb0", "", 1, None, "usb"),
        ("enp0s1", "", 1, Hardware(devtype="bluetooth"), "bluetooth"),
        ("bnep0", "", 1, None, "bluetooth"),
        ("ppp0", "ppp", 512, None, "dialup"),
        ("dsl", "", 512, None, "dialup"),
        ("wlan9", "tun", 65534, None, "vpn"),
        ("home", "wireguard", 65534, None, "vpn"),
        ("wg0", "", 1, None, "vpn"),
        ("br0", "bridge", 1, Hardware(devtype="bridge"), "ethernet"),
        ("wlan7", "", 1, Hardware(bus="pci"), "ethernet"),
    ],
)
def test_the_surest_fact_names_the_kind(
    name: str, driver: str, arphrd: int, hardware: Hardware | None, kind: str
) -> None:
    assert kind_of(name, driver, arphrd, hardware) == LinkKind(kind)


def test_sysfs_is_believed_of_this_very_interface_only(tmp_path: Path) -> None:
    at = tmp_path / "wan"
    (at / "phy80211").mkdir(parents=True)
    (tmp_path / "bus" / "usb").mkdir(parents=True)
    (at / "device").mkdir()
    (at / "device" / "subsystem").symlink_to(tmp_path / "bus" / "usb")
    (at / "ifindex").write_text("7\n")
    (at / "address").write_text("00:11:22:33:44:55\n")
    (at / "uevent").write_text("DEVTYPE=wlan\nINTERFACE=wan\nIFINDEX=7\n")
    mac = "00:11:22:33:44:55"
    assert read_hardware("wan", 7, mac, tmp_path) == Hardware(True, "wlan", "usb")
    assert read_hardware("wan", 8, mac, tmp_path) is None
    assert read_hardware("wan", 7, "00:11:22:33:44:56", tmp_path) is None
    assert read_hardware("lan", 7, mac, tmp_path) is None
    (at / "ifindex").write_text("seven\n")
    assert read_hardware("wan", 7, mac, tmp_path) is None
