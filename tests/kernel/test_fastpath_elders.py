"""Parents that run another program while their children live: a child that was seen before is
decided as its parent was then, and its parent's next children as it is now."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dialing import (
    REFUSED,
    SERVE,
    Shell,
    becomes,
    binary,
    known_program,
    once,
    records,
    repeats,
    script,
)
from running import Arbiter

from arbiter.kernel.fastpath import compiled
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4

pytestmark = pytest.mark.skipif(not compiled(), reason="KERNEL TEST NOT RUN: not compiled")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arbiter]:
    with Lab(f"p{os.getpid()}") as lab:
        home = tmp_path_factory.mktemp("daemon")
        with Arbiter(lab, home, settings="deadline = 0.5\n") as running:
            yield running


@pytest.fixture
def arbiter(daemon: Arbiter) -> Iterator[Arbiter]:
    """One for all tests of this file: each has other rules, programs and processes."""
    yield daemon
    daemon.forget()


class Family:
    """A script that starts a program, which then does what it is told, and runs bash in its own
    place when it is to `change`."""

    def __init__(self, arbiter: Arbiter, folder: Path) -> None:
        program = " ".join(binary(folder))
        self.program = program.split()[-1]
        self.command = f"{program} -S {script(folder, 'told.py', once('tcp', SERVER4)[-1])}"
        self._pipe = folder / "pipe"
        os.mkfifo(self._pipe)
        served = f"{program} -S {script(folder, 'serve.py', SERVE)} <{self._pipe} &"
        file = script(folder, "first.sh", f"{served}\nread go\nexec bash")
        self.app = f"script:/usr/bin/dash:{file}"
        self.shell = Shell(arbiter)
        self.shell.tell(f"exec sh {file}")
        self._to = self._pipe.open("w")

    def dial(self) -> str:
        """What comes of a connection of the child that lives."""
        self._to.write(f"dial('tcp', {SERVER4!r}, 7)\n")
        self._to.flush()
        return self.shell.line()

    def change(self) -> None:
        self.shell.tell("go")
        becomes(self.shell, "bash")

    def close(self) -> None:
        """The child ends."""
        self._to.close()


@pytest.fixture
def family(arbiter: Arbiter, tmp_path: Path) -> Iterator[Family]:
    made = Family(arbiter, tmp_path)
    yield made
    made.close()


def test_a_child_from_before_does_not_speak_for_what_its_parent_starts_now(
    arbiter: Arbiter, family: Family
) -> None:
    arbiter.add(f"allow app={family.program} parent={family.app} port=7")
    assert family.dial() == '"reached"'
    family.change()
    arbiter.add("deny port=9")  # what was taught is forgotten
    before = repeats(arbiter)
    for _ in range(3):
        assert family.dial() == '"reached"'
    assert repeats(arbiter) > before
    before = repeats(arbiter)
    for _ in range(3):
        told = family.shell.do(family.command)[1]
        assert told and set(told) <= REFUSED
    assert repeats(arbiter) == before


def test_what_a_parent_starts_now_is_recorded_as_its_child_now(
    arbiter: Arbiter, family: Family
) -> None:
    arbiter.add(f"allow app={family.program} port=7")
    assert family.dial() == '"reached"'
    family.change()
    arbiter.add("deny port=9")
    assert family.dial() == '"reached"'
    for _ in range(3):
        before = repeats(arbiter)
        pid, told = family.shell.do(f"{family.command} & echo $!; wait")[1]
        assert told == "reached"
        (one,) = records(arbiter, 1, pid=int(pid))
        assert one["parents"][0] == "/usr/bin/bash"
    known_program(arbiter, family.shell, family.command)
    assert repeats(arbiter) > before
