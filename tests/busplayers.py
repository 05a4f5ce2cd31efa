"""The services on busmock's bus: what their objects look like, and how they change."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from dbus_fast import Variant

V = Variant
YES, NO, GUESS_YES, GUESS_NO = 1, 2, 3, 4
HOME, SEARCHING, ROAMING = 1, 2, 5
MOCK = "org.freedesktop.DBus.Mock"
NM = "org.freedesktop.NetworkManager"
MM = "org.freedesktop.ModemManager1"
RESOLVE = "org.freedesktop.resolve1"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"


class Played:
    """A service that dbusmock plays."""

    NAME = ""
    ROOT = ""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def mock(self, path: str, member: str, signature: str, *body: Any) -> Any:
        """One of dbusmock's own methods."""
        return self.call(self.NAME, path, MOCK, member, signature, *body)

    def add(self, path: str, interface: str, **properties: Variant) -> str:
        """A new object."""
        self.mock(self.ROOT, "AddObject", "ssa{sv}a(ssss)", path, interface, properties, [])
        return path

    def extend(self, path: str, interface: str, **properties: Variant) -> None:
        """New properties of an object, of which it says nothing."""
        self.mock(path, "AddProperties", "sa{sv}", interface, properties)

    def update(self, path: str, interface: str, **properties: Variant) -> None:
        """Properties change, and it says so."""
        for name, value in properties.items():
            # Not UpdateProperties: dbusmock 0.28 cannot send an object path with it.
            self.call(self.NAME, path, PROPERTIES, "Set", "ssv", interface, name, value)


class NetworkManager(Played):
    """dbusmock's template, and what it lacks: prices, IP configurations, modems."""

    NAME = NM
    ROOT = "/org/freedesktop"
    MANAGER = "/org/freedesktop/NetworkManager"
    DEVICE = f"{NM}.Device"
    WIRELESS = f"{NM}.Device.Wireless"

    def wifi(
        self,
        interface: str,
        ssid: str,
        metered: int = 0,
        dns: tuple[str, ...] = (),
        dns6: tuple[bytes, ...] = (),
    ) -> str:
        """A connected wifi device."""
        path = str(self.mock(self.ROOT, "AddWiFiDevice", "ssi", interface, interface, 100))
        point = self.point(path, interface, ssid)
        self.extend(path, self.WIRELESS, ActiveAccessPoint=V("o", point))
        self._connect(path, metered, dns, dns6)
        return path

    def point(self, device: str, name: str, ssid: str) -> str:
        """An access point in the reach of a device."""
        return str(
            self.mock(
                self.ROOT,
                "AddAccessPoint",
                "ssssuuuyu",
                *(device, name, ssid, "00:11:22:33:44:55", 2, 2425, 5400, 82, 0x100),
            )
        )

    def modem(
        self, interface: str, modem: str = "/", apn: str = "", metered: int = GUESS_YES
    ) -> str:
        """A connected cellular device, on the control port cdc-wdm0; its profile names `apn`."""
        path = f"{self.MANAGER}/Devices/{interface}"
        profile = f"{self.MANAGER}/Settings/{interface}"
        self.add(profile, f"{NM}.Settings.Connection", Unsaved=V("b", False))
        settings = f"ret = {{'gsm': dbus.Dictionary({{'apn': {apn!r}}}, signature='sv')}}"
        connection = f"{NM}.Settings.Connection"
        self.mock(
            profile, "AddMethod", "sssss", connection, "GetSettings", "", "a{sa{sv}}", settings
        )
        active = self.add(
            f"{self.MANAGER}/ActiveConnection/{interface}",
            f"{NM}.Connection.Active",
            Connection=V("o", profile),
            Type=V("s", "gsm"),
        )
        self.add(
            path,
            self.DEVICE,
            Interface=V("s", "cdc-wdm0"),
            IpInterface=V("s", interface),
            State=V("u", 100),
            ActiveConnection=V("o", active),
        )
        self.extend(path, self.DEVICE, Udi=V("s", modem))
        self._connect(path, metered, (), ())
        self.devices(path)
        return path

    def devices(self, *new: str) -> None:
        """Devices are there now, and it says so."""
        there = self.call(NM, self.MANAGER, PROPERTIES, "Get", "ss", NM, "Devices")
        self.update(self.MANAGER, NM, Devices=V("ao", [*there.value, *new]))

    def metered(self, device: str, metered: int) -> None:
        self.update(device, self.DEVICE, Metered=V("u", metered))

    def _connect(
        self, device: str, metered: int, dns: tuple[str, ...], dns6: tuple[bytes, ...]
    ) -> None:
        name = device.rsplit("/", 1)[-1]
        data = [{"address": V("s", server)} for server in dns]
        v4 = self.add(
            f"{self.MANAGER}/IP4Config/{name}",
            f"{NM}.IP4Config",
            NameserverData=V("aa{sv}", data),
        )
        v6 = self.add(
            f"{self.MANAGER}/IP6Config/{name}",
            f"{NM}.IP6Config",
            Nameservers=V("aay", list(dns6)),
        )
        self.extend(
            device,
            self.DEVICE,
            Metered=V("u", metered),
            Ip4Config=V("o", v4),
            Ip6Config=V("o", v6),
        )


class ModemManager(Played):
    """Modems as managed objects; SIMs and bearers beside them, as ModemManager has them."""

    NAME = MM
    ROOT = "/org/freedesktop/ModemManager1"
    MODEM = f"{MM}.Modem"
    GPP = f"{MM}.Modem.Modem3gpp"

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__(call)
        managed = (
            "ret = {dbus.ObjectPath(k): o.props for k, o in objects.items() if '/Modem/' in k}"
        )
        arguments = (OBJECT_MANAGER, "GetManagedObjects", "", "a{oa{sa{sv}}}", managed)
        self.mock(self.ROOT, "AddMethod", "sssss", *arguments)

    def modem(
        self,
        number: int,
        interface: str,
        iccid: str,
        *,
        apn: str = "internet",
        operator: str = "Example Mobile",
        state: int = HOME,
        dns: tuple[str, ...] = (),
    ) -> str:
        """A modem with a SIM and a connected bearer. It says so once all of it is there."""
        config = {f"dns{at + 1}": V("s", server) for at, server in enumerate(dns)}
        bearer = self.add(
            f"{self.ROOT}/Bearer/{number}",
            f"{MM}.Bearer",
            Interface=V("s", interface),
            Connected=V("b", True),
            Properties=V("a{sv}", {"apn": V("s", apn), "allow-roaming": V("b", True)}),
            Ip4Config=V("a{sv}", {"method": V("u", 2), **config}),
        )
        path = self.add(
            f"{self.ROOT}/Modem/{number}",
            self.MODEM,
            Sim=V("o", self.sim(f"{number}", iccid)),
            Bearers=V("ao", [bearer]),
            Ports=V("a(su)", [["ttyUSB0", 3], [interface, 2]]),
        )
        self.extend(path, self.GPP, OperatorName=V("s", operator), RegistrationState=V("u", state))
        self._say("InterfacesAdded", "oa{sa{sv}}", path, {self.MODEM: {}})
        return path

    def sim(self, name: str, iccid: str) -> str:
        """A SIM; no modem has it yet."""
        return self.add(f"{self.ROOT}/SIM/{name}", f"{MM}.Sim", SimIdentifier=V("s", iccid))

    def unplug(self, modem: str) -> None:
        """The modem is gone, and it says so."""
        self.mock(self.ROOT, "RemoveObject", "s", modem)
        self._say("InterfacesRemoved", "oas", modem, [self.MODEM])

    def _say(self, member: str, signature: str, *body: Any) -> None:
        arguments = [V(kind, value) for kind, value in zip(_split(signature), body, strict=True)]
        self.mock(self.ROOT, "EmitSignal", "sssav", OBJECT_MANAGER, member, signature, arguments)


def _split(signature: str) -> tuple[str, str]:
    """The two types of an ObjectManager signal."""
    return signature[0], signature[1:]


class Resolved(Played):
    """systemd-resolved's manager."""

    NAME = RESOLVE
    ROOT = "/org/freedesktop/resolve1"

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__(call)
        self.extend(self.ROOT, f"{RESOLVE}.Manager", DNS=V("a(iiay)", []))

    def servers(self, interface: str, *addresses: bytes) -> None:
        """The DNS servers of an interface that this network namespace has."""
        index = socket.if_nametoindex(interface)
        entries = [[index, 2 if len(one) == 4 else 10, one] for one in addresses]
        self.update(self.ROOT, f"{RESOLVE}.Manager", DNS=V("a(iiay)", entries))
