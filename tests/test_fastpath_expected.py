"""Whose births are heard of: those to the parent that bore the last one of a known program, if it
bore the one before, too, or what was taught; else those to anybody."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastpathscene import Child, Scene, event, load, opened, standing
from nativeharness import build

FORK = 1
US, STRANGER = os.getpid(), os.getppid()
NOBODY = 2**22
"""No process has this pid: it is beyond PID_MAX_LIMIT."""
STRANGERS = 8
"""native/fastpath.h."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("module"))


@pytest.fixture
def scene(plain: Path) -> Iterator[Scene]:
    made = Scene(load(str(plain)))
    yield made
    made.close()


@pytest.fixture
def known(scene: Scene) -> Iterator[Child]:
    """A child of ours, of whose program others are answered."""
    with Child() as first:
        teach(scene, first)
        yield first


def teach(scene: Scene, child: Child) -> None:
    assert scene.teach(socket.AF_INET, standing(child.pid, child.descriptor, program=True), 5)


def heard(scene: Scene, child: Child, parent: int) -> bool:
    """Whether it is opened when it is born to this one, and then gone again."""
    scene.bears.send(event(FORK, parent, parent, child.pid, child.pid))
    until = time.monotonic() + 10
    while not scene.deaf():
        assert time.monotonic() < until
        time.sleep(0.001)
    scene.path.mark()  # the thread has the lock meanwhile
    was = opened(child.pid) != ()
    scene.happens.send(event(0x80000000, child.pid, child.pid))
    scene.path.mark()
    return was


def met(scene: Scene, child: Child, pid: int, parent: int) -> None:
    scene.happens.send(event(FORK, parent, parent, pid, pid))
    assert scene.send(child.packet()).token == 5


def test_those_to_the_parent_of_what_was_taught(scene: Scene, known: Child) -> None:
    with Child() as other, Child() as probe:
        for _ in range(2):
            assert not heard(scene, probe, STRANGER)
            assert heard(scene, probe, US)
            met(scene, other, other.pid, US)


def test_those_to_anybody_after_a_new_parent_until_it_bore_two_or_one_is_taught(
    scene: Scene, known: Child
) -> None:
    with Child(under=["timeout", "60"]) as other, Child() as probe:
        pid = int(other.do("os.getpid()"))
        met(scene, other, pid, other.pid)
        assert heard(scene, probe, STRANGER)
        met(scene, other, pid, other.pid)
        assert not heard(scene, probe, STRANGER)
        assert not heard(scene, probe, US)
        teach(scene, known)
        assert heard(scene, probe, US)
        assert not heard(scene, probe, STRANGER)


def test_what_is_taught_again_is_expected_again(scene: Scene, known: Child) -> None:
    with Child() as probe:
        for _ in range(STRANGERS):
            assert heard(scene, probe, US)
        assert not heard(scene, probe, US)
        teach(scene, known)
        assert heard(scene, probe, US)
