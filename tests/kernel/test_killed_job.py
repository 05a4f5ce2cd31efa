"""kill -9 of the real daemon while people answer: what they were told is on disk, and verified."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

from running import Arbiter, eventually, python

from arbiter import protocol
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4
from arbiter.protocol import Choice, Role
from arbiter.store.lives import KILLED

ROUNDS = int(os.environ.get("ARBITER_DAEMON_KILLS", "3"))
LOAD = """
import itertools, socket, sys, time
kept = []
for port in itertools.count(int(sys.argv[2])):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        sock = socket.socket(socket.AF_INET, kind)
        sock.setblocking(False)
        sock.connect_ex((sys.argv[1], port))
        if kind == socket.SOCK_DGRAM:
            try:
                sock.send(b"hello")
            except OSError:
                pass
        kept.append(sock)
    del kept[:-40]
    time.sleep(0.005)
"""


class Person:
    """Answers every ask as it comes, in a thread of its own, until the daemon is gone: by turns for
    ever and for once. `told` is what the daemon said was decided."""

    def __init__(self, arbiter: Arbiter) -> None:
        self.told: list[protocol.Decided] = []
        self._turn = itertools.cycle(("forever", "once"))
        self._thread = threading.Thread(target=self._answer, args=(arbiter,))
        self._thread.start()

    def _answer(self, arbiter: Arbiter) -> None:
        with suppress(OSError), arbiter.connection(Role.PROMPT) as connection:
            waiting = [ask for ask in connection.asks if isinstance(ask, protocol.Ask)]
            while True:
                for ask in waiting:
                    lifetime = next(self._turn)
                    connection.send(protocol.Answer(ask.id, Choice.DENY, "connection", lifetime))
                try:
                    message = connection.receive()
                except AssertionError:  # the daemon has ended the connection
                    return
                waiting = [message] if isinstance(message, protocol.Ask) else []
                if isinstance(message, protocol.Decided):
                    self.told.append(message)

    def end(self) -> list[protocol.Decided]:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.told


def test_what_a_person_was_told_outlives_a_kill(clean_lab: Lab, tmp_path: Path) -> None:
    dice = random.Random(time.time_ns())
    lines: dict[int, str] = {}
    once = 0
    arbiter = Arbiter(clean_lab, tmp_path)
    with arbiter:
        for turn in range(ROUNDS):
            load = arbiter.program(*python(LOAD, SERVER4, str(1000 + 2000 * turn)))
            person = Person(arbiter)
            eventually(lambda person=person: len(person.told) > 3)  # type: ignore[misc]
            time.sleep(dice.uniform(0.0, 1.5))
            assert arbiter.stop(signal.SIGKILL) == -signal.SIGKILL
            told = person.end()
            load.kill()
            load.wait()
            assert not [one.problem for one in told if one.problem]
            lines |= {one.rule_id: one.rule for one in told if one.rule_id is not None}
            once += sum(one.rule_id is None and one.released > 0 for one in told)
            done = arbiter.ran("audit", "verify")
            assert done.returncode == 0, done.stdout + done.stderr
            kept = {rule["id"]: rule["rule"] for rule in arbiter.json("rules", "list")}
            assert lines.items() <= kept.items()
            sql = "SELECT count(*) FROM decisions WHERE reason = 'answer' AND rule_id IS NULL"
            assert arbiter.database(sql)[0][0] >= once
            arbiter.start()
            gaps = arbiter.database("SELECT time_from, time_to, count, why FROM gaps ORDER BY id")
            assert len(gaps) == turn + 1
            since, until, count, why = gaps[-1]
            assert (count, why) == (None, KILLED)
            # The last sign of life: a record, or the start of a run that was killed before any.
            signs = "SELECT time FROM decisions UNION ALL SELECT started FROM runs"
            sql = f"SELECT max(time) FROM ({signs}) WHERE time < {until}"
            ((newest,),) = arbiter.database(sql)
            assert since <= until and abs(since - newest) < 1.0
    assert lines and once, "people answered in both ways"
    log = (tmp_path / "log").read_text()
    points = re.findall(r"checkpoint (\S+) \((?:start|stop|day|records)\)", log)
    assert points, log
    options = [word for point in points for word in ("--checkpoint", point)]
    done = arbiter.ran("audit", "verify", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "they agree with the" in done.stdout


def test_what_comes_while_it_takes_over_is_held_against_links(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """The ruleset of the run before fills the queue as soon as it is there."""
    arbiter = Arbiter(clean_lab, tmp_path, "--mode", "observe")
    with arbiter:
        arbiter.program(*python(LOAD, SERVER4, "1000"))
        eventually(lambda: arbiter.database("SELECT 1 FROM decisions"))
        for _ in range(ROUNDS):
            assert arbiter.stop(signal.SIGKILL) == -signal.SIGKILL
            ((last,),) = arbiter.database("SELECT max(id) FROM decisions")
            arbiter.start()
            sql = f"SELECT count(*) FROM decisions WHERE id > {last}"
            eventually(lambda sql=sql: arbiter.database(sql)[0][0] > 50)  # type: ignore[misc]
            assert arbiter.database(f"{sql} AND link <> 'wifi'") == [(0,)]
