#!/usr/bin/env python3
"""What rules cost: reading, compiling and keeping them, and one look-up, for 10 to 100,000.

    python bench/rules.py [--store]

Each size runs in a process of its own, so that memory is that of this size. `--store` writes the
rules to a database first and reads them as the daemon does at its start. Look-ups are of five
kinds: answered by the memo, by an exact rule, by a name below a domain, by a range of ports, and
not at all. Times are of the processor (other work on the machine does not count), medians of
rounds; memory is what the process grew by (VmRSS).
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from arbiter.rules import Entry, Index, Layer, Query, parse

SIZES = (10, 100, 1_000, 10_000, 100_000)
LOOKUPS = 2_000
PAGE = 500
ROUNDS = 7


def line(i: int) -> str:
    """Rules as a machine might have them: a thousand programs, most rules about one host."""
    app = f"/usr/lib/program{i % 997}/bin/program{i % 997}"
    address = f"{20 + (i >> 16)}.{i >> 8 & 255}.{i & 255}.7"
    return (
        f"allow app={app} host={address} port=443 proto=tcp",
        f"deny app={app} host=host{i}.example{i % 89}.org",
        f"allow app={app} host=*.zone{i}.example.net port=443 proto=tcp",
        f"allow app={app} host=2001:db8:{i >> 8:x}:{i & 255:x}::/64 port=443 proto=tcp",
        f"route via=lte,any app={app}-{i} user=alice port=80,8000-8080",
    )[i % 5]


def questions(count: int) -> dict[str, list[Query]]:
    """Different ones of each kind, spread over the rules."""
    kinds: dict[str, list[Query]] = {"exact": [], "domain": [], "ports": [], "none": []}
    wanted = {"exact": 0, "domain": 2, "ports": 4, "none": 0}
    for kind, rest in wanted.items():
        for n in range(LOOKUPS):
            i = (n * 5 * 7919 + rest) % count // 5 * 5 + rest
            app = f"/usr/lib/program{i % 997}/bin/program{i % 997}"
            daddr = socket.inet_aton(f"{20 + (i >> 16)}.{i >> 8 & 255}.{i & 255}.7")
            names: tuple[str, ...] = ()
            port = 443
            if kind == "domain":
                names, daddr = (f"www{n}.zone{i}.example.net",), b"\xc0\x00\x02\x01"
            elif kind == "ports":
                app, port = f"{app}-{i}", 8000 + n % 81
            elif kind == "none":
                app = f"/usr/bin/other{n}"
            processes = ((n + 1, n),)  # another process each time: the memo cannot know it
            query = Query(app, ("/bin/sh",), 1000, "alice", daddr, port, 6, processes=processes)
            kinds[kind].append(
                Query(*(getattr(query, f) for f in query.__struct_fields__[:-1]), names)
            )
    return kinds


def resident() -> float:
    """MB."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def timed(index: Index, queries: list[Query]) -> float:
    """Microseconds a look-up."""
    started = time.process_time()
    for query in queries:
        index.lookup(query, 1e9)
    return (time.process_time() - started) / len(queries) * 1e6


def measure(count: int, database: Path | None) -> None:
    asked = questions(count)
    before = resident()
    index, read, compiled = Index(), 0.0, 0.0
    entries = pages(count) if database is None else stored(database)
    while True:
        started = time.process_time()
        page = next(entries, None)
        read += time.process_time() - started
        if page is None:
            break
        started = time.process_time()
        for entry in page:
            index.add(entry)
        compiled += time.process_time() - started
    grown = resident() - before
    figures = []
    for kind, queries in asked.items():
        assert (index.lookup(queries[0], 1e9) is None) == (kind == "none"), kind
        rounds = []
        for _ in range(ROUNDS):
            first = index.get(1)
            assert first is not None
            index.add(first)  # empties the memo
            rounds.append(timed(index, queries))
        figures.append(statistics.median(rounds))
    few = [copy.copy(query) for query in asked["exact"][:100] * 20]
    memo = statistics.median(timed(index, few) for _ in range(ROUNDS))
    print(
        f"{count:>7}  {read:6.2f} s  {compiled:6.2f} s  {grown:5.1f} MB  "
        f"{memo:6.2f}  " + "  ".join(f"{figure:6.2f}" for figure in figures),
        flush=True,
    )


def pages(count: int) -> Iterator[list[Entry]]:
    """Made here, as many at a time as the daemon reads."""
    for start in range(0, count, PAGE):
        yield [
            Entry(i + 1, parse(line(i)), Layer.REMEMBERED, 1e9 + i, "alice", "cli")
            for i in range(start, min(start + PAGE, count))
        ]


def stored(path: Path) -> Iterator[list[Entry]]:
    """As the daemon reads them."""
    from arbiter.store import Store

    after: int | None = 0
    with Store.open(path) as store:
        while after is not None:
            page = store.rules_page(1e9, "boot", "session", after, PAGE)
            yield list(page.entries)
            after = page.last


def fill(path: Path, count: int) -> None:
    from arbiter.rules import FOREVER
    from arbiter.store import Store
    from arbiter.store.rows import RULE_COLUMNS, Author, rule_row

    Store.open(path).close()
    import sqlite3

    connection = sqlite3.connect(path)
    marks = ", ".join("?" * len(RULE_COLUMNS))
    rows = []
    for i in range(count):
        rule = parse(line(i))
        assert rule.lifetime == FOREVER
        rows.append(
            rule_row(
                *(rule, Layer.REMEMBERED, Author("alice", 1000, "cli")),
                created=1e9 + i,
                expires=None,
                process=None,
                boot="boot",
                session="session",
            )
        )
    connection.executemany(
        f"INSERT INTO rules ({', '.join(RULE_COLUMNS)}) VALUES ({marks})",
        rows,
    )
    connection.commit()
    connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="What rules cost.")
    parser.add_argument("--store", action="store_true", help="read the rules from a database")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    options = parser.parse_args()
    print("  rules      read  compile   memory    memo   exact  domain   ports    none  (us)")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for count in options.sizes:
            database = Path(folder, f"{count}.db") if options.store else None
            if database is not None:
                filler = context.Process(target=fill, args=(database, count))
                filler.start()
                filler.join()
            process = context.Process(target=measure, args=(count, database))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
