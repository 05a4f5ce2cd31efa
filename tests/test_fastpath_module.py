"""The compiled fast path as a whole: it repeats what it was taught, as long as all is as it was;
and nothing is lost, given twice or left open when everybody uses it at once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fastpathscene import (
    ADDRESSES,
    DPORT,
    MARK,
    VERDICT,
    Child,
    Scene,
    Verdict,
    connected,
    event,
    load,
    queued,
    standing,
)
from nativeharness import HERE, build

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
FORK, EXEC, EXIT = 1, 2, 0x80000000
US = os.getpid()
UNTOLD = 4096
"""native/fastpath.h."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("module"))


@pytest.fixture
def scene(plain: Path) -> Iterator[Scene]:
    made = Scene(load(str(plain)))
    yield made
    made.close()


def packet(sock: socket.socket, number: int = 1, mark: int = MARK) -> bytes:
    return queued(sock.family, sock.getsockname()[1], number, mark)


@FAMILIES
def test_what_was_taught_is_repeated_until_it_is_forgotten(scene: Scene, family: int) -> None:
    with connected(family) as sock:
        untaught = scene.send(packet(sock))
        assert (untaught.data, untaught.token) == (packet(sock), 0)
        assert scene.verdict() is None
        assert scene.teach(family, standing(US, sock.fileno()), 5)
        before = time.monotonic_ns()
        found = scene.send(packet(sock, 77))
        assert (found.data, found.token) == (packet(sock, 77), 5)
        assert before <= found.came <= found.answered <= time.monotonic_ns()
        assert (found.inode, found.pid) == (os.fstat(sock.fileno()).st_ino, 0)
        assert scene.verdict() == Verdict(77, VERDICT)
        scene.path.forget()
        assert scene.send(packet(sock)).token == 0
        assert scene.verdict() is None


@FAMILIES
def test_another_question_waits(scene: Scene, family: int) -> None:
    with connected(family) as sock, connected(family) as other:
        assert scene.teach(family, standing(US, 0), 5)
        assert scene.send(packet(other)).token == 5  # the same: found in the descriptor table
        for data in (
            packet(sock, mark=MARK + 1),
            queued(family, 1),  # no socket
            packet(sock)[:-1],
        ):
            assert scene.send(data).token == 0


@FAMILIES
def test_a_socket_that_is_not_connected_waits(scene: Scene, family: int) -> None:
    """Others of its port may have sent the packet."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((ADDRESSES[family], 0))
        assert scene.teach(family, standing(US, sock.fileno()), 5)
        assert scene.send(packet(sock)).token == 0
        sock.connect((ADDRESSES[family], DPORT))
        assert scene.send(packet(sock)).token == 5


@pytest.mark.parametrize("what", ["fork", "exec", "exit", "its parent's end"])
def test_no_answer_outlives_a_change_of_its_process(scene: Scene, what: str) -> None:
    messages = {
        "fork": event(FORK, US, US, 2**22, 2**22),
        "exec": event(EXEC, US, US),
        "exit": event(EXIT, US, US),
        "its parent's end": event(EXIT, os.getppid(), os.getppid()),
    }
    with connected() as sock:
        known = standing(US, sock.fileno())
        mark = scene.path.mark()
        assert scene.teach(socket.AF_INET, known, 5, mark)
        assert scene.send(packet(sock)).token == 5
        scene.happens.send(messages[what])
        assert scene.send(packet(sock)).token == 0
        if what != "its parent's end":
            assert not scene.teach(socket.AF_INET, known, 5, mark)
        assert scene.teach(socket.AF_INET, known, 6)
        assert scene.send(packet(sock)).token == 6


def test_what_is_not_so_is_not_learned(scene: Scene) -> None:
    with connected() as sock:
        good = standing(US, sock.fileno())
        wrong = {0: 2**22, 1: good[1] + 1, 2: good[2] + 1, 3: good[3] + 1, 4: "1 2 3 4"}
        for place, value in wrong.items():
            known = (*good[:place], value, *good[place + 1 :])
            assert not scene.teach(socket.AF_INET, known, 5), place
        for image in ("9" * 128, "9" * 9000, ""):
            assert not scene.teach(socket.AF_INET, (*good[:4], image, *good[5:]), 5)
        assert not scene.teach(socket.AF_INET, (*good[:6], (1,) * 9, *good[7:]), 5)
        assert not scene.teach(socket.AF_INET, good, 0)
        assert scene.send(packet(sock)).token == 0


@pytest.mark.parametrize("ahead", [True, False])
def test_a_new_process_of_the_same_program_is_answered_as_the_one_before(
    plain: Path, ahead: bool
) -> None:
    with closing(Scene(load(str(plain)), ahead=ahead)) as scene, Child() as first:
        assert scene.teach(socket.AF_INET, standing(first.pid, first.descriptor, program=True), 5)
        assert scene.send(first.packet()).token == 5
        with Child("more") as other:
            pid = other.pid
            assert scene.send(other.packet(8)).token == 0  # it was not seen being born
            scene.happens.send(event(FORK, US, US, pid, pid))
            found = scene.send(other.packet(8))
            assert (found.token, found.pid) == (5, pid)
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                assert found.cmdline == file.read()
            with open(f"/proc/{pid}/stat", "rb") as file:
                assert str(found.start).encode() == file.read().split()[21]
            scene.happens.send(event(FORK, pid, pid, 2**22, 2**22))
            assert scene.send(other.packet(8)).token == 0  # its child may hold the socket, too


def test_without_memory_for_its_arguments_a_new_process_waits(tmp_path: Path) -> None:
    module = load(str(build(tmp_path, "-include", str(HERE / "native" / "scarce.h"))))
    with closing(Scene(module)) as scene, Child() as first:
        assert scene.teach(socket.AF_INET, standing(first.pid, first.descriptor, program=True), 5)
        with Child("x" * 2500) as other:
            scene.happens.send(event(FORK, US, US, other.pid, other.pid))
            found = scene.send(other.packet())
    assert (found.token, found.cmdline) == (0, b"")


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("late"), "-include", str(HERE / "native" / "late.h"))


@pytest.mark.parametrize("what", ["program", "child", "end", "another's program"])
def test_what_a_new_process_does_while_it_is_looked_at_counts(late: Path, what: str) -> None:
    """What was read of it before may be of what it was, and what was read after of what it is."""
    with closing(Scene(load(str(late)))) as scene, Child() as first:
        assert scene.teach(socket.AF_INET, standing(first.pid, first.descriptor, program=True), 5)
        with Child("more") as other:
            pid = other.pid
            told = {
                "program": event(EXEC, pid, pid),
                "child": event(FORK, pid, pid, 2**22, 2**22),
                "end": event(EXIT, pid, pid),
                "another's program": event(EXEC, 2**22, 2**22),
            }
            for part in (event(FORK, US, US, pid, pid), b"-", told[what]):
                scene.happens.send(part)
            found = scene.send(other.packet())
            assert found.token == (5 if what == "another's program" else 0)


def test_what_is_not_fetched_is_bounded(scene: Scene) -> None:
    """A program that opens connections faster than they are recorded waits as without this."""
    with connected() as sock:
        assert scene.teach(socket.AF_INET, standing(US, sock.fileno()), 5)
        verdicts, data = 0, packet(sock)
        for _ in range(UNTOLD + 50):
            scene.kernel.send(data)
            verdicts += scene.verdict() is not None
        until = time.monotonic() + 20
        while scene.unread() and time.monotonic() < until:
            verdicts += scene.verdict() is not None
        time.sleep(0.1)  # the last one
        while scene.verdict() is not None:
            verdicts += 1
        assert verdicts == UNTOLD
        tokens = [scene.next().token for _ in range(UNTOLD + 50)]
        assert tokens == [0] * 50 + [5] * UNTOLD
        assert scene.send(data).token == 5


def test_what_was_repeated_is_gathered_and_what_waits_is_told_at_once(scene: Scene) -> None:
    waits = []
    for _ in range(30):
        began = time.monotonic()
        assert scene.send(b"x").token == 0
        waits.append(time.monotonic() - began)
    assert min(waits) < 0.01, "each was told of only when nothing more could be gathered"
    with connected() as sock:
        assert scene.teach(socket.AF_INET, standing(US, sock.fileno()), 5)
        told = [woken(scene, packet(sock)) for _ in range(10)]
    assert min(told) < 25, "for each the other thread was woken"


def woken(scene: Scene, data: bytes) -> int:
    """How often we are woken for 50 packets that are repeated, one after the other."""
    told = 0
    for _ in range(50):
        scene.kernel.send(data)
        while scene.verdict() is None:
            pass
        time.sleep(0.0002)  # it is done with that one
        with contextlib.suppress(BlockingIOError):
            told += os.eventfd_read(scene.wake)
    for _ in range(50):
        assert scene.next().token == 5
    assert scene.send(data).token == 5, "told of by itself, without another packet"
    return told


def test_a_message_larger_than_any_is_counted(scene: Scene) -> None:
    scene.kernel.send(bytes(5000))
    assert scene.send(b"x").data == b"x"
    assert scene.path.losses() == (0, 1)


def test_a_queue_that_cannot_be_read_is_an_error_and_no_loop(plain: Path) -> None:
    ends = [os.eventfd(0) for _ in range(6)]
    ends[0] = os.eventfd(1)  # readable, and no socket
    names = ("netlink", "diag", "events", "births", "wake", "stop")
    path = load(str(plain)).FastPath(queue=1, **dict(zip(names, ends, strict=True)))
    with pytest.raises(OSError) as failed:
        path.run()
    assert failed.value.errno == errno.ENOTSOCK
    for end in ends:
        os.close(end)


@pytest.mark.parametrize(
    "wrong",
    [
        {0: -1.5},
        {1: (17, b"1234", b"1" * 16, 9, 1, 0)},
        {1: (17, b"12345", b"12345", 9, 1, 0)},
        {1: (17, b"1234", b"1234", 9, 1)},
        {2: (1, 0, 0, 0, "a\0b", 0, (), b"", 0)},
        {2: (1, 0, 0, 0, "", 0, [], b"", 0)},
        {2: (1, 0, 0, 0, "", 0, ("x",), b"", 0)},
        {2: (1, 0, 0, 0, "", 0, (2**70,), b"", 0)},
        {2: (1, 0, 0, 0, "", 0, (), b"a\0b", 0)},
        {2: (2**40, 0, 0, 0, "", 0, (), b"", 0)},
    ],
)
def test_what_cannot_be_taught_is_an_error(scene: Scene, wrong: dict[int, object]) -> None:
    question, known = (17, b"1234", b"1234", 9, 1, 0), (US, 0, 0, 0, "", 0, (), b"", 0)
    given = [0, question, known, 0, 0, 5, 2**63]
    assert scene.path.teach(*given) is False
    for place, value in wrong.items():
        given[place] = value
    with pytest.raises((TypeError, ValueError, OverflowError)):
        scene.path.teach(*given)


@pytest.mark.parametrize("sanitizer", ["", "address", "thread"])
def test_all_at_once_nothing_is_lost_or_left(tmp_path: Path, sanitizer: str) -> None:
    words = [f"-fsanitize={sanitizer}"] if sanitizer else []
    module = build(tmp_path, *words)
    env = dict(os.environ)
    command = [sys.executable, str(HERE / "fastpathscene.py"), str(module), "0.6"]
    if sanitizer:
        name = {"address": "libasan.so", "thread": "libtsan.so"}[sanitizer]
        found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True)
        # Python's own memory is not its business.
        env |= {"LD_PRELOAD": found.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"}
        setarch = shutil.which("setarch")
        assert setarch is not None
        command[:0] = [setarch, "-R"]  # it wants addresses where it looks for them
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    counts = json.loads(done.stdout)
    assert counts["taken"] == counts["sent"] > 500
    assert counts["verdicts"] == counts["repeated"] > 50
    assert min(counts["taught"], counts["forgot"]) > 10
    assert counts["left open"] == 0
