"""Property dictionaries of the three services → NetFacts. Pure, and total: facts or defaults.

What each property means is in the services' own references (D-Bus API of NetworkManager,
nm-dbus-types; ModemManager, ModemManager-enums.h; org.freedesktop.resolve1(5)). `Objects` is what
ObjectManager.GetManagedObjects gives, variants unpacked: path → interface → property → value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

from msgspec import Struct, structs

from arbiter.bus.values import (
    MAX_ADDRESSES,
    MAX_INTERFACES,
    addresses,
    apn,
    iccid,
    interface,
    items,
    number,
    path,
    ssid,
    table,
    text,
)
from arbiter.netfacts import NetFacts

NM = "org.freedesktop.NetworkManager"
DEVICE = f"{NM}.Device"
WIRELESS = f"{NM}.Device.Wireless"
NM_MODEM = f"{NM}.Device.Modem"
ACCESS_POINT = f"{NM}.AccessPoint"
ACTIVE = f"{NM}.Connection.Active"
IP4_CONFIG = f"{NM}.IP4Config"
IP6_CONFIG = f"{NM}.IP6Config"
MM = "org.freedesktop.ModemManager1"
MODEM = f"{MM}.Modem"
MODEM_3GPP = f"{MM}.Modem.Modem3gpp"
SIM = f"{MM}.Sim"
BEARER = f"{MM}.Bearer"

MAX_MODEMS = 8
MAX_BEARERS = 16
"""Of one modem."""
MAX_PORTS = 32
"""Of one modem."""
MAX_SERVERS = MAX_INTERFACES * MAX_ADDRESSES
_PREPARE, _DEACTIVATING = 40, 110
"""NM_DEVICE_STATE: between them a device has a connection, or is getting or losing one."""
_METERED = {1: (True, False), 2: (False, False), 3: (True, True), 4: (False, True)}
"""NM_METERED_YES, _NO, _GUESS_YES, _GUESS_NO: what it is, and whether it is guessed."""
_ROAMING = {1: False, 6: False, 9: False, 5: True, 7: True, 10: True}
"""MM_MODEM_3GPP_REGISTRATION_STATE: home and roaming, each in full, for SMS only, and without CSFB
preferred. All others (searching, denied, emergency only ...) are registered nowhere: unknown."""
_PORT_NET = 2
"""MM_MODEM_PORT_TYPE_NET."""

Objects = Mapping[str, Mapping[str, Mapping[str, object]]]


class Device(Struct, frozen=True):
    """A device that NetworkManager has connected, or is connecting."""

    interface: str
    """Where its IP traffic goes: a modem's is wwan0 or ppp0, while the device is cdc-wdm0."""
    facts: NetFacts
    modem: str = ""
    """The path of the ModemManager modem it is."""
    profile: str = ""
    """The path of the profile that it was connected with, where only that may name the APN."""


class Port(Struct, frozen=True):
    """A network interface of a modem."""

    interface: str
    apn: str = ""
    dns: tuple[bytes, ...] = ()


class Modem(Struct, frozen=True):
    """What ModemManager knows of one modem."""

    path: str
    facts: NetFacts
    """SIM, operator, roaming; and, where it has one connection only, that one's APN."""
    ports: tuple[Port, ...] = ()


class Part(Struct, frozen=True):
    """What one service knows."""

    devices: tuple[Device, ...] = ()
    modems: tuple[Modem, ...] = ()
    dns: tuple[tuple[str, tuple[bytes, ...]], ...] = ()
    """systemd-resolved's: interface and servers."""


NOTHING = Part()


def objects_of(value: object) -> Objects:
    """What GetManagedObjects answered; whatever is not of its form is left out."""
    return {
        where: {name: table(properties) for name, properties in table(interfaces).items()}
        for where, interfaces in table(value).items()
        if path(where)
    }


def _at(objects: Objects, where: object, name: str) -> Mapping[str, object]:
    return objects.get(path(where), {}).get(name, {})


# --- NetworkManager -------------------------------------------------------------------------


def devices(objects: Objects) -> tuple[Device, ...]:
    """The devices of which something is known: each interface once, MAX_INTERFACES at most."""
    found: dict[str, Device] = {}
    for interfaces in objects.values():
        device = _device(objects, interfaces) if DEVICE in interfaces else None
        if device is not None and len(found) < MAX_INTERFACES:
            found.setdefault(device.interface, device)
    return tuple(found.values())


def _device(objects: Objects, own: Mapping[str, Mapping[str, object]]) -> Device | None:
    of = own[DEVICE]
    name = interface(of.get("IpInterface")) or interface(of.get("Interface"))
    state = number(of.get("State"))
    if not name or state is None or not _PREPARE <= state <= _DEACTIVATING:
        return None
    metered, guessed = _METERED.get(number(of.get("Metered")) or 0, (None, False))
    point = own.get(WIRELESS, {}).get("ActiveAccessPoint")
    servers = addresses(
        (
            *_servers(_at(objects, of.get("Ip4Config"), IP4_CONFIG)),
            *_servers(_at(objects, of.get("Ip6Config"), IP6_CONFIG)),
        )
    )
    facts = NetFacts(
        metered=metered,
        metered_guessed=guessed,
        ssid=ssid(_at(objects, point, ACCESS_POINT).get("Ssid")),
        apn=apn(own.get(NM_MODEM, {}).get("Apn")),
        dns=servers,
    )
    udi = path(of.get("Udi"))
    connection = _at(objects, of.get("ActiveConnection"), ACTIVE)
    cellular = connection.get("Type") == "gsm"
    found = Device(
        interface=name,
        facts=facts,
        modem=udi if udi.startswith("/org/freedesktop/ModemManager1/") else "",
        profile=path(connection.get("Connection")) if cellular and not facts.apn else "",
    )
    return found if found != Device(name, NetFacts()) else None


def _servers(config: Mapping[str, object]) -> Iterator[object]:
    """DNS servers of an IP4Config or IP6Config; the older property where the newer says nothing."""
    data = [table(entry).get("address") for entry in items(config.get("NameserverData"), 16)]
    return iter(data) if data else items(config.get("Nameservers"), MAX_ADDRESSES)


def profile_apn(settings: object) -> str:
    """The APN of a connection profile (Settings.Connection.GetSettings: a{sa{sv}})."""
    return apn(table(table(settings).get("gsm")).get("apn"))


# --- ModemManager ---------------------------------------------------------------------------


def references(objects: Objects) -> tuple[tuple[str, str], ...]:
    """The SIMs and bearers of the modems, path and interface: they are no managed objects."""
    found: dict[tuple[str, str], None] = {}
    for _, own in _modems(objects):
        wanted = [(path(own[MODEM].get("Sim")), SIM)]
        wanted += [(path(one), BEARER) for one in items(own[MODEM].get("Bearers"), MAX_BEARERS)]
        found.update(dict.fromkeys(pair for pair in wanted if pair[0]))
    return tuple(found)


def modems(objects: Objects) -> tuple[Modem, ...]:
    """All modems, from `objects` with what `references` names added."""
    return tuple(_modem(objects, where, own) for where, own in _modems(objects))


def _modems(objects: Objects) -> Iterator[tuple[str, Mapping[str, Mapping[str, object]]]]:
    every = ((where, own) for where, own in objects.items() if MODEM in own)
    return islice(every, MAX_MODEMS)


def _modem(objects: Objects, where: str, own: Mapping[str, Mapping[str, object]]) -> Modem:
    of, network = own[MODEM], own.get(MODEM_3GPP, {})
    ports: dict[str, Port] = {}
    for entry in items(of.get("Ports"), MAX_PORTS):
        name, kind = (*items(entry, 2), None, None)[:2]
        if kind == _PORT_NET and interface(name):
            ports[interface(name)] = Port(interface(name))
    connected: list[str] = []
    for one in items(of.get("Bearers"), MAX_BEARERS):
        bearer = _at(objects, one, BEARER)
        name = interface(bearer.get("Interface"))
        if bearer.get("Connected") is not True or not name:
            continue
        port = Port(name, apn(table(bearer.get("Properties")).get("apn")), _bearer_dns(bearer))
        ports[name] = port
        connected.append(port.apn)
    facts = NetFacts(
        sim=iccid(_at(objects, of.get("Sim"), SIM).get("SimIdentifier")),
        operator=text(network.get("OperatorName")),
        roaming=_ROAMING.get(number(network.get("RegistrationState")) or 0),
        apn=connected[0] if len(connected) == 1 else "",
    )
    return Modem(where, facts, tuple(ports.values()))


def _bearer_dns(bearer: Mapping[str, object]) -> tuple[bytes, ...]:
    configs = (table(bearer.get("Ip4Config")), table(bearer.get("Ip6Config")))
    return addresses(config.get(f"dns{n}") for config in configs for n in (1, 2, 3))


# --- systemd-resolved -----------------------------------------------------------------------


def resolved(value: object, name_of: Callable[[int], str]) -> Part:
    """The Manager's DNS property (a(iiay): index, family, address); index 0 is every link's.

    `name_of` gives the interface's name, "" where there is none.
    """
    found: dict[int, list[object]] = {}
    for entry in items(value, MAX_SERVERS):
        index, _, packed = (*items(entry, 3), None, None, None)[:3]
        index = number(index)
        if index is not None and index > 0 and isinstance(packed, bytes):
            found.setdefault(index, []).append(packed)
    named = (
        (interface(name_of(index)), addresses(servers))
        for index, servers in islice(found.items(), MAX_INTERFACES)
    )
    return Part(dns=tuple((name, servers) for name, servers in named if name and servers))


def with_former(now: Part, former: Part) -> Part:
    """What a service that has just started knows, and what its predecessor knew of interfaces that
    it does not speak of yet."""
    devices = {device.interface for device in now.devices}
    ports = {port.interface for modem in now.modems for port in modem.ports}
    names = {name for name, _ in now.dns}
    return Part(
        (*now.devices, *(one for one in former.devices if one.interface not in devices)),
        (
            *(
                one
                for one in former.modems
                if ports.isdisjoint(port.interface for port in one.ports)
            ),
            *now.modems,  # last: a path that both have is the new one's
        ),
        (*now.dns, *(one for one in former.dns if one[0] not in names)),
    )


# --- together -------------------------------------------------------------------------------


def merge(parts: Iterable[Part]) -> dict[str, NetFacts]:
    """What all services know, by interface: NetworkManager's word on price, wifi and DNS,
    ModemManager's on the SIM, its network and the APN, systemd-resolved's on DNS where
    NetworkManager has none. Interfaces of which nothing is known are left out."""
    every = tuple(parts)
    devices = {device.interface: device for part in every for device in part.devices}
    modems = {modem.path: modem for part in every for modem in part.modems}
    resolved = {name: servers for part in every for name, servers in part.dns}
    ports = {port.interface: (port, modem) for modem in modems.values() for port in modem.ports}
    merged: dict[str, NetFacts] = {}
    for name in (*devices, *ports, *resolved):
        if name in merged or len(merged) >= MAX_INTERFACES:
            continue
        device = devices.get(name, Device(name, NetFacts()))
        own, sim = device.facts, _cellular(device, ports, modems)
        facts = structs.replace(
            own,
            sim=sim.sim,
            operator=sim.operator,
            roaming=sim.roaming,
            apn=sim.apn or own.apn,
            dns=own.dns or resolved.get(name, ()) or sim.dns,
        )
        if facts != NetFacts():
            merged[name] = facts
    return merged


def _cellular(
    device: Device, ports: Mapping[str, tuple[Port, Modem]], modems: Mapping[str, Modem]
) -> NetFacts:
    """What ModemManager knows of an interface."""
    if device.interface in ports:
        port, modem = ports[device.interface]
        return structs.replace(modem.facts, apn=port.apn, dns=port.dns)
    # PPP: the bearer's interface is the serial port, and only NetworkManager knows ppp0.
    return modems[device.modem].facts if device.modem in modems else NetFacts()
