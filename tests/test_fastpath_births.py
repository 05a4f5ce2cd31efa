"""New processes that are opened as they are born: only those of parents that programs are expected
from, and nothing is concluded from it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from examples import examples
from fastpathscene import CHILD, LOOKED_AT, Child, Scene, event, load, opened, queued, standing
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nativeharness import Harness, build

from arbiter.kernel import procread

FORK, EXEC, UID, EXIT = 1, 2, 4, 0x80000000
US = os.getpid()
NOBODY = 2**22
"""No process has this pid: it is beyond PID_MAX_LIMIT."""
STRANGERS, PROGRAMS = 8, 64
"""native/fastpath.h."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("module"))


@pytest.fixture
def scene(plain: Path) -> Iterator[Scene]:
    made = Scene(load(str(plain)))
    yield made
    made.close()


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with Harness(tmp_path_factory.mktemp("harness")) as program:
        yield program


@pytest.fixture
def known(scene: Scene) -> Iterator[Child]:
    """A child of ours, of whose program others are answered."""
    with Child() as first:
        assert scene.teach(socket.AF_INET, standing(first.pid, first.descriptor, program=True), 5)
        yield first


def birth(child: int, parent: int = US) -> bytes:
    return event(FORK, parent, parent, child, child)


def tell(scene: Scene, child: int, parent: int = US) -> None:
    """A birth, as the kernel tells of it on both sockets. It was read when this returns."""
    scene.happens.send(birth(child, parent))
    scene.bears.send(birth(child, parent))
    read(scene)


def read(scene: Scene) -> None:
    """All births that were told have been read: the thread is at something after them."""
    until = time.monotonic() + 10
    while not scene.deaf():
        assert time.monotonic() < until
        time.sleep(0.001)
    scene.path.mark()  # it has the lock meanwhile


def test_a_child_is_opened_when_it_is_born_and_closed_when_it_has_ended(
    scene: Scene, known: Child
) -> None:
    with Child("more") as other:
        assert opened(other.pid) == ()
        tell(scene, other.pid)
        assert opened(other.pid) == LOOKED_AT
        found = scene.send(other.packet())
        assert (found.token, found.pid) == (5, other.pid)
        assert found.cmdline.endswith(b"\0more\0")
        assert opened(other.pid) == LOOKED_AT
        scene.happens.send(event(EXIT, other.pid, other.pid))
        scene.path.mark()
        assert opened(other.pid) == ()
        scene.bears.send(birth(other.pid))  # told late
        read(scene)
        scene.happens.send(event(EXIT, other.pid, other.pid))
    assert scene.send(b"x").token == 0


def test_a_child_is_opened_with_its_packet_if_nobody_told_before(
    scene: Scene, known: Child
) -> None:
    with Child() as other:
        scene.happens.send(birth(other.pid))
        assert scene.send(other.packet()).token == 5
        tell(scene, other.pid)
        assert opened(other.pid) == LOOKED_AT
        assert scene.send(other.packet()).token == 5


@pytest.mark.parametrize(
    "message",
    [
        birth(US, US + 1),
        event(FORK, US, US, os.getppid(), US),  # a thread
        event(EXEC, US, US, US, US),
        event(EXIT, US, US, US, US),
        birth(US)[:-24],
        b"x",
        b"",
    ],
    ids=["another's", "thread", "exec", "exit", "cut", "short", "empty"],
)
def test_nothing_else_wakes_the_thread(scene: Scene, known: Child, message: bytes) -> None:
    scene.stop()
    scene.bears.send(message)
    assert scene.deaf()
    scene.bears.send(birth(known.pid))
    assert not scene.deaf()


def test_before_anything_is_taught_nothing_wakes_it(scene: Scene) -> None:
    scene.stop()
    scene.bears.send(birth(US, os.getppid()))
    assert scene.deaf()


def test_what_was_forgotten_is_not_expected(scene: Scene, known: Child) -> None:
    scene.path.forget()
    with Child() as other:
        tell(scene, other.pid)
        assert opened(other.pid) == ()
        scene.stop()
        scene.bears.send(birth(other.pid))
        assert scene.deaf()  # and the next one does not even wake it


def test_a_parent_of_many_others_is_let_alone_until_a_program_is_met(
    scene: Scene, known: Child
) -> None:
    with ExitStack() as stack:
        others = [stack.enter_context(Child()) for _ in range(3)]
        for _ in range(STRANGERS - 1):
            tell(scene, NOBODY)
        tell(scene, others[0].pid)
        assert opened(others[0].pid) == LOOKED_AT
        tell(scene, others[1].pid)
        assert opened(others[1].pid) == ()
        assert scene.send(others[1].packet()).token == 5
        tell(scene, others[2].pid)
        assert opened(others[2].pid) == LOOKED_AT


def test_whoever_bears_the_next_one_it_is_opened_once_the_parent_has_ended(
    scene: Scene, known: Child
) -> None:
    stranger = os.getppid()
    with Child() as other:
        tell(scene, other.pid, stranger)
        assert opened(other.pid) == ()
        scene.happens.send(event(EXIT, US, US))
        tell(scene, NOBODY)
        for _ in range(STRANGERS - 2):
            tell(scene, NOBODY, stranger)
        tell(scene, other.pid, stranger)
        assert opened(other.pid) == LOOKED_AT
        scene.stop()
        scene.bears.send(birth(NOBODY, stranger))
        assert scene.deaf()  # no more of them


@pytest.mark.parametrize("what", [EXEC, EXIT])
def test_where_ancestors_count_what_a_changed_parent_bears_is_a_stranger(
    scene: Scene, what: int
) -> None:
    with Child() as first, Child() as other:
        told = standing(first.pid, first.descriptor, program=True, only=US)
        assert scene.teach(socket.AF_INET, told, 5)
        tell(scene, other.pid)
        assert scene.send(other.packet()).token == 5
        scene.happens.send(event(what, US, US))
        tell(scene, other.pid)
        assert scene.send(other.packet()).token == 0


@pytest.mark.parametrize("what", [EXEC, EXIT])
def test_where_ancestors_count_a_parent_that_changed_while_it_was_decided_has_none(
    scene: Scene, what: int
) -> None:
    with Child() as first, Child() as other:
        told = standing(first.pid, first.descriptor, program=True, only=US)
        mark = scene.path.mark()
        scene.happens.send(event(what, US, US))
        scene.teach(socket.AF_INET, told, 5, mark)
        tell(scene, other.pid)
        assert scene.send(other.packet()).token == 0
        assert scene.teach(socket.AF_INET, told, 5)
        assert scene.send(other.packet()).token == 5


def test_only_so_many_are_open_at_once(scene: Scene, known: Child) -> None:
    with ExitStack() as stack:
        others = [stack.enter_context(Child()) for _ in range(18)]
        for other in others:
            tell(scene, other.pid)
            assert scene.send(other.packet()).token == 5
        count = sum(opened(other.pid) == LOOKED_AT for other in others)
        assert count == 16
        assert sum(map(len, map(opened, (other.pid for other in others)))) == 16 * len(LOOKED_AT)


class _CloneArgs(ctypes.Structure):
    """struct clone_args (linux/sched.h)."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size"),
            *("tls", "set_tid", "set_tid_size", "cgroup"),
        )
    ]


@contextmanager
def born_as(pid: int) -> Iterator[int]:
    """A child of this pid, which is free: the port of its socket."""
    out, to = os.pipe()
    there, here = os.pipe()
    wanted = ctypes.c_int(pid)
    args = _CloneArgs(exit_signal=signal.SIGCHLD, set_tid=ctypes.addressof(wanted), set_tid_size=1)
    libc = ctypes.CDLL(None, use_errno=True)
    made = libc.syscall(435, ctypes.byref(args), ctypes.sizeof(args))  # clone3
    if made == 0:
        os.dup2(there, 0)
        os.dup2(to, 1)
        os.execv(sys.executable, [sys.executable, "-S", "-E", "-c", CHILD, "127.0.0.1"])
    os.close(to)
    os.close(there)
    with open(out) as said, open(here, "w"):
        if made < 0:
            pytest.skip(f"clone3 with a pid: {os.strerror(ctypes.get_errno())}")
        try:
            yield int(said.readline().split()[1])
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_who_gets_the_pid_of_an_opened_one_is_not_taken_for_it(scene: Scene, known: Child) -> None:
    """Whatever is told of it and however late."""
    with Child() as other:
        pid = other.pid
        tell(scene, pid)
        assert opened(pid) == LOOKED_AT
    with born_as(pid) as port:
        packet = queued(socket.AF_INET, port)
        scene.happens.send(birth(pid))
        assert scene.send(packet).token == 0  # what is open is of the one before
        scene.bears.send(birth(pid))
        read(scene)
        found = scene.send(packet)
        assert (found.token, found.pid) == (5, pid)


# --- the filter of the socket, against what it is to do -------------------------------------

PIDS = st.integers(1, 6) | st.integers(1, 2**22)


def passes(harness: Harness, parents: list[int], message: bytes) -> bool:
    said = harness.ask("f", struct.pack(f"=i{len(parents)}i", len(parents), *parents) + message)
    return said == b"\1"


@settings(max_examples=examples(400))
@given(
    parents=st.lists(PIDS, max_size=PROGRAMS, unique=True),
    what=st.sampled_from((FORK, FORK, FORK, FORK, EXEC, UID, EXIT, 0)),
    pids=st.tuples(PIDS, PIDS, PIDS, PIDS),
    process=st.booleans(),
    chosen=st.integers(0, PROGRAMS),
)
@example([], FORK, (1, 1, 2, 2), True, 0)
@example([*range(1, PROGRAMS + 1)], FORK, (1, 1, 2, 2), True, 0)
@example([*range(1, PROGRAMS + 1)], FORK, (1, 1, 2, 2), True, PROGRAMS - 1)
@example([*range(2, PROGRAMS + 2)], FORK, (1, 1, 2, 2), True, PROGRAMS)
def test_only_the_births_of_these_parents_come_through(
    harness: Harness,
    parents: list[int],
    what: int,
    pids: tuple[int, int, int, int],
    process: bool,
    chosen: int,
) -> None:
    thread, parent, first, second = pids
    parent = parents[chosen] if chosen < len(parents) else parent
    second = first if process else second
    data = event(what, thread, parent, first, second)
    wanted = what == FORK and first == second and parent in parents
    assert passes(harness, parents, data) is wanted
    for size in (0, 51, 67):
        assert not passes(harness, parents, data[:size])


def test_a_program_is_not_known_by_a_parent_that_is_not_its_own(scene: Scene) -> None:
    """It may have got another since Python looked: others of that one are strangers to it."""
    stranger = os.getppid()
    with Child() as first, Child() as other:
        told = standing(first.pid, first.descriptor, program=True, only=stranger)
        scene.teach(socket.AF_INET, told, 5)
        tell(scene, other.pid, stranger)
        assert scene.send(other.packet()).token == 0


def test_a_process_that_shows_no_arguments_may_be_gone_and_is_not_answered(
    scene: Scene, known: Child
) -> None:
    """An empty cmdline is what the kernel has of one that ends while it is read."""
    with Child() as other:
        scene.happens.send(birth(other.pid))
        page = f"ctypes.c_void_p({first_argument(other.pid) & -4096})"
        for protection, token in ((0, 0), (3, 5)):  # PROT_NONE, PROT_READ | PROT_WRITE
            assert other.do(f"ctypes.CDLL(None).mprotect({page}, 4096, {protection})") == "0"
            shown = Path(f"/proc/{other.pid}/cmdline").read_bytes()
            assert bool(shown) is bool(token)
            assert scene.send(other.packet()).token == token


def first_argument(pid: int) -> int:
    """Where its arguments begin in its memory."""
    return int(procread.parse_stat(Path(f"/proc/{pid}/stat").read_bytes()).image[3])
