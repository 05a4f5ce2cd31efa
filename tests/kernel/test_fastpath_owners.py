"""Who the fast path takes for the owner of a connection: nobody else than the pipeline would."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dialing import (
    DIAL,
    PARENT,
    REFUSED,
    SERVE,
    TAKER,
    Dialer,
    Shell,
    becomes,
    binary,
    introduce,
    known,
    known_program,
    once,
    records,
    repeats,
    script,
)
from running import Arbiter, eventually

from arbiter.kernel.fastpath import compiled
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6, WIFI

pytestmark = pytest.mark.skipif(not compiled(), reason="KERNEL TEST NOT RUN: not compiled")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arbiter]:
    with Lab(f"o{os.getpid()}") as lab:
        home = tmp_path_factory.mktemp("daemon")
        with Arbiter(lab, home, settings="deadline = 0.5\n") as running:
            yield running


@pytest.fixture
def arbiter(daemon: Arbiter) -> Iterator[Arbiter]:
    """One for all tests of this file: each has other rules, programs and processes."""
    yield daemon
    daemon.forget()


@pytest.fixture
def parent(arbiter: Arbiter, tmp_path: Path) -> Dialer:
    """A script that may connect, and is known to."""
    path = script(tmp_path, "parent.py", PARENT)
    dialer = Dialer(arbiter, sys.executable, path)
    introduce(arbiter, dialer, path)
    known(arbiter, dialer, "tcp", SERVER4)
    return dialer


# --- another program in the same process ----------------------------------------------------


def test_a_process_that_runs_another_script_is_decided_anew(
    arbiter: Arbiter, tmp_path: Path, parent: Dialer
) -> None:
    other = script(tmp_path, "other.py", SERVE)
    before = repeats(arbiter)
    parent.tell(f"os.execv(sys.executable, [sys.executable, {other!r}])")
    becomes(parent, "other.py")
    assert parent.dial("tcp", SERVER4) in REFUSED
    assert repeats(arbiter) == before


def test_a_thread_that_runs_another_script_is_decided_anew(
    arbiter: Arbiter, tmp_path: Path, parent: Dialer
) -> None:
    other = script(tmp_path, "other.py", SERVE)
    before = repeats(arbiter)
    parent.tell(
        "[(t := __import__('threading').Thread(target=os.execv,"
        f" args=(sys.executable, [sys.executable, {other!r}]))).start(), t.join()]"
    )
    becomes(parent, "other.py")
    assert parent.dial("tcp", SERVER4) in REFUSED
    assert repeats(arbiter) == before


def test_a_process_that_becomes_another_user_is_decided_anew(
    arbiter: Arbiter,
) -> None:
    arbiter.add("allow port=7 user=root")
    dialer = Dialer(arbiter)
    known(arbiter, dialer, "tcp", SERVER4)
    before = repeats(arbiter)
    assert dialer.do("globals().update(sock=socket.socket())") is None
    assert dialer.do("os.setresuid(65534, 65534, 0)") is None
    assert dialer.do(f"reach(sock, {SERVER4!r}, 7)") in REFUSED, "root's socket, another's now"
    assert dialer.dial("tcp", SERVER4) in REFUSED
    assert repeats(arbiter) == before
    assert dialer.do("os.setresuid(0, 0, 0)") is None
    known(arbiter, dialer, "tcp", SERVER4)


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_a_running_program_whose_file_goes_is_looked_up_anew(
    arbiter: Arbiter, tmp_path: Path, how: str
) -> None:
    arbiter.add("allow port=7")
    argv = binary(tmp_path)
    dialer = Dialer(arbiter, *argv, "-S", "-c", SERVE)
    known(arbiter, dialer, "tcp", SERVER4)
    before = repeats(arbiter)
    if how == "replaced":
        shutil.copy(argv[-1], f"{argv[-1]}.new")
        Path(f"{argv[-1]}.new").rename(argv[-1])
    else:
        Path(argv[-1]).unlink()
    assert dialer.dial("tcp", SERVER4) == "reached"
    assert repeats(arbiter) == before


# --- new processes --------------------------------------------------------------------------


@pytest.fixture
def shell(arbiter: Arbiter, tmp_path: Path) -> tuple[Shell, str]:
    """A parent, and the command by which it runs a program that may connect and is known to."""
    program = binary(tmp_path)
    arbiter.add(f"allow app={program[-1]} port=7 user=root")
    file = tmp_path / "told.py"
    file.write_text(once("tcp", SERVER4)[-1])
    command = f"{' '.join(program)} -S {file}"
    parent = Shell(arbiter)
    known_program(arbiter, parent, command)
    return parent, command


def refused(arbiter: Arbiter, told: tuple[int, list[str]], before: int) -> None:
    assert told[1] and set(told[1]) <= REFUSED, told
    assert repeats(arbiter) == before


def test_a_new_process_of_another_program_is_not_taken_for_it(
    arbiter: Arbiter, tmp_path: Path, shell: tuple[Shell, str]
) -> None:
    parent, command = shell
    binary(tmp_path, "stranger")
    before = repeats(arbiter)
    for _ in range(3):
        refused(arbiter, parent.do(command.replace("/dialer", "/stranger")), before)


def test_a_program_in_place_of_a_known_one_is_not_taken_for_it(
    arbiter: Arbiter, tmp_path: Path, shell: tuple[Shell, str]
) -> None:
    """Another file at its path: it is looked up, and has the same name."""
    parent, command = shell
    binary(tmp_path, "stranger")
    (tmp_path / "stranger").rename(tmp_path / "dialer")
    before = repeats(arbiter)
    assert parent.do(command) == (0, ["reached"])
    assert repeats(arbiter) == before


def test_another_user_is_not_taken_for_the_one(arbiter: Arbiter) -> None:
    arbiter.add("allow app=/usr/bin/curl user=root")
    parent, curl = Shell(arbiter), f"curl -sS -o /dev/null -m 4 http://{SERVER4}/"
    before = repeats(arbiter)
    assert {parent.do(curl)[0] for _ in range(8)} == {0}
    assert repeats(arbiter) >= before + 2
    before = repeats(arbiter)
    assert parent.do(f"setpriv --reuid=65534 --regid=65534 --clear-groups {curl}")[0] == 7
    assert repeats(arbiter) == before


def waits(command: str) -> str:
    """The same for a shell, which says the process id of it first."""
    return f"{command} & echo $!; wait"


def parents(arbiter: Arbiter, told: tuple[int, list[str]]) -> list[str]:
    """The ancestors of what such a shell has started, nearest first, by its record."""
    pid, *rest = told[1]
    assert rest == ["reached"]
    return list(records(arbiter, 1, pid=int(pid))[-1]["parents"])


def job(folder: Path, command: str) -> str:
    """A script that does it."""
    return f"sh {script(folder, 'job.sh', waits(command))}"


def test_a_new_parents_process_is_known_and_its_record_says_who_started_it(
    arbiter: Arbiter, tmp_path: Path, shell: tuple[Shell, str]
) -> None:
    parent, command = shell
    above = parents(arbiter, parent.do(waits(command)))
    answered = unnamed = 0
    for _ in range(30):  # a storm of processes in another test makes the fast path forget
        before = repeats(arbiter)
        told = parents(arbiter, parent.do(job(tmp_path, command)))
        if not told and unnamed < 3:
            unnamed += 1  # where there is much to do all of it may end before it is read: not said
            continue
        assert told == [f"script:/usr/bin/dash:{tmp_path}/job.sh", *above]
        answered += repeats(arbiter) == before + 1
        if answered == 3:
            break
    assert answered == 3
    assert parents(arbiter, parent.do(waits(command))) == above


def test_a_parent_that_runs_another_program_is_told_anew(
    arbiter: Arbiter, shell: tuple[Shell, str]
) -> None:
    parent, command = shell
    first, *above = parents(arbiter, parent.do(waits(command)))
    assert first == "/usr/bin/dash"
    parent.tell("exec bash")
    becomes(parent, "bash")
    for _ in range(20):  # a storm of processes in another test makes the fast path forget
        before = repeats(arbiter)
        assert parents(arbiter, parent.do(waits(command))) == ["/usr/bin/bash", *above]
        if repeats(arbiter) == before + 1:
            return
    raise AssertionError("they were looked at each time")


def test_where_a_rule_asks_for_parents_another_one_is_looked_up(
    arbiter: Arbiter, tmp_path: Path, shell: tuple[Shell, str]
) -> None:
    parent, command = shell
    file = job(tmp_path, command)
    refuse = parents(arbiter, parent.do(file))[0]
    arbiter.add(f"deny app={command.split()[-3]} parent={refuse}")
    known_program(arbiter, parent, command)
    before = repeats(arbiter)
    for _ in range(3):
        told = parent.do(file)[1][1:]
        assert told and set(told) <= REFUSED
    assert repeats(arbiter) == before
    known_program(arbiter, parent, command)
    before = repeats(arbiter)
    parent.tell("exec bash")
    becomes(parent, "bash")
    assert parent.do(command) == (0, ["reached"])
    assert repeats(arbiter) == before


def test_another_mount_namespace_with_another_file_at_the_path(
    arbiter: Arbiter, tmp_path: Path, shell: tuple[Shell, str]
) -> None:
    parent, command = shell
    binary(tmp_path, "stranger")
    before = repeats(arbiter)
    mount = f"mount --bind {tmp_path}/stranger {tmp_path}/dialer"
    told = parent.do(f"unshare -m sh -c '{mount} && exec {command}'")
    refused(arbiter, told, before)


def test_another_mount_namespace_with_the_same_file_is_looked_up(
    arbiter: Arbiter, tmp_path: Path, shell: tuple[Shell, str]
) -> None:
    parent, command = shell
    before = repeats(arbiter)
    code, _ = parent.do(f"unshare -m {command}")
    assert code == 0
    assert repeats(arbiter) == before


def test_another_cgroup_is_looked_up(
    arbiter: Arbiter, tmp_path: Path, shell: tuple[Shell, str], cgroup: Path
) -> None:
    parent, command = shell
    before = repeats(arbiter)
    parent.tell(f"sh -c 'echo $$; read go; exec {command}'")
    (cgroup / "cgroup.procs").write_text(parent.line())
    parent.tell("go")
    assert parent.line() == "reached"
    assert repeats(arbiter) == before


# --- sockets that are shared ----------------------------------------------------------------


def started(parent: Dialer, taker: str, more: str = "") -> int:
    """A child of it that runs another program."""
    pid = parent.do(f"started([sys.executable, {taker!r}]{more})")
    assert isinstance(pid, int)
    assert parent.do("tell('1 + 1')") == 2
    return pid


def test_a_childs_connection_over_an_inherited_socket_is_its_own(
    arbiter: Arbiter, tmp_path: Path, parent: Dialer
) -> None:
    taker = script(tmp_path, "taker.py", TAKER)
    fd = parent.do("made()")
    started(parent, taker, ", close_fds=False")
    known(arbiter, parent, "tcp", SERVER4)  # with the child there
    before = repeats(arbiter)
    assert parent.do(f"tell(\"take({fd}, '{SERVER4}')\")") in REFUSED
    assert repeats(arbiter) == before
    known(arbiter, parent, "tcp", SERVER4)


def test_a_childs_connection_over_its_standard_input_is_its_own(
    arbiter: Arbiter, tmp_path: Path, parent: Dialer
) -> None:
    taker = script(tmp_path, "taker.py", TAKER)
    fd = parent.do("made()")
    code = TAKER.replace("sys.stdin", "os.fdopen(int(sys.argv[1]))")
    taker = script(tmp_path, "taker.py", code)
    assert parent.do("[globals().update(ends=os.pipe()), os.set_inheritable(ends[0], True)] and 1")
    words = f"[sys.executable, {taker!r}, str(ends[0])]"
    assert (
        parent.do(
            f"globals().update(child=subprocess.Popen({words}, stdin={fd}, close_fds=True,"
            " pass_fds=(ends[0],), stdout=subprocess.PIPE, text=True))"
        )
        is None
    )
    parent.do("os.write(ends[1], b'1\\n')")
    assert parent.do("child.stdout.readline()") == "1\n"
    known(arbiter, parent, "tcp", SERVER4)
    before = repeats(arbiter)
    parent.do(f"os.write(ends[1], b\"take(0, '{SERVER4}')\\n\")")
    assert str(parent.do("json.loads(child.stdout.readline())")) in REFUSED
    assert repeats(arbiter) == before


def test_a_parent_whose_child_holds_the_socket_is_not_alone(
    arbiter: Arbiter, tmp_path: Path, parent: Dialer
) -> None:
    taker = script(tmp_path, "taker.py", TAKER)
    parent.do("made()")
    started(parent, taker, ", close_fds=False")
    known(arbiter, parent, "tcp", SERVER4)
    before = repeats(arbiter)
    assert parent.do(f"reach(sock, '{SERVER4}', 7)") in REFUSED, "the child may not"
    assert repeats(arbiter) == before


def test_a_socket_that_was_passed_on_is_its_new_holders(
    arbiter: Arbiter, tmp_path: Path, parent: Dialer
) -> None:
    taker = Dialer(arbiter, sys.executable, script(tmp_path, "taker.py", TAKER))
    path = str(arbiter.home / "pass")
    parent.do("made()")
    assert taker.do(f"receive({path!r})") is True
    assert parent.do(f"give({path!r})") is True
    assert parent.do("sock.close()") is None
    fd = taker.told()
    before = repeats(arbiter)
    assert taker.do(f"take({fd}, '{SERVER4}')") in REFUSED
    assert repeats(arbiter) == before


def test_a_clone_beside_its_maker_is_its_own(arbiter: Arbiter, tmp_path: Path) -> None:
    """CLONE_PARENT: the kernel tells of it as a child of the maker's parent."""
    program = binary(tmp_path)
    arbiter.add(f"allow app={program[-1]} port=7")
    forked = "os.fork() or os._exit(0); os.wait()"  # no newborn without children any more
    connect = f"print(reach(socket.socket(fileno=int(sys.argv[1])), {SERVER4!r}, 7))"
    taker = script(tmp_path, "taker.py", f"{DIAL}\n{forked}\n{connect}")
    code = f"""{DIAL}
import ctypes
if len(sys.argv) == 1:
    print(dial("tcp", {SERVER4!r}, 7))
else:
    sock = socket.socket()
    os.set_inheritable(sock.fileno(), True)
    libc = ctypes.CDLL(None)
    if libc.syscall(56, 0x8000 | 17, 0, 0, 0, 0) == 0:
        os.execv({sys.executable!r}, [{sys.executable!r}, {taker!r}, str(sock.fileno())])
    __import__("time").sleep(2)
"""
    file = script(tmp_path, "maker.py", code)
    parent, command = Shell(arbiter), f"{' '.join(program)} {file}"
    known_program(arbiter, parent, command)
    before = repeats(arbiter)
    refused(arbiter, parent.do(f"{command} clone"), before)


# --- kinds of sockets -----------------------------------------------------------------------


def test_datagrams_of_unconnected_sockets_are_never_repeated(arbiter: Arbiter) -> None:
    arbiter.add("allow port=7")
    dialer = Dialer(arbiter)
    known(arbiter, dialer, "udp", SERVER4)
    before = repeats(arbiter)
    for _ in range(4):
        sent = dialer.do(
            "[s := socket.socket(2, 2), globals().update(s=s), s.settimeout(4),"
            f" s.sendto(b'x', ({SERVER4!r}, 7)), len(s.recv(99)) > 0, s.close()][4]"
        )
        assert sent is True
    assert repeats(arbiter) == before


def test_a_shared_port_is_not_repeated_for_who_does_not_own_the_socket(
    arbiter: Arbiter, tmp_path: Path
) -> None:
    path = script(tmp_path, "first.py", SERVE)
    first = Dialer(arbiter, sys.executable, path)
    introduce(arbiter, first, path)
    known(arbiter, first, "udp", SERVER4)
    second = Dialer(arbiter)
    make = (
        "globals().update(s=socket.socket(2, 2)) or s.setsockopt(1, 15, 1) or "  # SO_REUSEPORT
        "s.settimeout(2) or s.bind(('', 40777))"
    )
    assert first.do(make) is None
    assert second.do(make) is None
    before = repeats(arbiter)
    second.do(f"s.sendto(b'x', ({SERVER4!r}, 7))")
    assert repeats(arbiter) == before
    statement = "SELECT DISTINCT decision FROM decisions WHERE sport = 40777"
    assert eventually(lambda: arbiter.database(statement)) == [("deny",)]


@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize(("mapped", "device"), [(True, ""), (False, WIFI.interface)])
def test_mapped_and_bound_sockets_are_repeated_as_any(
    arbiter: Arbiter, proto: str, mapped: bool, device: str
) -> None:
    arbiter.add("allow port=7")
    dialer = Dialer(arbiter)
    known(arbiter, dialer, proto, SERVER4, mapped=mapped, device=device)
    if device:
        known(arbiter, dialer, proto, SERVER6, mapped=mapped, device=device)
    before = repeats(arbiter)
    arbiter.add("deny port=7")
    # A datagram's refusal does not reach a socket that is bound to a device.
    assert str(dialer.dial(proto, SERVER4, mapped=mapped, device=device)) in REFUSED | {
        "TimeoutError"
    }
    assert repeats(arbiter) == before
