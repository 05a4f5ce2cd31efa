"""A network namespace of its own for the tests of owners, and programs with sockets in it.

Nobody answers at 10.9.0.2 and fd09::2: a SYN sent there leaves its socket in SYN_SENT. The other
users' and other programs' sockets are those of small clients, run as processes of their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arbiter.kernel.owner import OwnerLookup
from arbiter.kernel.procevents import ProcEvents
from arbiter.kernel.procfs import ProcessTable
from arbiter.model import Flow, NoOwner, NoOwnerReason, Owner, Packet

NOBODY = 65534
V4, V6 = "10.9.0.2", "fd09::2"
PRELUDE = """
import ctypes, json, os, socket, sys, threading, time
def drop(uid):
    os.setgid(uid)
    os.setuid(uid)
    assert ctypes.CDLL(None).prctl(4, 1) == 0  # dumpable again, as a program of that user is
def say(*found):
    print(json.dumps(found), flush=True)
def wait():
    sys.stdin.read()
def tcp(address, port=443):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.setblocking(False)
    s.connect_ex((address, port))
    return s
def udp(address=None, port=53, bind="0.0.0.0", bport=0):
    s = socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((bind, bport))
    if address:
        s.connect((address, port))
    return s
"""


def setns(fd: int) -> None:
    assert ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) == 0, "setns"


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)


@contextlib.contextmanager
def made_namespace() -> Iterator[str]:
    """With addresses, and neighbours who never answer."""
    name = f"arbown{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        at = ("ip", "-n", name)
        run(*at, "link", "set", "lo", "up")
        run(*at, "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        for device in ("v0", "v1"):
            run(*at, "link", "set", device, "up")
        run(*at, "address", "add", "10.9.0.1/24", "dev", "v0")
        run(*at, "address", "add", "fd09::1/64", "dev", "v0", "nodad")
        for address in (V4, V6):
            run(*at, "neigh", "add", address, "lladdr", "02:00:00:00:00:99", "dev", "v0")
        yield name
    finally:
        run("ip", "netns", "del", name)


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    setns(there)
    try:
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        yield
    finally:
        setns(home)
        os.close(home)
        os.close(there)


Client = Callable[..., tuple["subprocess.Popen[str]", list[int]]]


@contextlib.contextmanager
def clients() -> Iterator[Client]:
    """Starts a client: its process, and the numbers it says once its sockets are there."""
    with contextlib.ExitStack() as stack:

        def start(code: str, uid: int = 0) -> tuple[subprocess.Popen[str], list[int]]:
            drop = f"drop({uid})\n" if uid else ""
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", f"{PRELUDE}{drop}{code}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(finish, process)
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert isinstance(said, list)
            return process, said

        yield start


def finish(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


@contextlib.contextmanager
def looking_up(with_events: bool) -> Iterator[OwnerLookup]:
    events = None
    if with_events:
        events = ProcEvents.open()
        if events is None:
            pytest.skip("this kernel delivers no process events here")
    table = ProcessTable()
    made = OwnerLookup(table, events=events)
    yield made
    made.close()
    table.close()
    if events:
        events.close()


def packed(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def flow(proto: int, sport: int, remote: str = V4, dport: int = 443) -> Packet:
    local = "fd09::1" if ":" in remote else "10.9.0.1"
    return Packet(1, Flow(proto, packed(local), sport, packed(remote), dport))


def resolve(lookup: OwnerLookup, packet: Packet) -> Owner | NoOwner:
    quick = lookup.quick(packet)
    return lookup.scan(packet) if quick is None else quick


def owner(lookup: OwnerLookup, packet: Packet) -> Owner:
    """The owner; quick and scan must agree on it."""
    found = resolve(lookup, packet)
    assert isinstance(found, Owner), found
    scanned = lookup.scan(packet)
    assert isinstance(scanned, Owner), scanned
    assert pids(scanned) == pids(found)
    assert (scanned.uid, scanned.inode) == (found.uid, found.inode)
    return found


def pids(found: Owner | NoOwner | None) -> list[int]:
    assert isinstance(found, Owner), found
    return [process.pid for process in found.processes]


def reason(found: Owner | NoOwner | None) -> NoOwnerReason:
    assert isinstance(found, NoOwner), found
    return found.reason
