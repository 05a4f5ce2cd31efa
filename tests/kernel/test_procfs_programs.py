"""A real process is the program or script that it runs, with psutil as oracle."""

from __future__ import annotations

import contextlib
import os
import shutil
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
    table_of,
    wait_for,
)

from arbiter.identity import stable_path
from arbiter.kernel import procfs
from arbiter.kernel.procfs import ProcessTable

TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def table() -> Iterator[ProcessTable]:
    with table_of() as made:
        yield made


@pytest.fixture
def run() -> Iterator[Start]:
    with programs() as start:
        yield start


def test_a_program_is_its_path_and_psutil_agrees(table: ProcessTable, run: Start) -> None:
    child = run("/usr/bin/sleep", "99")
    process = wait_for(lambda: table.get(child.pid), lambda p: p.exe == SLEEP)
    oracle = psutil.Process(child.pid)
    assert process.app.id == SLEEP
    assert process.exe == oracle.exe()
    assert list(process.argv) == oracle.cmdline()
    assert process.uid == oracle.uids().effective
    parents = [parent.pid for parent in oracle.parents()][: procfs.ANCESTORS]
    assert [ancestor.pid for ancestor in process.ancestors] == parents
    assert abs(psutil.boot_time() + process.start / TICKS - oracle.create_time()) < 0.1
    assert table.start_time(child.pid) == process.start
    info = os.stat(SLEEP)
    assert process.exe_id == (info.st_dev, info.st_ino)
    assert process.note == ""


def test_every_process_of_this_machine_agrees_with_psutil(table: ProcessTable) -> None:
    compared = 0
    for oracle in psutil.process_iter():
        process = table.get(oracle.pid)
        with contextlib.suppress(psutil.Error):
            exe, argv, created = oracle.exe(), oracle.cmdline(), oracle.create_time()
            if process is None or table.get(oracle.pid) is not process:
                continue
            assert abs(psutil.boot_time() + process.start / TICKS - created) < 0.1
            if exe and "(deleted)" not in exe:
                assert process.exe == exe
                if sum(map(len, argv)) < 4000 and len(process.argv) > 1:
                    assert list(process.argv) == argv
                compared += 1
    assert compared > 0


def test_python_scripts_modules_and_c(table: ProcessTable, run: Start, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(WAIT)
    name = python_id()
    for argv, app in [
        (["-u", "job.py"], f"script:{name}:{tmp_path}/job.py"),
        (["-Bm", "job"], f"script:{name}:-m job"),
        (["-c", WAIT], name),
    ]:
        child = run(PYTHON, *argv, cwd=tmp_path)
        ready(child)
        process = table.get(child.pid)
        assert process is not None
        assert process.app.id == app


def test_a_script_with_a_shebang_is_the_script_even_through_a_link(
    table: ProcessTable, run: Start, tmp_path: Path
) -> None:
    script, link = tmp_path / "deploy.sh", tmp_path / "link"
    script.write_text(f"#!{BASH} -e\necho ready; read x; cd /; echo ready; read x; read x\n")
    script.chmod(0o755)
    link.symlink_to(script)
    for started in ("./deploy.sh", str(link)):
        child = run(started, cwd=tmp_path, env={"PWD": str(tmp_path)})
        for _ in range(2):  # before and after it changes directory
            ready(child)
            table.forget(child.pid)
            process = table.get(child.pid)
            assert process is not None
            assert process.app.id == f"script:{stable_path(BASH)}:{script}"
            go_on(child)


def test_a_copied_interpreter_is_another_app(
    table: ProcessTable, run: Start, tmp_path: Path
) -> None:
    copy = tmp_path / "bash"
    shutil.copy2(BASH, copy)
    script = tmp_path / "x.sh"
    script.write_text("echo ready; read x\n")
    child = run(str(copy), str(script))
    ready(child)
    process = table.get(child.pid)
    assert process is not None
    assert process.app.id == f"script:{copy}:{script}"


def test_a_linked_program_is_the_file_it_leads_to(
    table: ProcessTable, run: Start, tmp_path: Path
) -> None:
    (tmp_path / "curl").symlink_to(SLEEP)
    child = run(str(tmp_path / "curl"), "99")
    process = wait_for(lambda: table.get(child.pid), lambda p: p.exe == SLEEP)
    assert process.app.id == SLEEP


def test_a_replaced_program_keeps_its_id_and_is_said(
    table: ProcessTable, run: Start, tmp_path: Path
) -> None:
    program = tmp_path / "prog"
    shutil.copy2(SLEEP, program)
    child = run(str(program), "99")
    fresh = wait_for(lambda: table.get(child.pid), lambda p: p.exe == str(program))
    assert fresh.note == ""
    shutil.copy2(SLEEP, tmp_path / "new")
    (tmp_path / "new").rename(program)
    replaced = table.get(child.pid)
    assert replaced is not None
    assert replaced.app == fresh.app
    assert replaced.exe == str(program)
    assert replaced.note == "its executable was replaced or deleted"
    shutil.rmtree(tmp_path)
    table.forget(child.pid)
    gone = table.get(child.pid)
    assert gone is not None
    assert gone.app == fresh.app
    tmp_path.mkdir()


def test_a_file_really_named_deleted_is_not_deleted(
    table: ProcessTable, run: Start, tmp_path: Path
) -> None:
    program = tmp_path / "prog (deleted)"
    shutil.copy2(SLEEP, program)
    child = run(str(program), "99")
    process = wait_for(lambda: table.get(child.pid), lambda p: p.exe != PYTHON)
    assert process.app.id == str(program)
    assert process.note == ""
