"""The faults of `soak.py`: what happens to the daemon, its ruleset, its links, its disk."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "kernel"))

from running import Arbiter, eventually, python

from arbiter.lab import Lab
from arbiter.lab.config import LINKS, SECOND4

Span = tuple[float, float]
"""Monotonic seconds in which what is denied may be reached."""
SOON = 1.0
"""Seconds in which the ruleset must be put back."""
FLUSHES_A_MINUTE = 3
"""More would be a fight, in which arbiter takes its time."""
CROWD = """
import socket, sys, time
kept = []
for number in range(int(sys.argv[2])):
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex((sys.argv[1], 7))
    kept.append(one)
time.sleep(2)
"""
FORKS = "for i in $(seq 300); do /bin/true; (exec 3<>/dev/tcp/{0}/7) 2>/dev/null; done"
QUESTIONS = "for port in {5000..5399}; do echo x >/dev/udp/198.51.100.30/$port; done"
"""No Python: who is asked may answer for the app, and that would be for the load's programs, too,
against the rules that deny them a host: an app counts more."""


class Machine:
    """The lab's host with a daemon on it, whose state is on a disk of its own if it may be."""

    def __init__(self, arbiter: Arbiter, dice: random.Random, disk: Path | None) -> None:
        self.arbiter, self.dice, self.disk = arbiter, dice, disk
        self._flushed: list[float] = []
        self._ruleset: list[str] = []

    @classmethod
    @contextmanager
    def on(cls, lab: Lab, home: Path, dice: random.Random, settings: str) -> Iterator[Machine]:
        """A daemon that runs, until the block ends."""
        image, state = home / "image", home / "state"
        state.mkdir()
        with image.open("wb") as file:
            file.truncate(8 << 30)  # it takes what is written: a gigabyte in an hour
        made = subprocess.run(["mkfs.ext4", "-q", str(image)], check=False, capture_output=True)
        mount = ["mount", "-o", "loop", str(image), str(state)]
        disk = state
        if made.returncode or subprocess.run(mount, check=False, capture_output=True).returncode:
            sys.stdout.write("no disk can be made here: `disk stands still` is left out\n")
            disk = None
        try:
            with Arbiter(lab, home, settings=settings) as arbiter:
                yield cls(arbiter, dice, disk)
        finally:
            if disk is not None:
                subprocess.run(["umount", "-l", str(disk)], check=True)

    @property
    def lab(self) -> Lab:
        return self.arbiter.lab

    @property
    def pid(self) -> int:
        assert self.arbiter.process is not None
        return self.arbiter.process.pid

    def sh(self, line: str) -> None:
        """A shell line of root's, on the lab's host; its failure is the soak's."""
        done = self.lab.run(["sh", "-c", line])
        if done.returncode:
            raise RuntimeError(f"{line}: {done.stderr}")

    def background(self, *argv: str) -> None:
        """A program that ends by itself, or with the soak."""
        programs = self.arbiter.programs
        for program in programs[:]:
            if program.poll() is not None and program.stdin is None and len(programs) > 12:
                programs.remove(program)
                if program.stdout is not None and not program.stdout.closed:
                    program.stdout.close()
        self.arbiter.program(*argv)

    def end_programs(self) -> None:
        """Nothing sends any more."""
        for program in self.arbiter.programs:
            program.kill()
            program.wait()

    def megabytes(self) -> float:
        """Resident memory of the daemon."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) / 1024

    def open_files(self) -> int:
        """Its descriptors."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def database_megabytes(self) -> float:
        """The database, as a file."""
        return (self.arbiter.home / "state" / "arbiter.db").stat().st_size / 1e6

    # --- the ruleset ------------------------------------------------------------------------

    def ruleset(self) -> list[str]:
        """Arbiter's part of it, without counters; of the backend of iptables."""
        lines: list[str] = []
        for tool in ("iptables-save", "ip6tables-save"):
            found = self.lab.run([tool]).stdout.splitlines()
            lines += [re.sub(r"\[\d+:\d+\]", "", line) for line in found if "ARBITER" in line]
        return sorted(line for line in lines if "ARBITER_MADE" not in line)

    def remember(self) -> None:
        """What it is now is what it must be."""
        self._ruleset = eventually(self.ruleset)

    def ruleset_wrong(self) -> str | None:
        """How it differs, 3 seconds long; None if it is what it was."""
        end = time.monotonic() + 3
        while (now := self.ruleset()) != self._ruleset:
            if time.monotonic() > end:
                return str(set(now) ^ set(self._ruleset))[:500]
        return None

    def damaged(self, line: str) -> Span | None:
        """Change it as another program would; nothing if that would be a fight by now."""
        now = time.monotonic()
        self._flushed = [then for then in self._flushed if then > now - 60]
        if len(self._flushed) >= FLUSHES_A_MINUTE:
            return None
        self._flushed.append(now)
        began = time.monotonic()
        self.sh(line)
        return began, time.monotonic() + SOON


class Fault(Struct, frozen=True):
    """`act` returns when it is over, with the moments in which what is denied may pass."""

    act: Callable[[Machine], Span | None]
    ends: bool = False
    """The daemon ends by it, and is started again."""


def _kill(machine: Machine) -> None:
    machine.arbiter.stop(signal.SIGKILL)
    time.sleep(machine.dice.uniform(0.0, 1.0))
    machine.arbiter.start()


def _restart(machine: Machine) -> Span:
    began = time.monotonic()
    code = machine.arbiter.stop()
    if code:
        raise RuntimeError(f"it ended with {code}")
    machine.arbiter.start()
    return began, time.monotonic()


def _stand_still(machine: Machine) -> None:
    os.kill(machine.pid, signal.SIGSTOP)
    time.sleep(machine.dice.uniform(0.2, 3.0))
    os.kill(machine.pid, signal.SIGCONT)


def _hang_up(machine: Machine) -> None:
    os.kill(machine.pid, signal.SIGHUP)


def _flush(machine: Machine) -> Span | None:
    return machine.damaged(
        machine.dice.choice(
            (
                "nft flush ruleset",
                "iptables -t mangle -F; ip6tables -t mangle -F",
                "iptables -F; ip6tables -F",
                "iptables -t mangle -D OUTPUT -j ARBITER_OUTPUT",
                "ip6tables -t mangle -R ARBITER_ASK 1 -j ACCEPT",
                "iptables -t mangle -I OUTPUT -j ACCEPT",
            )
        )
    )


def _routing(machine: Machine) -> None:
    machine.sh(
        machine.dice.choice(
            (
                "ip rule flush; ip rule add pref 32766 lookup main",
                "ip -6 rule flush; ip -6 rule add pref 32766 lookup main",
                "ip route flush table 7001; ip route flush table 7002",
            )
        )
    )


def _link_down(machine: Machine) -> None:
    """The one that is not the default route: the load goes by that."""
    link = LINKS[1]
    machine.sh(f"ip link set {link.interface} down")
    time.sleep(machine.dice.uniform(0.0, 1.0))
    machine.sh(f"ip link set {link.interface} up")
    machine.lab.mend(link.name)


def _link_storm(machine: Machine) -> None:
    device = LINKS[1].interface
    lines = [f"address {w} 10.77.{n}.1/32 dev {device}" for w in ("add", "del") for n in range(200)]
    done = machine.lab.run(["ip", "-force", "-batch", "-"], input="\n".join(lines))
    if done.returncode:
        raise RuntimeError(done.stderr)


def _crowd(machine: Machine) -> None:
    machine.background(*python(CROWD, SECOND4, "2000"))
    time.sleep(1)


def _forks(machine: Machine) -> None:
    machine.background("bash", "-c", FORKS.format(SECOND4))
    time.sleep(1)


def _questions(machine: Machine) -> None:
    machine.background("bash", "-c", QUESTIONS)
    time.sleep(1)


def _descriptors(machine: Machine) -> None:
    soft, hard = resource.prlimit(machine.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(machine.pid, resource.RLIMIT_NOFILE, (machine.open_files() + 2, hard))
    machine.background("bash", "-c", QUESTIONS)
    time.sleep(2)
    resource.prlimit(machine.pid, resource.RLIMIT_NOFILE, (soft, hard))


def _disk(machine: Machine) -> None:
    if machine.disk is None:
        return
    subprocess.run(["fsfreeze", "-f", str(machine.disk)], check=True)
    try:
        time.sleep(machine.dice.uniform(0.5, 3.0))
    finally:
        subprocess.run(["fsfreeze", "-u", str(machine.disk)], check=True)


def _garbage(machine: Machine) -> None:
    """A frontend that says what no frontend says, many times, and hangs up."""
    for _ in range(20):
        with machine.arbiter.connection() as connection:
            connection.sock.sendall(machine.dice.randbytes(3000) + b"\n")


FAULTS: Mapping[str, Fault] = {
    "kill -9": Fault(_kill, ends=True),
    "restart": Fault(_restart, ends=True),
    "kill -STOP, -CONT": Fault(_stand_still),
    "SIGHUP": Fault(_hang_up),
    "ruleset changed by others": Fault(_flush),
    "routing flushed by others": Fault(_routing),
    "a link goes and comes": Fault(_link_down),
    "400 link events": Fault(_link_storm),
    "2,000 connections at once": Fault(_crowd),
    "300 processes": Fault(_forks),
    "400 questions": Fault(_questions),
    "no descriptors": Fault(_descriptors),
    "disk stands still": Fault(_disk),
    "garbage at the socket": Fault(_garbage),
}
