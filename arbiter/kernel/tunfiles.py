"""Which tunnels a process carries: it holds their end, an open /dev/net/tun, as OpenVPN does.

Whatever is sent into such an interface comes to that process, and leaves again in packets of its
own. /proc/PID/fdinfo names the interface, but it may be one of another network namespace, where
anybody may make one of any name (slirp4netns does): so the descriptor itself is asked for its
namespace.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

_MAX_CLEAR = 1024
_CLEAR_SECONDS = 1.0
"""How long a process without such a descriptor is not looked at again, unless links change: a new
end of a tunnel is a change of links (its carrier comes)."""
_SYS_PIDFD_GETFD = 438  # asm-generic/unistd.h; the same on all machines but Alpha
_TUNGETDEVNETNS = 0x54E3  # linux/if_tun.h; EINVAL from kernels that have it not
_libc = ctypes.CDLL(None, use_errno=True)


class TunFiles:
    """The ends of this network namespace's tun and tap interfaces. Thread-safe."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        here = Path(f"{proc}/thread-self/ns/net").stat()
        self._namespace = here.st_dev, here.st_ino
        self._lock = threading.Lock()
        self._devices: dict[str, int] = {}
        self._clear: OrderedDict[tuple[int, int], float] = OrderedDict()
        """(pid, start) → until when it holds none, in monotonic seconds."""

    def use(self, devices: Mapping[str, int]) -> None:
        """These are the tun and tap interfaces that matter, by name: their indexes."""
        with self._lock:
            self._devices = dict(devices)
            self._clear.clear()

    def held_by(self, process: tuple[int, int], most: int | None = None) -> tuple[int, ...] | None:
        """The indexes of those whose end a process (pid, start) holds open.

        None if it has more than `most` descriptors, and was not looked at. While there is no such
        interface it costs nothing, and at most one look a second and process else.
        """
        if not self._devices:
            return ()
        with self._lock:
            devices, until = self._devices, self._clear.get(process, 0.0)
        if time.monotonic() < until:
            return ()
        found = self._look(process[0], devices, most)
        if found == ():
            with self._lock:
                if devices is self._devices:
                    self._clear[process] = time.monotonic() + _CLEAR_SECONDS
                    self._clear.move_to_end(process)
                    while len(self._clear) > _MAX_CLEAR:
                        self._clear.popitem(last=False)
        return found

    def _look(self, pid: int, devices: dict[str, int], most: int | None) -> tuple[int, ...] | None:
        folder = f"{self._proc}/{pid}"
        try:
            numbers = os.listdir(f"{folder}/fd")  # noqa: PTH208 - on the hot path
        except OSError:
            return ()  # it is gone, or must not be looked into: then it is as all others
        if most is not None and len(numbers) > most:
            return None
        names = (self._interface(pid, number) for number in numbers)
        return tuple({devices[name]: None for name in names if name in devices})

    def _interface(self, pid: int, number: str) -> str:
        """The interface of this namespace that a descriptor is an end of; "" for none."""
        folder = f"{self._proc}/{pid}"
        try:
            # The path is the process's own choice: a hint only.
            if not os.readlink(f"{folder}/fd/{number}").endswith("/tun"):  # noqa: PTH115 - same
                return ""
            with open(f"{folder}/fdinfo/{number}", "rb") as file:
                found = re.search(rb"^iff:\t([^\n]+)$", file.read(), re.MULTILINE)
            if found is None or _namespace_of(pid, int(number)) != self._namespace:
                return ""
        except OSError:
            return ""  # closed meanwhile, or a kernel that does not say: not known to be one
        return os.fsdecode(found[1])


def _namespace_of(pid: int, number: int) -> tuple[int, int]:
    """The network namespace of the interface that a process's descriptor is an end of.

    OSError where it is no end, or the kernel does not say.
    """
    process = os.pidfd_open(pid)
    try:
        copy = _libc.syscall(*map(ctypes.c_long, (_SYS_PIDFD_GETFD, process, number, 0)))
        if copy < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"pidfd_getfd: {os.strerror(code)}")
    finally:
        os.close(process)
    try:
        namespace = fcntl.ioctl(copy, _TUNGETDEVNETNS)
    finally:
        os.close(copy)
    try:
        found = os.fstat(namespace)
    finally:
        os.close(namespace)
    return found.st_dev, found.st_ino
