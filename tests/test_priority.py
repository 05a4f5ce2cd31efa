"""Whose turn it is: what is hurried comes before others, with what it starts, and nothing else."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest

from arbiter.priority import URGENT, hurried


def niceness(of: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, of)


def permitted(own: int) -> int:
    """As far as we may go: nice(1) says what it got. Root of a user namespace may not."""
    words = ["nice", "-n", str(URGENT - own), "nice"]
    return int(subprocess.run(words, capture_output=True, check=True).stdout)


def test_a_hurried_thread_and_what_it_starts_come_before_others() -> None:
    own = niceness(threading.get_native_id())
    wanted = permitted(own)
    prepared: list[str] = []
    with hurried("arbiter-test", lambda: prepared.append(threading.current_thread().name)) as hands:
        assert prepared == ["arbiter-test_0"]
        assert hands.submit(threading.get_native_id).result() != threading.get_native_id()
        assert hands.submit(lambda: niceness(threading.get_native_id())).result() == wanted
        started = hands.submit(subprocess.check_output, ["nice"]).result()
        assert int(started) == wanted
        assert niceness(threading.get_native_id()) == own
    assert int(subprocess.check_output(["nice"])) == own


def test_a_thread_that_cannot_be_prepared_is_not_used() -> None:
    def cannot() -> None:
        raise PermissionError("no")

    with pytest.raises(PermissionError, match="no"):
        hurried("arbiter-test", cannot)
