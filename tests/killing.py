"""Kill what writes the database at random moments, and see each time what is on disk.

    python tests/killing.py FOLDER [--rounds 200] [--seed 1]

The child does what the daemon does, with the daemon's own `Memory`: decisions all the time, answers
that make rules, answers for once, rules taken back, connections that end. It says what a frontend
would be told at the moment at which it would be told. Forked, so that a round takes no start of
Python; killed with SIGKILL after up to 0.4 s, the making of the database and the start included, or
then at the next word that something is on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from select import select

from playbook import BOB, owner, packet

from arbiter.events import Event, Reason, Remember, Remembered, Report
from arbiter.memory import Memory
from arbiter.model import ACCEPTED, ALLOW
from arbiter.records import Progress, State
from arbiter.rules import Index, format_rule, parse
from arbiter.settings import Settings
from arbiter.store import Store
from arbiter.store.lives import KILLED
from arbiter.store.walk import SLACK

LONGEST = 0.4


class Told:
    """What the child has said until it was killed, over all rounds."""

    def __init__(self) -> None:
        self.rules: dict[int, str] = {}
        self.removed: set[int] = set()
        self.wanted: set[int] = set()
        """Rules whose end was asked for; whether it came, only `removed` knows."""
        self.once: list[tuple[int, float]] = []
        self.given: list[tuple[int, float]] = []
        """Every number that a decision got, with its time."""
        self.begun = 0

    def hear(self, text: str) -> None:
        for line in text.splitlines(keepends=True):
            if not line.endswith("\n"):
                return  # it was killed in the middle of a word
            word, *rest = line.split(None, 2)
            if word == "begun":
                self.begun += 1
            elif word == "rule":
                self.rules[int(rest[0])] = rest[1].strip()
            elif word == "wanted":
                self.wanted.add(int(rest[0]))
            elif word == "removed":
                self.removed.add(int(rest[0]))
            elif word in ("once", "given"):
                to = self.once if word == "once" else self.given
                to.append((int(rest[0]), float(rest[1])))


async def work(path: Path, say: int, serial: int) -> None:
    """As the daemon does, until it is killed."""

    def tell(*words: object) -> None:
        os.write(say, (" ".join(map(str, words)) + "\n").encode())

    made: list[int] = []

    def hear(event: Event) -> None:
        if isinstance(event, Remembered):
            tell("rule", event.entry.id, format_rule(event.entry.rule))
            made.append(event.entry.id)

    def decide(reason: Reason) -> tuple[int, float]:
        report = Report(time.time(), packet(1), owner(), ALLOW, reason, by=BOB, verdict=ACCEPTED)
        id = memory.report(report, "lte")
        tell("given", id, report.wall)
        return id, report.wall

    memory = Memory(path, hear, Settings())
    await memory.load(Index(), first=True)
    await memory.begin()
    tell("begun")
    tasks = []
    for number in itertools.count():
        for _ in range(5):
            id, _ = decide(Reason.RULE)
        memory.complete([Progress(id, State.CLOSED, None, time.time(), 9, 9, 1, 1)])
        if number % 3 == 0:
            line = f"deny app=/usr/bin/{serial} port={1 + number}"
            tasks.append(
                asyncio.ensure_future(memory.remember(Remember(1, parse(line), BOB, None)))
            )
        if number % 16 == 3:
            once, at = decide(Reason.ANSWER)
            memory.when_written(lambda once=once, at=at: tell("once", once, at))  # type: ignore[misc]
        if number % 7 == 6 and made:
            tell("wanted", made[0])
            gone = await asyncio.wrap_future(
                memory.writer.retire([made.pop(0)], "removed", time.time(), by="bob", by_uid=1001)
            )
            for id in gone:
                tell("removed", id)
        await asyncio.sleep(0.004)


def one_round(path: Path, told: Told, serial: int, pause: float, word: bytes) -> float:
    """Let a child work for so long, and kill it: with a word, once it says that; gives when."""
    hear, say = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hear)
        try:
            asyncio.run(work(path, say, serial))
        finally:
            os._exit(9)
    os.close(say)
    time.sleep(pause)
    said = b""
    if word:
        while select([hear], [], [], 5)[0] and (data := os.read(hear, 65536)):
            said += data
            # Not of what it had said before: the newest, which is the least likely to be on disk.
            if word in data and len(data) < 200:
                break
    os.kill(child, signal.SIGKILL)
    killed = time.time()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"round {serial}: the child ended by itself: see above"
    with os.fdopen(hear, "rb") as pipe:
        told.hear((said + pipe.read()).decode())
    return killed


def check(path: Path, told: Told, killed: float) -> None:
    """All that was told is on disk, nothing is broken, and what is missing is said."""
    with Store.open(path) as store:
        assert (found := store.evidence.verify()).broken == [], found.broken
        in_force = {entry.id: format_rule(entry.rule) for entry in store.rules(killed, "", None)}
    for id, line in told.rules.items():
        if id in told.removed:
            assert id not in in_force, f"rule {id} was taken back, and is there"
        elif id not in told.wanted:
            assert in_force.get(id) == line, f"rule {id} was in force, and is lost"
    with closing(sqlite3.connect(path)) as db:
        rows = dict(db.execute("SELECT id, time FROM decisions WHERE reason = 'answer'"))
        for id, at in told.once:
            assert rows.get(id) == at, f"record {id} of an answer was told, and is lost"


def check_gaps(path: Path, told: Told) -> int:
    """Every run that was killed has its gap, and what is missing lies in one; gives how many are
    missing. After the next run has begun."""
    with closing(sqlite3.connect(path)) as db:
        gaps = db.execute("SELECT time_from, time_to, why FROM gaps").fetchall()
        rows = set(db.execute("SELECT id, time FROM decisions"))
        (runs,) = db.execute("SELECT count(*) FROM runs").fetchone()
    assert {why for _, _, why in gaps} == {KILLED}
    assert len(gaps) == runs - 1 >= told.begun - 1, (len(gaps), runs, told.begun)
    missing = [(id, at) for id, at in told.given if (id, at) not in rows]
    for id, at in missing:
        assert any(a <= at <= b for a, b, _ in gaps), f"{id} of {at} is missing, and no gap tells"
    assert SLACK > LONGEST, "or verify would take any gap for any hole"
    return len(missing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}\n")
    sys.stdout.flush()
    dice, told = random.Random(options.seed), Told()
    path = options.folder / "arbiter.db"
    for serial in range(options.rounds):
        word = dice.choice((b"", b"once", b"rule"))
        killed = one_round(path, told, serial, dice.uniform(0.0, LONGEST), word)
        check(path, told, killed)
    with Store.open(path) as store:
        store.lives.begin(time.time())
    missing = check_gaps(path, told)
    result = {"rounds": options.rounds, "begun": told.begun, "rules": len(told.rules)}
    result |= {"removed": len(told.removed), "once": len(told.once), "given": len(told.given)}
    sys.stdout.write(json.dumps(result | {"missing": missing}) + "\n")


if __name__ == "__main__":
    main()
