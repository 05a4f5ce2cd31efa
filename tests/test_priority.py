"""Whose turn it is: what is hurried comes before others, with what it starts, and nothing else."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
from pathlib import Path

import pytest

from arbiter.priority import URGENT, hurried


def niceness(of: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, of)


def may_hurry() -> bool:
    allowed = resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20 - URGENT
    status = Path("/proc/self/status").read_text()
    return allowed or bool(int(status.partition("CapEff:")[2].split()[0], 16) >> 23 & 1)


def test_a_hurried_thread_and_what_it_starts_come_before_others() -> None:
    own = niceness(threading.get_native_id())
    wanted = URGENT if may_hurry() else own
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
