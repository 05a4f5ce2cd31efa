"""What the audit costs with many records: views, filters and commands, and what writing takes.

python bench/audit.py [--records 10000000] [--db PATH] [--rounds 5] [--connect] [--json]

Makes a database (bench/auditdata.py) at `--db`, or uses the one that is there, and never writes to
it: what writes, writes to copies. Figures are medians of rounds in this process, warm: nothing of
the start of Python, everything of the command else; of the processor (other work on the machine
does not count). Beside them what writing 500 records takes, as the daemon's thread does it, with
none and with all records in the database.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import auditdata
from auditdata import END
from click.testing import CliRunner
from consumers import Arbiter, compiled
from work import Bench

from arbiter import cli
from arbiter.lab import Lab
from arbiter.records import Progress, State
from arbiter.store import Store
from arbiter.store.rows import Kept

APP = "/usr/lib/program0/bin/program0"
RARE = "/usr/lib/program140/bin/program140"
VIEWS = (
    *("top_apps", "top_destinations", "denied", "unused_rules", "usage_by_month"),
    *("new_destinations", "changed_executables", "answers"),
)
FILTERS: dict[str, tuple[str, ...]] = {
    "none": (),
    "since": ("--since", str(END - 86400)),
    "until": ("--until", str(END - 200 * 86400)),
    "app, common": ("--app", APP),
    "app, rare": ("--app", RARE),
    "app, pattern": ("--app", "*program1*"),
    "user": ("--user", "dave"),
    "host, address": ("--host", "20.1.2.7"),
    "host, name": ("--host", "www77.site77.example"),
    "host, domain": ("--host", "*.site77.example"),
    "host, network": ("--host", "20.0.0.0/12"),
    "host, scope": ("--host", "internet"),
    "port": ("--port", "22"),
    "ports": ("--port", "1024-9000"),
    "proto": ("--proto", "udp"),
    "link": ("--link", "lte"),
    "decision": ("--decision", "deny"),
    "rule": ("--rule", "13"),
    "rule of a file": ("--rule", "/etc/arbiter/policy.d/x.toml:1"),
    "by": ("--by", "alice"),
    "reason": ("--reason", "answer"),
    "two that never meet": ("--app", APP, "--user", "dave"),
    "three that hardly meet": ("--port", "22", "--decision", "deny", "--reason", "answer"),
}  # fmt: skip
COMMANDS: dict[str, tuple[str, ...]] = {
    "summary": ("summary",),
    "summary, 7 days": ("summary", "--since", str(END - 7.3 * 86400)),
    "summary, 30 days": ("summary", "--since", str(END - 30.3 * 86400)),
    "summary, 300 days": ("summary", "--since", str(END - 300.3 * 86400)),
    "summary, denied": ("summary", "--decision", "deny"),
    "summary, host": ("summary", "--host", "*.site77.example"),
    "app, common": ("app", APP),
    "app, rare": ("app", RARE),
    "rule": ("rule", "4"),
    "diff, 7 days": ("diff", "--since", str(END - 7.3 * 86400)),
}  # fmt: skip


def timed(work: Callable[[], object], rounds: int) -> float:
    """Milliseconds, the median; once before, to have it warm."""
    work()
    taken = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        taken.append((time.process_time() - started) * 1000)
    return statistics.median(taken)


def command(database: Path, *argv: str) -> None:
    moments = [word for word in argv if word.startswith("17") and "." in word]
    argv = tuple(_local(word) if word in moments else word for word in argv)
    done = CliRunner(env={"ARBITER_DB": str(database)}).invoke(cli.cli, ["audit", *argv, "--json"])
    if done.exit_code:
        sys.exit(f"arbiter audit {' '.join(argv)}: {done.output}")


def _local(word: str) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(float(word)).isoformat()


def view(database: Path, name: str) -> None:
    db = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    db.execute(f"SELECT * FROM {name}").fetchall()
    db.close()


def writing(database: Path, source: Path, rounds: int) -> dict[str, float]:
    """Microseconds a record, in batches of 500: writing them, and completing them."""
    with Store.open(source, readonly=True) as store:
        records = store.decisions(limit=500 * (rounds + 1))
    with Store.open(database) as store:
        last = store.records.last()
        next_id = 1 if last is None else last.id + 1
        took: dict[str, list[float]] = {"record": [], "complete": []}
        for turn in range(rounds):
            batch = [
                Kept(next_id + n, record)
                for n, record in enumerate(records[turn * 500 : turn * 500 + 500])
            ]
            next_id += len(batch)
            started = time.process_time()
            store.record(batch)
            took["record"].append((time.process_time() - started) / len(batch) * 1e6)
            ends = [Progress(one.id, State.CLOSED, out_bytes=10**6, in_bytes=9) for one in batch]
            started = time.process_time()
            store.lives.complete(ends)
            took["complete"].append((time.process_time() - started) / len(batch) * 1e6)
    return {name: statistics.median(values) for name, values in took.items()}


def connecting(database: Path, folder: Path, rounds: int) -> dict[str, float]:
    """Microseconds of connect() in the lab (bench/connect.py): the daemon with an empty database,
    and with a copy of this one, in turns. Needs root."""
    found: dict[str, list[float]] = {}
    with Lab(f"a{os.getpid()}") as lab:
        program = compiled("work", folder)
        who = {}
        for name in ("none", "all"):
            (folder / name).mkdir()
            who[name] = Arbiter(folder / name, program, 2)
            (who[name].home / "arbiter.toml").write_text("audit.keep_days = 0\n")
        with Store.open(who["none"].home / "arbiter.db") as store:
            lines = [entry.rule for entry in store.rules(time.time(), "", None)]
        shutil.copy(database, who["all"].home / "arbiter.db")
        with Store.open(who["all"].home / "arbiter.db") as store:
            for line in lines:
                store.remember(line, by="bench", created=time.time())
        bench = Bench(lab, program, 0)
        with bench.serving():
            for _ in range(rounds):
                for name, consumer in who.items():
                    with consumer(lab, 1):
                        bench.latency("fresh", 50)
                        for kind in ("same", "fresh"):
                            measured = bench.latency(kind, 500)
                            found.setdefault(f"{kind}, of {name}", []).append(measured.median)
                            found.setdefault(f"{kind}, of {name}, p99", []).append(measured.p99)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--db", type=Path, help="kept, and used again")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-write", action="store_true", help="make no copy, measure no writing")
    parser.add_argument("--connect", action="store_true", help="also connect(); needs root")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = options.db or Path(folder, "audit.db")
        auditdata.build(database, options.records, lambda text: print(text, file=sys.stderr))
        found: dict[str, dict[str, float]] = {"view": {}, "filter": {}, "command": {}}
        for name in VIEWS:
            found["view"][name] = timed(lambda n=name: view(database, n), options.rounds)
        for table, words in (("filter", FILTERS), ("command", COMMANDS)):
            for name, argv in words.items():
                found[table][name] = timed(lambda a=argv: command(database, *a), options.rounds)
        if not options.no_write:
            copy = Path(folder, "copy.db")
            shutil.copy(database, copy)
            full = writing(copy, database, 20)
            empty = writing(Path(folder, "empty.db"), database, 20)
            found["µs a record, of none"] = empty
            found[f"µs a record, of {options.records}"] = full
        if options.connect:
            found["µs of connect()"] = connecting(database, Path(folder), options.rounds)
    show(found, as_json=options.json)


def show(found: dict[str, dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for kind, figures in found.items():
        for name, value in figures.items():
            print(f"{kind:<26} {name:<26} {value:10.1f}")


if __name__ == "__main__":
    main()
