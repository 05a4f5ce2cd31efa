"""Real processes for the tests of procfs, and a table that looks at them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arbiter.identity import stable_path
from arbiter.kernel.procfs import ProcessTable
from arbiter.model import Process

PYTHON = os.path.realpath(sys.executable)
SLEEP = os.path.realpath("/usr/bin/sleep")
BASH = os.path.realpath("/usr/bin/bash")
WAIT = "print('ready', flush=True); input()\n"
REAL_ROOT = os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split()[2] == "4294967295"
root_only = pytest.mark.skipif(
    not REAL_ROOT, reason="KERNEL TEST NOT RUN: needs root, a user namespace has no other users"
)
Start = Callable[..., "subprocess.Popen[bytes]"]


@contextlib.contextmanager
def table_of(proc: str = "/proc") -> Iterator[ProcessTable]:
    table = ProcessTable(proc)
    try:
        yield table
    finally:
        table.close()


@contextlib.contextmanager
def programs() -> Iterator[Start]:
    """Starts programs; ends them by their pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*argv: str, **options: Any) -> subprocess.Popen[bytes]:
        options.setdefault("stdin", subprocess.PIPE)
        started.append(subprocess.Popen(argv, stdout=subprocess.PIPE, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(get: Callable[[], Process | None], done: Callable[[Process], bool]) -> Process:
    deadline = time.monotonic() + 10
    while True:
        process = get()
        if process is not None and done(process):
            return process
        assert time.monotonic() < deadline, f"never came: last seen {process}"
        time.sleep(0.005)


def ready(process: subprocess.Popen[bytes]) -> None:
    """Waits for the line that a script prints once it runs."""
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"


def go_on(process: subprocess.Popen[bytes]) -> None:
    """Ends the wait of a script."""
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def python_id(python: str = PYTHON) -> str:
    return stable_path(python)
