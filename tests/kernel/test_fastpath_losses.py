"""The fast path where something is lost, full or ended: nothing goes that may not, each packet has
one verdict, and each connection one record."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from dialing import REFUSED, Dialer, Shell, known, repeats
from loading import RULES, Load
from running import Arbiter, eventually, python

from arbiter.kernel.fastpath import compiled
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4

pytestmark = pytest.mark.skipif(not compiled(), reason="KERNEL TEST NOT RUN: not compiled")
FEW = """
import runpy, sys
from arbiter import repeater
repeater.MOST = 30
sys.argv = sys.argv[4:]
runpy.run_module("arbiter", run_name="__main__")
"""
"""The daemon, which begins anew after thirty answers."""
MANY = """
import socket, sys, time
address, first, last, times = sys.argv[1], *map(int, sys.argv[2:])
for port in range(first, last):
    for number in range(times):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((address, port))
            sock.send(b"x")
            time.sleep(0.003)  # whose it is cannot be told once it is closed
"""
STORM = """
import os, sys
for number in range(int(sys.argv[1])):
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
"""


def recorded_packets(arbiter: Arbiter) -> int:
    [(count,)] = arbiter.database("SELECT sum(count) FROM decisions")
    return int(count or 0)


def test_answers_that_are_forgotten_while_others_are_told_of(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """What was repeated is told of before its answer is forgotten, in whatever order it comes."""
    through = (sys.executable, "-P", "-c", FEW)
    with Arbiter(clean_lab, tmp_path, through=through) as arbiter:
        arbiter.add("allow host=internet")
        counters: dict[str, int] = {}
        for _ in range(8):  # a storm of processes in another test has nothing repeated meanwhile
            same = arbiter.program(*python(MANY, SERVER4, "9", "10", "3000"))
            others = arbiter.program(*python(MANY, SERVER4, "2000", "3500", "1"))
            for program in (same, others):
                assert program.wait(60) == 0
            counters = eventually(arbiter.settled, 20)
            if counters.get("repeated", 0) > 50:
                break
        assert counters.get("repeated", 0) > 50
        assert counters["packets"] == counters["allow"] > 4000
        eventually(lambda: recorded_packets(arbiter) == counters["packets"], 30)
        arbiter.intact()


def test_more_answers_than_there_is_room_for(clean_lab: Lab, tmp_path: Path) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("allow host=internet")
        program = arbiter.program(*python(MANY, SERVER4, "2000", "3300", "3"))
        assert program.wait(60) == 0
        counters = eventually(arbiter.settled, 20)
        assert counters["packets"] == counters["allow"] > 3500
        assert 0 < counters["repeated"] <= 2600
        eventually(lambda: recorded_packets(arbiter) == counters["packets"])
        dialer = Dialer(arbiter)
        known(arbiter, dialer, "tcp", SERVER4)
        arbiter.add(f"deny host={SERVER4} port=7")
        assert dialer.dial("tcp", SERVER4) in REFUSED
        arbiter.intact()


def test_more_processes_than_there_is_room_for(clean_lab: Lab, tmp_path: Path) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("allow port=7")
        dialers = [Dialer(arbiter) for _ in range(70)]
        for _ in range(2):
            assert {dialer.dial("tcp", SERVER4) for dialer in dialers} == {"reached"}
        for dialer in dialers[:3]:
            known(arbiter, dialer, "tcp", SERVER4)
        counters = eventually(arbiter.settled, 20)
        eventually(lambda: recorded_packets(arbiter) == counters["packets"])
        by_pid = arbiter.database("SELECT count(DISTINCT pid) FROM decisions")
        assert by_pid == [(70,)]
        arbiter.add("deny port=7")
        before = repeats(arbiter)
        assert {dialer.dial("tcp", SERVER4) for dialer in dialers} <= REFUSED
        assert before <= repeats(arbiter)
        arbiter.intact()


def test_a_storm_of_forks_makes_it_forget(clean_lab: Lab, tmp_path: Path) -> None:
    """More events than fit: ENOBUFS. It has to look anew, and goes on."""
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("allow port=7")
        dialer, shell = Dialer(arbiter), Shell(arbiter)
        known(arbiter, dialer, "tcp", SERVER4)
        assert arbiter.run(*python(STORM, "4000"), timeout=60)[0] == 0
        before = repeats(arbiter)
        assert dialer.dial("tcp", SERVER4) == "reached"
        assert repeats(arbiter) == before, "who knows whose events they were"
        known(arbiter, dialer, "tcp", SERVER4)
        curl = f"curl -sS -o /dev/null -m 4 http://{SERVER4}/"
        arbiter.add("allow port=80")
        storm = arbiter.program(*python(STORM, "20000"))
        ends = Counter(shell.do(curl)[0] for _ in range(40))
        assert ends == {0: 40}
        arbiter.add("deny port=80")
        assert shell.do(curl)[0] == 7
        storm.kill()
        counters = eventually(arbiter.settled, 20)
        eventually(lambda: recorded_packets(arbiter) == counters["packets"])
        arbiter.intact()


def waiting(arbiter: Arbiter) -> int:
    """Packets that were not read yet, or have no verdict."""
    table = arbiter.lab.run(["cat", "/proc/net/netfilter/nfnetlink_queue"]).stdout
    return sum(int(line.split()[2]) for line in table.splitlines())


def test_a_daemon_that_was_stopped_for_a_while(clean_lab: Lab, tmp_path: Path) -> None:
    """What connects and ends meanwhile is nobody else's."""
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("allow port=7", "allow port=9")
        dialer = Dialer(arbiter)
        known(arbiter, dialer, "tcp", SERVER4)
        assert arbiter.process is not None
        arbiter.process.send_signal(signal.SIGSTOP)
        gone = arbiter.program(*python(MANY, SERVER4, "9", "10", "20"))
        assert gone.wait(20) == 0
        dialer.tell(f"dial('tcp', {SERVER4!r}, 7)")
        eventually(lambda: waiting(arbiter) > 20)
        arbiter.process.send_signal(signal.SIGCONT)
        assert dialer.told() == "reached"
        counters = eventually(arbiter.settled, 20)
        eventually(lambda: recorded_packets(arbiter) == counters["packets"])
        found = arbiter.json("audit", "--port", "9")
        assert len(found) == 20
        assert {one["pid"] for one in found} == {None}, "it had ended"
        arbiter.intact()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_end_while_answers_are_repeated(clean_lab: Lab, tmp_path: Path, how: int) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add(*RULES)
        with Load(arbiter) as load:
            eventually(lambda: arbiter.counter("repeated") > 100, 20)
            down = time.monotonic()
            code = arbiter.stop(how)
            time.sleep(0.5)
            arbiter.start()
            since = time.monotonic()
            eventually(lambda: len(load.reached(since)) == 4, 20)
            eventually(lambda: arbiter.counter("repeated") > 50, 20)
        assert code == (0 if how == signal.SIGTERM else -how)
        # A stop in order leaves nothing of arbiter in the kernel: everything goes meanwhile.
        assert load.leaks([(down, since)] if how == signal.SIGTERM else None) == []
        arbiter.intact()


def test_a_stop_in_order_keeps_the_record_of_every_verdict(clean_lab: Lab, tmp_path: Path) -> None:
    code = """
import socket, sys, time
while True:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect((sys.argv[1], 7))
        sock.send(b"x")
        sock.recv(100)
        print(time.monotonic(), sock.getsockname()[1], flush=True)
"""
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("allow port=7")
        program = arbiter.program(*python(code, SERVER4))
        eventually(lambda: arbiter.counter("repeated") > 100)
        stopped = time.monotonic()
        assert arbiter.stop() == 0
        program.kill()
        output, _ = program.communicate()
        lines = [line.split() for line in output.splitlines()[:-1]]
        went = {int(port) for when, port in lines if float(when) < stopped}
        recorded = {port for (port,) in arbiter.database("SELECT sport FROM decisions")}
        assert len(went) > 50
        assert went <= recorded
        arbiter.intact()
