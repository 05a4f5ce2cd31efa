"""Who was just born and is not taken for a process of a known program: who runs another one, has
another parent where that counts, or is not alone with its socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastpathscene import DPORT, MARK, VERDICT, Child, Scene, event, load, packed, queued, standing
from nativeharness import build

FORK, EXEC, EXIT = 1, 2, 0x80000000
US = os.getpid()
NOBODY = 2**22
"""No process has this pid: it is beyond PID_MAX_LIMIT."""
PLACES, YOUNGER = 8, 16
"""native/fastpath.h."""
OTHER_MOUNTS = ("unshare", "-m")
SLEEPS = "__import__('time').sleep(60)"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("module"))


@pytest.fixture
def scene(plain: Path) -> Iterator[Scene]:
    made = Scene(load(str(plain)))
    yield made
    made.close()


@pytest.fixture
def first(scene: Scene) -> Iterator[Child]:
    """A child of ours of whose program others are to be known."""
    with Child() as child:
        yield child


def teach(scene: Scene, child: Child, only: int = 0, seconds: float = 60.0, fd: int = -1) -> None:
    """Others of its program are answered."""
    descriptor = child.descriptor if fd < 0 else fd
    told = standing(child.pid, descriptor, program=True, only=only)
    address, until = packed(socket.AF_INET), time.monotonic_ns() + int(seconds * 1e9)
    question = (17, address, address, DPORT, 1, MARK)
    more = (os.geteuid(), VERDICT, 5, until)
    assert scene.path.teach(scene.path.mark(), question, told, *more)


def born(scene: Scene, child: int, parent: int = US) -> None:
    scene.happens.send(event(FORK, parent, parent, child, child))


def token(scene: Scene, child: Child, port: int = 0) -> int:
    """Of the answer to its packet; 0 for none."""
    return scene.send(queued(socket.AF_INET, port or child.port)).token


# --- programs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "under", [(), OTHER_MOUNTS, ("setpriv", "--reuid=65534")], ids=["same", "mounts", "user"]
)
def test_another_user_or_mount_namespace_is_another_program(
    scene: Scene, first: Child, under: Sequence[str]
) -> None:
    teach(scene, first)
    with Child(under=under) as other:
        born(scene, other.pid)
        assert token(scene, other) == (0 if under else 5)


def test_its_user_and_its_sockets_are_both_to_be_the_same(scene: Scene, first: Child) -> None:
    teach(scene, first)
    with Child() as other:
        born(scene, other.pid)
        assert other.do("os.seteuid(65534)") == "None"
        assert token(scene, other) == 0
        make = "globals().update(s=socket.socket(2, 2)) or s.connect(('127.0.0.1', 9))"
        assert other.do(make) == "None"
        assert other.do(f"[os.seteuid(0), os.dup2(s.fileno(), {other.descriptor})]") != ""
        port = int(other.do("s.getsockname()[1]"))
        assert token(scene, other, port) == 0


def test_the_same_file_at_another_path_is_another_program(
    scene: Scene, first: Child, tmp_path: Path
) -> None:
    teach(scene, first)
    mounts = f'touch {tmp_path}/x; mount --bind $1 {tmp_path}/x; shift; exec {tmp_path}/x "$@"'
    with Child(under=["sh", "-c", mounts, "x"]) as other:
        try:
            born(scene, other.pid)
            assert token(scene, other) == 0
        finally:
            subprocess.run(["umount", "-l", str(tmp_path / "x")], check=True)


def test_an_answer_that_is_over_is_none_beside_another_ones(scene: Scene, first: Child) -> None:
    with Child(under=OTHER_MOUNTS) as stranger, Child() as other:
        teach(scene, stranger)
        teach(scene, first, seconds=0.5)
        born(scene, other.pid)
        assert token(scene, other) == 5
        time.sleep(0.6)
        assert token(scene, other) == 0


def test_a_program_whose_parent_changed_is_none_beside_another_one(
    scene: Scene, first: Child
) -> None:
    with Child(under=OTHER_MOUNTS) as stranger, Child() as other:
        teach(scene, first, only=US)
        teach(scene, stranger)
        scene.happens.send(event(EXEC, US, US))
        born(scene, other.pid)
        assert token(scene, other) == 0


def test_at_so_many_descriptors_only_sockets_are_looked_for(scene: Scene, first: Child) -> None:
    with ExitStack() as stack:
        others = [stack.enter_context(Child(under=OTHER_MOUNTS)) for _ in range(PLACES)]
        one = stack.enter_context(Child())
        teach(scene, first)
        for number, other in enumerate(others):
            born(scene, one.pid)
            assert token(scene, one) == 5, number
            scene.happens.send(event(EXIT, one.pid, one.pid))
            teach(scene, other, fd=100 + number)
        born(scene, one.pid)
        assert token(scene, one) == 0


# --- parents, where they count --------------------------------------------------------------


@pytest.mark.parametrize("before", [False, True], ids=["always", "from now on"])
def test_where_ancestors_count_another_parents_process_is_not_known(
    scene: Scene, first: Child, before: bool
) -> None:
    with Child(under=["timeout", "60"]) as other:
        pid = int(other.do("os.getpid()"))
        if before:
            teach(scene, first)
            scene.path.forget()
        teach(scene, first, only=US)
        born(scene, other.pid)
        born(scene, pid, other.pid)
        assert token(scene, other) == 0
        scene.path.forget()
        teach(scene, first)
        assert token(scene, other) == 5


def test_a_program_of_another_parent_than_was_said_is_known_by_none(
    scene: Scene, first: Child
) -> None:
    with Child(under=["timeout", "60"]) as other:
        pid = int(other.do("os.getpid()"))
        teach(scene, first, only=other.pid)
        born(scene, pid, other.pid)
        assert token(scene, other) == 0


# --- sockets --------------------------------------------------------------------------------


def test_whose_parent_has_the_socket_too_is_not_alone(scene: Scene, first: Child) -> None:
    teach(scene, first)
    with Child() as other:
        pid = int(other.do(f"os.fork() or {SLEEPS}"))
        born(scene, pid, other.pid)
        found = token(scene, other)
        os.kill(pid, signal.SIGKILL)
        assert found == 0


@pytest.mark.parametrize("fd", [-1, 0], ids=["there", "as standard input"])
def test_whose_clone_has_the_socket_too_is_not_alone(scene: Scene, first: Child, fd: int) -> None:
    """It is told of as a child of the parent (CLONE_PARENT)."""
    teach(scene, first)
    with Child() as other:
        own = other.descriptor
        moved = "0" if fd < 0 else f"os.dup2({own}, {fd}), os.close({own})"
        pid = int(other.do(f"os.fork() or [{moved}, {SLEEPS}]"))
        place = Path(f"/proc/{pid}/fd/{own}")
        until = time.monotonic() + 10
        while fd == 0 and place.is_symlink():
            assert time.monotonic() < until
        born(scene, other.pid)
        assert token(scene, other) == 5
        born(scene, pid)
        found = token(scene, other)
        os.kill(pid, signal.SIGKILL)
        assert found == 0


@pytest.mark.parametrize("more", [0, 1])
def test_of_whom_too_many_were_born_since_nobody_can_tell(
    scene: Scene, first: Child, more: int
) -> None:
    teach(scene, first)
    with Child() as other:
        born(scene, other.pid)
        for number in range(YOUNGER + more):
            born(scene, NOBODY + number, NOBODY)
            scene.happens.send(event(EXIT, NOBODY + number, NOBODY + number))
            scene.path.mark()
        assert token(scene, other) == (0 if more else 5)


def test_who_has_another_parent_than_was_told_is_not_known(scene: Scene, first: Child) -> None:
    teach(scene, first)
    with Child() as other:
        born(scene, other.pid, os.getppid())
        assert token(scene, other) == 0


def test_a_socket_elsewhere_is_not_its_own(scene: Scene, first: Child) -> None:
    """It was opened ahead, and has another socket where the program's others have theirs."""
    teach(scene, first)
    with Child() as other, Child() as stranger:
        born(scene, other.pid)
        assert token(scene, other) == 5
        assert token(scene, stranger) == 0
