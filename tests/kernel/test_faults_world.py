"""What the machine does to the daemon: clocks that jump, pids that are used again,
storms of processes, questions and links, a disk that stands still. What was decided holds, and
nothing is decided by what is no longer true."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loading import ALLOWED, RULES, Load
from running import PATIENCE, Arbiter, eventually, python
from test_faults_daemon import CURL, resident, settled, verified, well

from arbiter.lab import Lab
from arbiter.lab.config import LINKS, SECOND4, SERVER4, SERVER6

LOUD = ("curl", "-sS", "-m", "8")
ASKS = int(os.environ.get("ARBITER_FAULT_ASKS", "4000"))
FORKS = int(os.environ.get("ARBITER_FAULT_FORKS", "400"))
LINK_EVENTS = int(os.environ.get("ARBITER_FAULT_LINKS", "2000"))
CLOCK = """
import sys, time
from pathlib import Path
from arbiter.cli import main
real, offset = time.time, Path(sys.argv[1])
time.time = lambda: real() + float(offset.read_text() or 0)
sys.argv = sys.argv[5:]
main()
"""
"""The daemon with the wall clock of a file: seconds ahead of this machine's. A time namespace has
none (time_namespaces(7)). The kernel's own clock leaps in test_suspend.py."""


class Clock:
    """The wall clock of one daemon."""

    def __init__(self, home: Path) -> None:
        self.file = home / "ahead"
        self.jump(0)

    def jump(self, ahead: float) -> None:
        """So many seconds ahead, or behind, from now on."""
        new = self.file.with_suffix(".new")
        new.write_text(str(ahead))
        new.replace(self.file)


def test_clocks_that_jump_end_what_is_over_and_hold_nobody(clean_lab: Lab, tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    through = python(CLOCK, str(clock.file))
    settings = "deadline = 4.0\nask_ttl = 60\n"
    with Arbiter(clean_lab, tmp_path, settings=settings, through=through) as arbiter:
        curl = ("curl", "-sS", "-m", "12", "-o", "/dev/null", f"http://{SERVER4}/")
        asking = arbiter.program(*curl)
        arbiter.answer("allow", "--for", "1h")
        assert asking.wait(10) == 0
        assert arbiter.run(*curl)[0] == 0
        # Behind: what was to end in an hour of the wall's goes on, and nothing else changes.
        clock.jump(-7200)
        assert arbiter.run(*curl)[0] == 0
        # A question waits while the clock jumps there and back: its deadline is the other clock's.
        for ahead in (86400, -86400):
            waiting = arbiter.program("curl", "-sS", "-m", "12", f"http://{SECOND4}/")
            began = time.monotonic()
            eventually(lambda: [ask for ask in arbiter.asks() if ask["waiting"]] or None, 5)
            clock.jump(ahead)
            assert waiting.wait(10) == 7
            assert 3.5 < time.monotonic() - began < 7
        # Ahead, as after a suspend of two hours: the rule is over at once, and it is asked again.
        clock.jump(7200)
        again = arbiter.program(*curl)
        eventually(
            lambda: any(
                ask["waiting"] and SERVER4 in str(ask["destination"]) for ask in arbiter.asks()
            ),
            5,
        )
        assert again.wait(10) == 7, "nobody answers, and the rule is over"
        clock.jump(0)
        arbiter.add(f"allow host={SERVER4}")
        assert arbiter.run(*curl)[0] == 0
        arbiter.intact()
        assert arbiter.status().held == 0


def test_a_pid_that_is_used_again_inherits_nothing(clean_lab: Lab, tmp_path: Path) -> None:
    """Of a program that was allowed until it exits; the next one with its number is asked about."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    try:
        last.write_text(last.read_text())
    except OSError as error:
        pytest.skip(f"this kernel or container lets nobody choose a pid: {error}")
    line = f"exec 3<>/dev/tcp/{SERVER4}/7; read -r x <&3; echo $x; read -r y"
    settings = "deadline = 3.0\n"
    with Arbiter(clean_lab, tmp_path, settings=settings) as arbiter:
        # In one shell, so that nothing but the fork stands between the number and the process.
        first = clean_lab.popen(
            ["bash", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert first.stdout is not None and first.stdin is not None
        arbiter.answer("allow", "--for", "process")
        assert "link=" in first.stdout.readline()
        pid = first.pid
        first.communicate("\n")
        eventually(lambda: arbiter.status().rules == 0)
        for _ in range(50):
            last.write_text(str(pid - 1))
            second = clean_lab.popen(
                ["bash", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            if second.pid == pid:
                break
            second.kill()
            second.communicate()
        else:
            pytest.skip("this kernel is too busy: another process took the pid fifty times")
        ask = eventually(lambda: [a for a in arbiter.asks() if _pid(a) == pid] or None, 5)
        assert ask is not None, "it is asked about, not let go"
        second.kill()
        second.communicate()


def _pid(ask: dict[str, Any]) -> int:
    return int(ask["processes"][0]["pid"])


STORM = """
import os, socket, sys
good = bad = 0
for number in range(int(sys.argv[2])):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        sock = socket.socket()
        sock.settimeout(8)
        try:
            sock.connect((sys.argv[1], 7))
            os.write(write, b"r")
        except OSError:
            os.write(write, b"n")
        os._exit(0)
    os.close(write)
    good += os.read(read, 1) == b"r"
    os.close(read)
    os.waitpid(pid, 0)
    for _ in range(5):  # and children that do nothing but come and go
        if os.fork() == 0:
            os._exit(0)
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
print(good)
"""


def test_a_storm_of_processes_is_decided_one_by_one(clean_lab: Lab, tmp_path: Path) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add(*RULES)
        before = resident(arbiter)
        allowed = arbiter.program(*python(STORM, SERVER4, str(FORKS)))
        denied = arbiter.program(*python(STORM, SECOND4, str(FORKS)))
        assert allowed.communicate(timeout=120 * PATIENCE)[0] == f"{FORKS}\n"
        assert denied.communicate(timeout=120 * PATIENCE)[0] == "0\n"
        settled(arbiter)
        counters = arbiter.status().counters
        assert (counters["allow"], counters["deny"]) == (FORKS, FORKS)
        assert (resident(arbiter) - before) / 1e6 < 30
        verified(arbiter)


QUESTIONS = """
import errno, socket, sys
count, refused, sent = int(sys.argv[1]), 0, 0
kept = []
for number in range(count):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setblocking(False)
    try:
        one.sendto(b"x", (f"198.51.{100 + number % 2}.{1 + number // 60000}", 1 + number % 60000))
        sent += 1
    except OSError:
        refused += 1
    if number % 64 == 0:
        import time; time.sleep(0.01)
print(sent, refused)
"""


def test_a_hundred_thousand_questions_are_bounded_and_all_decided(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """4,000 in the ordinary run (ARBITER_FAULT_ASKS): each to another destination."""
    with Arbiter(clean_lab, tmp_path, settings="deadline = 2.0\n") as arbiter:
        arbiter.add(*RULES)
        before = resident(arbiter)
        asking = arbiter.program(*python(QUESTIONS, str(ASKS)))
        most = 0
        while asking.poll() is None:
            status = arbiter.status()
            assert (status.asks <= 512, status.held <= 4096) == (True, True)
            most = max(most, status.held)
            assert arbiter.run(*CURL, "20", f"http://{SERVER4}/", timeout=25)[0] == 0, "rules go on"
        eventually(lambda: arbiter.status().held == 0, 15)
        status = arbiter.status()
        decided = status.counters.get("deny", 0) + status.counters.get("allow", 0)
        lost = status.counters["dropped_full"] + status.counters["dropped_socket"]
        dropped = status.counters.get("drop", 0)
        assert decided + lost + dropped >= ASKS, status.counters
        more = (resident(arbiter) - before) / 1e6
        assert more < 40, f"{more:.1f} MB more"
        verified(arbiter)
    sys.stdout.write(f"{ASKS} questions: {most} held at most, {more:.1f} MB more\n")


def test_thousands_of_link_events_delay_nobody_and_end_right(
    clean_lab: Lab, tmp_path: Path
) -> None:
    lines = [
        f"address add 10.77.{number // 250}.{1 + number % 250}/32 dev {LINKS[1].interface}"
        for number in range(LINK_EVENTS // 4)
    ]
    batch = tmp_path / "batch"
    batch.write_text("\n".join([*lines, *(line.replace(" add", " del") for line in lines)] * 2))
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add(*RULES)
        arbiter.add("route via=lte app=/usr/bin/curl port=80")
        before, links = resident(arbiter), arbiter.links()
        with Load(arbiter) as load:
            well(arbiter, load)
            storm = arbiter.program("ip", "-force", "-batch", str(batch))
            while storm.poll() is None:
                code, output, seconds = arbiter.run(*LOUD, f"http://[{SERVER6}]/")
                assert (code, "link=lte" in output) == (0, True), output
                assert seconds < 3
            well(arbiter, load)
        assert load.leaks() == []
        eventually(lambda: arbiter.links() == links, 15)
        assert arbiter.status().problems == ()
        assert (resident(arbiter) - before) / 1e6 < 30


@pytest.fixture
def frozen_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own where the daemon keeps its state: it can be frozen, and then stands
    still like a disk that hangs."""
    image, place = tmp_path / "image", tmp_path / "state"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(48 << 20)
    done = subprocess.run(["mkfs.ext4", "-q", str(image)], capture_output=True, text=True)
    if done.returncode == 0:
        argv = ["mount", "-o", "loop", str(image), str(place)]
        done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this kernel or machine gives us no disk to freeze: {done.stderr}")
    try:
        yield place
    finally:
        subprocess.run(["fsfreeze", "-u", str(place)], capture_output=True)
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_stands_still_stops_no_verdict_and_loses_no_record(
    frozen_disk: Path, clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path, settings="deadline = 6.0\n") as arbiter:
        arbiter.add(*RULES)
        curl = (*CURL, "5", f"http://{SERVER4}/")
        assert arbiter.run(*curl)[0] == 0
        asking = arbiter.program(*CURL, "20", "http://198.51.100.20:8080/")
        with Load(arbiter) as load:
            well(arbiter, load)
            subprocess.run(["fsfreeze", "-f", str(frozen_disk)], check=True)
            try:
                began = time.monotonic()
                while time.monotonic() < began + 3:
                    code, _, seconds = arbiter.run(*curl)
                    assert (code, seconds < 1) == (0, True), f"{code} after {seconds:.1f} s"
                assert load.reached(began) == set(ALLOWED)
            finally:
                subprocess.run(["fsfreeze", "-u", str(frozen_disk)], check=True)
            well(arbiter, load)
        asking.kill()
        assert load.leaks() == []
        decided = arbiter.status().counters
        wanted = decided["allow"] + decided["deny"]
        # A SYN that was sent again while it waited is of the same record.
        packets = "SELECT sum(count) FROM decisions"
        eventually(lambda: arbiter.database(packets)[0][0] >= wanted, 20)
        assert arbiter.status().counters["records_lost"] == 0
        verified(arbiter)
