"""The three services: which of their signals matter, and what is asked of them then."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct, structs

from arbiter.bus import read
from arbiter.bus.calls import OBJECT_MANAGER, PROPERTIES, CallError, Calls
from arbiter.bus.read import Part
from arbiter.bus.values import table

RESOLVE = "org.freedesktop.resolve1"
RESOLVE_MANAGER = f"{RESOLVE}.Manager"


class Service(Struct, frozen=True):
    """A service on the bus, and how its knowledge is read."""

    title: str
    """What people call it."""
    name: str
    """Its well-known name."""
    watched: Mapping[str, frozenset[str]]
    """Interface → properties whose change may change what `read` gives. Others change all the
    time (signal strength, bit rate, byte counts), and are not looked at."""
    read: Callable[[Calls, str], Awaitable[Part]]
    """Ask the owner of the name, a unique name. Raises CallError, or OSError for no answer."""
    objects: bool = False
    """Whether objects that come and go matter as well."""

    def rules(self) -> tuple[str, ...]:
        """The match rules of its signals (D-Bus specification, "Match Rules")."""
        base = f"type='signal',sender='{self.name}',interface="
        changes = f"{base}'{PROPERTIES}',member='PropertiesChanged',arg0="
        coming = (f"{base}'{OBJECT_MANAGER}'",) if self.objects else ()
        return (*(f"{changes}'{interface}'" for interface in self.watched), *coming)

    def matters(self, interface: object, member: object, body: list[object]) -> bool:
        """Whether a signal of the service is a reason to read it anew."""
        if interface == OBJECT_MANAGER:
            return self.objects
        if interface != PROPERTIES or member != "PropertiesChanged" or len(body) != 3:
            return False
        of, changed, invalidated = body
        watched = self.watched.get(of) if isinstance(of, str) else None
        if watched is None:
            return False
        gone = invalidated if isinstance(invalidated, list) else []
        return not watched.isdisjoint(table(changed)) or any(name in watched for name in gone)


async def _network_manager(calls: Calls, owner: str) -> Part:
    managed = await calls.call(owner, "/org/freedesktop", OBJECT_MANAGER, "GetManagedObjects")
    found = read.devices(read.objects_of(managed))
    return Part(devices=tuple(await asyncio.gather(*(_named(calls, owner, d) for d in found))))


async def _named(calls: Calls, owner: str, device: read.Device) -> read.Device:
    """The device, with the APN that only its connection's profile names."""
    if not device.profile:
        return device
    try:
        settings = await calls.call(
            owner, device.profile, f"{read.NM}.Settings.Connection", "GetSettings"
        )
    except CallError:  # a profile may be deleted while it is in use
        return device
    facts = structs.replace(device.facts, apn=read.profile_apn(settings))
    return structs.replace(device, facts=facts)


async def _modem_manager(calls: Calls, owner: str) -> Part:
    root = f"/{read.MM.replace('.', '/')}"
    managed = await calls.call(owner, root, OBJECT_MANAGER, "GetManagedObjects")
    objects = dict(read.objects_of(managed))
    wanted = read.references(objects)
    answers = await asyncio.gather(*(calls.properties(owner, *one) for one in wanted))
    for (path, interface), answer in zip(wanted, answers, strict=True):
        objects[path] = {interface: table(answer)}
    return Part(modems=read.modems(objects))


async def _resolved(calls: Calls, owner: str) -> Part:
    # The manager's list has every link's servers with its index, in one answer, and is the one
    # property whose changes are signalled: those of the Link objects are not.
    path = f"/{RESOLVE.replace('.', '/')}"
    servers = await calls.call(owner, path, PROPERTIES, "Get", "ss", RESOLVE_MANAGER, "DNS")
    return read.resolved(servers, _name_of)


def _name_of(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except (OSError, OverflowError):  # gone since, or never an index
        return ""


NETWORK_MANAGER = Service(
    title="NetworkManager",
    name=read.NM,
    watched={
        read.NM: frozenset({"Devices"}),
        read.DEVICE: frozenset(
            {
                "Interface",
                "IpInterface",
                "State",
                "Metered",
                "ActiveConnection",
                "Ip4Config",
                "Ip6Config",
                "Udi",
            }
        ),
        read.WIRELESS: frozenset({"ActiveAccessPoint"}),
        read.NM_MODEM: frozenset({"Apn"}),
        read.IP4_CONFIG: frozenset({"NameserverData", "Nameservers"}),
        read.IP6_CONFIG: frozenset({"NameserverData", "Nameservers"}),
    },
    read=_network_manager,
)
"""Its objects are not watched: every access point that a scan finds is one, and a device that
comes or goes changes `Devices`."""

MODEM_MANAGER = Service(
    title="ModemManager",
    name=read.MM,
    watched={
        read.MODEM: frozenset({"Sim", "Bearers", "Ports"}),
        read.MODEM_3GPP: frozenset({"OperatorName", "RegistrationState"}),
        read.SIM: frozenset({"SimIdentifier"}),
        read.BEARER: frozenset({"Interface", "Connected", "Properties", "Ip4Config", "Ip6Config"}),
    },
    read=_modem_manager,
    objects=True,
)

RESOLVED = Service(
    title="systemd-resolved",
    name=RESOLVE,
    watched={RESOLVE_MANAGER: frozenset({"DNS"})},
    read=_resolved,
)

SERVICES = (NETWORK_MANAGER, MODEM_MANAGER, RESOLVED)
