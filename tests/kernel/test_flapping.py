"""A thousand connections by twenty programs over three links that go down and come back.

Each program has a rule: strict, a list, a list that ends in `any`, allow, deny. What was on the
wire decides: no program on a link that it may not use, none with another link's source. Every
connect() must end, well or not, within LIMIT.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from capture import Capture, Frame
from running import Arbiter

from arbiter.lab import Lab, LinkConfig
from arbiter.lab.config import LINKS, SERVER4, SERVER6

LIMIT = 4.0
"""Seconds a connect() may take: a SYN is lost with its link, TCP sends the next after 1 s and 3 s
(RFC 6298 2.1, tcp_retries), and the daemon ends the sockets of a link within half a second."""
EACH = 50
PORTS = 20_000
"""Program n has the source ports PORTS + 100 n to + EACH: they survive masquerading, and so name
the program on the wire."""
ALL = frozenset(link.name for link in LINKS)
RULES = (
    *((f"route via={name}", frozenset({name})) for name in ("wifi", "lte", "usb") for _ in "123"),
    ("route via=wifi,lte", frozenset({"wifi", "lte"})),
    ("route via=lte,wifi", frozenset({"wifi", "lte"})),
    ("route via=lte,usb", frozenset({"lte", "usb"})),
    ("route via=usb,wifi", frozenset({"wifi", "usb"})),
    ("route via=usb,lte,wifi", ALL),
    ("route via=lte,any", ALL),
    ("route via=usb,any", ALL),
    ("allow", ALL),
    ("allow", ALL),
    ("deny", frozenset[str]()),
    ("deny", frozenset[str]()),
)
"""Each program's decision, and the links on which it may be seen. `any` and allow: the default
route, which is whichever of the three is up."""
assert len(RULES) == 20

PROGRAM = """
import errno, json, random, socket, sys, time
first, count, server, seed = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
rng = random.Random(seed)
family = socket.AF_INET6 if ":" in server else socket.AF_INET
for number in range(count):
    sock = socket.socket(family)
    sock.settimeout(30)
    sock.bind(("", first + number))
    began = time.monotonic()
    try:
        sock.connect((server, 7))
        end = "connected"
    except OSError as error:
        end = errno.errorcode.get(error.errno, type(error).__name__)
    took = time.monotonic() - began
    print(json.dumps([end, took]), flush=True)
    if end == "connected":
        # Some traffic, so that links are lost in its middle, too.
        try:
            sock.settimeout(1)
            for _ in range(3):
                sock.send(b"x" * 100)
                sock.recv(1000)
                time.sleep(0.03)
        except OSError:
            pass
    sock.close()
    time.sleep(rng.uniform(0.1, 0.35))
"""


class Flapping:
    """Links of the lab that are set down, lose their carrier or their addresses, and come back."""

    def __init__(self, lab: Lab, rng: random.Random) -> None:
        self.lab, self.rng = lab, rng
        self.down: dict[str, str] = {}
        self.done: Counter[str] = Counter()
        for link in LINKS:  # or its gateway would lose its IPv6 addresses with the carrier
            keep = "net.ipv6.conf.access0.keep_addr_on_down=1"
            self.ip(["sysctl", "-qw", keep], link.name)

    def ip(self, argv: list[str], where: str = "host") -> None:
        done = self.lab.run(argv, ns=where)
        assert done.returncode == 0, f"{argv}: {done.stderr}"

    def flap(self) -> None:
        """One link changes: up if it is down, else down, in one of three ways."""
        link = self.rng.choice(LINKS)
        if link.name in self.down:
            self.mend(link)
            return
        how = self.rng.choice(["admin", "carrier", "addresses"])
        self.down[link.name] = how
        self.done[how] += 1
        if how == "admin":
            self.ip(["ip", "link", "set", link.interface, "down"])
        elif how == "carrier":
            self.ip(["ip", "link", "set", "access0", "down"], link.name)
        else:
            self.ip(["ip", "addr", "flush", "dev", link.interface])

    def mend(self, link: LinkConfig) -> None:
        if self.down.pop(link.name, "") == "carrier":
            self.ip(["ip", "link", "set", "access0", "up"], link.name)
        self.lab.mend(link.name)


@pytest.fixture
def three() -> Iterator[Lab]:
    with Lab(f"f{os.getpid()}", LINKS) as lab:
        yield lab


def program_of(frame: Frame) -> int | None:
    number = (frame.sport - PORTS) // 100
    return number if frame.proto == 6 and 0 <= number < len(RULES) else None


def interpreter(arbiter: Arbiter, script: Path) -> str:
    """How arbiter names scripts here, but for their path: `script:/usr/bin/python3:`."""
    program = arbiter.program(sys.executable, str(script), "0", "1", SERVER4, "0")
    app: str = arbiter.ask()["processes"][0]["app"]["id"]
    program.kill()
    assert app.endswith(f":{script}")
    return app.removesuffix(str(script))


def say(text: str) -> None:
    """Shown by pytest with a failure, and with -s."""
    sys.stdout.write(f"{text}\n")


def test_a_thousand_connections_over_flapping_links_stay_where_they_may_be_and_end(
    three: Lab, tmp_path: Path
) -> None:
    seed = int(os.environ.get("ARBITER_SEED") or random.randrange(1 << 32))
    say(f"seed {seed}: ARBITER_SEED={seed} repeats the flapping")
    rng = random.Random(seed)
    scripts = [tmp_path / f"program{n:02}.py" for n in range(len(RULES))]
    with Arbiter(three, tmp_path) as arbiter, Capture(three) as wire:
        for script in scripts:
            script.write_text(PROGRAM)
        run_by = interpreter(arbiter, scripts[0])
        for script, (decision, _) in zip(scripts, RULES, strict=True):
            arbiter.add(f"{decision} app={run_by}{script}")
        flapping = Flapping(three, rng)
        programs = []
        for number, script in enumerate(scripts):
            server = (SERVER4, SERVER6)[number % 2]
            argv = [str(PORTS + 100 * number), str(EACH), server, f"{seed} {number}"]
            programs.append(arbiter.program(sys.executable, str(script), *argv))
        until = time.monotonic() + 60
        while any(program.poll() is None for program in programs):
            if time.monotonic() > until:
                break
            flapping.flap()
            time.sleep(rng.uniform(0.2, 0.4))
        for link in LINKS:
            flapping.mend(link)
        for program in programs:
            program.kill()
        ends = [
            [json.loads(line) for line in program.communicate()[0].splitlines()]
            for program in programs
        ]
        status = arbiter.status()
        frames = wire.sent()

    say(f"links lost: {dict(flapping.done)}; frames: {len(frames)}")
    for (decision, _), results in zip(RULES, ends, strict=True):
        slowest = max((took for _, took in results), default=0.0)
        say(f"{decision:24} slowest {slowest:.2f} s {dict(Counter(end for end, _ in results))}")
    assert [len(results) for results in ends] == [EACH] * len(RULES)

    # Where nobody may be.
    own = {link.name: {link.host4, link.host6} for link in LINKS}
    strays = [f for f in frames if (n := program_of(f)) is not None and f.link not in RULES[n][1]]
    assert strays == [], "a program was seen on a link it may not use"
    foreign = [
        f
        for f in frames
        if (n := program_of(f)) is not None
        and RULES[n][0].startswith("route")
        and not RULES[n][0].endswith("any")
        and f.source not in own[f.link]
    ]
    assert foreign == [], "a routed packet had another link's source"

    # And where they had to get through: this test would otherwise be content with silence.
    seen = Counter(n for f in frames if (n := program_of(f)) is not None and f.syn)
    for number, (decision, links) in enumerate(RULES):
        assert bool(seen[number]) == bool(links), decision
        connected = sum(end == "connected" for end, _ in ends[number])
        assert connected == 0 if not links else connected >= EACH // 5, (decision, connected)

    slow = [
        (decision, end, round(took, 2))
        for (decision, _), results in zip(RULES, ends, strict=True)
        for end, took in results
        if took > LIMIT
    ]
    assert slow == [], f"connect() took more than {LIMIT} s"
    assert status.held == 0
    assert status.counters["dropped_full"] == status.counters["dropped_socket"] == 0
