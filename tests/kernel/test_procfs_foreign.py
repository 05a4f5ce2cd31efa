"""A program that is not on this machine's files, or hidden, is never taken for one that is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from procscene import BASH, SLEEP, Start, programs, ready, root_only, table_of, wait_for

from arbiter.identity import stable_path
from arbiter.kernel.procfs import ProcessTable

CONFINED = """
import sys
from arbiter.kernel.procfs import ProcessTable
for pid in sys.argv[1:]:
    print(ProcessTable().get(int(pid)).app.id)
"""
MACHINE = """
cd "$1"; python=$2; sleep=$3
./kept 99 & kept=$!
./updated 99 & updated=$!
./script.sh <fifo & script=$!
unshare -m --propagation private sh -ec "mount --bind kept $sleep; exec $sleep 99" & elsewhere=$!
exec 3>fifo
command sleep 0.5
rm updated
# Nothing of it is here for the one who looks.
unshare -m --propagation private sh -ec 'mount -t tmpfs none "$0"; exec "$@"' "$1" \
    "$python" -P -c "$4" $kept $updated $script $elsewhere
"""
"""A machine whose init is this script: its programs, one in a mount namespace, and a service that
systemd confines (ProtectSystem=, PrivateTmp= and others make one for it)."""


@pytest.fixture
def table() -> Iterator[ProcessTable]:
    with table_of() as made:
        yield made


@pytest.fixture
def run() -> Iterator[Start]:
    with programs() as start:
        yield start


def unshare(run: Start, options: str, script: str) -> subprocess.Popen[bytes]:
    probe = subprocess.run(["unshare", options, "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"this kernel forbids unshare {options}: {probe.stderr}")
    return run("unshare", options, "--propagation", "private", "sh", "-ec", script)


@pytest.mark.parametrize("options", ["-m", "-Urm"])
def test_a_program_mounted_over_another_is_not_that_other(
    options: str, table: ProcessTable, run: Start, tmp_path: Path
) -> None:
    evil, victim = tmp_path / "evil", os.path.realpath("/usr/bin/env")
    shutil.copy2(SLEEP, evil)
    child = unshare(run, options, f"mount --bind {evil} {victim}; exec {victim} 99")
    process = wait_for(lambda: table.get(child.pid), lambda p: p.exe == victim)
    assert process.app.id == f"foreign:?:{victim}"
    assert process.note == "its executable is in another mount namespace"


def test_our_own_program_in_another_mount_namespace_keeps_its_path(
    table: ProcessTable, run: Start
) -> None:
    child = unshare(run, "-m", f"exec {SLEEP} 99")
    process = wait_for(lambda: table.get(child.pid), lambda p: p.exe == SLEEP)
    assert process.app.id == SLEEP


def test_a_program_taken_out_of_a_mount_namespace_is_foreign_deleted_or_not(
    table: ProcessTable, run: Start, tmp_path: Path
) -> None:
    """It runs in our namespace, on our file system, and its link says /usr/bin/env."""
    evil, victim = tmp_path / "evil", os.path.realpath("/usr/bin/env")
    shutil.copy2(SLEEP, evil)
    holder = unshare(run, "-m", f"mount --bind {evil} {victim}; echo ready; read x")
    ready(holder)
    child = run(f"/proc/{holder.pid}/root{victim}", "99")
    process = wait_for(lambda: table.get(child.pid), lambda p: p.exe == victim)
    assert process.app.id == f"foreign:?:{victim}"
    evil.unlink()
    deleted = table.get(child.pid)
    assert deleted is not None
    assert deleted.exe == victim
    assert "replaced or deleted" in deleted.note
    assert deleted.app.id == f"foreign:?:{victim}"


def test_who_is_confined_as_a_service_sees_programs_as_init_does(tmp_path: Path) -> None:
    for name in ("kept", "updated"):
        shutil.copy2(SLEEP, tmp_path / name)
    (tmp_path / "script.sh").write_text("#!/bin/bash\nread x\n")
    (tmp_path / "script.sh").chmod(0o755)
    os.mkfifo(tmp_path / "fifo")
    argv = ["unshare", "-m", "--pid", "--fork", "--kill-child", "--mount-proc"]
    argv += ["sh", "-ec", MACHINE, "sh", str(tmp_path), sys.executable, SLEEP, CONFINED]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    kept, updated, script, elsewhere = done.stdout.splitlines()
    assert kept == stable_path(str(tmp_path / "kept"))
    assert updated == stable_path(str(tmp_path / "updated")), "replaced by an upgrade"
    assert script == f"script:{BASH}:{tmp_path}/script.sh"
    assert elsewhere == f"foreign:?:{SLEEP}", "what is mounted over it elsewhere is not that one"


def test_a_memfd_program_is_foreign(table: ProcessTable) -> None:
    descriptor = os.memfd_create("usr", os.MFD_CLOEXEC)
    with open(SLEEP, "rb") as source, os.fdopen(descriptor, "wb", closefd=False) as target:
        target.write(source.read())
    pid = os.fork()
    if pid == 0:
        os.execve(descriptor, ["/usr/bin/curl", "99"], {})
    try:
        process = wait_for(lambda: table.get(pid), lambda p: p.exe.startswith("/memfd"))
        assert process.app.id == "foreign:?:/memfd:usr"
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(descriptor)


@root_only
def test_without_rights_a_process_is_hidden_and_never_an_app() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        process = ProcessTable().get(1)
        seen = f"{process.app.id}|{process.uid}|{process.note}" if process else "none"
        os.write(write, seen.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"foreign:hidden:?|0|not permitted to read its executable"
