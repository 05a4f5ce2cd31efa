"""The daemon under load, and what may happen to it: killed, stopped, flooded, without descriptors,
without memory. What was denied stays denied, each packet has one verdict, no rule is lost, memory
is bounded, and nobody has to do anything for it to go on."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from loading import ALLOWED, RULES, Load
from running import PATIENCE, Arbiter, eventually, python

from arbiter.lab import Lab
from arbiter.lab.config import SECOND4, SECOND6, SERVER4

ROUNDS = int(os.environ.get("ARBITER_FAULT_ROUNDS", "2"))
SYNS = int(os.environ.get("ARBITER_FAULT_SYNS", "20000"))
CURL = ("curl", "-sS", "-o", "/dev/null", "-m")
TOOLS = ("nft", "iptables-nft", "iptables-legacy")
"""Symlinks, all but nft, to the programs that do the work of all tools of a kind."""
FLOOD = """
import collections, errno, resource, selectors, socket, sys, time
address, count = sys.argv[1], int(sys.argv[2])
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 100), hard))
wait, began = selectors.DefaultSelector(), time.monotonic()
for number in range(count):
    one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    one.setblocking(False)
    one.connect_ex((address, 7))
    wait.register(one, selectors.EVENT_WRITE)
print("sent", flush=True)
ends = collections.Counter()
while wait.get_map() and time.monotonic() - began < 20:
    for key, _ in wait.select(5):
        error = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        ends[errno.errorcode.get(error, "reached")] += 1
        wait.unregister(key.fileobj)
        key.fileobj.close()
ends["waits"] = len(wait.get_map())
print(*(f"{key}={value}" for key, value in ends.items() if value), flush=True)
"""


def pid_of(arbiter: Arbiter) -> int:
    assert arbiter.process is not None
    return arbiter.process.pid


def resident(arbiter: Arbiter) -> int:
    """Bytes of memory that the daemon has."""
    status = Path(f"/proc/{pid_of(arbiter)}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def descriptors(arbiter: Arbiter) -> int:
    return len(list(Path(f"/proc/{pid_of(arbiter)}/fd").iterdir()))


@contextmanager
def stopped(arbiter: Arbiter) -> Iterator[None]:
    """It stands still: SIGSTOP."""
    os.kill(pid_of(arbiter), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid_of(arbiter), signal.SIGCONT)


def well(arbiter: Arbiter, load: Load) -> None:
    """Everything that is allowed is reached again, by itself."""
    since = time.monotonic()
    eventually(lambda: load.reached(since) == set(ALLOWED), 15)


def settled(arbiter: Arbiter) -> None:
    """Nothing waits, and nothing was decided twice or not at all."""
    eventually(lambda: arbiter.status().held == 0, 15)
    assert "internal error" not in (arbiter.home / "log").read_text()


def verified(arbiter: Arbiter) -> None:
    arbiter.intact()
    rules = arbiter.rules()
    assert sorted(rules) == sorted(RULES)


@pytest.mark.parametrize("when_absent", ["block", "pass"])
def test_kills_and_restarts_under_load_leak_nothing_and_lose_no_rule(
    clean_lab: Lab, tmp_path: Path, when_absent: str
) -> None:
    arbiter = Arbiter(clean_lab, tmp_path, "--when-absent", when_absent)
    away: list[tuple[float, float]] = []
    with arbiter:
        arbiter.add(*RULES)
        with Load(arbiter) as load:
            well(arbiter, load)
            for turn in range(ROUNDS):
                time.sleep(0.5)
                began = time.monotonic()
                how = signal.SIGKILL if turn % 2 == 0 else signal.SIGTERM
                arbiter.stop(how)
                if how == signal.SIGKILL:
                    time.sleep(0.5)
                arbiter.start()
                if when_absent == "pass" or how == signal.SIGTERM:
                    away.append((began, time.monotonic()))
                well(arbiter, load)
            settled(arbiter)
        assert load.leaks(away) == []
        assert len(load.tries) > 100
        verified(arbiter)
    sys.stdout.write(f"{when_absent}: {dict(load.ends())}\n")


@pytest.mark.parametrize("when_absent", ["block", "pass"])
def test_a_daemon_that_is_stopped_for_a_while_leaks_nothing_and_serves_what_waited(
    clean_lab: Lab, tmp_path: Path, when_absent: str
) -> None:
    """`pass` is for a daemon that is away, and for a full queue: one that is stopped still has its
    queue, and what waits in it waits."""
    with Arbiter(clean_lab, tmp_path, "--when-absent", when_absent) as arbiter:
        arbiter.add(*RULES)
        with Load(arbiter, 0.02) as load:
            well(arbiter, load)
            for _ in range(ROUNDS):
                with stopped(arbiter):
                    since = time.monotonic()
                    slow = arbiter.program("curl", "-sS", "-m", "9", f"http://{SERVER4}/")
                    time.sleep(1.5)
                    assert slow.poll() is None
                    assert not load.reached(since + 0.1), "nobody decides"
                assert slow.wait(9) == 0
                well(arbiter, load)
            settled(arbiter)
        assert load.leaks() == []
        verified(arbiter)


@pytest.mark.parametrize(
    ("when_absent", "length", "why", "part"),
    [
        ("block", 8192, "dropped_full", 2),
        ("block", 65536, "dropped_socket", 1),
        ("pass", 4096, "", 2),
    ],
)
def test_twenty_thousand_syns_at_once_have_one_verdict_each(
    clean_lab: Lab, tmp_path: Path, when_absent: str, length: int, why: str, part: int
) -> None:
    """They come while the daemon stands still, so that the kernel's queue is full, or (where that
    is longer) the receive buffer of its socket, which is ENOBUFS to who reads it."""
    count = SYNS // part
    settings = f"queue_length = {length}\npackets_held = 2048\ndeadline = 60\n"
    options = "--when-absent", when_absent
    with Arbiter(clean_lab, tmp_path, *options, settings=settings) as arbiter:
        arbiter.add(*RULES)
        assert arbiter.run(*CURL, "5", f"http://{SERVER4}/")[0] == 0
        before = resident(arbiter)
        with stopped(arbiter):
            floods = [
                arbiter.program(*python(FLOOD, address, str(count // 2)))
                for address in (SECOND4, SECOND6)
            ]
            for flood in floods:
                assert flood.stdout is not None
                assert (said := flood.stdout.readline()) == "sent\n", said + flood.stdout.read()
        began = time.monotonic()
        assert arbiter.run(*CURL, "40", f"http://{SERVER4}/", timeout=45)[0] == 0
        waited = time.monotonic() - began
        ends: Counter[str] = Counter()
        for flood in floods:
            said = flood.communicate(timeout=100 * PATIENCE)[0]
            ends.update({k: int(v) for k, v in (word.split("=") for word in said.split())})
        settled(arbiter)
        counters = arbiter.status().counters
        assert ends["reached"] == 0 or when_absent == "pass"
        assert sum(ends.values()) == count
        if when_absent == "block":
            # What found no room was lost, and is sent again, later each time (RFC 6298).
            assert ends["ECONNREFUSED"] > 100
            assert counters[why] > 0
            assert "too many new connections at once" in (tmp_path / "log").read_text()
        else:
            # A full queue lets pass, which is what the setting says; what was queued was decided.
            assert ends["ECONNREFUSED"] >= length / 2
        if length > count:
            assert counters["overruns"] > 0, "ENOBUFS was told"
        more = (resident(arbiter) - before) / 1e6
        assert more < 60, f"{more:.1f} MB more"
        verified(arbiter)
    sys.stdout.write(f"{when_absent}, {length}: {ends}, {more:.1f} MB more, {waited:.2f} s\n")


def test_without_descriptors_rules_go_on_and_with_them_so_does_everything(
    clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path, settings="deadline = 5.0\n") as arbiter:
        arbiter.add(*RULES)
        with Load(arbiter, 0.05) as load:
            well(arbiter, load)
            soft, hard = resource.prlimit(pid_of(arbiter), resource.RLIMIT_NOFILE)
            tight = descriptors(arbiter) + 3
            resource.prlimit(pid_of(arbiter), resource.RLIMIT_NOFILE, (tight, hard))
            # Questions want a descriptor for each process that is watched, and clients theirs.
            line = f"for i in $(seq 60); do (exec 3<>/dev/tcp/{SERVER4}/$((7000+i))) & done; wait"
            arbiter.status()
            crowd = arbiter.program("bash", "-c", line)
            time.sleep(2)
            since = time.monotonic()
            time.sleep(2)
            assert load.reached(since) >= {ALLOWED[0]}, "a rule needs no descriptor"
            resource.prlimit(pid_of(arbiter), resource.RLIMIT_NOFILE, (soft, hard))
            crowd.kill()
            well(arbiter, load)
            eventually(lambda: arbiter.status().held == 0, 20)
        assert load.leaks() == []
        eventually(lambda: descriptors(arbiter) <= tight + 20, 20)
        verified(arbiter)
        assert "internal error" not in (tmp_path / "log").read_text()


MEMORY = """
import socket, sys, time
for port in range(1, 60000):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setblocking(False)
    try:
        one.sendto(b"x" * 1000, (sys.argv[1], port))
    except OSError:
        pass
    if port % 500 == 0:
        time.sleep(0.05)
"""


def test_a_ruleset_that_cannot_be_taken_away_is_said_at_the_end(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """Once it was said that nothing is left, which nobody knew."""
    with Arbiter(clean_lab, tmp_path) as arbiter:
        for tool in {Path(path).resolve() for path in map(shutil.which, TOOLS) if path}:
            hide = (
                "mount",
                "--bind",
                "/bin/false",
                str(tool),
            )  # as the daemon sees it
            subprocess.run(["nsenter", "-t", str(pid_of(arbiter)), "-m", *hide], check=True)
        assert arbiter.stop() == 1
        log = (tmp_path / "log").read_text()
        assert "may be in the kernel yet" in log and "sudo arbiter rescue" in log
        assert arbiter.run(*CURL, "1", f"http://{SERVER4}/")[0] != 0
        assert arbiter.command("rescue").returncode == 0
        assert arbiter.run(*CURL, "8", f"http://{SERVER4}/")[0] == 0


def test_without_memory_it_goes_on_or_ends_in_order_and_nothing_leaks(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """No more address space than it has, and a flood: where Python finds no memory the daemon may
    end, but then by `when_absent`, and with its rules whole."""
    settings = "deadline = 5.0\nasks_per_app = 2048\nasks_per_user = 2048\n"
    arbiter = Arbiter(clean_lab, tmp_path, settings=settings)
    with arbiter:
        arbiter.add(*RULES)
        with Load(arbiter, 0.05) as load:
            well(arbiter, load)
            sizes = Path(f"/proc/{pid_of(arbiter)}/statm").read_text().split()
            size = int(sizes[0]) * resource.getpagesize()
            resource.prlimit(pid_of(arbiter), resource.RLIMIT_AS, (size // 2, -1))
            flood = arbiter.program(*python(MEMORY, "198.51.100.30"))
            time.sleep(5)
            flood.kill()
            assert arbiter.process is not None
            ended = arbiter.process.poll()
            if ended is not None:
                assert arbiter.stop(0) == 1
                said = (tmp_path / "log").read_text()
                assert "out of memory: arbiter ends at once" in said or "ended by itself" in said
                assert "-A ARBITER_ASK -j NFQUEUE" in clean_lab.run(["iptables-save"]).stdout
                time.sleep(1)
                arbiter.start()
            else:
                no = resource.RLIM_INFINITY
                resource.prlimit(pid_of(arbiter), resource.RLIMIT_AS, (no, no))
            well(arbiter, load)
        assert load.leaks() == []
        verified(arbiter)


BROKEN = """
import sys
from arbiter import daemon
from arbiter.cli import main
daemon.Daemon.reload = lambda self: 1 / 0
sys.argv = sys.argv[4:]
main()
"""
"""The daemon with a mistake in it: it ends by itself at a SIGHUP."""


@pytest.mark.parametrize("when_absent", ["block", "pass"])
def test_a_mistake_of_our_own_ends_it_by_the_setting(
    clean_lab: Lab, tmp_path: Path, when_absent: str
) -> None:
    options, broken = ("--when-absent", when_absent), python(BROKEN)
    arbiter = Arbiter(clean_lab, tmp_path, *options, through=broken).start()
    arbiter.add(*RULES)
    assert arbiter.stop(signal.SIGHUP) == 1
    said = (tmp_path / "log").read_text().splitlines()
    why = said[-2] if when_absent == "block" else said[-1]
    assert "ZeroDivisionError" in why
    assert ("`arbiter rescue`" in said[-1]) is (when_absent == "block")
    code = arbiter.run(*CURL, "2", f"http://{SECOND4}/")[0]
    assert code == (28 if when_absent == "block" else 0)
    with Arbiter(clean_lab, tmp_path, *options) as again:
        assert again.run(*CURL, "5", f"http://{SERVER4}/")[0] == 0
        assert again.run(*CURL, "5", f"http://{SECOND4}/")[0] == 7
        verified(again)
    assert "ARBITER" not in clean_lab.run(["iptables-save"]).stdout
