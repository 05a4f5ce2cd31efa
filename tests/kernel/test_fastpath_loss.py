"""The fast path and the kernel's own process events: those that did not fit are noticed, whatever
the kernel says of them."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest
from fastpathscene import LOOKED_AT, Child, Scene, connected, event, opened, standing
from running import eventually

from arbiter.kernel import _fastpath
from arbiter.kernel.procevents import listen

SHELL = ["sh", "-c", "while read n; do for i in $(seq $n); do /bin/true; done; echo; done"]


@pytest.fixture
def events() -> Iterator[socket.socket]:
    """With room for some thirty."""
    sock = listen(buffer=12000)
    if sock is None:
        pytest.skip("KERNEL TEST NOT RUN: no process events here")
    with sock:
        yield sock


@pytest.fixture
def shell() -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which has as many children as it is told."""
    pipe = subprocess.PIPE
    with subprocess.Popen(SHELL, stdin=pipe, stdout=pipe) as one:
        yield one


def children(shell: subprocess.Popen[bytes], count: int) -> None:
    assert shell.stdin is not None and shell.stdout is not None
    shell.stdin.write(b"%d\n" % count)
    shell.stdin.flush()
    assert shell.stdout.readline() == b"\n"


def test_what_was_lost_may_have_been_of_any_process(
    events: socket.socket, shell: subprocess.Popen[bytes]
) -> None:
    scene = Scene(_fastpath, events)
    with connected() as sock:
        known = standing(os.getpid(), sock.fileno())

        def taught(mark: int) -> bool:
            return scene.teach(socket.AF_INET, known, 5, mark)

        mark = scene.path.mark()
        children(shell, 2)
        assert taught(mark)  # they were all read, and were others'
        mark = scene.path.mark()
        children(shell, 100)
        assert not taught(mark)
        scene.path.mark()
        children(shell, 100)
        mark = scene.path.mark()
        subprocess.run(["true"], check=True)
        assert not taught(mark)  # our own child: it is told of, because all before was read
        children(shell, 100)
        mark = scene.path.mark()
        assert taught(mark)
    scene.close()


def test_after_a_loss_nobody_stays_open(
    events: socket.socket, shell: subprocess.Popen[bytes]
) -> None:
    """Its end may have been told of."""
    scene = Scene(_fastpath, events)
    with Child() as first, Child() as other:
        known = standing(first.pid, first.descriptor, program=True)
        assert scene.teach(socket.AF_INET, known, 5)
        scene.bears.send(event(1, os.getpid(), os.getpid(), other.pid, other.pid))
        eventually(lambda: opened(other.pid) == LOOKED_AT)
        children(shell, 100)
        scene.path.mark()
        assert opened(other.pid) == ()
    scene.close()
