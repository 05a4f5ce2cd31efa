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
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

from busplayers import MM, NM, RESOLVE, ModemManager, NetworkManager, Resolved
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

T = TypeVar("T")
PYTHON = "/usr/bin/python3"  # Debian's, which python3-dbusmock and dbus-python are installed for
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


@functools.cache
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
        return NetworkManager(self.call)

    def modem_manager(self) -> ModemManager:
        self.play(MM, "--is-object-manager", MM, ModemManager.ROOT, MM)
        return ModemManager(self.call)

    def resolved(self) -> Resolved:
        self.play(RESOLVE, RESOLVE, Resolved.ROOT, f"{RESOLVE}.Manager")
        return Resolved(self.call)

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
