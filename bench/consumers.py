"""Who decides in the benchmark, each on the same lab: nobody, a C program, OpenSnitch, arbiter.

All run on the CPU that is given, with the same rule for the benchmark's program among others that
differ in program and address, and refuse what no rule lets through: what connects was decided.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from arbiter import rules
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4
from arbiter.store import Store

PORT = 9999
PLACES, PLACES_PORT = "198.18.0.0/15", 9998
"""Addresses that the server has besides (RFC 2544's, for benchmarks)."""
HERE = Path(__file__).parent
WAIT = 120.0
"""Seconds that a consumer may take to start: OpenSnitch reads a file for each rule."""


class BenchError(Exception):
    """What keeps the benchmark from running, for people."""


class NotStartedError(BenchError):
    """A consumer that does not start, or not in time: the others are measured without it."""


def compiled(name: str, folder: Path) -> Path:
    """The program of a C file beside this one."""
    program = folder / name
    subprocess.run(["gcc", "-O2", "-o", str(program), str(HERE / f"{name}.c")], check=True)
    return program


def others(count: int) -> Iterator[tuple[str, str]]:
    """So many (program, address) that are never asked for."""
    for number in range(count):
        yield f"/opt/app{number}/bin/x", f"10.{number >> 8 & 255}.{number & 255}.1"


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[int]:
    """Its process id; it is told to end after that, and waited for."""
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:  # one that still reads its rules may be deaf
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextlib.contextmanager
def nobody(lab: Lab, cpu: int) -> Iterator[int | None]:
    """The bare kernel."""
    yield None


class AcceptAll:
    """The floor: a C program that accepts each packet of the queue at once, whoever sent it."""

    def __init__(self, folder: Path) -> None:
        self._program = compiled("accept", folder)

    @contextlib.contextmanager
    def __call__(self, lab: Lab, cpu: int) -> Iterator[int]:
        with queued(lab):
            process = lab.popen(
                ["taskset", "-c", str(cpu), str(self._program), "0"],
                stdout=subprocess.PIPE,
                text=True,
            )
            with running(process) as pid:
                said(process, "ready\n", "the C consumer")
                yield pid


@contextlib.contextmanager
def queued(lab: Lab) -> Iterator[None]:
    """New connections go to queue 0, as the others have it."""
    rule = ["OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "NFQUEUE", "--queue-num", "0"]
    for word in ("-A", "-D"):
        done = lab.run(["iptables", "-t", "mangle", word, *rule])
        if done.returncode:
            raise BenchError(f"iptables refuses the queue: {done.stderr.strip()}")
        if word == "-A":
            yield


class Arbiter:
    """This project's daemon; `command` is how it is called."""

    def __init__(
        self,
        folder: Path,
        program: Path,
        count: int,
        *,
        sync: bool = False,
        command: Sequence[str] = (sys.executable, "-P", "-m", "arbiter"),
    ) -> None:
        self._command = command
        self.home = folder / f"arbiter{count}{'sync' * sync}"
        self.home.mkdir()
        (self.home / "arbiter.toml").write_text(f"audit.sync = {str(sync).lower()}\n")
        lines = [
            f"allow app={program} host={SERVER4} port={PORT} proto={p}" for p in ("tcp", "udp")
        ]
        lines.append(f"allow app={program} port={PLACES_PORT} proto=tcp")
        for app, address in others(count - len(lines)):
            lines.append(f"allow app={app} host={address} port=443 proto=tcp")
        with Store.open(self.home / "arbiter.db") as store:
            for line in lines:
                store.remember(rules.parse(line), by="bench", created=time.time())

    @contextlib.contextmanager
    def __call__(self, lab: Lab, cpu: int) -> Iterator[int]:
        argv = ["taskset", "-c", str(cpu), *self._command, "run"]
        argv += ["--mode", "ask", "--state", str(self.home), "--config", str(self.home)]
        argv += ["--socket", str(self.home / "socket")]
        log = (self.home / "log").open("w")
        process = lab.popen(argv, stdout=subprocess.PIPE, stderr=log, text=True)
        with log, running(process) as pid:
            said(process, "ready\n", f"arbiter (see {self.home / 'log'})")
            yield pid


class OpenSnitch:
    """OpenSnitch's daemon from Debian's package, owners by /proc, without its window."""

    def __init__(self, folder: Path, program: Path, count: int, daemon: Path) -> None:
        self._daemon, self._home = daemon, folder / f"opensnitch{count}"
        (self._home / "rules").mkdir(parents=True)
        self._rule("000-bench", str(program), SERVER4, PORT, "tcp")
        self._rule("001-bench", str(program), SERVER4, PORT, "udp")
        self._rule("002-bench", str(program), "", PLACES_PORT, "tcp")
        for number, (app, address) in enumerate(others(count - 3)):
            self._rule(f"other{number}", app, address, 443, "tcp")
        config = {
            "Server": {"Address": f"unix://{self._home}/none.sock", "LogFile": "/dev/null"},
            "DefaultAction": "deny",
            "DefaultDuration": "once",
            "InterceptUnknown": False,
            "ProcMonitorMethod": "proc",
            "LogLevel": 3,
            "Firewall": "iptables",
            "Stats": {"MaxEvents": 150, "MaxStats": 25},
        }
        (self._home / "default-config.json").write_text(json.dumps(config))
        (self._home / "system-fw.json").write_text(json.dumps({"SystemRules": []}))

    def _rule(self, name: str, app: str, address: str, port: int, proto: str) -> None:
        """`address` "": wherever it is."""
        facts = {"process.path": app, "dest.ip": address, "dest.port": port, "protocol": proto}
        parts = [
            {"type": "simple", "operand": operand, "data": str(data), "sensitive": False}
            for operand, data in facts.items()
            if data
        ]
        rule = {
            "created": "2026-01-01T00:00:00Z",
            "updated": "2026-01-01T00:00:00Z",
            "name": name,
            "enabled": True,
            "precedence": False,
            "action": "allow",
            "duration": "always",
            "operator": {
                "type": "list",
                "operand": "list",
                "sensitive": False,
                "data": json.dumps(parts),
                "list": parts,
            },
        }
        (self._home / "rules" / f"{name}.json").write_text(json.dumps(rule))

    @contextlib.contextmanager
    def __call__(self, lab: Lab, cpu: int) -> Iterator[int]:
        # It reads its settings from /etc/opensnitchd only: this mount namespace has an own one.
        script = (
            "set -e; mount --make-rprivate /; mkdir -p $0/over; mount -t tmpfs none $0/over;"
            " mkdir $0/over/up $0/over/work;"
            " mount -t overlay none -o lowerdir=/etc,upperdir=$0/over/up,workdir=$0/over/work /etc;"
            " mkdir -p /etc/opensnitchd; cp $0/*.json /etc/opensnitchd;"
            ' exec taskset -c "$1" "$2" -process-monitor-method proc -queue-num 0'
            " -rules-path $0/rules -ui-socket unix://$0/none.sock -warning"
        )
        log = self._home / "log"
        with log.open("w") as file:
            argv = ["unshare", "-m", "sh", "-c", script, str(self._home), str(cpu)]
            process = lab.popen([*argv, str(self._daemon)], stdout=file, stderr=file, text=True)
        try:
            with running(process) as pid:
                self._until_it_decides(lab, process, log)
                yield pid
        finally:
            for tables in ("mangle", "filter"):  # it leaves some of its own where it is killed
                lab.run(["iptables", "-t", tables, "-F"])

    @staticmethod
    def _until_it_decides(lab: Lab, process: subprocess.Popen[str], log: Path) -> None:
        end = time.monotonic() + WAIT
        while "NFQUEUE" not in lab.run(["iptables", "-t", "mangle", "-S"]).stdout:
            if process.poll() is not None or time.monotonic() > end:
                said = log.read_text()[-500:].strip()
                raise NotStartedError(f"it did not start within {WAIT:.0f} s {said}".strip())
            time.sleep(0.1)
        time.sleep(1)  # it binds its queue before, and reads no more rules


def opensnitch_daemon(cache: Path) -> Path:
    """OpenSnitch's program out of Debian's package, which is unpacked and not installed."""
    program = cache / "usr/bin/opensnitchd"
    if not program.exists():
        if shutil.which("apt-get") is None:
            raise BenchError("OpenSnitch comes from Debian's package: this is no Debian")
        cache.mkdir(parents=True, exist_ok=True)
        argv = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "opensnitch"]
        done = subprocess.run(argv, cwd=cache, capture_output=True, text=True)
        if done.returncode:
            raise BenchError(f"OpenSnitch cannot be fetched: {done.stderr.strip()[-300:]}")
        for package in cache.glob("opensnitch_*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(cache)], check=True)
            package.unlink()
    return program


def said(process: subprocess.Popen[str], word: str, who: str) -> None:
    """Wait until a program says that it is ready."""
    assert process.stdout is not None
    if process.stdout.readline() != word:
        raise NotStartedError(f"{who} did not start")
