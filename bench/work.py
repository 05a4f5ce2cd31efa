"""What is measured: connections of one process and of fresh ones, queries, losses, memory, CPU."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from answers import Answering
from consumers import PLACES, PLACES_PORT, PORT, BenchError, running, said

from arbiter.kernel import conntrack
from arbiter.kernel.netlink import ack_request
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4

TICK = os.sysconf("SC_CLK_TCK")
BURST_SECONDS = 1.0
RATES = (1000, 2000, 4000, 8000, 16000, 32000, 64000)
"""New flows each second that are tried, until some get lost."""


class Latency(NamedTuple):
    """Microseconds of one run."""

    median: float
    p99: float


class Bench:
    """The lab's server, and the programs that connect to it, pinned to one CPU."""

    def __init__(self, lab: Lab, program: Path, cpu: int) -> None:
        self.lab, self._program, self._cpu = lab, program, cpu
        self._been = 0

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """The server runs meanwhile, where the lab's internet is, and has all of PLACES, too."""
        local = ["ip", "route", "add", "local", PLACES, "dev", "lo"]
        done = self.lab.run(local, ns="wifi")
        if done.returncode:
            raise BenchError(f"no server at {PLACES}: {done.stderr.strip()}")
        with contextlib.ExitStack() as stack:
            for address, port in ((SERVER4, PORT), ("0.0.0.0", PLACES_PORT)):
                argv = [str(self._program), "serve", address, str(port)]
                process = self.lab.popen(argv, ns="wifi", stdout=subprocess.PIPE, text=True)
                stack.enter_context(running(process))
                said(process, "up\n", "the server")
            yield

    @contextlib.contextmanager
    def crowd(self, count: int, descriptors: int = 20) -> Iterator[None]:
        """So many processes sleep meanwhile."""
        if not count:
            yield
            return
        argv = [str(self._program), "idle", str(count), str(descriptors)]
        process = self.lab.popen(argv, stdout=subprocess.PIPE, text=True)
        with running(process):
            said(process, "up\n", "the crowd of processes")
            yield

    def forget(self) -> None:
        """No connection of before is known any more: each is a new one for who comes next."""
        self._been = 0

        def flush() -> None:
            with conntrack.open_netfilter() as sock:
                ack_request(sock, conntrack.CT_DELETE, 0, bytes(4), "forgetting connections")

        self.lab.inside(flush)

    def latency(self, kind: str, count: int) -> Latency:
        """Of `count` connections: `same`, `paced`, `fresh`, `roam`, `nested` or `udp` (work.c)."""
        to, port = SERVER4, PORT
        if kind == "roam":  # each place once
            to, port = str(ipaddress.ip_network(PLACES)[self._been + 1]), PLACES_PORT
            self._been += count
        told = self._run(kind, str(count), to=to, port=port)
        times = sorted(int(line) / 1000 for line in told.split())
        return Latency(statistics.median(times), times[int(len(times) * 0.99)])

    def answered(self, socket: Path, count: int) -> float:
        """Median microseconds from an answer to the end of connect(), of a program that no rule
        knows. `socket` is the daemon's."""
        stranger = self._program.with_name("stranger")
        if not stranger.exists():
            shutil.copy(self._program, stranger)
        with Answering(socket) as prompt:
            ends = [int(line) for line in self._run("asked", str(count), program=stranger).split()]
        if len(prompt.at) != len(ends):
            raise BenchError(f"{len(ends)} connections, and {len(prompt.at)} answers")
        return statistics.median(
            end / 1000 - at * 1e6 for at, end in zip(prompt.at, ends, strict=True)
        )

    def rate(self) -> int:
        """The largest of RATES at which no new flow got lost; 0 where some did at the least."""
        best = 0
        for rate in RATES:
            count = int(rate * BURST_SECONDS)
            self._heard()
            self._run("burst", str(count), str(rate))
            time.sleep(0.5)
            if self._heard() < count:
                break
            best = rate
        return best

    def _heard(self) -> int:
        """Datagrams that the server got since the last time."""

        def ask() -> int:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
                there.settimeout(5)
                there.sendto(b"?", (SERVER4, PORT))
                return int.from_bytes(there.recv(8), "little")

        return self.lab.inside(ask, "wifi")

    def _run(
        self, *words: str, program: Path | None = None, to: str = SERVER4, port: int = PORT
    ) -> str:
        program = program or self._program
        argv = ["taskset", "-c", str(self._cpu), str(program), *words, to, str(port)]
        done = self.lab.run(argv, timeout=600)
        if done.returncode:
            raise BenchError(f"the client failed ({' '.join(words)}): {done.stderr.strip()}")
        return done.stdout


def resident(pid: int) -> float:
    """MB (VmRSS)."""
    return int(_status(pid, "VmRSS:").split()[0]) / 1024


def cpu_seconds(pid: int) -> float:
    """User and system time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def wakeups(pid: int, seconds: float) -> float:
    """Times a minute that a thread of an idle process wakes up."""

    def count() -> int:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return sum(int(_status(task, "voluntary_ctxt_switches:")) for task in tasks)

    before = count()
    time.sleep(seconds)
    return (count() - before) * 60 / seconds


def _status(task: int | Path, name: str) -> str:
    path = task if isinstance(task, Path) else Path(f"/proc/{task}")
    for line in (path / "status").read_text().splitlines():
        if line.startswith(name):
            return line.removeprefix(name).strip()
    raise BenchError(f"{path} has no {name}")
