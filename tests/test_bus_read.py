"""What services say becomes facts, or nothing: whatever they say."""

from __future__ import annotations

import ast
import ipaddress
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.bus import read, values
from arbiter.bus.read import Part
from arbiter.bus.services import MODEM_MANAGER, NETWORK_MANAGER, RESOLVED
from arbiter.netfacts import NetFacts

ICCID = "8943010000000000001"
DEVICES = "/org/freedesktop/NetworkManager/Devices"
MODEMS = "/org/freedesktop/ModemManager1/Modem"
V4, V6 = ipaddress.ip_address("192.0.2.53").packed, ipaddress.ip_address("2001:db8::53").packed


def device(**properties: object) -> dict[str, Any]:
    base: dict[str, object] = {"Interface": "eth0", "State": 100, "Metered": 1}
    return {f"{DEVICES}/1": {read.DEVICE: {**base, **properties}}}


def one(objects: Any) -> NetFacts:
    (found,) = read.devices(objects)
    return found.facts


def modem(objects: dict[str, Any] | None = None, **properties: object) -> read.Modem:
    gpp = {
        key: properties.pop(key)
        for key in ("OperatorName", "RegistrationState")
        if key in properties
    }
    own: Any = {read.MODEM: properties, read.MODEM_3GPP: gpp}
    (found,) = read.modems({f"{MODEMS}/0": own, **(objects or {})})
    return found


# --- NetworkManager -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "metered", "guessed"),
    [
        (0, None, False),
        (1, True, False),
        (2, False, False),
        (3, True, True),
        (4, False, True),
        (5, None, False),
        (True, None, False),
        ("1", None, False),
    ],
)
def test_metered_is_what_networkmanager_calls_it(
    said: object, metered: object, guessed: bool
) -> None:
    # The device is kept for its modem, also where its price is unknown.
    facts = one(device(Metered=said, Udi=f"{MODEMS}/0"))
    assert (facts.metered, facts.metered_guessed) == (metered, guessed)


@pytest.mark.parametrize(
    ("state", "kept"),
    [(10, False), (30, False), (40, True), (100, True), (110, True), (120, False)],
)
def test_only_a_device_with_a_connection_counts(state: int, kept: bool) -> None:
    assert bool(read.devices(device(State=state))) is kept
    assert not read.devices(device(State="100"))


def test_facts_belong_to_the_interface_that_carries_the_traffic() -> None:
    (found,) = read.devices(device(Interface="cdc-wdm0", IpInterface="wwan0"))
    assert found.interface == "wwan0"
    (found,) = read.devices(device(IpInterface=""))
    assert found.interface == "eth0"


def test_the_ssid_is_the_active_access_points() -> None:
    objects = device()
    objects[f"{DEVICES}/1"][read.WIRELESS] = {"ActiveAccessPoint": "/ap/1"}
    objects["/ap/1"] = {read.ACCESS_POINT: {"Ssid": b"caf\xe9"}}
    objects["/ap/2"] = {read.ACCESS_POINT: {"Ssid": b"other"}}
    assert one(objects).ssid == "caf\udce9"
    objects["/ap/1"][read.ACCESS_POINT]["Ssid"] = b"x" * 33
    assert one(objects).ssid == ""


def test_dns_servers_are_read_from_the_newer_property_else_the_older() -> None:
    objects = device(Ip4Config="/ip4", Ip6Config="/ip6")
    old = struct.unpack("=I", V4)[0]
    objects["/ip4"] = {read.IP4_CONFIG: {"Nameservers": [old]}}
    objects["/ip6"] = {read.IP6_CONFIG: {"Nameservers": [V6, b"short"]}}
    assert one(objects).dns == (V4, V6)
    objects["/ip4"][read.IP4_CONFIG]["NameserverData"] = [{"address": "198.51.100.1"}, {}, "x"]
    assert one(objects).dns == (ipaddress.ip_address("198.51.100.1").packed, V6)


def test_the_apn_is_the_modem_devices_else_the_profiles() -> None:
    objects = device(ActiveConnection="/active")
    objects["/active"] = {read.ACTIVE: {"Type": "gsm", "Connection": "/profile"}}
    (found,) = read.devices(objects)
    assert found.profile == "/profile"
    assert read.profile_apn({"gsm": {"apn": "internet"}}) == "internet"
    objects[f"{DEVICES}/1"][read.NM_MODEM] = {"Apn": "mms"}
    (found,) = read.devices(objects)
    assert (found.facts.apn, found.profile) == ("mms", "")
    objects["/active"][read.ACTIVE]["Type"] = "802-11-wireless"
    objects[f"{DEVICES}/1"][read.NM_MODEM] = {}
    assert read.devices(objects)[0].profile == ""


def test_unconnected_devices_take_no_place_of_others() -> None:
    many = {
        f"{DEVICES}/x{n}": {read.DEVICE: {"Interface": f"x{n}", "State": 100}} for n in range(99)
    }
    assert one(read.objects_of({**many, **device()})).metered


# --- ModemManager ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "roaming"),
    [
        *((0, None), (1, False), (2, None), (3, None), (4, None), (5, True), (6, False)),
        *((7, True), (8, None), (9, False), (10, True), (11, None), ("5", None), (True, None)),
    ],
)
def test_roaming_is_known_only_where_the_modem_is_registered(
    state: object, roaming: object
) -> None:
    assert modem(RegistrationState=state).facts.roaming is roaming


@pytest.mark.parametrize(
    ("said", "sim"),
    [
        (ICCID, ICCID),
        (f"{ICCID}F", ICCID),
        (f"{ICCID[:-1]}ff", ICCID[:-1]),
        (f"{ICCID}00", ""),
        (ICCID[:17], ""),
        ("8943 01000000000000", ""),
        ("٨" * 19, ""),  # digits of another script
        (8943010000000000001, ""),
    ],
)
def test_a_sim_is_its_digits_or_unknown(said: object, sim: str) -> None:
    assert modem({"/sim": {read.SIM: {"SimIdentifier": said}}}, Sim="/sim").facts.sim == sim


def bearer(interface: str, apn: str, connected: object = True) -> dict[str, Any]:
    return {
        read.BEARER: {"Interface": interface, "Connected": connected, "Properties": {"apn": apn}}
    }


def test_each_bearer_has_its_own_apn() -> None:
    objects = {
        "/b/1": bearer("qmapmux0.0", "internet"),
        "/b/2": bearer("qmapmux0.1", "mms"),
        "/b/3": bearer("wwan0", "old", connected=False),
        "/b/4": bearer("wwan0", "old", connected=1),
    }
    found = modem(
        objects, Bearers=[*objects, "/b/5", 7], Ports=[["wwan0", 2], ["ttyUSB0", 3], 1, []]
    )
    assert {port.interface: port.apn for port in found.ports} == {
        "wwan0": "",
        "qmapmux0.0": "internet",
        "qmapmux0.1": "mms",
    }
    assert found.facts.apn == "", "of two connections none is the modem's"


def test_sims_and_bearers_are_asked_for_within_bounds() -> None:
    own = {read.MODEM: {"Sim": "/sim", "Bearers": [f"/b/{n}" for n in range(1000)]}}
    wanted = read.references({f"{MODEMS}/{n}": own for n in range(1000)})
    assert wanted[0] == ("/sim", read.SIM)
    assert len(wanted) == 1 + read.MAX_BEARERS
    assert read.references({f"{MODEMS}/0": {read.MODEM: {"Sim": "/", "Bearers": ["/"]}}}) == ()


# --- together -------------------------------------------------------------------------------


def test_networkmanagers_dns_goes_before_resolveds_before_the_bearers() -> None:
    a, b, c = bytes(4), bytes([1]) * 4, bytes([2]) * 4
    phone = read.Modem("/m", NetFacts(sim=ICCID), (read.Port("wwan0", "internet", (c,)),))
    parts = [
        Part(devices=(read.Device("wwan0", NetFacts(metered=True, dns=(a,))),)),
        Part(dns=(("wwan0", (b,)),)),
        Part(modems=(phone,)),
    ]
    for left in range(3):
        facts = read.merge(parts[left:])["wwan0"]
        assert facts.dns == ((a,), (b,), (c,))[left]
        assert (facts.sim, facts.apn) == (ICCID, "internet")


def test_interfaces_of_which_nothing_is_known_are_left_out() -> None:
    assert read.merge([Part(devices=(read.Device("eth0", NetFacts()),))]) == {}


def test_resolved_speaks_of_indexes() -> None:
    names = {1: "lo", 2: "eth0", 3: ""}
    said = [
        [2, 2, V4],
        [0, 2, b"\1\1\1\1"],
        [2, 10, V6],
        [3, 2, V4],
        [-1, 2, V4],
        [True, 2, V4],
        [2],
        9,
    ]
    assert read.resolved(said, lambda index: names.get(index, "")).dns == (("eth0", (V4, V6)),)


# --- signals --------------------------------------------------------------------------------


def test_only_signals_of_what_is_read_matter() -> None:
    changed, nm = "org.freedesktop.DBus.Properties", NETWORK_MANAGER
    assert nm.matters(changed, "PropertiesChanged", [read.DEVICE, {"Metered": 1}, []])
    assert nm.matters(changed, "PropertiesChanged", [read.DEVICE, {}, ["Metered"]])
    assert not nm.matters(
        changed, "PropertiesChanged", [read.WIRELESS, {"Bitrate": 1}, ["LastScan"]]
    )
    assert not nm.matters(changed, "PropertiesChanged", [read.ACCESS_POINT, {"Ssid": b""}, []])
    assert not nm.matters("org.freedesktop.DBus.ObjectManager", "InterfacesAdded", [])
    assert MODEM_MANAGER.matters("org.freedesktop.DBus.ObjectManager", "InterfacesRemoved", [])


@given(
    st.lists(
        st.one_of(
            st.text(), st.integers(), st.lists(st.text()), st.dictionaries(st.text(), st.text())
        )
    )
)
def test_no_signal_is_a_surprise(body: list[object]) -> None:
    for service in (NETWORK_MANAGER, MODEM_MANAGER, RESOLVED):
        service.matters("org.freedesktop.DBus.Properties", "PropertiesChanged", body)


# --- whatever they say ----------------------------------------------------------------------

KEYS = [
    *("Interface", "IpInterface", "State", "Metered", "Ip4Config", "Ip6Config", "Udi", "Ssid"),
    *("ActiveConnection", "Apn", "Type", "ActiveAccessPoint", "Connection", "NameserverData"),
    *("Nameservers", "address", "Sim", "Bearers", "Ports", "apn", "gsm", "OperatorName"),
    *("RegistrationState", "SimIdentifier", "Connected", "Properties", "dns1", "dns2", "dns3"),
]
INTERFACES = [
    *(read.DEVICE, read.WIRELESS, read.NM_MODEM, read.ACCESS_POINT, read.ACTIVE, read.IP4_CONFIG),
    *(read.IP6_CONFIG, read.MODEM, read.MODEM_3GPP, read.SIM, read.BEARER),
]
PATHS = ["/", "/a", "/a/b", f"{MODEMS}/0", f"{DEVICES}/1", "no path", "//", ""]
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([*range(12), 40, 100]),
    st.floats(),
    st.binary(max_size=40),
    st.text(max_size=20),
    st.sampled_from(
        [*PATHS, "eth0", "wwan0", "ppp0", "gsm", "internet", ICCID, "192.0.2.1", "fe80::1%1"]
    ),
)
said = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.integers()), inner, max_size=5),
    ),
    max_leaves=12,
)
properties = st.dictionaries(st.sampled_from(KEYS), said, max_size=12)
interfaces = st.dictionaries(st.sampled_from(INTERFACES), st.one_of(properties, said), max_size=6)
managed = st.one_of(said, st.dictionaries(st.sampled_from(PATHS), interfaces, max_size=6))


def check(facts: dict[str, NetFacts]) -> None:
    assert len(facts) <= values.MAX_INTERFACES
    for name, known in facts.items():
        assert 1 <= len(name.encode()) <= 15 and "/" not in name
        assert known.metered in (None, True, False) and known.roaming in (None, True, False)
        assert known.metered is not None or not known.metered_guessed
        assert known.sim == "" or (known.sim.isascii() and known.sim.isdigit())
        assert known.sim == "" or 18 <= len(known.sim) <= 20
        assert len(known.operator) <= values.MAX_TEXT and len(known.apn) <= 100
        assert len(known.ssid.encode(errors="surrogateescape")) <= 32
        assert len(known.dns) <= values.MAX_ADDRESSES
        assert all(type(one) is bytes and len(one) in (4, 16) for one in known.dns)


@given(managed, said, st.dictionaries(st.integers(), st.text(max_size=20)))
def test_either_facts_or_nothing_and_never_an_exception(
    objects: object, servers: object, names: dict[int, str]
) -> None:
    tidy = read.objects_of(objects)
    for where, interface in read.references(tidy):
        assert values.path(where) and interface in (read.SIM, read.BEARER)
    read.profile_apn(objects)
    parts = (
        Part(devices=read.devices(tidy), modems=read.modems(tidy)),
        read.resolved(servers, lambda index: names.get(index, "")),
    )
    check(read.merge(parts))


@given(said)
def test_a_value_is_what_it_should_be_or_unknown(value: object) -> None:
    assert values.interface(value) == "" or value == values.interface(value)
    assert values.path(value) in ("", value)
    assert len(values.address(value)) in (0, 4, 16)
    assert len(values.text(value, 5)) <= 5


@pytest.mark.parametrize(
    "name", ["eth 0", "a/b", "..", ".", "x" * 16, "é" * 8, "a:b", "a\0", "", "\ud800"]
)
def test_no_interface_has_a_name_the_kernel_forbids(name: str) -> None:
    assert values.interface(name) == ""


@pytest.mark.parametrize("module", ["values", "read"])
def test_reading_needs_no_bus(module: str) -> None:
    tree = ast.parse(Path(read.__file__).with_name(f"{module}.py").read_text())
    names = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & {"asyncio", "dbus_fast", "os", "socket"}
