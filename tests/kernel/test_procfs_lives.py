"""What becomes of a process is noticed: an exec, another user, threads, forks, its end."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from procscene import (
    BASH,
    PYTHON,
    SLEEP,
    WAIT,
    Start,
    go_on,
    programs,
    python_id,
    ready,
    root_only,
    table_of,
    wait_for,
)

from arbiter.kernel import procfs
from arbiter.kernel.procfs import ProcessTable, details
from arbiter.kernel.users import user_name
from arbiter.model import Process


@pytest.fixture
def table() -> Iterator[ProcessTable]:
    with table_of() as made:
        yield made


@pytest.fixture
def run() -> Iterator[Start]:
    with programs() as start:
        yield start


@pytest.mark.parametrize("prefix", [[], ["setarch", "-R"]])
def test_an_exec_of_the_same_interpreter_is_noticed(
    prefix: list[str], table: ProcessTable, run: Start, tmp_path: Path
) -> None:
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text(f"import os, sys\n{WAIT}os.execv({PYTHON!r}, [{PYTHON!r}, {str(second)!r}])\n")
    second.write_text(WAIT)
    child = run(*prefix, PYTHON, str(first))
    ready(child)
    before = table.get(child.pid)
    assert before is not None
    assert before.app.name == "a.py"
    assert table.get(child.pid) is before
    go_on(child)
    ready(child)
    after = table.get(child.pid)
    assert after is not None
    assert after.app.name == "b.py"
    assert after.start == before.start


def test_an_exec_of_another_program_is_noticed(table: ProcessTable, run: Start) -> None:
    child = run("bash", "-c", f"echo ready; read x; exec {SLEEP} 99")
    ready(child)
    before = table.get(child.pid)
    assert before is not None
    assert before.exe == BASH
    go_on(child)
    after = wait_for(lambda: table.get(child.pid), lambda p: p.exe == SLEEP)
    assert (after.app.id, after.start) == (SLEEP, before.start)


@root_only
def test_a_process_that_drops_its_rights_has_its_new_user(table: ProcessTable, run: Start) -> None:
    code = f"import os\n{WAIT}os.setgid(33); os.setuid(33)\n{WAIT}"
    child = run(PYTHON, "-c", code)
    for uid in (0, 33):
        ready(child)
        process = table.get(child.pid)
        assert process is not None
        assert process.uid == uid == psutil.Process(child.pid).uids().effective
        go_on(child)


def test_a_process_lives_on_in_its_threads_when_the_first_has_exited(
    table: ProcessTable, run: Start, tmp_path: Path
) -> None:
    script = tmp_path / "threads.py"
    script.write_text(
        "import ctypes, threading, time\n"
        "def main():\n"
        "    time.sleep(0.05); print('ready', flush=True); time.sleep(99)\n"
        "threading.Thread(target=main).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    child = run(PYTHON, str(script))
    start = table.start_time(child.pid)
    ready(child)
    assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
    for _ in range(2):
        process = table.get(child.pid)
        assert process is not None
        assert process.app.id == f"script:{python_id()}:{script}"
        assert (process.pid, process.start) == (child.pid, start)


def test_a_fork_is_a_process_of_the_same_app_below_its_parent(
    table: ProcessTable, run: Start, tmp_path: Path
) -> None:
    script = tmp_path / "fork.py"
    script.write_text(f"import os\nif os.fork(): os.wait()\nelse:\n {WAIT}")
    child = run(PYTHON, str(script))
    ready(child)
    (fork,) = psutil.Process(child.pid).children()
    process = table.get(fork.pid)
    parent = table.get(child.pid)
    assert process is not None
    assert parent is not None
    assert process.app == parent.app
    assert process.pid != parent.pid
    assert process.ancestors[0].pid == child.pid
    assert process.ancestors[0].app == parent.app
    go_on(child)


def test_a_process_that_has_exited_is_none_cached_or_not(table: ProcessTable, run: Start) -> None:
    child = run(SLEEP, "99")
    wait_for(lambda: table.get(child.pid), lambda p: p.exe == SLEEP)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert table.get(child.pid) is None  # a zombie runs nothing
    child.wait()
    assert table.get(child.pid) is None
    assert table.start_time(child.pid) is None
    assert table.get(-1) is None
    assert table.get(1 << 30) is None


def test_processes_that_exit_in_the_middle_are_none_or_whole(table: ProcessTable) -> None:
    """Looked at from two threads, at every moment between fork, exec and exit."""
    failures: list[BaseException] = []
    pids: list[int] = []
    stop = threading.Event()
    seen = set()

    def look() -> None:
        try:
            while not stop.is_set():
                for pid in pids[-4:]:
                    process = table.get(pid)
                    if process is not None:
                        seen.add(process.app.id)
        except BaseException as error:
            failures.append(error)
            raise

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    true = os.path.realpath("/usr/bin/true")
    for _ in range(150):
        child = subprocess.Popen([true])
        pids.append(child.pid)
        child.wait()
    stop.set()
    for looker in lookers:
        looker.join()
    assert not failures
    assert true in seen
    assert seen <= {true} | {table.get(os.getpid()).app.id}  # type: ignore[union-attr]  # we live


def test_running_out_of_descriptors_is_said_not_taken_for_an_exit(run: Start) -> None:
    child, other = run(SLEEP, "99"), run(SLEEP, "99")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with table_of() as table:
        wait_for(lambda: table.get(child.pid), lambda p: p.exe == SLEEP)
        fillers = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1, hard))
            while True:
                try:
                    fillers.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    break
            assert table.get(other.pid) is not None  # warm descriptors make room
            table.close()
            while True:
                try:
                    fillers.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    break
            with pytest.raises(OSError, match="Too many open files") as raised:
                table.get(child.pid)
            assert raised.value.errno == errno.EMFILE
            with pytest.raises(OSError, match="Too many open files"):
                table.start_time(child.pid)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for filler in fillers:
                os.close(filler)
        assert table.get(child.pid) is not None


def test_details_are_of_that_process_or_say_that_it_is_gone(
    table: ProcessTable, run: Start, tmp_path: Path
) -> None:
    child = run(SLEEP, "99", cwd=tmp_path)
    process = wait_for(lambda: table.get(child.pid), lambda p: p.exe == SLEEP)
    shown = details(process)
    assert shown.cwd == str(tmp_path)
    assert shown.user == user_name(os.geteuid()) == psutil.Process().username()
    assert shown.created is not None
    assert abs(shown.created - time.time()) < 60
    assert shown.status in ("sleeping", "running")
    child.kill()
    child.wait()
    assert details(process) == procfs.Details(user=shown.user, status="gone")
    ours = table.get(os.getpid())
    assert ours is not None
    reused = Process(pid=ours.pid, start=1, uid=ours.uid, app=ours.app, exe=ours.exe)
    assert details(reused).status == "gone"


def test_user_names_fall_back_to_digits() -> None:
    assert user_name(0) == "root"
    assert user_name(3999999999) == "3999999999"
    assert user_name(1 << 40) == str(1 << 40)
