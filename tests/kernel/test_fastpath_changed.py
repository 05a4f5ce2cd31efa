"""A process that was opened as it was born, and is another by the time of its first packet: what
the kernel told of before counts for nothing."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastpathscene import LOOKED_AT, Child, Scene, Taken, opened, standing
from running import eventually

from arbiter.kernel.fastpath import compiled
from arbiter.kernel.procevents import FORKS_BUFFER, listen

pytestmark = pytest.mark.skipif(not compiled(), reason="KERNEL TEST NOT RUN: not compiled")
READER = "import sys; sys.stdin.read()"


@pytest.fixture
def scene() -> Iterator[Scene]:
    from arbiter.kernel import _fastpath

    events, births = listen(buffer=FORKS_BUFFER), listen()
    if events is None or births is None:
        pytest.skip("KERNEL TEST NOT RUN: no process events here")
    with events, births:
        made = Scene(_fastpath, events, births)
        yield made
        made.close()


@pytest.fixture
def known(scene: Scene) -> Iterator[Child]:
    """A child of ours, of whose program others are answered."""
    with Child() as first:
        teach(scene, first)
        yield first


def teach(scene: Scene, first: Child) -> None:
    assert scene.teach(socket.AF_INET, standing(first.pid, first.descriptor, program=True), 5)


def answered(scene: Scene, known: Child, word: str, change: str = "") -> Taken:
    """What is said of a new process that was opened as it was born, and then ran the same program
    with another argument. On a busy machine its birth may be past remembering by then."""
    for _ in range(20):
        with Child(word) as other:
            eventually(lambda: opened(other.pid) == LOOKED_AT)
            if change:
                again = [sys.executable, "-S", "-E", "-c", READER, change]
                other.tell(f"os.execv(sys.executable, {again!r})")
                eventually(lambda: change.encode() in cmdline(other))
            found = scene.send(other.packet())
            if found.token:
                assert (found.token, found.pid) == (5, other.pid)
                return found
        teach(scene, known)
    raise AssertionError("none was answered")


def cmdline(child: Child) -> bytes:
    return Path(f"/proc/{child.pid}/cmdline").read_bytes()


def executable(child: Child) -> str:
    return os.readlink(f"/proc/{child.pid}/exe")


def test_a_process_is_opened_as_it_is_born(scene: Scene, known: Child) -> None:
    assert answered(scene, known, "more").cmdline.endswith(b"\0more\0")


def test_nobody_elses_children_wake_the_thread(scene: Scene, known: Child) -> None:
    """Nor our own threads."""

    def wakes() -> list[str]:
        lines = Path(f"/proc/self/task/{scene.task}/status").read_text().splitlines()
        return [line for line in lines if line.startswith(("State", "voluntary_ctxt"))]

    def settled() -> list[str]:
        """It waits, and goes on waiting."""
        before = wakes()
        time.sleep(0.2)
        return before if before == wakes() and "sleeping" in before[0] else settled()

    with Child() as other:
        eventually(lambda: opened(other.pid) == LOOKED_AT)
        before = settled()
        assert other.do("[os.spawnv(0, '/bin/true', ['true']) for i in range(9)].count(0)") == "9"
        assert other.do("__import__('subprocess').getoutput('true')") == ""
        assert settled() == before


@pytest.mark.parametrize(
    "change",
    [
        "os.setresuid(65534, 65534, 0)",
        "ctypes.CDLL(None).unshare(0x20000)",
        "os.waitpid(os.fork() or os._exit(0), 0) and 0",
    ],
    ids=["user", "mounts", "child"],
)
def test_one_that_changes_is_not_taken_for_the_program(
    scene: Scene, known: Child, change: str
) -> None:
    with Child() as other:
        eventually(lambda: opened(other.pid) == LOOKED_AT)
        assert other.do(change) in ("None", "0")
        assert scene.send(other.packet()).token == 0


def test_one_that_runs_another_program_is_not_taken_for_it(scene: Scene, known: Child) -> None:
    """It still has the socket, where the program's are."""
    with Child() as other:
        eventually(lambda: opened(other.pid) == LOOKED_AT)
        other.tell("os.execv('/bin/sleep', ['sleep', '100'])")
        eventually(lambda: executable(other).endswith("sleep"))
        assert os.readlink(f"/proc/{other.pid}/fd/{other.descriptor}").startswith("socket:")
        assert scene.send(other.packet()).token == 0


def test_of_one_that_runs_it_again_the_record_says_what_it_runs_now(
    scene: Scene, known: Child
) -> None:
    assert answered(scene, known, "before", "after").cmdline.endswith(b"\0after\0")


def test_one_that_is_moved_to_another_cgroup_is_not_taken_for_it(
    scene: Scene, known: Child, cgroup: Path
) -> None:
    with Child() as other:
        eventually(lambda: opened(other.pid) == LOOKED_AT)
        (cgroup / "cgroup.procs").write_text(str(other.pid))
        assert scene.send(other.packet()).token == 0
