"""New processes of a known program from their second connection on: they are processes like others,
for each question, and no longer than they are the same and alone."""

from __future__ import annotations

import ctypes
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastpathscene import DPORT, MARK, VERDICT, Child, Scene, event, load, packed, queued, standing
from nativeharness import HERE, build

FORK, EXEC, EXIT = 1, 2, 0x80000000
US = os.getpid()
NOBODY = 2**22
"""No process has this pid: it is beyond PID_MAX_LIMIT."""
ANOTHER = "[s := socket.socket(2, 2), globals().update(s=s), s.connect(('127.0.0.1', 9)), s][3]"


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With native/gate.c."""
    words = ("-Wl,--wrap=newborn_read,--wrap=newborn_cwd", str(HERE / "native" / "gate.c"))
    return build(tmp_path_factory.mktemp("module"), *words)


@pytest.fixture
def scene(module: Path) -> Iterator[Scene]:
    made = Scene(load(str(module)))
    yield made
    made.close()


@pytest.fixture
def known(scene: Scene) -> Iterator[Child]:
    """A child of ours, of whose program others are answered."""
    with Child() as first:
        assert scene.teach(socket.AF_INET, standing(first.pid, first.descriptor, program=True), 5)
        yield first


class Gate:
    """Where the thread waits before it has read a process, or the `parents` of one only."""

    def __init__(self, module: Path, parents: bool = True) -> None:
        self._library = ctypes.CDLL(str(module))
        ctypes.c_int.in_dll(self._library, "parents").value = parents
        (self._out, self._to), (self._there, self._go) = os.pipe(), os.pipe()
        self._set(self._to, self._there)

    def _set(self, reached: int, opened: int) -> None:
        ctypes.c_int.in_dll(self._library, "reached").value = reached
        ctypes.c_int.in_dll(self._library, "opened").value = opened

    def wait(self) -> None:
        """AssertionError if it does not come."""
        came = select.select([self._out], [], [], 5)[0]
        if not came:
            self.open()
        assert came

    def open(self) -> None:
        """For this one and all others."""
        self._set(-1, self._there)
        os.write(self._go, b"x")


def another(child: Child) -> bytes:
    """A packet of a second socket, at another descriptor than the program's others had theirs."""
    port = child.do(f"{ANOTHER}.getsockname()[1]")
    return queued(socket.AF_INET, int(port))


@pytest.mark.parametrize("what", [FORK, EXEC, EXIT])
def test_one_that_changes_while_its_parent_is_read_is_not_the_same_afterwards(
    scene: Scene, module: Path, known: Child, what: int
) -> None:
    with Child() as other:
        scene.happens.send(event(FORK, US, US, other.pid, other.pid))
        assert scene.send(other.packet()).token == 5
        scene.happens.send(event(EXEC, US, US))
        gate = Gate(module)
        scene.kernel.send(other.packet())
        gate.wait()
        scene.happens.send(event(what, other.pid, other.pid, NOBODY, NOBODY))
        gate.open()
        assert scene.next().token == 5
        assert scene.send(another(other)).token == 0
        if what == FORK:
            assert scene.send(other.packet()).token == 0


def test_a_parent_that_changes_while_it_is_read_is_left_to_a_look_up(
    scene: Scene, module: Path, known: Child
) -> None:
    with Child() as other:
        scene.happens.send(event(FORK, US, US, other.pid, other.pid))
        gate = Gate(module)
        scene.kernel.send(other.packet())
        gate.wait()
        scene.happens.send(event(EXEC, US, US))
        gate.open()
        found = scene.next()
        assert (found.token, found.known, found.elder) == (5, False, None)


def test_it_is_one_like_others_for_each_question(scene: Scene) -> None:
    """Whoever had the place in memory before that it has now."""

    def sent(child: Child, mark: int) -> int:
        return scene.send(queued(socket.AF_INET, child.port, mark=mark)).token

    with Child() as first, Child() as other:
        told = standing(first.pid, first.descriptor, program=True)
        assert scene.teach(socket.AF_INET, told, 5)
        question = (17, packed(socket.AF_INET), packed(socket.AF_INET), DPORT, 1, MARK * 2)
        more = (told, os.geteuid(), VERDICT, 6, 2**63)
        assert scene.path.teach(scene.path.mark(), question, *more)
        scene.happens.send(event(EXIT, first.pid, first.pid))
        scene.happens.send(event(FORK, US, US, other.pid, other.pid))
        assert [sent(other, mark) for mark in (MARK, MARK * 2, MARK)] == [5, 6, 5]
        found = scene.send(another(other))
        assert (found.token, found.pid) == (5, other.pid)


@pytest.mark.parametrize("what", [FORK, EXEC, EXIT])
@pytest.mark.parametrize("parent", [False, True], ids=["itself", "its parent"])
def test_what_changes_while_it_is_read_is_not_answered(
    scene: Scene, module: Path, known: Child, what: int, parent: bool
) -> None:
    with Child() as other:
        scene.happens.send(event(FORK, US, US, other.pid, other.pid))
        gate = Gate(module, parents=False)
        scene.kernel.send(other.packet())
        gate.wait()
        pid = US if parent else other.pid
        scene.happens.send(event(what, pid, pid, NOBODY, NOBODY))
        gate.open()
        assert scene.next().token == 0
