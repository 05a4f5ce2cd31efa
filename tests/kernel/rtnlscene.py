"""A network namespace with two links, and a running link watch in it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from arbiter.kernel import rtnl
from arbiter.kernel.rtnl import LinkWatch
from arbiter.lab.namespaces import inside, ip_batch
from arbiter.links import Interface

OWN_TABLES = range(7000, 7032)


class Scene:
    """A running watch, and what it told. `ip` blocks the loop, as a busy daemon would."""

    def __init__(
        self,
        namespace: str,
        receive_buffer: int | None = None,
        quiet: float = rtnl.QUIET,
        own_tables: range = OWN_TABLES,
    ) -> None:
        self.namespace = namespace
        self.told: list[tuple[Interface, ...]] = []
        self.problems: list[str] = []
        self.touched = 0
        self.answer: Callable[[], object] = lambda: None
        self.watch = LinkWatch(
            self.told.append,
            self.problems.append,
            own_tables=own_tables,
            rules_changed=self._touched,
            quiet=quiet,
            longest=max(quiet, rtnl.LONGEST),
            receive_buffer=receive_buffer,
        )

    def _touched(self) -> None:
        self.touched += 1
        self.answer()

    def ip(self, *lines: str) -> None:
        ip_batch(lines, self.namespace)

    def ip_of(self, line: str) -> None:
        """With options, which a batch cannot have: `-6 rule del ...`."""
        done = subprocess.run(
            ["ip", "-n", self.namespace, *line.split()], capture_output=True, text=True
        )
        assert done.returncode == 0, f"ip {line}: {done.stderr}"

    def now(self, name: str) -> Interface | None:
        return next((found for found in self.told[-1] if found.name == name), None)

    def there(self, name: str) -> Interface:
        found = self.now(name)
        assert found is not None, f"{name} is not among {[i.name for i in self.told[-1]]}"
        return found

    async def until(self, predicate: Callable[[], object], seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        while not predicate():
            assert time.monotonic() < deadline, f"last told: {self.told[-1]}; {self.problems}"
            await asyncio.sleep(0.005)

    async def quiet(self) -> None:
        """Long enough for every event so far to be told."""
        await asyncio.sleep(0.3)


class Overrun(socket.socket):
    """A netlink socket that has lost events, and kept none."""

    reads = 0

    def recvfrom(self, *_: object) -> tuple[bytes, object]:
        self.reads += 1
        if self.reads == 1:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        raise BlockingIOError


@contextmanager
def made_namespace() -> Iterator[str]:
    """A namespace with wlan0 and wwan0, up and with IPv4, and their far ends."""
    name = f"rtnl{os.getpid()}"
    ip_batch([f"netns add {name}"])
    try:
        lines = ["link set lo up"]
        for number, link in enumerate(("wlan0", "wwan0"), 1):
            lines += [
                f"link add {link} type veth peer name far{number}",
                f"link set {link} addrgenmode none",
                f"link set far{number} addrgenmode none",
                f"link set {link} up",
                f"link set far{number} up",
                f"addr add 10.0.{number}.2/24 dev {link}",
            ]
        ip_batch(lines, name)
        yield name
    finally:
        ip_batch([f"netns del {name}"])


def act(
    namespace: str,
    play: Callable[[Scene], Awaitable[None]],
    receive_buffer: int | None = None,
    quiet: float = rtnl.QUIET,
    own_tables: range = OWN_TABLES,
) -> Scene:
    async def run() -> Scene:
        scene = Scene(namespace, receive_buffer, quiet, own_tables)
        await scene.watch.start()
        try:
            await play(scene)
        finally:
            await scene.watch.close()
        return scene

    return inside(namespace, lambda: asyncio.run(run()))


def packed(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def gateways(interface: Interface, family: int = 4) -> list[bytes]:
    return [
        route.gateway
        for route in interface.routes
        if route.family == family and route.prefixlen == 0
    ]


async def settled(scene: Scene) -> int:
    """The number of looks, once nothing happens in the namespace any more."""
    while True:
        looks = scene.watch.looks
        await scene.quiet()
        if scene.watch.looks == looks:
            return looks
