"""What deciding a connection costs: the bare kernel, a C consumer, OpenSnitch and arbiter, side by
side on one lab. Needs root, gcc and Debian's package of OpenSnitch, which it fetches. `make bench`.

Fair is: the same connections, the same rule, the same number of other rules, everybody finds out
which process it is and refuses what no rule lets through. Each round runs all of them, one after
the other, and what they add is what their round took beyond the bare kernel's in it. Client and
consumer have a CPU each (`--cpus 0,1`) or share one (`--cpus 0,0`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from consumers import (
    AcceptAll,
    Arbiter,
    BenchError,
    NotStartedError,
    OpenSnitch,
    compiled,
    nobody,
    opensnitch_daemon,
)
from work import Bench, cpu_seconds, resident, wakeups

from arbiter.lab import Lab

Consumer = Callable[[Lab, int], AbstractContextManager[int | None]]
Results = dict[str, dict[str, list[float]]]
"""Figures of each round, by what was measured and who decided."""
BARE = "bare kernel"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "arbiter-bench"
SETTLED_SECONDS, IDLE_SECONDS = 3.0, 15.0


def consumers(options: argparse.Namespace, folder: Path, program: Path) -> dict[str, Consumer]:
    """Who is measured, by name."""
    found: dict[str, Consumer] = {BARE: nobody, "C accept-all": AcceptAll(folder)}
    daemon = None if options.without_opensnitch else opensnitch_daemon(CACHE)
    for count in options.rules:
        if daemon is not None:
            found[f"OpenSnitch, {count} rules"] = OpenSnitch(folder, program, count, daemon)
        found[f"arbiter, {count} rules"] = Arbiter(folder, program, count)
        if options.sync:
            synced = Arbiter(folder, program, count, sync=True)
            found[f"arbiter, {count} rules, audit.sync"] = synced
    return found


def round_of(
    bench: Bench, options: argparse.Namespace, pid: int | None, socket: Path | None
) -> Iterator[tuple[str, float]]:
    """All figures of one consumer in one round. `socket` is where it takes answers."""
    if options.wakeups and pid is not None:
        time.sleep(SETTLED_SECONDS)
        yield "wake-ups a minute when idle", wakeups(pid, IDLE_SECONDS)
    for crowd in options.idle:
        with bench.crowd(crowd):
            bench.latency("fresh", 50)  # caches are as warm as they get
            beside = f", {crowd} processes beside" if crowd else ""
            for kind in options.kinds:
                before = cpu_seconds(pid) if pid is not None else 0.0
                found = bench.latency(kind, options.count)
                yield f"{kind}{beside}", found.median
                yield f"{kind}{beside}, p99", found.p99
                if pid is not None:
                    spent = cpu_seconds(pid) - before
                    yield f"{kind}{beside}, CPU ms for 1000", spent / options.count * 1e6
    if options.answers and socket is not None:
        yield "from an answer to the end of connect()", bench.answered(socket, options.count // 5)
    if options.rate:
        yield "flows each second without a loss", bench.rate()
    if pid is not None:
        yield "resident MB", resident(pid)


def measured(options: argparse.Namespace) -> tuple[Results, dict[str, str]]:
    """All figures, and who could not be measured and why."""
    results: Results = {}
    failed: dict[str, str] = {}
    cpus = [int(cpu) for cpu in options.cpus.split(",")]
    # In /tmp every file that anybody makes would wake who watches the folders above its own.
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name, Lab(f"b{os.getpid()}") as lab:
        folder = Path(name)
        program = compiled("work", folder)
        bench = Bench(lab, program, cpus[0])
        who = consumers(options, folder, program)
        with bench.serving():
            for number in range(options.runs):
                for person, consumer in who.copy().items():
                    print(f"round {number + 1} of {options.runs}: {person}", file=sys.stderr)
                    socket = consumer.home / "socket" if isinstance(consumer, Arbiter) else None
                    bench.forget()
                    try:
                        with consumer(lab, cpus[1]) as pid:
                            for what, figure in round_of(bench, options, pid, socket):
                                results.setdefault(what, {}).setdefault(person, []).append(figure)
                    except NotStartedError as error:
                        print(f"left out: {person}: {error}", file=sys.stderr)
                        failed[person] = str(error)
                        del who[person]
    # One that started in the first rounds only cannot be compared with the bare kernel's rounds.
    for by_consumer in results.values():
        for person in failed.keys() & by_consumer.keys():
            del by_consumer[person]
    return results, failed


def table(results: Results) -> Iterator[str]:
    """The medians, their spread, and what each adds to the bare kernel."""
    for what, by_consumer in results.items():
        bare = by_consumer.get(BARE)
        yield f"\n{what}"
        for person, figures in by_consumer.items():
            line = f"  {person:<32}{statistics.median(figures):10.1f}"
            line += f"  ({min(figures):.1f}-{max(figures):.1f})"
            if bare is not None and person != BARE and "flows" not in what:
                added = [figure - floor for figure, floor in zip(figures, bare, strict=True)]
                line += f"   adds {statistics.median(added):8.1f}"
                other = by_consumer.get(person.replace("arbiter", "OpenSnitch"))
                if person.startswith("arbiter") and other is not None:
                    theirs = statistics.median(o - b for o, b in zip(other, bare, strict=True))
                    line += f", {statistics.median(added) / theirs:.2f} of OpenSnitch"
            yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="rounds, interleaved")
    parser.add_argument("--count", type=int, default=500, help="connections of each figure")
    parser.add_argument("--rules", default="2,10000", help="how many rules, one after the other")
    parser.add_argument(
        "--idle", default="0", help="how many processes beside, 20 descriptors each"
    )
    parser.add_argument("--kinds", default="same,paced,fresh,udp")
    parser.add_argument("--cpus", default="0,1", help="of the client and of the consumer")
    parser.add_argument("--rate", action="store_true", help="also new flows until some get lost")
    parser.add_argument(
        "--wakeups", action="store_true", help="also wake-ups while nothing happens"
    )
    parser.add_argument(
        "--answers", action="store_true", help="also what an answer takes, of arbiter alone"
    )
    parser.add_argument("--sync", action="store_true", help="also arbiter with audit.sync")
    parser.add_argument("--without-opensnitch", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.rules = [int(count) for count in options.rules.split(",")]
    options.idle = [int(count) for count in options.idle.split(",")]
    options.kinds = options.kinds.split(",")
    try:
        results, failed = measured(options)
    except BenchError as error:
        sys.exit(f"bench: {error}")
    if options.json:
        machine = {"kernel": platform.release(), "cpus": os.cpu_count(), "load": os.getloadavg()}
        print(json.dumps({"machine": machine, "figures": results, "left out": failed}, indent=1))
        return
    print(f"Linux {platform.release()}, {os.cpu_count()} CPUs; microseconds but where it is said")
    for line in table(results):
        print(line)
    for person, why in failed.items():
        print(f"\nleft out: {person}: {why}")


if __name__ == "__main__":
    main()
