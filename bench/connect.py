"""What connect() costs with a remembered rule, beside the bare kernel, in the lab. Needs root.

python bench/connect.py [--runs 5] [--count 1000] [--rules 100,10000] [--json]

Interleaved runs, medians of the runs' medians. Client and daemon are pinned to one CPU each way:
together (`--cpus 0,0`, the queue's floor) or apart (`--cpus 0,1`).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from arbiter import rules
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4
from arbiter.store import Store

HERE = Path(__file__).parent
PORT = 9999
LISTENER = f"""
import socket, sys
s = socket.create_server(("{SERVER4}", {PORT}), backlog=4096)
print("up", flush=True)
while True:
    s.accept()[0].close()
"""


def build(folder: Path) -> Path:
    program = folder / "connect"
    subprocess.run(["gcc", "-O2", "-o", str(program), str(HERE / "connect.c")], check=True)
    return program


def measure(lab: Lab, program: Path, kind: str, count: int, cpu: int) -> list[float]:
    """Microseconds of each connect()."""
    argv = ["taskset", "-c", str(cpu), str(program), kind, str(count), SERVER4, str(PORT)]
    done = lab.run(argv, timeout=120)
    if done.returncode:
        sys.exit(f"the client failed: {done.stderr}")
    return [int(line) / 1000 for line in done.stdout.split()]


def seed(database: Path, program: Path, count: int) -> None:
    """The rule that matters, among others that differ from it in address and app."""
    with Store.open(database) as store:
        lines = [f"allow app={program} host={SERVER4} port={PORT} proto=tcp"]
        lines += [
            f"allow app=/opt/app{n}/bin/x host=10.{n >> 8 & 255}.{n & 255}.1 port=443 proto=tcp"
            for n in range(count - 1)
        ]
        for line in lines:
            store.remember(rules.parse(line), by="bench", created=time.time())


def start(lab: Lab, home: Path, cpu: int) -> subprocess.Popen[str]:
    argv = ["taskset", "-c", str(cpu), sys.executable, "-P", "-m", "arbiter", "run"]
    argv += ["--state", str(home), "--socket", str(home / "socket"), "--config", str(home)]
    daemon: subprocess.Popen[str] = lab.popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert daemon.stdout is not None
    if daemon.stdout.readline() != "ready\n":
        sys.exit("the daemon did not start")
    return daemon


def resident(pid: int) -> float:
    """MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rules", default="2,10000")
    parser.add_argument("--cpus", default="0,1")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    client_cpu, daemon_cpu = map(int, options.cpus.split(","))
    results: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, Lab(f"b{os.getpid()}") as lab:
        program = build(Path(folder))
        listener = lab.popen(
            [sys.executable, "-c", LISTENER], ns="wifi", stdout=subprocess.PIPE, text=True
        )
        assert listener.stdout is not None
        listener.stdout.readline()
        homes = {}
        for count in map(int, options.rules.split(",")):
            homes[count] = Path(folder) / f"rules{count}"
            homes[count].mkdir()
            seed(homes[count] / "arbiter.db", program, count)
        for _ in range(options.runs):
            for kind in ("same", "fresh"):
                timings = measure(lab, program, kind, options.count, client_cpu)
                results.setdefault(f"bare kernel, {kind}", []).append(statistics.median(timings))
            for count, home in homes.items():
                daemon = start(lab, home, daemon_cpu)
                measure(lab, program, "fresh", 50, client_cpu)
                for kind in ("same", "fresh"):
                    timings = measure(lab, program, kind, options.count, client_cpu)
                    name = f"arbiter, {count} rules, {kind}"
                    results.setdefault(name, []).append(statistics.median(timings))
                    results.setdefault(f"{name}, p99", []).append(
                        sorted(timings)[int(len(timings) * 0.99)]
                    )
                memory[f"{count} rules"] = resident(daemon.pid)
                daemon.send_signal(signal.SIGTERM)
                daemon.wait()
                daemon.stdout.close()  # type: ignore[union-attr]
        listener.kill()
        listener.wait()
        listener.stdout.close()
    if options.json:
        print(json.dumps({"microseconds": results, "megabytes": memory}, indent=2))
        return
    for name, values in results.items():
        print(
            f"{name:<40} {statistics.median(values):9.1f} µs  ({min(values):.1f}-{max(values):.1f})"
        )
    for name, value in memory.items():
        print(f"resident with {name:<26} {value:9.1f} MB")


if __name__ == "__main__":
    main()
