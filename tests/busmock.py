"""A private D-Bus with NetworkManager, ModemManager and systemd-resolved played on it.

    with BusMock() as bus:
        nm = bus.network_manager()
        nm.wifi("wlan0", "cafe", metered=GUESS_YES, dns=("192.0.2.53",))
        ... FactsWatch(..., address=bus.address), or a daemon with bus.environment

The bus is a real dbus-daemon; the services are processes of Debian's python3-dbusmock, so that what
we read went over a real wire. Everything here waits for its answer, also inside an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

V = Variant
T = TypeVar("T")
YES, NO, GUESS_YES, GUESS_NO = 1, 2, 3, 4
HOME, SEARCHING, ROAMING = 1, 2, 5
MOCK = "org.freedesktop.DBus.Mock"
NM = "org.freedesktop.NetworkManager"
MM = "org.freedesktop.ModemManager1"
RESOLVE = "org.freedesktop.resolve1"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
PYTHON = "/usr/bin/python3"  # Debian's: python3-dbusmock is not on PyPI in a form that runs alone
WAIT = 20.0
CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={folder}/bus</listen>
  <servicedir>{folder}/services</servicedir>
  <policy context="default">
    <allow send_destination="*"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


def missing() -> str:
    """Why no bus can be played here; "" where it can."""
    if shutil.which("dbus-daemon") is None:
        return "dbus-daemon is not installed (Debian package dbus)"
    found = subprocess.run([PYTHON, "-c", "import dbusmock"], capture_output=True, check=False)
    return "" if found.returncode == 0 else "python3-dbusmock is not installed"


def until(predicate: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT
    while not predicate():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.01)


class BusMock:
    """The bus, the services on it, and a connection of our own to direct them."""

    def __init__(self, *, start: bool = True) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="arbiter-bus-"))  # short: sun_path is 108 bytes
        self.address = f"unix:path={self.folder}/bus"
        self.environment = {"DBUS_SYSTEM_BUS_ADDRESS": self.address}
        self._daemon: subprocess.Popen[str] | None = None
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        self._bus: MessageBus | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        (self.folder / "services").mkdir()
        (self.folder / "bus.conf").write_text(CONFIG.format(folder=self.folder))
        self._activatable()
        if start:
            self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for name in tuple(self._services):
            self.stop(name)
        self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self.folder)

    # --- the bus ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the dbus-daemon, and connect to it."""
        (self.folder / "bus").unlink(missing_ok=True)
        self._daemon = subprocess.Popen(
            ["dbus-daemon", f"--config-file={self.folder}/bus.conf", "--nofork", "--print-address"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._daemon.stdout is not None
        assert self._daemon.stdout.readline(), "dbus-daemon did not start"
        self._bus = self._wait(self._connect())

    def kill(self) -> None:
        """Kill the dbus-daemon; its services end with it, as dbusmock does."""
        daemon, self._daemon = self._daemon, None
        bus, self._bus = self._bus, None
        if bus is not None:
            self._wait(self._disconnect(bus))
        if daemon is not None:
            daemon.kill()
            daemon.wait()
            assert daemon.stdout is not None
            daemon.stdout.close()
        for name in tuple(self._services):
            self.stop(name)

    def _activatable(self) -> None:
        """Each service could be started by the bus: then a file shows that somebody made it."""
        for name in (NM, MM, RESOLVE):
            (self.folder / "services" / f"{name}.service").write_text(
                f"[D-BUS Service]\nName={name}\nExec=/usr/bin/touch {self.folder}/activated\n"
            )

    @property
    def activated(self) -> bool:
        """Whether somebody made the bus start a service."""
        return (self.folder / "activated").exists()

    # --- services ---------------------------------------------------------------------------

    def play(self, name: str, *arguments: str) -> None:
        """Start dbusmock as the owner of a name, and wait until it answers."""
        assert name not in self._services
        self._services[name] = subprocess.Popen(
            [PYTHON, "-m", "dbusmock", "--session", *arguments],
            env={"PATH": "/usr/bin:/bin", "DBUS_SESSION_BUS_ADDRESS": self.address},
            stdout=subprocess.DEVNULL,
        )
        until(lambda: self.owner(name), f"an owner of {name}")
        self.call(name, "/", "org.freedesktop.DBus.Peer", "Ping")  # it reads once it is set up

    def stop(self, name: str) -> None:
        """The service is gone at once, as after a crash."""
        process = self._services.pop(name)
        process.kill()
        process.wait()
        if self._bus is not None:
            until(lambda: not self.owner(name), f"the end of {name}")

    def freeze(self, name: str) -> None:
        """The service keeps its name, and answers nothing."""
        os.kill(self._services[name].pid, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        os.kill(self._services[name].pid, signal.SIGCONT)

    def owner(self, name: str) -> str:
        bus = "org.freedesktop.DBus"
        with contextlib.suppress(AssertionError):
            found = self.call(bus, "/org/freedesktop/DBus", bus, "GetNameOwner", "s", name)
            return str(found)
        return ""

    def network_manager(self) -> NetworkManager:
        self.play(NM, "--template", "networkmanager")
        return NetworkManager(self)

    def modem_manager(self) -> ModemManager:
        self.play(MM, "--is-object-manager", MM, ModemManager.ROOT, MM)
        return ModemManager(self)

    def resolved(self) -> Resolved:
        self.play(RESOLVE, RESOLVE, Resolved.ROOT, f"{RESOLVE}.Manager")
        return Resolved(self)

    # --- calls ------------------------------------------------------------------------------

    def call(
        self,
        name: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *body: Any,
        seconds: float = WAIT,
    ) -> Any:
        """A method call; its first value. TimeoutError where nobody answers in time."""
        message = Message(
            destination=name,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        assert self._bus is not None
        reply = self._wait(self._bus.call(message), seconds)
        assert reply.message_type is MessageType.METHOD_RETURN, f"{member} at {path}: {reply.body}"
        return reply.body[0] if reply.body else None

    def send(self, message: Message) -> None:
        """Send a message as it is, from us, who own no name."""

        async def send() -> None:
            assert self._bus is not None
            await self._bus.send(message)

        self._wait(send())

    def _wait(self, coroutine: Coroutine[Any, Any, T], seconds: float = WAIT) -> T:
        return asyncio.run_coroutine_threadsafe(
            asyncio.wait_for(coroutine, seconds), self._loop
        ).result()

    async def _connect(self) -> MessageBus:
        return await MessageBus(bus_address=self.address).connect()

    async def _disconnect(self, bus: MessageBus) -> None:
        bus.disconnect()
        with contextlib.suppress(EOFError, OSError):
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


class Played:
    """A service that dbusmock plays."""

    NAME = ""
    ROOT = ""

    def __init__(self, bus: BusMock) -> None:
        self.bus = bus

    def mock(self, path: str, member: str, signature: str, *body: Any) -> Any:
        """One of dbusmock's own methods."""
        return self.bus.call(self.NAME, path, MOCK, member, signature, *body)

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
            self.bus.call(self.NAME, path, PROPERTIES, "Set", "ssv", interface, name, value)


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
        there = self.bus.call(NM, self.MANAGER, PROPERTIES, "Get", "ss", NM, "Devices")
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

    def __init__(self, bus: BusMock) -> None:
        super().__init__(bus)
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

    def __init__(self, bus: BusMock) -> None:
        super().__init__(bus)
        self.extend(self.ROOT, f"{RESOLVE}.Manager", DNS=V("a(iiay)", []))

    def servers(self, interface: str, *addresses: bytes) -> None:
        """The DNS servers of an interface that this network namespace has."""
        index = socket.if_nametoindex(interface)
        entries = [[index, 2 if len(one) == 4 else 10, one] for one in addresses]
        self.update(self.ROOT, f"{RESOLVE}.Manager", DNS=V("a(iiay)", entries))
