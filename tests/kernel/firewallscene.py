"""For the tests of the firewall: two network namespaces, a veth pair, echo servers, a consumer.

Every test runs for every backend the kernel has, and says which one it lacks. Nothing is ever put
into the namespace the tests were started in.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from arbiter.kernel.firewall import probe
from arbiter.kernel.firewall.plan import Plan
from arbiter.kernel.firewall.probe import Backend

netfilterqueue = pytest.importorskip("netfilterqueue")
KERNEL_ONLY = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
QUEUE = 7
PORT = 7000
DECIDED, DENIED = 0x20000000, 0x60000000
V4, V6 = ("10.77.0.2", "fd77::2")
NS = f"fwt{os.getpid()}"
SO_MARK = 36
IP_RECVERR, IPV6_RECVERR = 11, 25
ECHO = f"""
import selectors, socket
s = selectors.DefaultSelector()
for family, kind in ((2, 1), (2, 2), (10, 1), (10, 2)):
    k = socket.socket(family, kind)
    k.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == 10:
        k.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    k.bind(("::" if family == 10 else "0.0.0.0", {PORT}))
    if kind == 1:
        k.listen(64)
    s.register(k, 1, kind)
print("ready", flush=True)
while True:
    for key, _ in s.select():
        k = key.fileobj
        if key.data == 1:
            s.register(k.accept()[0], 1, 3)
        elif key.data == 2:
            k.sendto(*k.recvfrom(2000))
        else:
            try:
                data = k.recv(2000)
            except ConnectionError:
                data = b""
            if data:
                k.sendall(data)
            else:
                s.unregister(k)
                k.close()
"""
PLAN = Plan(queue=QUEUE)
LINKED = Plan(queue=QUEUE, links=((1, "wlan0"), (31, "wwan0")), tunnels=("wg0",))
both = pytest.mark.parametrize("address", [V4, V6])
lacking: dict[str, str | None] = {}
"""What each backend lacks here, once a test of it has begun; None: nothing."""


def sh(*argv: str, text: str | None = None) -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def add(tool: str, rule: str) -> None:
    sh(tool, *rule.split())


def enter(path: str) -> None:
    """This thread, and what it starts, goes into a network namespace (setns(2))."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000):
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(fd)


@contextmanager
def served() -> Iterator[None]:
    """The peer namespace with its servers."""
    sh("ip", "netns", "add", f"{NS}b")
    server = subprocess.Popen(
        ["ip", "netns", "exec", f"{NS}b", "python3", "-c", ECHO], stdout=subprocess.PIPE
    )
    try:
        sh("ip", "-n", f"{NS}b", "link", "set", "lo", "up")
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        yield
    finally:
        server.kill()
        server.communicate()
        sh("ip", "netns", "del", f"{NS}b")


@contextmanager
def empty() -> Iterator[None]:
    """A fresh namespace without any ruleset, and this process in it."""
    os_ns = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
    back = os.open(os_ns, os.O_RDONLY | os.O_CLOEXEC)
    sh("ip", "netns", "add", f"{NS}a")
    try:
        sh("ip", "-n", f"{NS}a", "link", "set", "lo", "up")
        enter(f"/run/netns/{NS}a")
        yield
    finally:
        enter(f"/proc/self/fd/{back}")
        os.close(back)
        sh("ip", "netns", "del", f"{NS}a")


@contextmanager
def wired() -> Iterator[None]:
    """10.77.0.1, fd77::1 here, which is empty(); .2 and ::2 at the peer, which is served()."""
    sh("ip", "link", "add", "fwv0", "type", "veth", "peer", "fwv1", "netns", f"{NS}b")
    # The link-local address, too, is there at once: it took more than a second each time.
    Path("/proc/sys/net/ipv6/conf/fwv0/dad_transmits").write_text("0")
    for ns, device, last in ((f"{NS}a", "fwv0", 1), (f"{NS}b", "fwv1", 2)):
        sh("ip", "-n", ns, "addr", "add", f"10.77.0.{last}/24", "dev", device)
        sh("ip", "-n", ns, "addr", "add", f"fd77::{last}/64", "dev", device, "nodad")
        sh("ip", "-n", ns, "link", "set", device, "up")
    deadline = time.monotonic() + 10
    while "tentative" in sh("ip", "-6", "addr", "show", "dev", "fwv0"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield
    sh("ip", "link", "del", "fwv0")  # deleting the namespace would do it some time later


def usable(backend: Backend) -> Backend:
    """The same; the test is skipped if the kernel lacks it."""
    if backend.name not in lacking:
        lacking[backend.name] = probe.why_not(backend)
    if reason := lacking[backend.name]:
        pytest.skip(f"this kernel or machine lacks {backend.name}: {reason}")
    return backend


@dataclass
class Consumer:
    """Answers every queued packet with `bits` and keeps what came."""

    bits: int = DECIDED
    seen: list[tuple[bytes, int]] = field(default_factory=list)

    def flows(self) -> list[str]:
        """Protocol number and destination of each queued packet, in order."""
        out = []
        for data, _ in self.seen:
            if data[0] >> 4 == 4:
                out.append(f"{data[9]} {socket.inet_ntop(socket.AF_INET, data[16:20])}")
            else:
                out.append(f"{data[6]} {socket.inet_ntop(socket.AF_INET6, data[24:40])}")
        return out


@contextmanager
def consuming(bits: int = DECIDED) -> Iterator[Consumer]:
    consumer = Consumer(bits)
    queue = netfilterqueue.NetfilterQueue()

    def callback(packet: Any) -> None:
        consumer.seen.append((packet.get_payload(), packet.get_mark()))
        packet.set_mark(packet.get_mark() | consumer.bits)
        packet.accept()

    queue.bind(QUEUE, callback)
    wake, stop = os.pipe()

    def loop() -> None:
        while wake not in select.select([queue.get_fd(), wake], [], [])[0]:
            queue.run(block=False)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield consumer
    finally:
        os.close(stop)
        thread.join()
        queue.unbind()
        os.close(wake)


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp(address: str, mark: int = 0, seconds: float = 3.0) -> socket.socket:
    sock = socket.socket(family_of(address), socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        sock.connect((address, PORT))
    except OSError:
        sock.close()
        raise
    return sock


def udp(address: str, mark: int = 0) -> socket.socket:
    sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
    sock.settimeout(3)
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
    sock.connect((address, PORT))
    return sock


def echo(sock: socket.socket, data: bytes = b"hello") -> None:
    sock.send(data)
    assert sock.recv(2000) == data


def ping(address: str) -> socket.socket:
    """A raw socket that has just sent an echo request (RFC 792, RFC 4443)."""
    v6 = ":" in address
    proto = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
    sock = socket.socket(family_of(address), socket.SOCK_RAW, proto)
    sock.settimeout(3)
    if v6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    sock.connect((address, 0))
    body = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 77, 1)
    if not v6:
        body = body[:2] + struct.pack("!H", 0xFFFF & ~(0x0800 + 77 + 1)) + body[4:]
    sock.send(body)
    return sock


def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
