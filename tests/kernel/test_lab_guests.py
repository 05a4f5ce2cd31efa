"""Several in one lab: the last to leave one that was built for the occasion removes it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from running import ARBITER, PATIENCE

from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, LabError
from arbiter.lab.guests import Guest

Enter = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def name() -> Iterator[str]:
    chosen = f"g{os.getpid()}"
    yield chosen
    Lab(chosen).down()


@pytest.fixture
def enter(name: str) -> Iterator[Enter]:
    """Somebody enters, and has said so."""
    guests: list[subprocess.Popen[str]] = []

    def enters() -> subprocess.Popen[str]:
        words = "echo in; read line; echo out"
        guest = subprocess.Popen(
            [*ARBITER, "lab", "exec", "--name", name, "--", "sh", "-c", words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        guests.append(guest)
        assert guest.stdout is not None
        assert guest.stdout.readline() == "in\n"
        return guest

    yield enters
    for guest in guests:
        guest.kill()
        guest.communicate()


def leave(guest: subprocess.Popen[str]) -> str:
    said = guest.communicate("\n", timeout=20 * PATIENCE)[0]
    assert guest.returncode == 0, said
    return said


def is_up(name: str) -> bool:
    lab = Lab.existing(name)
    return lab is not None and lab.condition() == "up"


def left(name: str) -> list[Path]:
    return [*Path("/run/netns").glob(f"{name}-*"), *Path("/run/arbiter-lab").glob(f"*{name}*")]


def test_whoever_built_it_may_leave_first(name: str, enter: Enter) -> None:
    builder, guest = enter(), enter()
    assert leave(builder) == f"out\nlab {name} stays until the last who is in it leaves\n"
    lab = Lab.existing(name)
    assert lab is not None
    assert lab.run(["curl", "-sS", f"http://{SERVER4}/"]).stdout.startswith("link=wifi")
    assert leave(guest) == "out\n"
    assert left(name) == []


def test_who_comes_while_it_is_built_waits_and_joins(name: str, enter: Enter) -> None:
    with ThreadPoolExecutor(2) as people:
        one, other = people.map(lambda _: enter(), range(2))
    said = leave(one) + leave(other)
    assert said.replace(f"lab {name} stays until the last who is in it leaves\n", "") == "out\n" * 2
    assert left(name) == []


def test_two_may_remove_it_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.rmtree

    def late(folder: Path) -> None:
        real(folder)  # somebody else's
        real(folder)

    lab = Lab(name)
    lab.up()
    monkeypatch.setattr(shutil, "rmtree", late)
    lab.down()
    assert left(name) == []


def test_guests_leave_a_lab_to_who_built_it(name: str, enter: Enter) -> None:
    builder, guest = enter(), enter()
    assert leave(guest) == "out\n"
    assert is_up(name)
    assert leave(builder) == "out\n"
    assert left(name) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_last_removes_what_a_killed_one_built(
    name: str, enter: Enter, how: signal.Signals
) -> None:
    builder, guest = enter(), enter()
    builder.send_signal(how)
    builder.communicate(timeout=20 * PATIENCE)
    assert is_up(name)
    guest.send_signal(signal.SIGTERM)
    guest.communicate(timeout=20 * PATIENCE)
    assert left(name) == []


def test_a_lab_that_was_built_to_stay_stays(name: str, enter: Enter) -> None:
    Lab(name).up()
    assert leave(enter()) == "out\n"
    assert is_up(name)


def test_nobody_enters_what_is_going_and_none_removes_another_of_its_name(name: str) -> None:
    with Lab(name):
        first = Guest(name, temporary=True)
        assert first.last()
        with pytest.raises(LabError, match=f"lab {name} is being taken down"):
            Guest(name, temporary=False)
        first.leave()
        second = Guest(name, temporary=False)
    with Lab(name):
        assert not second.last(), "it is another lab now"
        second.leave()
