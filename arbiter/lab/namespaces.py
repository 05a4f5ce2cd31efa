"""Effects on namespaces and their processes: iproute2, setns(2), /proc, pidfds."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from arbiter.lab.config import LabError

NETNS = Path("/run/netns")
"""Where ip-netns(8) keeps the names."""
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_GRACE = 0.4
"""Seconds between SIGTERM and SIGKILL."""

T = TypeVar("T")


def ip_batch(lines: Iterable[str], namespace: str = "", force: bool = False) -> str:
    """Runs `lines` with one `ip -batch`, in `namespace` if given; returns what it complained of.

    Raises LabError with iproute2's words, unless `force`: then it goes on after an error.
    """
    argv = ["ip", *(["-n", namespace] if namespace else []), *(["-force"] if force else [])]
    text = "\n".join(lines)
    try:
        done = subprocess.run([*argv, "-batch", "-"], input=text, capture_output=True, text=True)
    except FileNotFoundError:
        raise LabError("`ip` is not there: install the package iproute2") from None
    if done.returncode and not force:
        where = f" in namespace {namespace}" if namespace else ""
        raise LabError(f"`ip` refused a step of the lab{where}: {done.stderr.strip()}")
    return done.stderr.strip()


def inside(namespace: str, action: Callable[[], T]) -> T:
    """Runs `action` in a network namespace and returns its result.

    A thread of its own is spent on it; sockets that `action` makes stay in the namespace, and
    processes it starts begin there. Raises LabError.
    """

    def entered() -> T:
        enter(namespace)
        return action()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(entered).result()


def enter(namespace: str) -> None:
    """Moves this thread into a network namespace (setns(2); Python 3.11 has no os.setns).

    Raises LabError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open(NETNS / namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise LabError(f"there is no network namespace {namespace}: build the lab") from None
    try:
        if libc.setns(descriptor, _CLONE_NEWNET):
            error = os.strerror(ctypes.get_errno())
            raise LabError(f"cannot enter network namespace {namespace}: {error}; be root")
    finally:
        os.close(descriptor)


def write_sysctls(namespace: str, values: dict[str, str]) -> None:
    """Writes files under /proc/sys/net as `namespace` sees them. Raises LabError."""

    def write() -> None:
        # /proc/sys/net shows the namespace of the thread that opens it (net/sysctl_net.c).
        for name, value in values.items():
            try:
                Path("/proc/sys/net", name).write_text(value)
            except OSError as error:
                text = f"cannot set net/{name} to {value!r} in {namespace}: {error.strerror}"
                raise LabError(f"{text}; the lab needs a writable /proc/sys") from None

    inside(namespace, write)


def start_time(pid: int) -> int | None:
    """Clock ticks since boot when `pid` started (proc(5), stat field 22); None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, field 2, may hold anything, ")" too: count from the last one.
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def namespace_id(path: Path) -> tuple[int, int] | None:
    """(device, inode) by which a namespace file is known; None if it is not there for us."""
    try:
        stat = path.stat()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return stat.st_dev, stat.st_ino


def processes_in(namespaces: Iterable[str]) -> dict[int, int]:
    """pid → start time of every process in the named network namespaces that exist."""
    wanted = {namespace_id(NETNS / name) for name in namespaces} - {None}
    found: dict[int, int] = {}
    if wanted:
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and namespace_id(Path(entry.path, "ns/net")) in wanted:
                started = start_time(int(entry.name))
                if started is not None:
                    found[int(entry.name)] = started
    return found


def stop(processes: dict[int, int]) -> list[int]:
    """Ends processes, named by pid and start time: SIGTERM, and SIGKILL where that is ignored.

    A pid that was used again is left alone. Returns those that would not end within a second.
    """
    waiting: dict[int, int] = {}
    for pid, started in processes.items():
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        # Checked after opening: from here on the descriptor cannot mean another process.
        if start_time(pid) == started:
            waiting[descriptor] = pid
        else:
            os.close(descriptor)
    try:
        for number, seconds in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, 1.0)):
            for descriptor in waiting:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    signal.pidfd_send_signal(descriptor, number)
            _wait(waiting, seconds)
        return list(waiting.values())
    finally:
        for descriptor in waiting:
            os.close(descriptor)


def reap(pid: int) -> None:
    """Frees the pid of an ended server if this process started it; of nobody else's child."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _wait(waiting: dict[int, int], seconds: float) -> None:
    """Takes out of `waiting` every pidfd whose process ends in time (it polls readable then)."""
    poll = select.poll()
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    until = time.monotonic() + seconds
    while waiting and (left := until - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            poll.unregister(descriptor)
            del waiting[descriptor]
            os.close(descriptor)
