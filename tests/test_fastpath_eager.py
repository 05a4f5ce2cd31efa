"""When the thread waits for the next packet awake: the policy alone, then the thread itself."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastpathscene import Scene, connected, load, queued, standing
from hypothesis import given
from hypothesis import strategies as st
from nativeharness import Harness, build

EAGER, WINDOW = 100_000, 100_000_000
DOUBT = 1024
US = os.getpid()


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with Harness(tmp_path_factory.mktemp("harness")) as running:
        yield running


class Policy:
    """What eager.c is told, and what it says at each `now`, once it is asked."""

    def __init__(self, harness: Harness, cpus: int = 2) -> None:
        self.harness, self.told = harness, b""
        self.tell("b", cpus)

    def tell(self, letter: str, number: int) -> None:
        self.told += letter.encode() + struct.pack("=Q", number)

    def slept(self, nanoseconds: int, times: int = 1) -> None:
        for _ in range(times):
            self.tell("s", nanoseconds)

    def now(self, at: int = 0) -> bool:
        """All is told anew, each question that was asked before, too: they begin windows."""
        self.tell("n", at)
        return bool(self.harness.ask("e", self.told)[-1])


def test_only_after_a_packet_that_came_closely(harness: Harness) -> None:
    policy = Policy(harness)
    assert not policy.now()
    policy.slept(EAGER)
    assert not policy.now(), "it came alone"
    policy.slept(EAGER - 1)
    assert policy.now()
    policy.slept(EAGER)
    assert not policy.now(), "the burst is over"


def test_never_on_one_cpu(harness: Harness) -> None:
    policy = Policy(harness, cpus=1)
    policy.slept(1, 3 * DOUBT)
    assert not policy.now()


def test_each_time_in_vain_it_takes_twice_as_many(harness: Harness) -> None:
    policy, wanted = Policy(harness), 1
    for _ in range(14):
        policy.slept(1, wanted - 1)
        assert not policy.now()
        policy.slept(1)
        assert policy.now()
        policy.tell("v", 1)
        assert not policy.now()
        wanted = min(2 * wanted, DOUBT)
    policy.slept(1, DOUBT)
    policy.tell("c", 1)
    assert policy.now(), "it came: so the next may, too"
    policy.tell("v", 1)
    policy.slept(1, 2)
    assert policy.now(), "and what was in vain before counts no more"


def test_half_of_the_time_at_most(harness: Harness) -> None:
    policy = Policy(harness)
    policy.slept(1)
    for _ in range(50):
        assert policy.now(WINDOW)
        policy.tell("c", WINDOW // 100)
    assert not policy.now(2 * WINDOW - 1)
    assert policy.now(2 * WINDOW), "in the next window again"


def test_what_else_there_is_has_its_turn(harness: Harness) -> None:
    """A flood may have the next packet ready whenever it looks, and cost none of the time."""
    policy = Policy(harness)
    policy.slept(1)
    for _ in range(3):
        for _ in range(64):
            assert policy.now()
            policy.tell("c", 0)
        assert not policy.now()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, EAGER), st.integers(0, 3 * EAGER))))
def test_whatever_comes_no_window_has_more_than_half(
    harness: Harness, steps: list[tuple[bool, int, int]]
) -> None:
    """As the thread does it: awake where it may be, asleep else; the clock goes on with both."""
    policy, clock, began, spent = Policy(harness), WINDOW, WINDOW, 0
    for came, wait, sleep in steps * 20:
        if clock - began >= WINDOW:
            began, spent = clock, 0
        if policy.now(clock):
            policy.tell("c" if came else "v", wait)
            spent += wait
            clock += wait
            assert spent < WINDOW // 2 + EAGER
        if not came:
            policy.slept(sleep)
            clock += sleep


# --- the thread ------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    running = Scene(load(str(build(tmp_path))))
    yield running
    running.close()


def sleeps(scene: Scene) -> int:
    """How often its thread has gone to sleep."""
    status = Path(f"/proc/self/task/{scene.task}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


@pytest.fixture
def cpus(scene: Scene) -> Iterator[tuple[int, int]]:
    """Two of them. We have the first."""
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("one CPU: here it never waits awake, see test_never_on_one_cpu")
    first, second, *_ = sorted(before)
    os.sched_setaffinity(0, {first})
    yield first, second
    os.sched_setaffinity(0, before)


def slept(scene: Scene, pause: float, times: int) -> int:
    """How often its thread went to sleep for so many packets, each sent once the one before has its
    verdict, after a pause."""
    with connected() as sock:
        assert scene.teach(sock.family, standing(US, sock.fileno()), 5)
        data = queued(sock.family, sock.getsockname()[1])
        before = sleeps(scene)
        for _ in range(times):
            scene.kernel.send(data)
            while scene.verdict() is None:
                pass
            if pause:
                time.sleep(pause)
        for _ in range(times):
            assert scene.next().token == 5
        return sleeps(scene) - before


def test_packets_that_follow_each_other_closely_find_it_awake(
    scene: Scene, cpus: tuple[int, int]
) -> None:
    os.sched_setaffinity(scene.task, {cpus[1]})
    assert slept(scene, 0.002, 50) >= 50, "who comes alone finds it asleep"
    assert min(slept(scene, 0, 200) for _ in range(10)) < 100
    time.sleep(0.1)
    before = sleeps(scene)
    time.sleep(0.3)
    assert sleeps(scene) - before <= 1, "and then it sleeps"


def test_while_a_verdict_is_waited_for_it_leaves_the_cpu_to_python(
    scene: Scene, cpus: tuple[int, int]
) -> None:
    os.sched_setaffinity(scene.task, {cpus[1]})
    with connected() as sock:
        assert scene.teach(sock.family, standing(US, sock.fileno()), 5)
        known = queued(sock.family, sock.getsockname()[1])
        scene.kernel.send(b"unknown")
        before = sleeps(scene)
        for _ in range(500):
            scene.kernel.send(known)
            while scene.verdict() is None:
                pass
        assert sleeps(scene) - before > 400
        assert [scene.next().token for _ in range(501)] == [0] + [5] * 500


def test_who_shares_its_cpu_is_seldom_kept_waiting(scene: Scene, cpus: tuple[int, int]) -> None:
    """For each packet the thread takes less of the CPU than it would wait awake for the next."""

    def taken() -> int:
        return int(Path(f"/proc/self/task/{scene.task}/schedstat").read_text().split()[0])

    os.sched_setaffinity(scene.task, {cpus[0]})
    spent = []
    for _ in range(10):
        before = taken()
        slept(scene, 0, 200)
        spent.append((taken() - before) / 200)
    assert min(spent) < EAGER
