"""A real daemon in the lab for a long time: real programs, prompts, and faults at random.

    make soak                          an hour; SOAK_MINUTES=15 make soak
    python bench/soak.py --minutes 1 --seed 7 --json FILE

Programs connect all the time, where a rule lets them, where a rule does not, and where a person is
asked, who answers at random. Every few seconds one fault of `faults.py` comes. What must hold is
looked at all along: nothing that is denied is reached outside of the moments that a fault names,
everything that is allowed is reached again after each, by itself; each packet has one verdict; no
rule is lost; descriptors and memory do not grow. In the second half nothing ends the daemon, so
that its memory can be told from its start. Exits 1 where something did not hold. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "kernel"))

from faults import FAULTS, Machine, Span
from loading import ALLOWED, DENIED, Load, Try
from running import Arbiter, eventually

from arbiter import protocol
from arbiter.lab import Lab
from arbiter.lab.config import SECOND4, SECOND6, SERVER4, SERVER6
from arbiter.protocol import Choice, Role

RULES = (
    *(f"allow host={host} port=7" for host in (SERVER4, SERVER6)),
    *(f"deny host={host} port=7" for host in (SECOND4, SECOND6)),
)
SETTINGS = "deadline = 4.0\nask_ttl = 30\n"
BACK = 20.0
"""Seconds after a fault in which everything that is allowed must be reached again."""
SHOWN = 5
"""So many of what was reached though denied are told with their records."""
MORE = 24.0
"""MB that a daemon may have more at the end of the second half than at its start."""
CURIOUS = """
hosts=("$@")
while :; do
    host=${hosts[RANDOM % $#]}
    ports=(80 443 8080 $((2000 + RANDOM % 1000)))
    [[ $host == *:* ]] && url="[$host]" || url=$host
    curl -sS -m 3 -o /dev/null "http://$url:${ports[RANDOM % 4]}/"
    echo x >"/dev/udp/$host/$((2000 + RANDOM % 1000))"
    sleep 0.$((RANDOM % 5))
done 2>/dev/null
"""
"""Connects where no rule says anything: somebody is asked. No Python: an answer for its app is none
for the programs that must not reach what is denied."""


class Person:
    """Answers at random, or does not, and comes back when the daemon does."""

    def __init__(self, arbiter: Arbiter, dice: random.Random) -> None:
        self.arbiter, self.dice = arbiter, dice
        self.answers: Counter[str] = Counter()
        self.ended = False
        self._thread = threading.Thread(target=self._live)
        self._thread.start()

    def end(self) -> None:
        self.ended = True
        self._thread.join(40)

    def _live(self) -> None:
        while not self.ended:
            # Suppressed: the daemon has ended, or is not there yet.
            with suppress(OSError, AssertionError), self.arbiter.connection(Role.PROMPT) as there:
                there.sock.settimeout(2)
                for ask in there.asks:
                    self._answer(there, ask)
                while not self.ended:
                    with suppress(TimeoutError):
                        self._answer(there, there.receive())
            time.sleep(0.3)

    def _answer(self, connection: Any, ask: object) -> None:
        if not isinstance(ask, protocol.Ask) or self.dice.random() < 0.2:
            return
        choice = self.dice.choice((Choice.ALLOW, Choice.DENY))
        lifetime = self.dice.choice(("once", "process", "15m"))
        # Not `parent`: the shell that started all this is above every program here.
        scope = self.dice.choice([scope.id for scope in ask.scopes if scope.id != "parent"])
        connection.send(protocol.Answer(ask.id, choice, scope, lifetime))
        self.answers[f"{choice.value} {lifetime}"] += 1


class Soak:
    """One run. `broken` is what did not hold."""

    def __init__(self, machine: Machine, load: Load, seconds: float) -> None:
        self.machine, self.load, self.seconds = machine, load, seconds
        self.arbiter = machine.arbiter
        self.spans: list[Span] = []
        self.faults: Counter[str] = Counter()
        self.back: dict[str, list[float]] = {}
        self.samples: list[tuple[float, float, int]] = []
        """Of the second half: seconds, MB, descriptors."""
        self.broken: list[str] = []
        self.packets = self.daemons = self.rules = 0

    def run(self) -> None:
        began = time.monotonic()
        half = began + self.seconds / 2
        while (now := time.monotonic()) < began + self.seconds and not self.broken:
            gentle = now > half
            if gentle and not self.samples:
                eventually(lambda: self.arbiter.status().held < 64, 20)
            names = [name for name, fault in FAULTS.items() if not (gentle and fault.ends)]
            self.one(self.machine.dice.choice(names))
            if gentle:
                self.sample()
            time.sleep(self.machine.dice.uniform(0.3, 2.5))

    def one(self, name: str) -> None:
        """One fault, and that everything goes on after it by itself."""
        began = time.monotonic()
        before = self.arbiter.status().counters.get("packets", 0)
        if FAULTS[name].ends:
            self.packets += before
            self.daemons += 1
        span = FAULTS[name].act(self.machine)
        if span is not None:
            self.spans.append(span)
        self.faults[name] += 1
        since = time.monotonic()
        try:
            eventually(lambda: self.load.reached(since) == set(ALLOWED), BACK)
        except AssertionError:
            missing = set(ALLOWED) - self.load.reached(since)
            self.broken.append(f"{BACK} s after {name} not reached: {', '.join(sorted(missing))}")
        self.back.setdefault(name, []).append(time.monotonic() - began)
        if leaks := self.load.leaks(self.spans):
            time.sleep(2)  # until the last record is written
            whose = [self.whose(leak) for leak in leaks[:SHOWN]]
            self.broken.append(f"{len(leaks)} reached though denied, at {name}: {'; '.join(whose)}")
            self.broken.append("the log's end: " + (self.arbiter.home / "log").read_text()[-3000:])
            self.broken.append("rules: " + "; ".join(self.arbiter.rules()))
        if (wrong := self.machine.ruleset_wrong()) is not None:
            self.broken.append(f"after {name} the ruleset is not what it was: {wrong}")

    def whose(self, leak: Try) -> str:
        """A try that was reached, how long after a fault's moments, and what its record says: a
        verdict, or none, when no rule of arbiter's in the kernel sent it to be decided."""
        after = leak.began - max((end for _, end in self.spans if end < leak.ended), default=0.0)
        began = time.time() - time.monotonic() + leak.began
        records = self.arbiter.database(
            "SELECT decision, reason, layer, rule_id, app, note, time FROM decisions "
            f"WHERE sport = {leak.port} AND daddr = '{leak.target.split()[1]}' "
            f"AND time BETWEEN {began - 1} AND {began + 5}"
        )
        words = " and ".join(str(record) for record in records) or "no record"
        return f"{leak}, {after:.2f} s after such a moment: {words}"

    def sample(self) -> None:
        self.samples.append((time.monotonic(), self.machine.megabytes(), self.machine.open_files()))

    def finish(self) -> None:
        """Once nothing is sent any more: what must hold at the end."""
        with suppress(AssertionError):
            eventually(lambda: self.arbiter.status().held == 0, 20)
        status = self.arbiter.status()
        counters = status.counters
        given = sum(counters.get(key, 0) for key in ("allow", "deny", "route"))
        self.packets += counters.get("packets", 0)
        if status.held or counters.get("packets", 0) != given:
            self.broken.append(
                f"{counters.get('packets', 0)} packets, {given} verdicts, {status.held} held"
            )
        rules = self.arbiter.rules()
        self.rules = len(rules)
        lost = [rule for rule in RULES if rule not in rules]
        if lost:
            self.broken.append(f"rules lost: {lost}")
        done = self.arbiter.command("audit", "verify", timeout=900)  # a gigabyte, after an hour
        if done.returncode:
            self.broken.append(f"audit verify: {done.stdout}{done.stderr}")
        if "internal error" in (log := (self.arbiter.home / "log").read_text()):
            self.broken.append("the log has an internal error: " + log[-2000:])
        if len(self.samples) > 2 and self.grown() > MORE:
            self.broken.append(f"memory grew by {self.grown():.1f} MB in the second half")

    def grown(self) -> float:
        """MB more, of the medians of the first and the last third of the samples."""
        third = max(1, len(self.samples) // 3)
        first, last = self.samples[:third], self.samples[-third:]
        return statistics.median(s[1] for s in last) - statistics.median(s[1] for s in first)

    def figures(self, answers: Counter[str], seed: int, minutes: float) -> dict[str, Any]:
        """Of the whole run, with stable keys."""
        tries = tuple(self.load.tries)
        good = sorted(
            t.ended - t.began for t in tries if t.target in ALLOWED and t.end == "reached"
        )
        hours = (self.samples[-1][0] - self.samples[0][0]) / 3600 if len(self.samples) > 1 else 0.0
        every = max(1, len(self.samples) // 12)
        return {
            "minutes": round(minutes, 1),
            "seed": seed,
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "broken": self.broken,
            "faults": dict(sorted(self.faults.items())),
            "back_seconds": {
                name: {"median": round(statistics.median(b), 2), "max": round(max(b), 2)}
                for name, b in sorted(self.back.items())
            },
            "packets": self.packets,
            "tries": len(tries),
            "allowed_reached": len(good),
            "allowed_ms": {
                "median": round(1000 * statistics.median(good), 2) if good else None,
                "p99": round(1000 * good[len(good) * 99 // 100], 2) if good else None,
            },
            "denied_tries": sum(t.target in DENIED for t in tries),
            "denied_reached": len(self.load.leaks(self.spans)),
            "denied_reached_in_named_moments": len(self.load.leaks()),
            "answers": sum(answers.values()),
            "second_half": {
                "mb_first": round(self.samples[0][1], 1) if self.samples else None,
                "mb_last": round(self.samples[-1][1], 1) if self.samples else None,
                "mb_grown": round(self.grown(), 2) if self.samples else None,
                "mb_grown_per_hour": round(self.grown() / hours, 1) if hours else None,
                "mb_samples": [round(mb, 1) for _, mb, _ in self.samples[::every]],
                "descriptors_first": self.samples[0][2] if self.samples else None,
                "descriptors_last": self.samples[-1][2] if self.samples else None,
            },
            "database_mb": round(self.machine.database_megabytes(), 1),
            "rules": self.rules,
            "starts": 1 + self.daemons,
        }


def table(found: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'fault':<28} {'times':>5} {'back after, median':>19} {'longest':>8}"]
    for name, count in found["faults"].items():
        back = found["back_seconds"][name]
        lines.append(f"{name:<28} {count:>5} {back['median']:>17.2f} s {back['max']:>6.2f} s")
    half = found["second_half"]
    lines += [
        "",
        f"{found['minutes']} minutes, seed {found['seed']}, kernel {found['kernel']}, "
        f"{found['cpus']} CPUs; the daemon was started {found['starts']} times",
        f"{found['packets']} packets decided, {found['answers']} answers of people",
        f"{found['allowed_reached']} allowed connections: "
        f"median {found['allowed_ms']['median']} ms, p99 {found['allowed_ms']['p99']} ms",
        f"{found['denied_tries']} denied ones tried, {found['denied_reached']} reached "
        f"({found['denied_reached_in_named_moments']} while it restarted, or its rules were gone)",
        f"second half, one daemon: {half['mb_first']} MB, then {half['mb_last']} MB; "
        f"{half['descriptors_first']} descriptors, then {half['descriptors_last']}",
        f"rules at the end: {found['rules']}; database: {found['database_mb']} MB",
        *(f"DID NOT HOLD: {problem}" for problem in found["broken"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=float(os.environ.get("SOAK_MINUTES", "60"))
    )
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}, {options.minutes} minutes\n")
    sys.stdout.flush()
    dice = random.Random(options.seed)
    began = time.monotonic()
    with (
        Lab(f"s{os.getpid()}") as lab,
        tempfile.TemporaryDirectory() as folder,
        Machine.on(lab, Path(folder), dice, SETTINGS) as machine,
    ):
        machine.arbiter.add(*RULES)
        machine.remember()
        hosts = (SERVER4, SERVER6, SECOND4, SECOND6)
        with Load(machine.arbiter, 0.04) as load:
            soak = Soak(machine, load, options.minutes * 60)
            person = Person(machine.arbiter, random.Random(options.seed))
            for _ in range(2):
                machine.arbiter.program("bash", "-c", CURIOUS, "curious", *hosts)
            try:
                soak.run()
            finally:
                person.end()
                machine.end_programs()
        soak.finish()
        minutes = (time.monotonic() - began) / 60
        found = soak.figures(person.answers, options.seed, minutes)
    sys.stdout.write(table(found))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
