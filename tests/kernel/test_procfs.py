"""arbiter/kernel/procfs.py: trees from fixtures/proc, real processes with psutil as oracle."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.identity import stable_path
from arbiter.kernel import procfs, procread
from arbiter.kernel.procfs import ProcessTable, details, user_name
from arbiter.model import Process

FIXTURES = Path(__file__).parents[2] / "fixtures" / "proc"
PYTHON = os.path.realpath(sys.executable)
SLEEP = os.path.realpath("/usr/bin/sleep")
BASH = os.path.realpath("/usr/bin/bash")
TICKS = os.sysconf("SC_CLK_TCK")
REAL_ROOT = os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split()[2] == "4294967295"
root_only = pytest.mark.skipif(
    not REAL_ROOT, reason="KERNEL TEST NOT RUN: needs root, a user namespace has no other users"
)


# --- trees ----------------------------------------------------------------------------------


def stat_line(pid: int, comm: str = "x", ppid: int = 0, flags: int = 0, start: int = 5) -> bytes:
    after = ["S", str(ppid), *["0"] * 4, str(flags), *["0"] * 12, str(start), *["7"] * 30]
    return f"{pid} ({comm}) ".encode() + " ".join(after).encode() + b"\n"


def write_process(proc: Path, pid: int, entry: dict[str, Any]) -> None:
    where = proc / str(pid)
    (where / "ns").mkdir(parents=True)
    keys = {key: entry[key] for key in ("comm", "ppid", "flags") if key in entry}
    (where / "stat").write_bytes(stat_line(pid, **keys))
    argv = entry["argv"]
    (where / "cmdline").write_text("".join(f"{word}\0" for word in argv))
    (where / "cgroup").write_text(f"1:name=systemd:/\n0::{entry.get('cgroup', '/')}\n")
    (where / "environ").write_text("".join(f"{word}\0" for word in entry.get("environ", [])))
    (where / "mountinfo").write_text(entry.get("mountinfo", ""))
    (where / "ns" / "mnt").symlink_to(f"mnt:[{entry.get('mounts', 1)}]")
    (where / "cwd").symlink_to(entry.get("cwd", "/"))
    (where / "root").symlink_to(entry.get("root", "/"))
    if "flatpak" in entry:
        sandbox = Path(entry["root"])
        sandbox.mkdir()
        (sandbox / ".flatpak-info").write_text(entry["flatpak"])
    if exe := entry.get("exe"):
        (where / "exe").symlink_to(exe)
        if exe.startswith(str(proc.parent)):
            touch(Path(exe))


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def build(tree: dict[str, Any], root: Path) -> str:
    """Writes a tree below `root`; returns what to give ProcessTable."""
    proc = root / "proc"
    (proc / "self" / "ns").mkdir(parents=True)
    (proc / "self" / "ns" / "mnt").symlink_to("mnt:[1]")
    for path in tree.get("files", []):
        touch(Path(path))
    for pid, entry in tree.items():
        if pid.isdecimal():
            write_process(proc, int(pid), entry)
    return str(proc)


def expand(value: Any, root: str) -> Any:
    if isinstance(value, str):
        return value.replace("{root}", root)
    if isinstance(value, list):
        return [expand(item, root) for item in value]
    if isinstance(value, dict):
        return {key: expand(item, root) for key, item in value.items()}
    return value


@contextlib.contextmanager
def table_of(proc: str = "/proc") -> Iterator[ProcessTable]:
    table = ProcessTable(proc)
    try:
        yield table
    finally:
        table.close()


@pytest.fixture
def table() -> Iterator[ProcessTable]:
    with table_of() as made:
        yield made


@pytest.mark.parametrize("file", sorted(FIXTURES.glob("*.toml")), ids=lambda file: file.stem)
def test_each_tree_gives_the_app_it_names(file: Path, tmp_path: Path) -> None:
    tree = expand(tomllib.loads(file.read_text()), str(tmp_path))
    with table_of(build(tree, tmp_path)) as table:
        process = table.get(tree["pid"])
        assert process is not None
        assert (process.app.id, process.app.kind, process.app.name, process.note) == (
            tree["app"],
            tree["kind"],
            tree["name"],
            tree["note"],
        )
        if "parents" in tree:
            assert [ancestor.app.id for ancestor in process.ancestors] == tree["parents"]
        assert len(process.ancestors) <= procfs.ANCESTORS
        assert table.get(tree["pid"]) is process


def chain(length: int, root: Path) -> str:
    """Processes 1..length, each the parent of the next."""
    tree: dict[str, Any] = {
        str(pid): {"exe": f"{root}/bin/p{pid}", "argv": [], "ppid": pid - 1}
        for pid in range(1, length + 1)
    }
    return build(tree, root)


def test_ancestors_are_nearest_first_bounded_and_complete_whatever_was_cached(
    tmp_path: Path,
) -> None:
    with table_of(chain(40, tmp_path)) as table:
        for pid in (40, 30, 24, 39, 5):
            process = table.get(pid)
            assert process is not None
            expected = list(range(pid - 1, max(0, pid - 17), -1))
            assert [ancestor.pid for ancestor in process.ancestors] == expected


def test_a_parent_younger_than_its_child_is_another_process(tmp_path: Path) -> None:
    proc = chain(2, tmp_path)
    (Path(proc) / "1" / "stat").write_bytes(stat_line(1, start=6))
    with table_of(proc) as table:
        process = table.get(2)
        assert process is not None
        assert process.ancestors == ()


def test_cache_and_descriptors_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "CACHE_SIZE", 8)
    monkeypatch.setattr(procfs, "WARM_SIZE", 2)
    before = len(os.listdir("/proc/self/fd"))
    with table_of(chain(30, tmp_path)) as table:
        for _ in range(2):
            for pid in range(1, 31):
                assert table.get(pid) is not None
                assert len(table) <= 8
                assert len(os.listdir("/proc/self/fd")) - before <= 4
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_a_flatpak_info_that_is_no_plain_file_is_not_read(kind: str, tmp_path: Path) -> None:
    tree = {"7": {"exe": "/app/x", "argv": [], "mounts": 2, "root": f"{tmp_path}/r"}}
    proc = build(tree, tmp_path)
    info = tmp_path / "r" / ".flatpak-info"
    info.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(info)
    elif kind == "link":
        (tmp_path / "other").write_text("[Application]\nname=org.a.b\n")
        info.symlink_to(tmp_path / "other")
    else:
        info.mkdir()
    with table_of(proc) as table:
        process = table.get(7)
        assert process is not None
        assert process.app.id == "foreign:?:/app/x"


def test_a_script_in_another_root_is_trusted_only_where_it_is_the_same_file(
    tmp_path: Path,
) -> None:
    python, ours, theirs = tmp_path / "python3", tmp_path / "job.py", tmp_path / "r"
    entry = {"exe": str(python), "argv": ["p", str(ours)], "mounts": 2, "root": str(theirs)}
    proc = build({"7": entry, "files": [str(ours)]}, tmp_path)
    inside = Path(f"{theirs}{ours}")
    inside.parent.mkdir(parents=True)
    os.link(ours, inside)
    with table_of(proc) as table:
        process = table.get(7)
        assert process is not None
        assert process.app.id == f"script:{python}:{ours}"
    inside.unlink()
    for link in (False, True):
        if link:
            inside.symlink_to(ours)
        else:
            inside.touch()
        with table_of(proc) as table:
            process = table.get(7)
            assert process is not None
            assert process.app.id == f"foreign:?:{python}:{ours}"
            assert process.note == "its script is in another mount namespace"
        inside.unlink()


@given(st.binary(max_size=200))
def test_any_stat_file_gives_a_stat_or_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        procread.parse_stat(data)
        raise AssertionError("fewer than 52 fields were taken for a stat file")


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=15))
def test_no_comm_can_change_the_fields_after_it(comm: str) -> None:
    parsed = procread.parse_stat(stat_line(9, comm, ppid=3, flags=4, start=123))
    assert (parsed.comm, parsed.ppid, parsed.flags, parsed.start) == (comm, 3, 4, 123)


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1))
def test_argv_is_what_was_given_but_for_padding(argv: list[str]) -> None:
    split = procread.split_argv("".join(f"{word}\0" for word in argv).encode())
    assert split == tuple(argv[: len(split)])
    assert not any(argv[len(split) :])
    assert sum(map(len, procfs._shorten(split))) <= procfs.ARGV_LIMIT


def test_a_long_argv_is_cut_visibly() -> None:
    cut = procfs._shorten(("a" * 100, "b" * 5000, "c"))
    assert cut[0] == "a" * 100
    assert cut[-1].endswith("b…")
    assert len(cut) == 2


# --- real processes -------------------------------------------------------------------------


@pytest.fixture
def run() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
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


WAIT = "print('ready', flush=True); input()\n"


def python_id(python: str = PYTHON) -> str:
    return stable_path(python)


def test_a_program_is_its_path_and_psutil_agrees(
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
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


def test_python_scripts_modules_and_c(
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
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
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
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
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
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
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    (tmp_path / "curl").symlink_to(SLEEP)
    child = run(str(tmp_path / "curl"), "99")
    process = wait_for(lambda: table.get(child.pid), lambda p: p.exe == SLEEP)
    assert process.app.id == SLEEP


def test_a_replaced_program_keeps_its_id_and_is_said(
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
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
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    program = tmp_path / "prog (deleted)"
    shutil.copy2(SLEEP, program)
    child = run(str(program), "99")
    process = wait_for(lambda: table.get(child.pid), lambda p: p.exe != PYTHON)
    assert process.app.id == str(program)
    assert process.note == ""


def unshare(
    run: Callable[..., subprocess.Popen[bytes]], options: str, script: str
) -> subprocess.Popen[bytes]:
    probe = subprocess.run(["unshare", options, "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"this kernel forbids unshare {options}: {probe.stderr}")
    return run("unshare", options, "--propagation", "private", "sh", "-ec", script)


@pytest.mark.parametrize("options", ["-m", "-Urm"])
def test_a_program_mounted_over_another_is_not_that_other(
    options: str,
    table: ProcessTable,
    run: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    evil, victim = tmp_path / "evil", os.path.realpath("/usr/bin/env")
    shutil.copy2(SLEEP, evil)
    child = unshare(run, options, f"mount --bind {evil} {victim}; exec {victim} 99")
    process = wait_for(lambda: table.get(child.pid), lambda p: p.exe == victim)
    assert process.app.id == f"foreign:?:{victim}"
    assert process.note == "its executable is in another mount namespace"


def test_our_own_program_in_another_mount_namespace_keeps_its_path(
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    child = unshare(run, "-m", f"exec {SLEEP} 99")
    process = wait_for(lambda: table.get(child.pid), lambda p: p.exe == SLEEP)
    assert process.app.id == SLEEP


def test_a_program_taken_out_of_a_mount_namespace_is_foreign_deleted_or_not(
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
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


@pytest.mark.parametrize("prefix", [[], ["setarch", "-R"]])
def test_an_exec_of_the_same_interpreter_is_noticed(
    prefix: list[str],
    table: ProcessTable,
    run: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
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


def test_an_exec_of_another_program_is_noticed(
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    child = run("bash", "-c", f"echo ready; read x; exec {SLEEP} 99")
    ready(child)
    before = table.get(child.pid)
    assert before is not None
    assert before.exe == BASH
    go_on(child)
    after = wait_for(lambda: table.get(child.pid), lambda p: p.exe == SLEEP)
    assert (after.app.id, after.start) == (SLEEP, before.start)


@root_only
def test_a_process_that_drops_its_rights_has_its_new_user(
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    code = f"import os\n{WAIT}os.setgid(33); os.setuid(33)\n{WAIT}"
    child = run(PYTHON, "-c", code)
    for uid in (0, 33):
        ready(child)
        process = table.get(child.pid)
        assert process is not None
        assert process.uid == uid == psutil.Process(child.pid).uids().effective
        go_on(child)


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


def test_a_process_lives_on_in_its_threads_when_the_first_has_exited(
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
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
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
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


def test_a_process_that_has_exited_is_none_cached_or_not(
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
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


def test_running_out_of_descriptors_is_said_not_taken_for_an_exit(
    run: Callable[..., subprocess.Popen[bytes]],
) -> None:
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
    table: ProcessTable, run: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
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
