#!/usr/bin/env python3
"""What the hash chain costs: records and rule changes written with and without, and verified.

    python bench/chain.py [--records 20000] [--rounds 7] [--connect] [--upgrade 1000000]

Both are written in turns, in batches as the daemon writes them, each into a database of its own;
medians of rounds. Without: the same rows with no hash. `--connect` (root): also connections that
the daemon decides, with and without. `--upgrade`: also so many records of schema 7 brought to
schema 8, the copy before it told apart.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

from arbiter.lab import Lab
from arbiter.records import Record
from arbiter.rules import parse
from arbiter.store import Author, Kept, Store, Wanted, chain, migrate
from arbiter.store.writer import FLUSH_RECORDS

RULES = 5_000
UNCHAINED = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
import chain
from unittest.mock import patch
from arbiter.cli import main
patch("arbiter.store.chain.extend", chain.unhashed).start()
patch("arbiter.store.changes.extend", chain.unhashed).start()
main()
"""
"""Arbiter without the chain."""
OLD = Path(__file__).parent.parent / "fixtures" / "databases" / "schema-7.sql"


def record(i: int) -> Record:
    """As a machine has them."""
    return Record(
        1.8e9 + i / 7, "allow", "rule", proto="tcp", saddr="10.0.0.1", sport=20_000 + i % 40_000,
        daddr=f"192.0.2.{i % 250}", dport=443, outdev=3, length=60, uid=1000, user="alice",
        app="/usr/lib/firefox/firefox", app_kind="path", pid=4242, start=123_456,
        exe="/usr/lib/firefox/firefox", argv='["firefox", "--new-window"]',
        parents='["/usr/bin/gnome-shell", "/usr/lib/systemd/systemd"]', rule_id=i % 90, layer=2,
        by="alice", frontend="terminal", waited=0.0003, link="wifi",
        names='["www.example.org", "example.org"]', networks='["ssid:Home"]', metered=False,
        state="open",
    )  # fmt: skip


def unhashed(
    db: sqlite3.Connection, path: Path, one: chain.Chain, values: list[tuple[int | None, ...]]
) -> list[tuple[int, None]]:
    """`chain.extend` without a chain."""
    following = chain.next_id(db, one)
    return [(following + i if row[0] is None else row[0], None) for i, row in enumerate(values)]


def records(store: Store, count: int) -> None:
    """In the batches of the writer."""
    kept = [Kept(i, record(i)) for i in range(1, count + 1)]
    for start in range(0, count, FLUSH_RECORDS):
        store.record(kept[start : start + FLUSH_RECORDS])


def rules(store: Store) -> None:
    """One import."""
    wanted = [Wanted(parse(f"deny app=/usr/bin/program{i} port=443")) for i in range(RULES)]
    store.import_rules(wanted, author=Author("root", 0, "cli"), created=1.0)


def timed(folder: Path, work: Callable[[Store], None]) -> tuple[float, float]:
    """Seconds of the clock and of this thread's processor."""
    with Store.open(folder / f"{time.monotonic_ns()}.db") as store:
        began, used = time.perf_counter(), time.thread_time()
        work(store)
        return time.perf_counter() - began, time.thread_time() - used


def compare(
    folder: Path, what: str, count: int, rounds: int, work: Callable[[Store], None]
) -> None:
    """Both side by side, and the difference for each row."""
    found: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
    for turn in range(2 * rounds):
        if turn % 2:
            with (
                patch("arbiter.store.chain.extend", unhashed),
                patch("arbiter.store.changes.extend", unhashed),
            ):
                found["without"].append(timed(folder, work))
        else:
            found["with"].append(timed(folder, work))
    wall = {name: statistics.median(t[0] for t in times) for name, times in found.items()}
    used = {name: statistics.median(t[1] for t in times) for name, times in found.items()}
    print(
        f"{what}: {count / wall['without']:.0f}/s without, {count / wall['with']:.0f}/s with"
        f" ({wall['with'] / wall['without']:.2f} times the time);"
        f" {(used['with'] - used['without']) / count * 1e6:+.1f} µs of the processor each"
    )


def connected(folder: Path, rounds: int) -> None:
    """What both add to a connect(), and the daemon's processor time for it, on one lab."""
    from connect import Results, round_of, table
    from consumers import Arbiter, compiled
    from work import Bench

    options = argparse.Namespace(
        wakeups=False, idle=[0], kinds=["same", "fresh"], count=2000, rate=False
    )
    results: Results = {}
    with Lab(f"b{os.getpid()}") as lab:
        program = compiled("work", folder)
        bench = Bench(lab, program, 0)
        who = {}
        for name, command in (("with", ("-m", "arbiter")), ("without", ("-c", UNCHAINED))):
            (folder / name).mkdir()
            who[name] = Arbiter(folder / name, program, 2, command=(sys.executable, "-P", *command))
        with bench.serving():
            for turn in range(rounds):
                for name in sorted(who, reverse=bool(turn % 2)):
                    with who[name](lab, 1) as pid:
                        for what, figure in round_of(bench, options, pid):
                            results.setdefault(what, {}).setdefault(name, []).append(figure)
    for line in table(results):
        print(line)


def verified(folder: Path, count: int) -> None:
    """How quickly it is checked."""
    with Store.open(folder / "verified.db") as store:
        records(store, count)
        began = time.perf_counter()
        assert not store.evidence.verify().broken
        took = time.perf_counter() - began
    print(f"verify: {count / took:.0f} records/s")


def upgraded(folder: Path, count: int) -> None:
    """From schema 7 to 8."""
    path = folder / "old.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(OLD.read_text())
        db.execute(f"PRAGMA application_id = {migrate.APPLICATION_ID}")
        db.execute("PRAGMA user_version = 7")
        names = [n for n in Record.__struct_fields__ if n != "by"]
        sql = f"INSERT INTO decisions (by_user, {', '.join(names)}) VALUES ('alice'"
        sql += ", ?" * len(names) + ")"
        made = record(1)
        row = [getattr(made, name) for name in names]
        db.executemany(sql, (row for _ in range(count)))
        db.commit()
    began = time.perf_counter()
    migrate.backup(path, 7)
    copied = time.perf_counter() - began
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        began = time.perf_counter()
        with patch("arbiter.store.migrate.backup", lambda *_: path):
            migrate.upgrade(db, path, 7)
        took = time.perf_counter() - began
    print(f"upgrade of {count} records: {took:.1f} s, and {copied:.1f} s for the copy before it")


def main() -> None:
    """Print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--connect", action="store_true")
    parser.add_argument("--upgrade", type=int, default=0)
    options = parser.parse_args()
    count = options.records
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work: Callable[[Store], None] = lambda store: records(store, count)  # noqa: E731
        compare(folder, "records", count, options.rounds, work)
        compare(folder, "changes of rules", RULES, options.rounds, rules)
        verified(folder, count)
        if options.connect:
            connected(folder, options.rounds)
        if options.upgrade:
            upgraded(folder, options.upgrade)


if __name__ == "__main__":
    main()
